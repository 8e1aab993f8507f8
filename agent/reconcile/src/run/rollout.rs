//! The run of a book from start to end: its segments, the votes of this node, and the removals.

use std::{ops::Range, sync::Arc};

use serde_json::Value;
use towpath_coordination::{Gate, GateReason};
use towpath_render::objects::{SegmentKind, task::Task};

use super::{
    channel::{Part, join},
    context::{NotBegun, Run, SegmentPlan, Steps, Stop},
    lane::Lane,
    removal,
    segment::{after, handlers, persist_or_stop},
    slots::{Position, activate, leave_old_failure, leave_old_slot, leave_queue, refused, vote},
    task,
};
use crate::{
    command::{Answer, Call, Command, ElectedResult, ElectionState, Instance, Items, List, Rendered, TaskRef},
    outcome::{BookReport, Outcome, TaskReport},
    plan::{assess::RunMode, instance, order::waves, removal::Managed},
    record::Frame,
};

/// The maximum number of tasks of a parallel book that run at the same time.
const TASKS_AT_ONCE: usize = 16;

/// Runs a book, and returns its report.
pub(super) async fn book(run: &Run) -> BookReport {
    let mut main = MainLane { run, lane: Lane::default() };
    if run.inputs.rollout.is_some() {
        main.segments().await;
    } else {
        main.alone().await;
    }
    let mut lane = main.lane;
    let findings = lane.take_findings();
    let all_managed = Arc::clone(&findings.managed);
    if let Err(message) = run.channel.record(Command::Record(findings)).await {
        lane.add(Steps::failed(TaskReport::new(run.book().id(), "journal", Outcome::Failed).with_message(message)));
    }
    let managed = (lane.knows_all_items() && !lane.stopped()).then_some(all_managed);
    let has_stopped = lane.stopped();
    if lane.why_stopped() != Some(&Stop::Preempted) {
        let removed = removal::remove(run, &lane, managed.clone()).await;
        lane.add(removed);
        let left = leave_queue(run, &lane).await;
        lane.add(left);
    }
    let unrun_of = (run.inputs.ends_at_failure && has_stopped).then(|| run.book());
    lane.into_report(managed, unrun_of)
}

/// The main lane of a run, for tasks that run one after another. Each task that runs in parallel with other tasks has a
/// separate lane.
struct MainLane<'r> {
    run: &'r Run,
    lane: Lane,
}

