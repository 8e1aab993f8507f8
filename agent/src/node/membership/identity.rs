//! The signing identity of a node, and the record numbers and revocations that the node has seen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use towpath_coordination::{
    Store,
    signed::{BookRights, KnownWriter, RecordSigner, Rights, SignedStore},
};
use towpath_host::{
    Clock,
    identity::{CertificateTerm, Credentials, Identity, PublicKeys, RevokedUse, SigningIdentity},
};
use towpath_state::{Changes, Journal, PresentedCertificates, Record, RecordNumbers, kinds};

use crate::{
    config::Settings,
    node::error::NodeError,
    reconcile::{Revision, runs},
};

/// The count of record numbers that one journal transaction reserves for signing (P110).
const RESERVED: u64 = 1 << 24;

/// The maximum number of writers whose changed record numbers the node saves in every journal transaction. If the
/// record numbers of more writers have changed, the node saves the numbers only at an interval.
const FEW: usize = 32;
/// The interval at which the node saves the record numbers of many writers.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// The rights of nodes in the TaskBooks of the most recent revisions, in the form that the journal stores.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct KnownRights(BTreeMap<String, BookRights>);

impl Record for KnownRights {
    type Kind = kinds::BookRights;
}

/// The identity of a node in its fleet.
#[derive(Debug)]
pub(in crate::node) struct NodeIdentity {
    name: String,
    signing_identity: SigningIdentity,
    signer: Arc<RecordSigner>,
    first: u64,
    saved: Mutex<SavedState>,
}

/// The parts of the identity that are already in the journal.
#[derive(Debug)]
struct SavedState {
    /// The first record number after the reserved record numbers. The node must reserve more record numbers before it
    /// signs a record with this number.
    reserved: u64,
    rights: BTreeMap<String, BookRights>,
    /// The time at which the record numbers of all writers were last saved.
    at: Instant,
}

impl NodeIdentity {
    /// Opens the identity of the node: its certificate, or the key in the state directory. A missing key is created.
    pub(in crate::node) fn open(
        settings: &Settings,
        credentials: Option<Arc<Credentials>>,
        journal: &Journal,
        clock: &dyn Clock,
    ) -> Result<Self, NodeError> {
        let signing_identity = match credentials {
            Some(credentials) => SigningIdentity::Certified(credentials),
            None => SigningIdentity::Bare(Arc::new(Identity::open(&settings.state_dir.join("identity.key"))?)),
        };
        let first = number(journal, clock)?;
        let signer =
            RecordSigner::new(settings.cluster.clone(), settings.node.clone(), signing_identity.clone(), first);
        signer.revoked().set(settings.revoked.iter().cloned());
        let KnownRights(rights) = journal.get_readable(&())?.unwrap_or_default();
        let presented = journal.all::<PresentedCertificates>()?;
        signer.revoked().resume(presented.into_iter().map(|(key, presented)| (key, presented.0)));
        signer.resume(journal.all::<KnownWriter>()?, rights.clone());
        let saved = Mutex::new(SavedState { reserved: first + RESERVED, rights, at: clock.monotonic() });
        Ok(Self { name: settings.node.clone(), signing_identity, signer: Arc::new(signer), first, saved })
    }

    /// Wraps a shared data store in a store that signs records. The function returns a local store unchanged, because
    /// no other process writes to a local store.
    pub(in crate::node) fn signed_store(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if store.shared() { Arc::new(SignedStore::new(store, Arc::clone(&self.signer))) } else { store }
    }

    pub(in crate::node) fn keys(&self) -> PublicKeys {
        self.signing_identity.keys()
    }

    pub(in crate::node) fn signer(&self) -> Arc<RecordSigner> {
        Arc::clone(&self.signer)
    }

    /// Returns the identity for decrypting the results that other nodes encrypted for this node.
    pub(in crate::node) fn signing_identity(&self) -> SigningIdentity {
        self.signing_identity.clone()
    }

