//! State tasks that are put right by running something: packages, services, accounts. Each is carried out by itself.

use std::time::Instant;

use serde_json::{Value, json};
use towpath_host::journal::{AppliedItem, Changes, Intent, Phase};
use towpath_modules::{Change, Checked};
use towpath_render::{
    objects::task::{Drift, Task, auto_handler},
    rendering::Item,
};

use super::{
    Settled,
    book::{BookRun, module},
    instance::{self, Ready},
    outcome::{Outcome, TaskOutcome},
    states::Cause,
};

impl BookRun<'_, '_> {
    /// Checks such a task, and puts it right.
    pub(super) fn effect(&mut self, task: &Task, item: Option<Item>, ready: Ready, name: String, begun: Instant) {
        // What it needs may wait in the batch.
        self.flush();
        if self.stopped() {
            return;
        }
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let checked = match ready.options.check(&context) {
            Ok(checked) => checked,
            Err(error) => return self.failed(task, item, error.message),
        };
        let key = format!("{}/{}", ready.options.name(), ready.identity.clone().unwrap_or_default());
        let known = self.pass.machine.applied(&key);
        let undo = known.as_ref().and_then(|known| known.undo.clone());
        let applied = AppliedItem { definition: ready.definition.clone(), generation: self.pass.generation, undo };
        match checked {
            Checked::InSync | Checked::Known(_) => {
                if known.is_none_or(|known| known.definition != applied.definition) && !self.pass.plan {
                    self.adopted.put(format!("applied/{key}"), &applied);
                    self.pass.machine.set_applied(&key, Some(applied));
                }
                let outcome =
                    TaskOutcome { took: begun.elapsed(), ..TaskOutcome::new(name, module(task), Outcome::Unchanged) };
                let data = match checked {
                    Checked::Known(data) => Some(data),
                    _ => None,
                };
                if data.is_some() && task.register.is_some() {
                    // It may be another one the next time.
                    self.settled = None;
                }
                if let Some(settled) = &mut self.settled {
                    let source = context.source.clone().filter(|_| ready.options.reads_source());
                    settled.push(Settled::Check { options: Box::new(ready.options), source, timeout: task.timeout });
                }
                let outcome = self.succeeded(task, item.as_ref(), outcome);
                let result = data.map(|data| outcome.result([("data".to_owned(), data)]));
                self.finish(task, item, outcome, result);
            }
            // What an earlier task of the book brings is not there yet when only checks run.
            Checked::Unknown(why) if self.pass.plan => {
                self.complete = false;
                self.push(TaskOutcome::new(name, module(task), Outcome::Unknown).say(why));
            }
            Checked::Unknown(why) => self.failed(task, item, why),
            Checked::Change(change) => {
                let cause = self.cause(known.as_ref(), &applied.definition);
                // What was there when Towpath came first is not taken away, however often it was put right since.
                let first = known.is_none();
                self.carry_out(task, item, &ready, name, begun, change, (key, applied, first), cause);
            }
        }
    }

    /// Of several things that one task manages: what takes away each of those that are new.
    fn remember_parts(&self, ready: &Ready, undo: Option<&Value>, before: &mut Changes) {
        let new = undo.and_then(|undo| undo.get("names")?.as_array().cloned()).unwrap_or_default();
        for name in new.iter().filter_map(Value::as_str) {
            let key = format!("{}/{name}", ready.options.name());
            if self.pass.machine.applied(&key).is_some() {
                continue;
            }
            let part = AppliedItem {
                definition: String::new(),
                generation: self.pass.generation,
                undo: Some(json!({ "name": name, "state": "absent" })),
            };
            before.put(format!("applied/{key}"), &part);
            self.pass.machine.set_applied(&key, Some(part));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of one change")]
    fn carry_out(
        &mut self,
        task: &Task,
        item: Option<Item>,
        ready: &Ready,
        name: String,
        begun: Instant,
        change: Change,
        (key, mut applied, first): (String, AppliedItem, bool),
        cause: Cause,
    ) {
        self.settled = None;
        let drifted = cause == Cause::Drift;
        let mut planned = TaskOutcome::new(name.clone(), module(task), Outcome::Unchanged);
        planned.action = change.verb.word();
        planned.diff = Some(change.diff);
        planned.drift = drifted;
        let policy = task.drift.unwrap_or(self.pass.drift);
        if drifted && policy != Drift::Correct {
            planned.action = "none";
            if policy == Drift::Report {
                planned.message = Some("it has drifted, and is left so (drift: report)".into());
            }
            return self.finish(task, item, planned, None);
        }
        if self.pass.plan {
            return self.push(planned);
        }
        if let Err(why) = self.begin_stretch() {
            return self.not_begun(task, item, planned, &why);
        }
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        // Who is notified, and what undoes it, is known before the effect: a crash behind it finds everything in order.
        // Only where the task says itself what counts as a change must its end be seen.
        let mut before = if task.changed.is_none() { self.notified(task, item.as_ref()) } else { Changes::default() };
        let undo = ready.options.undo(&ready.params, &context);
        if ready.options.parts().len() > 1 {
            self.remember_parts(ready, undo.as_ref(), &mut before);
        } else if first {
            applied.undo = undo;
            let begun = AppliedItem { definition: String::new(), ..applied.clone() };
            before.put(format!("applied/{key}"), &begun);
            self.pass.machine.set_applied(&key, Some(begun));
        }
        if let Err(error) = self.intend_with(Phase::Action, None, before) {
            let outcome = TaskOutcome { outcome: Outcome::Failed, message: Some(error.message), ..planned };
            return self.finish(task, item, outcome, None);
        }
        let (mut outcome, result) = self.attempts(task, item.as_ref(), ready, name, |run, ready| {
            let context = instance::context(run.pass.machine, &run.renderer, task, run.pass.cancel);
            ready.options.run(&context, &run.pass.machine.hand())
        });
        if outcome.message.is_none() && drifted {
            outcome.message = Some("drift was put right".into());
        }
        let outcome = TaskOutcome {
            action: planned.action,
            diff: planned.diff,
            drift: drifted,
            took: begun.elapsed(),
            ..outcome
        };
        let mut changes = Changes::default();
        if outcome.outcome != Outcome::Failed {
            changes.put(format!("applied/{key}"), &applied);
            self.pass.machine.set_applied(&key, Some(applied));
        }
        let started = result.as_ref().and_then(|result| result.get("started")) == Some(&Value::Bool(true));
        if started && !self.book.parallel {
            // It was started with all that came before it.
            changes.delete(format!("handler/{}/{}", self.book.id(), auto_handler(&task.id)));
        }
        if outcome.outcome == Outcome::Changed && task.changed.is_some() {
            changes.append(self.notified(task, item.as_ref()));
        }
        changes.put("intent", &Intent { phase: Phase::Idle, book: self.book.id(), paths: Vec::new() });
        self.commit_changes(changes);
        self.finish(task, item, outcome, result);
    }
}
