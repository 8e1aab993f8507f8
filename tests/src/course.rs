//! Book runs of the agent's own machine, for the model checker and the simulation. The node is small: a set of tasks
//! that are in sync.
//!
//! A run of the machine cannot be copied or compared. It is deterministic, so a course keeps the replies that the machine
//! got, and repeats them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use towpath_coordination::{
    Gate, GateReason,
    rollout::{BlockReason, NodeClaims, Request, RolloutSpec, SlotState as Held, drift_of},
};
use towpath_reconcile::{
    BookInputs, BookRun, Command, Next, Observation, Outcome,
    command::{Answer, Applied, Call, ElectionState, Finished, InstanceId, Items, NotReady, Rendered, SlotUse},
    names::Managed,
    plan::{
        assess::{Check, Checked, Preview, RunMode},
        instance::{Facts, ModuleKind},
    },
    record::{BookRecord, Slot, SlotState},
    run::{RolloutPlan, SegmentPlan},
};
use towpath_render::{
    objects::{
        SegmentKind, SourceTree, load,
        task::{Book, Drift},
    },
    tree::MemoryTree,
};

/// The number of tasks of the book. Each segment of a rollout has one task.
const TASKS: usize = 8;

/// The next step of a run, for the world around it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Turn {
    /// A request to the fleet.
    Ask(Request),
    /// The election of the task of a segment.
    Elect(u32),
    /// The publication of the result of an elected task: true for success.
    Publish(bool),
    /// The change of a segment.
    Change(u32),
    /// The repetition of the votes that the store has lost, for the segments before this one.
    RepeatVotes(u32),
    /// Help to end the run.
    EndRun,
    /// The end of this pass. The node tries again in a later one.
    Ended {
        /// True if a task failed.
        failed: bool,
    },
}

/// The reply to a turn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// The request is granted, or the result is published.
    Go,
    /// The request must wait.
    Hold(BlockReason),
    /// True if all nodes have ended the run.
    RunEnded(bool),
    /// This node is elected.
    Elected,
    /// The elected nodes have succeeded.
    Results,
    /// The change has ended: true for success.
    Changed(bool),
}

/// The result of the check of a segment's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The node has the desired state.
    InSync,
    /// The node differs from the desired state.
    Differs,
    /// The check fails.
    Fails,
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Open {
    /// The record of the book when the run began.
    record: BookRecord,
    /// The tasks that were in sync when the run began.
    in_sync: BTreeSet<(String, u32)>,
    /// The replies so far.
    replies: Vec<Reply>,
}

/// A book on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Course {
    /// The record of the book in the journal.
    pub record: BookRecord,
    /// The tasks that are in sync, each with the run that defined it.
    in_sync: BTreeSet<(String, u32)>,
    /// The run. `None` between two passes.
    open: Option<Open>,
    /// The turn of the run that has no reply yet.
    turn: Option<Turn>,
    /// True if the last pass ended with a failure.
    pub failed: bool,
    /// The segments that the node has finished, with their run. Only the checks of the model read them.
    finished: BTreeSet<(String, u32)>,
}

impl Course {
    /// Returns the turn that has no reply yet.
    pub fn turn(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }

    /// Returns whether the node changes something now.
    pub fn changes(&self) -> bool {
        matches!(self.turn, Some(Turn::Change(_)))
    }

    /// Returns whether no pass has begun.
    pub fn rests(&self) -> bool {
        self.open.is_none()
    }

    /// Returns whether this node has ever finished a segment of a run, whatever its journal contains.
    pub fn has_finished(&self, run: &str, segment: u32) -> bool {
        self.finished.contains(&(run.to_owned(), segment))
    }

    /// Returns the number of segments of a run that this node has completed, by its journal.
    pub fn done(&self, spec: &RolloutSpec) -> u32 {
        if self.record.run == spec.run { self.record.done } else { 0 }
    }

    /// Returns what this node holds and has voted, by its journal.
    pub fn claims(&self, spec: &RolloutSpec) -> NodeClaims {
        let away = self.record.slot.as_ref().and_then(|slot| match &slot.state {
            SlotState::Waiting => None,
            SlotState::Claimed(run, Some(segment)) => Some((Held::Claim, run.clone(), *segment)),
            SlotState::Claimed(_, None) => Some((Held::Claim, drift_of(&spec.book), 0)),
            SlotState::Failed(run, segment) => Some((Held::Failure, run.clone(), *segment)),
            SlotState::Unadmitted(run, segment) => Some((Held::Unadmitted, run.clone(), *segment)),
        });
        NodeClaims { away, voted: (0..self.done(spec)).collect() }
    }

    /// Ends the process of the agent, or preempts the run. The journal and the node stay as they are.
    pub fn stop(&mut self) {
        (self.open, self.turn, self.failed) = (None, None, false);
    }

