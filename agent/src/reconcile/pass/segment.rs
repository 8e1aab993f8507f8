//! Begin and end of a segment on this node: the `before` tasks, the handlers and the `after` tasks (P45).

use std::{collections::BTreeMap, sync::Arc};

use towpath_render::{objects::task::Task, rendering::Item};
use towpath_state::{Changes, HandlerRecord, Intent, SegmentPhase, kinds};

use super::{
    book::BookRun,
    book_id,
    coordinated::NotBegun,
    outcome::{Origin, Outcome, TaskOutcome},
};

impl BookRun<'_, '_> {
    /// Returns the phase of the current segment. `None` if no segment with `before` or `after` tasks has begun.
    pub(super) fn segment(&self) -> Option<SegmentPhase> {
        self.pass.machine.book(&book_id(self.book)).segment
    }

    fn set_segment(&mut self, phase: Option<SegmentPhase>, what: &str) {
        let mut changes = Changes::default();
        changes.set_segment(&book_id(self.book), phase);
        self.commit(changes, what);
    }

    /// Ends a task whose segment cannot begin. Later tasks do not run either.
    pub(super) fn not_begun(&mut self, task: &Task, item: Option<Item>, planned: TaskOutcome, why: &NotBegun) {
        self.stopped = true;
        let outcome = TaskOutcome { outcome: why.outcome(), message: Some(why.message()), ..planned };
        self.finish(task, item, outcome, None);
    }

    /// Begins a segment: checks the window, acquires the slot and runs the `before` tasks. Interrupted or failed tasks
    /// run again in the next pass.
    pub(super) fn begin_segment(&mut self) -> Result<(), NotBegun> {
        self.within_window()?;
        self.take_slot()?;
        if self.begun || self.book.rollout.before.is_empty() && self.book.rollout.after.is_empty() {
            self.begun = true;
            return Ok(());
        }
        self.set_segment(Some(SegmentPhase::Preparing), "before");
        let book = Arc::clone(self.book);
        for task in &book.rollout.before {
            let outcome = self.always(task);
            let failed = outcome.outcome == Outcome::Failed;
            self.push(outcome);
            if failed && !task.go_on {
                self.stopped = true;
                return Err(NotBegun::Failed(format!("{:?} before the first change failed", task.id)));
            }
        }
        self.set_segment(Some(SegmentPhase::Changing), "before");
        self.begun = true;
        Ok(())
    }

    /// Runs the `after` tasks, if this segment has begun.
    pub(super) fn after(&mut self) {
        if self.book.rollout.before.is_empty() && self.book.rollout.after.is_empty() || self.segment().is_none() {
            return;
        }
        // A segment that was interrupted in its `before` tasks runs them again here, so that `after` can revert them.
        if self.begin_segment().is_err() {
            return;
        }
        let book = Arc::clone(self.book);
        for task in &book.rollout.after {
            let outcome = self.always(task);
            let failed = outcome.outcome == Outcome::Failed;
            self.push(outcome);
            if failed && !task.go_on {
                self.stopped = true;
                return;
            }
        }
        self.set_segment(None, "after");
    }

    /// Returns the notified handlers of the book.
    pub(super) fn pending_handlers(&self) -> BTreeMap<String, HandlerRecord> {
        self.pass.machine.records_of(&book_id(self.book)).into_iter().collect()
    }

    /// Runs the notified handlers in the order of the book, and then those that the book no longer contains.
    pub(super) fn handlers(&mut self) {
        let pending = self.pending_handlers();
        if pending.is_empty() {
            return;
        }
        if let Err(why) = self.begin_segment() {
            self.push(TaskOutcome::new("handlers".into(), "handler", why.outcome()).say(why.message()));
            self.stopped = true;
            return;
        }
        let book = Arc::clone(self.book);
        for handler in book.handlers.iter().filter(|handler| pending.contains_key(&handler.id)) {
            let outcome = self.always(handler);
            self.handled(&handler.id, outcome);
        }
        for (id, record) in pending.iter().filter(|(id, _)| !book.handlers.iter().any(|handler| handler.id == **id)) {
            let outcome = self.old_handler(id, record);
            self.handled(id, outcome);
        }
    }

    fn handled(&mut self, id: &str, outcome: TaskOutcome) {
        let outcome = TaskOutcome { origin: Origin::Handler, ..outcome };
        let failed = outcome.outcome == Outcome::Failed;
        self.push(outcome);
        let mut changes = Changes::default();
        changes.set(&Intent::idle(self.book.id()));
        if failed {
            self.stopped = true;
        } else {
            changes.delete::<kinds::Handler>(&book_id(self.book).task(id));
        }
        self.commit(changes, id);
    }
}
