//! The kinds of journal records. Each kind has its own prefix for the keys of its records.

use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{BookId, Key, Managed, RunId, TaskId};

mod sealed {
    /// Only this crate defines kinds of records and builds the keys of records, because the trait is private.
    pub trait Sealed {
        /// The prefix of all keys of the kind in the journal.
        const PREFIX: &'static str;
    }
}

/// A kind of journal record. Only this crate defines kinds.
pub trait Kind: sealed::Sealed {
    /// The type of the kind's keys.
    type Key: Key;
}

/// A kind whose records the agent always writes as a whole. The agent writes the records of other kinds field by field.
pub trait Whole: Kind {}

/// A type of journal record. Each kind has one record type.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind of the record.
    type Kind: Kind;
}

/// The type of the key of a record.
pub type KeyOf<R> = <<R as Record>::Kind as Kind>::Key;

/// Returns the stored form of a record key: the prefix of the kind, followed by the text of the key.
pub(crate) fn text_of<K: Kind>(key: &K::Key) -> String {
    format!("{}{}", K::PREFIX, key.text())
}

/// Returns the prefix of all keys of a kind in the journal.
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
        /// The random key with which this node computes digests of values that may be secret. The key never leaves the
        /// node.
        DigestKey(()) = "digest-key";
        /// The work that the agent is doing. The agent uses this record after a crash, to remove temporary files.
        Intent(()) = "intent";
        /// The state and the conditions of the node.
        NodeState(()) = "state";
        /// The status of each TaskBook after the newest pass.
        BookStatuses(()) = "book-statuses";
        /// The phase of the newest run of each TaskBook: started, succeeded or failed. When a phase changes, the agent
        /// records an event.
        RunProgress(()) = "run-progress";
        /// The accepted revision.
        Accepted(()) = "accepted";
        /// The manifest of the accepted revision.
        Manifest(()) = "manifest";
        /// The state of the other nodes at the agent's newest read of the data store. While the data store does not
        /// answer, templates use the stored state of the other nodes.
        OtherNodes(()) = "other-nodes";
        /// The revisions that this node has rejected.
        RejectedCandidates(()) = "rejected-candidates";
        /// The inputs of the newest pass that has found nothing to do. A later pass with equal inputs does not render
        /// the TaskBooks.
        SteadyState(()) = "steady-state";
        /// The highest data store revision that the node has seen, and the sequence number of the node's newest write.
        StorePosition(()) = "store-position";
        /// The sequence numbers that the node has reserved for the records that the node signs.
        RecordNumbers(()) = "record-numbers";
        /// The rights of each node in each TaskBook, for each of the newest revisions.
        BookRights(()) = "book-rights";
        /// The signing key of a node, and the sequence numbers of the newest records that the node has signed. The key
        /// of the record is the name of the node.
        Writer(String) = "writer/";
        /// The serial numbers of the certificates that nodes have presented, by signing key. The key of the journal
        /// record is the public signing key.
        Certificates(String) = "certificates/";
        /// The newest accepted commit of a source. The key of the record is the name of the source.
        Checkpoint(String) = "checkpoint/";
        /// An event. The key of the record is the UUID of the event.
        Event(String) = "event/";
        /// An event that is still in effect: a firing alarm, or the newest start of the agent. The key of the record is
        /// the identity of the event.
        ActiveEvent(String) = "active-event/";
        /// A run of a TaskBook. The key of the record is the start time of the run and the id of the TaskBook.
        Run(RunId) = "run/";
        /// The task definition that the agent has applied to a managed object, and the way to undo the task.
        Applied(Managed) = "applied/";
        /// The original state of a path, before Towpath changed the path for the first time.
        Original(String) = "original/";
        /// A replaced file whose `validate` command has not run yet. The key of the record is the path of the file.
        Unchecked(String) = "unchecked/";
        /// The newest run of an action. The record key is the id of the action; for an action in a loop, the id
        /// contains the loop item.
        Action(TaskId) = "action/";
        /// A handler that a task has notified, and that has not succeeded since the notification.
        Handler(TaskId) = "handler/";
        /// The objects that a TaskBook manages.
        Inventory(BookId) = "inventory/";
        /// A row of the local data store. The key of the journal record contains the store key of the row.
        StoreRow(String) = "store/row/";
        /// The revision number of the local data store.
        StoreRevision(()) = "store/revision";
    }
    by_field {
        /// The progress of this node in a run of a TaskBook, and the slot of the node.
        Book(BookId) = "book/";
        /// The state of an elected task on this node.
        Election(TaskId) = "election/";
    }
}
