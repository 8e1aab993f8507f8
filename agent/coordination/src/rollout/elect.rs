//! Elections: an elected target of a book runs a task, and all targets get the result of the task. Each decision about
//! an election is a pure function.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{OnLost, RolloutSpec, RunSnapshot, slots::bytes};
use crate::{
    keys,
    store::{Compare, MAX_OPERATIONS, Op, Row, Txn},
};

/// The election record of one node, which was elected to run a task. The signature of the record covers the node, the
/// run, the definition and the sealed result (P142).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The digest of the task and of the variables that the task reads. The result of the task stays valid while the
    /// digest is the same (P83).
    pub definition: String,
    /// The name of the run in which the node was elected.
    pub run: String,
    /// The generation in which the election began. If the records of a task have different generations, only the
    /// records with the highest generation count.
    pub since: u64,
    /// The result of the task. `None` while the task runs.
    pub result: Option<SealedResult>,
}

/// The result of an elected task on one node. Only the targets can decrypt the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedResult {
    /// True if the task succeeded.
    pub ok: bool,
    /// The result in encrypted form.
    pub body: String,
}

/// All election records of one task, read at one store revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The store revision at which the records were read.
    revision: u64,
    /// The election record of each node, with the store revision at which the record was written. The value is `None`
    /// instead of a record that cannot be parsed.
    rows: BTreeMap<String, (Option<Elected>, u64)>,
}

impl Record {
    /// Parses the rows of an election in the store. A row that cannot be parsed does not count, and a later transaction
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

    /// Returns the records of the newest election of the task. The result is empty if the newest election belongs to
    /// another definition of the task.
    fn current(&self, definition: &str) -> BTreeMap<String, Elected> {
        let newest = self.read().map(|(_, elected)| elected.since).max();
        let of = self.read().filter(|(_, elected)| elected.definition == definition && Some(elected.since) == newest);
        of.map(|(node, elected)| (node.clone(), elected.clone())).collect()
    }

    /// Returns the generation in which the current election of the task began. If the task has no current election,
    /// returns the generation in which an election begins now.
    fn since(&self, spec: &RolloutSpec, current: &BTreeMap<String, Elected>) -> u64 {
        let newest = self.read().map(|(_, elected)| elected.since).max().unwrap_or(0);
        current.values().next().map_or_else(|| spec.accepted.generation.max(newest), |elected| elected.since)
    }

    /// Returns the result that a node has published for the task with the digest `definition`. `None` if the node has
    /// not published a result.
    pub fn result_of(&self, definition: &str, node: &str) -> Option<&SealedResult> {
        let (elected, _) = self.rows.get(node)?;
        elected.as_ref().filter(|elected| elected.definition == definition)?.result.as_ref()
    }

    /// Returns true if a node was elected to run the task with the digest `definition`.
    pub fn has_begun(&self, definition: &str, node: &str) -> bool {
        self.current(definition).contains_key(node)
    }

    fn unchanged(&self, key: &str, node: &str) -> Compare {
        match self.rows.get(node) {
            Some((_, modified)) => Compare::Revision(key.to_owned(), *modified),
            None => Compare::Absent(key.to_owned()),
        }
    }
}

/// The next action of a node after a decision about an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// This node must run the task.
    Run,
    /// This node must wait until the listed nodes have published their results. If the list is empty, this node must
    /// wait for a change of the election.
    Wait(Vec<String>),
    /// All elected nodes have published their results. The variant contains the result of each node.
    Results(BTreeMap<String, SealedResult>),
}

/// The result of a decision about an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectStep {
    /// The decision is final. The variant contains the next action of the node.
    Decided(Election),
    /// The variant contains the transaction that elects the node. The node must commit this transaction.
    Commit(Txn),
    /// No node can be elected now: the deciding node has not loaded the accepted revision or has just connected to the
    /// store, or a recovery is open.
    Behind,
}

/// The inputs of a decision about an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionContext<'a> {
    /// The rollout of the book that contains the task.
    pub spec: &'a RolloutSpec,
    /// The name of the deciding node.
    pub own_node: &'a str,
    /// The id of the task.
    pub task: &'a str,
    /// The digest of the task and of the variables that the task reads.
    pub definition: &'a str,
    /// True if the deciding node may be elected to run the task.
    pub eligible: bool,
    /// The number of nodes to elect.
    pub count: usize,
    /// The nodes that count as lost.
    pub lost: &'a [String],
}

