//! Applies changes that a tool or daemon makes: packages, services and accounts. Several changes of the same kind form
//! one transaction.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use towpath_host::FsWriter;
use towpath_modules::{Checked, Context, ModuleError, Resource, apply_batch};
use towpath_reconcile::{
    Outcome,
    command::{Applied, InstanceId},
};
use towpath_render::objects::task::{Task, auto_handler};
use towpath_state::{AppliedItem, Changes, HandlerRecord, Intent, Managed, Phase, kinds};

use super::{
    Found, RenderedTask, Session, UNKNOWN,
    apply::{failed, notified},
    attempts::{Attempted, run_with_retries},
};
use crate::reconcile::{admission::Permit, pass::batch};

/// A change that a task needs and that a tool or daemon makes, with the records to undo the change.
struct DirectChange<'t> {
    position: usize,
    rendered: Arc<RenderedTask>,
    task: &'t Task,
    key: Managed,
    applied: AppliedItem,
    is_first: bool,
    /// The items that did not exist on the node before the change.
    recorded: Vec<Managed>,
}

impl DirectChange<'_> {
    fn resource(&self) -> &dyn Resource {
        &*self.rendered.ready.options
    }
}

/// The results of the changes in a set. Each number is the position of the change in the set.
type Results = Vec<(usize, Applied)>;

/// Applies direct changes. Returns one result for each task in `ids`, in the same order.
pub(super) fn changes(session: &Session<'_>, ids: &[InstanceId], permit: Permit<'_>) -> Vec<Applied> {
    let mut direct_changes = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        let Ok((rendered, task)) = session.rendered(*id) else { continue };
        let Some(Found::Change { key, applied, is_first, .. }) = rendered.take_found() else { continue };
        direct_changes.push(DirectChange { position, rendered, task, key, applied, is_first, recorded: Vec::new() });
    }
    let mut all: Vec<Applied> = ids.iter().map(|_| failed(UNKNOWN)).collect();
    for (position, result) in carry_out_all(session, direct_changes, permit.writer()) {
        if let Some(place) = all.get_mut(position) {
            *place = result;
        }
    }
    all
}

fn carry_out_all<'t>(session: &Session<'_>, direct_changes: Vec<DirectChange<'t>>, writer: &FsWriter) -> Results {
    let pending = pending_names(session);
    let mut before = Changes::default();
    let in_advance = |change: DirectChange<'t>| record_in_advance(session, change, &mut before);
    let direct_changes: Vec<DirectChange<'t>> = direct_changes.into_iter().map(in_advance).collect();
    if let Err(error) = log_intent(session, Phase::Action, before) {
        let message = session.failed(error);
        let not_recorded = |change: DirectChange<'_>| {
            change.recorded.iter().for_each(|key| session.machine().set_applied(key, None));
            (change.position, failed(message.clone()))
        };
        return direct_changes.into_iter().map(not_recorded).collect();
    }
    if direct_changes.len() == 1 {
        return direct_changes.into_iter().map(|change| carry_out(session, change, None, writer)).collect();
    }
    transaction(session, direct_changes, pending, writer)
}

/// Writes the intent of a change to the journal, with the records that must survive a crash during the change.
///
/// # Errors
/// Fails if the journal cannot be written. After an error, the caller must make no change.
pub(super) fn log_intent(session: &Session<'_>, phase: Phase, mut changes: Changes) -> Result<(), ModuleError> {
    let Some(journal) = &session.machine().journal else { return Ok(()) };
    changes.set(&Intent { phase, book: session.book.id(), paths: Vec::new() });
    journal.commit(changes).map_err(|error| batch::journal_failed(&error))
}

/// Writes the records of completed work to the journal.
///
/// # Errors
/// Fails if the journal cannot be written.
pub(super) fn commit(session: &Session<'_>, changes: Changes) -> Result<(), String> {
    let Some(journal) = &session.machine().journal else { return Ok(()) };
    journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))
}

fn pending_names(session: &Session<'_>) -> BTreeSet<String> {
    let pending = session.machine().records_of::<HandlerRecord>(&session.id);
    pending.into_iter().map(|(id, _)| id).collect()
}

