//! Coordinated books: each node enters, completes and votes for one segment after another (P45).

use towpath_coordination::{
    Gate,
    accept::RevisionManifest,
    fleet::{Answer, ElectedTask, Fleet},
    rollout::{Request, RolloutSpec, SlotState, drift_of},
};
use towpath_render::{
    objects::{SegmentKind, task::Task},
    rendering::Rendered,
};
use towpath_state::{
    BookId, BookRecord, Changes, ClaimState, ElectionRecord, Journal, RunProgress, SegmentPhase, SlotClaim, SlotRef,
    StorePosition,
};

use super::{Machine, Pass, book::BookRun, book_id, outcome::Outcome, prune};
use crate::reconcile::runs::Run;

/// The coordination handle of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Coordination<'a> {
    /// The fleet of the node.
    pub fleet: &'a Fleet,
    /// The manifest: the generation in which each book last changed, and the nodes that had joined by then.
    pub manifest: &'a RevisionManifest,
}

/// The active segment of a book.
#[derive(Debug, Clone)]
pub(super) struct InSegment {
    /// The run, with the budget of this segment.
    pub(super) spec: RolloutSpec,
    /// The request before the first change.
    want: Request,
    /// True if the node may change.
    pub(super) held: bool,
}

impl InSegment {
    /// Creates the segment of a correction that belongs to no segment of the run.
    pub(super) fn correcting(spec: RolloutSpec) -> Self {
        Self { spec, want: Request::Correct, held: false }
    }
}

/// The reason why a change cannot begin.
#[derive(Debug, Clone)]
pub(super) enum NotBegun {
    /// A gate is closed.
    Held(Gate),
    /// An earlier task failed.
    Failed(String),
}

impl NotBegun {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Held(_) => Outcome::Held,
            Self::Failed(_) => Outcome::Failed,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Held(gate) => gate.to_string(),
            Self::Failed(message) => message.clone(),
        }
    }
}

/// Returns the store position from the journal: the store revision and the number of this node's last write.
pub fn store_position(journal: &Journal) -> (u64, u64) {
    journal.get_readable::<StorePosition>(&()).ok().flatten().unwrap_or_default().into()
}

pub(super) fn remember_store_position(fleet: &Fleet, changes: &mut Changes) {
    changes.set(&StorePosition::from(fleet.known()));
}

/// Returns the slot of a node in a rollout, without a claim.
pub(super) fn slot_of(spec: &RolloutSpec, node: &str) -> SlotRef {
    SlotRef { budget: spec.group.clone(), partition: spec.part(node).to_owned(), claim: None }
}

/// Returns a minimal spec, which is enough to release a slot.
fn spec_of(slot: &SlotRef, book: &BookId, node: &str) -> RolloutSpec {
    RolloutSpec {
        book: book.to_string(),
        group: slot.budget.clone(),
        parts: [(node.to_owned(), slot.partition.clone())].into(),
        waves: 1,
        ..RolloutSpec::default()
    }
}

/// Returns a claim as the rollout knows it.
pub(super) fn known_claim(claim: SlotClaim) -> (SlotState, String, u32) {
    let state = match claim.state {
        ClaimState::Claim => SlotState::Claim,
        ClaimState::Failure => SlotState::Failure,
    };
    (state, claim.run, claim.segment)
}

fn remember_slot(machine: &Machine, fleet: &Fleet, book: &BookId, slot: Option<&SlotRef>) {
    let Some(journal) = &machine.journal else { return };
    if machine.book(book).slot.as_ref() == slot {
        return;
    }
    let mut changes = Changes::default();
    remember_store_position(fleet, &mut changes);
    changes.set_slot(book, slot.cloned());
    if let Err(error) = journal.commit(changes) {
        tracing::warn!(%error, "cannot record the held slot in the journal");
    }
}

/// Returns whether this node holds a slot or waits for one. Such a node does not leave the fleet when it stops.
pub fn holds_slots(journal: &Journal) -> bool {
    journal.all::<BookRecord>().is_ok_and(|books| books.iter().any(|(_, book)| book.slot.is_some()))
}

