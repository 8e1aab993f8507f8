//! The kinds of journal records, with the prefixes of their keys.

use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{BookId, Key, Managed, RunId, TaskId};

mod sealed {
    /// A private trait, so that other crates can neither define kinds of records nor compose record keys.
    pub trait Sealed {
        /// The prefix that all record keys of the kind have in the journal.
        const PREFIX: &'static str;
    }
}

/// A kind of journal record. Only this crate defines kinds.
pub trait Kind: sealed::Sealed {
    /// The type of the kind's keys.
    type Key: Key;
}

/// A kind whose records are written as a whole, not field by field.
pub trait Whole: Kind {}

/// A type of journal record. Each kind has one record type.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind of the record.
    type Kind: Kind;
}

/// The type of the keys of a record type.
pub type KeyOf<R> = <<R as Record>::Kind as Kind>::Key;

/// Returns the text of a record's key in the journal: the prefix of the kind, and the key.
pub(crate) fn text_of<K: Kind>(key: &K::Key) -> String {
    format!("{}{}", K::PREFIX, key.text())
}

/// Returns the prefix that all record keys of a kind have in the journal.
pub(crate) fn prefix_of<K: Kind>() -> &'static str {
    K::PREFIX
}

macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $key:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}

        impl sealed::Sealed for $name {
            const PREFIX: &'static str = $prefix;
        }

        impl Kind for $name {
            type Key = $key;
        }
    };
}

macro_rules! kinds {
    (
        whole { $($(#[$doc:meta])* $name:ident($key:ty) = $prefix:literal;)* }
        by_field { $($(#[$field_doc:meta])* $field_name:ident($field_key:ty) = $field_prefix:literal;)* }
    ) => {
        $(kind!($(#[$doc])* $name, $key, $prefix); impl Whole for $name {})*
        $(kind!($(#[$field_doc])* $field_name, $field_key, $field_prefix);)*

        /// The prefixes of all kinds.
        #[cfg(test)]
        pub(crate) const PREFIXES: &[&str] = &[$($prefix,)* $($field_prefix,)*];
    };
}

kinds! {
    whole {
        /// The version of the journal's format.
        Schema(()) = "schema";
        /// The random key for digests of possible secrets. The random key never leaves the node.
        DigestKey(()) = "digest-key";
        /// The change that the agent has started, which the agent examines after a crash.
        Intent(()) = "intent";
        /// The state and the conditions of the node.
        NodeState(()) = "state";
        /// The status of each TaskBook after the last pass.
        BookStatuses(()) = "book-statuses";
        /// The progress of the runs of all TaskBooks, from which the agent derives events about the runs.
        RunProgress(()) = "run-progress";
        /// The accepted revision.
        Accepted(()) = "accepted";
        /// The manifest of the accepted revision.
        Manifest(()) = "manifest";
        /// The last known state of other nodes, which templates use.
        OtherNodes(()) = "other-nodes";
        /// The revisions that this node has rejected.
        RejectedCandidates(()) = "rejected-candidates";
        /// The inputs of the last pass that found nothing to do. While no input changes, a pass skips rendering.
        SteadyState(()) = "steady-state";
        /// The last revision of the data store that the node has seen, and the number of the node's last write.
        StorePosition(()) = "store-position";
        /// The range of sequence numbers that the node has reserved for its signed records.
        RecordNumbers(()) = "record-numbers";
        /// The rights of each node in the TaskBooks of the last revisions.
        BookRights(()) = "book-rights";
        /// The signing key of a node and the numbers of its last signed records, by the name of the node.
        Writer(String) = "writer/";
        /// The serial numbers of the certificates that were presented for a signing key, by the key.
        Certificates(String) = "certificates/";
        /// The last accepted commit of a source, by the name of the source.
        Checkpoint(String) = "checkpoint/";
        /// An event, by its UUID.
        Event(String) = "event/";
        /// An event that is still in effect, by its identity: a firing alarm, or the last start of the agent.
        StandingEvent(String) = "standing-event/";
        /// A run of a TaskBook, by start time and TaskBook.
        Run(RunId) = "run/";
        /// The last value that the agent has applied to a managed object.
        Applied(Managed) = "applied/";
        /// The state of a path before Towpath changed the path for the first time.
        Original(String) = "original/";
        /// A replaced file whose `validate` command has not run yet, by the path of the file.
        Unchecked(String) = "unchecked/";
        /// The last run of an action, by the action and its loop item.
        Action(TaskId) = "action/";
        /// A handler that was notified and has not succeeded since.
        Handler(TaskId) = "handler/";
        /// The objects that a TaskBook manages.
        Inventory(BookId) = "inventory/";
        /// A row of the local data store, by its key in the store.
        StoreRow(String) = "store/row/";
        /// The revision of the local data store.
        StoreRevision(()) = "store/revision";
    }
    by_field {
        /// The progress of a TaskBook's run on this node, and the slot of the node.
        Book(BookId) = "book/";
        /// The state of an elected task on this node.
        Election(TaskId) = "election/";
    }
}
