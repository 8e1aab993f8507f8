//! The order in which the problems of a load are shown.

use std::collections::{BTreeMap, BTreeSet};

use super::problems::{Problems, Unshown};
use crate::{
    document::{SourceFile, problem_at},
    objects::{Key, Object, SourceTree},
    problem::{Finding, Problem},
};

/// Returns the problems in the order of sources and files. The number of further problems is a problem of its own.
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

/// Returns the sort key of a problem: the rank of its source, its location and its message.
fn order<'a>(rank: &BTreeMap<&str, usize>, problem: &'a Problem) -> (Option<usize>, &'a str, usize, usize, &'a str) {
    let Problem { file, line, column, message, .. } = problem;
    (rank.get(problem.source.as_str()).copied(), file, *line, *column, message)
}

/// Returns the problem that shows the number of further errors or warnings of a source.
fn more_problems(unshown: Unshown) -> Problem {
    let Unshown { source, warning, count } = unshown;
    let what = if warning { "warnings" } else { "errors" };
    let file = SourceFile::new(source.as_str(), source.as_str(), "");
    let problem = problem_at(&file, 1, 1, Finding::new(format!("at most {count} further {what} are not shown")));
    Problem { warning, ..problem }
}

/// Removes the excerpts of files with Secrets, because the excerpts may contain unencrypted values.
fn hide_secrets(problems: &mut [Problem], objects: &BTreeMap<Key, Object>) {
    let secrets = objects.values().filter(|object| object.key.kind == "Secret");
    let files: BTreeSet<(&str, &str)> = secrets.map(|object| (object.place.source(), object.place.file())).collect();
    for problem in
        problems.iter_mut().filter(|problem| files.contains(&(problem.source.as_str(), problem.file.as_str())))
    {
        problem.excerpt.clear();
    }
}
