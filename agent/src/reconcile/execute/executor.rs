//! Executes the commands of a run, one after another. If the TaskBook is parallel, some commands run in parallel.

use std::{
    any::Any,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread::{self, Scope},
};

use towpath_host::FsWriter;
use towpath_reconcile::{
    BookInputs, BookReport, BookRun, Command, CommandId, Next, Observation, Outcome, TaskReport,
    command::{Answer, Findings, InstanceId, Interim, Invocation, Removal},
    plan::{
        assess::{Admission, RunMode},
        removal::Inventory,
    },
};
use towpath_render::objects::task::Task;
use towpath_state::{BookId, Changes, Inventory as InventoryRecord, LastRollout, Managed};

use super::{
    Session, apply,
    coordinate::{self, Coordinator},
    direct, invoke, resource, restore,
};
use crate::reconcile::{
    admission::{AdmissionControl, Permit},
    pass::{PassContext, batch},
};
use towpath_reconcile::plan::batch::ChangeSet;

/// An executor that carries out the commands of a run.
pub(in crate::reconcile) trait CarryOut<'a>: Sync + Sized {
    /// The outcome of a task that cannot run because the result of another task is missing.
    const LACKING: Outcome;

    /// The data that an executor needs in addition to its session.
    type Tools: Copy;

    /// Creates the executor for one TaskBook.
    fn of(session: Session<'a>, tools: Self::Tools) -> Self;

    /// Returns the session of the executor.
    fn session(&self) -> &Session<'a>;

    /// Returns the inputs for the run of the TaskBook.
    fn inputs(&self) -> BookInputs;

    /// Carries out a command of the run, and returns the answer.
    fn carry_out(&self, command: &Command) -> Observation;

    /// Returns the deleted TaskBooks whose removal keeps this node out of service.
    fn out_of_service(pass: &PassContext<'_>) -> BTreeSet<BookId>;

    /// Deletes the journal records of a deleted TaskBook after all its items are removed. Returns whether the removal
    /// has ended.
    fn forget_gone(pass: &PassContext<'_>, book: &BookId) -> bool;
}

/// A run in progress, together with its executor.
pub(in crate::reconcile) struct Started<E> {
    run: BookRun,
    executor: E,
    /// The id of the unanswered command that requests the inventory.
    asked: Option<CommandId>,
}

/// The stage that a run has reached.
#[derive(Debug)]
pub(in crate::reconcile) enum Stage {
    /// All tasks have run. The run waits for the runs of the other TaskBooks before it removes items.
    Removing(Interim),
    /// The run has ended.
    Finished(BookReport),
}

impl<'a, E: CarryOut<'a>> Started<E> {
    /// Creates a run that has not carried out a command yet.
    pub(in crate::reconcile) fn new(executor: E) -> Self {
        Self { run: BookRun::new(executor.inputs()), executor, asked: None }
    }

    pub(in crate::reconcile) fn session(&self) -> &Session<'a> {
        self.executor.session()
    }

    /// Makes the run end before its next task.
    pub(in crate::reconcile) fn preempt(&mut self) {
        self.run.preempt();
    }

    /// Continues a run that has waited for the other TaskBooks. `inventory` is `None` if this pass is not allowed to
    /// remove items.
    pub(in crate::reconcile) fn remove(&mut self, inventory: Option<Inventory>) -> Stage {
        if let Some(id) = self.asked.take() {
            self.run.observe(id, Observation::Inventory(inventory));
        }
        self.advance()
    }

    /// Carries out commands until the run ends, or waits for the other TaskBooks.
    pub(in crate::reconcile) fn advance(&mut self) -> Stage {
        let Self { run, executor, asked } = self;
        let executor = &*executor;
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let mut open = 0_usize;
            loop {
                if (executor.session().pass.should_preempt)() {
                    run.preempt();
                }
                match run.advance() {
                    Next::Finished(report) => return Stage::Finished(report),
                    Next::Wait if open == 0 => return Stage::Finished(stuck()),
                    Next::Wait => {
                        if let Ok((id, seen)) = receiver.recv() {
                            open = open.saturating_sub(1);
                            run.observe(id, seen);
                        }
                    }
                    Next::Do(commands) => {
                        for (id, command) in commands {
                            if let Command::ListInventory(interim) = command {
                                *asked = Some(id);
                                return Stage::Removing(interim);
                            }
                            if run.is_side_by_side() && takes_time(&command) {
                                open = open.saturating_add(1);
                                beside(scope, executor, (id, command), sender.clone());
                            } else {
                                run.observe(id, executor.carry_out(&command));
                            }
                        }
                    }
                }
            }
        })
    }
}

