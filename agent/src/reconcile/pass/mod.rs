//! One pass over the TaskBooks of a node. The pass finds differences from the desired state, and corrects the
//! differences for which it has a permit.

pub(in crate::reconcile) mod batch;
pub(in crate::reconcile) mod books;
pub(in crate::reconcile) mod computed;
pub(in crate::reconcile) mod coordinated;
pub(in crate::reconcile) mod desired;
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
use towpath_coordination::{AcceptedId, Windows, accept::RevisionManifest, fleet::Fleet};
use towpath_host::{
    Clock, FsReader,
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
pub(crate) use recovery::recover;
pub use recovery::republish_claims;
pub use towpath_reconcile::{Origin, Outcome};

/// The host, the journal and the clock of a pass.
#[derive(Debug)]
pub struct HostContext {
    /// The name of the node.
    pub node: String,
    /// The reader of files below the root directory.
    pub reader: FsReader,
    /// The journal of the node. `journal` is `None` for a plan that runs beside an agent, or without a state directory.
    pub journal: Option<Arc<Journal>>,
    /// The wall clock and the monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// The secret key for keyed digests. Keyed digests are used only on this node.
    pub digest_key: [u8; 32],
    /// The caches of the modules, which all tasks share.
    pub module_cache: ModuleCache,
    /// The files that the agent has written, but not checked since then.
    pub written: Arc<WrittenFiles>,
    /// The records of the applied items. The pass reads the records from the journal once.
    applied: Mutex<Option<BTreeMap<Managed, AppliedItem>>>,
}

impl HostContext {
    /// Creates the context of a pass on a host.
    pub fn new(
        node: String,
        reader: FsReader,
        journal: Option<Arc<Journal>>,
        clock: Arc<dyn Clock>,
        digest_key: [u8; 32],
        written: Arc<WrittenFiles>,
    ) -> Self {
        let module_cache = match &journal {
            Some(journal) => ModuleCache::knowing(Arc::new(Originals(Arc::clone(journal)))),
            None => ModuleCache::default(),
        };
        Self { node, reader, journal, clock, digest_key, module_cache, written, applied: Mutex::new(None) }
    }

    /// Returns a record from the journal. Returns `None` if the record is missing. The function logs an unreadable
    /// record, and returns `None`.
    pub(in crate::reconcile) fn record<R: Record>(&self, key: &KeyOf<R>) -> Option<R> {
        self.try_record(key).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        })
    }

    pub(in crate::reconcile) fn try_record<R: Record>(&self, key: &KeyOf<R>) -> Result<Option<R>, JournalError> {
        self.journal.as_ref().map_or(Ok(None), |journal| journal.get_readable(key))
    }

    /// Returns the record of a TaskBook from the journal.
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

/// The paths of files whose original content is in the journal.
#[derive(Debug)]
struct Originals(Arc<Journal>);

impl towpath_modules::Origins for Originals {
    fn has_made(&self, path: &str) -> bool {
        matches!(self.0.get_readable::<Original>(&path.to_owned()), Ok(Some(_)))
    }
}

/// The parts of the fleet that a pass uses: the data store and the rollouts.
#[derive(Debug, Clone, Copy)]
pub struct Coordination<'a> {
    /// The fleet of the node.
    pub fleet: &'a Fleet,
    /// The manifest of the revision. For each TaskBook, the manifest contains the newest generation that changed the
    /// TaskBook, and the nodes of that generation.
    pub manifest: &'a RevisionManifest,
}

/// The inputs of a pass.
pub struct PassContext<'a> {
    /// The host, the journal and the clock of the pass.
    pub machine: &'a HostContext,
    /// All objects of the revision.
    pub set: &'a ObjectSet,
    /// The parts of the revision that concern this node.
    pub view: &'a NodeView,
    /// The inputs of templates: the facts, and the state of other nodes.
    pub inputs: Inputs,
    /// The generation and the digest of the accepted revision.
    pub accepted: AcceptedId,
    /// True if the revision is not yet fully applied on the node. Until the revision is fully applied, every pass runs
    /// the probes.
    pub fresh: bool,
    /// The default drift policy of tasks.
    pub drift: Drift,
    /// The suspensions that apply to the whole fleet.
    pub suspended: Vec<pb::Suspend>,
    /// The maintenance windows in which changes may begin.
    pub windows: Windows,
    /// The access to the fleet. `coordination` is `None` for a plan.
    pub coordination: Option<Coordination<'a>>,
    /// True if the node agrees with other nodes through a shared data store.
    pub shares_store: bool,
    /// The flag that cancels running commands.
    pub cancel: &'a Cancel,
    /// A function that returns true if the agent must stop.
    pub stops: &'a (dyn Fn() -> bool + Sync),
    /// A function that returns true if the run should be preempted before its next task.
    pub should_preempt: &'a (dyn Fn() -> bool + Sync),
}

