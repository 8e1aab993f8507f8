//! State tasks of files: checked one by one, and carried out in batches.

use std::{collections::BTreeSet, path::PathBuf, time::Instant};

use serde_json::Value;
use towpath_host::files::written::Seen;
use towpath_modules::{Change, Checked, Step};
use towpath_render::{
    objects::task::{Drift, Task},
    rendering::{Item, Rendered},
};
use towpath_state::{AppliedItem, Changes, HandlerRecord, Managed};

use super::{
    Settled,
    batch::{self, Waiting},
    book::{BookRun, module},
    book_id,
    instance::{self, Ready},
    outcome::{Origin, Outcome, TaskOutcome},
};

/// The cause of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A commit has changed the definition.
    Commit,
    /// The commit is the same, and its inputs differ: facts, variables or other nodes.
    Input,
    /// The node was changed by something other than the agent.
    Drift,
}

/// Maximum number of file changes in one batch.
const BATCH: usize = 2000;

impl BookRun<'_, '_> {
    /// Returns whether a queued change affects the check of a path. That is a change of the path, below it, or of a
    /// folder above it.
    pub(super) fn waits_for(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        let touches = |other: &str| {
            let other = other.trim_end_matches('/');
            other == path
                || other.starts_with(&below)
                || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
        };
        self.waiting
            .iter()
            .flat_map(|one| &one.steps)
            .filter(|step| !matches!(step.inner(), Step::MakeDirectory { .. }) && !step.path().is_empty())
            .any(|step| touches(step.path()))
    }

    pub(super) fn state(&mut self, task: &Task, item: Option<Item>, ready: Ready, name: String, begun: Instant) {
        if ready.options.path().is_some_and(|path| self.waits_for(path)) {
            self.flush();
            if self.stopped {
                return;
            }
        }
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let source = context.source.clone().filter(|_| ready.options.reads_source());
        let checked = match ready.options.check(&context) {
            Ok(checked) => checked,
            Err(error) => {
                self.note_disk(&error);
                return self.failed(task, item, error.message);
            }
        };
        let key = ready.managed();
        let known = self.pass.machine.applied(&key);
        let applied =
            AppliedItem { definition: ready.definition.clone(), generation: self.pass.generation, undo: None };
        match checked {
            Checked::InSync | Checked::InSyncWithData(_) => {
                // An item that existed before is not removed later. An item that Towpath installed keeps its undo.
                let undo = known.as_ref().and_then(|known| known.undo.clone());
                let applied = AppliedItem { undo, ..applied };
                if known.is_none_or(|known| known.definition != applied.definition) && !self.pass.plan {
                    self.adopted.put(&key, &applied);
                    self.pass.machine.set_applied(&key, Some(applied));
                }
                let mut outcome = TaskOutcome::new(name, module(task), Outcome::Unchanged);
                outcome.took = begun.elapsed();
                if let Some(settled) = &mut self.settled {
                    let machine = self.pass.machine;
                    settled.push(match ready.options.expectations(&context, &machine.digest_key) {
                        Some(expectations) => Settled::Expectations(expectations),
                        None => Settled::Check { options: ready.options, source, timeout: task.timeout },
                    });
                }
                let outcome = self.succeeded(task, item.as_ref(), outcome);
                self.finish(task, item, outcome, None);
            }
            Checked::Unknown(why) => {
                self.complete = false;
                self.push(TaskOutcome::new(name, module(task), Outcome::Unknown).say(why));
            }
            Checked::Change(change) => {
                let cause = self.cause(known.as_ref(), &applied.definition);
                // An item that existed when Towpath first saw it is never removed, even if its drift was corrected
                // since.
                let first = known.is_none() || ready.options.undo_is_fixed();
                let new = first.then(|| ready.options.undo(&context)).flatten();
                let undo = new.or_else(|| known.and_then(|known| known.undo));
                let applied = AppliedItem { undo, ..applied };
                self.change(task, item, name, begun, change, key, applied, cause);
            }
        }
    }