/// Releases the slots of books that no longer run on this node, after the new revision is applied (P66). Returns whether
/// none of them is left.
pub(super) fn leave_gone_books(pass: &Pass<'_>) -> bool {
    let Some(with) = pass.coordination.filter(|_| !pass.plan) else { return true };
    let mut released = true;
    let books = pass.machine.records::<BookRecord>();
    for (book, slot) in books.into_iter().filter_map(|(book, record)| Some((book, record.slot?))) {
        let mine = pass.view.books.iter().any(|own| book_id(own) == book);
        let coordinated = with.manifest.books.contains_key(&book.to_string());
        if mine && coordinated {
            continue;
        }
        match with.fleet.ask(&spec_of(&slot, &book, &pass.view.node), Request::Leave) {
            Answer::Go => remember_slot(pass.machine, with.fleet, &book, None),
            Answer::Hold(gate) => {
                released = false;
                tracing::warn!(%book, "cannot release a slot; retrying: {gate}");
            }
        }
    }
    released
}

impl BookRun<'_, '_> {
    fn record(&self) -> BookRecord {
        self.pass.machine.book(&book_id(self.book))
    }

    fn remember_progress(&mut self, with: Coordination<'_>, progress: &RunProgress) {
        let mut changes = Changes::default();
        changes.set_progress(&book_id(self.book), progress.clone());
        remember_store_position(with.fleet, &mut changes);
        self.commit(changes, "progress");
    }

