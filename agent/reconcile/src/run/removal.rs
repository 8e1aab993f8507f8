//! The removal of items that a book no longer mentions, within the rollout of the book (D32, D33).

use std::{collections::BTreeSet, sync::Arc};

use super::{
    context::{Lane, Run, Stop},
    segment::{after, begin, persist_or_stop},
    slots,
};
use crate::{
    command::{Interim, Removal},
    outcome::{Origin, Outcome, TaskReport},
    plan::removal::{Decision, Managed, decide},
};

/// Removes the items that the book no longer mentions. `managed` is `None` if not all managed items are known. Returns
/// true if the removal has ended and does not keep the node out of service.
pub(super) async fn remove(run: &Run, lane: &mut Lane, managed: Option<Arc<BTreeSet<Managed>>>) -> bool {
    let waits = run.record.borrow().removal_failed;
    let interim = Interim { managed: managed.clone(), worst: lane.worst() };
    let inventory = match run.channel.inventory(interim).await {
        Ok(inventory) => inventory,
        Err(message) => {
            fail(lane, message);
            return false;
        }
    };
    if run.channel.preempted() {
        // The newer revision decides which items are removed.
        if !lane.stopped() {
            lane.stop(Stop::Preempted);
        }
        return false;
    }
    let (Some(inventory), Some(managed)) = (inventory, managed) else {
        // The current pass cannot remove any item. A node that a failed removal keeps out of service returns to service
        // now. The next attempt may come much later, and the rollout must not wait for the attempt.
        return waits && !lane.stopped() && return_to_service(run, lane).await;
    };
    match decide(&inventory, &managed) {
        Decision::Nothing => !waits || return_to_service(run, lane).await,
        Decision::Forget(removal) => {
            forget(run, lane, removal).await;
            !lane.stopped() && (!waits || return_to_service(run, lane).await)
        }
        Decision::OverBudget { message } => {
            lane.push(TaskReport::new("prune", "prune", Outcome::Held).with_message(message));
            false
        }
        Decision::Remove(removal) => all(run, lane, removal).await,
    }
}

async fn forget(run: &Run, lane: &mut Lane, removal: Removal) {
    if let Err(message) = run.channel.remove(removal).await {
        fail(lane, message);
    }
}

/// Removes items. Returns true if no removal failed or is held, and the node is in service.
async fn all(run: &Run, lane: &mut Lane, removal: Removal) -> bool {
    let waits = run.record.borrow().removal_failed;
    // The removal needs an open window of its own, even if changes of this run began in an open window.
    run.segment.borrow_mut().in_window = false;
    let begun = match slots::enter_removal(run, lane).await {
        Ok(()) => begin(run, lane).await,
        Err(why) => Err(why),
    };
    if let Err(why) = begun {
        lane.push(TaskReport::new("prune", "prune", why.outcome()).with_message(why.message()));
        return false;
    }
    let removed = match run.channel.remove(removal).await {
        Ok(removed) => removed,
        Err(message) => {
            fail(lane, message);
            return false;
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
        lane.push(report);
    }
    if complete {
        return return_to_service(run, lane).await;
    }
    // The failure is recorded before it is sent to the fleet. A crash between the two steps then does not return the
    // node to service.
    persist_or_stop(run, lane, "prune", |record| record.removal_failed = true).await;
    slots::leave_removal(run, lane, true).await;
    lane.stop(Stop::Failed);
    false
}

/// Runs the `after` tasks, and releases the slot of the removal.
async fn return_to_service(run: &Run, lane: &mut Lane) -> bool {
    run.segment.borrow_mut().kept_out = false;
    after(run, lane).await;
    let failed = lane.stopped();
    slots::leave_removal(run, lane, failed).await;
    if failed {
        return false;
    }
    persist_or_stop(run, lane, "prune", |record| record.removal_failed = false).await;
    !lane.stopped()
}

fn fail(lane: &mut Lane, message: String) {
    lane.push(TaskReport::new("prune", "prune", Outcome::Failed).with_message(message));
    lane.stop(Stop::Failed);
}
