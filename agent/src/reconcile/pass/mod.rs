//! One pass over the TaskBooks of a node: differences are found and, with a permit, corrected.

pub(in crate::reconcile) mod batch;
pub(in crate::reconcile) mod books;
pub(in crate::reconcile) mod computed;
pub(in crate::reconcile) mod coordinated;
pub(in crate::reconcile) mod desired;
mod gates;
pub(in crate::reconcile) mod instance;
mod outcome;
mod recovery;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use towpath_coordination::{Windows, accept::RevisionManifest, fleet::Fleet};
use towpath_host::{
    Clock, Hand, Look,
    files::written::{Seen, WrittenFiles},
    process::Cancel,
};
use towpath_modules::{Checked, Context, Disk, Expectation, Inspector, ModuleCache, Resource, kept_identities};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    objects::{
        ObjectSet,
        task::{Book, Drift},
    },
    rendering::{Claims, Inputs},
    tree::Tree,
    view::NodeView,
};
use towpath_state::{
    AppliedItem, BookId, BookRecord, Journal, JournalError, KeyOf, Kind, Managed, Original, Record, TaskId,
};

pub use computed::ComputedCache;
pub use coordinated::{holds_slots, store_position};
pub use outcome::{BookOutcome, BookStatuses, TaskOutcome};
pub use recovery::{recover, republish_claims};
pub use towpath_reconcile::{Origin, Outcome};

/// The host, the journal and the clock of a pass.
#[derive(Debug)]
pub struct Machine {
    /// The name of the node.
    pub node: String,
    /// The read side of the file system.
    pub look: Look,
    /// The journal. `None` for a plan beside a running agent, or without a state directory.
    pub journal: Option<Arc<Journal>>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The key of digests that stay on the node.
    pub digest_key: [u8; 32],
    /// Caches of modules, kept from task to task.
    pub memory: ModuleCache,
    /// The files that the agent has put in place since their last check.
    pub written: Arc<WrittenFiles>,
    /// The last applied items. Read from the journal once.
    applied: Mutex<Option<BTreeMap<Managed, AppliedItem>>>,
}

impl Machine {
    /// Creates the context of a host.
    pub fn new(
        node: String,
        look: Look,
        journal: Option<Arc<Journal>>,
        clock: Arc<dyn Clock>,
        digest_key: [u8; 32],
    ) -> Self {
        let memory = match &journal {
            Some(journal) => ModuleCache::knowing(Arc::new(Originals(Arc::clone(journal)))),
            None => ModuleCache::default(),
        };
        Self { node, look, journal, clock, digest_key, memory, written: Arc::default(), applied: Mutex::new(None) }
    }

    pub(in crate::reconcile) fn hand(&self) -> Hand {
        Hand::new(self.look.clone()).noting(Arc::clone(&self.written))
    }

    /// Returns a record. `None` if it is missing. An error is logged and counts as missing.
    pub(in crate::reconcile) fn record<R: Record>(&self, key: &KeyOf<R>) -> Option<R> {
        self.try_record(key).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        })
    }

    pub(in crate::reconcile) fn try_record<R: Record>(&self, key: &KeyOf<R>) -> Result<Option<R>, JournalError> {
        self.journal.as_ref().map_or(Ok(None), |journal| journal.get_readable(key))
    }

    /// Returns the record of a book.
    pub(in crate::reconcile) fn book(&self, book: &BookId) -> BookRecord {
        self.record(book).unwrap_or_default()
    }

    pub(in crate::reconcile) fn records<R: Record>(&self) -> Vec<(KeyOf<R>, R)> {
        self.journal.as_ref().and_then(|journal| journal.all().ok()).unwrap_or_default()
    }

    pub(in crate::reconcile) fn records_of<R: Record>(&self, book: &BookId) -> Vec<(String, R)>
    where
        R::Kind: Kind<Key = TaskId>,
    {
        self.journal.as_ref().and_then(|journal| journal.of_book(book).ok()).unwrap_or_default()
    }

    pub(in crate::reconcile) fn applied(&self, key: &Managed) -> Option<AppliedItem> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.get_or_insert_with(|| self.records().into_iter().collect()).get(key).cloned()
    }

    pub(in crate::reconcile) fn set_applied(&self, key: &Managed, item: Option<AppliedItem>) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(applied) = applied.as_mut() {
            match item {
                Some(item) => drop(applied.insert(key.clone(), item)),
                None => drop(applied.remove(key)),
            }
        }
    }
}

/// The paths with a saved original in the journal.
#[derive(Debug)]
struct Originals(Arc<Journal>);

impl towpath_modules::Origins for Originals {
    fn has_made(&self, path: &str) -> bool {
        matches!(self.0.get_readable::<Original>(&path.to_owned()), Ok(Some(_)))
    }
}

/// The coordination handle of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Coordination<'a> {
    /// The fleet of the node.
    pub fleet: &'a Fleet,
    /// The manifest: the generation in which each book last changed, and the nodes that had joined by then.
    pub manifest: &'a RevisionManifest,
}

