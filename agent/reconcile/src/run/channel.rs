//! The channel through which a run gives commands to its executor and waits for the answers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use crate::{
    command::{
        Admit, Answer, Applied, Call, ChangeSet, Command, CommandId, ElectedResult, ElectionState, Executed, Finished,
        InstanceId, Interim, Invocation, Items, NotReady, Observation, PendingHandler, Rebooted, Removal, Removed,
        Rendered,
    },
    outcome::Outcome,
    plan::{
        assess::{Admission, Check, Checked},
        removal::Inventory,
    },
};

/// The error message for an answer whose type does not fit the command.
const UNEXPECTED: &str = "internal error: a command got the answer of another command; please report this with the log";

/// The unanswered commands of a run, and the state that concurrent parts of the run share.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) new: RefCell<Vec<(CommandId, Command)>>,
    pub(super) open: RefCell<BTreeMap<CommandId, Option<Observation>>>,
    commands: Cell<u64>,
    instances: Cell<u64>,
    pub(super) preempted: Cell<bool>,
    /// True while tasks of a parallel book run at the same time.
    pub(super) side_by_side: Cell<bool>,
    /// True if the run must poll its parts again, because a part may have made a condition true.
    pub(super) progress: Cell<bool>,
}

impl Channel {
    /// Returns true if the caller has asked the run to end.
    pub(super) fn preempted(&self) -> bool {
        self.preempted.get()
    }

    /// Returns a new number for a rendered task.
    pub(super) fn new_instance(&self) -> InstanceId {
        self.instances.set(self.instances.get().wrapping_add(1));
        InstanceId(self.instances.get())
    }

