//! Runs probes, actions, handlers and reboots.

use std::{sync::Arc, thread, time::Duration};

use serde_json::Value;
use towpath_host::{FsWriter, facts::boot_id, process::Cancel};
use towpath_modules::{Checked, Context, ModuleError, Report, Resource, apply as apply_steps};
use towpath_proto::ModuleKind;
use towpath_reconcile::{
    Outcome,
    command::{Executed, InstanceId, Invocation, List, PendingHandler, Rebooted, TaskRef},
};
use towpath_render::{
    objects::task::Task,
    tree::{MemoryTree, Tree},
};
use towpath_state::{
    ActionRecord, ActionState, Changes, FinishedAction, HandlerRecord, Intent, KeptTask, Phase, TaskId, kinds,
};

use super::{
    Found, RenderedTask, Session,
    apply::notified,
    attempts::{Attempted, run_with_retries},
    direct::{commit, log_intent},
    resource::{action_key, last_run},
};
use crate::reconcile::{
    admission::Permit,
    pass::{
        batch,
        instance::{self, Prepared},
    },
};

/// The maximum length of a text in a result that the journal stores, in bytes.
const REMEMBERED: usize = 64 << 10;

/// Runs a probe, an action, a handler, a `before` task or an `after` task.
pub(super) fn invoke(session: &Session<'_>, invocation: &Invocation, permit: Permit<'_>) -> Executed {
    let writer = permit.writer();
    let attempted = match invocation {
        Invocation::Probe(id) => session.rendered(*id).map(|(rendered, task)| probe(session, task, &rendered)),
        Invocation::Action(id) => {
            session.rendered(*id).map(|(rendered, task)| action(session, task, &rendered, writer))
        }
        Invocation::Rebooted(id) => session.rendered(*id).map(|(rendered, task)| rebooted(session, task, &rendered)),
        Invocation::Unconditional(at) => match kept(session, *at) {
            Some(task) => Ok(run_kept(session, &task, writer)),
            None => session.task(*at).map(|task| unconditional(session, task, writer)),
        },
        Invocation::Handler(pending) => Ok(handler(session, pending, writer)),
    };
    attempted.unwrap_or_else(Attempted::failed).executed()
}

/// Runs a probe.
pub(super) fn probe(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> Attempted {
    let context = session.context(task);
    let attempted = run_with_retries(session, task, rendered.item(), || rendered.ready.options.observe(&context));
    session.took(rendered);
    session.drop_task(rendered.instance.id);
    attempted
}

/// Runs an action, and records its start and its end in the journal.
fn action(session: &Session<'_>, task: &Task, rendered: &RenderedTask, writer: &FsWriter) -> Attempted {
    let known = match rendered.take_found() {
        Some(Found::Action(known)) => known,
        _ => None,
    };
    let definition = &rendered.ready.definition;
    let key = action_key(session, &rendered.instance);
    let interrupted = known.as_ref().map_or(0, |known| last_run(known, definition).interrupted);
    let finished = known.and_then(|known| known.finished);
    let state = ActionState::Begun;
    let mut record = ActionRecord { definition: definition.clone(), state, interrupted, finished, boot: None };
    let mut begun = Changes::default();
    begun.put(&key, &record);
    if let Err(error) = log_action(session, begun) {
        return Attempted::failed(error);
    }
    let context = session.context(task);
    let attempted = run_with_retries(session, task, rendered.item(), || rendered.ready.options.apply(&context, writer));
    record.state = match attempted.outcome {
        Outcome::Failed if session.pass.cancel.is_cancelled() => ActionState::Begun,
        Outcome::Failed => ActionState::Failed,
        _ => ActionState::Finished,
    };
    if record.state == ActionState::Finished {
        let result = remembered(attempted.result.as_ref());
        record.finished = Some(FinishedAction { definition: definition.clone(), result });
    }
    let mut changes = match attempted.outcome {
        Outcome::Changed => notified(session, task, rendered.item()),
        _ => Changes::default(),
    };
    changes.put(&key, &record);
    changes.set(&Intent::idle(session.book.id()));
    session.took(rendered);
    session.drop_task(rendered.instance.id);
    match commit(session, changes) {
        Ok(()) => attempted,
        Err(message) => Attempted { outcome: Outcome::Failed, message: Some(message), ..attempted },
    }
}

/// Writes the intent of an action to the journal, with the record of the action.
fn log_action(session: &Session<'_>, record: Changes) -> Result<(), String> {
    let Some(journal) = &session.machine().journal else { return Ok(()) };
    let mut changes = Changes::default();
    changes.set(&Intent { phase: Phase::Action, book: session.book.id(), paths: Vec::new() });
    changes.append(record);
    journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))
}

