//! The state that a node keeps on disk. The state consists of typed records in a journal.
//!
//! [`Journal`] reads records. A set of [`Changes`] is written to the disk in one commit. Each [`Record`] type belongs
//! to one [`Kind`]. The kind defines the type of the record's key. Only this crate converts keys to text, so a caller
//! cannot read a record with a key of the wrong kind.
//!
//! To add a record, add a line to `kinds.rs`, and implement [`Record`] beside the record's type. Several threads change
//! [`BookRecord`] and [`ElectionRecord`], so the changes of both types are made field by field.
//!
//! The crate only stores records. The callers of the crate decide when a record is written.

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
