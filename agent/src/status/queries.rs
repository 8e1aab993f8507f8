//! The query API of a running node: status, plans, facts, variables and rendered tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use towpath_coordination::{Windows, accept::RevisionManifest};
use towpath_host::{facts, process::Cancel};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    objects::Key,
    rendering::{Inputs, Rendered, Renderer, pending_tasks},
    view::{NodeView, Winner},
};
use towpath_state::RunRecord;

use super::{FleetView, StatusSnapshot};
use crate::{
    config::WrittenReconcile,
    events::Events,
    reconcile::{
        self, Desired, Revision, host_facts, object_id,
        pass::{self, HostContext, Outcome, PassContext},
    },
};

/// The queries about a node: its status, plan and objects, and the state of other nodes. All clones of the queries read
/// the same state.
#[derive(Debug, Clone)]
pub struct Queries {
    status: StatusSnapshot,
    fleet: FleetView,
    machine: Arc<HostContext>,
    facts: facts::Options,
    reconcile: WrittenReconcile,
    /// True if the node agrees with other nodes through a shared data store. TaskBooks wait for other nodes only if the
    /// data store is shared.
    shares_store: bool,
}

/// Another node of the fleet, for which this node renders a TaskBook.
#[derive(Debug, Clone)]
pub struct OtherNode {
    /// The name of the other node.
    pub name: String,
    /// The facts of the other node.
    pub facts: Value,
}

impl OtherNode {
    /// Parses the name and the JSON facts of another node from a request.
    ///
    /// # Errors
    /// Fails if the facts of the other node are not a JSON object.
    pub fn read(name: &str, facts: &str) -> Result<Self, QueryError> {
        let facts: Value = serde_json::from_str(facts)
            .map_err(|error| QueryError(format!("cannot read the facts of {name}: {error}")))?;
        match facts.is_object() {
            true => Ok(Self { name: name.to_owned(), facts }),
            false => Err(QueryError(format!("the facts of {name} are not a map"))),
        }
    }
}

/// The error of a query that the node cannot answer, with its message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(pub String);

impl QueryError {
    /// Creates the error of a query that needs an accepted revision.
    pub(super) fn no_revision() -> Self {
        Self("no revision has been accepted yet; `towpath status` shows the reason".into())
    }
}

impl Queries {
    /// Creates the queries about a node.
    pub fn new(
        status: StatusSnapshot,
        fleet: FleetView,
        machine: Arc<HostContext>,
        facts: facts::Options,
        reconcile: WrittenReconcile,
        shares_store: bool,
    ) -> Self {
        Self { status, fleet, machine, facts, reconcile, shares_store }
    }

    /// Creates the queries of a command that only makes a plan, without a fleet.
    pub fn of_plan(
        status: StatusSnapshot,
        machine: Arc<HostContext>,
        facts: facts::Options,
        reconcile: WrittenReconcile,
        shares_store: bool,
    ) -> Self {
        let fleet = FleetView::new(status.clone(), None, machine.journal.clone(), Arc::default());
        Self::new(status, fleet, machine, facts, reconcile, shares_store)
    }

    /// Returns the event log of the node.
    pub fn events(&self) -> &Events {
        self.status.events()
    }

    /// Returns the view of the fleet.
    pub fn fleet(&self) -> &FleetView {
        &self.fleet
    }

    /// Returns the status of the node.
    pub fn status(&self) -> pb::NodeStatus {
        self.status.status(self.machine.module_cache.activity.now(self.machine.clock.monotonic()))
    }

    /// Returns a summary of each node that the revision names, and of this node.
    pub fn nodes(&self) -> Vec<pb::NodeSummary> {
        self.fleet.nodes()
    }

    /// Returns the progress of the rollouts of all coordinated TaskBooks.
    ///
    /// # Errors
    /// Fails if no revision has been accepted.
    pub fn rollouts(&self) -> Result<Vec<pb::RolloutSummary>, QueryError> {
        Ok(self.fleet.rollouts(&*self.revision()?))
    }

    /// Returns the runs that the journal records. The newest run is first.
    pub fn runs(&self) -> Vec<pb::RunSummary> {
        let journal = self.machine.journal.as_ref();
        let records = journal.and_then(|journal| journal.all::<RunRecord>().ok()).unwrap_or_default();
        let mut runs: Vec<pb::RunSummary> = records
            .into_iter()
            .map(|(_, run)| pb::RunSummary {
                run: run.run,
                namespace: run.namespace,
                name: run.name,
                cause: "commit".into(),
                generation: run.generation,
                node: self.status.node().to_owned(),
                started: towpath_host::clock::rfc3339(run.started),
                took: run.took,
                outcome: run.outcome,
                tasks: serde_json::from_value(run.tasks).unwrap_or_default(),
            })
            .collect();
        runs.sort_by(|a, b| (&b.started, &b.run).cmp(&(&a.started, &a.run)));
        runs
    }