/// The inputs of a pass.
pub struct Pass<'a> {
    /// The host.
    pub machine: &'a Machine,
    /// All objects.
    pub set: &'a ObjectSet,
    /// The node's view of the objects.
    pub view: &'a NodeView,
    /// Facts and other nodes, for rendering.
    pub inputs: Inputs,
    /// The generation of the revision.
    pub generation: u64,
    /// True if the revision is not fully applied on the node yet. Probes then run.
    pub fresh: bool,
    /// The drift policy if a task has none.
    pub drift: Drift,
    /// The suspensions of the whole fleet.
    pub suspended: Vec<pb::Suspend>,
    /// The maintenance windows in which changes may begin.
    pub windows: Windows,
    /// The coordination handle. `None` for a plan.
    pub coordination: Option<Coordination<'a>>,
    /// The flag that stops running commands.
    pub cancel: &'a Cancel,
    /// Returns whether the agent is asked to end.
    pub stops: &'a (dyn Fn() -> bool + Sync),
    /// Returns whether the run should be preempted at the next task.
    pub make_way: &'a (dyn Fn() -> bool + Sync),
}

/// The result of a pass.
#[derive(Debug, Default)]
pub struct PassOutcome {
    /// The outcomes of books, in the order in which they ran.
    pub books: Vec<BookOutcome>,
    /// The managed files, as they were before they were checked, for file events.
    pub watched: Watched,
    /// A full or read-only disk, with its message.
    pub disk: Option<(Disk, String)>,
    /// True if the pass was preempted.
    pub interrupted: bool,
    /// True if managed items were modified concurrently. The pass must then be repeated.
    pub moved: bool,
    /// The facts that were read.
    pub facts_read: BTreeSet<String>,
    /// The checks that confirm the steady state without rendering. `None` if the pass found no steady state.
    pub settled: Option<Vec<Settled>>,
}

/// Managed files, with what the pass saw of each before its check.
pub type Watched = BTreeMap<PathBuf, Seen>;

/// One check of a steady state.
#[derive(Debug)]
pub enum Settled {
    /// The inputs of a check, as data.
    Expectations(Vec<Expectation>),
    /// The check of the module, if its inputs cannot be stored as data.
    Check {
        /// The resolved parameters.
        options: Arc<dyn Resource>,
        /// The files of its source.
        source: Option<(Arc<dyn Tree>, String)>,
        /// The time limit.
        timeout: Duration,
    },
}

/// Returns whether all checks of a steady state still hold.
pub fn still_settled(machine: &Machine, settled: &[Settled], cancel: &Cancel) -> bool {
    let mut inspector = Inspector::new(&machine.look, &machine.digest_key);
    settled.iter().all(|one| match one {
        Settled::Expectations(expectations) => expectations.iter().all(|expected| inspector.holds(expected)),
        Settled::Check { options, source, timeout } => {
            let context = Context {
                look: &machine.look,
                source: source.clone(),
                node: &machine.node,
                task: "",
                timeout: *timeout,
                cancel,
                cache: &machine.memory,
            };
            matches!(options.check(&context), Ok(Checked::InSync | Checked::InSyncWithData(_)))
        }
    })
}

impl Pass<'_> {
    /// Returns the items that tasks claim. Two tasks that claim one item are found before either is applied; items that
    /// depend on a result are compared when they are known.
    pub(in crate::reconcile) fn claims(&self) -> Claims {
        Claims::ahead(self.set, self.view, &self.inputs, &kept_identities)
    }
}

impl PassOutcome {
    /// Returns the worst outcome of all books.
    pub fn worst(&self) -> Outcome {
        self.books.iter().map(BookOutcome::worst).max().unwrap_or(Outcome::Unchanged)
    }
}

/// The state of another node, as templates see it.
#[derive(Debug, Clone)]
pub struct Other {
    /// The liveness by gossip or lease, in one word.
    pub liveness: &'static str,
    /// The facts that the node shares.
    pub facts: Option<Value>,
}

/// Returns the values of `nodes()`: the Node objects in git, with the liveness and the shared facts of each node.
pub fn known_nodes(
    set: &ObjectSet,
    view: &NodeView,
    facts: &Value,
    shared: &[String],
    others: &BTreeMap<String, Other>,
) -> Vec<Value> {
    let own: serde_json::Map<String, Value> =
        shared.iter().filter_map(|fact| Some((fact.clone(), facts.get(fact)?.clone()))).collect();
    let mut nodes: Vec<Value> = set
        .nodes
        .iter()
        .map(|(name, node)| {
            let mine = *name == view.node;
            let other = others.get(name);
            let liveness = if mine { "alive" } else { other.map_or("unknown", |other| other.liveness) };
            let facts = if mine {
                Value::Object(own.clone())
            } else {
                other.and_then(|other| other.facts.clone()).unwrap_or_default()
            };
            json!({ "name": name, "labels": node.labels, "address": node.address, "liveness": liveness, "facts": facts })
        })
        .collect();
    if !set.nodes.contains_key(&view.node) {
        nodes.push(json!({ "name": view.node, "labels": {}, "address": null, "liveness": "alive", "facts": own }));
    }
    nodes.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    nodes
}

/// Returns the id of a book, for its records.
pub(in crate::reconcile) fn book_id(book: &Book) -> BookId {
    BookId::new(&book.namespace, &book.name)
}
