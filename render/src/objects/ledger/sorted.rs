//! Sorts the problems that the loader has found, for the report.

use std::collections::{BTreeMap, BTreeSet};

use super::problems::{Problems, Unshown};
use crate::{
    document::{SourceFile, problem_at},
    objects::{Key, Object, SourceTree},
    problem::{Finding, Problem},
};

/// Returns the problems in the order of sources and files. If the report omits problems of a source, an additional
/// entry shows the number of omitted problems.
pub(super) fn sorted(problems: Problems, sources: &[SourceTree], objects: &BTreeMap<Key, Object>) -> Vec<Problem> {
    let (mut problems, unshown) = problems.finish();
    problems.extend(unshown.into_iter().map(more_problems));
    hide_secrets(&mut problems, objects);
    let rank: BTreeMap<&str, usize> =
        sources.iter().enumerate().map(|(rank, source)| (source.name.as_str(), rank)).collect();
    problems.sort_by(|a, b| order(&rank, a).cmp(&order(&rank, b)));
    problems.dedup();
    problems
}

/// Returns the sort key of a problem: the position of its source among the sources, its location and its message.
fn order<'a>(rank: &BTreeMap<&str, usize>, problem: &'a Problem) -> (Option<usize>, &'a str, usize, usize, &'a str) {
    let Problem { file, line, column, message, .. } = problem;
    (rank.get(problem.source.as_str()).copied(), file, *line, *column, message)
}

/// Creates the entry that shows the number of omitted errors or warnings of a source.
fn more_problems(unshown: Unshown) -> Problem {
    let Unshown { source, warning, count } = unshown;
    let what = if warning { "warnings" } else { "errors" };
    let file = SourceFile::new(source.as_str(), source.as_str(), "");
    let problem = problem_at(&file, 1, 1, Finding::new(format!("up to {count} further {what} are not shown")));
    Problem { warning, ..problem }
}

/// Removes the excerpts from problems in files with Secrets, because an excerpt may contain an unencrypted value.
fn hide_secrets(problems: &mut [Problem], objects: &BTreeMap<Key, Object>) {
    let secrets = objects.values().filter(|object| object.key.kind == "Secret");
    let files: BTreeSet<(&str, &str)> = secrets.map(|object| (object.place.source(), object.place.file())).collect();
    for problem in
        problems.iter_mut().filter(|problem| files.contains(&(problem.source.as_str(), problem.file.as_str())))
    {
        problem.excerpt.clear();
    }
}
