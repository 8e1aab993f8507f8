//! Elections: one target of a book runs a task, and all targets get its result. Each decision about an election is a
//! pure function.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OnLost, RolloutSpec, RunSnapshot, slots::bytes};
use crate::{
    keys,
    store::{Compare, MAX_OPERATIONS, Op, Row, Txn},
};

/// The record of one elected node. The signature covers the node, the run, the definition and the sealed result (P142).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The digest of the task and of the variables that it reads. The result of the task is valid until the digest
    /// changes (P83).
    pub definition: String,
    /// The name of the run in which the node was elected.
    pub run: String,
    /// The generation in which the election began. A record with a lower generation belongs to an earlier election.
    pub since: u64,
    /// The result of the task. `None` while the task runs.
    pub share: Option<SealedResult>,
}

/// The result of an elected task on one node, encrypted for the targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedResult {
    /// True if the task succeeded.
    pub ok: bool,
    /// The encrypted result, which only the targets can read.
    pub body: String,
}

/// All records of an election, read at one store revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The store revision at which the records were read.
    revision: u64,
    /// The record of each node, with the store revision that wrote it. The record is `None` if it cannot be parsed.
    rows: BTreeMap<String, (Option<Elected>, u64)>,
}

impl Record {
    /// Builds the election from its rows in the store. A row that cannot be parsed is ignored, and a later transaction
    /// may overwrite the row.
    pub fn of<'r>(rows: impl IntoIterator<Item = &'r Row>, revision: u64) -> Self {
        let node = |row: &Row| Some(row.key.rsplit('/').next()?.to_owned());
        let rows = rows
            .into_iter()
            .filter_map(|row| Some((node(row)?, (serde_json::from_slice(&row.value).ok(), row.modified))));
        Self { revision, rows: rows.collect() }
    }

    fn read(&self) -> impl Iterator<Item = (&String, &Elected)> {
        self.rows.iter().filter_map(|(node, (elected, _))| Some((node, elected.as_ref()?)))
    }

    /// Returns the records of the newest election. The result is empty if the newest election belongs to another
    /// definition of the task.
    fn standing(&self, definition: &str) -> BTreeMap<String, Elected> {
        let newest = self.read().map(|(_, elected)| elected.since).max();
        let of = self.read().filter(|(_, elected)| elected.definition == definition && Some(elected.since) == newest);
        of.map(|(node, elected)| (node.clone(), elected.clone())).collect()
    }

    /// Returns the generation in which the election for a task definition began, or will begin.
    fn since(&self, spec: &RolloutSpec, standing: &BTreeMap<String, Elected>) -> u64 {
        let newest = self.read().map(|(_, elected)| elected.since).max().unwrap_or(0);
        standing.values().next().map_or_else(|| spec.accepted.generation.max(newest), |elected| elected.since)
    }

    /// Returns the result of a node for a definition of the task. `None` if the node has not published a result.
    pub fn share_of(&self, definition: &str, node: &str) -> Option<&SealedResult> {
        let (elected, _) = self.rows.get(node)?;
        elected.as_ref().filter(|elected| elected.definition == definition)?.share.as_ref()
    }

    /// Returns true if a node has begun or completed the task in the version `definition`.
    pub fn has_begun(&self, definition: &str, node: &str) -> bool {
        self.standing(definition).contains_key(node)
    }

    fn unchanged(&self, key: &str, node: &str) -> Compare {
        match self.rows.get(node) {
            Some((_, modified)) => Compare::Revision(key.to_owned(), *modified),
            None => Compare::Absent(key.to_owned()),
        }
    }
}

/// The next action of a node in an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// This node must run the task.
    Run,
    /// This node must wait for the results of the listed nodes. An empty list of nodes means that this node waits for
    /// any change of the election.
    Wait(Vec<String>),
    /// All elected nodes have published their results, which the variant contains.
    Results(BTreeMap<String, SealedResult>),
}

/// The result of a decision about an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectStep {
    /// The decision is final, and contains the next action of the node.
    Settled(Election),
    /// The node must commit the contained transaction, which elects the node.
    Commit(Txn),
    /// The node cannot elect now. The node lacks the accepted revision, has just connected to the store, or a recovery
    /// is open.
    Behind,
}

/// The inputs of a decision about an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionContext<'a> {
    /// The rollout of the book that contains the task.
    pub spec: &'a RolloutSpec,
    /// The name of the deciding node.
    pub me: &'a str,
    /// The id of the task.
    pub task: &'a str,
    /// The digest of the task and of the variables that it reads.
    pub definition: &'a str,
    /// True if the deciding node may run the task.
    pub eligible: bool,
    /// The number of nodes to elect.
    pub count: usize,
    /// The nodes that count as lost.
    pub lost: &'a [String],
}

