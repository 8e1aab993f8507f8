//! Coordinates a run with the fleet: votes, elections, and the journal record of the TaskBook.

use serde_json::{Map, Value};
use std::sync::Mutex;
use towpath_coordination::{
    Gate, GateReason,
    fleet::{self, ElectedTask, TaskResult},
    rollout::{Election, Request, drift_of},
    store::StoreError,
};
use towpath_reconcile::{
    command::{Answer, Call, ElectedResult, ElectionState, TaskRef},
    record::{BookRecord, Frame, Slot, SlotRef, SlotState},
    run::{RolloutPlan, SegmentPlan},
};
use towpath_render::objects::{SegmentKind, task::Task, task_digest};
use towpath_state::{
    self as state, Changes, ClaimState, ElectionRecord, PublishedResult, RunProgress, SegmentPhase, SlotClaim, TaskId,
    UsedResult,
};

use super::{Session, lock};
use crate::reconcile::{
    admission::{AdmissionControl, BookRollout},
    pass::{
        Coordination, batch,
        coordinated::{remember_store_position, spec_of},
    },
    runs::{Run, may_be_elected},
};

/// The maximum length of a text in a published result, in bytes. If a text is longer than this maximum, the node
/// publishes only the end of the text.
const PASSED_ON: usize = 16 << 10;

/// Returns a result with its long texts shortened for publication.
fn shortened(result: &Value) -> Value {
    match result {
        Value::String(text) if text.len() > PASSED_ON => {
            let from = text.len() - PASSED_ON;
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
            Value::String(text[from..].to_owned())
        }
        Value::Array(items) => Value::Array(items.iter().map(shortened).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), shortened(value))).collect()),
        other => other.clone(),
    }
}

/// Returns the rollout of a TaskBook. Returns `None` for a TaskBook without coordination.
pub(super) fn rollout<'a>(session: &Session<'a>) -> Option<BookRollout<'a>> {
    let pass = session.pass;
    let (set, accepted, book, coordination) = (pass.set, &pass.accepted, &session.book, pass.coordination?);
    let run = match &session.last {
        None => Run::of(set, accepted, coordination.manifest, book)?,
        Some(last) => Run::of_gone(set, accepted, coordination.manifest, &book.id(), last.slots.as_ref()?),
    };
    Some(BookRollout { coordination, run })
}

/// Returns the rollout as input for the state machine of the run.
pub(super) fn plan(rollout: &BookRollout<'_>, node: &str) -> RolloutPlan {
    let run = &rollout.run;
    let segment = |(index, segment): (usize, &towpath_render::objects::Segment)| {
        let spec = run.spec_of(index);
        SegmentPlan {
            tasks: segment.tasks.clone(),
            kind: segment.kind,
            slot: Slot { budget: spec.budget.clone(), partition: spec.partition(node).to_owned() },
            limited: spec.count.is_some(),
        }
    };
    let segments = run.segments.iter().enumerate().map(segment).collect();
    RolloutPlan { run: run.spec.run.clone(), segments }
}

/// Reads and writes the journal record of a TaskBook.
pub(super) struct Coordinator {
    /// The journal record of the TaskBook.
    record: Mutex<state::BookRecord>,
}

impl Coordinator {
    /// Returns the coordinator of a TaskBook.
    pub(super) fn new(session: &Session<'_>) -> Self {
        Self { record: Mutex::new(session.machine().book(&session.id)) }
    }

    /// Converts the journal record of the TaskBook for the state machine of the run. The run of a deleted TaskBook only
    /// removes items.
    pub(super) fn record(&self, session: &Session<'_>, admission: &AdmissionControl<'_>) -> BookRecord {
        let book = &session.book.id();
        let known = lock(&self.record);
        let run: String = admission.rollout().map(|rollout| rollout.run.spec.run.clone()).unwrap_or_default();
        let progress = match &session.last {
            None => known.progress.clone().unwrap_or_default(),
            Some(_) => RunProgress { run: run.clone(), done: 1, completed: true },
        };
        let slot = known.slot.as_ref().map(|slot| SlotRef {
            slot: Slot { budget: slot.budget.clone(), partition: slot.partition.clone() },
            state: match &slot.claim {
                None => SlotState::Waiting,
                Some(claim) if claim.state == ClaimState::Failure => {
                    SlotState::Failed(claim.run.clone(), claim.segment)
                }
                Some(claim) if claim.state == ClaimState::Unadmitted => {
                    SlotState::Unadmitted(claim.run.clone(), claim.segment)
                }
                Some(claim) if claim.run == drift_of(book) => SlotState::Claimed(run, None),
                Some(claim) => SlotState::Claimed(claim.run.clone(), Some(claim.segment)),
            },
        });
        BookRecord {
            run: progress.run,
            done: u32::try_from(progress.done).unwrap_or(u32::MAX),
            completed: progress.completed,
            slot,
            frame: known.segment.map(|phase| match phase {
                SegmentPhase::Preparing => Frame::Preparing,
                SegmentPhase::Changing => Frame::Changing,
            }),
            removal_failed: known.removal_failed,
        }
    }

