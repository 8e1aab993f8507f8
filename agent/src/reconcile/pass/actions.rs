//! Probes, and actions, which run once per definition.

use std::{collections::BTreeMap, sync::Arc, thread, time::Instant};

use serde_json::Value;
use towpath_modules::{Checked, ModuleError, Report, Resource, apply};
use towpath_proto::ModuleKind;
use towpath_render::{
    objects::task::{Drift, Task},
    rendering::{Item, Rendered},
    tree::{MemoryTree, Tree},
};
use towpath_state::{
    ActionRecord, ActionState, BookId, Changes, FinishedAction, HandlerRecord, Intent, Phase, TaskId, kinds,
};

use super::{
    Pass, batch,
    book::{BookRun, module},
    book_id,
    instance::{self, Prepared, Ready},
    outcome::{Origin, Outcome, TaskOutcome},
};

/// Maximum length of a text in a remembered result, in bytes.
const REMEMBERED: usize = 64 << 10;

impl BookRun<'_, '_> {
    /// Runs a probe, if probes run in this pass.
    pub(super) fn probe(&mut self, task: &Task, item: Option<Item>, ready: &Ready, name: String, begun: Instant) {
        if !self.asks_probes(task) {
            let outcome = TaskOutcome::new(name, module(task), Outcome::Unchanged);
            return self.finish(task, item, outcome, None);
        }
        // The subject of the probe may wait in the batch.
        self.flush();
        if self.stopped() {
            return;
        }
        let shows = task.module.as_ref().is_some_and(|module| module.schema.shows_message);
        if self.pass.plan && !self.tasks.iter().all(|task| task.action == "none") && !shows {
            let outcome = TaskOutcome::new(name, module(task), Outcome::Unknown)
                .say("it is asked once the changes before it are applied");
            return self.push(outcome);
        }
        let (outcome, result) = self.attempts(task, item.as_ref(), ready, name, |run, ready| {
            let context = instance::context(run.pass.machine, &run.renderer, task, run.pass.cancel);
            ready.options.apply(&context, &run.pass.machine.hand())
        });
        let outcome = TaskOutcome {
            took: begun.elapsed(),
            outcome: if outcome.outcome == Outcome::Changed { Outcome::Unchanged } else { outcome.outcome },
            ..outcome
        };
        let result = result.map(|mut result| {
            if let Some(map) = result.as_object_mut() {
                map.insert("changed".into(), false.into());
                map.insert("outcome".into(), outcome.outcome.word().into());
            }
            result
        });
        self.finish(task, item, outcome, result);
    }

