//! The admission of changes: suspensions, dependencies, windows, waves, slots and barriers. Only this file creates a
//! [`Permit`], the proof that a change was admitted.

use std::sync::Mutex;

use towpath_coordination::{Gate, GateReason, Gates, Suspension, fleet, rollout::Request};
use towpath_host::FsWriter;
use towpath_reconcile::{
    command::{Admit, Answer, SlotUse},
    plan::assess::Admission,
};
use towpath_render::objects::task::Book;

use super::{
    execute::lock,
    pass::{Coordination, PassContext},
    runs::Run,
};

/// The proof that the agent is allowed to make a change now. A change consumes its permit, and only a permit gives
/// access to the file writer.
#[derive(Debug)]
#[must_use = "a permit must be passed to the code that makes the change"]
pub(crate) struct Permit<'a>(&'a FsWriter);

impl<'a> Permit<'a> {
    /// Returns the permit for the cleanup after a crash. The cleanup runs before the first pass. The interrupted change
    /// was admitted before the crash, so it needs no new admission.
    pub(crate) fn after_a_crash(writer: &'a FsWriter) -> Self {
        Self(writer)
    }

    /// Returns the writer of the managed files.
    pub(super) fn writer(self) -> &'a FsWriter {
        self.0
    }
}

/// The rollout of a TaskBook on this node.
pub(super) struct BookRollout<'a> {
    pub(super) coordination: Coordination<'a>,
    pub(super) run: Run,
}

/// The admission of changes of one TaskBook. The TaskBook is not suspended, and its dependencies are completed.
pub(super) struct AdmissionControl<'a> {
    pass: &'a PassContext<'a>,
    writer: &'a FsWriter,
    rollout: Option<BookRollout<'a>>,
    admitted: Mutex<Admitted>,
}

/// The current admission of a TaskBook: its admitted changes, and the slot that the node holds.
#[derive(Debug, Default)]
struct Admitted {
    /// True if the changes of the active segment are admitted.
    changes: bool,
    /// The segment for which the node holds a slot, and the purpose of the slot.
    slot: Option<(u32, SlotUse)>,
}

impl Admitted {
    /// Begins another segment. The node remembers the slot, because a correction in the next segment may use the slot.
    fn enter(&mut self) {
        self.changes = false;
    }

    /// Returns true if a change is permitted now.
    fn permits(&self, needs: Admission) -> bool {
        needs == Admission::Free || self.changes
    }
}

impl<'a> AdmissionControl<'a> {
    pub(super) fn new(pass: &'a PassContext<'a>, writer: &'a FsWriter, rollout: Option<BookRollout<'a>>) -> Self {
        Self { pass, writer, rollout, admitted: Mutex::default() }
    }

    /// Returns the rollout of the TaskBook. Returns `None` for a TaskBook without coordination.
    pub(super) fn rollout(&self) -> Option<&BookRollout<'a>> {
        self.rollout.as_ref()
    }

    /// Enters a segment, if the wave of the node and the barrier before the segment are open. The changes of an earlier
    /// segment are no longer admitted.
    pub(super) fn enter(&self, segment: u32) -> Answer {
        lock(&self.admitted).enter();
        self.ask(segment, Request::Enter(segment))
    }

    /// Admits changes if the maintenance window is open and the node acquires a slot. If the node's lease may have
    /// expired, the node checks a held slot again (P48). After the lease has expired, other nodes may have written off
    /// the slot.
    pub(super) fn admit(&self, admit: Admit) -> Answer {
        let windows = &self.pass.windows;
        if !(admit.began && windows.finish())
            && let Err(gate) = windows.open(self.pass.machine.clock.wall())
        {
            return Answer::Hold(gate);
        }
        let answer = self.slot(admit);
        if matches!(answer, Answer::Go) {
            lock(&self.admitted).changes = true;
        }
        answer
    }

    /// Acquires the slot for changes. A TaskBook without a rollout needs no slot, so its changes are admitted.
    fn slot(&self, admit: Admit) -> Answer {
        let (Some(rollout), Some(segment)) = (&self.rollout, admit.segment) else { return Answer::Go };
        let is_held = lock(&self.admitted).slot == Some((segment, admit.slot));
        if is_held && !rollout.coordination.fleet.lease_may_be_gone() {
            return Answer::Go;
        }
        let request = match admit.slot {
            SlotUse::Change(number) => Request::Change(number),
            SlotUse::Correct => Request::Correct,
        };
        let answer = self.ask(segment, request);
        if matches!(answer, Answer::Go) {
            lock(&self.admitted).slot = Some((segment, admit.slot));
        }
        answer
    }

    /// Ends the admission, because the segment was completed or has failed, or because the node no longer holds a slot.
    pub(super) fn end(&self) {
        *lock(&self.admitted) = Admitted::default();
    }

    /// Records that the node no longer holds a slot. The next admission asks for a new slot.
    pub(super) fn forget_slot(&self) {
        lock(&self.admitted).slot = None;
    }

    /// Sends a request about a segment to the fleet. A TaskBook without a rollout needs no permission of the fleet, so
    /// each request is granted.
    pub(super) fn ask(&self, segment: u32, request: Request) -> Answer {
        let Some(BookRollout { coordination, run }) = &self.rollout else { return Answer::Go };
        let segment = usize::try_from(segment).unwrap_or(usize::MAX);
        match coordination.fleet.ask(run.spec_of(segment), request) {
            fleet::Answer::Go => Answer::Go,
            fleet::Answer::Hold(gate) => Answer::Hold(gate),
        }
    }

    /// Returns the permit for a change.
    ///
    /// # Errors
    /// Fails if the change needs admission, and the gates have not admitted the changes of the segment.
    pub(super) fn permit(&self, needs: Admission) -> Result<Permit<'a>, String> {
        match lock(&self.admitted).permits(needs) {
            true => Ok(Permit(self.writer)),
            false => Err(NOT_ADMITTED.to_owned()),
        }
    }
}

