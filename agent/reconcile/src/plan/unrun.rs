//! The reports of tasks that a run did not reach.

use towpath_coordination::Gate;
use towpath_render::objects::task::{Book, Task};

use super::instance;
use crate::outcome::{Origin, Outcome, TaskReport};

/// Returns the reports of the tasks that a run did not reach. The message of each report names the cause: a closed
/// gate, or the failed or held task that ended the run.
pub fn unrun(
    book: &Book,
    is_reached: impl Fn(&Task) -> bool,
    so_far: &[TaskReport],
    gates: &[Gate],
) -> Vec<TaskReport> {
    let blocker = so_far.iter().rev().find(|task| task.outcome >= Outcome::Held);
    let (outcome, why) = match (gates.first(), blocker) {
        (Some(gate), _) => (Outcome::Held, format!("not run: the book is held ({})", gate.reason)),
        (None, Some(task)) if task.outcome == Outcome::Failed => {
            (Outcome::Skipped, format!("not run: task {:?} failed", task.name))
        }
        (None, Some(task)) => (Outcome::Skipped, format!("not run: task {:?} is held", task.name)),
        (None, None) => (Outcome::Skipped, "not run: the pass was interrupted".to_owned()),
    };
    let rest = book.tasks.iter().filter(|task| !is_reached(task));
    let of = |task: &Task| {
        let report = TaskReport::new(task.id.clone(), instance::module(task), outcome);
        report.with_message(why.clone()).with_origin(Origin::NotRun)
    };
    rest.map(of).collect()
}

#[cfg(test)]
mod tests;