    /// Runs an action if its definition is new, or if its conditions require it.
    pub(super) fn action(&mut self, task: &Task, item: Option<Item>, ready: &Ready, name: String, begun: Instant) {
        // Files that the action depends on may wait in the batch.
        self.flush();
        if self.stopped() {
            return;
        }
        let key = book_id(self.book).task(format!("{name}{}", item_mark(item.as_ref())));
        let failed = |message: String| TaskOutcome::new(name.clone(), module(task), Outcome::Failed).say(message);
        let known: Option<ActionRecord> = match self.pass.machine.try_record(&key) {
            Ok(known) => known,
            Err(error) => return self.finish(task, item, failed(batch::journal_failed(&error).message), None),
        };
        let same = known.clone().filter(|known| known.definition == ready.definition);
        let finished = known.as_ref().and_then(|known| known.finished.clone());
        let settled = finished.as_ref().is_some_and(|finished| finished.definition == ready.definition);
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let checked = match ready.options.check(&context) {
            Ok(checked) => checked,
            Err(error) => return self.finish(task, item, failed(error.message), None),
        };
        let state = ready.options.kind() == ModuleKind::State;
        let mut needed = match ready.options.kind() {
            ModuleKind::Action => !settled,
            _ => !matches!(checked, Checked::InSync | Checked::InSyncWithData(_)),
        };
        let policy = task.drift.unwrap_or(self.pass.drift);
        let left = state && needed && settled && policy != Drift::Correct;
        needed &= !left;
        if !needed {
            let mut outcome = TaskOutcome::new(name, module(task), Outcome::Unchanged);
            outcome.took = begun.elapsed();
            let interrupted = same.as_ref().map_or(0, |known| known.interrupted);
            if interrupted > 0 {
                outcome.message = Some(cut_off(interrupted));
            }
            outcome.origin = if left { Origin::Drift } else { Origin::Task };
            if left && policy == Drift::Report {
                outcome.message = Some("it has drifted, and is left so (drift: report)".into());
            }
            let fields = finished.map(|finished| finished.result).unwrap_or_default();
            let result = outcome.result(fields.as_object().cloned().unwrap_or_default());
            return self.finish(task, item, outcome, Some(result));
        }
        let mut planned = TaskOutcome::new(name.clone(), module(task), Outcome::Unchanged);
        planned.action = "run";
        if let Checked::Change(change) = &checked {
            planned.diff = Some(change.diff.clone());
        } else if let Some(argv) = ready.params.get("url").and_then(Value::as_str) {
            planned.diff = Some(argv.to_owned());
        }
        if self.pass.plan {
            return self.push(planned);
        }
        if let Err(why) = self.begin_segment() {
            return self.not_begun(task, item, planned, &why);
        }
        let interrupted =
            same.as_ref().map_or(0, |known| known.interrupted + u32::from(known.state == ActionState::Begun));
        let mut record = ActionRecord {
            definition: ready.definition.clone(),
            state: ActionState::Begun,
            interrupted,
            finished,
            boot: None,
        };
        if let Err(error) = self.intend(Phase::Action, Some((&key, &record))) {
            return self.finish(
                task,
                item,
                TaskOutcome { outcome: Outcome::Failed, message: Some(error.message), ..planned },
                None,
            );
        }
        let (outcome, result) = self.attempts(task, item.as_ref(), ready, name, |run, ready| {
            let context = instance::context(run.pass.machine, &run.renderer, task, run.pass.cancel);
            ready.options.apply(&context, &run.pass.machine.hand())
        });
        let mut outcome = TaskOutcome { action: "run", diff: planned.diff, took: begun.elapsed(), ..outcome };
        if interrupted > 0 && outcome.message.is_none() {
            outcome.message = Some(cut_off(interrupted));
        }
        record.state = if outcome.outcome == Outcome::Failed { ActionState::Failed } else { ActionState::Finished };
        if self.pass.cancel.is_cancelled() && outcome.outcome == Outcome::Failed {
            record.state = ActionState::Begun;
        }
        if record.state == ActionState::Finished {
            record.finished =
                Some(FinishedAction { definition: ready.definition.clone(), result: remembered(result.as_ref()) });
        }
        let mut changes =
            if outcome.outcome == Outcome::Changed { self.notified(task, item.as_ref()) } else { Changes::default() };
        changes.put(&key, &record);
        changes.set(&Intent::idle(self.book.id()));
        self.commit_changes(changes);
        self.finish(task, item, outcome, result);
    }

    /// Runs a task unconditionally: a handler, or a task before or after a segment.
    pub(super) fn always(&mut self, task: &Task) -> TaskOutcome {
        let begun = self.pass.machine.clock.monotonic();
        let name = instance::name(task, None);
        let outcome = match instance::prepare(self.pass.machine, &self.renderer, task, None) {
            Prepared::Skipped(_) => TaskOutcome::new(name, module(task), Outcome::Skipped),
            Prepared::Wants(wants) => {
                let shown = wants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                TaskOutcome::new(name, module(task), Outcome::Failed)
                    .say(format!("it needs {shown}, which is not there"))
            }
            Prepared::Failed(message) => TaskOutcome::new(name, module(task), Outcome::Failed).say(message),
            Prepared::Ready(ready) => match self.intend(Phase::Handler, None) {
                Err(error) => TaskOutcome::new(name, module(task), Outcome::Failed).say(error.message),
                Ok(()) => self.now(task, &ready, name),
            },
        };
        TaskOutcome { took: begun.elapsed(), ..outcome }
    }

    fn now(&mut self, task: &Task, ready: &Ready, name: String) -> TaskOutcome {
        let (outcome, _) = self.attempts(task, None, ready, name, |run, ready| {
            let context = instance::context(run.pass.machine, &run.renderer, task, run.pass.cancel);
            execute(&*ready.options, &context, &run.pass.machine.hand(), run.pass.cancel)
        });
        outcome
    }

    /// Runs a handler that the book no longer contains, as it was when it was notified.
    pub(super) fn old_handler(&mut self, id: &str, record: &HandlerRecord) -> TaskOutcome {
        match self.intend(Phase::Handler, None) {
            Ok(()) => old_handler(self.pass, id, record),
            Err(error) => TaskOutcome::new(id.to_owned(), &record.module, Outcome::Failed).say(error.message),
        }
    }

