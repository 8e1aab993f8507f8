//! The messages that a node sends to all other nodes by gossip: its departure, its accepted revision, and its held
//! slots (P103, P104).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use super::member_id::MemberId;
use crate::accept::AcceptedId;

/// The maximum number of nodes for which this node remembers a departure, or held slots.
const NODES: usize = 20_000;

/// A message that gossip distributes from one node to all other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Broadcast {
    pub(super) node: String,
    pub(super) number: u64,
    pub(super) what: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Payload {
    Leaves,
    /// The acceptance that the node has adopted.
    Accepted(AcceptedId),
    /// The partitions in which the node holds a slot.
    Holds(Vec<String>),
}

/// The report of a node about the slots that it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// The sequence number of the node's newest write to the data store.
    pub number: u64,
    /// The partitions in which the node holds a slot.
    pub partitions: Vec<String>,
}

/// An acceptance that a node has announced by gossip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announced {
    /// The number of the acceptance, and the digest of the acceptance record.
    pub id: AcceptedId,
    /// The name of a node that has the acceptance record.
    pub by: String,
}

/// The node, the kind and the number of a broadcast. A broadcast replaces older broadcasts of the same node and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    node: String,
    about: std::mem::Discriminant<Payload>,
    number: u64,
}

impl Invalidates for Subject {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.about == other.about && self.number >= other.number
    }
}

/// The content of the broadcasts that this node has received.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// For each node that has announced its departure, the incarnation of the node at the departure.
    pub(super) left: BTreeMap<String, u64>,
    /// The announced acceptance with the highest generation.
    pub(super) accepted: Announced,
    /// The newest report of each node about the slots that it holds.
    pub(super) holds: BTreeMap<String, Holds>,
    /// The number of changes of the field `holds`.
    pub(super) changed: u64,
}

/// A handle by which the gossip library `foca` and the gossip member share the received broadcasts. The library writes
/// the broadcasts, and the gossip member reads the broadcasts.
#[derive(Debug, Clone, Default)]
pub(super) struct BroadcastState(Arc<Mutex<Listener>>);

impl BroadcastState {
    pub(super) fn lock(&self) -> MutexGuard<'_, Listener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BroadcastHandler<MemberId> for BroadcastState {
    type Key = Subject;
    type Error = postcard::Error;

    fn receive_item(&mut self, data: &[u8], from: Option<&MemberId>) -> Result<Option<Subject>, postcard::Error> {
        let broadcast: Broadcast = postcard::from_bytes(data)?;
        let about = std::mem::discriminant(&broadcast.what);
        let mut listener = self.lock();
        let news = match broadcast.what {
            Payload::Leaves => {
                if listener.left.len() >= NODES {
                    listener.left.clear();
                }
                let known = listener.left.entry(broadcast.node.clone()).or_default();
                let news = *known < broadcast.number;
                *known = broadcast.number.max(*known);
                news
            }
            Payload::Accepted(id) => {
                // Only the store decides between two acceptances with one number. If each replaced the other here,
                // nodes would send both of them forever.
                let news = listener.accepted.id.generation < id.generation;
                if news {
                    listener.accepted = Announced { id, by: broadcast.node.clone() };
                }
                news
            }
            Payload::Holds(partitions) => {
                if listener.holds.len() >= NODES {
                    listener.holds.clear();
                }
                let known = listener.holds.entry(broadcast.node.clone()).or_default();
                let news = known.number < broadcast.number;
                if news {
                    *known = Holds { number: broadcast.number, partitions };
                    listener.changed += 1;
                }
                news
            }
        };
        // `foca` sends a broadcast of this node itself in any case, even if it repeats an earlier one.
        Ok((news || from.is_none()).then_some(Subject { node: broadcast.node, about, number: broadcast.number }))
    }
}
