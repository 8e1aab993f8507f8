//! The run of a book from start to end: its segments, the votes of this node, and the removals at the end.

use std::{ops::Range, sync::Arc};

use serde_json::Value;
use towpath_coordination::{Gate, GateReason};
use towpath_render::objects::{SegmentKind, task::Task};

use super::{
    channel::{Part, join},
    context::{Lane, NotBegun, Run, SegmentPlan, Stop},
    flush::{self, flush},
    removal,
    segment::{after, handlers, persist_or_stop},
    slots::{Position, activate, leave_old_failure, leave_old_slot, leave_queue, refused, stop, vote},
    task,
};
use crate::{
    command::{
        Answer, Call, Command, ElectedResult, ElectionState, Findings, Instance, Items, List, Rendered, TaskRef,
    },
    outcome::{BookReport, Outcome, TaskReport},
    plan::{assess::RunMode, instance, order::waves, removal::Managed, unrun::unrun},
    record::Frame,
};

/// The maximum number of tasks of a parallel book that run at the same time.
const TASKS_AT_ONCE: usize = 16;

/// Runs a book, and returns its report.
pub(super) async fn book(run: &Run) -> BookReport {
    let mut lane = Lane::default();
    if run.inputs.rollout.is_some() {
        segments(run, &mut lane).await;
    } else {
        alone(run, &mut lane).await;
    }
    let all_managed = Arc::new(std::mem::take(&mut lane.managed));
    let managed = Arc::clone(&all_managed);
    let findings = Findings { managed, observed: std::mem::take(&mut lane.observed) };
    if let Err(message) = run.channel.record(Command::Record(findings)).await {
        lane.push(TaskReport::new(run.book().id(), "journal", Outcome::Failed).with_message(message));
        lane.stop(Stop::Failed);
    }
    let managed = (!lane.incomplete && !lane.stopped()).then_some(all_managed);
    let has_stopped = lane.stopped();
    if lane.stop != Some(Stop::Preempted) {
        removal::remove(run, &mut lane, managed.clone()).await;
        leave_queue(run, &mut lane).await;
    }
    let mut tasks: Vec<TaskReport> = lane.reports.into_iter().flatten().collect();
    let changed = tasks.iter().any(|task| task.outcome > Outcome::Unchanged);
    let steady = !lane.unsteady && !changed && lane.stop.is_none();
    let preempted = lane.stop == Some(Stop::Preempted);
    let gates = match lane.stop {
        Some(Stop::Blocked(gates)) => gates,
        _ => Vec::new(),
    };
    if run.inputs.ends_at_failure && has_stopped {
        let rest = unrun(run.book(), |task| lane.reached.contains_key(&task.id), &tasks, &gates);
        tasks.extend(rest);
    }
    BookReport { tasks, gates, preempted, managed, steady }
}

/// Runs a book without a rollout.
async fn alone(run: &Run, lane: &mut Lane) {
    {
        let (mut segment, record) = (run.segment.borrow_mut(), run.record.borrow());
        segment.prepared = record.frame == Some(Frame::Changing);
        segment.kept_out = record.removal_failed;
    }
    let all = 0..run.book().tasks.len();
    decide_probes(run, &all).await;
    tasks(run, lane, all).await;
    end(run, lane).await;
}

/// Decides whether the probes of a segment run: only if the segment changes something or a handler is pending (D22).
async fn decide_probes(run: &Run, tasks: &Range<usize>) {
    if !task::has_quiet_probe(run, tasks.clone()) {
        return;
    }
    let waits = run.channel.handlers().await.is_ok_and(|pending| !pending.is_empty());
    let probes = waits || task::would_change(run, tasks.clone()).await;
    run.segment.borrow_mut().probes = probes;
}

/// Runs tasks in the order of the book. A closed gate or a missing input ends the run of the tasks. Drift of content in
/// the remaining tasks is corrected nevertheless (P90).
async fn tasks(run: &Run, lane: &mut Lane, range: Range<usize>) {
    let waves = waves(run.book(), range);
    // A reboot interrupts the tasks that run at the same time. The tasks of a group with a reboot therefore run one by
    // one.
    let has_reboot = |wave: &[usize]| wave.iter().any(|index| is_reboot(run, *index));
    let size = |wave: &[usize]| if has_reboot(wave) { 1 } else { TASKS_AT_ONCE };
    let steps: Vec<&[usize]> = waves.iter().flat_map(|wave| wave.chunks(size(wave))).collect();
    for (at, step) in steps.iter().enumerate() {
        if !lane.stopped() && run.channel.preempted() {
            lane.stop(Stop::Preempted);
        }
        // The queue may hold changes that tasks of this group require.
        if lane.stopped() || step.len() > 1 && !flush(run, lane).await {
            return content(run, lane, steps.iter().skip(at).copied().flatten().copied()).await;
        }
        if let [index] = step {
            task::task(run, lane, *index).await;
            continue;
        }
        let parts = step.iter().map(|index| beside(run, lane.beside(), *index)).collect();
        run.channel.side_by_side.set(true);
        let mut others = join(parts).await;
        run.channel.side_by_side.set(false);
        // Any task of a group can be the first that changes something. The reports of the `before` tasks therefore come
        // first.
        for other in &mut others {
            let (before, own) =
                std::mem::take(&mut other.reports).into_iter().partition(|report| is_before(run, report));
            other.reports = own;
            lane.reports.extend::<Vec<_>>(before);
        }
        for other in others {
            lane.merge(other);
        }
    }
}

