//! The transactions that write one slot record.

use serde::Serialize;

use super::{RolloutSpec, SlotEntry, SlotRecord};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// Returns the transaction that replaces a slot record. The transaction fails if the slot record has changed since the
/// snapshot.
pub(super) fn replace(spec: &RolloutSpec, old: &SlotEntry, new: &SlotRecord) -> Txn {
    let key = keys::held(&spec.budget, &old.partition, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::put(key, bytes(new))],
        otherwise: Vec::new(),
    }
}

/// Returns the transaction that deletes a slot record. The transaction fails if the slot record has changed since the
/// snapshot.
pub(super) fn delete(spec: &RolloutSpec, old: &SlotEntry) -> Txn {
    let key = keys::held(&spec.budget, &old.partition, &old.book, &old.node);
    Txn {
        compare: vec![Compare::Revision(key.clone(), old.modified)],
        then: vec![Op::Delete(key)],
        otherwise: Vec::new(),
    }
}

/// Returns the key of a node's slot record in the partition to which the node belongs now.
pub(super) fn own_held(spec: &RolloutSpec, own_node: &str) -> String {
    keys::held(&spec.budget, spec.partition(own_node), &spec.book, own_node)
}

/// Encodes a record as JSON, which is the format of all records in the store.
pub(super) fn bytes<T: Serialize>(record: &T) -> Vec<u8> {
    // The records are plain structs, so their serialization cannot fail.
    serde_json::to_vec(record).unwrap_or_default()
}
