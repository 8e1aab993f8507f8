//! The claims of this node in the journal: the slots of TaskBooks, and the position in the data store.

use std::collections::BTreeSet;

use towpath_coordination::{
    fleet::{Answer, Fleet},
    rollout::{Request, RolloutSpec, SlotState},
};
use towpath_state::{BookId, BookRecord, Changes, ClaimState, Journal, SlotClaim, SlotRef, StorePosition};

use super::{HostContext, PassContext, book_id};

/// Reads the position in the data store from the journal. The position contains the store revision and the number of
/// this node's most recent write.
pub fn store_position(journal: &Journal) -> (u64, u64) {
    journal.get_readable::<StorePosition>(&()).ok().flatten().unwrap_or_default().into()
}

pub(in crate::reconcile) fn remember_store_position(fleet: &Fleet, changes: &mut Changes) {
    changes.set(&StorePosition::from(fleet.known()));
}

/// Returns the slot that a node must claim in a rollout.
pub(in crate::reconcile) fn slot_of(spec: &RolloutSpec, node: &str) -> SlotRef {
    SlotRef { budget: spec.budget.clone(), partition: spec.partition(node).to_owned(), claim: None }
}

/// Returns a rollout definition with only the data that the release of a slot needs.
pub(in crate::reconcile) fn spec_of(slot: &SlotRef, book: &BookId, node: &str) -> RolloutSpec {
    RolloutSpec {
        book: book.to_string(),
        budget: slot.budget.clone(),
        partitions: [(node.to_owned(), slot.partition.clone())].into(),
        waves: 1,
        ..RolloutSpec::default()
    }
}

/// Converts a claim from the journal into the type that a rollout uses.
pub(in crate::reconcile) fn known_claim(claim: SlotClaim) -> (SlotState, String, u32) {
    let state = match claim.state {
        ClaimState::Claim => SlotState::Claim,
        ClaimState::Failure => SlotState::Failure,
        ClaimState::Unadmitted => SlotState::Unadmitted,
    };
    (state, claim.run, claim.segment)
}

fn remember_slot(machine: &HostContext, fleet: &Fleet, book: &BookId, slot: Option<&SlotRef>) {
    let Some(journal) = &machine.journal else { return };
    if machine.book(book).slot.as_ref() == slot {
        return;
    }
    let mut changes = Changes::default();
    remember_store_position(fleet, &mut changes);
    changes.set_slot(book, slot.cloned());
    if let Err(error) = journal.commit(changes) {
        tracing::warn!(%error, "cannot record the held slot in the journal");
    }
}

/// Returns true if this node holds a slot, or waits for a slot. If the node holds or awaits a slot, the node stays a
/// member of the fleet when its agent stops.
pub fn holds_slots(journal: &Journal) -> bool {
    journal.all::<BookRecord>().is_ok_and(|books| books.iter().any(|(_, book)| book.slot.is_some()))
}

/// Releases the slots of TaskBooks that no longer run on this node, after the new revision is applied (P66). The
/// TaskBooks in `removing` keep their slots, because their removal needs a slot (D32). Returns true if the slots of all
/// TaskBooks, except the TaskBooks in `removing`, are released.
pub(in crate::reconcile) fn leave_gone_books(pass: &PassContext<'_>, removing: &BTreeSet<BookId>) -> bool {
    let Some(coordination) = pass.coordination else { return true };
    let mut released = true;
    let books = pass.machine.records::<BookRecord>();
    for (book, slot) in books.into_iter().filter_map(|(book, record)| Some((book, record.slot?))) {
        let mine = pass.view.books.iter().any(|own| book_id(own) == book);
        let coordinated = coordination.manifest.books.contains_key(&book.to_string());
        if mine && coordinated || removing.contains(&book) {
            continue;
        }
        match coordination.fleet.ask(&spec_of(&slot, &book, &pass.view.node), Request::Leave) {
            Answer::Go => remember_slot(pass.machine, coordination.fleet, &book, None),
            Answer::Hold(gate) => {
                released = false;
                tracing::warn!(%book, "cannot release a slot; retrying: {gate}");
            }
        }
    }
    released
}
