//! Budgets of sources: limits on the memory and the time that a commit may cost on every node.
//!
//! A source is charged while its files are read and its includes are expanded. A source that exceeds its budget
//! contributes no objects. Earlier sources load as if that source did not exist.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::problem::Problem;

/// An amount of each resource that a budget limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// The number of files to read.
    pub files: u64,
    /// The bytes of files, and of strings in expanded tasks.
    pub bytes: u64,
    /// The number of YAML values in files and in expanded tasks.
    pub values: u64,
    /// The number of tasks and includes, counted after includes are expanded.
    pub tasks: u64,
}

/// The limits on the resources of one source, and of all sources together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The limit on one source.
    pub source: Cost,
    /// The limit on all sources together.
    pub all: Cost,
    /// The maximum number of problems that are shown for one source. Further problems are only counted.
    pub problems: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            source: Cost { files: 50_000, bytes: 64 << 20, values: 2 << 20, tasks: 50_000 },
            all: Cost { files: 100_000, bytes: 128 << 20, values: 4 << 20, tasks: 100_000 },
            problems: 1000,
        }
    }
}

/// The error that a source exceeds the limit on a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// The name of the resource, for messages.
    pub(super) what: &'static str,
    /// The exceeded limit.
    pub(super) limit: u64,
    /// True if all sources together exceed the limit, false if one source does.
    pub(super) all: bool,
}

/// The resources that each source has used so far.
#[derive(Debug, Default)]
pub(super) struct Spent {
    budget: Budget,
    all: Cost,
    sources: BTreeMap<String, Cost>,
    exceeded: BTreeSet<String>,
}

impl Spent {
    /// Creates a record of used resources without any use.
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Charges a cost to the budget of a source.
    ///
    /// # Errors
    /// Returns the limit that the source or all sources exceed. Each source gets this error only once.
    pub(super) fn charge(&mut self, source: &str, cost: Cost) -> Result<(), Exceeded> {
        let known = self.sources.entry(source.to_owned()).or_default();
        *known = known.plus(cost);
        self.all = self.all.plus(cost);
        let exceeded = known.beyond(&self.budget.source, false).or_else(|| self.all.beyond(&self.budget.all, true));
        match exceeded {
            Some(exceeded) if self.exceeded.insert(source.to_owned()) => Err(exceeded),
            _ => Ok(()),
        }
    }

    /// Returns whether a source exceeds its budget. The loader then reads no more of that source.
    pub(super) fn is_beyond(&self, source: &str) -> bool {
        self.exceeded.contains(source)
    }

    /// Returns the names of the sources that exceed their budget.
    pub(super) fn exceeded(&self) -> &BTreeSet<String> {
        &self.exceeded
    }
}

impl Cost {
    /// Returns the cost of a YAML value: the number of its parts, and the bytes of its strings.
    pub(super) fn of(value: &Value) -> Self {
        let mut cost = Self::default();
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            cost.values = cost.values.saturating_add(1);
            match value {
                Value::String(text) => cost.bytes = cost.bytes.saturating_add(text.len() as u64),
                Value::Array(members) => open.extend(members),
                Value::Object(fields) => {
                    for (name, value) in fields {
                        cost.bytes = cost.bytes.saturating_add(name.len() as u64);
                        open.push(value);
                    }
                }
                _ => {}
            }
        }
        cost
    }

    fn plus(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
            values: self.values.saturating_add(other.values),
            tasks: self.tasks.saturating_add(other.tasks),
        }
    }

    fn beyond(&self, limit: &Self, all: bool) -> Option<Exceeded> {
        [
            ("files", self.files, limit.files),
            ("bytes", self.bytes, limit.bytes),
            ("YAML values", self.values, limit.values),
            ("tasks after includes", self.tasks, limit.tasks),
        ]
        .into_iter()
        .find(|(_, spent, limit)| spent > limit)
        .map(|(what, _, limit)| Exceeded { what, limit, all })
    }
}

/// The problems of all sources, without duplicates. The number for each source is limited.
/// Errors and warnings are counted separately, so that warnings never displace an error.
#[derive(Debug, Default)]
pub(super) struct Problems {
    limit: usize,
    kept: BTreeSet<Problem>,
    counts: BTreeMap<(String, bool), Count>,
}

/// The number of errors or warnings of one source that are not shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The name of the source.
    pub(super) source: String,
    /// True if warnings are counted, false if errors are.
    pub(super) warning: bool,
    /// The number of problems that are not shown. Duplicates may be included.
    pub(super) count: usize,
}

#[derive(Debug, Default)]
struct Count {
    kept: usize,
    left_out: usize,
    /// The bytes of text that were read again to locate problems.
    read: u64,
}

/// The maximum number of bytes that are read again to locate the problems of one source. Locating a problem reads its
/// file.
const PLACES: u64 = 32 << 20;