impl MainLane<'_> {
    /// Runs a book without a rollout.
    async fn alone(&mut self) {
        {
            let (mut segment, record) = (self.run.segment.borrow_mut(), self.run.record.borrow());
            segment.prepared = record.frame == Some(Frame::Changing);
            segment.kept_out = record.removal_failed;
        }
        let all = 0..self.run.book().tasks.len();
        decide_probes(self.run, &all).await;
        self.tasks(all).await;
        self.end().await;
    }

    /// Runs tasks in the order of the book. A closed gate or a missing input ends the sequence of tasks. Drift of file
    /// content in the remaining tasks is still corrected (P90).
    async fn tasks(&mut self, range: Range<usize>) {
        let run = self.run;
        let waves = waves(run.book(), range);
        // A reboot interrupts the tasks that run at the same time. The tasks of a group with a reboot therefore run one
        // by one.
        let has_reboot = |wave: &[usize]| wave.iter().any(|index| is_reboot(run, *index));
        let size = |wave: &[usize]| if has_reboot(wave) { 1 } else { TASKS_AT_ONCE };
        let steps: Vec<&[usize]> = waves.iter().flat_map(|wave| wave.chunks(size(wave))).collect();
        for (at, step) in steps.iter().enumerate() {
            if !self.lane.stopped() && run.channel.preempted() {
                self.lane.stop(Stop::Preempted);
            }
            // The queue may hold changes that tasks of this group require.
            if self.lane.stopped() || step.len() > 1 && !self.lane.flush(run).await {
                return self.content(steps.iter().skip(at).copied().flatten().copied()).await;
            }
            if let [index] = step {
                task::task(run, &mut self.lane, *index).await;
                continue;
            }
            let parts = step.iter().map(|index| beside(run, self.lane.beside(), *index)).collect();
            run.channel.side_by_side.set(true);
            let others = join(parts).await;
            run.channel.side_by_side.set(false);
            // Any task of a group can be the first that changes something. The reports of the `before` tasks therefore
            // come first.
            self.lane.merge(others, |report| is_before(run, report));
        }
    }

    /// Corrects drift of file content in tasks that do not run because of a closed gate or a missing input.
    async fn content(&mut self, indices: impl Iterator<Item = usize>) {
        if self.run.mode() != RunMode::Steady || !matches!(self.lane.why_stopped(), Some(Stop::Blocked(_) | Stop::Held))
        {
            return;
        }
        for index in indices {
            if self.run.channel.preempted() {
                break;
            }
            task::queue_content(self.run, &mut self.lane, index).await;
        }
        self.lane.flush_files(self.run).await;
    }

    /// Ends a segment: makes the queued changes, then runs the handlers and the `after` tasks.
    async fn end(&mut self) {
        self.lane.flush(self.run).await;
        if !self.lane.stopped() {
            self.lane.add(handlers(self.run).await);
        }
        if !self.lane.stopped() {
            self.lane.add(after(self.run).await);
        }
    }

    /// Runs the segments of a rollout, one after another (P44, P45).
    async fn segments(&mut self) {
        let run = self.run;
        let Some(plan) = &run.inputs.rollout else { return };
        if run.record.borrow().run != plan.run {
            let mut record = run.record.borrow_mut();
            record.run.clone_from(&plan.run);
            record.done = 0;
            record.completed = false;
        }
        self.lane.add(leave_old_failure(run).await);
        let count = u32::try_from(plan.segments.len()).unwrap_or(u32::MAX);
        for (number, segment) in (0..count).zip(&plan.segments) {
            if self.lane.stopped() {
                return;
            }
            if run.channel.preempted() {
                return self.lane.stop(Stop::Preempted);
            }
            let done = run.record.borrow().done;
            let position =
                Position { number, completed: number < done, whole: done == count, last: number + 1 == count };
            if !self.one(segment, position).await {
                let later = plan.segments.iter().zip(0..done);
                for (segment, number) in later.skip(usize::try_from(number).unwrap_or(usize::MAX)).skip(1) {
                    activate(run, segment, Position { number, ..position }, false);
                    self.content(segment.tasks.clone()).await;
                }
                return;
            }
            if !position.completed {
                self.lane.add(persist_or_stop(run, "progress", |record| record.done = number + 1).await);
            }
        }
        let left = leave_old_slot(run, &self.lane).await;
        self.lane.add(left);
        if run.record.borrow().completed || self.lane.stopped() {
            return;
        }
        // Every node that has completed all segments helps to end the run, because the responsible node may be gone.
        let _ = run.channel.coordinate(Call::RepeatVotes(count)).await;
        let ended = match run.channel.coordinate(Call::EndRun).await {
            Ok(Answer::Ended(true)) => persist_or_stop(run, "progress", |record| record.completed = true).await,
            _ => Steps::unsteady(),
        };
        self.lane.add(ended);
    }

    /// Runs one segment. Returns true if the next segment may run.
    async fn one(&mut self, plan: &SegmentPlan, at: Position) -> bool {
        let run = self.run;
        let is_elected = plan.kind == SegmentKind::Elected;
        // A failed removal belongs to the last segment.
        let waits = run.record.borrow().removal_failed;
        activate(run, plan, at, waits && (at.last || at.completed));
        decide_probes(run, &plan.tasks).await;
        if !at.completed {
            let entered = run.channel.coordinate(Call::Enter(at.number)).await;
            if at.number > 0 {
                let _ = run.channel.coordinate(Call::RepeatVotes(at.number)).await;
            }
            if let Some(why) = refused(entered) {
                // A node without changes does not have to wait for its wave (P47).
                let is_wave = matches!(&why, NotBegun::Held(Gate { reason, .. }) if *reason == GateReason::Wave);
                let waits_for_wave = is_wave && !is_elected && run.record.borrow().frame.is_none();
                if !waits_for_wave || task::would_change(run, plan.tasks.clone()).await || has_pending(run).await {
                    self.lane.add(Steps::refused(&why));
                    return false;
                }
            }
        }
        if is_elected {
            self.elected(plan.tasks.start, at.completed).await;
        } else {
            self.tasks(plan.tasks.clone()).await;
        }
        if at.completed && !at.whole {
            // Pending handlers and the held slot belong to the interrupted segment.
            self.lane.flush(run).await;
        } else {
            self.end().await;
        }
        if matches!(self.lane.why_stopped(), Some(Stop::Preempted | Stop::Blocked(_))) {
            return false;
        }
        if waits && !self.lane.stopped() && (at.last || at.whole) {
            // A node with a failed removal does not complete the last segment, and keeps its slot.
            self.lane.add(Steps::unsteady());
            return !at.last;
        }
        let (voted, may_continue) = vote(run, &self.lane, at).await;
        self.lane.add(voted);
        may_continue
    }

    /// Runs an elected task on an elected node, or adopts the task's result on any other node.
    async fn elected(&mut self, index: usize, done: bool) {
        let at = TaskRef { list: List::Tasks, index };
        let Some(of) = self.run.task(at) else { return };
        match self.run.channel.elect(Command::Elect(at, done)).await {
            Err(message) => self.lane.add(Steps::failed(report(of, Outcome::Failed).with_message(message))),
            Ok(ElectionState::Hold(gate)) => self.lane.stop(Stop::Blocked(vec![gate])),
            Ok(ElectionState::Adopted(value)) => self.adopt(at, of, value, None).await,
            Ok(ElectionState::Results(value, nodes)) => {
                let message = format!("run by {}", nodes.join(", "));
                self.adopt(at, of, value, Some(message)).await;
            }
            Ok(ElectionState::Elected) => self.run_elected(at, of).await,
        }
    }

    async fn run_elected(&mut self, at: TaskRef, of: &Task) {
        let (run, lane) = (self.run, &mut self.lane);
        let before = lane.next_position();
        task::task(run, lane, at.index).await;
        lane.flush(run).await;
        if matches!(lane.why_stopped(), Some(Stop::Preempted | Stop::Blocked(_))) {
            return;
        }
        // The new reports belong to the elected task, to its items, and to `before` tasks.
        let is_own = |report: &&TaskReport| report.instance.is_some() || report.name == of.id;
        let worst = lane.reports_from(before).filter(is_own).max_by_key(|report| report.outcome);
        // A loop without items succeeds.
        let ok = !lane.stopped() && worst.is_none_or(|report| report.outcome < Outcome::Held);
        let message = worst.and_then(|report| report.message.clone());
        let result = lane.take_elected().unwrap_or_default();
        let result = ElectedResult { task: at, ok, result, message };
        match run.channel.publish(result).await {
            Ok(Answer::Hold(gate)) => lane.stop(Stop::Blocked(vec![gate])),
            Ok(_) => {}
            Err(message) => lane.add(Steps::failed(report(of, Outcome::Failed).with_message(message))),
        }
        if !ok {
            lane.stop(Stop::Failed);
        }
    }

    /// Registers the result of an elected task that other nodes ran.
    async fn adopt(&mut self, at: TaskRef, of: &Task, value: Value, message: Option<String>) {
        self.lane.reach(of);
        // The items of the task exist on the node that ran it, so this node must not remove them.
        self.lane.manage(managed_by(self.run, at, of).await);
        if let Some(name) = &of.register
            && let Err(why) = self.run.channel.record(Command::Register(name.clone(), value)).await
        {
            return self.lane.add(Steps::failed(report(of, Outcome::Failed).with_message(why)));
        }
        self.lane.push(report(of, Outcome::Unchanged).with_message(message));
    }
}

