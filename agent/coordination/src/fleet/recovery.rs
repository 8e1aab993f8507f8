//! The steps of a node after a rollback of the store: the node reports the rollback and republishes its claims.

use super::{Fleet, TRIES};
use crate::{
    keys,
    rollout::{NodeClaims, RolloutSpec, RunSnapshot, acknowledge, end_recovery, report_rollback, republish},
    store::StoreError,
};

/// Returns a `RolloutSpec` for snapshots that concern the whole fleet and no book. The book and the budget in the
/// returned `RolloutSpec` do not exist.
fn of_the_fleet(known: &[String]) -> RolloutSpec {
    let no_book = "none/none".to_owned();
    RolloutSpec { book: no_book.clone(), budget: no_book, known: known.to_vec(), waves: 1, ..RolloutSpec::default() }
}

impl Fleet {
    /// Republishes the claims of this node in a run, if the claims in the store are older or missing (P15).
    ///
    /// # Errors
    /// The store does not answer.
    pub fn republish_claims(&self, spec: &RolloutSpec, own: &NodeClaims) -> Result<(), StoreError> {
        let mut snapshot = self.look(spec)?;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(spec, snapshot)?;
            let Some(txn) = republish(spec, &snapshot, &self.node, own) else { return Ok(()) };
            snapshot = self.commit(spec, txn)?;
        }
        Err(StoreError::LostRaces(TRIES))
    }

    /// Returns true if this node must republish its claims. Reads the store to check this. A node does not trust a
    /// report from a watch about a rollback until a read of the store confirms the report.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn check_needs_republish(&self) -> Result<bool, StoreError> {
        self.look(&of_the_fleet(&[]))?;
        Ok(self.needs_republish())
    }

    /// Records in the store that this node has republished all its claims. The argument `known` contains the names of
    /// all nodes in git.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn acknowledge_recovery(&self, known: &[String]) -> Result<(), StoreError> {
        let none = of_the_fleet(known);
        let mut snapshot = self.look(&none)?;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(&none, snapshot)?;
            snapshot = self.with_acknowledgements(snapshot)?;
            match acknowledge(&snapshot, &self.node) {
                Some(txn) => snapshot = self.commit(&none, txn)?,
                None => {
                    self.position.note_republished();
                    // The last node that acknowledges the recovery also ends it.
                    return end_recovery(known, &snapshot).map_or(Ok(()), |txn| self.write(&txn).map(drop));
                }
            }
        }
        Err(StoreError::LostRaces(TRIES))
    }

    /// Reports a rollback of the store, unless another node has already reported the rollback.
    pub(super) fn rollback_reported(
        &self,
        spec: &RolloutSpec,
        snapshot: RunSnapshot,
    ) -> Result<RunSnapshot, StoreError> {
        if !snapshot.rolled_back {
            return Ok(snapshot);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let Some(txn) = report_rollback(&snapshot, &self.node, &id, self.position.recovery_id().as_deref()) else {
            return Ok(snapshot);
        };
        let mut snapshot = self.commit(spec, txn)?;
        if snapshot.recovery.is_none() {
            tracing::error!(
                "cannot report that the data store was restored from a backup: readers do not accept the records of this node"
            );
            self.position.rollback_reported();
            snapshot.rolled_back = false;
        }
        Ok(snapshot)
    }

    /// Adds to a snapshot the nodes that have republished their claims in the open recovery.
    pub(super) fn with_acknowledgements(&self, snapshot: RunSnapshot) -> Result<RunSnapshot, StoreError> {
        let Some((restored, _)) = &snapshot.recovery else { return Ok(snapshot) };
        let acknowledged = self.names(&keys::all_recovery_acks(&restored.id))?;
        Ok(RunSnapshot { acknowledged, ..snapshot })
    }
}