    /// Writes the changed fields of the record of the TaskBook to the journal. One journal transaction writes the slot,
    /// the progress, and the position in the data store together.
    ///
    /// # Errors
    /// Fails if the journal cannot be written.
    pub(super) fn persist(
        &self,
        session: &Session<'_>,
        admission: &AdmissionControl<'_>,
        record: &BookRecord,
    ) -> Result<(), String> {
        let Some(journal) = &session.machine().journal else { return Ok(()) };
        let mut known = lock(&self.record);
        let new = self.journal_record(session, record, &known);
        let (mut changes, id) = (Changes::default(), &session.id);
        let position = |changes: &mut Changes| {
            if let Some(rollout) = admission.rollout() {
                remember_store_position(rollout.coordination.fleet, changes);
            }
        };
        if new.slot != known.slot {
            position(&mut changes);
            changes.set_slot(id, new.slot.clone());
        }
        if let Some(progress) = new.progress.clone().filter(|progress| Some(progress) != known.progress.as_ref()) {
            changes.set_progress(id, progress);
            if new.slot == known.slot {
                position(&mut changes);
            }
        }
        if new.segment != known.segment {
            changes.set_segment(id, new.segment);
        }
        if new.removal_failed != known.removal_failed {
            changes.set_removal_failed(id, new.removal_failed);
        }
        journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))?;
        let is_back = known.removal_failed && !new.removal_failed;
        if let (true, Some(rollout)) = (is_back, admission.rollout()) {
            // The node has now completed its TaskBook, so the next pass can vote.
            rollout.coordination.fleet.look_again();
        }
        *known = new;
        Ok(())
    }

    /// Converts the record of the run into the form that the journal stores. A run has no progress until the node has
    /// completed a segment.
    fn journal_record(
        &self,
        session: &Session<'_>,
        record: &BookRecord,
        known: &state::BookRecord,
    ) -> state::BookRecord {
        let done = usize::try_from(record.done).unwrap_or(usize::MAX);
        let progress = match record.done == 0 && !record.completed || session.last.is_some() {
            true => known.progress.clone(),
            false => Some(RunProgress { run: record.run.clone(), done, completed: record.completed }),
        };
        let claim = |state, run: &str, segment| Some(SlotClaim { state, run: run.to_owned(), segment });
        let slot = record.slot.as_ref().map(|SlotRef { slot, state }| state::SlotRef {
            budget: slot.budget.clone(),
            partition: slot.partition.clone(),
            claim: match state {
                SlotState::Waiting => None,
                SlotState::Claimed(_, None) => claim(ClaimState::Claim, &drift_of(&session.book.id()), 0),
                SlotState::Claimed(run, Some(segment)) => claim(ClaimState::Claim, run, *segment),
                SlotState::Failed(run, segment) => claim(ClaimState::Failure, run, *segment),
                SlotState::Unadmitted(run, segment) => claim(ClaimState::Unadmitted, run, *segment),
            },
        });
        state::BookRecord {
            progress,
            slot,
            segment: record.frame.map(|frame| match frame {
                Frame::Preparing => SegmentPhase::Preparing,
                Frame::Changing => SegmentPhase::Changing,
            }),
            removal_failed: record.removal_failed,
        }
    }

    /// Sends a coordination request to the fleet, and returns the answer.
    pub(super) fn call(
        &self,
        session: &Session<'_>,
        admission: &AdmissionControl<'_>,
        call: &Call,
    ) -> Result<Answer, String> {
        let Some(BookRollout { coordination, run }) = admission.rollout() else { return Ok(Answer::Go) };
        let (number, request) = match call {
            Call::Enter(number) => return Ok(admission.enter(*number)),
            Call::Done(number) => (*number, Request::Done(*number)),
            Call::Leave(number) => (*number, Request::Leave),
            Call::Failed { segment, admitted, message } => {
                let message = towpath_git::without_secrets(message);
                coordination.fleet.describe_failure(&session.book.id(), &message);
                (*segment, Request::Failed(*segment, *admitted))
            }
            Call::Absent(segment, number, instance) => {
                let timeout = session.rendered(*instance)?.1.timeout.as_secs().max(1);
                // The claim belongs to the budget of the active segment, even for a corrective change.
                (*segment, Request::Absent(*number, timeout))
            }
            Call::LeaveOld => return Ok(self.leave_old(session, admission, *coordination)),
            Call::RepeatVotes(count) => {
                repeat_votes(session, *coordination, run, *count);
                return Ok(Answer::Go);
            }
            Call::EndRun => return Ok(Answer::Ended(end_run(*coordination, run))),
        };
        if matches!(request, Request::Done(_) | Request::Failed(..) | Request::Leave) {
            admission.end();
        }
        Ok(admission.ask(number, request))
    }

    /// Releases the slot that the journal records for the TaskBook.
    fn leave_old(
        &self,
        session: &Session<'_>,
        admission: &AdmissionControl<'_>,
        coordination: Coordination<'_>,
    ) -> Answer {
        let slot = lock(&self.record).slot.clone();
        let Some(slot) = slot else { return Answer::Go };
        admission.forget_slot();
        match coordination.fleet.ask(&spec_of(&slot, &session.id, &session.pass.view.node), Request::Leave) {
            fleet::Answer::Go => Answer::Go,
            fleet::Answer::Hold(gate) => Answer::Hold(gate),
        }
    }
}

