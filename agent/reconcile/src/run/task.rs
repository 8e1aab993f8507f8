//! The execution of one task: loop, rendering, check and change.

use std::sync::Arc;

use serde_json::{Value, json};
use towpath_render::{
    objects::task::{Drift, Task},
    rendering::Item,
};

use super::{
    context::{Run, Steps, Stop},
    lane::Lane,
    segment::handlers,
    slots::announce_absence,
};
use crate::{
    command::{Command, Executed, Instance, Invocation, Items, List, NotReady, Rebooted, Rendered, TaskRef},
    outcome::{Origin, Outcome, TaskReport},
    plan::{
        assess::{Admission, Assessment, Cause, Check, Checked, LastRun, Preview, RunMode, assess},
        batch::{Queued, can_wait},
        instance::{self, Facts, ModuleKind},
    },
};

/// Runs one task of the book.
pub(super) async fn task(run: &Run, lane: &mut Lane, index: usize) {
    let at = TaskRef { list: List::Tasks, index };
    let Some(task) = run.task(at) else { return };
    // The queue may hold a change of a required task.
    if !task.requires.is_empty() && !lane.flush(run).await {
        return;
    }
    if let Some(missing) = lane.unmet_by(task) {
        let message = format!("not run: the required task {missing:?} failed or is held");
        lane.note_unknown_items();
        let report = report(task, None, Outcome::Skipped).with_message(message);
        lane.fail(task);
        return finish(run, lane, task, report, None).await;
    }
    if task.sync || task.flush_handlers {
        if !lane.flush(run).await {
            return;
        }
        // In a coordinated book, handlers run at the end of each segment.
        if task.flush_handlers || run.inputs.rollout.is_none() {
            lane.add(handlers(run).await);
        }
        if lane.stopped() {
            return;
        }
        if task.module.is_none() {
            lane.reach(task);
            lane.push(report(task, None, Outcome::Unchanged));
            return;
        }
    }
    lane.reach(task);
    let mut items = run.channel.items(Command::Items(at)).await;
    if items.as_ref().is_err_and(|why| why.is_missing) && !lane.queue().is_empty() {
        // A queued change may supply the missing result.
        if !lane.flush(run).await {
            return;
        }
        items = run.channel.items(Command::Items(at)).await;
    }
    match items {
        Err(why) => drop(not_ready(run, lane, task, None, why).await),
        Ok(Items::Single) => drop(item(run, lane, at, task, None).await),
        Ok(Items::Loop(items)) => all_items(run, lane, at, task, items).await,
    }
}

/// Runs a task for each item of its loop.
async fn all_items(run: &Run, lane: &mut Lane, at: TaskRef, task: &Task, items: Vec<Item>) {
    if task.register.is_some() && !lane.flush(run).await {
        return;
    }
    let (mut results, count) = (Vec::new(), items.len());
    for one in items {
        if lane.stopped() {
            break;
        }
        if run.channel.preempted() {
            lane.stop(Stop::Preempted);
            break;
        }
        results.extend(item(run, lane, at, task, Some(one)).await);
    }
    if task.register.is_some() {
        lane.flush(run).await;
        // A dry run does not know the results of its changes.
        let unknown = !run.inputs.ends_at_failure && results.len() < count;
        if let Some(result) = lane.loop_result(&results).filter(|_| !unknown) {
            lane.register(run, task, result).await;
        }
    }
}

/// Runs a task, or one item of its loop. Returns the position of the task's report. Returns `None` if the task or loop
/// item waits for an input, or if the lane of tasks has ended.
async fn item(run: &Run, lane: &mut Lane, at: TaskRef, task: &Task, item: Option<Item>) -> Option<usize> {
    let name = instance::name(task, item.as_ref());
    let instance = Arc::new(Instance { id: run.channel.new_instance(), task: at, item, name });
    let mut rendered = run.channel.render(Command::Render(Arc::clone(&instance))).await;
    if rendered.as_ref().is_err_and(|why| why.is_missing) && !lane.queue().is_empty() {
        if !lane.flush(run).await {
            return None;
        }
        rendered = run.channel.render(Command::Render(Arc::clone(&instance))).await;
    }
    match rendered {
        Err(why) => not_ready(run, lane, task, Some(&instance), why).await,
        Ok(Rendered::Skipped(managed)) => {
            lane.manage(managed);
            let report = report(task, Some(&instance), Outcome::Skipped);
            finish_item(run, lane, task, &instance, report, None).await
        }
        Ok(Rendered::Ready(facts)) => ready(run, lane, task, instance, facts).await,
    }
}

