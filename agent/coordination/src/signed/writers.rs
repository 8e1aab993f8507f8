//! Defines which nodes may write each store key, according to the accepted revision (P141).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_host::identity::PublicKeys;

use crate::{keys::Key, rollout::SlotState};

/// The data by which a revision defines the rights to write records: the nodes with their public keys, and the targets
/// of each coordinated book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// The nodes in git, each with the public keys that its Node object lists.
    pub nodes: BTreeMap<String, Option<PublicKeys>>,
    /// The rights of each coordinated book, by `namespace/name`.
    pub books: BTreeMap<String, BookRights>,
}

/// The nodes that may write the store records of a book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookRights {
    /// The names of the budgets that the book uses.
    pub budgets: BTreeSet<String>,
    /// The names of the targets of the book.
    pub targets: BTreeSet<String>,
    /// The targets that may be elected to run a task, by the id of the task.
    pub eligible: BTreeMap<String, BTreeSet<String>>,
}

impl BookRights {
    fn add(&mut self, other: &Self) {
        self.budgets.extend(other.budgets.iter().cloned());
        self.targets.extend(other.targets.iter().cloned());
        for (task, nodes) in &other.eligible {
            self.eligible.entry(task.clone()).or_default().extend(nodes.iter().cloned());
        }
    }
}

/// The rights to write store records, from the current revision and from earlier revisions. A former target of a book
/// may still write its claim until it has removed the items of the book (P66). The results that a former target has
/// published stay valid (P83).
#[derive(Debug, Default)]
pub(super) struct Books {
    now: Option<BTreeMap<String, BookRights>>,
    former: BTreeMap<String, BookRights>,
}

impl Books {
    /// Sets the rights of the books in a new revision. The rights of a removed book stay valid for one more revision.
    pub(super) fn set_books(&mut self, books: BTreeMap<String, BookRights>) {
        if self.now.as_ref() == Some(&books) {
            return;
        }
        let before = self.now.take().unwrap_or_default();
        self.former.retain(|book, _| books.contains_key(book) || before.contains_key(book));
        for (book, rights) in before {
            self.former.entry(book).or_default().add(&rights);
        }
        self.now = Some(books);
    }

    /// Restores the rights of earlier revisions from the journal.
    pub(super) fn remember(&mut self, former: BTreeMap<String, BookRights>) {
        for (book, rights) in former {
            self.former.entry(book).or_default().add(&rights);
        }
    }

    /// Returns the rights of the current revision and of earlier revisions, so that the journal can store these rights.
    pub(super) fn all(&self) -> BTreeMap<String, BookRights> {
        let mut all = self.former.clone();
        for (book, rights) in self.now.iter().flatten() {
            all.entry(book.clone()).or_default().add(rights);
        }
        all
    }

    fn is_target(&self, book: &str, node: &str) -> bool {
        self.now.as_ref().and_then(|now| now.get(book)).is_some_and(|book| book.targets.contains(node))
    }

    fn was_target(&self, book: &str, node: &str) -> bool {
        self.former.get(book).is_some_and(|book| book.targets.contains(node))
    }

    fn is_eligible(&self, book: &str, task: &str, node: &str) -> bool {
        let of = |books: &BTreeMap<String, BookRights>| {
            books.get(book).and_then(|book| book.eligible.get(task)).is_some_and(|nodes| nodes.contains(node))
        };
        self.now.as_ref().is_some_and(of) || of(&self.former)
    }

    /// Returns true if a node is, or was in an earlier revision, a target of a book that uses a budget.
    fn draws_on(&self, budget: &str, node: &str) -> bool {
        let of = |books: &BTreeMap<String, BookRights>| {
            books.values().any(|book| book.budgets.contains(budget) && book.targets.contains(node))
        };
        self.now.as_ref().is_some_and(of) || of(&self.former)
    }
}

