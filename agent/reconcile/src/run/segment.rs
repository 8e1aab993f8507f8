//! Persists the record of a book, and runs the steps around a segment: admission, `before` tasks, handlers, `after`
//! tasks.

use super::context::{NotBegun, Run, Steps, Stop};
use crate::{
    command::{Admit, Answer, Call, Command, Executed, Invocation, List, SlotUse, TaskRef},
    outcome::{Origin, Outcome, TaskReport},
    plan::instance,
    record::{BookRecord, Frame, Slot, SlotRef, SlotState},
};

/// Updates the record of the book, and writes the record to the journal if the record has changed.
///
/// # Errors
/// Fails if the node cannot write the record to the journal.
pub(super) async fn persist(run: &Run, change: impl FnOnce(&mut BookRecord)) -> Result<(), String> {
    let mut record = run.record.borrow().clone();
    change(&mut record);
    if record == *run.record.borrow() {
        return Ok(());
    }
    let before = run.record.replace(record.clone());
    let persisted = run.channel.record(Command::Persist(record.clone())).await;
    if persisted.is_err() && *run.record.borrow() == record {
        // The journal still has the old record, so the next attempt must write the new record again.
        run.record.replace(before);
    }
    persisted
}

/// Updates the record of the book, and writes the record to the journal. If the journal write fails, the report shows a
/// failed task, and the lane of tasks ends.
pub(super) async fn persist_or_stop(run: &Run, what: &str, change: impl FnOnce(&mut BookRecord)) -> Steps {
    match persist(run, change).await {
        Ok(()) => Steps::default(),
        Err(message) => Steps::failed(TaskReport::new(what, "journal", Outcome::Failed).with_message(message)),
    }
}

/// Prepares the node for changes: asks for admission, and runs the `before` tasks. If the `before` tasks fail or are
/// interrupted, the next pass runs the `before` tasks again. Returns the results of the `before` tasks. A closed gate
/// or a failed `before` task causes an error, which ends the lane of tasks.
pub(super) async fn begin(run: &Run) -> (Steps, Result<(), NotBegun>) {
    // One lane asks for admission, and its answer applies to all lanes.
    run.channel.until(|| !run.segment.borrow().beginning).await;
    let refused = run.segment.borrow().refused.clone();
    let (mut steps, begun) = if let Some(why) = refused {
        (Steps::default(), Err(why))
    } else {
        run.segment.borrow_mut().beginning = true;
        let (steps, begun) = begin_alone(run).await;
        let mut segment = run.segment.borrow_mut();
        segment.beginning = false;
        segment.refused = begun.clone().err();
        (steps, begun)
    };
    run.channel.notify();
    if let Err(why) = &begun {
        steps.stop(why.stop());
    }
    (steps, begun)
}

async fn begin_alone(run: &Run) -> (Steps, Result<(), NotBegun>) {
    let admitted = admit(run).await;
    if admitted.is_err() || run.segment.borrow().prepared {
        return (Steps::default(), admitted);
    }
    let (steps, prepared) = if run.has_frame() { prepare(run).await } else { (Steps::default(), Ok(())) };
    run.segment.borrow_mut().prepared |= prepared.is_ok();
    (steps, prepared)
}

/// Runs the `before` tasks, and records that the segment may begin its changes.
async fn prepare(run: &Run) -> (Steps, Result<(), NotBegun>) {
    if let Err(message) = persist(run, |record| record.frame = Some(Frame::Preparing)).await {
        return (Steps::default(), Err(NotBegun::Failed(message)));
    }
    let (steps, failed) = unconditional(run, List::Before).await;
    let prepared = match failed {
        Some(failed) => Err(format!("the `before` task {failed:?} failed")),
        None => persist(run, |record| record.frame = Some(Frame::Changing)).await,
    };
    (steps, prepared.map_err(NotBegun::Failed))
}

/// Asks for admission. The node writes the slot to the journal before and after its request to the fleet. The journal
/// record allows the node to release the slot after the book is deleted.
async fn admit(run: &Run) -> Result<(), NotBegun> {
    let (slot, admit) = {
        let (segment, record) = (run.segment.borrow(), run.record.borrow());
        let began = segment.in_window || record.frame.is_some();
        (segment.slot.clone(), Admit { segment: segment.number, slot: segment.slot_use, began })
    };
    let slot = slot.and_then(|(slot, limited)| limited.then_some(slot));
    if let Some(slot) = &slot {
        let waiting = SlotRef { slot: slot.clone(), state: SlotState::Waiting };
        // A failure before the admission ends with the request.
        let holds =
            |known: &SlotRef| known.slot.budget != slot.budget || !matches!(known.state, SlotState::Unadmitted(..));
        let recorded = persist(run, |record| record.slot = record.slot.take().filter(holds).or(Some(waiting))).await;
        recorded.map_err(NotBegun::Failed)?;
    }
    match run.channel.admit(admit).await.map_err(NotBegun::Failed)? {
        Answer::Hold(gate) => return Err(NotBegun::Held(gate)),
        Answer::Go | Answer::Ended(_) => {}
    }
    if let Some(slot) = slot {
        leave_other_slot(run, &slot).await?;
        let state = match admit.slot {
            SlotUse::Change(number) => SlotState::Claimed(run_id(run), Some(number)),
            SlotUse::Correct => SlotState::Claimed(run_id(run), None),
        };
        persist(run, |record| record.slot = Some(SlotRef { slot, state })).await.map_err(NotBegun::Failed)?;
    }
    let mut segment = run.segment.borrow_mut();
    segment.admitted = true;
    // An admission outside of the window, for changes that had begun, does not cover later segments.
    segment.in_window |= !admit.began;
    Ok(())
}