fn is_reboot(run: &Run, index: usize) -> bool {
    let task = run.task(TaskRef { list: List::Tasks, index });
    task.and_then(|task| task.module.as_ref()).is_some_and(|module| module.schema.reboots)
}

/// Returns true if a report is about a `before` task.
fn is_before(run: &Run, report: &Option<TaskReport>) -> bool {
    let before = &run.book().rollout.before;
    report.as_ref().is_some_and(|report| report.instance.is_none() && before.iter().any(|task| task.id == report.name))
}

/// Corrects drift of content in tasks that do not run because of a closed gate or a missing input.
async fn content(run: &Run, lane: &mut Lane, indices: impl Iterator<Item = usize>) {
    if run.mode() != RunMode::Steady || !matches!(lane.stop, Some(Stop::Blocked(_) | Stop::Held)) {
        return;
    }
    for index in indices {
        if run.channel.preempted() {
            break;
        }
        task::queue_content(run, lane, index).await;
    }
    flush::files(run, lane).await;
}

/// Runs one task of a group, in its own lane.
fn beside(run: &Run, mut lane: Lane, index: usize) -> Part<'_, Lane> {
    Box::pin(async move {
        task::task(run, &mut lane, index).await;
        flush(run, &mut lane).await;
        lane
    })
}

/// Ends a segment: makes the queued changes, then runs the handlers and the `after` tasks.
async fn end(run: &Run, lane: &mut Lane) {
    flush(run, lane).await;
    if !lane.stopped() {
        handlers(run, lane).await;
    }
    if !lane.stopped() {
        after(run, lane).await;
    }
}

/// Runs the segments of a rollout, one after another (P44, P45).
async fn segments(run: &Run, lane: &mut Lane) {
    let Some(plan) = &run.inputs.rollout else { return };
    if run.record.borrow().run != plan.run {
        let mut record = run.record.borrow_mut();
        record.run.clone_from(&plan.run);
        record.done = 0;
        record.completed = false;
    }
    leave_old_failure(run, lane).await;
    let count = u32::try_from(plan.segments.len()).unwrap_or(u32::MAX);
    for (number, segment) in (0..count).zip(&plan.segments) {
        if lane.stopped() {
            return;
        }
        if run.channel.preempted() {
            return lane.stop(Stop::Preempted);
        }
        let done = run.record.borrow().done;
        let position = Position { number, settled: number < done, whole: done == count, last: number + 1 == count };
        if !one(run, lane, segment, position).await {
            let later = plan.segments.iter().zip(0..done).skip(usize::try_from(number).unwrap_or(usize::MAX)).skip(1);
            for (segment, number) in later {
                activate(run, segment, Position { number, ..position }, false);
                content(run, lane, segment.tasks.clone()).await;
            }
            return;
        }
        if !position.settled {
            persist_or_stop(run, lane, "progress", |record| record.done = number + 1).await;
        }
    }
    leave_old_slot(run, lane).await;
    if run.record.borrow().completed || lane.stopped() {
        return;
    }
    // Every node that has completed all segments helps to end the run, because the responsible node may be gone.
    let _ = run.channel.coordinate(Call::RepeatVotes(count)).await;
    match run.channel.coordinate(Call::EndRun).await {
        Ok(Answer::Ended(true)) => persist_or_stop(run, lane, "progress", |record| record.completed = true).await,
        _ => lane.unsteady = true,
    }
}

/// Runs one segment. Returns true if the next segment may run.
async fn one(run: &Run, lane: &mut Lane, plan: &SegmentPlan, at: Position) -> bool {
    let is_elected = plan.kind == SegmentKind::Elected;
    // A failed removal belongs to the last segment.
    let waits = run.record.borrow().removal_failed;
    activate(run, plan, at, waits && (at.last || at.settled));
    decide_probes(run, &plan.tasks).await;
    if !at.settled {
        let entered = run.channel.coordinate(Call::Enter(at.number)).await;
        if at.number > 0 {
            let _ = run.channel.coordinate(Call::RepeatVotes(at.number)).await;
        }
        if let Some(why) = refused(entered) {
            // A node without changes does not have to wait for its wave (P47).
            let is_wave = matches!(&why, NotBegun::Held(Gate { reason, .. }) if *reason == GateReason::Wave);
            let waits_for_wave = is_wave && !is_elected && run.record.borrow().frame.is_none();
            if !waits_for_wave || task::would_change(run, plan.tasks.clone()).await || has_pending(run).await {
                stop(lane, &why);
                return false;
            }
        }
    }
    if is_elected {
        elected(run, lane, plan.tasks.start, at.settled).await;
    } else {
        tasks(run, lane, plan.tasks.clone()).await;
    }
    if at.settled && !at.whole {
        // Pending handlers and the held slot belong to the interrupted segment.
        flush(run, lane).await;
    } else {
        end(run, lane).await;
    }
    if matches!(lane.stop, Some(Stop::Preempted | Stop::Blocked(_))) {
        return false;
    }
    if waits && !lane.stopped() && (at.last || at.whole) {
        // A node with a failed removal does not complete the last segment, and keeps its slot.
        lane.unsteady = true;
        return !at.last;
    }
    vote(run, lane, at).await
}

