//! The slot and the votes of this node in a rollout.

use towpath_render::objects::SegmentKind;

use super::{
    context::{ActiveSegment, NotBegun, Run, SegmentPlan, Steps},
    lane::Lane,
    segment::{persist, persist_or_stop, run_id},
};
use crate::{
    command::{Answer, Call, InstanceId, SlotUse},
    plan::assess::RunMode,
    record::{Frame, Slot, SlotRef, SlotState},
};

/// The number of a segment, and the progress of this node in the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The number of the segment.
    pub(super) number: u32,
    /// True if this node has completed the segment.
    pub(super) completed: bool,
    /// True if this node has completed all segments.
    pub(super) whole: bool,
    /// True if the segment is the last segment of the run.
    pub(super) last: bool,
}

/// Makes a segment the active segment of the run.
pub(super) fn activate(run: &Run, plan: &SegmentPlan, at: Position, kept_out: bool) {
    let mode = if at.completed { RunMode::Steady } else { RunMode::NewRevision };
    let corrects = at.completed || plan.kind == SegmentKind::Elected;
    let slot_use = if corrects { SlotUse::Correct } else { SlotUse::Change(at.number) };
    // An open window is valid for the whole book, so the flag stays across segments.
    let in_window = run.segment.borrow().in_window;
    run.segment.replace(ActiveSegment {
        number: Some(at.number),
        slot_use,
        slot: Some((plan.slot.clone(), plan.limited)),
        in_window,
        prepared: run.record.borrow().frame == Some(Frame::Changing),
        kept_out,
        ..ActiveSegment::new(mode)
    });
}

/// Publishes this node's vote on a segment whose tasks have ended, and releases the slot. The second returned value is
/// true if the next segment may run.
pub(super) async fn vote(run: &Run, lane: &Lane, at: Position) -> (Steps, bool) {
    let failed = lane.stopped();
    let admitted = run.segment.borrow().admitted || !at.completed && holds_other_slot(run);
    // Corrections use the slot of the interrupted segment, unless that segment has a budget of its own (P43).
    let shares_slot = !at.completed || at.whole || shares_slot(run, at.number);
    let call = match (failed, at.completed) {
        // A failed correction of content holds no slot, so the failure does not count as a failure of the run.
        (true, _) if lane.any_failed() && (!at.completed || admitted) => {
            Call::Failed { segment: at.number, admitted, message: lane.failure_message(&Steps::default()) }
        }
        (true, _) => return (Steps::default(), false),
        (false, false) => Call::Done(at.number),
        (false, true) if admitted && (at.whole || !shares_slot) => Call::Leave(at.number),
        // A slot of an earlier pass is released after all segments.
        (false, true) => return (Steps::default(), true),
    };
    if let Some(why) = refused(run.channel.coordinate(call).await) {
        return (Steps::refused(&why), false);
    }
    (released(run, failed.then_some((at.number, admitted))).await, !failed)
}

/// Returns true if a completed segment uses the same slot as the first incomplete segment. If the first incomplete
/// segment has begun to change the node, the function returns true in all cases.
pub(super) fn shares_slot(run: &Run, number: u32) -> bool {
    let Some(plan) = &run.inputs.rollout else { return true };
    let record = run.record.borrow();
    let segment = |number: u32| plan.segments.get(usize::try_from(number).ok()?);
    let slots = segment(number).zip(segment(record.done));
    record.frame.is_some() || slots.is_none_or(|(one, other)| one.slot == other.slot)
}

/// Returns true if the node has a claim or a failure record in a budget that the active segment does not use. A node
/// with an interrupted change may be only partly changed.
fn holds_other_slot(run: &Run) -> bool {
    let (record, segment) = (run.record.borrow(), run.segment.borrow());
    let active = segment.slot.as_ref().map(|(slot, _)| slot);
    // The claim of a completed correction is not a change in progress.
    let disrupted = |known: &&SlotRef| matches!(known.state, SlotState::Claimed(_, Some(_)) | SlotState::Failed(..));
    let is_other = |known: &SlotRef| active.is_some_and(|active| known.slot.budget != active.budget);
    record.slot.as_ref().filter(disrupted).is_some_and(is_other)
}

/// Releases the failure record of an earlier run, or of a budget that this run does not use. A node that failed before
/// admission changed nothing, so its failure record does not have to halt other runs.
pub(super) async fn leave_old_failure(run: &Run) -> Steps {
    let Some(plan) = &run.inputs.rollout else { return Steps::default() };
    let is_old = run.record.borrow().slot.as_ref().is_some_and(|known| {
        let is_used = plan.segments.iter().any(|segment| segment.slot.budget == known.slot.budget);
        matches!(&known.state, SlotState::Unadmitted(of, _) if *of != plan.run || !is_used)
    });
    if !is_old || refused(run.channel.coordinate(Call::LeaveOld).await).is_some() {
        return Steps::default();
    }
    persist_or_stop(run, "slot", |record| record.slot = None).await
}

