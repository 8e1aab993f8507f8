//! A removal under the rollout of its book: in a slot, in its wave, within its window, between what frames a change.

use std::sync::Arc;

use towpath_coordination::{fleet::Answer, rollout::Want};
use towpath_render::{objects::task::Book, rendering::Renderer};

use super::{
    Pass,
    book::{BookRun, Owners},
    coordinated::{Coordination, InStretch, NotBegun, PROGRESS, Progress},
    gates,
    outcome::TaskOutcome,
};
use crate::reconcile::runs::Run;

/// Does some work of a book that its tasks do not name; gives what came of what frames it, too. A book that asks for
/// nothing of that has it done at once.
pub(super) fn framed<T>(
    pass: &Pass<'_>,
    book: &Arc<Book>,
    work: impl FnOnce() -> T,
) -> (Result<T, NotBegun>, Vec<TaskOutcome>) {
    let run = pass.coordination.and_then(|with| Some((with, Run::of(pass.set, pass.generation, with.table, book)?)));
    if run.is_none() && book.rollout.before.is_empty() && book.rollout.after.is_empty() {
        return (Ok(work()), Vec::new());
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
    let done = of_book.framed(run.as_ref(), work);
    (done, of_book.tasks)
}

impl BookRun<'_, '_> {
    fn framed<T>(&mut self, run: Option<&(Coordination<'_>, Run)>, work: impl FnOnce() -> T) -> Result<T, NotBegun> {
        self.begun = self.stretch() == Some(true);
        if let Some((with, run)) = run {
            let last = run.stretches.len().saturating_sub(1);
            let spec = run.spec_of(last);
            let progress: Progress =
                self.pass.machine.record(&format!("{PROGRESS}{}", self.book.id())).unwrap_or_default();
            let through = progress.run == run.spec.run && progress.through;
            let stretch = u32::try_from(last).unwrap_or(u32::MAX);
            if !through && let Answer::Hold(gate) = with.fleet.ask(spec, Want::Enter(stretch)) {
                return Err(NotBegun::Held(gate));
            }
            self.in_stretch = Some(InStretch::correcting(spec.clone()));
        }
        self.begin_stretch()?;
        let done = work();
        self.after();
        if let Some((with, run)) = run
            && let Some(spec) = self.in_stretch.as_ref().map(|part| part.spec.clone())
            && self.holds()
            && !self.any_failed()
            && with.fleet.ask(&spec, Want::Leave) == Answer::Go
        {
            self.gave_back(*with, run, &spec, None);
        }
        Ok(done)
    }
}