    /// Returns the objects of the accepted revision, including objects that are held because of a problem.
    pub fn objects(&self) -> Vec<pb::ObjectSummary> {
        let Some(revision) = self.status.revision() else { return Vec::new() };
        let accepted = revision.set.objects.values().map(|object| (object, "accepted".to_owned()));
        let held = revision.set.held.values();
        let held = held.filter_map(|held| Some((held.object.as_ref()?, format!("held: {}", held.problem.message))));
        let objects = accepted.chain(held).map(|(object, status)| pb::ObjectSummary {
            kind: object.key.kind.to_owned(),
            namespace: (!object.key.namespace.is_empty()).then(|| object.key.namespace.clone()),
            name: object.key.name.clone(),
            uuid: Some(uuid(self.status.cluster(), &object.key, &revision.manifest)),
            source: object.place.source().to_owned(),
            file: object.place.file().to_owned(),
            line: u32::try_from(object.place.position().0).unwrap_or(0),
            labels: object.labels.clone(),
            status,
        });
        let mut objects: Vec<pb::ObjectSummary> = objects.collect();
        objects.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
        objects
    }

    fn revision(&self) -> Result<Arc<Revision>, QueryError> {
        self.status.revision().ok_or_else(QueryError::no_revision)
    }

    /// Returns the changes that the accepted revision requires on the node.
    ///
    /// # Errors
    /// Fails if no revision has been accepted.
    pub fn plan(&self) -> Result<pb::PlanReply, QueryError> {
        self.plan_of(&*self.revision()?)
    }

    /// Returns the changes that a revision requires on the node.
    ///
    /// # Errors
    /// The function currently always succeeds. The return type is a `Result`, because a future version may need answers
    /// from peers.
    pub fn plan_of(&self, revision: &Revision) -> Result<pb::PlanReply, QueryError> {
        let cancel = Cancel::default();
        // A plan runs no task. Values that a task computes are therefore unknown.
        let unknown = pending_tasks(&revision.set, &revision.view).into_iter();
        let unknown = unknown.map(|pending| (pending.namespace, pending.computed.name)).collect();
        let pass = PassContext {
            machine: &self.machine,
            set: &revision.set,
            view: &revision.view,
            inputs: Inputs { unknown, ..self.inputs(revision) },
            accepted: revision.id.clone(),
            fresh: true,
            drift: revision.reconcile(self.reconcile).drift,
            suspended: Vec::new(),
            windows: Windows::default(),
            coordination: None,
            shares_store: self.shares_store,
            cancel: &cancel,
            stops: &|| false,
            should_preempt: &|| false,
        };
        let outcome = reconcile::plan(&pass);
        let mut tasks = Vec::new();
        for book in outcome.books {
            let id = format!("{}/{}", book.namespace, book.name);
            for gate in &book.held {
                tasks.push(pb::PlannedTask {
                    task_book: id.clone(),
                    name: String::new(),
                    module: String::new(),
                    action: "unknown".into(),
                    diff: Some(format!("held: {gate}")),
                    failed: false,
                });
            }
            if book.uncoordinated {
                tasks.push(pb::PlannedTask {
                    task_book: id.clone(),
                    name: String::new(),
                    module: String::new(),
                    action: "none".into(),
                    diff: Some(
                        "uncoordinated: `dataStore` is `local`, so this node does not wait for other nodes".into(),
                    ),
                    failed: false,
                });
            }
            tasks.extend(book.tasks.into_iter().map(|task| pb::PlannedTask {
                task_book: id.clone(),
                failed: task.outcome == Outcome::Failed,
                action: if task.outcome == Outcome::Failed { "unknown".into() } else { task.action.to_owned() },
                diff: task.diff.or_else(|| {
                    if towpath_proto::module(&task.module).is_some_and(|module| module.shows_message)
                        || matches!(task.outcome, Outcome::Failed | Outcome::Unknown | Outcome::Held)
                    {
                        task.message.clone()
                    } else {
                        None
                    }
                }),
                name: task.name,
                module: task.module,
            }));
        }
        Ok(pb::PlanReply { generation: revision.id.generation, tasks })
    }

    fn inputs(&self, revision: &Revision) -> Inputs {
        self.inputs_with(revision, &revision.view, self.facts())
    }

