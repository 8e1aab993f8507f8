//! The inputs and the state of a book run, and the results of steps such as handlers and votes.

use std::{cell::RefCell, ops::Range, rc::Rc, sync::Arc};

use towpath_coordination::Gate;
use towpath_render::objects::{
    SegmentKind,
    task::{Book, Drift, Task},
};

use super::channel::Channel;
use crate::{
    command::{List, SlotUse, TaskRef},
    outcome::{Outcome, TaskReport},
    plan::assess::RunMode,
    record::{BookRecord, Slot},
};

/// The inputs of a book run.
#[derive(Debug, Clone)]
pub struct BookInputs {
    /// The book to run.
    pub book: Arc<Book>,
    /// The rollout of a coordinated book. `rollout` is `None` for a book without a rollout, and in a dry run.
    pub rollout: Option<RolloutPlan>,
    /// The run mode of a book without a rollout: apply a new revision, or look for drift. In a rollout, each segment
    /// has a separate run mode.
    pub mode: RunMode,
    /// The default drift policy of the tasks in the book.
    pub drift: Drift,
    /// True if the run ends at the first failure. A dry run continues after a failure.
    pub ends_at_failure: bool,
    /// The journal record of the book.
    pub record: BookRecord,
}

/// The rollout of a book, as one node sees it.
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

    /// Returns the task at a position. Returns `None` if the book has no task at the position.
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

/// The state of the segment that is running.
#[derive(Debug)]
pub(super) struct ActiveSegment {
    /// The mode in which the segment's tasks run: apply a new revision, or look for drift.
    pub(super) mode: RunMode,
    /// The number of the segment. `number` is `None` in a book without coordination.
    pub(super) number: Option<u32>,
    /// The purpose for which the node uses the slot of the segment.
    pub(super) slot_use: SlotUse,
    /// The slot that a change needs. The flag is true if `serialize` limits the number of slots. `slot` is `None` in a
    /// book without coordination.
    pub(super) slot: Option<(Slot, bool)>,
    /// True if the node may make changes in this segment.
    pub(super) admitted: bool,
    /// True if changes of this run have begun in an open maintenance window.
    pub(super) in_window: bool,
    /// True if the `before` tasks have run, or if the book has no `before` tasks.
    pub(super) prepared: bool,
    /// True while a lane of tasks asks for admission, or runs the `before` tasks.
    pub(super) beginning: bool,
    /// The reason why changes of this segment cannot begin. After the gates refuse one lane of tasks, no lane of the
    /// segment begins changes.
    pub(super) refused: Option<NotBegun>,
    /// True while a lane of tasks runs the pending handlers.
    pub(super) handling: bool,
    /// True if probes without a registered result run in this segment.
    pub(super) probes: bool,
    /// True if the run skips the `after` tasks, because a removal has failed.
    pub(super) kept_out: bool,
}

impl ActiveSegment {
    /// Creates the single segment of a book without coordination.
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

/// The reason why a lane of tasks ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A newer revision preempted the run.
    Preempted,
    /// A missing input holds a task.
    Held,
    /// The book waits until gates open; the value lists the closed gates.
    Blocked(Vec<Gate>),
    /// A task failed.
    Failed,
}

impl Stop {
    /// Combines two reasons to stop, and returns the reason that takes precedence. A preemption takes precedence over
    /// all other reasons. Closed gates take precedence over a failure.
    pub(super) fn after(self, first: Option<Self>) -> Self {
        match (first, self) {
            (Some(Self::Preempted), _) | (_, Self::Preempted) => Self::Preempted,
            (Some(Self::Blocked(mut gates)), Self::Blocked(more)) => {
                let new = more.into_iter().filter(|gate| !gates.contains(gate)).collect::<Vec<_>>();
                gates.extend(new);
                Self::Blocked(gates)
            }
            (Some(Self::Blocked(gates)), _) => Self::Blocked(gates),
            (Some(Self::Failed), Self::Held) => Self::Failed,
            (_, stop) => stop,
        }
    }
}

/// The reason why a change cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// The change waits until a gate opens; the value is the closed gate.
    Held(Gate),
    /// A step before the change failed; the text is the error message.
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

/// The results of steps that are not tasks, such as handlers, removals and votes.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Steps {
    reports: Vec<TaskReport>,
    stop: Option<Stop>,
    unsteady: bool,
}

impl Steps {
    /// Returns the results of a step that has failed and that ends the lane of tasks.
    pub(super) fn failed(report: TaskReport) -> Self {
        Self { reports: vec![report], stop: Some(Stop::Failed), unsteady: false }
    }

    /// Returns the results of a step whose request the fleet has not granted. The request ends its lane.
    pub(super) fn refused(why: &NotBegun) -> Self {
        match why {
            NotBegun::Failed(message) => {
                Self::failed(TaskReport::new("rollout", "rollout", Outcome::Failed).with_message(message.clone()))
            }
            NotBegun::Held(_) => Self { stop: Some(why.stop()), ..Self::default() },
        }
    }

    /// Returns the results of a step, and records that the next pass must repeat the step.
    pub(super) fn unsteady() -> Self {
        Self { unsteady: true, ..Self::default() }
    }

    /// Adds a report.
    pub(super) fn push(&mut self, report: TaskReport) {
        self.reports.push(report);
    }

    /// Ends the lane of the steps.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.stop = Some(stop.after(self.stop.take()));
    }

    /// Returns true if a step has ended the lane of tasks.
    pub(super) fn stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Appends the results of later steps.
    pub(super) fn add(&mut self, later: Self) {
        self.reports.extend(later.reports);
        self.unsteady |= later.unsteady;
        if let Some(stop) = later.stop {
            self.stop(stop);
        }
    }

    /// Returns the reports of steps such as handlers and votes.
    pub(super) fn reports(&self) -> impl Iterator<Item = &TaskReport> {
        self.reports.iter()
    }

    /// Returns the reports, the reason to end the lane of tasks, and true if the next pass must repeat a step.
    pub(super) fn into_parts(self) -> (Vec<TaskReport>, Option<Stop>, bool) {
        (self.reports, self.stop, self.unsteady)
    }
}