/// Decides the next step of a node in an election.
pub fn elect(record: &Record, snapshot: &RunSnapshot, context: &ElectionContext<'_>) -> ElectStep {
    let ElectionContext { spec, own_node, task, definition, eligible, count, lost } = *context;
    let mut current = record.current(definition);
    // An elected node that is no longer a target is replaced, and so is a lost elected node under `skip` (P80, P84).
    current.retain(|node, elected| {
        elected.result.as_ref().is_some_and(|result| result.ok)
            || spec.selects(node) && !(spec.on_lost == OnLost::Skip && lost.contains(node))
    });
    if current.get(own_node).is_some_and(|elected| elected.result.as_ref().is_none_or(|result| !result.ok)) {
        // An elected node retries its own failed task, as it retries any failed task (P81).
        return ElectStep::Decided(Election::Run);
    }
    if current.len() >= count {
        let results: Option<BTreeMap<String, SealedResult>> =
            current.iter().map(|(node, elected)| Some((node.clone(), elected.result.clone()?))).collect();
        return ElectStep::Decided(results.map_or_else(
            || {
                let open = current.iter().filter(|(_, elected)| elected.result.is_none());
                Election::Wait(open.map(|(node, _)| node.clone()).collect())
            },
            Election::Results,
        ));
    }
    if !eligible || current.contains_key(own_node) {
        return ElectStep::Decided(Election::Wait(Vec::new()));
    }
    let Some(mut compare) = snapshot.admission_guards(spec) else { return ElectStep::Behind };
    let key = keys::elected(&spec.book, task, own_node);
    // The transaction fails if another node has been elected since the read, so only the first arrival succeeds (P79).
    compare.push(Compare::NoneNewer(keys::all_elected(&spec.book, task), record.revision));
    compare.push(record.unchanged(&key, own_node));
    // Records of earlier elections, and of replaced nodes, are deleted, so that they cannot count again later.
    let over = record.rows.keys().filter(|node| *node != own_node && !current.contains_key(*node));
    let mut then: Vec<Op> =
        over.take(MAX_OPERATIONS / 2).map(|node| Op::Delete(keys::elected(&spec.book, task, node))).collect();
    then.push(Op::put(key, bytes(&own(spec, definition, record.since(spec, &current), None))));
    ElectStep::Commit(Txn { compare, then, otherwise: Vec::new() })
}

fn own(spec: &RolloutSpec, definition: &str, since: u64, result: Option<&SealedResult>) -> Elected {
    Elected { definition: definition.to_owned(), run: spec.run.clone(), since, result: result.cloned() }
}

/// Returns the transaction that publishes the result of an elected task.
pub fn publish(
    spec: &RolloutSpec,
    own_node: &str,
    task: &str,
    definition: &str,
    record: &Record,
    result: &SealedResult,
) -> Txn {
    let key = keys::elected(&spec.book, task, own_node);
    let next = own(spec, definition, record.since(spec, &record.current(definition)), Some(result));
    let notice = Op::put(keys::result_notice(&spec.book, task), b"{}".to_vec());
    Txn {
        compare: vec![record.unchanged(&key, own_node)],
        then: vec![Op::put(key, bytes(&next)), notice],
        otherwise: Vec::new(),
    }
}