/// Runs a handler, a `before` task or an `after` task of the TaskBook.
fn unconditional(session: &Session<'_>, task: &Task, writer: &FsWriter) -> Attempted {
    let begun = session.machine().clock.monotonic();
    let attempted = match instance::prepare(session.machine(), &session.renderer, task, None) {
        Prepared::Skipped(_) => Attempted { outcome: Outcome::Skipped, message: None, result: None },
        Prepared::Missing(missing_inputs) => {
            let shown = missing_inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Attempted::failed(format!("the task needs {shown}, which does not exist"))
        }
        Prepared::Failed(message) => Attempted::failed(message),
        Prepared::Ready(ready) => match log_intent(session, Phase::Handler, Changes::default()) {
            Err(error) => Attempted::failed(session.failed(error)),
            Ok(()) => {
                let (context, cancel) = (session.context(task), session.pass.cancel);
                run_with_retries(session, task, None, || execute(&*ready.options, &context, writer, cancel))
            }
        },
    };
    session.took_by_name(&task.id, begun);
    attempted
}

/// Runs a pending handler. Deletes the notification of the handler if the handler succeeds. If a task notifies the
/// handler while the handler runs, the journal keeps the notification.
fn handler(session: &Session<'_>, pending: &PendingHandler, writer: &FsWriter) -> Attempted {
    let key = session.id.task(pending.id.as_str());
    let notified: Option<HandlerRecord> = session.machine().record(&key);
    let attempted = match pending.task.map(|at| session.task(at)) {
        Some(Ok(task)) => unconditional(session, task, writer),
        Some(Err(message)) => Attempted::failed(message),
        None => match (notified.clone(), log_intent(session, Phase::Handler, Changes::default())) {
            (_, Err(error)) => Attempted::failed(session.failed(error)),
            (None, _) => Attempted::failed("the notification of the handler is missing from the journal"),
            (Some(HandlerRecord { module, params, script, .. }), Ok(())) => {
                run_without_book(session, &KeptTask { name: pending.id.clone(), module, params, script }, writer)
            }
        },
    };
    let mut changes = Changes::default();
    changes.set(&Intent::idle(session.book.id()));
    if attempted.outcome != Outcome::Failed && session.machine().record(&key) == notified {
        changes.delete::<kinds::Handler>(&key);
    }
    match commit(session, changes) {
        Ok(()) => attempted,
        Err(message) => Attempted { outcome: Outcome::Failed, message: Some(message), ..attempted },
    }
}

/// Returns the pending handlers. The handlers of the TaskBook come first, then the handlers that the TaskBook no longer
/// contains.
pub(super) fn pending(session: &Session<'_>) -> Vec<PendingHandler> {
    let mut records: Vec<(String, HandlerRecord)> = session.machine().records_of(&session.id);
    let mut all = Vec::new();
    for (index, handler) in session.book.handlers.iter().enumerate() {
        if let Some(at) = records.iter().position(|(id, _)| *id == handler.id) {
            let (id, record) = records.remove(at);
            let task = Some(TaskRef { list: List::Handlers, index });
            all.push(PendingHandler { id, module: record.module, task });
        }
    }
    let others = records.into_iter().map(|(id, record)| PendingHandler { id, module: record.module, task: None });
    all.extend(others);
    all
}

/// The record of a reboot that is due or done.
struct Reboot {
    key: TaskId,
    record: ActionRecord,
    is_done: bool,
}