    /// Runs the book segment by segment.
    pub(super) fn in_segments(&mut self, with: Coordination<'_>, run: &Run) {
        let mut progress = self.record().progress.unwrap_or_default();
        if progress.run != run.spec.run {
            progress = RunProgress { run: run.spec.run.clone(), ..RunProgress::default() };
        }
        for index in 0..run.segments.len() {
            if self.stopped() || self.makes_way() {
                return;
            }
            let settled = index < progress.done;
            let whole = progress.done == run.segments.len();
            if !self.one_segment(with, run, index, settled, whole) {
                return;
            }
            if !settled {
                progress.done = index + 1;
                self.remember_progress(with, &progress);
            }
        }
        self.leave_what_is_left(with);
        if !progress.completed {
            // Any node that has completed its part helps to end the run: the responsible node may be gone.
            self.vote_again(with, run, progress.done);
            match with.fleet.run_maintenance(&run.spec) {
                Ok(true) => {
                    progress.completed = true;
                    self.remember_progress(with, &progress);
                }
                ended => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "cannot do the maintenance of a run");
                    }
                    self.settled = None;
                    with.fleet.look_again();
                }
            }
        }
    }

    /// Repeats the votes and the results of elected tasks that the store has lost.
    fn vote_again(&self, with: Coordination<'_>, run: &Run, done: usize) {
        for index in 0..done {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if with.fleet.lacks_vote(&run.spec, number) {
                let segment = &run.segments[index];
                if segment.kind == SegmentKind::Elected
                    && let Some(task) = self.book.tasks.get(segment.tasks.start)
                    && let key = book_id(self.book).task(task.id.as_str())
                    && let Some(found) =
                        self.pass.machine.record::<ElectionRecord>(&key).and_then(|known| known.published)
                    && let Err(error) = with.fleet.share(
                        ElectedTask { spec: &run.spec, task: &task.id, definition: &found.definition },
                        &found.clone().into(),
                    )
                {
                    with.fleet.look_soon();
                    tracing::warn!(%error, "cannot republish the result of an elected task; retrying");
                    return;
                }
                // A failed vote is repeated in the next pass.
                let _ = with.fleet.ask(run.spec_of(index), Request::Done(number));
            }
        }
    }

    /// Runs one segment. Returns whether the next one may follow.
    fn one_segment(&mut self, with: Coordination<'_>, run: &Run, index: usize, settled: bool, whole: bool) -> bool {
        let segment = &run.segments[index];
        let spec = run.spec_of(index).clone();
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let elected = segment.kind == SegmentKind::Elected;
        self.begun = self.segment() == Some(SegmentPhase::Changing);
        // A failed removal belongs to the last segment.
        let last = index + 1 == run.segments.len();
        let waits = prune::removal_failed(self.pass, self.book);
        self.stays_out = waits && (last || settled);
        self.fresh = !settled;
        let want = if settled || elected { Request::Correct } else { Request::Change(number) };
        self.in_segment = Some(InSegment { spec: spec.clone(), want, held: false });
        let book = std::sync::Arc::clone(self.book);
        let tasks: Vec<&Task> = book.tasks[segment.tasks.clone()].iter().collect();
        let entered = if settled { Answer::Go } else { with.fleet.ask(&spec, Request::Enter(number)) };
        if !settled {
            self.vote_again(with, run, index);
        }
        if let Answer::Hold(gate) = entered {
            // A node without changes need not wait for its wave (P47).
            let early = gate.reason == "Wave" && self.segment().is_none() && !elected && !self.changes_any(&tasks);
            if !early {
                self.hold(gate);
                return false;
            }
        }
        if let (true, Some(task)) = (elected, tasks.first()) {
            self.elected(with, &spec, task, settled);
        } else {
            self.tasks_of(&tasks);
        }
        if settled && !whole {
            // Pending handlers and the held slot belong to the interrupted segment, so only the batch is carried out
            // here.
            self.flush();
        } else {
            self.end_of_segment();
        }
        if self.interrupted || self.gate.is_some() {
            return false;
        }
        if waits && !self.stopped && (last || whole) {
            // A node with a failed removal does not complete the last segment and does not release its slot.
            self.settled = None;
            return !last;
        }
        let failed = self.stopped;
        let outcome = match (failed, settled) {
            // A failed correction of content holds no slot, so it does not count as a failure of the run.
            (true, _) if self.any_failed() && (!settled || self.holds()) => {
                with.fleet.describe_failure(&self.book.id(), &towpath_git::without_secrets(&self.failure_message()));
                with.fleet.ask(&spec, Request::Failed(number))
            }
            (true, _) => return false,
            (false, false) => with.fleet.ask(&spec, Request::Done(number)),
            (false, true) if self.holds() && whole => with.fleet.ask(&spec, Request::Leave),
            (false, true) => Answer::Go,
        };
        if let Answer::Hold(gate) = outcome {
            self.hold(gate);
            return false;
        }
        // Otherwise nothing was released here. A slot of an earlier pass is released after all segments.
        if !settled || whole && self.holds() {
            self.gave_back(with, run, &spec, failed.then_some(number));
        }
        !failed
    }

    /// Releases a slot that is left from an earlier pass, after all segments are completed without a failure.
    fn leave_what_is_left(&mut self, with: Coordination<'_>) {
        let id = book_id(self.book);
        let Some(slot) = self.record().slot else { return };
        if !self.any_failed()
            && with.fleet.ask(&spec_of(&slot, &id, &self.pass.view.node), Request::Leave) == Answer::Go
        {
            remember_slot(self.pass.machine, with.fleet, &id, None);
        } else {
            // In the steady state the node would not try again.
            self.settled = None;
        }
    }

    /// Records that the slot was released or has become a failure. A slot of an earlier revision in another budget is
    /// released, too.
    pub(super) fn gave_back(&self, with: Coordination<'_>, run: &Run, spec: &RolloutSpec, failed: Option<u32>) {
        let id = book_id(self.book);
        let node = &self.pass.view.node;
        let now = failed.map(|segment| SlotRef {
            claim: Some(SlotClaim { state: ClaimState::Failure, run: spec.run.clone(), segment }),
            ..slot_of(spec, node)
        });
        let Some(slot) = self.record().slot else {
            if now.is_some() {
                remember_slot(self.pass.machine, with.fleet, &id, now.as_ref());
            }
            return;
        };
        let of_run = (0..run.segments.len()).any(|index| slot.is_in(&slot_of(run.spec_of(index), node)));
        if !of_run && with.fleet.ask(&spec_of(&slot, &id, node), Request::Leave) != Answer::Go {
            return;
        }
        remember_slot(self.pass.machine, with.fleet, &id, now.as_ref());
    }

    /// Returns the messages of the failed tasks, which other nodes show.
    fn failure_message(&self) -> String {
        let failed = self.tasks.iter().filter(|task| task.outcome == Outcome::Failed);
        let message =
            |task: &super::TaskOutcome| format!("{}: {}", task.name, task.message.as_deref().unwrap_or_default());
        failed.map(message).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn any_failed(&self) -> bool {
        self.tasks.iter().any(|task| task.outcome == Outcome::Failed)
    }

    fn holds(&self) -> bool {
        self.in_segment.as_ref().is_some_and(|part| part.held)
    }

    /// Holds the book at a gate.
    pub(super) fn hold(&mut self, gate: Gate) {
        self.settled = None;
        self.stopped = true;
        self.complete = false;
        self.gate = Some(gate);
    }

    /// Checks that changes may begin, or that begun changes may be completed outside of the window.
    pub(super) fn within_window(&mut self) -> Result<(), NotBegun> {
        let begun = self.in_window || self.segment().is_some();
        if begun && self.pass.windows.finish() {
            return Ok(());
        }
        match self.pass.windows.open(self.pass.machine.clock.wall()) {
            Ok(()) => {
                self.in_window = true;
                Ok(())
            }
            Err(gate) => {
                self.hold(gate.clone());
                Err(NotBegun::Held(gate))
            }
        }
    }

    /// Acquires the slot of this segment before the first change. A held slot is checked again if the lease may have
    /// expired, as the slot may have been written off (P48).
    pub(super) fn take_slot(&mut self) -> Result<(), NotBegun> {
        let (Some(with), Some(part)) = (self.pass.coordination, self.in_segment.clone()) else { return Ok(()) };
        if part.held && !with.fleet.lease_may_be_gone() {
            return Ok(());
        }
        if part.spec.count.is_some() {
            // A position in the queue is recorded, too: it must be released if the book is removed.
            if self.record().slot.is_none() {
                let slot = slot_of(&part.spec, &self.pass.view.node);
                remember_slot(self.pass.machine, with.fleet, &book_id(self.book), Some(&slot));
            }
        }
        match with.fleet.ask(&part.spec, part.want) {
            Answer::Go => {
                if part.spec.count.is_some() {
                    let (run, segment) = match part.want {
                        Request::Change(segment) => (part.spec.run.clone(), segment),
                        _ => (drift_of(&part.spec.book), 0),
                    };
                    self.remember_claim(with, &part.spec, run, segment);
                }
                self.in_segment = Some(InSegment { held: true, ..part });
                Ok(())
            }
            Answer::Hold(gate) => {
                self.hold(gate.clone());
                Err(NotBegun::Held(gate))
            }
        }
    }

    fn remember_claim(&self, with: Coordination<'_>, spec: &RolloutSpec, run: String, segment: u32) {
        let claim = Some(SlotClaim { state: ClaimState::Claim, run, segment });
        let slot = SlotRef { claim, ..slot_of(spec, &self.pass.view.node) };
        remember_slot(self.pass.machine, with.fleet, &book_id(self.book), Some(&slot));
    }

    /// Announces that this node will be absent for a while, with the slot that it holds (P59).
    pub(super) fn goes_away(&mut self, timeout: std::time::Duration) -> Result<(), Gate> {
        let (Some(with), Some(part)) = (self.pass.coordination, self.in_segment.clone()) else { return Ok(()) };
        let segment = if let Request::Change(segment) = part.want { segment } else { 0 };
        match with.fleet.ask(&part.spec, Request::Absent(segment, timeout.as_secs().max(1))) {
            Answer::Go => {
                // A run without slots gets one for the absence, which must be released later.
                self.remember_claim(with, &part.spec, part.spec.run.clone(), segment);
                Ok(())
            }
            Answer::Hold(gate) => Err(gate),
        }
    }

    /// Returns whether any of these tasks would change something, or cannot be checked without a change.
    fn changes_any(&self, tasks: &[&Task]) -> bool {
        let names: Vec<&str> = tasks.iter().map(|task| task.id.as_str()).collect();
        let unknown = tasks.iter().any(|task| matches!(self.renderer.items(task), Ok(Rendered::Wants(_)) | Err(_)));
        unknown || self.would_change_any(&names)
    }
}
