//! Evaluates loops, renders tasks and checks items. Rendering and checking do not change the node.

use std::sync::Arc;

use serde_json::Value;
use towpath_modules::{Change, Checked as CheckedResource, Resource, Step};
use towpath_proto::ModuleKind as Kind;
use towpath_reconcile::{
    Outcome,
    command::{Instance, InstanceId, Items, NotReady, Rendered, TaskRef},
    names::Managed as ManagedItem,
    outcome::result_of,
    plan::{
        assess::{Check, Checked, LastRun, Preview},
        instance::{BatchKey, Facts, ModuleKind},
    },
};
use towpath_render::{
    objects::task::Task,
    rendering::{Owner, Rendered as Rendering},
    template::MissingInput,
};
use towpath_state::{ActionRecord, ActionState, AppliedItem, Managed, TaskId};

use super::{
    Found, RenderedTask, Session,
    attempts::{holds, success_problem},
};
use crate::reconcile::pass::{
    SteadyCheck, batch,
    instance::{self, Prepared},
};

/// Evaluates the loop of a task, and returns its items.
pub(super) fn items(session: &Session<'_>, at: TaskRef) -> Result<Items, NotReady> {
    let task = session.task(at).map_err(failed)?;
    match session.renderer.items(task) {
        Ok(Rendering::Ready(None)) => Ok(Items::Single),
        Ok(Rendering::Ready(Some(items))) => Ok(Items::Loop(items)),
        Ok(Rendering::Missing(missing_inputs)) => Err(missing(session, &missing_inputs)),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Renders a task, and records the items that the task manages.
pub(super) fn render(session: &Session<'_>, instance: &Arc<Instance>) -> Result<Rendered, NotReady> {
    let begun = session.machine().clock.monotonic();
    let task = session.task(instance.task).map_err(failed)?;
    let ready = match instance::prepare(session.machine(), &session.renderer, task, instance.item.as_ref()) {
        Prepared::Skipped(managed) => {
            let managed = managed.map(|all| all.into_iter().map(managed_item).collect());
            return Ok(Rendered::Skipped(managed));
        }
        Prepared::Missing(missing_inputs) => return Err(missing(session, &missing_inputs)),
        Prepared::Failed(message) => return Err(failed(message)),
        Prepared::Ready(ready) => *ready,
    };
    let options = &*ready.options;
    let mut managed = Vec::new();
    if let Some(identity) = &ready.identity {
        let context = session.context(task);
        let module = options.name();
        let of = |part: &str| Managed { module: module.to_owned(), identity: part.to_owned() };
        let mut parts: Vec<Managed> = options.parts().iter().map(|part| of(part)).collect();
        if parts.is_empty() {
            parts.push(of(identity));
        }
        parts.extend(options.other_name(&context).filter(|name| name != identity).map(|name| of(&name)));
        let item = instance.item.as_ref().map(|item| item.index);
        let owner = Owner { task: format!("{}/{}", session.book.id(), task.id), item };
        if let Some(other) = session.claim(parts, &owner, options.kind() == Kind::State) {
            return Err(failed(format!(
                "{module} {identity} is managed by {other} too; remove one of the two tasks, or change the item of one task"
            )));
        }
        managed.extend(instance::managed(options, identity, &context).into_iter().map(managed_item));
        session.watch(options, &context);
    }
    let schema = options.schema();
    let facts = Facts {
        kind: kind(options),
        applies_directly: schema.applies_directly,
        interrupts: schema.interrupts,
        managed,
        path: options.path().map(str::to_owned),
        batch: options.batch().map(|key| BatchKey(format!("{} {}", key.module, key.settings))),
    };
    session.keep(RenderedTask::new(Arc::clone(instance), ready, begun));
    Ok(Rendered::Ready(facts))
}

pub(in crate::reconcile) fn managed_item(item: Managed) -> ManagedItem {
    ManagedItem { module: item.module, identity: item.identity }
}

/// Returns the kind of a task for the state machine of the run.
pub(super) fn kind(options: &dyn Resource) -> ModuleKind {
    match options.kind() {
        Kind::Probe => ModuleKind::Probe,
        _ if options.schema().reboots => ModuleKind::Reboot,
        Kind::Action => ModuleKind::Action,
        Kind::Always => ModuleKind::UnconditionalAction,
        Kind::State if options.schema().kind == Kind::Action => ModuleKind::ConditionalAction,
        Kind::State => ModuleKind::State,
    }
}

fn failed(message: String) -> NotReady {
    NotReady::failed(message)
}

/// Returns the outcome of a task whose inputs are missing. A dry run does not know the results of tasks that it does
/// not run.
fn missing(session: &Session<'_>, missing_inputs: &[MissingInput]) -> NotReady {
    let shown = missing_inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !missing_inputs.iter().all(|want| matches!(want, MissingInput::Step(_) | MissingInput::Computed(_))) {
        return NotReady::missing(Outcome::Held, format!("cannot read {shown} yet"));
    }
    let message = match session.lacking {
        Outcome::Unknown => format!("it depends on {shown}"),
        _ => format!("the task needs {shown}, which does not exist"),
    };
    NotReady::missing(session.lacking, message)
}

/// Compares the state of the node with a rendered task.
pub(super) fn check(session: &Session<'_>, id: InstanceId) -> Checked {
    let (rendered, task) = match session.rendered(id) {
        Ok(found) => found,
        Err(message) => return failed_check(message),
    };
    let checked = match kind(&*rendered.ready.options) {
        ModuleKind::State => state(session, task, &rendered),
        _ => action(session, task, &rendered),
    };
    session.took(&rendered);
    checked
}

fn failed_check(message: String) -> Checked {
    Checked { check: Check::Failed(message), last: None, shown: None }
}

fn state(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> Checked {
    let (ready, machine) = (&rendered.ready, session.machine());
    let context = session.context(task);
    let checked = match ready.options.check(&context) {
        Ok(checked) => checked,
        Err(error) => return failed_check(session.failed(error)),
    };
    let key = ready.managed();
    let known = machine.applied(&key);
    let same_definition = known.as_ref().is_some_and(|known| known.definition == ready.definition);
    let last = known.is_some().then(|| LastRun { same_definition, ..LastRun::default() });
    let is_first = known.is_none();
    let undo = known.and_then(|known| known.undo);
    let applied =
        AppliedItem { definition: ready.definition.clone(), generation: session.pass.accepted.generation, undo };
    let check = match checked {
        CheckedResource::InSync => in_sync(session, task, rendered, None),
        CheckedResource::InSyncWithData(data) => in_sync(session, task, rendered, Some(data)),
        CheckedResource::Unknown(why) => Check::Unknown(why),
        CheckedResource::Change(change) => {
            let is_direct = ready.options.schema().applies_directly;
            let mut applied = applied;
            // An item that existed when Towpath first saw it is never removed, even if Towpath has corrected its drift.
            if !is_direct && (is_first || ready.options.undo_is_fixed()) {
                applied.undo = ready.options.undo(&context).or(applied.undo);
            }
            let is_quiet = !is_direct && is_quiet(session, task, rendered);
            let preview = preview(&change, is_quiet);
            rendered.keep(Found::Change { change, key, applied, is_first, is_quiet });
            return Checked { check: Check::Differs(preview), last, shown: None };
        }
    };
    if matches!(check, Check::InSync(_)) {
        if !same_definition {
            session.notes().in_sync.insert(rendered.instance.id, (key, applied));
        }
        session.drop_task(rendered.instance.id);
    }
    Checked { check, last, shown: None }
}

/// Ends the check of an item that is in sync. A later pass can repeat the check to confirm the steady state.
fn in_sync(session: &Session<'_>, task: &Task, rendered: &RenderedTask, data: Option<Value>) -> Check {
    let options = &rendered.ready.options;
    let context = session.context(task);
    let expectations = match options.schema().applies_directly {
        true => None,
        false => options.expectations(&context, &session.machine().digest_key),
    };
    let steady_checks = expectations.map_or_else(
        || {
            let source = context.source.clone().filter(|_| options.reads_source());
            SteadyCheck::Check { options: Arc::clone(options), source, timeout: task.timeout }
        },
        SteadyCheck::Expectations,
    );
    let place = (rendered.instance.task, rendered.item().map_or(0, |item| item.index));
    session.notes().steady_checks.insert(place, steady_checks);
    match success_problem(session, task, rendered.item(), Outcome::Unchanged) {
        Some(problem) => Check::Failed(problem),
        None => Check::InSync(data),
    }
}

fn is_quiet(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> bool {
    task.changed.as_ref().is_some_and(|expression| {
        let result = result_of(Outcome::Changed, []);
        holds(session, task, rendered.item(), "changed", expression, &result) == Ok(false)
    })
}

fn preview(change: &Change, quiet: bool) -> Preview {
    // Only writes of files are batched. Other changes keep their order.
    let steps = || change.steps.iter().map(Step::inner);
    let plain = steps().all(|step| matches!(step, Step::Write { .. } | Step::MakeDirectory { .. }))
        && steps().any(|step| matches!(step, Step::Write { .. }));
    let written = steps().filter(|step| !matches!(step, Step::MakeDirectory { .. }) && !step.path().is_empty());
    let writes = written.map(|step| step.path().to_owned()).collect();
    Preview { action: change.verb.as_str(), diff: change.diff.clone(), plain, writes, quiet }
}

/// Returns the journal key for the record of an action.
pub(super) fn action_key(session: &Session<'_>, instance: &Instance) -> TaskId {
    session.id.task(format!("{}{}", instance.name, instance::item_mark(instance.item.as_ref())))
}

fn action(session: &Session<'_>, task: &Task, rendered: &RenderedTask) -> Checked {
    let ready = &rendered.ready;
    let key = action_key(session, &rendered.instance);
    let known: Option<ActionRecord> = match session.machine().try_record(&key) {
        Ok(known) => known,
        Err(error) => return failed_check(session.failed(batch::journal_failed(&error))),
    };
    let checked = match ready.options.check(&session.context(task)) {
        Ok(checked) => checked,
        Err(error) => return failed_check(session.failed(error)),
    };
    let last = known.as_ref().map(|known| last_run(known, &ready.definition));
    rendered.keep(Found::Action(known));
    let (check, shown) = match checked {
        CheckedResource::InSync => (Check::InSync(None), None),
        CheckedResource::InSyncWithData(data) => (Check::InSync(Some(data)), None),
        CheckedResource::Unknown(why) => (Check::Unknown(why), None),
        CheckedResource::Change(change) => (Check::Differs(preview(&change, false)), None),
    };
    let shown = shown.or_else(|| ready.params.get("url").and_then(Value::as_str).map(str::to_owned));
    Checked { check, last, shown }
}

/// Reads the most recent run of an action from the action's record.
pub(super) fn last_run(known: &ActionRecord, definition: &str) -> LastRun {
    let same_definition = known.definition == definition;
    let finished = known.finished.as_ref();
    let interrupted = if same_definition {
        known.interrupted.saturating_add(u32::from(known.state == ActionState::Begun))
    } else {
        0
    };
    LastRun {
        same_definition,
        finished: finished.is_some_and(|finished| finished.definition == definition),
        interrupted,
        fields: finished.map(|finished| finished.result.clone()).unwrap_or_default(),
    }
}
