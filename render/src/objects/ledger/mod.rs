//! Records the problems in each source, and the cost to load each source.

mod budget;
mod found;
mod problems;
mod sorted;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::budget::{Budget, Cost};
pub(super) use self::found::Found;
use self::{
    budget::{Exceeded, Spent},
    found::Hint,
    problems::Problems,
};
use super::{Key, Object, SourceTree};
use crate::{
    document::{At, Checked, Document, Path, Place, SourceFile, lines, problem_at},
    problem::{Finding, Problem},
};

/// The maximum number of problems that are recorded for one file.
const PROBLEMS_PER_FILE: usize = 200;

/// The problems that the loader has found so far, and the cost to load each source.
pub(super) struct Ledger {
    problems: Problems,
    spent: Spent,
}

impl Ledger {
    /// Creates an empty record of problems and costs.
    pub(super) fn new(budget: Budget) -> Self {
        Self { problems: Problems::new(budget.problems), spent: Spent::new(budget) }
    }

    /// Adds a problem. If the source already has the maximum number of problems, the function only counts the new
    /// problem.
    pub(super) fn report(&mut self, found: Found<'_>) {
        let Found { place, at, warning, finding, hint } = found;
        // The search for a second location counts even if the problem is not shown.
        let other = match &hint {
            Hint::Other(other, _) => self.file_line(other),
            Hint::Known | Hint::Computed(_) => String::new(),
        };
        if !self.problems.has_room(place.source(), warning, place.file_size()) {
            return;
        }
        let finding = match hint {
            Hint::Known => finding,
            Hint::Computed(hint) => finding.hint(hint()),
            Hint::Other(_, hint) => finding.hint(hint(&other)),
        };
        self.problems.push(Problem { warning, ..place.problem(finding, at) });
    }

    /// Adds several problems, in the order in which a check finds the problems.
    pub(super) fn report_all<'a>(&mut self, found: impl IntoIterator<Item = Found<'a>>) {
        found.into_iter().for_each(|found| self.report(found));
    }

    /// Adds the problems of one file. The problems already contain their line numbers.
    pub(super) fn keep(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems.into_iter().take(PROBLEMS_PER_FILE) {
            if self.problems.has_room(&problem.source, problem.warning, 0) {
                self.problems.push(problem);
            }
        }
    }

    /// Adds the errors that the schema check of a document has found, and an error for each file mode without quotes.
    pub(super) fn keep_checked(&mut self, document: &Document, checked: Checked) {
        let place = |path: &Path| Place::new(Arc::clone(&document.file), document.index, path.clone());
        for (path, at, finding) in checked.findings.into_iter().take(PROBLEMS_PER_FILE) {
            let found = Found::new(place(&path), finding);
            self.report(if at == At::Key { found.at_key() } else { found });
        }
        if !checked.modes.is_empty() && document.file.has_unquoted_modes() {
            for path in &checked.modes {
                let place = place(path);
                if self.problems.may_locate(place.source(), place.file_size()) {
                    unquoted_mode(&place).into_iter().for_each(|found| self.report(found));
                } else {
                    let finding = Finding::new("the file has too many modes to check each of them");
                    self.report(Found::new(document.place(), finding.hint("split the file")));
                    break;
                }
            }
        }
    }

    /// Returns a location as `file:line`, for the hint of a message. Omits the line if the search for lines has already
    /// read the maximum number of bytes.
    fn file_line(&mut self, place: &Place) -> String {
        let may = self.problems.may_locate(place.source(), place.file_size());
        if may { place.file_line() } else { place.file().to_owned() }
    }

    /// Charges a cost to the budget of a source. Returns false if the source exceeds its budget, so that the loader
    /// reads no further files of the source.
    pub(super) fn charge(&mut self, source: &str, cost: Cost) -> bool {
        if let Err(Exceeded { what, limit, all }) = self.spent.charge(source, cost) {
            let whose = if all { "all sources together have" } else { "the source has" };
            let file = SourceFile::new(source, source, "");
            let finding = Finding::new(format!("{whose} more than {limit} {what}"))
                .hint("split the source, or write less: the limits keep one source from exhausting every node");
            self.keep([problem_at(&file, 1, 1, finding)]);
        }
        !self.is_beyond(source)
    }

    /// Returns true if a source exceeds its budget.
    pub(super) fn is_beyond(&self, source: &str) -> bool {
        self.spent.is_beyond(source)
    }

    /// Returns true if the loader has found an error in a source.
    pub(super) fn has_error(&self, source: &str) -> bool {
        self.problems.has_error(source)
    }

    /// Returns the problems, sorted for the report, and the names of the sources that exceed their budget.
    pub(super) fn close(
        self,
        sources: &[SourceTree],
        objects: &BTreeMap<Key, Object>,
    ) -> (Vec<Problem>, BTreeSet<String>) {
        let beyond = self.spent.exceeded().clone();
        (sorted::sorted(self.problems, sources, objects), beyond)
    }
}

/// Returns the error of a file mode without quotes. YAML parsers disagree on the value of `0644`, so a mode must be
/// quoted; only the text of the file shows the quotes.
fn unquoted_mode(place: &Place) -> Option<Found<'static>> {
    let (line, column) = place.position();
    let written = lines(place.text()).nth(line - 1).unwrap_or_default();
    let digits: String = written.chars().skip(column - 1).take_while(char::is_ascii_digit).collect();
    let finding = Finding::new("the mode is a number").hint(format!("write octal digits in quotes: \"{digits}\""));
    (!digits.is_empty()).then(|| Found::new(place.clone(), finding))
}
