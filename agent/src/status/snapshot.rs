//! The status of a node. The main loop sets the status, and queries read the status.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use towpath_git::Mirror;
use towpath_proto::v1alpha as pb;

use super::conditions::State;
use crate::{events::Events, reconcile::Revision};

/// The status of a node. All clones of the status read the same values.
#[derive(Debug, Clone)]
pub struct StatusSnapshot(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    cluster: String,
    public_keys: Vec<String>,
    /// True if the node shares a data store but has no certificate.
    insecure: bool,
    events: Events,
    view: watch::Sender<View>,
}

/// The parts of the status that change while the agent runs.
#[derive(Debug, Clone, Default)]
struct View {
    state: State,
    revision: Option<Arc<Revision>>,
    books: Vec<pb::TaskBookStatus>,
    /// The warnings about the settings of the node.
    warnings: Vec<String>,
    /// The local mirrors of the git sources of the revision, by name of the source.
    mirrors: BTreeMap<String, Arc<Mirror>>,
}

impl StatusSnapshot {
    /// Creates the status of a node that has no revision yet.
    pub fn new(node: String, cluster: String, events: Events) -> Self {
        Self::with_keys(node, cluster, events, Vec::new(), false)
    }

    /// Creates the status of a node with its public keys. `insecure` is true if the node shares a data store but has no
    /// certificate.
    pub fn with_keys(node: String, cluster: String, events: Events, public_keys: Vec<String>, insecure: bool) -> Self {
        let view = watch::Sender::new(View::default());
        Self(Arc::new(Shared { node, cluster, public_keys, insecure, events, view }))
    }

    /// Returns the name of the node.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Returns the name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// Returns the event log of the node.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Returns the accepted revision.
    pub fn revision(&self) -> Option<Arc<Revision>> {
        self.0.view.borrow().revision.clone()
    }

    /// Returns the state of the node.
    pub fn state(&self) -> State {
        self.0.view.borrow().state.clone()
    }

    /// Returns the mirror of a source, if the accepted revision contains the given commit of the source.
    pub fn mirror_at(&self, source: &str, commit: &str) -> Option<Arc<Mirror>> {
        let view = self.0.view.borrow();
        let accepted = view.revision.as_ref()?.commits.get(source)?;
        view.mirrors.get(source).filter(|_| accepted == commit).cloned()
    }

    /// Returns the status of the node, for people and scripts. `activity` describes the current activity of the node.
    pub fn status(&self, activity: Option<String>) -> pb::NodeStatus {
        let view = self.0.view.borrow().clone();
        let status = view.state.status(&self.0.node, &self.0.cluster, view.books, activity);
        pb::NodeStatus {
            insecure: self.0.insecure,
            public_keys: self.0.public_keys.clone(),
            warnings: view.warnings,
            ..status
        }
    }

    pub(crate) fn set_state(&self, state: &State) {
        self.0.view.send_modify(|view| view.state.clone_from(state));
    }

    pub(crate) fn set_books(&self, books: Vec<pb::TaskBookStatus>) {
        self.0.view.send_modify(|view| view.books = books);
    }

    pub(crate) fn set_revision(&self, revision: Arc<Revision>, mirrors: BTreeMap<String, Arc<Mirror>>) {
        self.0.view.send_modify(|view| {
            view.revision = Some(revision);
            view.mirrors = mirrors;
        });
    }

    /// Sets the warnings about the settings of the node. Returns the warnings that were not set before.
    pub(crate) fn set_warnings(&self, warnings: Vec<String>) -> Vec<String> {
        let mut known = Vec::new();
        self.0.view.send_modify(|view| known = std::mem::replace(&mut view.warnings, warnings.clone()));
        warnings.into_iter().filter(|warning| !known.contains(warning)).collect()
    }
}