/// The result of a pass.
#[derive(Debug, Default)]
pub struct PassOutcome {
    /// The outcomes of the TaskBooks, in the order in which the TaskBooks ran.
    pub books: Vec<BookOutcome>,
    /// The version of each managed file before the check of the file. The agent compares later file events with the
    /// recorded version.
    pub watched: Watched,
    /// The full or read-only disk that the pass found, with the error message.
    pub disk: Option<(Disk, String)>,
    /// True if the pass was preempted.
    pub interrupted: bool,
    /// True if another program changed managed items during the pass, so the pass must be repeated.
    pub conflict: bool,
    /// The names of the facts that the pass read.
    pub facts_read: BTreeSet<String>,
    /// The checks that confirm the steady state without rendering. `steady_checks` is `None` if the node was not in a
    /// steady state.
    pub steady_checks: Option<Vec<SteadyCheck>>,
}

/// The managed files. For each file, the map contains the version that the pass read before it checked the file.
pub type Watched = BTreeMap<PathBuf, Seen>;

/// One check that confirms the steady state.
#[derive(Debug)]
pub enum SteadyCheck {
    /// The values that a check reads in the steady state. The check succeeds if a later read returns the same values.
    Expectations(Vec<Expectation>),
    /// The check of the module must run again, because the values that it reads cannot be stored.
    Check {
        /// The resolved parameters of the task.
        options: Arc<dyn Resource>,
        /// The source files of the task, and the task's folder within the source.
        source: Option<(Arc<dyn Tree>, String)>,
        /// The time limit of the check.
        timeout: Duration,
    },
}

/// Returns whether all checks of a steady state still succeed.
pub fn is_still_steady(machine: &HostContext, steady_checks: &[SteadyCheck], cancel: &Cancel) -> bool {
    let mut inspector = Inspector::new(&machine.reader, &machine.digest_key);
    steady_checks.iter().all(|one| match one {
        SteadyCheck::Expectations(expectations) => expectations.iter().all(|expected| inspector.holds(expected)),
        SteadyCheck::Check { options, source, timeout } => {
            let context = Context {
                reader: &machine.reader,
                source: source.clone(),
                node: &machine.node,
                task: "",
                timeout: *timeout,
                cancel,
                cache: &machine.module_cache,
            };
            matches!(options.check(&context), Ok(Checked::InSync | Checked::InSyncWithData(_)))
        }
    })
}

impl PassContext<'_> {
    /// Returns the items that tasks manage, as far as the items are known before the pass. The list allows the agent to
    /// find two tasks with the same item before it applies one of the tasks. If the items of a task depend on the
    /// result of another task, the agent compares the items when the result is known.
    pub(in crate::reconcile) fn claims(&self) -> Claims {
        Claims::ahead(self.set, self.view, &self.inputs, &kept_identities)
    }
}

impl PassOutcome {
    /// Returns the worst outcome of all TaskBooks.
    pub fn worst(&self) -> Outcome {
        self.books.iter().map(BookOutcome::worst).max().unwrap_or(Outcome::Unchanged)
    }
}

/// The state of another node, in the form that templates read.
#[derive(Debug, Clone)]
pub struct Other {
    /// The liveness of the node, such as `alive`, from gossip or from the node's lease.
    pub liveness: &'static str,
    /// The facts that the node shares.
    pub facts: Option<Value>,
}

/// Returns the values of the template function `nodes()`. `nodes()` contains the Node objects in git, with the liveness
/// and the shared facts of each node.
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

/// Returns the id of a TaskBook. The journal and the data store identify the TaskBook by this id.
pub(in crate::reconcile) fn book_id(book: &Book) -> BookId {
    BookId::new(&book.namespace, &book.name)
}
