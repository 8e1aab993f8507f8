//! What others may see of a running node: its status, a plan, views of its revision.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde_json::{Value, json};
use towpath_coordination::{Windows, accept::RevisionManifest, fleet::Fleet, gossip::Gossip, signed::RecordSigner};
use towpath_git::Mirror;
use towpath_host::{
    facts,
    identity::{Role, Subject},
    journal::RunRecord,
    process::Cancel,
};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    objects::{Key, task::Drift},
    rendering::{Inputs, Rendered, Renderer},
    view::{NodeView, Winner},
};

use super::{
    advance::object_id,
    conditions::State,
    pass::{self, ComputedCache, Machine, Outcome, Pass},
    revision::Revision,
};
use crate::report::Events;

/// What a node shows of itself.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: String,
    cluster: String,
    /// The node's place among others; None where only a plan is made.
    pub(super) fleet: Option<Arc<Fleet>>,
    machine: Arc<Machine>,
    facts: facts::Options,
    drift: Drift,
    events: Events,
    view: Mutex<View>,
    /// What the nodes say among themselves, where they do.
    pub(super) gossip: OnceLock<Gossip>,
}

#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) revision: Option<Arc<Revision>>,
    books: Vec<pb::TaskBookStatus>,
    public_keys: Vec<String>,
    /// Judges those who call, too.
    signer: Option<Arc<RecordSigner>>,
    insecure: bool,
    /// What is dangerous about the settings.
    warnings: Vec<String>,
    /// The number of this life of the node.
    life: u64,
    /// The mirrors of the revision's sources.
    pub(super) mirrors: BTreeMap<String, Arc<Mirror>>,
}

/// A question that can't be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

