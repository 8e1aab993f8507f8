//! What nodes agree on: the store that holds it, which revision is accepted, what may change when.
//!
//! Decisions are pure: from a snapshot of the store to the very transaction that the store runs. Does not know what a
//! revision holds, nor how a change is made.

pub mod accept;
pub mod fleet;
pub mod gates;
pub mod gossip;
pub mod keys;
pub mod rollout;
pub mod signed;
pub mod store;
pub mod windows;

pub use accept::{Accepted, Candidate};
pub use gates::{Gate, Gates, Permit};
pub use store::{Store, local::LocalStore};
pub use windows::{Window, Windows};
