//! The execution of queued changes: first the changes of files, then the direct changes.

use serde_json::Value;
use towpath_render::objects::task::Task;

use super::{
    context::{Lane, Run, Stop},
    segment::begin,
};
use crate::{
    command::{Applied, Command, Finished},
    outcome::{Outcome, TaskReport},
    plan::{
        assess::Admission,
        batch::{self, Queued},
        instance,
    },
};

/// Makes all queued changes. Returns true if further tasks may run.
pub(super) async fn flush(run: &Run, lane: &mut Lane) -> bool {
    files(run, lane).await;
    direct(run, lane).await;
    !lane.stopped()
}

/// Makes the queued changes of files. If admission is refused, only corrections of content are made, because they need
/// no admission (P90). Returns true if further tasks may run.
pub(super) async fn files(run: &Run, lane: &mut Lane) -> bool {
    let mut changes = lane.queue.take_files();
    if changes.iter().any(|change| change.admission != Admission::Free)
        && let Err(why) = begin(run, lane).await
    {
        let (free, held) = batch::split_free(changes);
        for change in held {
            lane.queue.hold(&change);
            refuse(run, lane, &change, why.outcome(), why.message());
        }
        changes = free;
    }
    if !changes.is_empty() {
        let results = run.channel.apply(batch::files(&changes)).await;
        for (change, applied) in changes.iter().zip(results) {
            // Not all files that a failed change would manage may be known.
            lane.incomplete |= matches!(applied, Applied::Failed(_));
            end(run, lane, change, applied).await;
        }
    }
    !lane.stopped()
}

/// Makes the queued direct changes in one transaction.
async fn direct(run: &Run, lane: &mut Lane) {
    let changes = lane.queue.take_direct();
    if changes.is_empty() {
        return;
    }
    if lane.stop == Some(Stop::Preempted) || (!lane.stopped() && run.channel.preempted()) {
        // A preempted run drops the changes that have not begun.
        lane.stop(Stop::Preempted);
        changes.iter().for_each(|change| drop_report(lane, change));
        return;
    }
    if let Err(why) = begin(run, lane).await {
        for change in &changes {
            refuse(run, lane, change, why.outcome(), why.message());
        }
        return;
    }
    let results = run.channel.apply(batch::direct(&changes)).await;
    for (change, applied) in changes.iter().zip(results) {
        end(run, lane, change, applied).await;
    }
}

fn drop_report(lane: &mut Lane, change: &Queued) {
    lane.incomplete = true;
    if let Some(report) = lane.reports.get_mut(change.report) {
        *report = None;
    }
}

/// Reports a change that could not begin.
fn refuse(run: &Run, lane: &mut Lane, change: &Queued, outcome: Outcome, message: String) {
    lane.incomplete = true;
    if let Some(task) = run.task(change.instance.task) {
        lane.fail(task);
    }
    if let Some(report) = lane.reports.get_mut(change.report).and_then(Option::as_mut) {
        report.outcome = outcome;
        report.message = Some(message);
    }
}

/// Reports the result of a change, and registers it for later tasks.
pub(super) async fn end(run: &Run, lane: &mut Lane, change: &Queued, applied: Applied) {
    let Some(task) = run.task(change.instance.task) else { return };
    let (outcome, Finished { message, result }) = match applied {
        Applied::NotStarted => {
            if run.channel.preempted() {
                lane.stop(Stop::Preempted);
            } else {
                lane.stop(Stop::Failed);
            }
            return drop_report(lane, change);
        }
        Applied::Changed(finished) => (Outcome::Changed, finished),
        Applied::Unchanged(finished) => (Outcome::Unchanged, finished),
        Applied::Failed(finished) => (Outcome::Failed, finished),
        Applied::Planned => {
            if let Some(report) = lane.reports.get_mut(change.report).and_then(Option::as_mut) {
                report.outcome = Outcome::Unchanged;
                report.message = None;
            }
            lane.results.insert(change.report, None);
            return;
        }
    };
    let Some(report) = lane.reports.get_mut(change.report).and_then(Option::as_mut) else { return };
    report.outcome = outcome;
    report.message = message.or_else(|| report.message.take().filter(|_| outcome != Outcome::Failed));
    let result = result.unwrap_or_else(|| report.result([]));
    if outcome == Outcome::Failed {
        lane.fail(task);
        if !task.go_on && run.inputs.ends_at_failure {
            lane.stop(Stop::Failed);
        }
    }
    if change.instance.item.is_some() {
        lane.results.insert(change.report, Some(result));
        return;
    }
    register(run, lane, task, result).await;
}

/// Makes the result of a task available to later tasks. The items of a loop register one result together.
pub(super) async fn register(run: &Run, lane: &mut Lane, task: &Task, result: Value) {
    if task.elect.is_some() {
        lane.elected = Some(result.clone());
    }
    if let Some(name) = &task.register
        && let Err(message) = run.channel.record(Command::Register(name.clone(), result)).await
    {
        lane.push(TaskReport::new(task.id.clone(), instance::module(task), Outcome::Failed).with_message(message));
        lane.stop(Stop::Failed);
    }
}