/// Records the handler notifications and the undo before a change, because a crash during the change can lose both.
fn record_in_advance<'t>(session: &Session<'_>, change: DirectChange<'t>, before: &mut Changes) -> DirectChange<'t> {
    let (task, ready) = (change.task, &change.rendered.ready);
    let context = session.context(task);
    // A task with a `changed` expression notifies handlers only after its result is known.
    if task.changed.is_none() {
        before.append(notified(session, task, change.rendered.item()));
    }
    let undo = ready.options.undo(&context);
    if ready.options.parts().len() > 1 {
        let recorded = record_parts(session, change.resource(), undo.as_ref(), before);
        return DirectChange { recorded, ..change };
    }
    if !change.is_first {
        return change;
    }
    let applied = AppliedItem { undo, ..change.applied };
    let begun = AppliedItem { definition: String::new(), ..applied.clone() };
    before.put(&change.key, &begun);
    session.machine().set_applied(&change.key, Some(begun));
    DirectChange { recorded: vec![change.key.clone()], applied, ..change }
}

/// For a task that manages several items, records how to undo each new item. Returns the keys of the undo records.
fn record_parts(
    session: &Session<'_>,
    resource: &dyn Resource,
    undo: Option<&Value>,
    before: &mut Changes,
) -> Vec<Managed> {
    let mut recorded = Vec::new();
    let new = undo.and_then(|undo| undo.get("names")?.as_array().cloned()).unwrap_or_default();
    for name in new.iter().filter_map(Value::as_str) {
        let key = Managed { module: resource.name().to_owned(), identity: name.to_owned() };
        if session.machine().applied(&key).is_some() {
            continue;
        }
        let part = AppliedItem {
            definition: String::new(),
            generation: session.pass.accepted.generation,
            undo: Some(json!({ "name": name, "state": "absent" })),
        };
        before.put(&key, &part);
        session.machine().set_applied(&key, Some(part));
        recorded.push(key);
    }
    recorded
}

/// Applies a change whose intent is in the journal. `time` limits the duration of the change; `None` means the timeout
/// of the task.
fn carry_out(
    session: &Session<'_>,
    change: DirectChange<'_>,
    time: Option<Duration>,
    writer: &FsWriter,
) -> (usize, Applied) {
    let context = session.context(change.task);
    let context = Context { timeout: time.unwrap_or(context.timeout), ..context };
    let attempted =
        run_with_retries(session, change.task, change.rendered.item(), || change.resource().apply(&context, writer));
    record_result(session, &change, attempted)
}

/// Records the result of a change in the journal.
fn record_result(session: &Session<'_>, change: &DirectChange<'_>, attempted: Attempted) -> (usize, Applied) {
    let DirectChange { position, task, key, applied, rendered, .. } = change;
    let mut changes = Changes::default();
    if attempted.outcome != Outcome::Failed {
        changes.put(key, applied);
        session.machine().set_applied(key, Some(applied.clone()));
    }
    let started = attempted.result.as_ref().and_then(|result| result.get("started")) == Some(&Value::Bool(true));
    if started && !session.book.parallel {
        // The service was started after all earlier changes, so the pending restart of the service is not needed.
        changes.delete::<kinds::Handler>(&session.id.task(auto_handler(&task.id)));
    }
    if attempted.outcome == Outcome::Changed && task.changed.is_some() {
        changes.append(notified(session, task, rendered.item()));
    }
    changes.set(&Intent::idle(session.book.id()));
    let recorded = commit(session, changes);
    session.took(rendered);
    session.drop_task(rendered.instance.id);
    let result = match (recorded, attempted.outcome) {
        (Err(message), _) => failed(message),
        (Ok(()), Outcome::Changed) => Applied::Changed(attempted.finished()),
        (Ok(()), Outcome::Failed) => Applied::Failed(attempted.finished()),
        (Ok(()), _) => Applied::Unchanged(attempted.finished()),
    };
    (*position, result)
}

/// Returns the result of a change that a transaction made.
fn changed() -> Attempted {
    Attempted { outcome: Outcome::Changed, message: None, result: None }
}