/// Records in the journal that the node released the slot, or keeps the slot after a failure. If the run no longer uses
/// the budget of a slot, the node releases the slot.
///
/// `failed` contains the segment in which the node failed; the flag is true if the changes of the segment were
/// admitted.
async fn released(run: &Run, failed: Option<(u32, bool)>) -> Steps {
    let Some(plan) = &run.inputs.rollout else { return Steps::default() };
    let active = run.segment.borrow().slot.clone();
    let known = run.record.borrow().slot.clone();
    let now = failed.zip(active).map(|((number, admitted), (slot, _))| {
        // A claim of this budget becomes a failure in the store, too.
        let claims = |known: &SlotRef| {
            let is_claim = matches!(known.state, SlotState::Claimed(..) | SlotState::Failed(..));
            is_claim && known.slot.budget == slot.budget
        };
        let state =
            if admitted || known.as_ref().is_some_and(claims) { SlotState::Failed } else { SlotState::Unadmitted };
        SlotRef { slot, state: state(run_id(run), number) }
    });
    // The record names one slot, so a slot of another budget is released before a failure replaces it.
    let foreign = known.is_some_and(|known| {
        let is_other = |slot: &Slot| slot.budget != known.slot.budget;
        plan.segments.iter().all(|segment| is_other(&segment.slot))
            || now.as_ref().is_some_and(|now| is_other(&now.slot))
    });
    if foreign && refused(run.channel.coordinate(Call::LeaveOld).await).is_some() {
        return Steps::default();
    }
    persist_or_stop(run, "slot", |record| record.slot = now).await
}

/// Releases the slot of an earlier pass if all segments are completed without a failure. The node keeps its position in
/// the slot queue, because a removal may wait for the slot.
pub(super) async fn leave_old_slot(run: &Run, lane: &Lane) -> Steps {
    let holds = run.record.borrow().slot.is_some() && !is_queued(run);
    if holds { leave(run, lane).await } else { Steps::default() }
}

/// Removes the node from the slot queue if no removal waits for the slot.
pub(super) async fn leave_queue(run: &Run, lane: &Lane) -> Steps {
    if is_queued(run) && !lane.stopped() { leave(run, lane).await } else { Steps::default() }
}

fn is_queued(run: &Run) -> bool {
    run.record.borrow().slot.as_ref().is_some_and(|slot| slot.state == SlotState::Waiting)
}

async fn leave(run: &Run, lane: &Lane) -> Steps {
    let keeps = lane.any_failed() || run.record.borrow().removal_failed;
    if keeps || refused(run.channel.coordinate(Call::LeaveOld).await).is_some() {
        // In the steady state, the node would not try again to release the slot.
        return Steps::unsteady();
    }
    persist_or_stop(run, "slot", |record| record.slot = None).await
}

/// Announces to the fleet that this node will reboot, and names the slot that the node holds (P59).
///
/// # Errors
/// Fails if a gate is closed, or if the node cannot write the record to the journal.
pub(super) async fn announce_absence(run: &Run, instance: InstanceId) -> Result<(), NotBegun> {
    let (slot, active, number) = {
        let segment = run.segment.borrow();
        let number = if let SlotUse::Change(number) = segment.slot_use { number } else { 0 };
        (segment.slot.clone(), segment.number.unwrap_or(number), number)
    };
    let Some((slot, _)) = slot else { return Ok(()) };
    if let Some(why) = refused(run.channel.coordinate(Call::Absent(active, number, instance)).await) {
        return Err(why);
    }
    // A run without slots acquires a slot for the absence, which must be released later.
    let state = SlotState::Claimed(run_id(run), Some(number));
    let recorded = persist(run, |record| record.slot = Some(SlotRef { slot, state })).await;
    recorded.map_err(NotBegun::Failed)
}

/// Enters the last segment of the rollout, in which the node removes items. The node acquires a separate slot for the
/// removal.
///
/// # Errors
/// Fails if a gate is closed.
pub(super) async fn enter_removal(run: &Run) -> Result<(), NotBegun> {
    let Some((plan, at)) = last_segment(run) else { return Ok(()) };
    activate(run, plan, at, false);
    if run.record.borrow().completed {
        return Ok(());
    }
    refused(run.channel.coordinate(Call::Enter(at.number)).await).map_or(Ok(()), Err)
}

/// Leaves the rollout after a removal: releases the slot, or reports the failure of the run.
pub(super) async fn leave_removal(run: &Run, failure: Option<String>) -> Steps {
    let Some((_, at)) = last_segment(run) else { return Steps::default() };
    if !run.segment.borrow().admitted || run.record.borrow().slot.is_none() && failure.is_none() {
        return Steps::default();
    }
    let failed = failure.is_some().then_some((at.number, true));
    let call = match failure {
        Some(message) => Call::Failed { segment: at.number, admitted: true, message },
        None => Call::Leave(at.number),
    };
    if refused(run.channel.coordinate(call).await).is_some() {
        return Steps::default();
    }
    run.segment.borrow_mut().admitted = false;
    released(run, failed).await
}

pub(super) fn last_segment(run: &Run) -> Option<(&SegmentPlan, Position)> {
    let plan = run.inputs.rollout.as_ref()?;
    let segment = plan.segments.last()?;
    let number = u32::try_from(plan.segments.len()).unwrap_or(u32::MAX).saturating_sub(1);
    Some((segment, Position { number, completed: true, whole: true, last: true }))
}

/// Returns the reason why the fleet does not grant a request. Returns `None` if the fleet grants the request.
pub(super) fn refused(answer: Result<Answer, String>) -> Option<NotBegun> {
    match answer {
        Ok(Answer::Go | Answer::Ended(_)) => None,
        Ok(Answer::Hold(gate)) => Some(NotBegun::Held(gate)),
        Err(message) => Some(NotBegun::Failed(message)),
    }
}