    fn inputs_with(&self, revision: &Revision, view: &NodeView, facts: Value) -> Inputs {
        let nodes =
            pass::known_nodes(&revision.set, view, &facts, &revision.shared_facts(), &self.fleet.others(revision));
        Inputs { facts, nodes: Arc::new(nodes), computed: BTreeMap::new(), unknown: BTreeSet::new(), event: None }
    }

    /// Returns the tasks of another node, rendered from a revision.
    ///
    /// # Errors
    /// Fails if a TaskBook of the node cannot be rendered.
    pub fn desired(&self, revision: &Revision, other: &OtherNode) -> Result<Desired, QueryError> {
        let view = NodeView::new(&revision.set, &other.name);
        // The two sides of a comparison may come from two processes, which know different things of the other nodes.
        let facts = other.facts.clone();
        let nodes = pass::known_nodes(&revision.set, &view, &facts, &[], &BTreeMap::new());
        let unknown = pending_tasks(&revision.set, &view).into_iter();
        let unknown = unknown.map(|pending| (pending.namespace, pending.computed.name)).collect();
        let inputs = Inputs { facts, nodes: Arc::new(nodes), computed: BTreeMap::new(), unknown, event: None };
        Desired::of(revision, &view, &inputs).map_err(|error| QueryError(error.to_string()))
    }

    /// Checks that a node exists: it must be this node, or a node that the revision names.
    fn check_node(&self, revision: &Revision, name: &str) -> Result<(), QueryError> {
        let known = revision.set.all_nodes();
        if name == self.status.node() || known.contains(name) {
            return Ok(());
        }
        let similar = towpath_proto::did_you_mean(name, known.iter().map(String::as_str));
        let hint = similar.map_or_else(String::new, |similar| format!("; did you mean {similar}?"));
        Err(QueryError(format!("there is no node {name} in git{hint}")))
    }

    /// Returns the facts of the host.
    pub fn facts(&self) -> Value {
        let (facts, problems) = host_facts(&self.facts);
        for problem in problems {
            tracing::warn!(file = problem.file, "cannot read a custom fact: {}", problem.message);
        }
        facts
    }

    /// Returns one view as JSON. A view contains the rendered tasks of a TaskBook, the variables of a node, or the
    /// facts of the host.
    ///
    /// # Errors
    /// Fails if the view, the TaskBook or the node does not exist, or if no revision has been accepted.
    pub fn view(
        &self,
        view: &str,
        subject: &str,
        explain: bool,
        other: Option<&OtherNode>,
    ) -> Result<Value, QueryError> {
        match view {
            "facts" => Ok(self.facts()),
            "render" => self.render(&*self.revision()?, subject, other),
            "desired" => {
                let other =
                    other.ok_or_else(|| QueryError("the view \"desired\" needs a node and its facts".into()))?;
                let revision = self.status.revision();
                let desired = revision.map(|revision| self.desired(&revision, other)).transpose()?;
                Ok(json!(desired.unwrap_or_default()))
            }
            "vars" => self.vars(&*self.revision()?, subject, explain),
            other => Err(QueryError(format!("there is no view {other:?}"))),
        }
    }

    /// Returns the tasks of a TaskBook, rendered for this node or for another node.
    ///
    /// # Errors
    /// Fails if the TaskBook or the node does not exist, if the name is ambiguous, or if rendering fails.
    pub fn render(&self, revision: &Revision, subject: &str, other: Option<&OtherNode>) -> Result<Value, QueryError> {
        let matches = |id: &str, name: &str| id == subject || name == subject;
        let found: Vec<_> = revision.set.books.values().filter(|book| matches(&book.id(), &book.name)).collect();
        let book = match found.as_slice() {
            [one] => *one,
            [] => {
                return Err(QueryError(format!(
                    "there is no TaskBook {subject:?}; the TaskBooks are: {}",
                    revision.set.books.keys().cloned().collect::<Vec<_>>().join(", ")
                )));
            }
            _ => {
                return Err(QueryError(format!(
                    "several namespaces have a TaskBook {subject:?}: write NAMESPACE/NAME"
                )));
            }
        };
        let (view, facts) = match other {
            Some(other) => {
                self.check_node(revision, &other.name)?;
                (Some(NodeView::new(&revision.set, &other.name)), other.facts.clone())
            }
            None => (None, self.facts()),
        };
        let view = view.as_ref().unwrap_or(&revision.view);
        let inputs = self.inputs_with(revision, view, facts);
        let renderer =
            Renderer::new(&revision.set, view, book, &inputs).map_err(|error| QueryError(error.to_string()))?;
        let mut tasks = Vec::new();
        for task in &book.tasks {
            let items = match renderer.items(task) {
                Ok(Rendered::Ready(Some(items))) => items.into_iter().map(Some).collect(),
                Ok(Rendered::Ready(None)) => vec![None],
                Ok(Rendered::Missing(missing)) => {
                    tasks.push(json!({ "name": task.id, "unknown": missing.iter().map(ToString::to_string).collect::<Vec<_>>() }));
                    continue;
                }
                Err(error) => return Err(QueryError(error.to_string())),
            };
            for item in items {
                tasks.push(rendered(&renderer, task, item.as_ref())?);
            }
        }
        Ok(
            json!({ "namespace": book.namespace, "name": book.name, "generation": revision.id.generation, "tasks": tasks }),
        )
    }

