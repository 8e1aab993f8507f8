//! Budgets of sources: a budget limits the memory and the time that a commit of the source costs on every node.
//!
//! The loader charges a source for each file that the loader reads, and for each include that the loader expands. A
//! source that exceeds its budget contributes no objects. If the second or a later source exceeds its budget, the
//! loader loads only the other sources.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Numbers of files, bytes, values and tasks: the cost of a load, or a limit on this cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// The number of files to read.
    pub files: u64,
    /// The size of all files, and of all strings in expanded tasks, in bytes.
    pub bytes: u64,
    /// The number of YAML values in files and in expanded tasks.
    pub values: u64,
    /// The number of tasks and includes, counted after includes are expanded.
    pub tasks: u64,
}

/// The limits on the files, bytes, values and tasks of one source, and of all sources together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The limit on one source.
    pub source: Cost,
    /// The limit on the cost of all sources together.
    pub all: Cost,
    /// The maximum number of problems that are shown for one source. If a source has more problems than this maximum,
    /// the report shows only the number of the further problems.
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

/// An error because a source has more files, bytes, values or tasks than its budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// The unit of the exceeded limit for the message, such as `files`.
    pub(super) what: &'static str,
    /// The exceeded limit.
    pub(super) limit: u64,
    /// True if all sources together exceed the limit, false if one source alone exceeds the limit.
    pub(super) all: bool,
}

/// The number of files, bytes, values and tasks that the loader has charged to each source so far.
#[derive(Debug, Default)]
pub(super) struct Spent {
    budget: Budget,
    all: Cost,
    sources: BTreeMap<String, Cost>,
    exceeded: BTreeSet<String>,
}

impl Spent {
    /// Creates an empty record of the costs of all sources.
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Charges a cost to the budget of a source.
    ///
    /// # Errors
    /// If the source alone, or all sources together, exceed a limit, returns an error that names the limit. Each source
    /// causes at most one error about its budget.
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

    /// Returns true if a source exceeds its budget. The loader reads no further objects of a source that exceeds its
    /// budget.
    pub(super) fn is_beyond(&self, source: &str) -> bool {
        self.exceeded.contains(source)
    }

    /// Returns the names of the sources that exceed their budget.
    pub(super) fn exceeded(&self) -> &BTreeSet<String> {
        &self.exceeded
    }
}

impl Cost {
    /// Returns the cost of a YAML value: the number of its parts, and the size of its strings in bytes.
    pub(in crate::objects) fn of(value: &Value) -> Self {
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

    #[test]
    fn value_costs_its_members_and_strings() {
        let value = serde_json::json!({"ab": ["cde", 1, null], "f": {}});
        assert_eq!(Cost::of(&value), Cost { bytes: 6, values: 6, ..Cost::default() });
    }
}