    /// Loses the journal. The node stays as it is.
    pub fn forget(&mut self) {
        self.stop();
        self.record = BookRecord::default();
    }

    /// Replies to the turn.
    pub fn reply(&mut self, reply: Reply) {
        let open = self.open.as_mut().expect("a run is open");
        open.replies.push(reply);
        self.turn = None;
    }

    /// Advances the run to its next turn. Begins a run if none is open. `found` returns what the check of a segment finds
    /// before the node has changed something in this run.
    pub fn advance(&mut self, spec: &RolloutSpec, own_node: &str, found: impl Fn(u32) -> Found) -> Turn {
        let elected = spec.elected.first().copied();
        self.advance_with(spec, own_node, elected, found)
    }

    /// Advances the run, in which the task of a segment is elected, to its next turn.
    pub fn advance_with(
        &mut self,
        spec: &RolloutSpec,
        own_node: &str,
        elected: Option<u32>,
        found: impl Fn(u32) -> Found,
    ) -> Turn {
        if let Some(turn) = &self.turn {
            return turn.clone();
        }
        self.failed = false;
        let began = || Open { record: self.record.clone(), in_sync: self.in_sync.clone(), replies: Vec::new() };
        let open = self.open.clone().unwrap_or_else(began);
        let (record, in_sync) = (open.record.clone(), open.in_sync.clone());
        let mut world = World { spec, elected, found: &found, record, in_sync, instances: BTreeMap::new() };
        let turn = world.replay(own_node, &open.replies);
        (self.record, self.in_sync) = (world.record, world.in_sync);
        if let Turn::Ask(Request::Done(segment)) = turn {
            self.finished.insert((spec.run.clone(), segment));
        }
        if let Turn::Ended { failed } = turn {
            (self.open, self.failed) = (None, failed);
        } else {
            (self.open, self.turn) = (Some(open), Some(turn.clone()));
        }
        turn
    }
}

/// The node as a run sees it.
struct World<'a> {
    spec: &'a RolloutSpec,
    /// The segment whose task is elected.
    elected: Option<u32>,
    found: &'a dyn Fn(u32) -> Found,
    record: BookRecord,
    in_sync: BTreeSet<(String, u32)>,
    /// The segments of the rendered tasks.
    instances: BTreeMap<InstanceId, u32>,
}

