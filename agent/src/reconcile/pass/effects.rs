//! State tasks that change the node through a tool or daemon: packages, services, accounts. Each is carried out alone,
//! unless it can join a transaction with adjacent tasks.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use towpath_modules::{Checked, Context};
use towpath_render::{
    objects::task::{Drift, Task, auto_handler},
    rendering::Item,
};
use towpath_state::{AppliedItem, Changes, Intent, Managed, Phase, kinds};

use super::{
    Settled,
    book::{BookRun, module},
    book_id,
    instance::{self, Ready},
    outcome::{Origin, Outcome, TaskOutcome},
    states::Cause,
};

/// A change made by a tool or daemon, with the state before it.
pub(super) struct Effect {
    pub(super) task: Task,
    pub(super) item: Option<Item>,
    pub(super) ready: Ready,
    pub(super) name: String,
    pub(super) begun: Instant,
    /// The outcome that the check predicts.
    pub(super) planned: TaskOutcome,
    /// The key of the item.
    key: Managed,
    /// The record of the applied item.
    applied: AppliedItem,
    /// True if the item was not recorded before.
    first: bool,
    /// The items that were recorded in advance, and did not exist before.
    pub(super) foreseen: Vec<Managed>,
    /// The position of the outcome in `tasks`, if the change waits for a transaction.
    pub(super) place: Option<usize>,
}

impl Effect {
    /// Returns whether the task neither evaluates nor publishes its own result, so that it can wait for a transaction.
    fn is_plain(&self) -> bool {
        let task = &self.task;
        let judged = task.success.is_some() || task.changed.is_some() || task.until.is_some();
        !judged && task.register.is_none() && task.elect.is_none()
    }
}

impl BookRun<'_, '_> {
    /// Checks such a task, and carries out its change.
    pub(super) fn effect(&mut self, task: &Task, item: Option<Item>, ready: Ready, name: String, begun: Instant) {
        // Files that the change depends on may wait in the batch.
        self.flush_files();
        if self.stopped() {
            return;
        }
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let checked = match ready.options.check(&context) {
            Ok(checked) => checked,
            Err(error) => return self.failed(task, item, error.message),
        };
        let key = ready.managed();
        let known = self.pass.machine.applied(&key);
        let undo = known.as_ref().and_then(|known| known.undo.clone());
        let applied = AppliedItem { definition: ready.definition.clone(), generation: self.pass.generation, undo };
        match checked {
            Checked::InSync | Checked::InSyncWithData(_) => {
                if known.is_none_or(|known| known.definition != applied.definition) && !self.pass.plan {
                    self.adopted.put(&key, &applied);
                    self.pass.machine.set_applied(&key, Some(applied));
                }
                let outcome =
                    TaskOutcome { took: begun.elapsed(), ..TaskOutcome::new(name, module(task), Outcome::Unchanged) };
                let data = match checked {
                    Checked::InSyncWithData(data) => Some(data),
                    _ => None,
                };
                if data.is_some() && task.register.is_some() {
                    // The registered data may differ the next time.
                    self.settled = None;
                }
                if let Some(settled) = &mut self.settled {
                    let source = context.source.clone().filter(|_| ready.options.reads_source());
                    settled.push(Settled::Check { options: ready.options, source, timeout: task.timeout });
                }
                let outcome = self.succeeded(task, item.as_ref(), outcome);
                let result = data.map(|data| outcome.result([("data".to_owned(), data)]));
                self.finish(task, item, outcome, result);
            }
            // In a plan, results of earlier tasks of the book do not exist yet.
            Checked::Unknown(why) if self.pass.plan => {
                self.complete = false;
                self.push(TaskOutcome::new(name, module(task), Outcome::Unknown).say(why));
            }
            Checked::Unknown(why) => self.failed(task, item, why),
            Checked::Change(change) => {
                let cause = self.cause(known.as_ref(), &applied.definition);
                let mut planned = TaskOutcome::new(name.clone(), module(task), Outcome::Unchanged);
                planned.action = change.verb.as_str();
                planned.diff = Some(change.diff);
                planned.origin = if cause == Cause::Drift { Origin::Drift } else { Origin::Task };
                // An item that existed when Towpath first saw it is never removed, even if its drift was corrected
                // since.
                let first = known.is_none();
                let effect = Effect {
                    task: task.clone(),
                    item,
                    ready,
                    name,
                    begun,
                    planned,
                    key,
                    applied,
                    first,
                    foreseen: Vec::new(),
                    place: None,
                };
                self.missing(effect);
            }
        }
    }

    /// Records the undo of each new item of a task that manages several. Returns their keys.
    fn remember_parts(&self, ready: &Ready, undo: Option<&Value>, before: &mut Changes) -> Vec<Managed> {
        let mut foreseen = Vec::new();
        let new = undo.and_then(|undo| undo.get("names")?.as_array().cloned()).unwrap_or_default();
        for name in new.iter().filter_map(Value::as_str) {
            let key = Managed { module: ready.options.name().to_owned(), identity: name.to_owned() };
            if self.pass.machine.applied(&key).is_some() {
                continue;
            }
            let part = AppliedItem {
                definition: String::new(),
                generation: self.pass.generation,
                undo: Some(json!({ "name": name, "state": "absent" })),
            };
            before.put(&key, &part);
            self.pass.machine.set_applied(&key, Some(part));
            foreseen.push(key);
        }
        foreseen
    }