    /// Returns the cause of a change.
    pub(super) fn cause(&self, known: Option<&AppliedItem>, definition: &str) -> Cause {
        match known {
            Some(known) if known.definition == definition => Cause::Drift,
            // The revision was applied before, so its inputs have changed, not the revision.
            Some(_) if !self.fresh => Cause::Input,
            _ => Cause::Commit,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of one change")]
    fn change(
        &mut self,
        task: &Task,
        item: Option<Item>,
        name: String,
        begun: Instant,
        change: Change,
        key: Managed,
        applied: AppliedItem,
        cause: Cause,
    ) {
        let drifted = cause == Cause::Drift;
        let mut outcome = TaskOutcome::new(name, module(task), Outcome::Changed);
        outcome.action = change.verb.as_str();
        outcome.diff = Some(change.diff);
        outcome.origin = if drifted { Origin::Drift } else { Origin::Task };
        let policy = task.drift.unwrap_or(self.pass.drift);
        self.settled = None;
        if drifted && policy != Drift::Correct {
            outcome.outcome = Outcome::Unchanged;
            outcome.action = "none";
            if policy == Drift::Report {
                outcome.message = Some("it has drifted, and is left so (drift: report)".into());
            }
            return self.finish(task, item, outcome, None);
        }
        if drifted {
            outcome.message = Some("drift was put right".into());
        } else if cause == Cause::Input {
            outcome.message = Some("what it reads has changed: facts, variables or other nodes".into());
        }
        outcome.took = begun.elapsed();
        if self.pass.plan {
            outcome.outcome = Outcome::Unchanged;
            outcome.message = None;
            return self.push(outcome);
        }
        // Only writes of files are batched. Other changes keep their order.
        let plain =
            change.steps.iter().all(|step| matches!(step.inner(), Step::Write { .. } | Step::MakeDirectory { .. }))
                && change.steps.iter().any(|step| matches!(step.inner(), Step::Write { .. }));
        if !plain {
            self.flush();
            if self.stopped {
                return;
            }
        }
        let (task_item, position) = (item.clone(), self.tasks.len());
        let quiet = task.changed.as_ref().is_some_and(|expression| {
            let result = outcome.result([]);
            matches!(
                self.renderer.judge(task, item.as_ref(), "changed", expression, &result),
                Ok(Rendered::Ready(false))
            )
        });
        let handlers = if quiet { Changes::default() } else { self.notified(task, item.as_ref()) };
        if quiet {
            outcome.outcome = Outcome::Unchanged;
        }
        if item.is_some() {
            self.loop_results.push((position, None));
        }
        self.tasks.push(outcome);
        self.waiting.push(Waiting { position, steps: change.steps, key, applied, handlers });
        if let Some(name) = &task.register {
            self.late.push((name.clone(), position, item));
        }
        let judged = task.register.is_some()
            || task.success.is_some()
            || task.changed.is_some()
            || !task.go_on && task.looped.is_none() && !plain;
        if !plain || judged || self.waiting.len() >= BATCH {
            self.flush();
        }
        if task.success.is_some() && self.tasks[position].outcome < Outcome::Held {
            let outcome = self.succeeded(task, task_item.as_ref(), self.tasks[position].clone());
            if outcome.outcome == Outcome::Failed {
                self.reached.insert(task.id.clone(), true);
                self.stopped |= !task.go_on;
            }
            self.tasks[position] = outcome;
        }
    }

    /// Returns the records of the handlers that a task notifies.
    pub(super) fn notified(&self, task: &Task, item: Option<&Item>) -> Changes {
        let mut changes = Changes::default();
        for id in &task.notify {
            let Some(handler) = self.book.handlers.iter().find(|handler| handler.id == *id) else { continue };
            let key = book_id(self.book).task(id);
            let mut record = self.pass.machine.record(&key).unwrap_or(HandlerRecord {
                module: String::new(),
                params: Value::Null,
                script: None,
                by: BTreeSet::new(),
            });
            if let Some(module) = &handler.module {
                record.module = module.name.to_owned();
            }
            if let Ok(Rendered::Ready(params)) = self.renderer.params(handler, None) {
                record.params = params.into_value();
            }
            record.script = self.kept_script(handler, &record);
            record.by.insert(instance::name(task, item));
            changes.put(&key, &record);
        }
        changes
    }

    /// Saves the bytes of a handler's script: its revision may be gone when the handler runs.
    fn kept_script(&self, handler: &Task, record: &HandlerRecord) -> Option<String> {
        let runs_source = handler.module.as_ref().is_some_and(|module| module.schema.runs_source);
        let journal = self.pass.machine.journal.as_ref().filter(|_| runs_source)?;
        let context = instance::context(self.pass.machine, &self.renderer, handler, self.pass.cancel);
        let (tree, folder) = context.source?;
        let path = towpath_render::tree::join(&folder, record.params.get("source")?.as_str()?).ok()?;
        journal.keep_original(&tree.read(&path).ok()??).ok()
    }

    /// Evaluates the `success` of a state task that was applied.
    pub(super) fn succeeded(&mut self, task: &Task, item: Option<&Item>, outcome: TaskOutcome) -> TaskOutcome {
        let Some(expression) = &task.success else { return outcome };
        let message = match self.renderer.judge(task, item, "success", expression, &outcome.result([])) {
            Ok(Rendered::Ready(true)) => return outcome,
            Ok(Rendered::Ready(false)) => format!("success {expression} does not hold"),
            Ok(Rendered::Wants(_)) => "success: it uses what is not known".to_owned(),
            Err(error) => error.to_string(),
        };
        TaskOutcome { outcome: Outcome::Failed, message: Some(message), ..outcome }
    }

    /// Carries out the queued changes: files first, then direct changes. Only one kind is queued at a time.
    pub(super) fn flush(&mut self) {
        self.flush_files();
        self.flush_together();
    }

    /// Carries out the queued changes of files (P90).
    pub(super) fn flush_files(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let content_only = !self.fresh && waiting.iter().all(|one| one.handlers.is_empty());
        if !content_only && let Err(why) = self.begin_segment() {
            for one in &waiting {
                let outcome = &mut self.tasks[one.position];
                outcome.outcome = Outcome::Held;
                outcome.message = Some(why.message());
            }
            self.complete = false;
            self.stopped = true;
            return;
        }
        let Some(journal) = self.pass.machine.journal.clone() else { return };
        let directly: Vec<PathBuf> = waiting
            .iter()
            .flat_map(|one| &one.steps)
            .filter(|step| !matches!(step.inner(), Step::Write { .. }))
            .filter_map(|step| batch::changed_path(self.pass.machine, step))
            .collect();
        let outcomes =
            batch::carry_out(self.pass.machine, &journal, &self.book.id(), waiting, self.permit, self.pass.cancel);
        self.saw_own_changes(directly);
        let mut failed = false;
        for (position, result) in outcomes {
            if let Err(error) = result {
                self.note_disk(&error);
                self.moved |= error.moved;
                let outcome = &mut self.tasks[position];
                outcome.outcome = Outcome::Failed;
                outcome.message = Some(error.message);
                let name = outcome.name.split(" [").next().unwrap_or_default().to_owned();
                self.reached.insert(name, true);
                failed = true;
                self.complete = false;
            }
        }
        for (name, position, item) in std::mem::take(&mut self.late) {
            if item.is_none() {
                let result = self.tasks[position].result([]);
                self.renderer.register(&name, &result);
            }
        }
        self.stopped |= failed && self.tasks_stop();
    }

    /// Notes the directories, links and removed files that this run has changed itself.
    fn saw_own_changes(&mut self, paths: Vec<PathBuf>) {
        let look = &self.pass.machine.look;
        for path in paths {
            if let (Some(seen), Ok(inner)) = (self.watched.get_mut(&path), path.strip_prefix(look.root())) {
                *seen = Seen::after_own_change(look, &format!("/{}", inner.display()));
            }
        }
    }

    /// Returns whether a failed task stops the book. Tasks that continue on failure do not.
    fn tasks_stop(&self) -> bool {
        self.tasks.iter().filter(|outcome| outcome.outcome == Outcome::Failed).any(|outcome| {
            let own = self
                .book
                .tasks
                .iter()
                .find(|task| outcome.name == task.id || outcome.name.starts_with(&format!("{} [", task.id)));
            own.is_none_or(|task| !task.go_on)
        })
    }
}