/// Applies several changes in one transaction. If the transaction fails, applies the changes one by one in the
/// remaining time.
fn transaction(
    session: &Session<'_>,
    direct_changes: Vec<DirectChange<'_>>,
    pending: BTreeSet<String>,
    writer: &FsWriter,
) -> Results {
    let (machine, begun) = (session.machine(), session.machine().clock.monotonic());
    let time = direct_changes.iter().map(|change| change.task.timeout).max().unwrap_or_default();
    let Some(error) = apply_transaction(session, &direct_changes, (time, begun), writer) else {
        return direct_changes.into_iter().map(|change| record_result(session, &change, changed())).collect();
    };
    tracing::info!(
        book = session.book.id(),
        "the transaction of several tasks failed; applying the tasks one by one: {error}"
    );
    let (mut never, mut ran, mut ended) = (Vec::new(), pending, false);
    let mut results = Results::new();
    for change in direct_changes {
        let left = time.saturating_sub(machine.clock.monotonic().saturating_duration_since(begun));
        if ended || (session.pass.should_preempt)() {
            // Tasks after a failed task do not run, but the transaction may have completed them.
            ended = true;
            if !is_done(session, &change) {
                never.push(change);
                continue;
            }
            ran.extend(change.task.notify.iter().cloned());
            results.push(record_result(session, &change, changed()));
            continue;
        }
        ran.extend(change.task.notify.iter().cloned());
        let continues = change.task.continue_on_failure;
        let (position, result) = if left < time / 4 {
            session.took(&change.rendered);
            (change.position, failed(error.message.clone()))
        } else {
            let time = change.task.timeout.min(left);
            carry_out(session, change, Some(time), writer)
        };
        ended = matches!(result, Applied::Failed(_)) && !continues;
        results.push((position, result));
    }
    results.extend(never.iter().map(|change| (change.position, Applied::NotStarted)));
    discard_unstarted(session, never, &ran);
    results
}

/// Applies changes in one transaction. Returns the error if the transaction fails.
fn apply_transaction(
    session: &Session<'_>,
    direct_changes: &[DirectChange<'_>],
    (time, begun): (Duration, Instant),
    writer: &FsWriter,
) -> Option<ModuleError> {
    let (machine, book) = (session.machine(), session.book.id());
    let begin = |change: &DirectChange<'_>| machine.module_cache.activity.begin(&book, &change.task.id, begun);
    let _work: Vec<_> = direct_changes.iter().map(begin).collect();
    let context = session.context(direct_changes.first()?.task);
    let uses: Vec<&dyn Resource> = direct_changes.iter().map(DirectChange::resource).collect();
    apply_batch(&uses, &Context { timeout: time, ..context }, writer).err()
}

fn is_done(session: &Session<'_>, change: &DirectChange<'_>) -> bool {
    matches!(change.resource().check(&session.context(change.task)), Ok(Checked::InSync))
}

/// Deletes the undo records and the handler notifications of changes that did not run. The journal keeps the
/// notification of a handler if another task has notified the same handler.
fn discard_unstarted(session: &Session<'_>, direct_changes: Vec<DirectChange<'_>>, notified: &BTreeSet<String>) {
    let names: BTreeSet<String> = direct_changes.iter().map(|change| change.rendered.instance.name.clone()).collect();
    let mut changes = Changes::default();
    for change in direct_changes.into_iter().rev() {
        for key in missing(session, &change) {
            changes.delete::<kinds::Applied>(&key);
            session.machine().set_applied(&key, None);
        }
        for handler in change.task.notify.iter().filter(|handler| !notified.contains(*handler)) {
            let key = session.id.task(handler);
            let record: Option<HandlerRecord> = session.machine().record(&key);
            // A concurrent task may have notified the handler as well.
            if record.is_some_and(|record| record.by.is_subset(&names)) {
                changes.delete::<kinds::Handler>(&key);
            }
        }
    }
    if let Err(message) = commit(session, changes) {
        tracing::warn!(book = session.book.id(), "cannot drop the records of changes that did not run: {message}");
    }
}

/// Returns the keys of the undo records for items that do not exist on the node. An existing item keeps its undo
/// record, so that the item can be pruned later.
fn missing(session: &Session<'_>, change: &DirectChange<'_>) -> Vec<Managed> {
    let undo = change.resource().undo(&session.context(change.task));
    let missing = undo.as_ref().and_then(|undo| undo.get("names")?.as_array().cloned()).unwrap_or_default();
    let module = change.resource().name();
    let keys = missing.iter().filter_map(Value::as_str);
    let keys = keys.map(|name| Managed { module: module.to_owned(), identity: name.to_owned() });
    keys.filter(|key| change.recorded.contains(key)).collect()
}
