//! Elections: one target runs a task, and all of them get what came of it. Pure, as every decision.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OnLost, Spec, View, decide::bytes};
use crate::{
    keys,
    store::{Compare, Op, Row, Txn},
};

/// Who was elected for a task, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The digest of the task and of the variables that it reads: the result stands until that changes.
    pub definition: String,
    /// The elected nodes, each with its result.
    pub nodes: BTreeMap<String, Option<Share>>,
}

/// What came of an elected task on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Whether it succeeded.
    pub ok: bool,
    /// Its result, which only the targets can read.
    pub body: String,
}

/// The record of an election as it was read, and the revision that wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    elected: Option<Elected>,
    modified: Option<u64>,
}

impl Record {
    /// What a row says; one that can't be read says nothing, and is written over.
    pub fn of(row: Option<&Row>) -> Self {
        Self {
            elected: row.and_then(|row| serde_json::from_slice(&row.value).ok()),
            modified: row.map(|row| row.modified),
        }
    }

    /// What it says of a definition; of another one it says nothing.
    fn standing(&self, definition: &str) -> Elected {
        let known = self.elected.clone().filter(|record| record.definition == definition);
        known.unwrap_or_else(|| Elected { definition: definition.to_owned(), nodes: BTreeMap::new() })
    }

    /// What came of it on a node, as far as it says so of a definition.
    pub fn share_of(&self, definition: &str, node: &str) -> Option<&Share> {
        self.elected.as_ref().filter(|record| record.definition == definition)?.nodes.get(node)?.as_ref()
    }

    fn unchanged(&self, key: &str) -> Compare {
        let key = key.to_owned();
        self.modified.map_or_else(|| Compare::Absent(key.clone()), |at| Compare::Revision(key.clone(), at))
    }
}

/// What a node does about an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// It runs the task.
    Run,
    /// It waits for these.
    Wait(Vec<String>),
    /// All elected nodes have a result.
    Results(BTreeMap<String, Share>),
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectStep {
    /// This.
    Settled(Election),
    /// This transaction makes the node an elected one.
    Commit(Txn),
    /// Nobody may be elected by who is behind, or before all have said anew what they hold.
    Behind,
}

/// What an election goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidacy<'a> {
    /// The run.
    pub spec: &'a Spec,
    /// The node.
    pub me: &'a str,
    /// The task.
    pub task: &'a str,
    /// The digest of the task and of what it reads.
    pub definition: &'a str,
    /// Whether the task may be run here.
    pub eligible: bool,
    /// How many are elected.
    pub count: usize,
    /// Who is lost.
    pub lost: &'a [String],
}

/// Decides about an election.
pub fn elect(record: &Record, view: &View, candidacy: &Candidacy<'_>) -> ElectStep {
    let Candidacy { spec, me, task, definition, eligible, count, lost } = *candidacy;
    let mut standing = record.standing(definition);
    // Who git no longer knows as a target, and under `skip` who is lost, makes room for the next arrival.
    standing.nodes.retain(|node, share| {
        share.as_ref().is_some_and(|share| share.ok)
            || spec.selects(node) && !(spec.on_lost == OnLost::Skip && lost.contains(node))
    });
    if standing.nodes.get(me).is_some_and(|share| share.as_ref().is_none_or(|share| !share.ok)) {
        // Its own failure is tried again like every other.
        return ElectStep::Settled(Election::Run);
    }
    if standing.nodes.len() >= count {
        let results: Option<BTreeMap<String, Share>> =
            standing.nodes.iter().map(|(node, share)| Some((node.clone(), share.clone()?))).collect();
        return ElectStep::Settled(results.map_or_else(
            || {
                let open = standing.nodes.iter().filter(|(_, share)| share.is_none());
                Election::Wait(open.map(|(node, _)| node.clone()).collect())
            },
            Election::Results,
        ));
    }
    if !eligible || standing.nodes.contains_key(me) {
        return ElectStep::Settled(Election::Wait(Vec::new()));
    }
    let Some(mut compare) = view.lets_in(spec) else { return ElectStep::Behind };
    standing.nodes.insert(me.to_owned(), None);
    let key = keys::elected(&spec.book, task);
    compare.push(record.unchanged(&key));
    ElectStep::Commit(Txn { compare, then: vec![Op::put(key, bytes(&standing))], otherwise: Vec::new() })
}

