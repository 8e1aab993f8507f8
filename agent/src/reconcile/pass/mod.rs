//! One pass over the TaskBooks of a node: differences are found and, with a permit, corrected.

mod actions;
mod batch;
mod book;
mod computed;
mod coordinated;
mod effects;
mod elected;
mod framed;
mod gates;
mod instance;
mod outcome;
mod parallel;
mod prune;
mod reboots;
mod recovery;
mod segment;
mod states;
mod together;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use towpath_coordination::Windows;
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
    AppliedItem, BookId, BookRecord, Intent, Inventory, Journal, JournalError, KeyOf, Kind, Managed, Record, TaskId,
};

pub use computed::ComputedCache;
pub use coordinated::{Coordination, holds_slots, store_position};
pub use outcome::{BookOutcome, BookStatuses, Origin, Outcome, TaskOutcome};
pub use recovery::republish_claims;

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
            Some(journal) => ModuleCache::knowing(Arc::new(batch::Originals(Arc::clone(journal)))),
            None => ModuleCache::default(),
        };
        Self { node, look, journal, clock, digest_key, memory, written: Arc::default(), applied: Mutex::new(None) }
    }

    fn hand(&self) -> Hand {
        Hand::new(self.look.clone()).noting(Arc::clone(&self.written))
    }

    /// Returns a record. `None` if it is missing. An error is logged and counts as missing.
    fn record<R: Record>(&self, key: &KeyOf<R>) -> Option<R> {
        self.try_record(key).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        })
    }

    fn try_record<R: Record>(&self, key: &KeyOf<R>) -> Result<Option<R>, JournalError> {
        self.journal.as_ref().map_or(Ok(None), |journal| journal.get_readable(key))
    }

    /// Returns the record of a book.
    fn book(&self, book: &BookId) -> BookRecord {
        self.record(book).unwrap_or_default()
    }

    fn records<R: Record>(&self) -> Vec<(KeyOf<R>, R)> {
        self.journal.as_ref().and_then(|journal| journal.all().ok()).unwrap_or_default()
    }

    fn records_of<R: Record>(&self, book: &BookId) -> Vec<(String, R)>
    where
        R::Kind: Kind<Key = TaskId>,
    {
        self.journal.as_ref().and_then(|journal| journal.of_book(book).ok()).unwrap_or_default()
    }

    fn applied(&self, key: &Managed) -> Option<AppliedItem> {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.get_or_insert_with(|| self.records().into_iter().collect()).get(key).cloned()
    }

    fn set_applied(&self, key: &Managed, item: Option<AppliedItem>) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(applied) = applied.as_mut() {
            match item {
                Some(item) => drop(applied.insert(key.clone(), item)),
                None => drop(applied.remove(key)),
            }
        }
    }
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
    /// True if only checks run.
    pub plan: bool,
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

impl PassOutcome {
    /// Returns the worst outcome of all books.
    pub fn worst(&self) -> Outcome {
        self.books.iter().map(BookOutcome::worst).max().unwrap_or(Outcome::Unchanged)
    }
}

/// Runs a pass.
pub fn run(pass: &mut Pass<'_>, computed: &mut ComputedCache) -> PassOutcome {
    let mut outcome = PassOutcome::default();
    let computed_failures = computed::evaluate(pass, computed);
    outcome.settled = pass.inputs.computed.is_empty().then(Vec::new);
    let mut done: BTreeMap<String, Outcome> = BTreeMap::new();
    // Two tasks must not manage the same item. Items that templates hide from `validate` are compared here.
    let owners = Claims::ahead(pass.set, pass.view, &pass.inputs, &kept_identities);
    let mut managed: BTreeMap<String, Option<BTreeSet<Managed>>> = BTreeMap::new();
    for book in pass.view.books.clone() {
        if (pass.make_way)() {
            outcome.interrupted = true;
            break;
        }
        let blockers = dependencies(&book, &done);
        let result = book::run(pass, &book, blockers, &owners, &computed_failures);
        done.insert(book.id(), result.outcome.worst());
        managed.insert(book.id(), result.managed);
        outcome.moved |= result.moved;
        outcome.settled = outcome.settled.zip(result.settled).map(|(mut all, more)| {
            all.extend(more);
            all
        });
        // The first of several books that look at a file counts.
        for (path, seen) in result.watched {
            outcome.watched.entry(path).or_insert(seen);
        }
        outcome.facts_read.extend(result.facts_read);
        outcome.disk = outcome.disk.or(result.disk);
        outcome.interrupted |= result.outcome.interrupted;
        outcome.books.push(result.outcome);
        if outcome.interrupted {
            break;
        }
    }
    if !outcome.interrupted {
        // Prunes only after all books have reported their items: an item may have moved from one book to another.
        prune::all(pass, &managed, &mut outcome.books);
        if !coordinated::leave_gone_books(pass) {
            outcome.settled = None;
        }
    }
    if outcome.interrupted || outcome.worst() > Outcome::Unchanged {
        outcome.settled = None;
    }
    outcome
}

/// Returns the dependencies of a book that failed or are held (P86, P88).
fn dependencies(book: &Book, done: &BTreeMap<String, Outcome>) -> Vec<String> {
    let needed = book.depends_on.iter().map(|dependency| format!("{}/{}", book.namespace, dependency.book));
    let blocks = |id: String| match done.get(&id) {
        Some(Outcome::Failed) => Some(format!("book {id}, which has failed on this node")),
        Some(Outcome::Held) => Some(format!("book {id}, which is held on this node")),
        // A book that does not target this node counts as done.
        _ => None,
    };
    needed.filter_map(blocks).collect()
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

/// Cleans up after a crash: removes temporary files, and checks files that had not been validated yet.
///
/// # Errors
/// If the journal cannot be read or written.
pub fn recover(machine: &Machine) -> Result<Option<Intent>, JournalError> {
    let Some(journal) = &machine.journal else { return Ok(None) };
    batch::check_unchecked(machine, journal)?;
    let Some(intent) = journal.get_readable::<Intent>(&())? else { return Ok(None) };
    for path in &intent.paths {
        if let Err(error) = machine.hand().clear_temporary(path) {
            tracing::warn!(path, %error, "a temporary file that a crash left can't be removed");
        }
    }
    Ok(Some(intent))
}

/// Returns the inventories of all books.
fn inventories(machine: &Machine) -> BTreeMap<BookId, Inventory> {
    machine.records().into_iter().collect()
}

/// Returns the id of a book, for its records.
fn book_id(book: &Book) -> BookId {
    BookId::new(&book.namespace, &book.name)
}