    /// Waits until `condition` returns true. Another part of the run makes `condition` true.
    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        poll_fn(|_| if condition() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Wakes the parts of the run that wait for a condition.
    pub(super) fn notify(&self) {
        self.progress.set(true);
    }

    async fn ask(&self, command: Command) -> Observation {
        self.commands.set(self.commands.get().wrapping_add(1));
        let id = CommandId(self.commands.get());
        self.open.borrow_mut().insert(id, None);
        self.new.borrow_mut().push((id, command));
        poll_fn(|_| {
            let mut open = self.open.borrow_mut();
            match open.get_mut(&id).and_then(Option::take) {
                Some(seen) => {
                    open.remove(&id);
                    Poll::Ready(seen)
                }
                None => Poll::Pending,
            }
        })
        .await
    }

    pub(super) async fn items(&self, command: Command) -> Result<Items, NotReady> {
        match self.ask(command).await {
            Observation::Items(items) => items,
            other => Err(not_ready(other)),
        }
    }

    pub(super) async fn render(&self, command: Command) -> Result<Rendered, NotReady> {
        match self.ask(command).await {
            Observation::Rendered(rendered) => rendered,
            other => Err(not_ready(other)),
        }
    }

    pub(super) async fn check(&self, instance: InstanceId) -> Checked {
        match self.ask(Command::Check(instance)).await {
            Observation::Checked(checked) => checked,
            other => Checked { check: Check::Failed(failure(other)), last: None, shown: None },
        }
    }

    /// # Errors
    /// Fails if the executor cannot find out whether the changes are admitted.
    pub(super) async fn admit(&self, admit: Admit) -> Result<Answer, String> {
        self.answer(Command::Admit(admit)).await
    }

    /// # Errors
    /// Fails if the executor cannot send the request to the fleet.
    pub(super) async fn coordinate(&self, call: Call) -> Result<Answer, String> {
        self.answer(Command::Coordinate(call)).await
    }

    /// # Errors
    /// Fails if the executor cannot publish the result.
    pub(super) async fn publish(&self, result: ElectedResult) -> Result<Answer, String> {
        self.answer(Command::PublishResult(result)).await
    }

    async fn answer(&self, command: Command) -> Result<Answer, String> {
        match self.ask(command).await {
            Observation::Answered(answer) => Ok(answer),
            other => Err(failure(other)),
        }
    }

    /// # Errors
    /// Fails if the executor cannot find out which nodes are elected.
    pub(super) async fn elect(&self, command: Command) -> Result<ElectionState, String> {
        match self.ask(command).await {
            Observation::Election(state) => Ok(state),
            other => Err(failure(other)),
        }
    }

    /// Makes a set of changes, and returns one result for each change.
    pub(super) async fn apply(&self, set: ChangeSet, admission: Admission) -> Vec<Applied> {
        let length = set.instances().len();
        let failed = |message: String| Applied::Failed(Finished { message: Some(message), result: None });
        match self.ask(Command::Apply(set, admission)).await {
            Observation::Applied(mut results) => {
                results.resize_with(length, || failed(UNEXPECTED.to_owned()));
                results
            }
            other => {
                let message = failure(other);
                (0..length).map(|_| failed(message.clone())).collect()
            }
        }
    }

    pub(super) async fn execute(&self, invocation: Invocation) -> Executed {
        match self.ask(Command::Execute(invocation)).await {
            Observation::Executed(executed) => executed,
            other => Executed::Ran(Outcome::Failed, Finished { message: Some(failure(other)), result: None }),
        }
    }

    pub(super) async fn reboot(&self, instance: InstanceId, admitted: bool) -> Rebooted {
        match self.ask(Command::Reboot(instance, admitted)).await {
            Observation::Rebooted(rebooted) => rebooted,
            other => Rebooted::Failed(failure(other)),
        }
    }

    /// Gives the executor a command that writes a record.
    ///
    /// # Errors
    /// Fails if the executor cannot write the record.
    pub(super) async fn record(&self, command: Command) -> Result<(), String> {
        match self.ask(command).await {
            Observation::Done => Ok(()),
            other => Err(failure(other)),
        }
    }

    /// # Errors
    /// Fails if the executor cannot read the pending handlers.
    pub(super) async fn handlers(&self) -> Result<Vec<PendingHandler>, String> {
        match self.ask(Command::ListHandlers).await {
            Observation::Handlers(handlers) => Ok(handlers),
            other => Err(failure(other)),
        }
    }

    /// # Errors
    /// Fails if the executor cannot read the inventory.
    pub(super) async fn inventory(&self, interim: Interim) -> Result<Option<Inventory>, String> {
        match self.ask(Command::ListInventory(interim)).await {
            Observation::Inventory(inventory) => Ok(inventory),
            other => Err(failure(other)),
        }
    }

    /// # Errors
    /// Fails if the executor cannot carry out the removal.
    pub(super) async fn remove(&self, removal: Removal) -> Result<Vec<Removed>, String> {
        match self.ask(Command::Remove(removal)).await {
            Observation::Removed(removed) => Ok(removed),
            other => Err(failure(other)),
        }
    }
}

fn failure(seen: Observation) -> String {
    match seen {
        Observation::Failed(message) => message,
        _ => UNEXPECTED.to_owned(),
    }
}

fn not_ready(seen: Observation) -> NotReady {
    NotReady::failed(failure(seen))
}

/// A part of a run, as a future that runs at the same time as the other parts of the run.
pub(super) type Part<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs several parts of a book run at the same time. Returns the results in the order of the given parts.
pub(super) async fn join<T>(parts: Vec<Part<'_, T>>) -> Vec<T> {
    let mut parts: Vec<(Part<'_, T>, Option<T>)> = parts.into_iter().map(|part| (part, None)).collect();
    poll_fn(|context| {
        for (part, result) in &mut parts {
            if result.is_none()
                && let Poll::Ready(found) = part.as_mut().poll(context)
            {
                *result = Some(found);
            }
        }
        if parts.iter().all(|(_, result)| result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    parts.into_iter().filter_map(|(_, result)| result).collect()
}