/// Reports a task that cannot be rendered. A task with a missing input is held, and the remaining tasks of the lane do
/// not run.
async fn not_ready(
    run: &Run,
    lane: &mut Lane,
    task: &Task,
    instance: Option<&Arc<Instance>>,
    why: NotReady,
) -> Option<usize> {
    lane.note_unknown_items();
    let report = report(task, instance.map(Arc::as_ref), why.outcome).with_message(why.message);
    match why.outcome {
        Outcome::Failed => match instance {
            Some(instance) => return finish_item(run, lane, task, instance, report, None).await,
            None => finish(run, lane, task, report, None).await,
        },
        outcome => {
            lane.push(report);
            if outcome == Outcome::Held {
                lane.fail(task);
            }
            if outcome == Outcome::Held && !task.continue_on_failure && run.inputs.ends_at_failure {
                lane.stop(Stop::Held);
            }
        }
    }
    None
}

async fn ready(run: &Run, lane: &mut Lane, task: &Task, instance: Arc<Instance>, mut facts: Facts) -> Option<usize> {
    lane.manage(Some(std::mem::take(&mut facts.managed)));
    // A task that cannot join the transaction ends the transaction.
    if !lane.queue().accepts(facts.batch.as_ref()) && !lane.flush(run).await {
        return None;
    }
    match facts.kind {
        ModuleKind::Probe => probe(run, lane, task, &instance).await,
        ModuleKind::Reboot => reboot(run, lane, task, &instance).await,
        ModuleKind::Action | ModuleKind::ConditionalAction | ModuleKind::UnconditionalAction => {
            action(run, lane, task, &instance, &facts).await
        }
        ModuleKind::State => state(run, lane, task, instance, &facts).await,
    }
}

/// Runs a probe, if the segment runs probes or if the probe registers its result.
async fn probe(run: &Run, lane: &mut Lane, task: &Task, instance: &Arc<Instance>) -> Option<usize> {
    // A probe with a registered result runs in every pass.
    if task.register.is_some() {
        lane.note_unsteady();
    }
    if !run.segment.borrow().probes && task.register.is_none() {
        let report = report(task, Some(instance), Outcome::Unchanged);
        return finish_item(run, lane, task, instance, report, None).await;
    }
    // The queue may hold a change that the probe reads.
    if !lane.flush(run).await {
        return None;
    }
    let (outcome, finished) = match run.channel.execute(Invocation::Probe(instance.id)).await {
        Executed::Ran(Outcome::Changed, finished) => (Outcome::Unchanged, finished),
        Executed::Ran(outcome, finished) => (outcome, finished),
        Executed::Planned => {
            let message = Some("the probe runs after the earlier changes are applied".to_owned());
            (Outcome::Unknown, crate::command::Finished { message, result: None })
        }
    };
    let report = report(task, Some(instance), outcome).with_message(finished.message);
    if outcome == Outcome::Unknown {
        lane.push(report);
        return None;
    }
    let result = finished.result.map(|result| as_unchanged(result, outcome));
    finish_item(run, lane, task, instance, report, result).await
}

/// Sets `changed` to false in the result of a probe.
fn as_unchanged(mut result: Value, outcome: Outcome) -> Value {
    if let Some(map) = result.as_object_mut() {
        map.insert("changed".into(), false.into());
        map.insert("outcome".into(), outcome.as_str().into());
    }
    result
}

