//! What nodes tell one another beside who is there: that they go, what was accepted, which slots they hold.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foca::{BroadcastHandler, Invalidates};
use serde::{Deserialize, Serialize};

use super::core::Life;

/// More nodes than these are not remembered to have left.
const NODES: usize = 20_000;

/// What a node tells all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) node: String,
    pub(super) number: u64,
    pub(super) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    Leaves,
    /// The generation, and the digest of its record.
    Accepted(u64, String),
    /// The parts of budgets in which the node holds a slot.
    Holds(Vec<String>),
}

/// What a node said of the slots that it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// The number of what it had written to the data store last.
    pub number: u64,
    /// The parts of budgets in which it holds one.
    pub parts: Vec<String>,
}

/// The highest acceptance that was heard of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announced {
    /// Its generation.
    pub generation: u64,
    /// The digest of its record.
    pub digest: String,
    /// A node that has it.
    pub by: String,
}

/// By which what is newer takes the place of what is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    node: String,
    about: std::mem::Discriminant<What>,
    number: u64,
}

impl Invalidates for Subject {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.about == other.about && self.number >= other.number
    }
}

/// What was told, as far as it is known here.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// The life in which a node said that it goes.
    pub(super) left: BTreeMap<String, u64>,
    /// The highest acceptance of anybody.
    pub(super) accepted: Announced,
    /// What each node said last of the slots that it holds.
    pub(super) holds: BTreeMap<String, Holds>,
    /// How often that has changed.
    pub(super) changed: u64,
}

/// foca owns its listener: what it hears is shared with the member.
#[derive(Debug, Clone, Default)]
pub(super) struct Ears(Arc<Mutex<Listener>>);

impl Ears {
    pub(super) fn lock(&self) -> MutexGuard<'_, Listener> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BroadcastHandler<Life> for Ears {
    type Key = Subject;
    type Error = postcard::Error;

    fn receive_item(&mut self, data: &[u8], from: Option<&Life>) -> Result<Option<Subject>, postcard::Error> {
        let told: Told = postcard::from_bytes(data)?;
        let about = std::mem::discriminant(&told.what);
        let mut listener = self.lock();
        let news = match told.what {
            What::Leaves => {
                if listener.left.len() >= NODES {
                    listener.left.clear();
                }
                let known = listener.left.entry(told.node.clone()).or_default();
                let news = *known < told.number;
                *known = told.number.max(*known);
                news
            }
            What::Accepted(generation, digest) => {
                let news = listener.accepted.generation < generation;
                if news {
                    listener.accepted = Announced { generation, digest, by: told.node.clone() };
                }
                news
            }
            What::Holds(parts) => {
                if listener.holds.len() >= NODES {
                    listener.holds.clear();
                }
                let known = listener.holds.entry(told.node.clone()).or_default();
                let news = known.number < told.number;
                if news {
                    *known = Holds { number: told.number, parts };
                    listener.changed += 1;
                }
                news
            }
        };
        // What this node says itself goes out, also when it says it again.
        Ok((news || from.is_none()).then_some(Subject { node: told.node, about, number: told.number }))
    }
}
