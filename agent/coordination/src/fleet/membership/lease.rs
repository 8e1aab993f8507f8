//! The leases of a node. The first lease shows that the node is alive. The second lease shows the keys of a rejected
//! node.

use std::time::Instant;

use crate::store::LeaseId;

/// The leases of a node, and the time of the most recent renewal.
#[derive(Debug, Default)]
pub(super) struct Leases {
    lease: Option<LeaseId>,
    /// The lease of a rejected node, which shows the node's keys to the other nodes.
    rejected_lease: Option<LeaseId>,
    /// The time of the request that last renewed the lease. `None` if the store has confirmed no lease.
    renewed_at: Option<Instant>,
}

impl Leases {
    /// Returns the lease of the node.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.lease
    }

    /// Replaces the leases of the node by a new lease. `lease` is `None` if the store has no leases.
    pub(super) fn acquire(&mut self, lease: Option<LeaseId>) {
        (self.lease, self.rejected_lease) = (lease, None);
    }

    /// Removes and returns the lease, which has ended or is about to end.
    pub(super) fn end(&mut self) -> Option<LeaseId> {
        self.lease.take()
    }

    /// Gives up the lease. A node that has given up its lease joins again.
    pub(super) fn give_up(&mut self) {
        (self.lease, self.renewed_at) = (None, None);
    }

    /// Records the time of a request that has renewed the lease.
    pub(super) fn renewed(&mut self, at: Instant) {
        self.renewed_at = Some(at);
    }

    /// Returns the time of the request that last renewed the lease. `None` if the store has confirmed no lease.
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
