//! The inputs and the state of a run: its active segment, and the findings of each lane.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
    sync::Arc,
};

use serde_json::{Value, json};
use towpath_coordination::Gate;
use towpath_render::objects::{
    SegmentKind,
    task::{Book, Drift, Task},
};

use super::channel::Channel;
use crate::{
    command::{InstanceId, List, SlotUse, TaskRef},
    outcome::{Outcome, TaskReport},
    plan::{assess::RunMode, batch::Queue, removal::Managed},
    record::{BookRecord, Slot},
};

/// The inputs of a book run.
#[derive(Debug, Clone)]
pub struct BookInputs {
    /// The book to run.
    pub book: Arc<Book>,
    /// The rollout of a coordinated book. `None` for a book without a rollout, and in a dry run.
    pub rollout: Option<RolloutPlan>,
    /// The mode of a book without a rollout. Each segment of a rollout has its own mode.
    pub mode: RunMode,
    /// The drift policy of tasks that set no policy of their own.
    pub drift: Drift,
    /// True if the run ends at the first failure. A dry run continues after a failure.
    pub ends_at_failure: bool,
    /// The record of the book from the journal.
    pub record: BookRecord,
}

/// The rollout of a book, from the view of one node.
#[derive(Debug, Clone)]
pub struct RolloutPlan {
    /// The id of the rollout's run.
    pub run: String,
    /// The segments of the rollout, in order.
    pub segments: Vec<SegmentPlan>,
}

/// One segment of a rollout.
#[derive(Debug, Clone)]
pub struct SegmentPlan {
    /// The positions of the segment's tasks in the book.
    pub tasks: Range<usize>,
    /// The kind of the segment: ordinary, or with an elected task.
    pub kind: SegmentKind,
    /// The slot that the node needs for a change in the segment.
    pub slot: Slot,
    /// True if `serialize` limits the number of slots.
    pub limited: bool,
}

/// The state that all parts of a run share.
pub(super) struct Run {
    pub(super) channel: Rc<Channel>,
    pub(super) inputs: BookInputs,
    pub(super) segment: RefCell<ActiveSegment>,
    pub(super) record: RefCell<BookRecord>,
}

impl Run {
    pub(super) fn book(&self) -> &Book {
        &self.inputs.book
    }

    /// Returns the task at a position. `None` if the book has no task at the position.
    pub(super) fn task(&self, at: TaskRef) -> Option<&Task> {
        let book = self.book();
        match at.list {
            List::Tasks => book.tasks.get(at.index),
            List::Handlers => book.handlers.get(at.index),
            List::Before => book.rollout.before.get(at.index),
            List::After => book.rollout.after.get(at.index),
        }
    }

    pub(super) fn mode(&self) -> RunMode {
        self.segment.borrow().mode
    }

    /// Returns true if the book has `before` or `after` tasks.
    pub(super) fn has_frame(&self) -> bool {
        !self.book().rollout.before.is_empty() || !self.book().rollout.after.is_empty()
    }
}

/// The state of the segment that runs now.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    /// The mode of the segment's tasks.
    pub(super) mode: RunMode,
    /// The number of the segment. `None` in a book without coordination.
    pub(super) number: Option<u32>,
    /// The purpose for which the segment uses its slot.
    pub(super) slot_use: SlotUse,
    /// The slot for changes, and true if the number of slots is limited. `None` in a book without coordination.
    pub(super) slot: Option<(Slot, bool)>,
    /// True if the node is admitted to change something in this segment.
    pub(super) admitted: bool,
    /// True if changes of this run have begun in an open window.
    pub(super) in_window: bool,
    /// True if the `before` tasks have run, or if the book has none.
    pub(super) prepared: bool,
    /// True while a lane asks for admission, or runs the `before` tasks.
    pub(super) beginning: bool,
    /// The reason why changes of this segment cannot begin. The reason applies to all lanes.
    pub(super) refused: Option<NotBegun>,
    /// True while a lane runs the pending handlers.
    pub(super) handling: bool,
    /// True if probes without a registered result run in this segment.
    pub(super) probes: bool,
    /// True if the `after` tasks do not run, because a removal has failed.
    pub(super) kept_out: bool,
}

impl ActiveSegment {
    /// Returns the only segment of a book without coordination.
    pub(super) fn new(mode: RunMode) -> Self {
        Self {
            mode,
            number: None,
            slot_use: SlotUse::Correct,
            slot: None,
            admitted: false,
            in_window: false,
            prepared: false,
            beginning: false,
            refused: None,
            handling: false,
            probes: mode == RunMode::NewRevision,
            kept_out: false,
        }
    }
}

/// The reason why a lane runs no further tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A newer revision preempted the run.
    Preempted,
    /// A missing input holds a task.
    Held,
    /// These gates are closed, so the book is held.
    Blocked(Vec<Gate>),
    /// A task failed.
    Failed,
}

/// A sequence of tasks with its reports and queue. A parallel book has one lane for each task, any other book has one
/// lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The queue of changes that the lane has not made yet.
    pub(super) queue: Queue,
    /// The reports, in the order in which the tasks ran. `None` for a change that was dropped.
    pub(super) reports: Vec<Option<TaskReport>>,
    /// The tasks that the run has reached. The map value is true for a task that failed or is held, or that requires
    /// such a task.
    pub(super) reached: BTreeMap<String, bool>,
    /// The items that the tasks of the lane manage.
    pub(super) managed: BTreeSet<Managed>,
    /// The rendered tasks that were already in sync, and are not recorded yet.
    pub(super) observed: Vec<InstanceId>,
    /// True if not all managed items are known.
    pub(super) incomplete: bool,
    /// True if the next pass needs more than checks to confirm that the book is in sync.
    pub(super) unsteady: bool,
    /// The reason why the lane runs no further tasks. `None` while the lane still runs tasks.
    pub(super) stop: Option<Stop>,
    /// The result of an elected task that this node ran.
    pub(super) elected: Option<Value>,
    /// The results of loop items that differ from the default result, by the position of their reports. `None` for an
    /// item that a dry run would change.
    pub(super) results: BTreeMap<usize, Option<Value>>,
}

