//! Removals: the items that a book no longer mentions, their order, and the budget of one pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use towpath_render::view::PruneBudget;

pub use crate::names::Managed;

/// Items that leave the inventory of a book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// The items to remove from the node, in this order.
    pub remove: Vec<Managed>,
    /// The items that stay on the node, and whose records are deleted.
    pub forget: Vec<Managed>,
    /// The items that another book manages now. Their records stay.
    pub moved: Vec<Managed>,
}

/// The recorded items of a book, with the context of their removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The items that the book has managed.
    pub recorded: BTreeSet<Managed>,
    /// The items that any book of the node manages now.
    pub managed_anywhere: Arc<BTreeSet<Managed>>,
    /// The removal order of modules, by name. Lower numbers are removed first; modules without a number come in the
    /// middle.
    pub order: BTreeMap<String, u32>,
    /// True if items that the book no longer mentions are removed, not only forgotten.
    pub prune: bool,
    /// The largest number of removals in one pass (D33).
    pub budget: PruneBudget,
    /// Number of managed items of the node, to which a percentage refers.
    pub total: u64,
}

/// The removal order of a module without a number of its own.
pub const MIDDLE: u32 = 200;

/// The decision about the items that a book no longer mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing has to be removed or forgotten.
    Nothing,
    /// Items leave the inventory, and stay on the node: another book manages them, or the book does not prune.
    Forget(Removal),
    /// Items are removed.
    Remove(Removal),
    /// More items would be removed than one pass may.
    OverBudget {
        /// The numbers, and the object that sets the budget.
        message: String,
    },
}

/// Decides which items are removed, and in which order.
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
    let count = u64::try_from(gone.len()).unwrap_or(u64::MAX);
    if let Some(message) = inventory.budget.exceeded(count, inventory.total) {
        return Decision::OverBudget { message };
    }
    // Inner paths are removed before their directories, and running things before their files.
    gone.reverse();
    gone.sort_by_key(|item| inventory.order.get(&item.module).copied().unwrap_or(MIDDLE));
    Decision::Remove(Removal { remove: gone, moved, ..Removal::default() })
}

#[cfg(test)]
mod tests;