impl World<'_> {
    /// Runs the machine with the replies so far. Returns the first turn without a reply.
    fn replay(&mut self, own_node: &str, replies: &[Reply]) -> Turn {
        let inputs = BookInputs {
            book: book(),
            rollout: Some(plan(self.spec, own_node, self.elected)),
            mode: RunMode::NewRevision,
            drift: Drift::Correct,
            ends_at_failure: true,
            record: self.record.clone(),
        };
        let mut run = BookRun::new(inputs);
        let mut replies = replies.iter();
        loop {
            let commands = match run.advance() {
                Next::Do(commands) => commands,
                Next::Wait => panic!("the run waits, and no command is open"),
                Next::Finished(report) => {
                    let failed = report.tasks.iter().any(|task| task.outcome == Outcome::Failed);
                    return Turn::Ended { failed };
                }
            };
            for (id, command) in commands {
                let seen = match self.answer(&command) {
                    Ok(seen) => seen,
                    Err(turn) => match replies.next() {
                        Some(reply) => self.observe(&command, reply),
                        None => return turn,
                    },
                };
                run.observe(id, seen);
            }
        }
    }

    /// Answers a command that only concerns this node. The error is the turn of any other command.
    fn answer(&mut self, command: &Command) -> Result<Observation, Turn> {
        Ok(match command {
            Command::Items(_) => Observation::Items(Ok(Items::Single)),
            Command::Render(instance) => {
                let segment = number(instance.task.index);
                self.instances.insert(instance.id, segment);
                Observation::Rendered(self.render(segment))
            }
            Command::Check(id) => Observation::Checked(self.check(self.instances[id])),
            Command::Admit(admit) => {
                return Err(Turn::Ask(match admit.slot {
                    SlotUse::Change(segment) => Request::Change(segment),
                    SlotUse::Correct => Request::Correct,
                }));
            }
            Command::Coordinate(call) => {
                return Err(Turn::Ask(match call {
                    Call::Enter(segment) => Request::Enter(*segment),
                    Call::Done(segment) => Request::Done(*segment),
                    Call::Failed { segment, admitted, .. } => Request::Failed(*segment, *admitted),
                    Call::Leave(_) | Call::LeaveOld => Request::Leave,
                    Call::Absent(segment, ..) => Request::Absent(*segment, 600),
                    Call::EndRun => return Err(Turn::EndRun),
                    Call::RepeatVotes(count) => return Err(Turn::RepeatVotes(*count)),
                }));
            }
            Command::Elect(_, true) => Observation::Election(ElectionState::Adopted(Value::Null)),
            Command::Elect(at, false) => return Err(Turn::Elect(number(at.index))),
            Command::PublishResult(result) => return Err(Turn::Publish(result.ok)),
            Command::Apply(set, _) => {
                let first = set.instances().first().map_or(0, |id| self.instances[id]);
                return Err(Turn::Change(first));
            }
            Command::Execute(_) | Command::Reboot(..) => panic!("the book has only files: {command:?}"),
            Command::ListHandlers => Observation::Handlers(Vec::new()),
            Command::ListInventory(_) => Observation::Inventory(None),
            Command::Remove(removal) => panic!("nothing is removed: {removal:?}"),
            Command::Register(..) | Command::Record(_) => Observation::Done,
            Command::Persist(record) => {
                self.record.clone_from(record);
                Observation::Done
            }
        })
    }

    /// Answers a command with the reply of the world.
    fn observe(&mut self, command: &Command, reply: &Reply) -> Observation {
        match (command, reply) {
            (Command::Apply(set, _), Reply::Changed(well)) => {
                let one = |id: &InstanceId| {
                    if !well {
                        return Applied::Failed(Finished { message: Some("it failed".into()), result: None });
                    }
                    self.in_sync.insert((self.spec.run.clone(), self.instances[id]));
                    Applied::Changed(Finished::default())
                };
                Observation::Applied(set.instances().iter().map(one).collect())
            }
            (Command::Elect(..), Reply::Elected) => Observation::Election(ElectionState::Elected),
            (Command::Elect(..), Reply::Results) => {
                Observation::Election(ElectionState::Results(Value::Null, Vec::new()))
            }
            (Command::Elect(..), Reply::Hold(reason)) => Observation::Election(ElectionState::Hold(gate(*reason))),
            (_, Reply::Hold(reason)) => Observation::Answered(Answer::Hold(gate(*reason))),
            (_, Reply::RunEnded(ended)) => Observation::Answered(Answer::Ended(*ended)),
            (_, Reply::Go) => Observation::Answered(Answer::Go),
            (command, reply) => panic!("{reply:?} does not answer {command:?}"),
        }
    }

    fn render(&self, segment: u32) -> Result<Rendered, NotReady> {
        let path = format!("/t{segment}");
        Ok(Rendered::Ready(Facts {
            kind: ModuleKind::State,
            applies_directly: false,
            interrupts: false,
            managed: vec![Managed { module: "file".into(), identity: path.clone() }],
            path: Some(path),
            batch: None,
        }))
    }

    fn check(&self, segment: u32) -> Checked {
        let preview = Preview { action: "update", plain: true, ..Preview::default() };
        let check = match (self.found)(segment) {
            Found::Fails => Check::Failed("the check failed".into()),
            Found::Differs if !self.in_sync.contains(&(self.spec.run.clone(), segment)) => Check::Differs(preview),
            Found::Differs | Found::InSync => Check::InSync(None),
        };
        Checked { check, last: None, shown: None }
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("a small book")
}

fn gate(reason: BlockReason) -> Gate {
    let reason = match reason {
        BlockReason::Wave => GateReason::Wave,
        BlockReason::Barrier => GateReason::Barrier,
        BlockReason::Halted => GateReason::Budget,
        BlockReason::Slot => GateReason::Slot,
        _ => GateReason::Dependency,
    };
    Gate::new(reason, "later")
}

/// Returns the rollout of a spec as the machine runs it: one task for each segment.
fn plan(spec: &RolloutSpec, own_node: &str, elected: Option<u32>) -> RolloutPlan {
    let segment = |number: u32| {
        let at = usize::try_from(number).expect("a small book");
        let elected = elected == Some(number);
        SegmentPlan {
            tasks: at..at + 1,
            kind: if elected { SegmentKind::Elected } else { SegmentKind::Tasks },
            slot: Slot { budget: spec.budget.clone(), partition: spec.partition(own_node).to_owned() },
            limited: spec.count.is_some(),
        }
    };
    RolloutPlan { run: spec.run.clone(), segments: (0..spec.segments()).map(segment).collect() }
}

/// Returns a book of files.
fn book() -> Arc<Book> {
    static BOOK: std::sync::OnceLock<Arc<Book>> = std::sync::OnceLock::new();
    Arc::clone(BOOK.get_or_init(|| {
        let tasks: String =
            (0..TASKS).map(|at| format!("    - {{name: t{at}, file: {{path: /t{at}, content: x}}}}\n")).collect();
        let text = format!("{}{tasks}", include_str!("course.yaml"));
        let tree: MemoryTree = [("book.yaml", text)].into_iter().collect();
        let source = SourceTree { name: "s".into(), tree: Arc::new(tree), library: false, globals: true };
        let loaded = load(&[source], &BTreeMap::new());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        Arc::clone(loaded.set.books.values().next().expect("one book"))
    }))
}