impl Lane {
    /// Returns a new lane for a task that runs at the same time as others. The new lane knows which tasks have failed.
    pub(super) fn beside(&self) -> Self {
        Self { reached: self.reached.clone(), ..Self::default() }
    }

    /// Adds the findings of a lane that ran at the same time.
    pub(super) fn merge(&mut self, other: Self) {
        self.reports.extend(other.reports);
        for (task, unmet) in other.reached {
            *self.reached.entry(task).or_default() |= unmet;
        }
        self.managed.extend(other.managed);
        self.observed.extend(other.observed);
        self.incomplete |= other.incomplete;
        self.unsteady |= other.unsteady;
        self.elected = self.elected.take().or(other.elected);
        if let Some(stop) = other.stop {
            self.stop(stop);
        }
    }

    /// Stops the lane. A preemption outweighs all other reasons, and closed gates outweigh a failure.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.stop = match (self.stop.take(), stop) {
            (Some(Stop::Preempted), _) | (_, Stop::Preempted) => Some(Stop::Preempted),
            (Some(Stop::Blocked(mut gates)), Stop::Blocked(more)) => {
                let new = more.into_iter().filter(|gate| !gates.contains(gate)).collect::<Vec<_>>();
                gates.extend(new);
                Some(Stop::Blocked(gates))
            }
            (Some(Stop::Blocked(gates)), _) => Some(Stop::Blocked(gates)),
            (Some(Stop::Failed), Stop::Held) => Some(Stop::Failed),
            (_, stop) => Some(stop),
        };
    }

    /// Returns true if the lane runs no further tasks.
    pub(super) fn stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Adds a report, and returns its position.
    pub(super) fn push(&mut self, report: TaskReport) -> usize {
        self.reports.push(Some(report));
        self.reports.len().saturating_sub(1)
    }

    /// Returns the outcome of the report at a position. `None` for a change that was dropped.
    pub(super) fn outcome(&self, position: usize) -> Option<Outcome> {
        self.reports.get(position)?.as_ref().map(|report| report.outcome)
    }

    /// Returns true if any task of the lane has failed.
    pub(super) fn any_failed(&self) -> bool {
        self.reports.iter().flatten().any(|report| report.outcome == Outcome::Failed)
    }

    /// Records that the run has reached a task. Tasks that the run does not reach are reported as not run.
    pub(super) fn reach(&mut self, task: &Task) {
        self.reached.entry(task.id.clone()).or_default();
    }

    /// Records that a task failed or is held. Tasks that require this task do not run.
    pub(super) fn fail(&mut self, task: &Task) {
        self.reached.insert(task.id.clone(), true);
    }

    /// Returns the worst outcome so far. The outcome is at least held if gates are closed.
    pub(super) fn worst(&self) -> Outcome {
        let worst = self.reports.iter().flatten().map(|report| report.outcome).max().unwrap_or(Outcome::Unchanged);
        let blocked = matches!(self.stop, Some(Stop::Blocked(_)));
        if blocked { worst.max(Outcome::Held) } else { worst.max(Outcome::Unchanged) }
    }

    /// Returns the names and messages of the failed tasks, as one text.
    pub(super) fn failure_message(&self) -> String {
        let failed = self.reports.iter().flatten().filter(|report| report.outcome == Outcome::Failed);
        let message =
            |report: &TaskReport| format!("{}: {}", report.name, report.message.as_deref().unwrap_or_default());
        failed.map(message).collect::<Vec<_>>().join("; ")
    }

    /// Returns a required task that failed or is held, or that did not run because of such a task.
    pub(super) fn unmet_by<'t>(&self, task: &'t Task) -> Option<&'t str> {
        task.requires.iter().find(|name| self.reached.get(*name) == Some(&true)).map(String::as_str)
    }

    /// Returns the registered result of a loop: all results, a flag for any changed item, and the worst outcome. `None`
    /// if a dry run cannot know the result.
    pub(super) fn loop_result(&self, items: &[usize]) -> Option<Value> {
        let reports = || items.iter().filter_map(|at| Some((at, self.reports.get(*at)?.as_ref()?)));
        let changed = reports().any(|(_, report)| report.outcome == Outcome::Changed);
        let worst = reports().map(|(_, report)| report.outcome).max().unwrap_or(Outcome::Skipped);
        let mut results = Vec::new();
        for (at, report) in reports() {
            match self.results.get(at) {
                None => results.push(report.result([])),
                Some(Some(result)) => results.push(result.clone()),
                Some(None) => return None,
            }
        }
        Some(json!({ "results": results, "changed": changed, "outcome": worst.as_str() }))
    }
}

/// The reason why a change cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// The change waits, because this gate is closed.
    Held(Gate),
    /// A step before the change failed with this message.
    Failed(String),
}

impl NotBegun {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Held(_) => Outcome::Held,
            Self::Failed(_) => Outcome::Failed,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::Held(gate) => gate.to_string(),
            Self::Failed(message) => message.clone(),
        }
    }

    pub(super) fn stop(&self) -> Stop {
        match self {
            Self::Held(gate) => Stop::Blocked(vec![gate.clone()]),
            Self::Failed(_) => Stop::Failed,
        }
    }
}