    /// Returns the variables of a node, with the object and the file that define each variable.
    ///
    /// # Errors
    /// Fails if the node does not exist.
    pub fn vars(&self, revision: &Revision, node: &str, explain: bool) -> Result<Value, QueryError> {
        let name = if node.is_empty() { self.status.node() } else { node };
        self.check_node(revision, name)?;
        Ok(variables(revision, name, explain))
    }
}

fn rendered(
    renderer: &Renderer,
    task: &towpath_render::objects::task::Task,
    item: Option<&towpath_render::rendering::Item>,
) -> Result<Value, QueryError> {
    let mut value = json!({ "name": task.id, "item": item.map(|item| item.value.clone()) });
    let Some(map) = value.as_object_mut() else { return Ok(value) };
    let unknown = |missing: Vec<towpath_render::template::MissingInput>| {
        json!(missing.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    match renderer.condition(task, item).map_err(|error| QueryError(error.to_string()))? {
        Rendered::Ready(true) => {}
        Rendered::Ready(false) => {
            map.insert("skipped".into(), true.into());
            return Ok(value);
        }
        Rendered::Missing(missing) => {
            map.insert("unknown".into(), unknown(missing));
            return Ok(value);
        }
    }
    match renderer.params(task, item).map_err(|error| QueryError(error.to_string()))? {
        Rendered::Ready(params) => {
            let module = task.module.as_ref().map_or("sync", |module| module.name);
            map.insert(module.into(), params.into_value());
        }
        Rendered::Missing(missing) => {
            map.insert("unknown".into(), unknown(missing));
        }
    }
    Ok(value)
}

/// Returns the variables of a node. If the revision has several namespaces, each variable name begins with the
/// namespace of the variable.
fn variables(revision: &Revision, node: &str, explain: bool) -> Value {
    let view = NodeView::new(&revision.set, node);
    let namespaces: Vec<&String> = revision.set.namespaces.keys().collect();
    let single = namespaces.len() == 1;
    let mut all = serde_json::Map::new();
    for namespace in namespaces {
        for (name, candidates) in view.variables(&revision.set, namespace) {
            let shown = |candidate: &towpath_render::view::Candidate| {
                let value = match &candidate.value {
                    Winner::Static(value) => value.clone(),
                    Winner::Computed(computed) => {
                        json!({ "computed": computed.expression.clone().unwrap_or_else(|| computed.value.clone()) })
                    }
                };
                let from = json!({ "level": candidate.level.name(), "object": candidate.object, "file": candidate.place.file(), "line": candidate.place.position().0, "priority": candidate.priority });
                (value, from)
            };
            let Some((first, rest)) = candidates.split_first() else { continue };
            let (value, from) = shown(first);
            let lost: Vec<Value> = if explain {
                rest.iter()
                    .map(|candidate| {
                        let (value, from) = shown(candidate);
                        json!({ "value": value, "from": from, "why": why_lost(first, candidate) })
                    })
                    .collect()
            } else {
                Vec::new()
            };
            let name = if single { name } else { format!("{namespace}/{name}") };
            all.insert(name, json!({ "value": value, "from": from, "lost": lost }));
        }
    }
    Value::Object(all)
}

fn why_lost(won: &towpath_render::view::Candidate, lost: &towpath_render::view::Candidate) -> String {
    if won.level == lost.level {
        format!("priority {} is lower than {}", lost.priority, won.priority)
    } else {
        format!("{} is below {}", lost.level.name(), won.level.name())
    }
}

/// Returns the UUID of an object. The UUID is stable while the object exists. An object that is deleted and created
/// again gets a new UUID.
fn uuid(cluster: &str, key: &Key, manifest: &RevisionManifest) -> String {
    let id = object_id(key);
    let created = manifest.created_in.get(&id).copied().unwrap_or_default();
    let text = format!("{cluster}/{id}/{created}");
    ::uuid::Uuid::new_v5(&::uuid::Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}
