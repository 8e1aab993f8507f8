//! Runs the passes of a node over the TaskBooks of its revision.

pub(super) mod managed_files;
pub(super) mod report;
pub(super) mod steady_state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use towpath_coordination::fleet::Fleet;
use towpath_host::{FsWriter, process::Cancel};
use towpath_render::rendering::Inputs;

use super::inbox::Inbox;
use crate::{
    config::Settings,
    reconcile::{
        self, Revision,
        pass::{self, ComputedCache, Coordination, HostContext, PassContext, PassOutcome},
    },
    status::Queries,
};

/// The passes of a node, and the computed values that all passes share.
#[derive(Debug)]
pub(super) struct Passes {
    settings: Arc<Settings>,
    machine: Arc<HostContext>,
    /// The writer of managed files. Only admitted changes can use this file writer.
    writer: FsWriter,
    fleet: Arc<Fleet>,
    queries: Queries,
    inbox: Inbox,
    cancel: Cancel,
    computed: ComputedCache,
}

impl Passes {
    pub(super) fn new(
        settings: Arc<Settings>,
        (machine, writer): (Arc<HostContext>, FsWriter),
        fleet: Arc<Fleet>,
        queries: Queries,
        inbox: Inbox,
    ) -> Self {
        let (cancel, computed) = (Cancel::default(), ComputedCache::default());
        Self { settings, machine, writer, fleet, queries, inbox, cancel, computed }
    }

    pub(super) fn machine(&self) -> &Arc<HostContext> {
        &self.machine
    }

    pub(super) fn queries(&self) -> &Queries {
        &self.queries
    }

    /// Returns the flag that cancels running commands.
    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Runs one pass. `fresh` is true if the revision is not fully applied on the node yet.
    pub(super) fn run(&mut self, revision: &Revision, facts: &Value, fresh: bool) -> PassOutcome {
        let facts = facts.clone();
        let others = self.queries.fleet().others(revision);
        let nodes = pass::known_nodes(&revision.set, &revision.view, &facts, &revision.shared_facts(), &others);
        let pass = PassContext {
            machine: &self.machine,
            set: &revision.set,
            view: &revision.view,
            inputs: Inputs {
                facts,
                nodes: Arc::new(nodes),
                computed: BTreeMap::new(),
                unknown: BTreeSet::new(),
                event: None,
            },
            accepted: revision.id.clone(),
            fresh,
            drift: revision.reconcile(self.settings.reconcile).drift,
            suspended: revision.suspended(),
            windows: revision.windows(),
            coordination: Some(Coordination { fleet: &self.fleet, manifest: &revision.manifest }),
            shares_store: self.fleet.store().shared(),
            cancel: &self.cancel,
            stops: &|| self.inbox.stops(),
            should_preempt: &|| self.inbox.should_preempt(),
        };
        reconcile::apply(pass, &self.writer, &mut self.computed)
    }
}