/// Returns the transaction that writes this node's election record to the store again, with the result of the task.
/// `None` if the store still contains the election record and the result (P15).
pub fn republish_election(
    spec: &RolloutSpec,
    own_node: &str,
    task: &str,
    definition: &str,
    record: &Record,
    result: Option<&SealedResult>,
) -> Option<Txn> {
    let key = keys::elected(&spec.book, task, own_node);
    let current = record.current(definition);
    let known = current.get(own_node).is_some_and(|known| result.is_none() || known.result.as_ref() == result);
    // If another node has succeeded, an election without a result need not be republished.
    let over = result.is_none() && current.values().any(|known| known.result.as_ref().is_some_and(|result| result.ok));
    if known || over {
        return None;
    }
    let next = own(spec, definition, record.since(spec, &current), result);
    Some(Txn {
        compare: vec![record.unchanged(&key, own_node)],
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

        fn step(&mut self, own_node: &str, definition: &str, lost: &[String]) -> ElectStep {
            let spec = spec();
            let (revision, answers) = self.0.peek(&RunSnapshot::reading(&spec, own_node));
            let snapshot = RunSnapshot::of(&spec, own_node, revision, answers);
            let context =
                ElectionContext { spec: &spec, own_node, task: "t", definition, eligible: true, count: 1, lost };
            let step = elect(&self.record(), &snapshot, &context);
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
        assert_eq!(store.step("a", "d1", &[]), ElectStep::Decided(Election::Run));
        assert_eq!(store.step("b", "d1", &[]), ElectStep::Decided(Election::Wait(vec!["a".into()])));
        let result = SealedResult { ok: true, body: "7".into() };
        let txn = publish(&spec(), "a", "t", "d1", &store.record(), &result);
        store.0.apply(&txn).unwrap();
        let results = ElectStep::Decided(Election::Results([("a".to_owned(), result)].into()));
        assert_eq!(store.step("b", "d1", &[]), results);
        assert!(matches!(store.step("b", "d2", &[]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d2", &[]), ElectStep::Decided(Election::Run));
    }

    #[test]
    fn lost_elected_node_is_replaced_under_skip() {
        let mut store = Fixture::new();
        store.step("a", "d1", &[]);
        assert!(matches!(store.step("b", "d1", &["a".into()]), ElectStep::Commit(_)));
        assert_eq!(store.step("b", "d1", &["a".into()]), ElectStep::Decided(Election::Run));
    }

    #[test]
    fn election_that_changed_since_it_was_read_elects_no_second_node() {
        let mut store = Fixture::new();
        let early = store.record();
        store.step("a", "d1", &[]);
        let spec = spec();
        let (revision, answers) = store.0.peek(&RunSnapshot::reading(&spec, "b"));
        let snapshot = RunSnapshot::of(&spec, "b", revision, answers);
        let context = ElectionContext {
            spec: &spec,
            own_node: "b",
            task: "t",
            definition: "d1",
            eligible: true,
            count: 1,
            lost: &[],
        };
        let ElectStep::Commit(late) = elect(&early, &snapshot, &context) else { panic!("it was read as open") };
        let (outcome, _) = store.0.apply(&late).unwrap();
        assert!(matches!(outcome, crate::store::Outcome::Refused { .. }));
    }

    #[test]
    fn definition_that_returns_is_elected_again() {
        let mut store = Fixture::new();
        let ok = SealedResult { ok: true, body: String::new() };
        let mut spec = spec();
        for (generation, own_node, definition) in [(1, "a", "d1"), (2, "b", "d2"), (3, "a", "d1")] {
            let record = store.record();
            let accepted = Accepted { generation, ..Accepted::default() };
            spec.accepted = accepted.id();
            let put = Op::put(keys::ACCEPTED, bytes(&accepted));
            store.0.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
            let (revision, answers) = store.0.peek(&RunSnapshot::reading(&spec, own_node));
            let snapshot = RunSnapshot::of(&spec, own_node, revision, answers);
            let context =
                ElectionContext { spec: &spec, own_node, task: "t", definition, eligible: true, count: 1, lost: &[] };
            let ElectStep::Commit(txn) = elect(&record, &snapshot, &context) else {
                panic!("generation {generation}: {:?}", elect(&record, &snapshot, &context))
            };
            store.0.apply(&txn).unwrap();
            let txn = publish(&spec, own_node, "t", definition, &store.record(), &ok);
            store.0.apply(&txn).unwrap();
        }
        // A restored record of the first election must count as a record of an earlier election.
        let old = Elected { definition: "d1".into(), run: "n/b@1".into(), since: 1, result: Some(ok.clone()) };
        let put = Op::put(keys::elected("n/b", "t", "b"), bytes(&old));
        store.0.apply(&Txn { then: vec![put], ..Txn::default() }).unwrap();
        assert_eq!(store.record().current("d1").into_keys().collect::<Vec<_>>(), ["a"]);
    }
}