/// Publishes again the votes and the results of elected tasks that the data store has lost.
fn repeat_votes(session: &Session<'_>, coordination: Coordination<'_>, run: &Run, count: u32) {
    for number in (0..count).filter(|number| coordination.fleet.lacks_vote(&run.spec, *number)) {
        let Some(segment) = run.segments.get(index(number)) else { return };
        if segment.kind == SegmentKind::Elected
            && let Some(task) = session.book.tasks.get(segment.tasks.start)
            && let key = session.id.task(task.id.as_str())
            && let Some(found) = session.machine().record::<ElectionRecord>(&key).and_then(|known| known.published)
            && let Err(error) = coordination.fleet.publish_result(
                ElectedTask { spec: &run.spec, task: &task.id, definition: &found.definition },
                &found.clone().into(),
            )
        {
            coordination.fleet.look_soon();
            tracing::warn!(%error, "cannot republish the result of an elected task; retrying");
            return;
        }
        // If a vote fails, the next pass repeats the vote.
        let _ = coordination.fleet.ask(run.spec_of(index(number)), Request::Done(number));
    }
}

/// Requests the election of nodes for a task (P79). `is_done` is true if this node has completed the segment of the
/// task.
pub(super) fn elect(
    session: &Session<'_>,
    admission: &AdmissionControl<'_>,
    at: TaskRef,
    is_done: bool,
) -> Result<ElectionState, String> {
    let task = session.task(at)?;
    let Some(BookRollout { coordination, run }) = admission.rollout() else { return Ok(ElectionState::Elected) };
    let (coordination, spec) = (*coordination, run.spec_of(segment_of(run, at)));
    let (set, node) = (session.pass.set, &session.pass.view.node);
    let elect = task.elect.clone().unwrap_or_default();
    let definition = task_digest(set, &session.book, task);
    let may = |node: &str| may_be_elected(set, task, node);
    // The number of elected nodes cannot exceed the number of eligible members.
    let most = spec.members.keys().filter(|node| may(node)).count().max(1);
    let count = usize::try_from(elect.count.unwrap_or(1).max(1)).unwrap_or(1).min(most);
    let key = session.id.task(task.id.as_str());
    let known = session.machine().record::<ElectionRecord>(&key).unwrap_or_default();
    if let Some(used) = known.used.as_ref().filter(|used| is_done && used.definition == definition) {
        return Ok(ElectionState::Adopted(used.result.clone()));
    }
    let elected = ElectedTask { spec, task: &task.id, definition: &definition };
    let election = coordination.fleet.elect(elected, may(node), count);
    forget_election(session, &key, &known, election.as_ref().ok())?;
    let results = match election {
        Err(error) => return Ok(ElectionState::Hold(unreachable(coordination, &error))),
        Ok(Election::Wait(nodes)) => return Ok(ElectionState::Hold(waiting_for_result(task, &nodes))),
        Ok(Election::Run) => {
            let mut changes = Changes::default();
            changes.set_election_begun(&key, &definition);
            remember_store_position(coordination.fleet, &mut changes);
            commit(session, changes)?;
            return Ok(ElectionState::Elected);
        }
        Ok(Election::Results(results)) => results,
    };
    match coordination.fleet.open(elected, &results) {
        Err(error) => Ok(ElectionState::Hold(unreachable(coordination, &error))),
        Ok(Err(closed)) => Ok(ElectionState::Hold(Gate::shared(
            GateReason::Dependency,
            format!(
                "waiting for the key to the result of the elected task {:?} (requested from {}); continues when one of these nodes has sent the key",
                task.id,
                closed.join(", ")
            ),
        ))),
        Ok(Ok(found)) => use_results(session, task, &key, &definition, &found, count),
    }
}

