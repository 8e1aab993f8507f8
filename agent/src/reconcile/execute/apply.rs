//! Applies changes of files in journaled batches, and records the notifications of handlers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::Value;
use towpath_modules::Step;
use towpath_reconcile::{
    Outcome,
    command::{Applied, Finished, InstanceId},
};
use towpath_render::{objects::task::Task, rendering::Item, rendering::Rendered as Rendering};
use towpath_state::{Changes, HandlerRecord, KeptTask};

use super::{Found, RenderedTask, Session, UNKNOWN, attempts::success_problem};
use crate::reconcile::{
    admission::Permit,
    pass::{
        batch::{self, Waiting},
        instance,
    },
};

/// Applies the file changes of several tasks as one batch. Returns one result for each task in `ids`, in the same
/// order.
pub(super) fn files(session: &Session<'_>, ids: &[InstanceId], permit: Permit<'_>) -> Vec<Applied> {
    let machine = session.machine();
    let mut results: Vec<Applied> = ids.iter().map(|_| failed(UNKNOWN)).collect();
    let Some(journal) = &machine.journal else { return results };
    let (mut waiting, mut members) = (Vec::new(), BTreeMap::new());
    let mut directly: Vec<PathBuf> = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        let Ok((rendered, task)) = session.rendered(*id) else { continue };
        let Some(Found::Change { change, key, applied, is_quiet, .. }) = rendered.take_found() else { continue };
        let handlers = if is_quiet { Changes::default() } else { notified(session, task, rendered.item()) };
        let others = change.steps.iter().filter(|step| !matches!(step.inner(), Step::Write { .. }));
        directly.extend(others.filter_map(|step| batch::changed_path(machine, step)));
        waiting.push(Waiting { position, steps: change.steps, key, applied, handlers });
        members.insert(position, (rendered, task, is_quiet));
    }
    let book = session.book.id();
    let outcomes = batch::carry_out(machine, journal, &book, waiting, permit, session.pass.cancel);
    session.saw_own_changes(directly);
    for (position, outcome) in outcomes {
        let (Some(result), Some((rendered, task, is_quiet))) = (results.get_mut(position), members.remove(&position))
        else {
            continue;
        };
        *result = match outcome {
            Ok(()) => record_result(session, task, &rendered, is_quiet),
            Err(error) => failed(session.failed(error)),
        };
        session.took(&rendered);
        session.drop_task(rendered.instance.id);
    }
    results
}

fn record_result(session: &Session<'_>, task: &Task, rendered: &RenderedTask, is_quiet: bool) -> Applied {
    let outcome = if is_quiet { Outcome::Unchanged } else { Outcome::Changed };
    match success_problem(session, task, rendered.item(), outcome) {
        Some(problem) => failed(problem),
        None if is_quiet => Applied::Unchanged(Finished::default()),
        None => Applied::Changed(Finished::default()),
    }
}

/// Returns the result of a change that failed.
pub(super) fn failed(message: impl Into<String>) -> Applied {
    Applied::Failed(Finished { message: Some(message.into()), result: None })
}

/// Returns the records of the handlers that a task notifies.
pub(super) fn notified(session: &Session<'_>, task: &Task, item: Option<&Item>) -> Changes {
    let mut changes = Changes::default();
    for id in &task.notify {
        let Some(handler) = session.book.handlers.iter().find(|handler| handler.id == *id) else { continue };
        let key = session.id.task(id);
        let mut record = session.machine().record(&key).unwrap_or(HandlerRecord {
            module: String::new(),
            params: Value::Null,
            script: None,
            by: BTreeSet::new(),
        });
        if let Some(module) = &handler.module {
            record.module = module.name.to_owned();
        }
        if let Ok(Rendering::Ready(params)) = session.renderer.params(handler, None) {
            record.params = params.into_value();
        }
        record.script = kept_script(session, handler, &record.params);
        record.by.insert(instance::name(task, item));
        changes.put(&key, &record);
    }
    changes
}

/// Returns a rendered copy of a task. The copy can run after the TaskBook is deleted. Returns `Some(None)` for a task
/// that does not run on this node. Returns `None` if the task cannot be rendered now.
pub(super) fn kept_task(session: &Session<'_>, task: &Task) -> Option<Option<KeptTask>> {
    let Some(module) = &task.module else { return Some(None) };
    let Ok(Rendering::Ready(runs)) = session.renderer.condition(task, None) else { return None };
    if !runs {
        return Some(None);
    }
    let Ok(Rendering::Ready(params)) = session.renderer.params(task, None) else { return None };
    let params = params.into_value();
    let script = kept_script(session, task, &params);
    Some(Some(KeptTask { name: task.id.clone(), module: module.name.to_owned(), params, script }))
}

/// Saves the script of a task in the journal. The revision of the script may be deleted before the task runs.
fn kept_script(session: &Session<'_>, task: &Task, params: &Value) -> Option<String> {
    let runs_source = task.module.as_ref().is_some_and(|module| module.schema.runs_source);
    let journal = session.machine().journal.as_ref().filter(|_| runs_source)?;
    let (tree, folder) = session.context(task).source?;
    let path = towpath_render::tree::join(&folder, params.get("source")?.as_str()?).ok()?;
    journal.keep_original(&tree.read(&path).ok()??).ok()
}
