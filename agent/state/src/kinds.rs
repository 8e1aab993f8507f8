//! The kinds of journal records, with the prefixes of their keys.

use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{BookId, Key, Managed, RunId, TaskId};

mod sealed {
    /// A private trait that prevents other crates from defining kinds or composing keys.
    pub trait Sealed {
        /// The text before the keys of the kind.
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

/// The type of the keys of a record.
pub type KeyOf<R> = <<R as Record>::Kind as Kind>::Key;

/// Returns the full text of a record's key in the journal.
pub(crate) fn text_of<K: Kind>(key: &K::Key) -> String {
    format!("{}{}", K::PREFIX, key.text())
}

/// Returns the text before the keys of a kind.
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
        /// The random key for digests of possible secrets. The key never leaves the node.
        DigestKey(()) = "digest-key";
        /// The change that the agent has started, for the examination after a crash.
        Intent(()) = "intent";
        /// The state and the conditions of the node.
        NodeState(()) = "state";
        /// The status of each book after the last pass.
        BookStatuses(()) = "book-statuses";
        /// The progress of the book runs, from which the agent derives their events.
        RunProgress(()) = "run-progress";
        /// The accepted revision.
        Accepted(()) = "accepted";
        /// The manifest of the accepted revision.
        Manifest(()) = "manifest";
        /// The last known state of other nodes, for templates.
        OtherNodes(()) = "other-nodes";
        /// The candidate revisions that were rejected.
        RejectedCandidates(()) = "rejected-candidates";
        /// The inputs of the steady state, with which a pass can skip rendering.
        SteadyState(()) = "steady-state";
        /// The last seen revision of the data store, and the number of the node's last write.
        StorePosition(()) = "store-position";
        /// The reserved range of numbers for signed records.
        RecordNumbers(()) = "record-numbers";
        /// The rights of nodes in the books of the last revisions.
        BookRights(()) = "book-rights";
        /// The signing key and the last record numbers of a node, by the name of the node.
        Writer(String) = "writer/";
        /// The serial numbers of the certificates that a signing key has presented, by key.
        Certificates(String) = "certificates/";
        /// The last accepted commit of a source, by the name of the source.
        Checkpoint(String) = "checkpoint/";
        /// An event, by its UUID.
        Event(String) = "event/";
        /// An event that is still in effect: a firing alarm or the last start of the agent, by identity.
        StandingEvent(String) = "standing-event/";
        /// A run of a book, by its start time and book.
        Run(RunId) = "run/";
        /// The last applied value of a managed object.
        Applied(Managed) = "applied/";
        /// The state of a path before Towpath changed it for the first time.
        Original(String) = "original/";
        /// A file whose `validate` command has not run yet, by path.
        Unchecked(String) = "unchecked/";
        /// The last run of an action, by the action and its item.
        Action(TaskId) = "action/";
        /// A handler that was notified and has not succeeded since.
        Handler(TaskId) = "handler/";
        /// The objects that a book manages.
        Inventory(BookId) = "inventory/";
        /// A row of the local data store, by its key in the store.
        StoreRow(String) = "store/row/";
        /// The revision of the local data store.
        StoreRevision(()) = "store/revision";
    }
    by_field {
        /// The state of a book's run on this node.
        Book(BookId) = "book/";
        /// The state of an elected task on this node.
        Election(TaskId) = "election/";
    }
}