/// Runs an action if its definition is new, or if the conditions of the action require a run.
async fn action(run: &Run, lane: &mut Lane, task: &Task, instance: &Arc<Instance>, facts: &Facts) -> Option<usize> {
    if facts.kind != ModuleKind::Action {
        lane.note_unsteady();
    }
    // The queue may hold files that the action depends on.
    if !lane.flush(run).await {
        return None;
    }
    let checked = run.channel.check(instance.id).await;
    let last = checked.last.clone().unwrap_or_default();
    let mut report = report(task, Some(instance), Outcome::Unchanged);
    match assessed(run, task, facts, &checked) {
        Assessment::Failed(why) => {
            let report = TaskReport { outcome: Outcome::Failed, message: Some(why), ..report };
            finish_item(run, lane, task, instance, report, None).await
        }
        Assessment::Run => {
            if let (Check::Unknown(why), false) = (&checked.check, run.inputs.ends_at_failure) {
                // A dry run does not run the commands of conditions, so it cannot know if the action would run (D25).
                lane.push(TaskReport {
                    outcome: Outcome::Unknown,
                    action: "unknown",
                    message: Some(why.clone()),
                    ..report
                });
                return None;
            }
            report.action = "run";
            report.diff = match checked.check {
                Check::Differs(Preview { diff, .. }) => Some(diff),
                _ => checked.shown,
            };
            run_action(run, lane, task, instance, report, &last).await
        }
        left => {
            if matches!(left, Assessment::Left(_)) {
                report.origin = Origin::Drift;
            }
            report.message = (last.same_definition && last.interrupted > 0).then(|| interrupted(last.interrupted));
            if left == Assessment::Left(true) {
                report.message = Some(DRIFT_IS_LEFT.to_owned());
            }
            let fields = last.fields.as_object().cloned().unwrap_or_default();
            let result = report.result(fields);
            finish_item(run, lane, task, instance, report, Some(result)).await
        }
    }
}

/// The message for drift that the task's drift policy does not correct.
const DRIFT_IS_LEFT: &str = "the drift is not corrected (drift: report)";

async fn run_action(
    run: &Run,
    lane: &mut Lane,
    task: &Task,
    instance: &Arc<Instance>,
    planned: TaskReport,
    last: &LastRun,
) -> Option<usize> {
    lane.note_unsteady();
    if let Err(why) = lane.begin(run).await {
        let report = TaskReport { outcome: why.outcome(), message: Some(why.message()), ..planned };
        return finish_item(run, lane, task, instance, report, None).await;
    }
    let Executed::Ran(outcome, finished) = run.channel.execute(Invocation::Action(instance.id)).await else {
        lane.push(planned);
        return None;
    };
    let message = finished
        .message
        .or_else(|| (last.same_definition && last.interrupted > 0).then(|| interrupted(last.interrupted)));
    let report = TaskReport { outcome, message, ..planned };
    finish_item(run, lane, task, instance, report, finished.result).await
}

fn interrupted(times: u32) -> String {
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!("the action was interrupted {times} before its end, and ran again")
}

