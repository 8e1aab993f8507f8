//! The state and the facts that a node publishes for other nodes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use towpath_coordination::{AcceptedId, Gate, GateReason, NodeReport};

use super::conditions::State;

/// The maximum number of gates that a node publishes.
const GATES: usize = 16;
/// The maximum length of the message of a published gate, in characters.
const MESSAGE: usize = 300;

/// The state that a node publishes for other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PublishedState {
    pub(super) generation: u64,
    pub(super) ready: bool,
    pub(super) version: String,
    /// The generation that the node has loaded.
    accepted: Option<u64>,
    /// The digest of the acceptance record of the loaded generation.
    digest: String,
    /// The closed gates of the node, by TaskBook. The map omits the gates that are visible in the data store.
    held: BTreeMap<String, Vec<PublishedGate>>,
}

impl PublishedState {
    /// Builds the published state from the state of this node.
    pub(crate) fn of(state: &State) -> Self {
        Self {
            generation: state.applied.as_ref().map_or(0, |applied| applied.generation),
            ready: state.is_applied(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accepted: Some(state.accepted.generation),
            digest: state.accepted.digest.clone(),
            held: gates(state),
        }
    }

    /// Returns the part of the published state that concerns one TaskBook. Returns `None` if an older agent published
    /// the state, because an older agent does not publish its loaded generation.
    pub(super) fn report(&self, book: &str) -> Option<NodeReport> {
        let gates = self.held.get(book).into_iter().flatten().cloned().map(PublishedGate::read).collect();
        let accepted = AcceptedId { generation: self.accepted?, digest: self.digest.clone() };
        Some(NodeReport { accepted, gates })
    }
}

/// A gate that a node publishes for other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct PublishedGate {
    gate: String,
    since: Option<i64>,
    opens: String,
    action: Option<String>,
}

impl PublishedGate {
    fn read(self) -> Gate {
        Gate { since: self.since, action: self.action, ..Gate::new(GateReason::named(&self.gate), self.opens) }
    }
}

/// Returns the closed gates of a node, by TaskBook. The result omits the gates that are visible in the data store.
fn gates(state: &State) -> BTreeMap<String, Vec<PublishedGate>> {
    let mut shown: BTreeMap<String, Vec<PublishedGate>> = BTreeMap::new();
    for hold in state.held.values().filter(|hold| !hold.is_shared && !hold.book.is_empty()).take(GATES) {
        shown.entry(hold.book.clone()).or_default().push(PublishedGate {
            gate: hold.reason.clone(),
            since: Some(hold.since),
            opens: towpath_git::without_secrets(&hold.opens).chars().take(MESSAGE).collect(),
            action: hold.action.clone(),
        });
    }
    shown
}

/// Returns the facts with the given names, which the node shares with other nodes.
pub(crate) fn shared_facts(facts: &Value, names: &[String]) -> Value {
    Value::Object(names.iter().filter_map(|name| Some((name.clone(), facts.get(name)?.clone()))).collect::<Map<_, _>>())
}
