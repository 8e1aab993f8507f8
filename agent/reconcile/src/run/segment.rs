//! The record of a book, and the steps at the begin and end of a segment: admission, `before` tasks, handlers, `after`
//! tasks.

use super::context::{Lane, NotBegun, Run, Stop};
use crate::{
    command::{Admit, Answer, Call, Command, Executed, Invocation, List, SlotUse, TaskRef},
    outcome::{Origin, Outcome, TaskReport},
    plan::instance,
    record::{BookRecord, Frame, Slot, SlotRef, SlotState},
};

/// Changes the record of the book, and writes a changed record to the journal.
///
/// # Errors
/// If the record cannot be written.
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

/// Changes the record of the book, and writes it to the journal. A failed write stops the lane and is reported as a
/// failed task.
pub(super) async fn persist_or_stop(run: &Run, lane: &mut Lane, what: &str, change: impl FnOnce(&mut BookRecord)) {
    if let Err(message) = persist(run, change).await {
        lane.push(TaskReport::new(what, "journal", Outcome::Failed).with_message(message));
        lane.stop(Stop::Failed);
    }
}

/// Prepares the node for changes: asks for admission, and runs the `before` tasks. Interrupted or failed `before` tasks
/// run again in the next pass.
///
/// # Errors
/// If a gate is closed or a `before` task failed. The lane is then stopped.
pub(super) async fn begin(run: &Run, lane: &mut Lane) -> Result<(), NotBegun> {
    // One lane asks for admission, and its answer applies to all lanes.
    run.channel.until(|| !run.segment.borrow().beginning).await;
    let refused = run.segment.borrow().refused.clone();
    let begun = if let Some(why) = refused {
        Err(why)
    } else {
        run.segment.borrow_mut().beginning = true;
        let begun = begin_alone(run, lane).await;
        let mut segment = run.segment.borrow_mut();
        segment.beginning = false;
        segment.refused = begun.clone().err();
        begun
    };
    run.channel.notify();
    begun.inspect_err(|why| lane.stop(why.stop()))
}

async fn begin_alone(run: &Run, lane: &mut Lane) -> Result<(), NotBegun> {
    admit(run).await?;
    if run.segment.borrow().prepared {
        return Ok(());
    }
    if run.has_frame() {
        persist(run, |record| record.frame = Some(Frame::Preparing)).await.map_err(NotBegun::Failed)?;
        if let Some(failed) = unconditional(run, lane, List::Before).await {
            return Err(NotBegun::Failed(format!("task {failed:?}, which runs before the first change, failed")));
        }
        persist(run, |record| record.frame = Some(Frame::Changing)).await.map_err(NotBegun::Failed)?;
    }
    run.segment.borrow_mut().prepared = true;
    Ok(())
}

/// Asks for admission. The slot is recorded before and after the request, because the slot must be released if the book
/// is removed.
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

/// Releases the slot of another budget, which an earlier revision or an earlier segment acquired. The record names the
/// slot until it is released. A node has one slot record in a budget, whatever the partition.
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
pub(super) async fn after(run: &Run, lane: &mut Lane) {
    if !run.has_frame() || run.record.borrow().frame.is_none() || run.segment.borrow().kept_out {
        return;
    }
    // If the `before` tasks of the segment were interrupted, the `before` tasks run again first, because the `after`
    // tasks revert them.
    if let Err(why) = begin(run, lane).await {
        if let NotBegun::Failed(message) = why {
            lane.push(TaskReport::new("after", "rollout", Outcome::Failed).with_message(message));
        }
        return;
    }
    if unconditional(run, lane, List::After).await.is_some() {
        lane.stop(Stop::Failed);
        return;
    }
    persist_or_stop(run, lane, "after", |record| record.frame = None).await;
}

/// Runs the `before` or the `after` tasks. Returns the name of the task that failed.
async fn unconditional(run: &Run, lane: &mut Lane, list: List) -> Option<String> {
    let tasks = match list {
        List::Before => &run.book().rollout.before,
        _ => &run.book().rollout.after,
    };
    for (index, task) in tasks.iter().enumerate() {
        let executed = run.channel.execute(Invocation::Unconditional(TaskRef { list, index })).await;
        let Executed::Ran(outcome, finished) = executed else { continue };
        lane.push(TaskReport::new(task.id.clone(), instance::module(task), outcome).with_message(finished.message));
        if outcome == Outcome::Failed && !task.go_on {
            return Some(task.id.clone());
        }
    }
    None
}

/// Runs the pending handlers: first the handlers of the book in its order, then the handlers of earlier revisions.
pub(super) async fn handlers(run: &Run, lane: &mut Lane) {
    // The lanes of a parallel book must not run the same handler twice.
    run.channel.until(|| !run.segment.borrow().handling).await;
    run.segment.borrow_mut().handling = true;
    run_pending(run, lane).await;
    run.segment.borrow_mut().handling = false;
    run.channel.notify();
}

async fn run_pending(run: &Run, lane: &mut Lane) {
    let pending = match run.channel.handlers().await {
        Ok(pending) => pending,
        Err(message) => {
            lane.push(TaskReport::new("handlers", "handler", Outcome::Failed).with_message(message));
            return lane.stop(Stop::Failed);
        }
    };
    if pending.is_empty() {
        return;
    }
    if let Err(why) = begin(run, lane).await {
        lane.push(TaskReport::new("handlers", "handler", why.outcome()).with_message(why.message()));
        return;
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
        lane.push(TaskReport::new(name, module, outcome).with_message(finished.message).with_origin(Origin::Handler));
        if outcome == Outcome::Failed {
            // The failed handler stays pending (D18). Later handlers still run in this pass.
            lane.stop(Stop::Failed);
        }
    }
}