/// Checks the state of a task, and makes or queues the change that the task needs.
async fn state(run: &Run, lane: &mut Lane, task: &Task, instance: Arc<Instance>, facts: &Facts) -> Option<usize> {
    // The check of a direct change may depend on queued changes of files.
    let depends = facts.applies_directly || facts.path.as_ref().is_some_and(|path| lane.queue().affects(path));
    if depends && !lane.flush_files(run).await {
        return None;
    }
    let checked = run.channel.check(instance.id).await;
    let mut report = report(task, Some(&instance), Outcome::Unchanged);
    let assessment = assessed(run, task, facts, &checked);
    match (assessment, checked.check) {
        (Assessment::InSync { record }, check) => {
            if record {
                lane.observe(instance.id);
            }
            let data = if let Check::InSync(data) = check { data } else { None };
            if data.is_some() && task.register.is_some() {
                // Registered data may differ the next time.
                lane.note_unsteady();
            }
            let result = data.map(|data| report.result([("data".to_owned(), data)]));
            finish_item(run, lane, task, &instance, report, result).await
        }
        (Assessment::Left(reported), check) => {
            lane.note_unsteady();
            report.diff = if let Check::Differs(preview) = check { Some(preview.diff) } else { None };
            report.origin = Origin::Drift;
            report.message = reported.then(|| DRIFT_IS_LEFT.to_owned());
            finish_item(run, lane, task, &instance, report, None).await
        }
        // All tasks before a direct change have run, so no later task can make the state known.
        (Assessment::Unknown(why), _) if facts.applies_directly && run.inputs.ends_at_failure => {
            lane.note_unknown_items();
            let report = TaskReport { outcome: Outcome::Failed, message: Some(why), ..report };
            finish_item(run, lane, task, &instance, report, None).await
        }
        (Assessment::Unknown(why), _) => {
            lane.note_unknown_items();
            lane.push(TaskReport { outcome: Outcome::Unknown, action: "unknown", message: Some(why), ..report });
            None
        }
        (Assessment::Failed(why), _) => {
            lane.note_unknown_items();
            let report = TaskReport { outcome: Outcome::Failed, message: Some(why), ..report };
            finish_item(run, lane, task, &instance, report, None).await
        }
        (Assessment::Change(cause, admission), Check::Differs(preview)) => {
            lane.note_unsteady();
            let waits = if facts.applies_directly {
                can_wait(task, facts)
            } else {
                preview.plain && task.register.is_none() && task.success.is_none() && task.changed.is_none()
            };
            let alone = facts.applies_directly && !(waits && lane.queue().accepts(facts.batch.as_ref()));
            if (alone || !facts.applies_directly && !preview.plain) && !lane.flush(run).await {
                return None;
            }
            let position = lane.push(change_report(task, &instance, cause, &preview));
            let batch = facts.batch.clone().filter(|_| waits);
            let change = Queued { instance, report: position, admission, writes: preview.writes, batch };
            let full = if facts.applies_directly {
                lane.queue_direct(change);
                false
            } else {
                lane.queue_files(change)
            };
            if full || !waits {
                lane.flush(run).await;
            }
            lane.outcome(position).map(|_| position)
        }
        // `assess` returns `Run` only for actions, and a change only for a state that differs.
        (Assessment::Run | Assessment::Change(..), _) => None,
    }
}

/// Queues corrections of file content for a task that does not run because an earlier task is held. Corrections of file
/// content need no admission.
pub(super) async fn queue_content(run: &Run, lane: &mut Lane, index: usize) {
    let at = TaskRef { list: List::Tasks, index };
    let is_state = |task: &&Task| task.module.as_ref().is_some_and(|module| module.schema.is_state());
    // An elected task runs only on the elected nodes.
    let is_own = |task: &&Task| is_state(task) && task.elect.is_none() && lane.unmet_by(task).is_none();
    let Some(task) = run.task(at).filter(is_own) else { return };
    let items = match run.channel.items(Command::Items(at)).await {
        Err(_) => return,
        Ok(Items::Single) => vec![None],
        Ok(Items::Loop(items)) => items.into_iter().map(Some).collect(),
    };
    for item in items {
        let name = instance::name(task, item.as_ref());
        let instance = Arc::new(Instance { id: run.channel.new_instance(), task: at, item, name });
        let rendered = run.channel.render(Command::Render(Arc::clone(&instance))).await;
        let Ok(Rendered::Ready(facts)) = rendered else { continue };
        if facts.kind != ModuleKind::State || facts.applies_directly {
            continue;
        }
        let checked = run.channel.check(instance.id).await;
        if let (Assessment::Change(cause, Admission::Free), Check::Differs(preview)) =
            (assessed(run, task, &facts, &checked), checked.check)
            && !lane.queue().depends_on_held(&preview.writes)
        {
            lane.reach(task);
            let report = lane.push(change_report(task, &instance, cause, &preview));
            let admission = Admission::Free;
            lane.queue_files(Queued { instance, report, admission, writes: preview.writes, batch: None });
        }
    }
}

/// Returns the report for a queued change.
fn change_report(task: &Task, instance: &Instance, cause: Cause, preview: &Preview) -> TaskReport {
    let mut report = report(task, Some(instance), Outcome::Changed);
    report.action = preview.action;
    report.diff = Some(preview.diff.clone());
    if cause == Cause::Drift {
        report.origin = Origin::Drift;
    }
    report.message = match cause {
        Cause::Commit => None,
        Cause::Input => Some("an input has changed: facts, variables or other nodes".to_owned()),
        Cause::Drift => Some("drift was corrected".to_owned()),
    };
    report
}