async fn has_pending(run: &Run) -> bool {
    run.channel.handlers().await.map_or(true, |pending| !pending.is_empty())
}

/// Runs an elected task if this node is elected. Any other node adopts the results of the elected nodes.
pub(super) async fn elected(run: &Run, lane: &mut Lane, index: usize, done: bool) {
    let at = TaskRef { list: List::Tasks, index };
    let Some(of) = run.task(at) else { return };
    match run.channel.elect(Command::Elect(at, done)).await {
        Err(message) => {
            lane.push(TaskReport::new(of.id.clone(), instance::module(of), Outcome::Failed).with_message(message));
            lane.stop(Stop::Failed);
        }
        Ok(ElectionState::Hold(gate)) => lane.stop(Stop::Blocked(vec![gate])),
        Ok(ElectionState::Adopted(value)) => adopt(run, lane, at, of, value, None).await,
        Ok(ElectionState::Results(value, nodes)) => {
            let message = format!("run by {}", nodes.join(", "));
            adopt(run, lane, at, of, value, Some(message)).await;
        }
        Ok(ElectionState::Elected) => run_elected(run, lane, at, of).await,
    }
}

async fn run_elected(run: &Run, lane: &mut Lane, at: TaskRef, of: &Task) {
    let before = lane.reports.len();
    task::task(run, lane, at.index).await;
    flush(run, lane).await;
    if matches!(lane.stop, Some(Stop::Preempted | Stop::Blocked(_))) {
        return;
    }
    // The new reports belong to the elected task, to its items, and to `before` tasks.
    let is_own = |report: &&TaskReport| report.instance.is_some() || report.name == of.id;
    let own = lane.reports.iter().skip(before).flatten().filter(is_own);
    let worst = own.max_by_key(|report| report.outcome);
    // A loop without items succeeds.
    let ok = !lane.stopped() && worst.is_none_or(|report| report.outcome < Outcome::Held);
    let message = worst.and_then(|report| report.message.clone());
    let result = lane.elected.take().unwrap_or_default();
    let result = ElectedResult { task: at, ok, result, message };
    match run.channel.publish(result).await {
        Ok(Answer::Hold(gate)) => lane.stop(Stop::Blocked(vec![gate])),
        Ok(_) => {}
        Err(message) => {
            let why = NotBegun::Failed(message);
            lane.push(TaskReport::new(of.id.clone(), instance::module(of), why.outcome()).with_message(why.message()));
            lane.stop(why.stop());
        }
    }
    if !ok {
        lane.stop(Stop::Failed);
    }
}

/// Registers the result of an elected task that other nodes ran.
async fn adopt(run: &Run, lane: &mut Lane, at: TaskRef, of: &Task, value: Value, message: Option<String>) {
    lane.reach(of);
    // The items of the task exist on the node that ran it, so this node must not remove them.
    let managed = managed_by(run, at, of).await;
    lane.incomplete |= managed.is_none();
    lane.managed.extend(managed.unwrap_or_default());
    if let Some(name) = &of.register
        && let Err(why) = run.channel.record(Command::Register(name.clone(), value)).await
    {
        lane.push(TaskReport::new(of.id.clone(), instance::module(of), Outcome::Failed).with_message(why));
        return lane.stop(Stop::Failed);
    }
    lane.push(TaskReport::new(of.id.clone(), instance::module(of), Outcome::Unchanged).with_message(message));
}

/// Returns the items that a task would manage on this node. `None` if the items are not known.
async fn managed_by(run: &Run, at: TaskRef, of: &Task) -> Option<Vec<Managed>> {
    if of.module.as_ref().is_none_or(|module| !module.schema.is_state()) {
        return Some(Vec::new());
    }
    let items = match run.channel.items(Command::Items(at)).await.ok()? {
        Items::Single => vec![None],
        Items::Loop(items) => items.into_iter().map(Some).collect(),
    };
    let mut all = Vec::new();
    for item in items {
        let name = instance::name(of, item.as_ref());
        let instance = Arc::new(Instance { id: run.channel.new_instance(), task: at, item, name });
        match run.channel.render(Command::Render(instance)).await.ok()? {
            Rendered::Skipped(managed) => all.extend(managed?),
            Rendered::Ready(facts) => all.extend(facts.managed),
        }
    }
    Some(all)
}