/// Carries out a command in a separate thread, in parallel with other commands.
fn beside<'scope, 'env, 'a: 'scope, E: CarryOut<'a>>(
    scope: &'scope Scope<'scope, 'env>,
    executor: &'scope E,
    (id, command): (CommandId, Command),
    sender: mpsc::Sender<(CommandId, Observation)>,
) {
    scope.spawn(move || {
        let seen = catch_unwind(AssertUnwindSafe(|| executor.carry_out(&command)));
        // The receiver lives as long as the run, so sending does not fail.
        let _ = sender.send((id, seen.unwrap_or_else(|panic| panicked(&*panic))));
    });
}

fn panicked(_: &(dyn Any + Send)) -> Observation {
    Observation::Failed("internal error: the task panicked; report this error with the log of this run".to_owned())
}

/// Returns the report of an internal error: a run waits, although no command is in progress.
fn stuck() -> BookReport {
    let message =
        "internal error: the run waits although no command is in progress; report this error with the log".to_owned();
    let report = TaskReport::new("book", "book", Outcome::Failed).with_message(message);
    BookReport { tasks: vec![report], ..BookReport::default() }
}

/// Returns true if a command may take a long time. The executor answers short commands immediately, even while tasks
/// run in parallel.
fn takes_time(command: &Command) -> bool {
    matches!(command, Command::Check(_) | Command::Apply(..) | Command::Execute(_) | Command::Reboot(..))
}

/// The executor that changes the node.
pub(in crate::reconcile) struct Executor<'a> {
    session: Session<'a>,
    admission: AdmissionControl<'a>,
    coordinator: Coordinator,
}

impl<'a> Executor<'a> {
    /// Returns the permit for a change. The run has already requested the admission of the change.
    fn permit(&self) -> Result<Permit<'a>, String> {
        self.admission.permit(Admission::SlotAndWindow)
    }

    fn apply(&self, set: &ChangeSet, needs: Admission) -> Observation {
        match (self.admission.permit(needs), set) {
            (Err(message), _) => Observation::Failed(message),
            (Ok(permit), ChangeSet::Files(ids)) => Observation::Applied(apply::files(&self.session, ids, permit)),
            (Ok(permit), ChangeSet::Direct(ids)) => Observation::Applied(direct::changes(&self.session, ids, permit)),
        }
    }

    fn execute(&self, invocation: &Invocation) -> Observation {
        // A probe changes nothing, and the end of a reboot is only recorded.
        let permit = match invocation {
            Invocation::Probe(_) | Invocation::Rebooted(_) => self.admission.permit(Admission::Free),
            _ => self.permit(),
        };
        match permit {
            Ok(permit) => Observation::Executed(invoke::invoke(&self.session, invocation, permit)),
            Err(message) => Observation::Failed(message),
        }
    }

    fn reboot(&self, id: InstanceId, is_admitted: bool) -> Observation {
        match is_admitted.then(|| self.permit()).transpose() {
            Ok(permit) => Observation::Rebooted(invoke::reboot(&self.session, id, permit)),
            Err(message) => Observation::Failed(message),
        }
    }

    fn remove(&self, removal: &Removal) -> Observation {
        // An item that is only forgotten is not changed.
        let needs = if removal.remove.is_empty() { Admission::Free } else { Admission::SlotAndWindow };
        let removed = self.admission.permit(needs).and_then(|permit| restore::remove(&self.session, removal, permit));
        removed.map_or_else(Observation::Failed, Observation::Removed)
    }
}