/// The error message for a change that was not admitted. The change is not made.
const NOT_ADMITTED: &str =
    "internal error: the change was not admitted, so it was not made; please report this error with the log";

/// Returns the closed gates of a TaskBook: suspensions and dependencies. `dependencies` lists the required TaskBooks
/// that this node has not completed yet.
pub(super) fn closed(pass: &PassContext<'_>, book: &Book, dependencies: Vec<String>) -> Vec<Gate> {
    let now = pass.machine.clock.wall() / 1000;
    let suspended = book.suspend.iter().chain(&pass.suspended).map(|suspend| {
        let until = suspend.until.clone().unwrap_or_default();
        let ends = epoch(&until);
        Suspension { reason: suspend.reason.clone().unwrap_or_default(), until, ends }
    });
    Gates { suspended: suspended.collect(), now, dependencies, found: runs_to_wait_for(pass, book) }.closed()
}

/// Returns a closed gate for each dependency that is not yet completed on all nodes (P87).
fn runs_to_wait_for(pass: &PassContext<'_>, book: &Book) -> Vec<Gate> {
    let Some(coordination) = pass.coordination else { return Vec::new() };
    let mut closed = Vec::new();
    for dependency in book.depends_on.iter().filter(|dependency| dependency.fleet) {
        let id = format!("{}/{}", book.namespace, dependency.book);
        let Some(entry) = coordination.manifest.books.get(&id) else { continue };
        match coordination.fleet.progress(&id) {
            Ok(Some(progress)) if progress.run == entry.run(&id) && progress.done => {}
            Ok(_) => closed.push(Gate::new(
                GateReason::Dependency,
                format!("waiting for book {id} on all nodes; continues when its rollout is done"),
            )),
            Err(error) => {
                coordination.fleet.look_soon();
                closed.push(Gate::unreachable(&error));
                break;
            }
        }
    }
    closed
}

/// Parses an RFC 3339 time into Unix seconds. An unreadable time counts as the far future, so that a suspension does
/// not end early.
fn epoch(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(i64::MAX, |time| time.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_without_a_slot_is_permitted_before_the_admission() {
        let admitted = Admitted::default();
        assert!(admitted.permits(Admission::Free));
        assert!(!admitted.permits(Admission::SlotAndWindow));
    }

    #[test]
    fn admission_does_not_cover_the_next_segment_but_the_slot_stays_known() {
        let mut admitted = Admitted { changes: true, slot: Some((1, SlotUse::Correct)) };
        assert!(admitted.permits(Admission::SlotAndWindow));
        admitted.enter();
        assert!(!admitted.permits(Admission::SlotAndWindow));
        assert_eq!(admitted.slot, Some((1, SlotUse::Correct)));
    }
}