impl Problems {
    /// Creates an empty record that keeps at most `limit` problems of each source.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Returns whether another problem of a source may be kept, and otherwise counts the problem as not shown.
    /// `text` is the length of the text that must be read again to locate the problem.
    pub(super) fn has_room(&mut self, source: &str, warning: bool, text: usize) -> bool {
        let count = self.counts.entry((source.to_owned(), warning)).or_default();
        count.read = count.read.saturating_add(text as u64);
        let room = count.kept == 0 || count.kept < self.limit && count.read <= PLACES;
        count.left_out += usize::from(!room);
        room
    }

    /// Returns whether another error of a source may be shown. The caller computes hints only for errors that are
    /// shown.
    pub(super) fn shows_more(&self, source: &str) -> bool {
        self.counts.get(&(source.to_owned(), false)).is_none_or(|count| count.kept == 0 || count.kept < self.limit)
    }

    /// Returns whether a hint may name a line of a text with this length. Finding the line reads the text again.
    pub(super) fn may_locate(&mut self, source: &str, text: usize) -> bool {
        let count = self.counts.entry((source.to_owned(), false)).or_default();
        count.read = count.read.saturating_add(text as u64);
        count.read <= PLACES
    }

    /// Adds a problem, unless it is a duplicate.
    pub(super) fn push(&mut self, problem: Problem) {
        let key = (problem.source.clone(), problem.warning);
        if self.kept.insert(problem) {
            self.counts.entry(key).or_default().kept += 1;
        }
    }

    /// Returns whether a source has an error.
    pub(super) fn has_error(&self, source: &str) -> bool {
        self.counts.get(&(source.to_owned(), false)).is_some_and(|count| count.kept > 0)
    }

    /// Returns the kept problems, and the number of problems of each source that are not shown.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<LeftOut>) {
        let left_out = self.counts.into_iter().filter(|(_, count)| count.left_out > 0);
        let left_out =
            left_out.map(|((source, warning), count)| LeftOut { source, warning, count: count.left_out }).collect();
        (self.kept.into_iter().collect(), left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Budget = Budget {
        source: Cost { files: 2, bytes: 10, values: 5, tasks: 3 },
        all: Cost { files: 3, bytes: 15, values: 8, tasks: 5 },
        problems: 2,
    };

    fn files(files: u64) -> Cost {
        Cost { files, ..Cost::default() }
    }

    #[test]
    fn source_beyond_its_limit_is_named_once() {
        let mut spent = Spent::new(SMALL);
        assert_eq!(spent.charge("a", files(2)), Ok(()));
        assert_eq!(spent.charge("a", files(1)), Err(Exceeded { what: "files", limit: 2, all: false }));
        assert_eq!(spent.charge("a", files(1)), Ok(()));
        assert!(spent.is_beyond("a") && !spent.is_beyond("b"));
    }

    #[test]
    fn source_that_exceeds_the_limit_of_all_is_the_one_beyond() {
        let mut spent = Spent::new(SMALL);
        assert_eq!(spent.charge("a", files(2)), Ok(()));
        assert_eq!(spent.charge("b", files(2)), Err(Exceeded { what: "files", limit: 3, all: true }));
        assert!(!spent.is_beyond("a") && spent.is_beyond("b"));
    }

    #[test]
    fn charge_near_the_largest_number_does_not_wrap() {
        let mut spent = Spent::new(SMALL);
        let huge = Cost { files: u64::MAX, bytes: u64::MAX, values: u64::MAX, tasks: u64::MAX };
        assert!(spent.charge("a", huge).is_err());
        assert_eq!(spent.charge("a", huge), Ok(()));
        assert!(spent.is_beyond("a"));
    }

    fn problem(source: &str, line: usize, warning: bool) -> Problem {
        let file = crate::document::SourceFile::new(source, "a", "");
        Problem { warning, ..crate::document::problem_at(&file, line, 1, crate::problem::Finding::new("m")) }
    }

    #[test]
    fn warnings_never_crowd_out_an_error() {
        let mut problems = Problems::new(2);
        for line in 0..9 {
            if problems.has_room("a", true, 1) {
                problems.push(problem("a", line, true));
            }
        }
        assert!(problems.has_room("a", false, 1));
        problems.push(problem("a", 20, false));
        assert!(problems.has_error("a"));
        let (kept, left_out) = problems.finish();
        assert_eq!(kept.len(), 3);
        assert_eq!(left_out, [LeftOut { source: "a".into(), warning: true, count: 7 }]);
    }

    #[test]
    fn first_error_of_a_huge_file_is_kept_and_the_rest_is_counted() {
        let mut problems = Problems::new(100);
        let huge = 40 << 20;
        assert!(problems.has_room("a", false, huge));
        problems.push(problem("a", 1, false));
        assert!(!problems.has_room("a", false, huge));
        assert!(problems.has_room("b", false, huge));
    }

    #[test]
    fn value_costs_its_members_and_strings() {
        let value = serde_json::json!({"ab": ["cde", 1, null], "f": {}});
        assert_eq!(Cost::of(&value), Cost { bytes: 6, values: 6, ..Cost::default() });
    }
}
