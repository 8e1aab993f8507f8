//! The parts of a node that are visible from outside: status, queries, the view of the fleet, and the peer service.

pub mod conditions;
mod fleet_view;
pub(crate) mod happenings;
mod peers;
mod published;
mod queries;
pub(crate) mod run_progress;
mod snapshot;

pub use fleet_view::FleetView;
pub use peers::PeerService;
pub(crate) use published::{PublishedState, shared_facts};
pub use queries::{OtherNode, Queries, QueryError};
pub use snapshot::StatusSnapshot;
