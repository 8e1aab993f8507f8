//! Transactions of adjacent direct changes, such as packages.

use std::collections::BTreeSet;

use serde_json::Value;
use towpath_modules::{Checked, Context, Resource, apply_batch};
use towpath_state::{Changes, HandlerRecord, Managed, Phase, kinds};

use super::{
    book::{BookRun, module},
    book_id,
    effects::Effect,
    instance,
    outcome::{Outcome, TaskOutcome},
};

impl BookRun<'_, '_> {
    /// Carries out the direct changes that wait for a common transaction.
    pub(super) fn flush_together(&mut self) {
        let mut effects = std::mem::take(&mut self.together);
        if effects.is_empty() {
            return;
        }
        if self.interrupted || !self.stopped && self.makes_way() {
            // The run is preempted, or the agent stops. Changes that have not begun are dropped.
            self.stopped = true;
            let pending = self.pending_names();
            return self.never_ran(effects, &pending);
        }
        if let Err(why) = self.begin_segment() {
            self.complete = false;
            self.stopped = true;
            for effect in effects.iter().filter_map(|effect| Some((effect.place?, &effect.task.id))) {
                self.tasks[effect.0].outcome = why.outcome();
                self.tasks[effect.0].message = Some(why.message());
                self.reached.insert(effect.1.clone(), true);
            }
            return;
        }
        let pending = self.pending_names();
        let mut before = Changes::default();
        for effect in &mut effects {
            before.append(self.foresee(effect));
        }
        if let Err(error) = self.intend_with(Phase::Action, None, before) {
            for effect in effects {
                effect.foreseen.iter().for_each(|key| self.pass.machine.set_applied(key, None));
                self.not_done(effect, error.message.clone());
            }
            return;
        }
        if effects.len() == 1 {
            return effects.into_iter().for_each(|effect| self.carry_out(effect, None));
        }
        self.as_one(effects, pending);
    }

    fn pending_names(&self) -> BTreeSet<String> {
        self.pending_handlers().into_keys().collect()
    }

    /// Carries out several changes in one transaction. If that fails, carries them out one by one in the remaining
    /// time.
    fn as_one(&mut self, effects: Vec<Effect>, pending: BTreeSet<String>) {
        let (machine, begun) = (self.pass.machine, self.pass.machine.clock.monotonic());
        let time = effects.iter().map(|effect| effect.task.timeout).max().unwrap_or_default();
        let done = {
            let book = self.book.id();
            let begin = |effect: &Effect| machine.memory.activity.begin(&book, &effect.task.id, begun);
            let _work: Vec<_> = effects.iter().map(begin).collect();
            let context = instance::context(machine, &self.renderer, &effects[0].task, self.pass.cancel);
            let uses: Vec<&dyn Resource> = effects.iter().map(|effect| &*effect.ready.options).collect();
            apply_batch(&uses, &Context { timeout: time, ..context })
        };
        let Err(error) = done else {
            for effect in effects {
                let outcome = TaskOutcome::new(effect.name.clone(), module(&effect.task), Outcome::Changed);
                self.done(effect, outcome, None);
            }
            return;
        };
        tracing::info!(book = self.book.id(), "adjacent tasks are carried out one by one: {error}");
        let (mut never, mut ran, mut ended) = (Vec::new(), pending, false);
        for effect in effects {
            let (place, goes_on) = (effect.place, effect.task.go_on);
            let left = time.saturating_sub(begun.elapsed());
            if ended || self.makes_way() {
                // Tasks after a failed one do not run. The transaction may have completed them, though.
                self.stopped = true;
                if !self.is_done(&effect) {
                    never.push(effect);
                    continue;
                }
                let outcome = TaskOutcome::new(effect.name.clone(), module(&effect.task), Outcome::Changed);
                ran.extend(effect.task.notify.iter().cloned());
                self.done(effect, outcome, None);
                continue;
            }
            ran.extend(effect.task.notify.iter().cloned());
            if left < time / 4 {
                self.not_done(effect, error.message.clone());
            } else {
                let time = effect.task.timeout.min(left);
                self.carry_out(effect, Some(time));
            }
            let failed = place.is_some_and(|place| self.tasks[place].outcome == Outcome::Failed);
            ended = failed && !goes_on;
        }
        self.never_ran(never, &ran);
    }

    fn is_done(&self, effect: &Effect) -> bool {
        let context = instance::context(self.pass.machine, &self.renderer, &effect.task, self.pass.cancel);
        matches!(effect.ready.options.check(&context), Ok(Checked::InSync))
    }

    /// Drops changes that were recorded in advance and did not run. Their outcomes, undo and notifications are removed.
    /// A notification stays if another task has notified the same handler.
    fn never_ran(&mut self, effects: Vec<Effect>, notified: &BTreeSet<String>) {
        if effects.is_empty() {
            return;
        }
        self.complete = false;
        let names: BTreeSet<String> = effects.iter().map(|effect| effect.name.clone()).collect();
        let mut changes = Changes::default();
        for effect in effects.into_iter().rev() {
            for key in self.did_not_come(&effect) {
                changes.delete::<kinds::Applied>(&key);
                self.pass.machine.set_applied(&key, None);
            }
            for handler in effect.task.notify.iter().filter(|handler| !notified.contains(*handler)) {
                let key = book_id(self.book).task(handler);
                let record: Option<HandlerRecord> = self.pass.machine.record(&key);
                // A concurrent task may have notified the handler meanwhile.
                if record.is_some_and(|record| record.by.is_subset(&names)) {
                    changes.delete::<kinds::Handler>(&key);
                }
            }
            if let Some(place) = effect.place {
                self.tasks.remove(place);
            }
        }
        self.commit_changes(changes);
    }

    /// Returns the undo keys of items that do not exist. Existing items keep their undo, so that they can be pruned
    /// later.
    fn did_not_come(&self, effect: &Effect) -> Vec<Managed> {
        let context = instance::context(self.pass.machine, &self.renderer, &effect.task, self.pass.cancel);
        let undo = effect.ready.options.undo(&context);
        let missing = undo.as_ref().and_then(|undo| undo.get("names")?.as_array().cloned()).unwrap_or_default();
        let module = effect.ready.options.name();
        let keys = missing.iter().filter_map(Value::as_str);
        let keys = keys.map(|name| Managed { module: module.to_owned(), identity: name.to_owned() });
        keys.filter(|key| effect.foreseen.contains(key)).collect()
    }
}