fn report(task: &Task, outcome: Outcome) -> TaskReport {
    TaskReport::new(task.id.clone(), instance::module(task), outcome)
}

/// Decides whether the probes of a segment run (D22). Probes run only if the segment changes something or a handler is
/// pending.
async fn decide_probes(run: &Run, tasks: &Range<usize>) {
    if !task::has_quiet_probe(run, tasks.clone()) {
        return;
    }
    let waits = run.channel.handlers().await.is_ok_and(|pending| !pending.is_empty());
    let probes = waits || task::would_change(run, tasks.clone()).await;
    run.segment.borrow_mut().probes = probes;
}

fn is_reboot(run: &Run, index: usize) -> bool {
    let task = run.task(TaskRef { list: List::Tasks, index });
    task.and_then(|task| task.module.as_ref()).is_some_and(|module| module.schema.reboots)
}

/// Returns true if a report is about a `before` task.
fn is_before(run: &Run, report: &TaskReport) -> bool {
    let before = &run.book().rollout.before;
    report.instance.is_none() && before.iter().any(|task| task.id == report.name)
}

/// Runs one task of a group of parallel tasks, in a separate lane.
fn beside(run: &Run, mut lane: Lane, index: usize) -> Part<'_, Lane> {
    Box::pin(async move {
        task::task(run, &mut lane, index).await;
        lane.flush(run).await;
        lane
    })
}

async fn has_pending(run: &Run) -> bool {
    run.channel.handlers().await.map_or(true, |pending| !pending.is_empty())
}

/// Returns the items that a task manages on this node. Returns `None` if the items of the task are not known.
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