/// Checks whether a reboot is due or done. Returns `None` if no reboot is due or done.
fn reboot_state(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> Result<Option<Reboot>, String> {
    let ready = &rendered.ready;
    let key = session.id.task(rendered.instance.name.as_str());
    let known: Option<ActionRecord> = match session.machine().try_record::<ActionRecord>(&key) {
        Ok(known) => known.filter(|known| known.definition == ready.definition),
        Err(error) => return Err(session.failed(batch::journal_failed(&error))),
    };
    let boot = boot_id();
    let (is_finished, began_in) = match &known {
        Some(known) => (known.state == ActionState::Finished, known.boot.clone()),
        None => (false, None),
    };
    let state = ActionState::Begun;
    let finished = known.and_then(|known| known.finished);
    let definition = ready.definition.clone();
    let record = ActionRecord { definition, state, interrupted: 0, finished, boot: boot.clone() };
    // A reboot after the timeout of the task still counts as done.
    if !is_finished && began_in.is_some() && began_in != boot {
        return Ok(Some(Reboot { key, record, is_done: true }));
    }
    let checked = ready.options.check(&session.context(task)).map_err(|error| session.failed(error))?;
    let is_due = matches!(checked, Checked::Change(_)) && !(is_finished && ready.options.runs_once());
    Ok(is_due.then_some(Reboot { key, record, is_done: false }))
}

/// Checks whether a reboot is due. Reboots the node if the reboot is due and admitted.
pub(super) fn reboot(session: &Session<'_>, id: InstanceId, permit: Option<Permit<'_>>) -> Rebooted {
    let (rendered, task) = match session.rendered(id) {
        Ok(found) => found,
        Err(message) => return Rebooted::Failed(message),
    };
    session.took(&rendered);
    match reboot_state(session, task, &rendered) {
        Err(message) => Rebooted::Failed(message),
        Ok(None) => Rebooted::NotDue,
        Ok(Some(Reboot { is_done: true, .. })) => Rebooted::Done,
        Ok(Some(Reboot { key, record, .. })) => match permit {
            Some(permit) => reboot_now(session, task, &rendered, (&key, record), permit),
            None => Rebooted::Due,
        },
    }
}

fn reboot_now(
    session: &Session<'_>,
    task: &Task,
    rendered: &RenderedTask,
    (key, record): (&TaskId, ActionRecord),
    permit: Permit<'_>,
) -> Rebooted {
    let mut begun = Changes::default();
    begun.put(key, &record);
    if let Err(message) = log_action(session, begun) {
        return Rebooted::Failed(message);
    }
    tracing::warn!(task = rendered.instance.name, "rebooting the node");
    let applied = rendered.ready.options.apply(&session.context(task), permit.writer());
    let message = match applied {
        // The operating system ends the agent during the reboot. Later tasks run after the reboot.
        Ok(_) if waits_for_its_end(session, task.timeout) => return Rebooted::Ending,
        Ok(_) => format!("the node did not reboot within {} s", task.timeout.as_secs()),
        Err(error) => session.failed(error),
    };
    let mut changes = Changes::default();
    changes.put(key, &ActionRecord { state: ActionState::Failed, ..record });
    Rebooted::Failed(commit(session, changes).err().unwrap_or(message))
}

/// Waits until the agent is asked to stop. Returns false at the timeout.
fn waits_for_its_end(session: &Session<'_>, timeout: Duration) -> bool {
    let begin = session.machine().clock.monotonic();
    while begin.elapsed() < timeout {
        if session.pass.cancel.is_cancelled() || (session.pass.stops)() {
            return true;
        }
        thread::sleep(Duration::from_millis(100));
    }
    false
}

/// Records that the node has rebooted, and notifies the handlers of the task.
fn rebooted(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> Attempted {
    let definition = rendered.ready.definition.clone();
    let finished = FinishedAction { definition: definition.clone(), result: Value::Null };
    let record = ActionRecord {
        definition,
        state: ActionState::Finished,
        interrupted: 0,
        finished: Some(finished),
        boot: boot_id(),
    };
    let mut changes = notified(session, task, None);
    changes.put(&session.id.task(rendered.instance.name.as_str()), &record);
    changes.set(&Intent::idle(session.book.id()));
    match commit(session, changes) {
        Ok(()) => Attempted { outcome: Outcome::Changed, message: None, result: None },
        Err(message) => Attempted::failed(message),
    }
}

/// Returns a `before` or `after` task for the removal of a deleted TaskBook.
fn kept(session: &Session<'_>, at: TaskRef) -> Option<KeptTask> {
    let last = session.last.as_ref()?;
    let tasks = if at.list == List::Before { &last.before } else { &last.after };
    tasks.get(at.index).cloned()
}

fn run_kept(session: &Session<'_>, task: &KeptTask, writer: &FsWriter) -> Attempted {
    match log_intent(session, Phase::Handler, Changes::default()) {
        Ok(()) => run_without_book(session, task, writer),
        Err(error) => Attempted::failed(session.failed(error)),
    }
}

/// Runs a task that the TaskBook no longer contains. The parameters of the task come from the journal.
fn run_without_book(session: &Session<'_>, record: &KeptTask, writer: &FsWriter) -> Attempted {
    let pass = session.pass;
    let (mut params, mut source) = (record.params.clone(), None);
    let schema = towpath_proto::module(&record.module);
    if schema.is_some_and(|module| module.runs_source) {
        // The revision may be deleted. The script was therefore saved in the journal when the handler was notified.
        let journal = pass.machine.journal.as_ref();
        let kept = record.script.as_ref().and_then(|kept| journal?.original(kept));
        let Some(bytes) = kept else {
            return Attempted::failed(
                "cannot run the task: its script was deleted with its revision; run the script by hand",
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
            return Attempted::failed(
                problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "),
            );
        }
    };
    let context = Context {
        reader: &pass.machine.reader,
        source,
        node: &pass.machine.node,
        task: &record.name,
        timeout: Duration::from_secs(600),
        cancel: pass.cancel,
        cache: &pass.machine.module_cache,
    };
    match execute(&*options, &context, writer, pass.cancel) {
        Ok(report) => Attempted {
            outcome: if report.ok { Outcome::Changed } else { Outcome::Failed },
            message: report.message.filter(|_| !report.ok),
            result: None,
        },
        Err(error) => Attempted::failed(session.failed(error)),
    }
}

/// Runs a module of any kind.
pub(super) fn execute(
    options: &dyn Resource,
    context: &Context<'_>,
    writer: &FsWriter,
    cancel: &Cancel,
) -> Result<Report, ModuleError> {
    match options.kind() {
        ModuleKind::Probe => options.observe(context),
        ModuleKind::Action | ModuleKind::Always => options.apply(context, writer),
        ModuleKind::State => match options.check(context)? {
            Checked::Change(_) if options.schema().applies_directly => options.apply(context, writer),
            Checked::Unknown(why) => Err(ModuleError::new(why)),
            Checked::Change(change) => apply_steps::all(change.steps, writer, cancel).map(|()| Report::success()),
            _ => Ok(Report::success()),
        },
    }
}

/// Returns a result in the form that the journal stores: without `changed` and `outcome`, and with shortened texts.
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
