//! The record of a book, and the begin and end of a segment: admission, the tasks before it, the tasks after it.

use super::context::{Lane, NotBegun, Run, Stop};
use crate::{
    command::{Admit, Answer, Call, Command, Executed, Invocation, List, SlotUse, TaskRef},
    outcome::{Origin, Outcome, TaskReport},
    plan::instance,
    record::{BookRecord, Frame, Slot, SlotRef, SlotState},
};

/// Changes the record of the book, and persists it if it differs.
///
/// # Errors
/// If it cannot be persisted.
pub(super) async fn persist(run: &Run, change: impl FnOnce(&mut BookRecord)) -> Result<(), String> {
    let mut record = run.record.borrow().clone();
    change(&mut record);
    if record == *run.record.borrow() {
        return Ok(());
    }
    let before = run.record.replace(record.clone());
    let persisted = run.channel.record(Command::Persist(record.clone())).await;
    if persisted.is_err() && *run.record.borrow() == record {
        // The journal still has the old record, so the next attempt must not find it up to date.
        run.record.replace(before);
    }
    persisted
}

/// Persists the record. A failure is reported as a failed task, and ends the run.
pub(super) async fn persist_or_stop(run: &Run, lane: &mut Lane, what: &str, change: impl FnOnce(&mut BookRecord)) {
    if let Err(message) = persist(run, change).await {
        lane.push(TaskReport::new(what, "journal", Outcome::Failed).with_message(message));
        lane.stop(Stop::Failed);
    }
}

/// Begins to change the node: asks for admission, and runs the tasks before the first change. Interrupted or failed
/// tasks run again in the next pass.
///
/// # Errors
/// The closed gate, or the task that failed. The lane is stopped then.
pub(super) async fn begin(run: &Run, lane: &mut Lane) -> Result<(), NotBegun> {
    // One lane asks for all.
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

/// Asks for admission. A slot is recorded before and after the request: it must be released if the book is removed.
async fn admit(run: &Run) -> Result<(), NotBegun> {
    let (slot, admit) = {
        let (segment, record) = (run.segment.borrow(), run.record.borrow());
        let began = segment.in_window || record.frame.is_some();
        (segment.slot.clone(), Admit { segment: segment.number, slot: segment.slot_use, began })
    };
    let slot = slot.and_then(|(slot, limited)| limited.then_some(slot));
    if let Some(slot) = &slot {
        let waiting = SlotRef { slot: slot.clone(), state: SlotState::Waiting };
        persist(run, |record| record.slot = record.slot.take().or(Some(waiting))).await.map_err(NotBegun::Failed)?;
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
    // The window was not asked for a change that had begun. Later segments ask it.
    segment.in_window |= !admit.began;
    Ok(())
}

/// Releases a slot of another budget, which an earlier revision or an earlier segment took. It stays in the record until
/// then, so that it is not lost.
async fn leave_other_slot(run: &Run, slot: &Slot) -> Result<(), NotBegun> {
    let is_other = run.record.borrow().slot.as_ref().is_some_and(|known| known.slot != *slot);
    if !is_other {
        return Ok(());
    }
    match run.channel.coordinate(Call::LeaveOld).await.map_err(NotBegun::Failed)? {
        Answer::Hold(gate) => Err(NotBegun::Held(gate)),
        Answer::Go | Answer::Ended(_) => Ok(()),
    }
}

/// Returns the id of the rollout's run. Empty without a rollout.
pub(super) fn run_id(run: &Run) -> String {
    run.inputs.rollout.as_ref().map(|rollout| rollout.run.clone()).unwrap_or_default()
}

/// Runs the tasks after the last change, if this segment has begun.
pub(super) async fn after(run: &Run, lane: &mut Lane) {
    if !run.has_frame() || run.record.borrow().frame.is_none() || run.segment.borrow().kept_out {
        return;
    }
    // A segment that was interrupted in its tasks before the first change runs them again, so that the tasks after the
    // last change can revert them.
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

/// Runs the tasks before or after a segment. Returns the task that failed.
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

/// Runs the pending handlers: those of the book in its order, and then those that the book no longer contains.
pub(super) async fn handlers(run: &Run, lane: &mut Lane) {
    // Lanes of a parallel book must not run the same handler twice.
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
            // It stays pending (D18). Later handlers run in this pass, too.
            lane.stop(Stop::Failed);
        }
    }
}