    /// Runs a task until it succeeds, at most as often as the task allows. Returns the last outcome and result.
    pub(super) fn attempts(
        &mut self,
        task: &Task,
        item: Option<&Item>,
        ready: &Ready,
        name: String,
        run: impl Fn(&Self, &Ready) -> Result<Report, ModuleError>,
    ) -> (TaskOutcome, Option<Value>) {
        let outcome = |outcome| TaskOutcome::new(name.clone(), module(task), outcome);
        let (machine, book) = (self.pass.machine, self.book.id());
        let begin = || machine.memory.activity.begin(&book, &task.id, machine.clock.monotonic());
        let _work = (!self.pass.plan).then(begin);
        let limit = task.until.as_ref().map_or(1, |until| until.limit);
        let mut last: Option<(TaskOutcome, Option<Value>)> = None;
        for attempt in 1..=limit {
            if attempt > 1 {
                let interval = task.until.as_ref().map(|until| until.interval).unwrap_or_default();
                if !pause(interval, || self.pass.cancel.is_cancelled() || (self.pass.make_way)()) {
                    break;
                }
            }
            let report = match run(self, ready) {
                Ok(report) => report,
                Err(error) => {
                    if let (None, Some(disk)) = (&self.disk, error.disk) {
                        self.disk = Some((disk, error.message.clone()));
                    }
                    last = Some((outcome(Outcome::Failed).say(error.message), None));
                    continue;
                }
            };
            let (judged, result, settled) = self.judge(task, item, report, outcome(Outcome::Changed));
            last = Some((judged, Some(result)));
            if settled {
                break;
            }
        }
        last.unwrap_or_else(|| (outcome(Outcome::Failed).say("it was cut off before its first attempt"), None))
    }

    /// Evaluates a report: the outcome, the result, and whether `until` holds.
    fn judge(
        &self,
        task: &Task,
        item: Option<&Item>,
        report: Report,
        mut outcome: TaskOutcome,
    ) -> (TaskOutcome, Value, bool) {
        let fields: BTreeMap<String, Value> =
            report.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let mut result = outcome.result(fields.clone());
        let ask = |key: &str, expression: &str, result: &Value| match self
            .renderer
            .judge(task, item, key, expression, result)
        {
            Ok(Rendered::Ready(holds)) => Ok(holds),
            Ok(Rendered::Wants(_)) => Err(format!("{key}: it uses what is not known")),
            Err(error) => Err(error.to_string()),
        };
        let mut problem = None;
        let mut judge = |key: &str, expression: Option<&String>, otherwise: bool, result: &Value| match expression {
            None => otherwise,
            Some(expression) => ask(key, expression, result).unwrap_or_else(|why| {
                problem = Some(why);
                false
            }),
        };
        let ok = judge("success", task.success.as_ref(), report.ok, &result);
        let changed = judge("changed", task.changed.as_ref(), true, &result);
        let until = judge("until", task.until.as_ref().map(|until| &until.condition), true, &result);
        let settled = if task.until.is_some() { until } else { true };
        outcome.message = report.message;
        outcome.outcome = match (ok && settled || task.until.is_some() && settled && task.success.is_none(), changed) {
            (false, _) => Outcome::Failed,
            (true, true) => Outcome::Changed,
            (true, false) => Outcome::Unchanged,
        };
        if outcome.outcome == Outcome::Failed && !settled {
            let condition = task.until.as_ref().map(|until| until.condition.clone()).unwrap_or_default();
            outcome.message = Some(format!(
                "until {condition} did not hold{}",
                outcome.message.map(|said| format!(": {said}")).unwrap_or_default()
            ));
        }
        if let Some(problem) = problem {
            outcome.outcome = Outcome::Failed;
            outcome.message = Some(problem);
        }
        result = outcome.result(fields);
        (outcome, result, settled)
    }

    /// Writes the intent to the journal.
    pub(super) fn intend(&mut self, phase: Phase, action: Option<(&TaskId, &ActionRecord)>) -> Result<(), ModuleError> {
        self.intend_with(phase, action, Changes::default())
    }

    /// Writes the intent to the journal, with the records that must survive a crash during the action.
    pub(super) fn intend_with(
        &mut self,
        phase: Phase,
        action: Option<(&TaskId, &ActionRecord)>,
        mut changes: Changes,
    ) -> Result<(), ModuleError> {
        let Some(journal) = &self.pass.machine.journal else { return Ok(()) };
        changes.set(&Intent { phase, book: self.book.id(), paths: Vec::new() });
        if let Some((key, record)) = action {
            changes.put(key, record);
        }
        journal.commit(changes).map_err(|error| batch::journal_failed(&error))
    }

    pub(super) fn commit_changes(&mut self, changes: Changes) {
        let Some(journal) = &self.pass.machine.journal else { return };
        if let Err(error) = journal.commit(changes) {
            let failed = batch::journal_failed(&error);
            self.push(TaskOutcome::new("journal".into(), "journal", Outcome::Failed).say(failed.message));
        }
    }
}

