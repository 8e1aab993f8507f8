//! The agreement between nodes: the data store, the accepted revision, rollouts, and the permission to make a change.
//!
//! Decisions are pure functions: they map a snapshot of the store to the transaction that the store then runs. This
//! crate does not know the contents of a revision, and it does not make changes on the node.

pub mod accept;
mod explain;
pub mod fleet;
pub mod gates;
pub mod gossip;
pub mod keys;
pub mod rollout;
pub mod signed;
pub mod store;
pub mod windows;

pub use accept::{Accepted, AcceptedId, Candidate};
pub use explain::{FailedNode, Holder, Liveness, Milestone, MilestoneKind, NodeReport, Rollout, WrittenOff};
pub use gates::{Gate, GateReason, Gates, Suspension};
pub use store::{Store, local::LocalStore};
pub use windows::{Window, Windows};