impl Executor<'_> {
    /// Returns the rollout that removes the items of the TaskBook after the TaskBook is deleted (D32).
    fn last_rollout(&self, known: Option<LastRollout>) -> Option<LastRollout> {
        let session = &self.session;
        let rollout = &session.book.rollout;
        let slots = self.admission.rollout().map(|rollout| rollout.run.last_slots());
        if !session.book.prune || slots.is_none() && rollout.before.is_empty() && rollout.after.is_empty() {
            return None;
        }
        let kept = |tasks: &[Task]| {
            let kept = tasks.iter().map(|task| apply::kept_task(session, task)).collect::<Option<Vec<_>>>();
            kept.map(|kept| kept.into_iter().flatten().collect::<Vec<_>>())
        };
        let known = known.unwrap_or_default();
        // A task that cannot be rendered now keeps its last recorded form.
        let before = kept(&rollout.before).unwrap_or(known.before);
        let after = kept(&rollout.after).unwrap_or(known.after);
        Some(LastRollout { slots, before, after })
    }

    /// Records the inventory of the TaskBook, and the items that were in sync. The items of the previous inventory stay
    /// recorded, because the new inventory may be incomplete.
    fn record(&self, findings: &Findings) -> Result<(), String> {
        let session = &self.session;
        let machine = session.machine();
        let Some(journal) = &machine.journal else { return Ok(()) };
        let mut changes = Changes::default();
        for id in &findings.observed {
            let found = session.notes().in_sync.remove(id);
            if let Some((key, applied)) = found {
                changes.put(&key, &applied);
                machine.set_applied(&key, Some(applied));
            }
        }
        let old: InventoryRecord = machine.record(&session.id).unwrap_or_default();
        let mut items: BTreeSet<Managed> = old.items.clone();
        let managed = |item: &towpath_reconcile::names::Managed| Managed {
            module: item.module.clone(),
            identity: item.identity.clone(),
        };
        items.extend(findings.managed.iter().map(managed));
        let (prune, budget) = (session.book.prune, session.book.prune_budget.clone());
        let rollout = if session.last.is_some() { old.rollout.clone() } else { self.last_rollout(old.rollout.clone()) };
        let new = InventoryRecord { items, prune, budget, rollout };
        if new != old {
            changes.put(&session.id, &new);
        }
        journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))
    }
}

impl<'a> CarryOut<'a> for Executor<'a> {
    const LACKING: Outcome = Outcome::Failed;

    type Tools = &'a FsWriter;

    fn of(session: Session<'a>, writer: &'a FsWriter) -> Self {
        let admission = AdmissionControl::new(session.pass, writer, coordinate::rollout(&session));
        let coordinator = Coordinator::new(&session);
        Self { session, admission, coordinator }
    }

    fn session(&self) -> &Session<'a> {
        &self.session
    }

    fn inputs(&self) -> BookInputs {
        let session = &self.session;
        let pass = session.pass;
        BookInputs {
            book: std::sync::Arc::clone(&session.book),
            rollout: self.admission.rollout().map(|rollout| coordinate::plan(rollout, &pass.view.node)),
            mode: if pass.fresh { RunMode::NewRevision } else { RunMode::Steady },
            drift: pass.drift,
            ends_at_failure: true,
            record: self.coordinator.record(session, &self.admission),
        }
    }

    fn out_of_service(pass: &PassContext<'_>) -> BTreeSet<BookId> {
        restore::out_of_service(pass)
    }

    fn forget_gone(pass: &PassContext<'_>, book: &BookId) -> bool {
        restore::forget_gone(pass, book)
    }

    fn carry_out(&self, command: &Command) -> Observation {
        let (session, admission, coordinator) = (&self.session, &self.admission, &self.coordinator);
        match command {
            Command::Items(at) => Observation::Items(resource::items(session, *at)),
            Command::Render(instance) => Observation::Rendered(resource::render(session, instance)),
            Command::Check(id) => Observation::Checked(resource::check(session, *id)),
            Command::Admit(admit) => Observation::Answered(admission.admit(*admit)),
            Command::Coordinate(call) => answered(coordinator.call(session, admission, call)),
            Command::Elect(at, is_done) => match coordinate::elect(session, admission, *at, *is_done) {
                Ok(state) => Observation::Election(state),
                Err(message) => Observation::Failed(message),
            },
            Command::PublishResult(result) => answered(coordinate::publish(session, admission, result)),
            Command::Apply(set, needs) => self.apply(set, *needs),
            Command::Execute(invocation) => self.execute(invocation),
            Command::Reboot(id, is_admitted) => self.reboot(*id, *is_admitted),
            Command::Register(name, value) => {
                session.renderer.register(name, value);
                Observation::Done
            }
            Command::ListHandlers => Observation::Handlers(invoke::pending(session)),
            Command::ListInventory(_) => Observation::Inventory(None),
            Command::Remove(removal) => self.remove(removal),
            Command::Record(findings) => done(self.record(findings)),
            Command::Persist(record) => done(coordinator.persist(session, admission, record)),
        }
    }
}

fn answered(answer: Result<Answer, String>) -> Observation {
    match answer {
        Ok(answer) => Observation::Answered(answer),
        Err(message) => Observation::Failed(message),
    }
}

fn done(result: Result<(), String>) -> Observation {
    match result {
        Ok(()) => Observation::Done,
        Err(message) => Observation::Failed(message),
    }
}
