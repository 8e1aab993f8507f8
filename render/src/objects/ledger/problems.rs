//! Collects the problems that the loader finds, up to a maximum number for each source.

use std::collections::{BTreeMap, BTreeSet};

use crate::problem::Problem;

/// The problems of all sources, without duplicates. Each source has a maximum number of problems. Errors and warnings
/// have separate maximum numbers, so that many warnings never hide an error.
#[derive(Debug, Default)]
pub(super) struct Problems {
    limit: usize,
    kept: BTreeSet<Problem>,
    counts: BTreeMap<(String, bool), Count>,
}

/// The number of errors or warnings of one source that the report omits, because the source has too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unshown {
    /// The name of the source.
    pub(super) source: String,
    /// True if `count` counts warnings, false if `count` counts errors.
    pub(super) warning: bool,
    /// The number of omitted problems. A problem that is found twice may count twice.
    pub(super) count: usize,
}

#[derive(Debug, Default)]
struct Count {
    kept: usize,
    unshown: usize,
    /// The number of bytes that the loader has read again to find the lines of problems.
    read: u64,
}

/// The maximum number of bytes that the loader reads again to find the lines of the problems of one source. To find the
/// line of a problem, the loader reads the whole file.
const PLACES: u64 = 32 << 20;

impl Problems {
    /// Creates an empty collection that keeps at most `limit` problems of each source.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Returns true if the collection can keep one more problem of a source. If the collection is full, counts the
    /// problem as omitted. The argument `text` is the length of the file that the loader must read again to find the
    /// line of the problem.
    pub(super) fn has_room(&mut self, source: &str, warning: bool, text: usize) -> bool {
        let count = self.counts.entry((source.to_owned(), warning)).or_default();
        count.read = count.read.saturating_add(text as u64);
        let room = count.kept == 0 || count.kept < self.limit && count.read <= PLACES;
        count.unshown += usize::from(!room);
        room
    }

    /// Returns true if the loader may read a text again to find the line for a hint. The argument `text` is the length
    /// of the text that the loader reads again.
    pub(super) fn may_locate(&mut self, source: &str, text: usize) -> bool {
        let count = self.counts.entry((source.to_owned(), false)).or_default();
        count.read = count.read.saturating_add(text as u64);
        count.read <= PLACES
    }

    /// Adds a problem, unless the same problem was added before.
    pub(super) fn push(&mut self, problem: Problem) {
        let key = (problem.source.clone(), problem.warning);
        if self.kept.insert(problem) {
            self.counts.entry(key).or_default().kept += 1;
        }
    }

    /// Returns true if an error of the source was added.
    pub(super) fn has_error(&self, source: &str) -> bool {
        self.counts.get(&(source.to_owned(), false)).is_some_and(|count| count.kept > 0)
    }

    /// Returns the kept problems, and the number of omitted problems for each source.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Unshown>) {
        let unshown = self.counts.into_iter().filter(|(_, count)| count.unshown > 0);
        let unshown =
            unshown.map(|((source, warning), count)| Unshown { source, warning, count: count.unshown }).collect();
        (self.kept.into_iter().collect(), unshown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (kept, unshown) = problems.finish();
        assert_eq!(kept.len(), 3);
        assert_eq!(unshown, [Unshown { source: "a".into(), warning: true, count: 7 }]);
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
}
