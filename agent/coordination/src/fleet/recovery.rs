//! A store that has gone back: this node says so, and says anew what it holds.

use super::{Fleet, TRIES};
use crate::{
    keys,
    rollout::{NodeClaims, RolloutSpec, RunSnapshot, acknowledge, end_recovery, report_rollback, republish},
    store::StoreError,
};

/// No book is meant: only what is of the whole fleet is read.
fn of_the_fleet(known: &[String]) -> RolloutSpec {
    let nobody = "none/none".to_owned();
    RolloutSpec { book: nobody.clone(), group: nobody, known: known.to_vec(), waves: 1, ..RolloutSpec::default() }
}

impl Fleet {
    /// Says anew what this node holds in a run, where the store lacks it or has something older.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn republish_claims(&self, spec: &RolloutSpec, own: &NodeClaims) -> Result<(), StoreError> {
        let mut snapshot = self.look(spec)?;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(spec, snapshot)?;
            let Some(txn) = republish(spec, &snapshot, &self.node, own) else { return Ok(()) };
            snapshot = self.commit(spec, txn)?;
        }
        Err(StoreError::Unreachable("others write too fast".into()))
    }

    /// Looks whether this node has to say anew what it holds: what has only been heard may not count.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn check_needs_republish(&self) -> Result<bool, StoreError> {
        self.look(&of_the_fleet(&[]))?;
        Ok(self.needs_republish())
    }

    /// Says that this node has said anew all that it holds. `known` are the nodes that git names.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn acknowledge_recovery(&self, known: &[String]) -> Result<(), StoreError> {
        let none = of_the_fleet(known);
        let mut snapshot = self.look(&none)?;
        for _ in 0..TRIES {
            snapshot = self.rollback_reported(&none, snapshot)?;
            self.read_acknowledgements(&mut snapshot)?;
            match acknowledge(&snapshot, &self.node) {
                Some(txn) => snapshot = self.commit(&none, txn)?,
                None => {
                    self.position.settled();
                    // Who is the last to say it ends the recovery_id.
                    return end_recovery(known, &snapshot).map_or(Ok(()), |txn| self.write(&txn).map(drop));
                }
            }
        }
        Err(StoreError::Unreachable("others write too fast".into()))
    }

    /// Says that the store has gone back, where this node is the first to notice.
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
                "that the data store was restored can't be said: what this node writes does not count there"
            );
            self.position.rollback_reported();
            snapshot.rolled_back = false;
        }
        Ok(snapshot)
    }

    pub(super) fn read_acknowledgements(&self, snapshot: &mut RunSnapshot) -> Result<(), StoreError> {
        if let Some((restored, _)) = &snapshot.recovery {
            snapshot.acknowledged = self.names(&keys::all_recovery_acks(&restored.id))?;
        }
        Ok(())
    }
}
