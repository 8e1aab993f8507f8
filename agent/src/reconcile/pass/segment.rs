//! Begin and end of a segment on this node: the `before` tasks, the handlers and the `after` tasks (P45).

use std::{collections::BTreeMap, sync::Arc};

use towpath_host::journal::{Changes, HandlerRecord, Intent, Phase};
use towpath_render::{objects::task::Task, rendering::Item};

use super::{
    book::BookRun,
    coordinated::NotBegun,
    outcome::{Outcome, TaskOutcome},
};

impl BookRun<'_, '_> {
    /// Returns whether the `before` tasks of the current segment have succeeded. `None` if no segment with such tasks
    /// has begun.
    pub(super) fn segment(&self) -> Option<bool> {
        self.pass.machine.record(&format!("segment/{}", self.book.id()))
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
        let key = format!("segment/{}", self.book.id());
        let mut changes = Changes::default();
        changes.put(key.clone(), &false);
        self.commit(changes, "before");
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
        let mut changes = Changes::default();
        changes.put(key, &true);
        self.commit(changes, "before");
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
        let mut changes = Changes::default();
        changes.delete(format!("segment/{}", self.book.id()));
        self.commit(changes, "after");
    }

    /// Returns the prefix of the journal keys of notified handlers.
    pub(super) fn handlers_key(&self) -> String {
        format!("handler/{}/", self.book.id())
    }

    /// Runs the notified handlers in the order of the book, and then those that the book no longer contains.
    pub(super) fn handlers(&mut self) {
        let prefix = self.handlers_key();
        let pending: BTreeMap<String, HandlerRecord> = self.pass.machine.records(&prefix).into_iter().collect();
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
            self.handled(&prefix, &handler.id, outcome);
        }
        for (id, record) in pending.iter().filter(|(id, _)| !book.handlers.iter().any(|handler| handler.id == **id)) {
            let outcome = self.old_handler(id, record);
            self.handled(&prefix, id, outcome);
        }
    }

    fn handled(&mut self, prefix: &str, id: &str, outcome: TaskOutcome) {
        let failed = outcome.outcome == Outcome::Failed;
        self.push(outcome);
        let mut changes = Changes::default();
        changes.put("intent", &Intent { phase: Phase::Idle, book: self.book.id(), paths: Vec::new() });
        if failed {
            self.stopped = true;
        } else {
            changes.delete(format!("{prefix}{id}"));
        }
        self.commit(changes, id);
    }
}
