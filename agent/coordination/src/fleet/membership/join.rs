//! The join of a node: its join record, its first lease, and the check for another agent with the same name.

use std::time::Duration;

use super::{
    Shared,
    records::{Agent, Alive, Joined, other_key, same_keys},
};
use crate::{
    keys,
    store::{Compare, LeaseId, Op, Outcome, Row, StoreError, Txn},
};

/// The time to live of the lease of a node (P101).
const TTL: Duration = Duration::from_secs(25);

impl Shared {
    pub(super) fn kept(&self, joined: &Joined) -> Result<(), StoreError> {
        let namesake = self.lock().identity.namesake().cloned();
        if let Some(why) = namesake {
            return Err(StoreError::Denied(why));
        }
        let lease = self.lock().leases.lease();
        if let Some(lease) = lease {
            return self.store.keep_alive(lease);
        }
        self.introduce(joined)?;
        // The reason is copied, because a lock in the condition would last through the block, and `rejected_lease`
        // takes the lock too.
        let refused = self.lock().identity.refused().cloned();
        if let Some(why) = refused {
            self.show_keys(joined)?;
            return Err(StoreError::Denied(why));
        }
        let lease = if self.store.shared() { Some(self.store.lease(TTL)?) } else { None };
        let agent = Agent { id: self.id.clone(), machine_id: joined.machine_id.clone() };
        let agent = serde_json::to_vec(&agent).unwrap_or_default();
        let then = vec![self.alive(joined, lease), Op::put(keys::agent(&self.node), agent)];
        self.store.commit(&Txn { then, ..Txn::default() })?;
        let mut state = self.lock();
        state.leases.acquire(lease);
        state.identity.present();
        Ok(())
    }

    fn alive(&self, joined: &Joined, lease: Option<LeaseId>) -> Op {
        let alive = Alive { version: &joined.version, public_keys: &joined.public_keys };
        Op::Put { key: keys::alive(&self.node), value: serde_json::to_vec(&alive).unwrap_or_default(), lease }
    }

    /// Shows the keys of this rejected node to the other nodes. Does nothing if a node with the same name and the
    /// accepted keys has a lease. The other nodes do not count the rejected node as alive.
    fn show_keys(&self, joined: &Joined) -> Result<(), StoreError> {
        let known = self.lock().leases.rejected_lease();
        if let Some(lease) = known.filter(|_| self.store.shared()) {
            return match self.store.keep_alive(lease) {
                Err(StoreError::LeaseGone) => {
                    self.lock().leases.set_rejected_lease(None);
                    Ok(())
                }
                kept => kept,
            };
        }
        if !self.store.shared() {
            return Ok(());
        }
        let lease = self.store.lease(TTL)?;
        let compare = vec![Compare::Absent(keys::alive(&self.node))];
        let txn = Txn { compare, then: vec![self.alive(joined, Some(lease))], otherwise: Vec::new() };
        if matches!(self.store.commit(&txn)?, Outcome::Done { .. }) {
            self.lock().leases.set_rejected_lease(Some(lease));
        }
        Ok(())
    }

    /// Writes the join record of this node, unless a join record with other keys exists under the node's name. This
    /// node is rejected if the existing record has other keys and git does not list the keys of this node (P143, P145).
    fn introduce(&self, joined: &Joined) -> Result<(), StoreError> {
        let key = keys::joined(&self.node);
        let value = serde_json::to_vec(joined).unwrap_or_default();
        let listed_keys = self.lock().identity.listed_keys().cloned();
        let is_given = listed_keys.as_ref().is_some_and(|listed_keys| same_keys(listed_keys, &joined.public_keys));
        if listed_keys.is_some() && !is_given && self.store.shared() {
            let why = other_key(&self.node, joined, "git lists other public keys for this name");
            self.lock().identity.refuse(Some(why));
            return Ok(());
        }
        let txn = Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key.clone(), value.clone())],
            otherwise: vec![Op::Read(key.clone())],
        };
        let mut outcome = self.store.commit(&txn)?;
        if matches!(outcome, Outcome::Done { .. }) {
            self.position.note_missing_join_record();
        }
        let found = |outcome: Outcome| outcome.answers().1.into_iter().flat_map(|answer| answer.rows).next();
        if matches!(&outcome, Outcome::Refused { answers, .. } if answers.iter().all(|answer| answer.rows.is_empty())) {
            // The existing record does not count. The first commit has shown that to the signer, so the second commit
            // overwrites the record.
            outcome = self.store.commit(&txn)?;
        }
        if matches!(outcome, Outcome::Done { .. }) {
            self.lock().identity.refuse(None);
            return Ok(());
        }
        let Some(row) = found(outcome).filter(|row| row.key == key) else {
            return Err(StoreError::Unreachable(format!(
                "cannot write {key}: other nodes write this key at the same time; retrying"
            )));
        };
        let there: Joined = serde_json::from_slice(&row.value).unwrap_or_default();
        // No other node uses this store, so no other node can have the same name.
        let own = is_given || !self.store.shared() || same_keys(&there.public_keys, &joined.public_keys);
        let why = (!own).then(|| {
            let machine = if there.machine_id == joined.machine_id {
                "this machine joined with another key before it was set up again".to_owned()
            } else {
                format!("another machine ({}) has joined under this name with another key", there.machine_id)
            };
            other_key(&self.node, joined, &machine)
        });
        self.lock().identity.refuse(why);
        // The record is signed again with each lease, because the certificate may have changed. A record from a backup
        // would also be older than the one that other nodes have read.
        if own {
            let compare = vec![Compare::Revision(key.clone(), row.modified)];
            self.store.commit(&Txn { compare, then: vec![Op::put(key, value)], ..Txn::default() })?;
        }
        Ok(())
    }

    /// Checks whether another agent with the same name has overwritten the `Agent` record of this agent.
    pub(super) fn look_for_namesake(&self) {
        let key = keys::agent(&self.node);
        if self.lock().identity.is_presented()
            && let Ok(Some(row)) = self.store.as_written(&key)
        {
            self.check_namesake(&row);
        }
    }

    /// Rejects this node if another agent with the same name and key has written the record `row` (P146). The rejected
    /// node writes its own record again, so that the other agent also detects the conflict. Both agents are rejected,
    /// because no node can know which of the two agents is correct.
    pub(super) fn check_namesake(&self, row: &Row) {
        if row.key != keys::agent(&self.node) || !self.lock().identity.is_presented() || !self.store.is_of_namesake(row)
        {
            return;
        }
        let other: Agent = serde_json::from_slice(&row.value).unwrap_or_default();
        if other.id == self.id {
            return;
        }
        let first = {
            let mut state = self.lock();
            let first = state.identity.note_namesake(format!(
                "another agent runs as {} with this node's key (machine {}); both agents are rejected. Stop the agent that is on the wrong machine, give it another name and key (delete its state directory or certificate), then restart the agent that keeps the name",
                self.node, other.machine_id
            ));
            state.leases.give_up();
            first.then(|| state.identity.joined().map(|joined| joined.machine_id.clone()).unwrap_or_default())
        };
        if let Some(machine_id) = first {
            let agent = Agent { id: self.id.clone(), machine_id };
            let put = Op::put(row.key.clone(), serde_json::to_vec(&agent).unwrap_or_default());
            if let Err(error) = self.store.commit(&Txn { then: vec![put], ..Txn::default() }) {
                tracing::warn!(%error, "cannot write the record by which the other agent of this name detects this agent");
            }
        }
    }
}
