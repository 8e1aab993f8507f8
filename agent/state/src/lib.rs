//! The state that a node keeps on disk. The state consists of typed records in a journal.
//!
//! [`Journal`] reads records. The journal writes a set of [`Changes`] to the disk in one transaction. Each [`Record`]
//! type belongs to one [`Kind`]. The kind of a record defines the type of the record's key. Callers use typed keys, so
//! a caller cannot read a record with the key of another kind.
//!
//! To add a record, add a line to `kinds.rs`, and implement [`Record`] beside the record's type. Several threads change
//! [`BookRecord`] and [`ElectionRecord`], so the journal changes these records field by field.
//!
//! The crate `state` only stores records; its callers decide when to write a record.

mod book;
mod changes;
mod election;
mod error;
mod journal;
mod keys;
pub mod kinds;
mod records;
#[cfg(test)]
mod tests;

pub use book::{BookRecord, ClaimState, RunProgress, SegmentPhase, SlotClaim, SlotRef};
pub use changes::{Changes, Commit};
pub use election::{ElectionRecord, PublishedResult, UsedResult};
pub use error::JournalError;
pub use journal::Journal;
pub use keys::{BookId, Managed, RunId, TaskId};
pub use kinds::{KeyOf, Kind, Record};
pub use records::{
    Acceptance, ActionRecord, ActionState, ActiveEvent, AppliedItem, FinishedAction, HandlerRecord, Intent, Inventory,
    KeptTask, LastRollout, LastSlots, Original, OtherNodes, Phase, PresentedCertificates, RecordNumbers,
    RejectedCandidates, RunRecord, SourceCheckpoint, StorePosition, StoreRevision, StoreRow, StoredEvent, Unchecked,
};