/// Releases the slot that the node acquired in another budget for an earlier revision or segment. The journal record of
/// the book names a slot until the slot is released. A node has at most one slot record in each budget, even if the
/// budget has several partitions.
async fn leave_other_slot(run: &Run, slot: &Slot) -> Result<(), NotBegun> {
    let is_other = run.record.borrow().slot.as_ref().is_some_and(|known| known.slot.budget != slot.budget);
    if !is_other {
        return Ok(());
    }
    match run.channel.coordinate(Call::LeaveOld).await.map_err(NotBegun::Failed)? {
        Answer::Hold(gate) => Err(NotBegun::Held(gate)),
        Answer::Go | Answer::Ended(_) => Ok(()),
    }
}

/// Returns the id of the rollout's run. Returns an empty text for a book without a rollout.
pub(super) fn run_id(run: &Run) -> String {
    run.inputs.rollout.as_ref().map(|rollout| rollout.run.clone()).unwrap_or_default()
}

/// Runs the `after` tasks, if this segment has begun to change the node.
pub(super) async fn after(run: &Run) -> Steps {
    if !run.has_frame() || run.record.borrow().frame.is_none() || run.segment.borrow().kept_out {
        return Steps::default();
    }
    // If the `before` tasks of the segment were interrupted, the `before` tasks run again first, because the `after`
    // tasks revert them.
    let (mut steps, begun) = begin(run).await;
    if let Err(why) = begun {
        if let NotBegun::Failed(message) = why {
            steps.push(TaskReport::new("after", "rollout", Outcome::Failed).with_message(message));
        }
        return steps;
    }
    let (tasks, failed) = unconditional(run, List::After).await;
    steps.add(tasks);
    if failed.is_some() {
        steps.stop(Stop::Failed);
    } else {
        steps.add(persist_or_stop(run, "after", |record| record.frame = None).await);
    }
    steps
}

/// Runs the `before` or the `after` tasks. Returns the results of the tasks, and the name of the task that failed.
async fn unconditional(run: &Run, list: List) -> (Steps, Option<String>) {
    let mut steps = Steps::default();
    let tasks = match list {
        List::Before => &run.book().rollout.before,
        _ => &run.book().rollout.after,
    };
    for (index, task) in tasks.iter().enumerate() {
        let executed = run.channel.execute(Invocation::Unconditional(TaskRef { list, index })).await;
        let Executed::Ran(outcome, finished) = executed else { continue };
        steps.push(TaskReport::new(task.id.clone(), instance::module(task), outcome).with_message(finished.message));
        if outcome == Outcome::Failed && !task.continue_on_failure {
            return (steps, Some(task.id.clone()));
        }
    }
    (steps, None)
}

/// Runs the pending handlers: first the current handlers in book order, then handlers of earlier revisions.
pub(super) async fn handlers(run: &Run) -> Steps {
    // The lanes of a parallel book must not run the same handler twice.
    run.channel.until(|| !run.segment.borrow().handling).await;
    run.segment.borrow_mut().handling = true;
    let steps = run_pending(run).await;
    run.segment.borrow_mut().handling = false;
    run.channel.notify();
    steps
}

async fn run_pending(run: &Run) -> Steps {
    let pending = match run.channel.handlers().await {
        Ok(pending) => pending,
        Err(message) => {
            return Steps::failed(TaskReport::new("handlers", "handler", Outcome::Failed).with_message(message));
        }
    };
    if pending.is_empty() {
        return Steps::default();
    }
    let (mut steps, begun) = begin(run).await;
    if let Err(why) = begun {
        steps.push(TaskReport::new("handlers", "handler", why.outcome()).with_message(why.message()));
        return steps;
    }
    for handler in pending {
        let task = handler.task.and_then(|at| run.task(at));
        let (name, module) = match task {
            Some(task) => (handler.id.clone(), instance::module(task).to_owned()),
            None => (format!("{} (of an earlier revision)", handler.id), handler.module.clone()),
        };
        let Executed::Ran(outcome, finished) = run.channel.execute(Invocation::Handler(handler)).await else {
            continue;
        };
        steps.push(TaskReport::new(name, module, outcome).with_message(finished.message).with_origin(Origin::Handler));
        if outcome == Outcome::Failed {
            // The failed handler stays pending (D18). Later handlers still run in this pass.
            steps.stop(Stop::Failed);
        }
    }
    steps
}
