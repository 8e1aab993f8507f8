//! The leases of a node. An accepted node has a lease that shows that the node is alive. A rejected node has a lease
//! that shows its keys.

use std::time::Instant;

use crate::store::LeaseId;

/// The leases of a node, and the time of the most recent renewal.
#[derive(Debug, Default)]
pub(super) struct Leases {
    lease: Option<LeaseId>,
    /// The lease by which a rejected node shows its public keys to the other nodes.
    rejected_lease: Option<LeaseId>,
    /// The time of the newest request that renewed the lease. `None` if the store has confirmed no lease.
    renewed_at: Option<Instant>,
}

impl Leases {
    /// Returns the lease of the node.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.lease
    }

    /// Replaces all leases of the node by a new lease. `lease` is `None` if the type of store has no leases.
    pub(super) fn acquire(&mut self, lease: Option<LeaseId>) {
        (self.lease, self.rejected_lease) = (lease, None);
    }

    /// Removes the lease from this struct, and returns the lease.
    pub(super) fn end(&mut self) -> Option<LeaseId> {
        self.lease.take()
    }

    /// Gives up the lease. A node that has given up its lease must join again.
    pub(super) fn give_up(&mut self) {
        (self.lease, self.renewed_at) = (None, None);
    }

    /// Records the time of a request that has renewed the lease.
    pub(super) fn renewed(&mut self, at: Instant) {
        self.renewed_at = Some(at);
    }

    /// Returns the time of the newest request that renewed the lease. `None` if the store has confirmed no lease.
    pub(super) fn renewed_at(&self) -> Option<Instant> {
        self.renewed_at
    }

    /// Returns the lease that shows the keys of this rejected node.
    pub(super) fn rejected_lease(&self) -> Option<LeaseId> {
        self.rejected_lease
    }

    /// Sets the lease that shows the keys of this rejected node.
    pub(super) fn set_rejected_lease(&mut self, lease: Option<LeaseId>) {
        self.rejected_lease = lease;
    }
}