    /// Returns the incarnation of this process. The incarnation is larger than all earlier incarnations of the node,
    /// even if the clock goes back.
    pub(in crate::node) fn incarnation(&self) -> u64 {
        self.first
    }

    pub(in crate::node) fn is_certified(&self) -> bool {
        self.signing_identity.is_certified()
    }

    /// Sets the trusted keys of nodes, and the rights of nodes in TaskBooks. A revision defines the keys and rights.
    pub(in crate::node) fn follow(&self, revision: &Revision, settings: &Settings) {
        let revoked = revision.set.configs.values().flat_map(|config| &config.revoked);
        if self.signer.revoked().set(settings.revoked.iter().chain(revoked).cloned()) {
            tracing::warn!("the list of revoked certificates and keys has changed");
        }
        // An unreadable key is replaced by a key that matches no writer. `towpath validate` reports the unreadable key.
        let unusable = PublicKeys { sign: [0; 32], read: [0; 32] };
        let keys = |texts: &[String]| (!texts.is_empty()).then(|| PublicKeys::read(texts).unwrap_or(unusable));
        let named = revision.set.nodes.iter().map(|(name, node)| (name.clone(), keys(&node.public_keys)));
        self.signer.set_rights(Rights {
            nodes: named.collect(),
            books: runs::rights(&revision.set, &revision.id, &revision.manifest),
        });
    }

    /// Adds the changed record numbers, the reserved record numbers and the rights to a journal transaction. If the
    /// record numbers of many writers have changed, the numbers are saved only at an interval, unless `all` is true.
    pub(in crate::node) fn keep(&self, changes: &mut Changes, now: Instant, all: bool) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if all || self.signer.changed() <= FEW || now.duration_since(saved.at) >= SAVE_INTERVAL {
            for (writer, heard) in self.signer.take_changed() {
                changes.put(&writer, &heard);
            }
            for (key, serials) in self.signer.revoked().take_changed() {
                changes.put(&key, &PresentedCertificates(serials));
            }
            saved.at = now;
        }
        let next = self.signer.next();
        if next > saved.reserved - RESERVED / 2 {
            saved.reserved = next.saturating_add(RESERVED);
            changes.set(&RecordNumbers { reserved: saved.reserved });
        }
        let rights = self.signer.rights();
        if rights != saved.rights {
            changes.set(&KnownRights(rights.clone()));
            saved.rights = rights;
        }
    }

    /// Returns the reason why the certificate or key of this node is revoked. Returns `None` if the certificate and the
    /// key are not revoked.
    pub(in crate::node) fn is_revoked(&self) -> Option<String> {
        let serial = self.signing_identity.serial();
        self.signer.refuses(&self.name, false, &self.keys().sign, serial.as_deref())
    }

    /// Returns the serial number and the validity of the node's certificate. Returns `None` for a node without a
    /// certificate.
    pub(in crate::node) fn term(&self) -> Option<CertificateTerm> {
        self.signing_identity.term()
    }

    /// Returns the revoked certificates and keys that were used since the previous call of this function.
    pub(in crate::node) fn revoked_uses(&self) -> Vec<RevokedUse> {
        self.signer.revoked().take_used()
    }

    /// Returns the data store records that were rejected since the previous call of this function, with the reasons.
    pub(in crate::node) fn refused(&self) -> BTreeMap<String, String> {
        self.signer.refused()
    }
}

/// Reserves and returns the first record number of this process. The returned number is larger than all earlier record
/// numbers of the node, even if the clock goes back.
fn number(journal: &Journal, clock: &dyn Clock) -> Result<u64, NodeError> {
    let used: RecordNumbers = journal.get_readable(&())?.unwrap_or_default();
    let first = used.reserved.max(u64::try_from(clock.wall()).unwrap_or(0)).saturating_add(1);
    let mut changes = Changes::default();
    changes.set(&RecordNumbers { reserved: first.saturating_add(RESERVED) });
    journal.commit(changes)?;
    Ok(first)
}
