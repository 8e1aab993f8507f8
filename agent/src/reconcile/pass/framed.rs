//! Removals within the rollout of their book: in its wave, slot and window, between its `before` and `after`
//! tasks (P91).

use std::sync::Arc;

use towpath_coordination::{fleet::Answer, rollout::Request};
use towpath_render::{objects::task::Book, rendering::Renderer};
use towpath_state::SegmentPhase;

use super::{
    Pass,
    book::{BookRun, Owners},
    book_id,
    coordinated::{Coordination, InSegment, NotBegun},
    gates,
    outcome::TaskOutcome,
};
use crate::reconcile::runs::Run;

/// Runs work within the rollout of a book, although it is not a task of the book. The work returns its result, and
/// whether it failed. Returns that result, and the outcomes of the tasks around it. A book without a rollout runs the
/// work at once. With `begins` unset, the node only ends what it began, and does not ask to enter.
pub(super) fn framed<T>(
    pass: &Pass<'_>,
    book: &Arc<Book>,
    begins: bool,
    work: impl FnOnce() -> (T, bool),
) -> (Result<T, NotBegun>, Vec<TaskOutcome>) {
    let run = pass.coordination.and_then(|with| Some((with, Run::of(pass.set, pass.generation, with.manifest, book)?)));
    if run.is_none() && book.rollout.before.is_empty() && book.rollout.after.is_empty() {
        return (Ok(work().0), Vec::new());
    }
    let permit = match gates::of(pass, book, Vec::new()).pass() {
        Ok(permit) => permit,
        Err(closed) => {
            let held = || NotBegun::Failed("the book is held".into());
            return (Err(closed.into_iter().next().map_or_else(held, NotBegun::Held)), Vec::new());
        }
    };
    let renderer = match Renderer::new(pass.set, pass.view, book, &pass.inputs) {
        Ok(renderer) => renderer,
        Err(error) => return (Err(NotBegun::Failed(error.to_string())), Vec::new()),
    };
    let owners = Owners::default();
    let mut of_book = BookRun::new(pass, book, Arc::new(renderer), &permit, &owners);
    let done = of_book.framed(run.as_ref(), begins, work);
    (done, of_book.tasks)
}

impl BookRun<'_, '_> {
    fn framed<T>(
        &mut self,
        run: Option<&(Coordination<'_>, Run)>,
        begins: bool,
        work: impl FnOnce() -> (T, bool),
    ) -> Result<T, NotBegun> {
        self.begun = self.segment() == Some(SegmentPhase::Changing);
        if let Some((with, run)) = run {
            let last = run.segments.len().saturating_sub(1);
            let spec = run.spec_of(last);
            let progress = self.pass.machine.book(&book_id(self.book)).progress;
            let completed = progress.is_some_and(|progress| progress.run == run.spec.run && progress.completed);
            let segment = u32::try_from(last).unwrap_or(u32::MAX);
            if begins
                && !completed
                && let Answer::Hold(gate) = with.fleet.ask(spec, Request::Enter(segment))
            {
                return Err(NotBegun::Held(gate));
            }
            self.in_segment = Some(InSegment::correcting(spec.clone()));
        }
        if begins || self.segment().is_some() {
            self.begin_segment()?;
        }
        let (done, mut failed) = work();
        // A failed node does not run `after`, so it stays out of service. It counts as a failure of the run.
        if !failed {
            self.after();
            failed = self.any_failed();
        }
        if let Some((with, run)) = run
            && let Some(part) = self.in_segment.clone().filter(|part| part.held)
        {
            let last = u32::try_from(run.segments.len().saturating_sub(1)).unwrap_or(u32::MAX);
            let want = if failed { Request::Failed(last) } else { Request::Leave };
            if with.fleet.ask(&part.spec, want) == Answer::Go {
                self.gave_back(*with, run, &part.spec, failed.then_some(last));
            }
        }
        Ok(done)
    }
}