/// Decides the next step of a node in an election.
pub fn elect(record: &Record, snapshot: &RunSnapshot, candidacy: &ElectionContext<'_>) -> ElectStep {
    let ElectionContext { spec, me, task, definition, eligible, count, lost } = *candidacy;
    let mut standing = record.standing(definition);
    // An elected node that is no longer a target is replaced, and so is a lost elected node under `skip` (P80, P84).
    standing.retain(|node, elected| {
        elected.share.as_ref().is_some_and(|share| share.ok)
            || spec.selects(node) && !(spec.on_lost == OnLost::Skip && lost.contains(node))
    });
    if standing.get(me).is_some_and(|elected| elected.share.as_ref().is_none_or(|share| !share.ok)) {
        // An elected node retries its own failed task, as it retries any failed task (P81).
        return ElectStep::Settled(Election::Run);
    }
    if standing.len() >= count {
        let results: Option<BTreeMap<String, SealedResult>> =
            standing.iter().map(|(node, elected)| Some((node.clone(), elected.share.clone()?))).collect();
        return ElectStep::Settled(results.map_or_else(
            || {
                let open = standing.iter().filter(|(_, elected)| elected.share.is_none());
                Election::Wait(open.map(|(node, _)| node.clone()).collect())
            },
            Election::Results,
        ));
    }
    if !eligible || standing.contains_key(me) {
        return ElectStep::Settled(Election::Wait(Vec::new()));
    }
    let Some(mut compare) = snapshot.admission_guards(spec) else { return ElectStep::Behind };
    let key = keys::elected(&spec.book, task, me);
    // The transaction fails if another node has been elected since the read, so only the first arrival succeeds (P79).
    compare.push(Compare::NoneNewer(keys::all_elected(&spec.book, task), record.revision));
    compare.push(record.unchanged(&key, me));
    // Records of earlier elections, and of replaced nodes, are deleted, so that they cannot count again later.
    let over = record.rows.keys().filter(|node| *node != me && !standing.contains_key(*node));
    let mut then: Vec<Op> =
        over.take(MAX_OPERATIONS / 2).map(|node| Op::Delete(keys::elected(&spec.book, task, node))).collect();
    then.push(Op::put(key, bytes(&own(spec, definition, record.since(spec, &standing), None))));
    ElectStep::Commit(Txn { compare, then, otherwise: Vec::new() })
}

fn own(spec: &RolloutSpec, definition: &str, since: u64, share: Option<&SealedResult>) -> Elected {
    Elected { definition: definition.to_owned(), run: spec.run.clone(), since, share: share.cloned() }
}

/// Returns the transaction that publishes the result of an elected task.
pub fn publish(
    spec: &RolloutSpec,
    me: &str,
    task: &str,
    definition: &str,
    record: &Record,
    share: &SealedResult,
) -> Txn {
    let key = keys::elected(&spec.book, task, me);
    let next = own(spec, definition, record.since(spec, &record.standing(definition)), Some(share));
    let notice = Op::put(keys::result_notice(&spec.book, task), b"{}".to_vec());
    Txn {
        compare: vec![record.unchanged(&key, me)],
        then: vec![Op::put(key, bytes(&next)), notice],
        otherwise: Vec::new(),
    }
}

