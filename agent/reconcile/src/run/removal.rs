//! The removal of items that a book no longer mentions, within the rollout of the book (D32, D33).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    context::{Run, Steps, Stop},
    lane::Lane,
    segment::{after, begin, persist_or_stop},
    slots,
};
use crate::{
    command::{Interim, Removal},
    outcome::{Origin, Outcome, TaskReport},
    plan::removal::{Decision, Managed, decide},
};

/// Removes the items that the book no longer mentions, after the tasks of the book have ended. `managed` is `None` if
/// some managed items are not known.
pub(super) async fn remove(run: &Run, lane: &Lane, managed: Option<Arc<BTreeSet<Managed>>>) -> Steps {
    let waits = run.record.borrow().removal_failed;
    let interim = Interim { managed: managed.clone(), worst: lane.worst() };
    let inventory = match run.channel.inventory(interim).await {
        Ok(inventory) => inventory,
        Err(message) => return failed(message),
    };
    let mut steps = Steps::default();
    if run.channel.preempted() {
        // The newer revision decides which items are removed.
        if !lane.stopped() {
            steps.stop(Stop::Preempted);
        }
        return steps;
    }
    let (Some(inventory), Some(managed)) = (inventory, managed) else {
        // The current pass cannot remove any item. A node that a failed removal keeps out of service returns to service
        // now. The next attempt may come much later, and the rollout must not wait for the attempt.
        return if waits && !lane.stopped() { return_to_service(run, lane, steps).await } else { steps };
    };
    match decide(&inventory, &managed) {
        Decision::Nothing if waits => return_to_service(run, lane, steps).await,
        Decision::Nothing => steps,
        Decision::Forget(removal) => {
            if let Err(message) = run.channel.remove(removal).await {
                steps.add(failed(message));
            }
            let returns = waits && !lane.stopped() && !steps.stopped();
            if returns { return_to_service(run, lane, steps).await } else { steps }
        }
        Decision::OverBudget { message } => {
            steps.push(TaskReport::new("prune", "prune", Outcome::Held).with_message(message));
            steps
        }
        Decision::Remove(removal) => all(run, lane, removal).await,
    }
}

/// Removes items from the node. In a rollout, the removal needs an open maintenance window and a slot.
async fn all(run: &Run, lane: &Lane, removal: Removal) -> Steps {
    let waits = run.record.borrow().removal_failed;
    // The removal needs an open window of its own, even if changes of this run began in an open window.
    run.segment.borrow_mut().in_window = false;
    let (mut steps, begun) = match slots::enter_removal(run).await {
        Ok(()) => begin(run).await,
        Err(why) => (Steps::refused(&why), Err(why)),
    };
    if let Err(why) = begun {
        steps.push(TaskReport::new("prune", "prune", why.outcome()).with_message(why.message()));
        return steps;
    }
    let removed = match run.channel.remove(removal).await {
        Ok(removed) => removed,
        Err(message) => {
            steps.add(failed(message));
            return steps;
        }
    };
    let mut complete = true;
    for one in removed {
        // A later pass removes an item that is held. The node is in service until then.
        complete &= one.outcome < Outcome::Held || one.outcome == Outcome::Held && !waits;
        let name = format!("prune {} {}", one.item.module, one.item.identity);
        let mut report = TaskReport::new(name, one.item.module, one.outcome).with_message(one.message);
        report.action = "remove";
        report.origin = Origin::Removal;
        steps.push(report);
    }
    if complete {
        return return_to_service(run, lane, steps).await;
    }
    // The failure is recorded before it is sent to the fleet. A crash between the two steps then does not return the
    // node to service.
    steps.add(persist_or_stop(run, "prune", |record| record.removal_failed = true).await);
    let failure = lane.failure_message(&steps);
    steps.add(slots::leave_removal(run, Some(failure)).await);
    steps.stop(Stop::Failed);
    steps
}

/// Runs the `after` tasks, and releases the slot of the removal. `steps` contains the results of the removal so far.
async fn return_to_service(run: &Run, lane: &Lane, mut steps: Steps) -> Steps {
    run.segment.borrow_mut().kept_out = false;
    steps.add(after(run).await);
    let failure = (lane.stopped() || steps.stopped()).then(|| lane.failure_message(&steps));
    let has_failed = failure.is_some();
    steps.add(slots::leave_removal(run, failure).await);
    if !has_failed {
        steps.add(persist_or_stop(run, "prune", |record| record.removal_failed = false).await);
    }
    steps
}

fn failed(message: String) -> Steps {
    Steps::failed(TaskReport::new("prune", "prune", Outcome::Failed).with_message(message))
}