/// Reboots the node if a reboot is due, or continues the task after the reboot.
async fn reboot(run: &Run, lane: &mut Lane, task: &Task, instance: &Arc<Instance>) -> Option<usize> {
    if !lane.flush(run).await {
        return None;
    }
    // Every pass checks for a pending reboot.
    lane.note_unsteady();
    let mut planned = report(task, Some(instance), Outcome::Unchanged);
    let mut rebooted = run.channel.reboot(instance.id, false).await;
    if rebooted == Rebooted::Due {
        planned.action = "run";
        planned.diff = Some("reboot\n".to_owned());
        let begun = match lane.begin(run).await {
            Ok(()) => announce_absence(run, instance.id).await.inspect_err(|why| lane.add(Steps::refused(why))),
            Err(why) => Err(why),
        };
        if let Err(why) = begun {
            let report = TaskReport { outcome: why.outcome(), message: Some(why.message()), ..planned };
            return finish_item(run, lane, task, instance, report, None).await;
        }
        rebooted = run.channel.reboot(instance.id, true).await;
    }
    match rebooted {
        Rebooted::NotDue => finish_item(run, lane, task, instance, planned, None).await,
        Rebooted::Done => {
            let executed = run.channel.execute(Invocation::Rebooted(instance.id)).await;
            let Executed::Ran(outcome, finished) = executed else {
                lane.push(planned);
                return None;
            };
            let message = finished.message.or_else(|| Some("the node was rebooted".to_owned()));
            let report = TaskReport { outcome, message, ..planned };
            finish_item(run, lane, task, instance, report, finished.result).await
        }
        Rebooted::Ending => {
            lane.push(TaskReport { outcome: Outcome::Held, ..planned }.with_message("the node reboots".to_owned()));
            lane.stop(Stop::Preempted);
            None
        }
        // A dry run plans the reboot without starting it.
        Rebooted::Due => {
            lane.push(planned);
            None
        }
        Rebooted::Failed(why) => {
            lane.note_unknown_items();
            let report = TaskReport { outcome: Outcome::Failed, message: Some(why), ..planned };
            finish_item(run, lane, task, instance, report, None).await
        }
    }
}

fn assessed(run: &Run, task: &Task, facts: &Facts, checked: &Checked) -> Assessment {
    let policy: Drift = task.drift.unwrap_or(run.inputs.drift);
    assess(facts, checked, policy, run.mode(), !task.notify.is_empty())
}

fn report(task: &Task, instance: Option<&Instance>, outcome: Outcome) -> TaskReport {
    let name = instance.map_or_else(|| task.id.clone(), |instance| instance.name.clone());
    let mut report = TaskReport::new(name, instance::module(task), outcome);
    report.instance = instance.map(|instance| instance.id);
    report
}

/// Ends a task or a loop item: adds the report, registers the result, and stops the lane of tasks after a failure.
async fn finish_item(
    run: &Run,
    lane: &mut Lane,
    task: &Task,
    instance: &Instance,
    report: TaskReport,
    result: Option<Value>,
) -> Option<usize> {
    if instance.item.is_none() {
        let position = lane.next_position();
        finish(run, lane, task, report, result).await;
        return Some(position);
    }
    let position = conclude(run, lane, task, report);
    if let Some(result) = result {
        lane.keep_result(position, result);
    }
    Some(position)
}

async fn finish(run: &Run, lane: &mut Lane, task: &Task, report: TaskReport, result: Option<Value>) {
    let result = result.unwrap_or_else(|| report.result([]));
    conclude(run, lane, task, report);
    lane.register(run, task, result).await;
}

/// Adds a report, and stops the lane of tasks after a failure. Returns the position of the report.
fn conclude(run: &Run, lane: &mut Lane, task: &Task, report: TaskReport) -> usize {
    let outcome = report.outcome;
    let position = lane.push(report);
    if outcome >= Outcome::Held {
        lane.fail(task);
    }
    if outcome == Outcome::Failed && !task.continue_on_failure && run.inputs.ends_at_failure {
        lane.stop(Stop::Failed);
    }
    position
}

