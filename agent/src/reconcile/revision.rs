//! An accepted revision, with the parts that concern one node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use towpath_coordination::{Accepted, AcceptedId, Window, Windows, accept::RevisionManifest};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    objects::{Key, ObjectSet},
    view::NodeView,
};

use crate::config::{Reconcile, WrittenReconcile};

/// An accepted revision, with all objects, and with the parts that concern one node.
#[derive(Debug)]
pub struct Revision {
    /// The generation and the digest of the accepted revision. The generation is 0 for a working tree.
    pub id: AcceptedId,
    /// The commits of the revision, by source.
    pub commits: BTreeMap<String, String>,
    /// The objects of the revision, for all nodes.
    pub set: Arc<ObjectSet>,
    /// The parts of the revision that concern this node.
    pub view: NodeView,
    /// The manifest of the revision, with the metadata of coordinated TaskBooks.
    pub manifest: RevisionManifest,
    /// The acceptance record of the revision.
    pub record: Accepted,
    /// True if an object or a template calls `nodes()`. The value is computed at its first use.
    reads_nodes: OnceLock<bool>,
}

impl Revision {
    /// Creates a revision, with the parts that concern one node. For a working tree, the acceptance record has default
    /// values.
    pub fn new(record: Accepted, manifest: RevisionManifest, set: Arc<ObjectSet>, node: &str) -> Self {
        let view = NodeView::new(&set, node);
        let (id, commits) = (record.id(), record.commits.clone());
        Self { id, commits, set, view, manifest, record, reads_nodes: OnceLock::new() }
    }

    /// Returns true if an object or a template calls `nodes()`.
    pub fn reads_nodes(&self) -> bool {
        *self.reads_nodes.get_or_init(|| reads_nodes(&self.set))
    }

    /// Returns the reconcile settings. Settings of the bootstrap file take precedence over settings of Config objects
    /// in git.
    pub fn reconcile(&self, bootstrap: WrittenReconcile) -> Reconcile {
        bootstrap.or_of(self.set.configs.values())
    }

    /// Returns the suspensions that apply to the whole fleet.
    pub fn suspended(&self) -> Vec<pb::Suspend> {
        self.set.configs.values().filter_map(|config| config.suspend.clone()).collect()
    }

    /// Returns the maintenance windows that apply to this node.
    pub fn windows(&self) -> Windows {
        let written = self.set.configs.values().flat_map(|config| &config.maintenance_windows);
        let mine = written.filter(|window| {
            window.node_groups.is_empty() || window.node_groups.iter().any(|group| self.view.groups.contains(group))
        });
        let read = |window: &pb::MaintenanceWindow| {
            Window::read(
                &window.days,
                window.from.as_deref()?,
                window.to.as_deref()?,
                window.time_zone.as_deref().unwrap_or("UTC"),
                window.overrun.as_deref() != Some("stop"),
            )
        };
        Windows(mine.filter_map(read).collect())
    }

    /// Returns the names of the facts that nodes share with each other.
    pub fn shared_facts(&self) -> Vec<String> {
        let said: Vec<String> =
            self.set.configs.values().flat_map(|config| config.shared_facts.iter().cloned()).collect();
        if said.is_empty() { ["hostname", "fqdn", "addresses", "os"].map(str::to_owned).to_vec() } else { said }
    }
}

/// Returns the ids of all objects of a revision, including held objects, in the form that manifests use.
pub(crate) fn object_ids(set: &ObjectSet) -> BTreeSet<String> {
    let held = set.held.keys().filter_map(|(_, key)| key.as_ref());
    set.objects.keys().chain(held).map(object_id).collect()
}

/// Returns the id of an object in the form that manifests use: `kind/namespace/name`.
pub(crate) fn object_id(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

/// Returns true if an object or a template calls `nodes()`.
fn reads_nodes(set: &ObjectSet) -> bool {
    let named = |text: &str| text.contains("nodes(");
    set.objects.values().any(|object| named(&object.spec.to_string()))
        || set.trees.values().any(|tree| {
            let files = tree.list("").unwrap_or_default();
            files.iter().any(|file| {
                let text = file.path.ends_with(".j2")
                    || file.path.ends_with(".yaml")
                    || file.path.ends_with(".yml")
                    || file.path.contains("templates/");
                text && tree
                    .read(&file.path)
                    .ok()
                    .flatten()
                    .is_some_and(|bytes| named(&String::from_utf8_lossy(&bytes)))
            })
        })
}