    /// Queues a change for a transaction, or carries it out.
    fn missing(&mut self, mut effect: Effect) {
        self.settled = None;
        let policy = effect.task.drift.unwrap_or(self.pass.drift);
        if effect.planned.origin == Origin::Drift && policy != Drift::Correct {
            effect.planned.action = "none";
            if policy == Drift::Report {
                effect.planned.message = Some("it has drifted, and is left so (drift: report)".into());
            }
            return self.finish(&effect.task, effect.item, effect.planned, None);
        }
        if self.pass.plan {
            return self.push(effect.planned);
        }
        let together = effect.is_plain() && effect.ready.options.batch().is_some();
        if !self.together.iter().all(|waiting| together && waiting.ready.options.can_batch_with(&*effect.ready.options))
        {
            self.flush();
            if self.stopped() {
                return;
            }
        }
        if together {
            effect.place = Some(self.tasks.len());
            self.tasks.push(TaskOutcome { outcome: Outcome::Changed, ..effect.planned.clone() });
            self.together.push(effect);
            return;
        }
        if let Err(why) = self.begin_segment() {
            return self.not_begun(&effect.task, effect.item, effect.planned, &why);
        }
        let before = self.foresee(&mut effect);
        match self.intend_with(Phase::Action, None, before) {
            Ok(()) => self.carry_out(effect, None),
            Err(error) => self.not_done(effect, error.message),
        }
    }

    /// Returns the records that must survive a crash during the change: notifications and undo.
    pub(super) fn foresee(&mut self, effect: &mut Effect) -> Changes {
        let Effect { task, item, ready, key, applied, first, foreseen, .. } = effect;
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        // A task with its own `changed` notifies only after its result is known.
        let mut before = if task.changed.is_none() { self.notified(task, item.as_ref()) } else { Changes::default() };
        let undo = ready.options.undo(&context);
        if ready.options.parts().len() > 1 {
            *foreseen = self.remember_parts(ready, undo.as_ref(), &mut before);
        } else if *first {
            applied.undo = undo;
            let begun = AppliedItem { definition: String::new(), ..applied.clone() };
            before.put(key, &begun);
            self.pass.machine.set_applied(key, Some(begun));
            *foreseen = vec![key.clone()];
        }
        before
    }

    /// Carries out a change whose intent is in the journal, within `time` or the timeout of its task.
    pub(super) fn carry_out(&mut self, effect: Effect, time: Option<Duration>) {
        let (task, item) = (&effect.task, effect.item.as_ref());
        let (outcome, result) = self.attempts(task, item, &effect.ready, effect.name.clone(), |run, ready| {
            let context = instance::context(run.pass.machine, &run.renderer, task, run.pass.cancel);
            let context = Context { timeout: time.unwrap_or(context.timeout), ..context };
            ready.options.apply(&context, &run.pass.machine.hand())
        });
        self.done(effect, outcome, result);
    }

    pub(super) fn not_done(&mut self, effect: Effect, message: String) {
        let outcome = TaskOutcome { outcome: Outcome::Failed, message: Some(message), ..effect.planned.clone() };
        self.end_effect(effect, outcome, None);
    }

    /// Records the result of a change.
    pub(super) fn done(&mut self, effect: Effect, mut outcome: TaskOutcome, result: Option<Value>) {
        let Effect { task, item, planned, key, applied, .. } = &effect;
        if outcome.message.is_none() && planned.origin == Origin::Drift {
            outcome.message = Some("drift was put right".into());
        }
        let outcome = TaskOutcome {
            action: planned.action,
            diff: planned.diff.clone(),
            origin: planned.origin,
            took: effect.begun.elapsed(),
            ..outcome
        };
        let mut changes = Changes::default();
        if outcome.outcome != Outcome::Failed {
            changes.put(key, applied);
            self.pass.machine.set_applied(key, Some(applied.clone()));
        }
        let started = result.as_ref().and_then(|result| result.get("started")) == Some(&Value::Bool(true));
        if started && !self.book.parallel {
            // The service was started after all earlier changes, so its automatic restart is not needed.
            changes.delete::<kinds::Handler>(&book_id(self.book).task(auto_handler(&task.id)));
        }
        if outcome.outcome == Outcome::Changed && task.changed.is_some() {
            changes.append(self.notified(task, item.as_ref()));
        }
        changes.set(&Intent::idle(self.book.id()));
        self.commit_changes(changes);
        self.end_effect(effect, outcome, result);
    }

    fn end_effect(&mut self, effect: Effect, outcome: TaskOutcome, result: Option<Value>) {
        let Some(place) = effect.place else { return self.finish(&effect.task, effect.item, outcome, result) };
        if outcome.outcome == Outcome::Failed {
            self.reached.insert(effect.task.id.clone(), true);
            self.stopped |= !effect.task.go_on;
        }
        self.tasks[place] = outcome;
    }
}