/// Says what came of an elected task.
pub fn publish(spec: &Spec, me: &str, task: &str, definition: &str, record: &Record, share: &Share) -> Txn {
    let key = keys::elected(&spec.book, task);
    let mut next = record.standing(definition);
    next.nodes.insert(me.to_owned(), Some(share.clone()));
    let notice = Op::put(keys::result_notice(&spec.book, task), b"{}".to_vec());
    Txn { compare: vec![record.unchanged(&key)], then: vec![Op::put(key, bytes(&next)), notice], otherwise: Vec::new() }
}

/// Says anew that a node was elected, and what came of it; None where the store has that.
pub fn elected_anew(
    spec: &Spec,
    me: &str,
    task: &str,
    definition: &str,
    record: &Record,
    share: Option<&Share>,
) -> Option<Txn> {
    let key = keys::elected(&spec.book, task);
    let mut next = record.standing(definition);
    let told = next.nodes.get(me).is_some_and(|known| share.is_none() || known.as_ref() == share);
    // What was only begun counts for nothing where somebody else has come to a good end.
    let over = share.is_none() && next.nodes.values().flatten().any(|share| share.ok);
    if told || over {
        return None;
    }
    next.nodes.insert(me.to_owned(), share.cloned());
    Some(Txn { compare: vec![record.unchanged(&key)], then: vec![Op::put(key, bytes(&next))], otherwise: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accept::Accepted, store::memory::Memory};

    fn spec() -> Spec {
        let members = ["a", "b"].map(|node| (node.to_owned(), 0)).into();
        Spec { book: "n/b".into(), members, waves: 1, on_lost: OnLost::Skip, generation: 1, ..Spec::default() }
    }

    /// A store in which a generation is accepted; and what a node does there.
    struct Fixture(Memory);

    impl Fixture {
        fn new() -> Self {
            let mut store = Memory::default();
            let accepted = Accepted { generation: 1, ..Accepted::default() };
            let put = Op::put(keys::ACCEPTED, bytes(&accepted));
            store.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
            Self(store)
        }

        fn record(&self) -> Record {
            Record::of(self.0.below(&keys::elected("n/b", "t")).next())
        }

        fn step(&mut self, me: &str, definition: &str, lost: &[String]) -> ElectStep {
            let spec = spec();
            let (revision, answers) = self.0.peek(&View::reading(&spec, me));
            let view = View::of(&spec, me, revision, answers);
            let candidacy = Candidacy { spec: &spec, me, task: "t", definition, eligible: true, count: 1, lost };
            let step = elect(&self.record(), &view, &candidacy);
            if let ElectStep::Commit(txn) = &step {
                self.0.apply(txn).unwrap();
            }
            step
        }
    }

    #[test]
    fn the_first_to_come_is_elected_and_its_result_stands_until_the_task_changes() {
        let mut store = Fixture::new();
        assert!(matches!(store.step("a", "d1", &[]), ElectStep::Commit(_)));
        assert_eq!(store.step("a", "d1", &[]), ElectStep::Settled(Election::Run));
        assert_eq!(store.step("b", "d1", &[]), ElectStep::Settled(Election::Wait(vec!["a".into()])));
        let share = Share { ok: true, body: "7".into() };
        let txn = publish(&spec(), "a", "t", "d1", &store.record(), &share);
        store.0.apply(&txn).unwrap();
        let results = ElectStep::Settled(Election::Results([("a".to_owned(), share)].into()));
        assert_eq!(store.step("b", "d1", &[]), results);
        assert!(matches!(store.step("b", "d2", &[]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d2", &[]), ElectStep::Settled(Election::Run));
    }

    #[test]
    fn who_is_lost_under_skip_makes_room() {
        let mut store = Fixture::new();
        store.step("a", "d1", &[]);
        assert!(matches!(store.step("b", "d1", &["a".into()]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d1", &["a".into()]), ElectStep::Settled(Election::Run));
    }
}