/// The nodes that may write the record at a store key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Writers<'k> {
    /// Every node may write the store key. The record needs no signature, because a signed record contains the digest
    /// of the record.
    Digest,
    /// Every node may write the key. The record names its writer. Readers verify the content of the record (P25, P138,
    /// P140).
    Proven,
    /// Only the given node may write the key.
    Own(&'k str),
    /// Only the given node may write the key, while it is a target of the given book.
    OwnTarget { node: &'k str, book: &'k str },
    /// Only the given node may write the key, while it is a target of the given book or was one in an earlier revision.
    /// A former target may need a slot to remove the items of the book.
    OwnWaiter { node: &'k str, book: &'k str },
    /// The targets of the given book may write the key.
    Targets(&'k str),
    /// The targets of all books that use the given budget may write the key.
    Budget(&'k str),
    /// The targets that may be elected for the given task may write the key. If `node` is set, only this node may write
    /// the key.
    Eligible { node: Option<&'k str>, book: &'k str, task: &'k str },
    /// The node of the slot may write the key. Other nodes may only offer the slot, or record the loss of the node
    /// (P141).
    Slot { budget: &'k str, book: &'k str, node: &'k str },
}

/// Returns the nodes that may write a store key. The `match` must list each kind of store key, so that a new kind needs
/// a rule.
pub(super) fn writers<'k>(key: &'k Key<'k>) -> Writers<'k> {
    match key {
        Key::Accepted => Writers::Proven,
        Key::Manifest { .. } | Key::Link { .. } => Writers::Digest,
        Key::Recovery { node }
        | Key::Agent { node }
        | Key::Joined { node }
        | Key::Sequence { node }
        | Key::Fence { node }
        | Key::RecoveryAck { node, .. }
        | Key::Alive { node }
        | Key::Facts { node }
        | Key::State { node } => Writers::Own(node),
        Key::Progress { book } | Key::ResultKey { book, .. } => Writers::Targets(book),
        Key::ResultNotice { book, task } => Writers::Eligible { node: None, book, task },
        Key::Elected { book, task, node } => Writers::Eligible { node: Some(node), book, task },
        Key::OfferNotice { budget, .. } | Key::Freed { budget } => Writers::Budget(budget),
        Key::ResultRequest { book, from, .. } => Writers::OwnTarget { node: from, book },
        Key::Queue { book, node, .. } => Writers::OwnWaiter { node, book },
        Key::Vote { run, node, .. } => {
            Writers::OwnTarget { node, book: run.rsplit_once('@').map_or(*run, |(book, _)| book) }
        }
        Key::Slot { budget, book, node, .. } => Writers::Slot { budget, book, node },
    }
}

/// Returns true if a node remembers the number of the newest record at a store key, so that it rejects a replayed
/// record. A node remembers no numbers for store keys that contain a run or a digest, or that no decision reads.
pub(super) fn is_remembered(key: &Key<'_>) -> bool {
    match key {
        Key::Accepted
        | Key::Recovery { .. }
        | Key::Progress { .. }
        | Key::Agent { .. }
        | Key::Slot { .. }
        | Key::Queue { .. }
        | Key::Elected { .. }
        | Key::Joined { .. }
        | Key::Sequence { .. }
        | Key::Alive { .. }
        | Key::Facts { .. }
        | Key::State { .. } => true,
        Key::ResultNotice { .. }
        | Key::Freed { .. }
        | Key::Link { .. }
        | Key::OfferNotice { .. }
        | Key::ResultKey { .. }
        | Key::ResultRequest { .. }
        | Key::Vote { .. }
        | Key::Fence { .. }
        | Key::RecoveryAck { .. }
        | Key::Manifest { .. } => false,
    }
}

impl Writers<'_> {
    /// Checks that the signer `by` may write a record.
    ///
    /// # Errors
    /// Returns a message that names the nodes with the right to write the record.
    pub(super) fn check(&self, by: &str, record: &Map<String, Value>, books: &Books) -> Result<(), String> {
        let loaded = books.now.is_some();
        let (allowed, may) = match self {
            Self::Digest => (true, "every node".to_owned()),
            Self::Proven => {
                let named = record.get("by").and_then(Value::as_str).unwrap_or(by);
                (named == by, format!("only {named}, which the record names,"))
            }
            Self::Own(node) => (by == *node, format!("only {node}")),
            Self::OwnTarget { node, book } => {
                let target = !loaded || books.is_target(book, by);
                (by == *node && target, format!("only {node}, as a target of {book}"))
            }
            Self::OwnWaiter { node, book } => {
                let target = !loaded || books.is_target(book, by) || books.was_target(book, by);
                (by == *node && target, format!("only {node}, as a target of {book}"))
            }
            Self::Targets(book) => (books.is_target(book, by), format!("only targets of {book}")),
            Self::Budget(budget) => {
                (books.draws_on(budget, by), format!("only targets of books in the budget {budget}"))
            }
            Self::Eligible { node, book, task } => {
                let own = node.is_none_or(|node| node == by);
                let of = node.map_or_else(String::new, |node| format!("{node}, one of "));
                (own && books.is_eligible(book, task, by), format!("only {of}the eligible targets of {book}/{task}"))
            }
            Self::Slot { budget, book, node } => {
                (held(books, budget, book, node, by, record), format!("only {node} and targets of {book}"))
            }
        };
        if allowed {
            return Ok(());
        }
        let unknown = if loaded { "" } else { "; this node has not loaded a revision yet" };
        Err(format!("node {by} has signed the record, and {may} may write it{unknown}"))
    }
}

/// Returns true if the signer `by` may write the slot record of a node.
fn held(books: &Books, budget: &str, book: &str, node: &str, by: &str, record: &Map<String, Value>) -> bool {
    let Some(kind) = record.get("kind").and_then(|kind| SlotState::deserialize(kind).ok()) else { return false };
    let lost = record.get("lost").and_then(Value::as_bool) == Some(true);
    if by == node {
        return books.now.is_none() || books.is_target(book, by) || books.was_target(book, by);
    }
    match kind {
        SlotState::Offer => books.draws_on(budget, by),
        SlotState::WrittenOff | SlotState::Lost => books.is_target(book, by),
        SlotState::Claim | SlotState::Failure => lost && books.is_target(book, by),
        SlotState::Unadmitted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(targets: &[&str]) -> BTreeMap<String, BookRights> {
        let targets: BTreeSet<String> = targets.iter().map(|node| (*node).to_owned()).collect();
        let eligible = BTreeMap::from([("t".to_owned(), targets.clone())]);
        BTreeMap::from([("n/b".to_owned(), BookRights { budgets: ["n/b".to_owned()].into(), targets, eligible })])
    }

    fn may(books: &Books, key: &str, by: &str, record: &str) -> bool {
        let key = Key::parse(key).unwrap();
        let Value::Object(record) = serde_json::from_str(record).unwrap() else { panic!() };
        writers(&key).check(by, &record, books).is_ok()
    }

    #[test]
    fn node_that_left_the_targets_keeps_its_claim_and_opens_nothing() {
        let mut rights = Books::default();
        rights.set_books(books(&["a", "b"]));
        let (claim, offer) = (r#"{"kind":"claim"}"#, r#"{"kind":"offer"}"#);
        assert!(may(&rights, "shared/progress/n/b", "a", "{}"));
        rights.set_books(books(&["b"]));
        assert!(may(&rights, "fleet/held/n/b/-/n/b/a", "a", claim));
        assert!(may(&rights, "fleet/held/n/b/-/n/b/b", "a", offer), "it hands its slot on");
        assert!(may(&rights, "fleet/elect/n/b/t/a", "a", "{}"), "its result stays valid");
        assert!(!may(&rights, "shared/progress/n/b", "a", "{}"));
        assert!(!may(&rights, "fleet/held/n/b/-/n/b/b", "a", r#"{"kind":"writtenoff"}"#));
        assert!(!may(&rights, "fleet/held/n/b/-/n/b/c", "c", claim), "a node that never was a target");
        // The rights are the same after a restart.
        let mut again = Books::default();
        again.remember(rights.all());
        again.set_books(books(&["b"]));
        assert!(may(&again, "fleet/held/n/b/-/n/b/a", "a", claim));
    }

    #[test]
    fn node_without_a_revision_accepts_only_records_of_writers_about_themselves() {
        let rights = Books::default();
        assert!(may(&rights, "fleet/held/n/b/-/n/b/a", "a", r#"{"kind":"claim"}"#));
        assert!(may(&rights, "fleet/queue/n/b/-/n/b/a", "a", "{}"));
        for key in ["shared/progress/n/b", "fleet/elect/n/b/t/a", "shared/result/n/b/t", "inbox/b/slot/n/b"] {
            assert!(!may(&rights, key, "a", "{}"), "{key}");
        }
        assert!(!may(&rights, "fleet/held/n/b/-/n/b/b", "a", r#"{"kind":"offer"}"#));
    }
}