/// Runs the pending handlers of a book that is gone.
pub(super) fn left_handlers(pass: &Pass<'_>, book: &BookId, changes: &mut Changes) -> Vec<TaskOutcome> {
    let mut outcomes = Vec::new();
    for (id, record) in pass.machine.records_of::<HandlerRecord>(book) {
        let outcome = old_handler(pass, &id, &record);
        if outcome.outcome != Outcome::Failed {
            changes.delete::<kinds::Handler>(&book.task(id.as_str()));
        }
        outcomes.push(TaskOutcome { origin: Origin::Handler, ..outcome });
    }
    outcomes
}

fn old_handler(pass: &Pass<'_>, id: &str, record: &HandlerRecord) -> TaskOutcome {
    let name = format!("{id} (of an earlier revision)");
    let failed = |message: String| TaskOutcome::new(name.clone(), &record.module, Outcome::Failed).say(message);
    let (mut params, mut source) = (record.params.clone(), None);
    let schema = towpath_proto::module(&record.module);
    if schema.is_some_and(|module| module.runs_source) {
        // The revision is gone. The bytes of the script were saved when the handler was notified.
        let journal = pass.machine.journal.as_ref();
        let kept = record.script.as_ref().and_then(|kept| journal?.original(kept));
        let Some(bytes) = kept else {
            return failed(
                "the bytes of the script are gone with its revision; run it by hand, and see to what it was for".into(),
            );
        };
        let tree: MemoryTree = [("script", bytes.as_slice())].into_iter().collect();
        source = Some((Arc::new(tree) as Arc<dyn Tree>, String::new()));
        if let Some(params) = params.as_object_mut() {
            params.insert("source".into(), "script".into());
        }
    }
    let options = match towpath_modules::resolve(&record.module, &params) {
        Ok(options) => options,
        Err(problems) => {
            return failed(problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "));
        }
    };
    let context = towpath_modules::Context {
        look: &pass.machine.look,
        source,
        node: &pass.machine.node,
        task: id,
        timeout: std::time::Duration::from_secs(600),
        cancel: pass.cancel,
        cache: &pass.machine.memory,
    };
    match execute(&*options, &context, &pass.machine.hand(), pass.cancel) {
        Ok(report) if report.ok => TaskOutcome::new(name, &record.module, Outcome::Changed),
        Ok(report) => {
            TaskOutcome { message: report.message, ..TaskOutcome::new(name, &record.module, Outcome::Failed) }
        }
        Err(error) => TaskOutcome::new(name, &record.module, Outcome::Failed).say(error.message),
    }
}

/// Runs a module of any kind.
pub(super) fn execute(
    options: &dyn Resource,
    context: &towpath_modules::Context<'_>,
    hand: &towpath_host::Hand,
    cancel: &towpath_host::process::Cancel,
) -> Result<Report, ModuleError> {
    match options.kind() {
        ModuleKind::Probe | ModuleKind::Action | ModuleKind::Always => options.apply(context, hand),
        ModuleKind::State => match options.check(context)? {
            Checked::Change(_) if options.schema().applies_directly => options.apply(context, hand),
            Checked::Unknown(why) => Err(ModuleError::new(why)),
            Checked::Change(change) => apply::all(change.steps, hand, cancel).map(|()| Report::success()),
            _ => Ok(Report::success()),
        },
    }
}

/// Returns a suffix that distinguishes loop items with the same name.
fn item_mark(item: Option<&Item>) -> String {
    use sha2::Digest as _;
    let Some(item) = item else { return String::new() };
    format!("#{}", &hex::encode(sha2::Sha256::digest(item.value.to_string()))[..16])
}

fn cut_off(times: u32) -> String {
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!("it was cut off {times} before its end was seen, and was run again")
}

/// Returns a result as the journal keeps it: the end of long texts, without `changed` and `outcome`.
fn remembered(result: Option<&Value>) -> Value {
    let Some(Value::Object(map)) = result else { return Value::Null };
    let kept = map.iter().filter(|(key, _)| !matches!(key.as_str(), "changed" | "outcome")).map(|(key, value)| {
        let value = match value {
            Value::String(text) if text.len() > REMEMBERED => {
                let from = text.len() - REMEMBERED;
                let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
                Value::String(text[from..].to_owned())
            }
            other => other.clone(),
        };
        (key.clone(), value)
    });
    Value::Object(kept.collect())
}

/// Waits, and returns false if it must stop meanwhile.
fn pause(time: std::time::Duration, stop: impl Fn() -> bool) -> bool {
    let step = std::time::Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() {
        if stop() {
            return false;
        }
        let now = left.min(step);
        thread::sleep(now);
        left -= now;
    }
    !stop()
}