/// Publishes the result of an elected task.
pub(super) fn publish(
    session: &Session<'_>,
    admission: &AdmissionControl<'_>,
    elected: &ElectedResult,
) -> Result<Answer, String> {
    let task = session.task(elected.task)?;
    let Some(BookRollout { coordination, run }) = admission.rollout() else { return Ok(Answer::Go) };
    let definition = task_digest(session.pass.set, &session.book, task);
    let result = shortened(&elected.result);
    let message = elected.message.as_deref().map(towpath_git::without_secrets);
    let found = TaskResult { ok: elected.ok, result: result.clone(), message: message.clone() };
    let mut changes = Changes::default();
    let published = PublishedResult { definition: definition.clone(), ok: elected.ok, result, message };
    changes.set_published_result(&session.id.task(task.id.as_str()), published);
    commit(session, changes)?;
    let spec = run.spec_of(segment_of(run, elected.task));
    match coordination.fleet.publish_result(ElectedTask { spec, task: &task.id, definition: &definition }, &found) {
        Ok(()) => Ok(Answer::Go),
        Err(error) => Ok(Answer::Hold(unreachable(*coordination, &error))),
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns the index of the segment of a task. Returns zero for a task without a segment.
fn segment_of(run: &Run, at: TaskRef) -> usize {
    run.segments.iter().position(|segment| segment.tasks.contains(&at.index)).unwrap_or_default()
}

fn unreachable(coordination: Coordination<'_>, error: &StoreError) -> Gate {
    coordination.fleet.look_soon();
    Gate::unreachable(error)
}

/// Runs the maintenance transaction of a run in the data store, if the transaction is due. Returns whether the run has
/// ended on all nodes.
fn end_run(coordination: Coordination<'_>, run: &Run) -> bool {
    match coordination.fleet.run_maintenance(&run.spec) {
        Ok(true) => return true,
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "cannot do the maintenance of a run"),
    }
    coordination.fleet.look_again();
    false
}

fn commit(session: &Session<'_>, changes: Changes) -> Result<(), String> {
    let Some(journal) = &session.machine().journal else { return Ok(()) };
    journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))
}

fn waiting_for_result(task: &Task, nodes: &[String]) -> Gate {
    let who = if nodes.is_empty() { "an eligible node".to_owned() } else { nodes.join(", ") };
    let opens = format!(
        "waiting for the result of the elected task {:?} (run by {who}); continues when the result is published",
        task.id
    );
    Gate::shared(GateReason::Dependency, opens)
}

/// Deletes the election records of this node if other nodes are elected.
fn forget_election(
    session: &Session<'_>,
    key: &TaskId,
    known: &ElectionRecord,
    election: Option<&Election>,
) -> Result<(), String> {
    let node = &session.pass.view.node;
    let others = match election {
        Some(Election::Wait(nodes)) => !nodes.is_empty() && !nodes.contains(node),
        Some(Election::Results(results)) => !results.contains_key(node),
        Some(Election::Run) | None => false,
    };
    if !others || known.begun.is_none() && known.published.is_none() {
        return Ok(());
    }
    let mut changes = Changes::default();
    changes.forget_election(key);
    commit(session, changes)
}

/// Adopts on this node the results that the elected nodes have published (P81, P82).
fn use_results(
    session: &Session<'_>,
    task: &Task,
    key: &TaskId,
    definition: &str,
    results: &std::collections::BTreeMap<String, TaskResult>,
    count: usize,
) -> Result<ElectionState, String> {
    if let Some((node, result)) = results.iter().find(|(_, result)| !result.ok) {
        let why = result.message.clone().unwrap_or_default();
        let opens = format!(
            "waiting for the elected task {:?}, which failed on {node}: {why}; continues when {node} has succeeded",
            task.id
        );
        let action = format!("Push a fix, or repair {node}; {node} retries at the reconcile interval");
        return Ok(ElectionState::Hold(Gate::shared(GateReason::Dependency, opens).action(action)));
    }
    let value = match results.values().next() {
        Some(result) if count == 1 => result.result.clone(),
        _ => Value::Object(
            results.iter().map(|(node, result)| (node.clone(), result.result.clone())).collect::<Map<_, _>>(),
        ),
    };
    let mut changes = Changes::default();
    changes.set_used_result(key, UsedResult { definition: definition.to_owned(), result: value.clone() });
    commit(session, changes)?;
    Ok(ElectionState::Results(value, results.keys().cloned().collect()))
}