impl Handle {
    /// A handle of a node that has no revision yet.
    pub fn new(
        node: String,
        cluster: String,
        machine: Arc<Machine>,
        facts: facts::Options,
        drift: Drift,
        events: Events,
        fleet: Option<Arc<Fleet>>,
    ) -> Self {
        let view = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                node,
                cluster,
                fleet,
                machine,
                facts,
                drift,
                events,
                view,
                gossip: OnceLock::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, View> {
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: &State) {
        self.lock().state = state.clone();
    }

    pub(super) fn set_revision(&self, revision: Option<Arc<Revision>>, mirrors: BTreeMap<String, Arc<Mirror>>) {
        let mut view = self.lock();
        view.revision = revision;
        view.mirrors = mirrors;
    }

    pub(super) fn set_books(&self, books: Vec<pb::TaskBookStatus>) {
        self.lock().books = books;
    }

    /// The events that are kept.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// The status of the node.
    pub fn status(&self) -> pb::NodeStatus {
        let view = self.lock();
        let machine = &self.shared.machine;
        let at_work = machine.memory.progress.now(machine.clock.monotonic());
        let status = view.state.status(&self.shared.node, &self.shared.cluster, view.books.clone(), at_work);
        pb::NodeStatus {
            insecure: view.insecure,
            public_keys: view.public_keys.clone(),
            warnings: view.warnings.clone(),
            ..status
        }
    }

    /// The number of this life of the node: larger than that of every earlier one.
    pub fn life(&self) -> u64 {
        self.lock().life
    }

    /// Whether git names a node; None before the first revision.
    pub fn names_node(&self, name: &str) -> Option<bool> {
        self.lock().revision.as_ref().map(|revision| revision.set.nodes.contains_key(name))
    }

    /// The reason to refuse a caller: its certificate is revoked, or it is a node with another key than it is known by.
    /// `None` if it is admitted.
    pub fn refuses(&self, caller: &Subject, serial: Option<&str>) -> Option<String> {
        let signer = self.lock().signer.clone()?;
        let node = (caller.role == Role::Node).then_some(caller.name.as_str());
        signer.refuses(node, &caller.keys.sign, serial)
    }

    /// Says who the node is.
    pub(super) fn introduce(&self, signer: Arc<RecordSigner>, life: u64, insecure: bool) {
        let keys = signer.keys();
        let mut view = self.lock();
        view.signer = Some(signer);
        view.life = life;
        view.public_keys = keys.texts().to_vec();
        view.insecure = insecure;
    }

    /// Sets what is dangerous about the settings. Returns what is new of it.
    pub(super) fn set_warnings(&self, warnings: Vec<String>) -> Vec<String> {
        let mut view = self.lock();
        let known = std::mem::replace(&mut view.warnings, warnings.clone());
        warnings.into_iter().filter(|warning| !known.contains(warning)).collect()
    }

    /// The runs that are remembered, newest first.
    pub fn runs(&self) -> Vec<pb::RunSummary> {
        let records: Vec<(String, RunRecord)> =
            self.shared.machine.journal.as_ref().and_then(|journal| journal.scan("run/").ok()).unwrap_or_default();
        let mut runs: Vec<pb::RunSummary> = records
            .into_iter()
            .map(|(_, run)| pb::RunSummary {
                run: run.run,
                namespace: run.namespace,
                name: run.name,
                cause: "commit".into(),
                generation: run.generation,
                node: self.shared.node.clone(),
                started: towpath_host::clock::rfc3339(run.started),
                took: run.took,
                outcome: run.outcome,
                tasks: serde_json::from_value(run.tasks).unwrap_or_default(),
            })
            .collect();
        runs.sort_by(|a, b| (&b.started, &b.run).cmp(&(&a.started, &a.run)));
        runs
    }

    /// The objects of the accepted revision.
    pub fn objects(&self) -> Vec<pb::ObjectSummary> {
        let Some(revision) = self.lock().revision.clone() else { return Vec::new() };
        let accepted = revision.set.objects.values().map(|object| (object, "accepted".to_owned()));
        let held = revision.set.held.values();
        let held = held.filter_map(|held| Some((held.object.as_ref()?, format!("held: {}", held.problem.message))));
        let objects = accepted.chain(held).map(|(object, status)| pb::ObjectSummary {
            kind: object.key.kind.to_owned(),
            namespace: (!object.key.namespace.is_empty()).then(|| object.key.namespace.clone()),
            name: object.key.name.clone(),
            uuid: Some(uuid(&self.shared.cluster, &object.key, &revision.manifest)),
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

    pub(super) fn revision(&self) -> Result<Arc<Revision>, NoAnswer> {
        self.lock()
            .revision
            .clone()
            .ok_or_else(|| NoAnswer("no revision has been accepted yet; `towpath status` says why".into()))
    }

    /// What would change on the node.
    ///
    /// # Errors
    /// When there is no revision.
    pub fn plan(&self) -> Result<pb::PlanReply, NoAnswer> {
        self.plan_of(&*self.revision()?)
    }

    /// What a revision would change on the node.
    ///
    /// # Errors
    /// None so far; kept for plans that need an answer from others.
    pub fn plan_of(&self, revision: &Revision) -> Result<pb::PlanReply, NoAnswer> {
        let cancel = Cancel::default();
        let mut pass = Pass {
            machine: &self.shared.machine,
            set: &revision.set,
            view: &revision.view,
            inputs: self.inputs(revision),
            generation: revision.generation,
            plan: true,
            fresh: true,
            drift: revision.drift(self.shared.drift),
            suspended: Vec::new(),
            windows: Windows::default(),
            coordination: None,
            cancel: &cancel,
            stops: &|| false,
            make_way: &|| false,
        };
        let outcome = pass::run(&mut pass, &mut ComputedCache::default());
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
                });
            }
            if book.uncoordinated {
                tasks.push(pb::PlannedTask {
                    task_book: id.clone(),
                    name: String::new(),
                    module: String::new(),
                    action: "none".into(),
                    diff: Some("uncoordinated: dataStore is local, so this node waits for no other".into()),
                });
            }
            tasks.extend(book.tasks.into_iter().map(|task| pb::PlannedTask {
                task_book: id.clone(),
                action: if task.outcome == Outcome::Failed { "unknown".into() } else { task.action.to_owned() },
                diff: task.diff.or_else(|| {
                    if task.module == "debug"
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
        Ok(pb::PlanReply { generation: revision.generation, tasks })
    }

    fn inputs(&self, revision: &Revision) -> Inputs {
        let facts = self.facts();
        let nodes =
            pass::known_nodes(&revision.set, &revision.view, &facts, &revision.shared_facts(), &self.others(revision));
        Inputs { facts, nodes: Arc::new(nodes), computed: BTreeMap::new(), event: None }
    }

    /// The facts of the host.
    pub fn facts(&self) -> Value {
        let (facts, problems) = super::facts::facts(&self.shared.facts);
        for problem in problems {
            tracing::warn!(file = problem.file, "a fact can't be read: {}", problem.message);
        }
        facts
    }

    /// A view of the accepted revision: rendered tasks, variables or facts.
    ///
    /// # Errors
    /// When there is no such view, subject or revision.
    pub fn view(&self, view: &str, subject: &str, explain: bool) -> Result<Value, NoAnswer> {
        match view {
            "facts" => Ok(self.facts()),
            "render" => self.render(&*self.revision()?, subject),
            "vars" => self.vars(&*self.revision()?, subject, explain),
            other => Err(NoAnswer(format!("there is no view {other:?}"))),
        }
    }

    /// The tasks of a book as this node renders them.
    ///
    /// # Errors
    /// When the book is not for this node, or can't be rendered.
    pub fn render(&self, revision: &Revision, subject: &str) -> Result<Value, NoAnswer> {
        let matches = |id: &str, name: &str| id == subject || name == subject;
        let found: Vec<_> = revision.set.books.values().filter(|book| matches(&book.id(), &book.name)).collect();
        let book = match found.as_slice() {
            [one] => *one,
            [] => {
                return Err(NoAnswer(format!(
                    "there is no TaskBook {subject:?}; there are: {}",
                    revision.set.books.keys().cloned().collect::<Vec<_>>().join(", ")
                )));
            }
            _ => return Err(NoAnswer(format!("several namespaces have a TaskBook {subject:?}: write NAMESPACE/NAME"))),
        };
        let renderer = Renderer::new(&revision.set, &revision.view, book, &self.inputs(revision))
            .map_err(|error| NoAnswer(error.to_string()))?;
        let mut tasks = Vec::new();
        for task in &book.tasks {
            let items = match renderer.items(task) {
                Ok(Rendered::Ready(Some(items))) => items.into_iter().map(Some).collect(),
                Ok(Rendered::Ready(None)) => vec![None],
                Ok(Rendered::Wants(wants)) => {
                    tasks.push(json!({ "name": task.id, "unknown": wants.iter().map(ToString::to_string).collect::<Vec<_>>() }));
                    continue;
                }
                Err(error) => return Err(NoAnswer(error.to_string())),
            };
            for item in items {
                tasks.push(rendered(&renderer, task, item.as_ref())?);
            }
        }
        Ok(json!({ "namespace": book.namespace, "name": book.name, "generation": revision.generation, "tasks": tasks }))
    }

    /// The variables of a node and where they come from.
    ///
    /// # Errors
    /// When a namespace is not known.
    pub fn vars(&self, revision: &Revision, node: &str, explain: bool) -> Result<Value, NoAnswer> {
        let name = if node.is_empty() { self.shared.node.as_str() } else { node };
        Ok(variables(revision, name, explain))
    }
}

fn rendered(
    renderer: &Renderer,
    task: &towpath_render::objects::task::Task,
    item: Option<&towpath_render::rendering::Item>,
) -> Result<Value, NoAnswer> {
    let mut value = json!({ "name": task.id, "item": item.map(|item| item.value.clone()) });
    let Some(map) = value.as_object_mut() else { return Ok(value) };
    let unknown =
        |wants: Vec<towpath_render::template::Want>| json!(wants.iter().map(ToString::to_string).collect::<Vec<_>>());
    match renderer.condition(task, item).map_err(|error| NoAnswer(error.to_string()))? {
        Rendered::Ready(true) => {}
        Rendered::Ready(false) => {
            map.insert("skipped".into(), true.into());
            return Ok(value);
        }
        Rendered::Wants(wants) => {
            map.insert("unknown".into(), unknown(wants));
            return Ok(value);
        }
    }
    match renderer.params(task, item).map_err(|error| NoAnswer(error.to_string()))? {
        Rendered::Ready(params) => {
            let module = task.module.as_ref().map_or("sync", |module| module.name);
            map.insert(module.into(), params.into_value());
        }
        Rendered::Wants(wants) => {
            map.insert("unknown".into(), unknown(wants));
        }
    }
    Ok(value)
}

/// The variables of a node, by namespace where there are several.
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

/// The identity of an object: stable for its life, and another one when it is born again.
fn uuid(cluster: &str, key: &Key, manifest: &RevisionManifest) -> String {
    let id = object_id(key);
    let birth = manifest.births.get(&id).copied().unwrap_or_default();
    let text = format!("{cluster}/{id}/{birth}");
    ::uuid::Uuid::new_v5(&::uuid::Uuid::NAMESPACE_URL, text.as_bytes()).to_string()
}
