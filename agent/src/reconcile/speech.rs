//! How a node speaks to others and is believed: its identity, and what it hears of theirs.

use std::{collections::BTreeMap, sync::Arc};

use towpath_coordination::{
    Store,
    gossip::core::Heard,
    signed::{Notary, SignedStore},
};
use towpath_host::{
    Clock,
    identity::{Bearer, Credentials, Identity, PublicKeys},
    journal::{Changes, Journal},
};

use super::{handle::Handle, node::NodeError, revision::Revision};
use crate::{config::Settings, report::Told};

/// How many records may be signed before the journal must know of it.
const RESERVED: u64 = 1 << 24;

/// A node's identity among others.
#[derive(Debug)]
pub(super) struct Speech {
    bearer: Bearer,
    notary: Arc<Notary>,
    first: u64,
}

impl Speech {
    /// The identity of the certificate, or the one in the state directory, which is made there where it is missing.
    pub(super) fn new(
        settings: &Settings,
        credentials: Option<Arc<Credentials>>,
        journal: &Journal,
        clock: &dyn Clock,
    ) -> Result<Self, NodeError> {
        let bearer = match credentials {
            Some(credentials) => Bearer::Certified(credentials),
            None => Bearer::Bare(Arc::new(Identity::open(&settings.state_dir.join("identity.key"))?)),
        };
        let first = number(journal, clock)?;
        let notary = Notary::new(settings.cluster.clone(), settings.node.clone(), bearer.clone(), first);
        Ok(Self { bearer, notary: Arc::new(notary), first })
    }

    /// The store, with a notary before it where other processes write there too.
    pub(super) fn through(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if store.shared() { Arc::new(SignedStore::new(store, Arc::clone(&self.notary))) } else { store }
    }

    pub(super) fn keys(&self) -> PublicKeys {
        self.bearer.keys()
    }

    /// Who opens what is sealed to this node.
    pub(super) fn bearer(&self) -> Bearer {
        self.bearer.clone()
    }

    /// The number of this life: larger than that of every earlier one, whatever the clock says.
    pub(super) fn life(&self) -> u64 {
        self.first
    }

    pub(super) fn is_certified(&self) -> bool {
        self.bearer.is_certified()
    }

    /// Goes by the keys that a revision gives to nodes.
    pub(super) fn follow(&self, revision: &Revision) {
        // Keys that can't be read are nobody's: `validate` says so.
        let nobody = PublicKeys { sign: [0; 32], read: [0; 32] };
        let keys = |texts: &[String]| (!texts.is_empty()).then(|| PublicKeys::read(texts).unwrap_or(nobody));
        let named = revision.set.nodes.iter().map(|(name, node)| (name.clone(), keys(&node.public_keys)));
        self.notary.give(named.collect());
    }

    /// What did not count since this was asked last.
    pub(super) fn refused(&self) -> BTreeMap<String, String> {
        self.notary.refused()
    }
}

/// The first number of this life: above all that were used in earlier ones, whatever the clock says.
fn number(journal: &Journal, clock: &dyn Clock) -> Result<u64, NodeError> {
    let used: u64 = journal.get("sequence")?.unwrap_or(0);
    let first = used.max(u64::try_from(clock.wall()).unwrap_or(0)) + 1;
    let mut changes = Changes::default();
    changes.put("sequence", &(first + RESERVED));
    journal.commit(changes)?;
    Ok(first)
}

impl Handle {
    /// Makes events of what the nodes say among themselves.
    pub fn heard(&self, heard: &Heard, now: i64) {
        let (kind, reason, node, message) = match heard {
            Heard::Joined(node) => ("node.joined", "Joined", node, format!("{node} is there")),
            Heard::Left(node) => ("node.left", "Left", node, format!("{node} has said that it goes")),
            Heard::Lost(node) => {
                ("node.lost", "Lost", node, format!("{node} answers none of the other nodes any more"))
            }
            Heard::Accepted(_) | Heard::Slots => return,
        };
        let told = Told {
            namespace: "system".into(),
            kind: kind.into(),
            firing: None,
            reason: Some(reason.into()),
            object: Some(format!("Node/{node}")),
            message,
        };
        if let Err(error) = self.events().tell(now, told) {
            tracing::warn!(%error, "an event can't be kept");
        }
    }
}