/// Returns the transaction that writes this node's election record and result to the store again. `None` if the store
/// still contains the election record and the result (P15).
pub fn republish_election(
    spec: &RolloutSpec,
    me: &str,
    task: &str,
    definition: &str,
    record: &Record,
    share: Option<&SealedResult>,
) -> Option<Txn> {
    let key = keys::elected(&spec.book, task, me);
    let standing = record.standing(definition);
    let known = standing.get(me).is_some_and(|known| share.is_none() || known.share.as_ref() == share);
    // If another node has succeeded, an election without a result need not be republished.
    let over = share.is_none() && standing.values().any(|known| known.share.as_ref().is_some_and(|share| share.ok));
    if known || over {
        return None;
    }
    let next = own(spec, definition, record.since(spec, &standing), share);
    Some(Txn {
        compare: vec![record.unchanged(&key, me)],
        then: vec![Op::put(key, bytes(&next))],
        otherwise: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accept::Accepted, store::memory::Memory};

    fn spec() -> RolloutSpec {
        let members = ["a", "b"].map(|node| (node.to_owned(), 0)).into();
        RolloutSpec {
            book: "n/b".into(),
            members,
            waves: 1,
            on_lost: OnLost::Skip,
            accepted: Accepted { generation: 1, ..Accepted::default() }.id(),
            ..RolloutSpec::default()
        }
    }

    /// A store with an accepted generation, in which the tests let nodes decide.
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
            Record::of(self.0.below(&keys::all_elected("n/b", "t")), self.0.revision)
        }

        fn step(&mut self, me: &str, definition: &str, lost: &[String]) -> ElectStep {
            let spec = spec();
            let (revision, answers) = self.0.peek(&RunSnapshot::reading(&spec, me));
            let snapshot = RunSnapshot::of(&spec, me, revision, answers);
            let candidacy = ElectionContext { spec: &spec, me, task: "t", definition, eligible: true, count: 1, lost };
            let step = elect(&self.record(), &snapshot, &candidacy);
            if let ElectStep::Commit(txn) = &step {
                self.0.apply(txn).unwrap();
            }
            step
        }
    }

    #[test]
    fn first_node_is_elected_and_its_result_is_kept_until_the_task_changes() {
        let mut store = Fixture::new();
        assert!(matches!(store.step("a", "d1", &[]), ElectStep::Commit(_)));
        assert_eq!(store.step("a", "d1", &[]), ElectStep::Settled(Election::Run));
        assert_eq!(store.step("b", "d1", &[]), ElectStep::Settled(Election::Wait(vec!["a".into()])));
        let share = SealedResult { ok: true, body: "7".into() };
        let txn = publish(&spec(), "a", "t", "d1", &store.record(), &share);
        store.0.apply(&txn).unwrap();
        let results = ElectStep::Settled(Election::Results([("a".to_owned(), share)].into()));
        assert_eq!(store.step("b", "d1", &[]), results);
        assert!(matches!(store.step("b", "d2", &[]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d2", &[]), ElectStep::Settled(Election::Run));
    }

    #[test]
    fn lost_elected_node_is_replaced_under_skip() {
        let mut store = Fixture::new();
        store.step("a", "d1", &[]);
        assert!(matches!(store.step("b", "d1", &["a".into()]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d1", &["a".into()]), ElectStep::Settled(Election::Run));
    }

    #[test]
    fn election_that_changed_since_it_was_read_elects_no_second_node() {
        let mut store = Fixture::new();
        let early = store.record();
        store.step("a", "d1", &[]);
        let spec = spec();
        let (revision, answers) = store.0.peek(&RunSnapshot::reading(&spec, "b"));
        let snapshot = RunSnapshot::of(&spec, "b", revision, answers);
        let candidacy =
            ElectionContext { spec: &spec, me: "b", task: "t", definition: "d1", eligible: true, count: 1, lost: &[] };
        let ElectStep::Commit(late) = elect(&early, &snapshot, &candidacy) else { panic!("it was read as open") };
        let (outcome, _) = store.0.apply(&late).unwrap();
        assert!(matches!(outcome, crate::store::Outcome::Refused { .. }));
    }

    #[test]
    fn definition_that_comes_back_is_elected_again() {
        let mut store = Fixture::new();
        let ok = SealedResult { ok: true, body: String::new() };
        let mut spec = spec();
        for (generation, me, definition) in [(1, "a", "d1"), (2, "b", "d2"), (3, "a", "d1")] {
            let record = store.record();
            let accepted = Accepted { generation, ..Accepted::default() };
            spec.accepted = accepted.id();
            let put = Op::put(keys::ACCEPTED, bytes(&accepted));
            store.0.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
            let (revision, answers) = store.0.peek(&RunSnapshot::reading(&spec, me));
            let snapshot = RunSnapshot::of(&spec, me, revision, answers);
            let candidacy =
                ElectionContext { spec: &spec, me, task: "t", definition, eligible: true, count: 1, lost: &[] };
            let ElectStep::Commit(txn) = elect(&record, &snapshot, &candidacy) else {
                panic!("generation {generation}: {:?}", elect(&record, &snapshot, &candidacy))
            };
            store.0.apply(&txn).unwrap();
            let txn = publish(&spec, me, "t", definition, &store.record(), &ok);
            store.0.apply(&txn).unwrap();
        }
        // A restored record of the first election must count as a record of an earlier election.
        let old = Elected { definition: "d1".into(), run: "n/b@1".into(), since: 1, share: Some(ok.clone()) };
        let put = Op::put(keys::elected("n/b", "t", "b"), bytes(&old));
        store.0.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
        assert_eq!(store.record().standing("d1").into_keys().collect::<Vec<_>>(), ["a"]);
    }
}
