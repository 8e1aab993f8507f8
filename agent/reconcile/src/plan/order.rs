//! The order of tasks: one after another, or in groups of tasks that run at the same time.

use std::{collections::BTreeSet, ops::Range};

use towpath_render::objects::task::{Book, Task};

/// Returns the positions of the tasks as a list of groups, in execution order. If the book is not parallel, each group
/// contains one task. Tasks of a parallel book share a group if no task in the group requires another task in the
/// group.
pub fn waves(book: &Book, range: Range<usize>) -> Vec<Vec<usize>> {
    let tasks: Vec<(usize, &Task)> = book.tasks.iter().enumerate().skip(range.start).take(range.len()).collect();
    if !book.parallel {
        return tasks.into_iter().map(|(index, _)| vec![index]).collect();
    }
    // A required task that is not in this segment has run in an earlier segment.
    let here: BTreeSet<&str> = tasks.iter().map(|(_, task)| task.id.as_str()).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut waves = Vec::new();
    let mut left = tasks;
    while !left.is_empty() {
        let ready = |(_, task): &(usize, &Task)| {
            task.requires.iter().all(|name| done.contains(name.as_str()) || !here.contains(name.as_str()))
        };
        let (mut wave, mut rest): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
        if wave.is_empty() {
            // Cycles are rejected when the book is loaded, so this branch only prevents an endless loop.
            std::mem::swap(&mut wave, &mut rest);
        }
        done.extend(wave.iter().map(|(_, task)| task.id.as_str()));
        waves.push(wave.into_iter().map(|(index, _)| index).collect());
        left = rest;
    }
    waves
}

#[cfg(test)]
mod tests;
