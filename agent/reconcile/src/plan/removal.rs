//! Decides which items a pass removes, in which order, and how many. A pass removes items that a book no longer
//! mentions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use towpath_render::view::PruneBudget;

pub use crate::names::Managed;

/// The items that a book no longer manages. The agent removes each item from the node, deletes only its journal record,
/// or leaves the item to another book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The items to remove from the node, in the order of removal.
    pub remove: Vec<Managed>,
    /// The items that stay on the node, although the agent deletes their journal records.
    pub forget: Vec<Managed>,
    /// The items that another book manages now. The agent keeps the records of items that another book manages.
    pub moved: Vec<Managed>,
}

/// The items that the journal records for a book, and the settings for removals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The items that the journal records for the book.
    pub recorded: BTreeSet<Managed>,
    /// All items that the books of the node manage now.
    pub managed_anywhere: Arc<BTreeSet<Managed>>,
    /// The position of each module in the removal order, by the module's name. The agent first removes the items of
    /// modules with lower positions.
    pub order: BTreeMap<String, u32>,
    /// True if the book removes items that it no longer mentions. If `prune` is false, the agent only deletes the
    /// records of items that the book no longer mentions.
    pub prune: bool,
    /// The maximum number of removals in one pass (D33).
    pub budget: PruneBudget,
    /// The number of items that other books with the same prune budget remove in this pass.
    pub others: u64,
    /// The number of managed items of the node. A prune budget in percent is a percentage of the managed items of the
    /// node.
    pub total: u64,
}

/// The removal position of modules that the removal order does not list.
pub const MIDDLE: u32 = 200;

/// The decision about the items that a book no longer mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The book has no items to remove, and no records to delete.
    Nothing,
    /// The items stay on the node: the book does not prune, or another book manages the items.
    Forget(Removal),
    /// The items are removed from the node.
    Remove(Removal),
    /// The removal is held, because the number of items exceeds the prune budget of one pass.
    OverBudget {
        /// The message with the number of items, the budget, and the object that sets the budget.
        message: String,
    },
}

/// Decides which items are removed from the node, and in which order.
pub fn decide(inventory: &Inventory, managed: &BTreeSet<Managed>) -> Decision {
    let unmentioned = inventory.recorded.difference(managed);
    let (moved, gone): (Vec<&Managed>, Vec<&Managed>) =
        unmentioned.partition(|item| inventory.managed_anywhere.contains(item));
    let owned = |items: Vec<&Managed>| items.into_iter().cloned().collect::<Vec<Managed>>();
    let (moved, mut gone) = (owned(moved), owned(gone));
    if gone.is_empty() && moved.is_empty() {
        return Decision::Nothing;
    }
    if gone.is_empty() || !inventory.prune {
        return Decision::Forget(Removal { forget: gone, moved, ..Removal::default() });
    }
    // Many books that each remove a few items are the same accident as one book that removes many.
    let count = u64::try_from(gone.len()).unwrap_or(u64::MAX).saturating_add(inventory.others);
    if let Some(message) = inventory.budget.exceeded(count, inventory.total) {
        return Decision::OverBudget { message };
    }
    // Inner paths are removed before their directories, and services before the files that they use.
    gone.reverse();
    gone.sort_by_key(|item| inventory.order.get(&item.module).copied().unwrap_or(MIDDLE));
    Decision::Remove(Removal { remove: gone, moved, ..Removal::default() })
}

#[cfg(test)]
mod tests;
