//! The kinds of records: all keys of the journal.

use serde::{Serialize, de::DeserializeOwned};

use crate::keys::{BookId, Key, Managed, RunId, TaskId};

mod sealed {
    /// Keeps other crates from defining kinds and from spelling keys.
    pub trait Sealed {
        /// The text before the keys of the kind.
        const PREFIX: &'static str;
    }
}

/// A kind of record. Only this crate defines kinds.
pub trait Kind: sealed::Sealed {
    /// The type of the keys.
    type Key: Key;
}

/// A kind whose records are written as a whole.
pub trait Whole: Kind {}

/// A record of the journal. Each kind has one type.
pub trait Record: Serialize + DeserializeOwned {
    /// The kind.
    type Kind: Kind;
}

/// The type of the keys of a record.
pub type KeyOf<R> = <<R as Record>::Kind as Kind>::Key;

/// Returns the key of a record in the journal.
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
        /// The version of the journal.
        Schema(()) = "schema";
        /// The key of digests that stay on the node.
        DigestKey(()) = "digest-key";
        /// The change that the agent has started.
        Intent(()) = "intent";
        /// The state and the conditions of the node.
        NodeState(()) = "state";
        /// The status of each book after the last pass.
        BookStatuses(()) = "book-statuses";
        /// The progress of the book runs, from which their events come.
        RunProgress(()) = "run-progress";
        /// The accepted revision.
        Accepted(()) = "accepted";
        /// The manifest of the accepted revision.
        Manifest(()) = "manifest";
        /// The last known state of other nodes, for templates.
        OtherNodes(()) = "other-nodes";
        /// The candidates that were rejected.
        RejectedCandidates(()) = "rejected-candidates";
        /// The steady state.
        SteadyState(()) = "steady-state";
        /// The last seen store revision and the number of the node's last write.
        StorePosition(()) = "store-position";
        /// The numbers that are reserved for signed records.
        RecordNumbers(()) = "record-numbers";
        /// The rights of nodes in the books of the last revisions.
        BookRights(()) = "book-rights";
        /// The last record numbers of a writer, by node.
        Writer(String) = "writer/";
        /// The certificates that a key has presented, by key.
        Certificates(String) = "certificates/";
        /// The last accepted commit of a source, by name.
        Checkpoint(String) = "checkpoint/";
        /// An event, by UUID.
        Event(String) = "event/";
        /// An event that holds on: the last one of an alarm that is firing, or the last start. By identity.
        StandingEvent(String) = "standing-event/";
        /// A run of a book.
        Run(RunId) = "run/";
        /// The last applied value of a managed object.
        Applied(Managed) = "applied/";
        /// The state of a path before its first change.
        Original(String) = "original/";
        /// A file whose check has not run yet, by path.
        Unchecked(String) = "unchecked/";
        /// The last run of an action.
        Action(TaskId) = "action/";
        /// A notified handler.
        Handler(TaskId) = "handler/";
        /// The objects that a book manages.
        Inventory(BookId) = "inventory/";
        /// A row of the local store, by its key there.
        StoreRow(String) = "store/row/";
        /// The revision of the local store.
        StoreRevision(()) = "store/revision";
    }
    by_field {
        /// The run of a book on this node.
        Book(BookId) = "book/";
        /// An elected task on this node.
        Election(TaskId) = "election/";
    }
}
