//! The service that a node offers to the other nodes of its fleet, and the receiver of gossip messages.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use towpath_coordination::{
    fleet::Fleet,
    gossip::{
        Gossip,
        core::{Liveness, MembershipEvent},
    },
    signed::RecordSigner,
};
use towpath_git::Mirror;
use towpath_host::identity::{Role, Subject};
use towpath_proto::v1alpha as pb;

use super::{QueryError, StatusSnapshot};
use crate::events::{EventType, NewEvent};

/// The service of a node for the other nodes of its fleet.
#[derive(Debug, Clone)]
pub struct PeerService {
    status: StatusSnapshot,
    fleet: Arc<Fleet>,
    /// The signer of the records that the node writes to the data store. The signer decides which callers the API
    /// rejects.
    signer: Arc<RecordSigner>,
    /// The incarnation of the node: a number that grows with each start of the agent.
    incarnation: u64,
    /// The gossip of the node. `gossip` is empty if the node does not take part in gossip.
    gossip: Arc<OnceLock<Gossip>>,
}

impl PeerService {
    /// Creates the service of a node. `gossip` is set when the node begins to take part in gossip.
    pub(crate) fn new(
        status: StatusSnapshot,
        fleet: Arc<Fleet>,
        signer: Arc<RecordSigner>,
        incarnation: u64,
        gossip: Arc<OnceLock<Gossip>>,
    ) -> Self {
        Self { status, fleet, signer, incarnation, gossip }
    }

    /// Returns the incarnation of the node: a number that grows with each start of the agent.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns whether the accepted revision defines a node with this name. Returns `None` if no revision has been
    /// accepted yet.
    pub fn names_node(&self, name: &str) -> Option<bool> {
        self.status.revision().map(|revision| revision.set.nodes.contains_key(name))
    }

    /// Returns the reason to reject a caller. Returns `None` if the caller is admitted. The API rejects a caller whose
    /// certificate is revoked, and a node that does not use its trusted key.
    pub fn refuses(&self, caller: &Subject, serial: Option<&str>) -> Option<String> {
        self.signer.refuses(&caller.name, caller.role == Role::Node, &caller.keys.sign, serial)
    }

    /// Returns the gossip of the node. Returns `None` if the node does not take part in gossip.
    pub(crate) fn shared_gossip(&self) -> Option<&Gossip> {
        self.gossip.get()
    }

    /// Attaches a gossip service to this node and to its view of the fleet.
    pub fn attach_gossip(&self, gossip: Gossip) {
        self.fleet.attach_gossip(gossip.clone());
        let _ = self.gossip.set(gossip);
        self.update_gossip();
    }

    /// Passes the addresses of the other nodes and the accepted revision to the gossip service.
    pub(crate) fn update_gossip(&self) {
        let (Some(gossip), Some(revision)) = (self.gossip.get(), self.status.revision()) else { return };
        let others = revision.set.nodes.iter().filter(|(name, _)| *name != self.status.node());
        gossip.seeds(others.filter_map(|(name, node)| Some((name.clone(), node.address.clone()?))).collect());
        gossip.accepted(revision.id.clone());
    }

    /// Announces through gossip that this node leaves the fleet.
    pub(crate) fn leave_gossip(&self) {
        if let Some(gossip) = self.gossip.get() {
            gossip.leave();
        }
    }

    /// Passes a message from an authenticated node to the gossip service.
    ///
    /// # Errors
    /// Fails if this node has no gossip, or if the accepted revision does not name the sender.
    pub fn gossip(&self, from: &str, message: Vec<u8>) -> Result<(), QueryError> {
        let Some(gossip) = self.gossip.get() else { return Err(QueryError("this node has no gossip".into())) };
        // Before the first revision the nodes are not known, so the certificate of the sender is sufficient.
        if self.names_node(from) == Some(false) {
            return Err(QueryError(format!("there is no Node {from} in git")));
        }
        gossip.receive(from, message);
        Ok(())
    }

    /// Returns the acceptance record and the manifest of the accepted revision, for peers.
    ///
    /// # Errors
    /// Fails if no revision has been accepted.
    pub fn acceptance(&self) -> Result<pb::AcceptanceReply, QueryError> {
        let revision = self.status.revision().ok_or_else(QueryError::no_revision)?;
        let unreadable = |error: serde_json::Error| QueryError(error.to_string());
        Ok(pb::AcceptanceReply {
            record: serde_json::to_vec(&revision.record).map_err(unreadable)?,
            manifest: serde_json::to_vec(&revision.manifest).map_err(unreadable)?,
        })
    }

    /// Returns the mirror that contains a commit of the accepted revision. Peers can fetch only commits of the accepted
    /// revision.
    ///
    /// # Errors
    /// Fails if the commit does not belong to the accepted revision.
    pub fn mirror(&self, source: &str, commit: &str) -> Result<Arc<Mirror>, QueryError> {
        let foreign = || QueryError(format!("the accepted revision does not contain {source} at the commit {commit}"));
        self.status.mirror_at(source, commit).ok_or_else(foreign)
    }

    /// Records events for nodes that join, leave or are lost, as gossip reports.
    pub fn record_membership(&self, change: &MembershipEvent, now: i64) {
        let (event_type, reason, node, message) = match change {
            MembershipEvent::Joined(node) => (EventType::NodeJoined, "Joined", node, format!("{node} has joined")),
            MembershipEvent::Left(node) => (EventType::NodeLeft, "Left", node, format!("{node} has stopped")),
            MembershipEvent::Lost(node) => {
                (EventType::NodeLost, "Lost", node, format!("{node} does not answer any other node"))
            }
            MembershipEvent::Accepted(_) | MembershipEvent::Slots => return,
        };
        let object = format!("Node/{node}");
        let event = NewEvent::new(event_type, message).because(reason).about(object.clone(), "");
        let over = |alarm: &NewEvent| alarm.event_type == EventType::NodeLost && alarm.object.as_ref() == Some(&object);
        let ended = match change {
            MembershipEvent::Lost(_) => Ok(()),
            _ => self.status.events().resolve(now, over),
        };
        let recorded = self.status.events().record(now, vec![event.with("node", node.as_str())]);
        if let Err(error) = ended.and(recorded) {
            tracing::warn!(%error, "cannot record an event");
        }
    }

    /// Ends the alarms of lost nodes that have returned or left. This node can miss the gossip message about the return
    /// of a lost node.
    pub(crate) fn end_lost(&self, now: i64) {
        let Some(gossip) = self.gossip.get() else { return };
        let is_over = |alarm: &NewEvent| {
            let node = alarm.data.get("node").and_then(Value::as_str).unwrap_or_default();
            alarm.event_type == EventType::NodeLost
                && matches!(gossip.liveness_of(node), Liveness::Alive | Liveness::Left)
        };
        if let Err(error) = self.status.events().resolve(now, is_over) {
            tracing::warn!(%error, "cannot record an event");
        }
    }
}