/// Returns true if a task needs a change, or if the check of a task must wait for an earlier change. A probe with a
/// registered result runs, because later tasks read the result.
pub(super) async fn would_change(run: &Run, indices: impl Iterator<Item = usize>) -> bool {
    for index in indices {
        if run.channel.preempted() {
            return true;
        }
        let at = TaskRef { list: List::Tasks, index };
        let Some(task) = run.task(at).filter(|task| task.module.is_some()) else { continue };
        let unchanged = match run.channel.items(Command::Items(at)).await {
            Err(_) => None,
            Ok(Items::Single) => item_unchanged(run, task, at, None).await.map(|(_, result)| result),
            Ok(Items::Loop(items)) => items_unchanged(run, task, at, items).await,
        };
        let Some(result) = unchanged else { return true };
        if let Some(name) = &task.register
            && run.channel.record(Command::Register(name.clone(), result)).await.is_err()
        {
            return true;
        }
    }
    false
}

/// Returns the result of a loop that changes nothing. Returns `None` if the loop needs a change.
async fn items_unchanged(run: &Run, task: &Task, at: TaskRef, items: Vec<Item>) -> Option<Value> {
    let (mut worst, mut results) = (Outcome::Skipped, Vec::new());
    for item in items {
        let (outcome, result) = item_unchanged(run, task, at, Some(item)).await?;
        worst = worst.max(outcome);
        results.push(result);
    }
    Some(json!({ "results": results, "changed": false, "outcome": worst.as_str() }))
}

/// Returns the outcome and the result of a task or loop item that changes nothing. Returns `None` if the task needs a
/// change.
async fn item_unchanged(run: &Run, task: &Task, at: TaskRef, item: Option<Item>) -> Option<(Outcome, Value)> {
    let name = instance::name(task, item.as_ref());
    let instance = Arc::new(Instance { id: run.channel.new_instance(), task: at, item, name });
    let default = |outcome| report(task, Some(&instance), outcome);
    let unchanged = |fields: Option<&Value>| {
        let fields = fields.and_then(Value::as_object).cloned().unwrap_or_default();
        Some((Outcome::Unchanged, default(Outcome::Unchanged).result(fields)))
    };
    let facts = match run.channel.render(Command::Render(Arc::clone(&instance))).await.ok()? {
        Rendered::Skipped(_) => return Some((Outcome::Skipped, default(Outcome::Skipped).result([]))),
        Rendered::Ready(facts) => facts,
    };
    match facts.kind {
        ModuleKind::Probe if task.register.is_none() => unchanged(None),
        ModuleKind::Probe => {
            let Executed::Ran(outcome, finished) = run.channel.execute(Invocation::Probe(instance.id)).await else {
                return None;
            };
            let result = finished.result.filter(|_| outcome < Outcome::Held)?;
            Some((Outcome::Unchanged, as_unchanged(result, Outcome::Unchanged)))
        }
        ModuleKind::Reboot => match run.channel.reboot(instance.id, false).await {
            Rebooted::NotDue => unchanged(None),
            _ => None,
        },
        kind => {
            let checked = run.channel.check(instance.id).await;
            let stays =
                matches!(assessed(run, task, &facts, &checked), Assessment::InSync { .. } | Assessment::Left(_));
            match checked.check {
                _ if !stays => None,
                Check::InSync(Some(data)) if kind == ModuleKind::State => unchanged(Some(&json!({ "data": data }))),
                _ if kind == ModuleKind::State => unchanged(None),
                _ => unchanged(checked.last.as_ref().map(|last| &last.fields)),
            }
        }
    }
}

/// Returns true if one of the tasks is a probe without a registered result. A probe without a registered result runs
/// only if the segment changes something.
pub(super) fn has_quiet_probe(run: &Run, indices: impl Iterator<Item = usize>) -> bool {
    let is_probe = |task: &Task| task.module.as_ref().is_some_and(|module| module.schema.is_probe());
    let tasks = indices.filter_map(|index| run.book().tasks.get(index));
    run.mode() == RunMode::Steady && tasks.into_iter().any(|task| is_probe(task) && task.register.is_none())
}
