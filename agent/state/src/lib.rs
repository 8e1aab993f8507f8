//! The state of one node on disk: typed records in a journal.
//!
//! [`Journal`] reads records. [`Changes`] is a set of changes that reaches the disk in one commit. Each [`Record`] type
//! belongs to one [`Kind`], which defines the type of the record's key. Only this crate converts keys to text, so a key
//! of one kind cannot access a record of another kind.
//!
//! To add a record, add a line to `kinds.rs`, and implement [`Record`] beside the record's type. Several threads change
//! [`BookRecord`] and [`ElectionRecord`], so [`Changes`] sets single fields of these records.
//!
//! The crate does not decide when a record is written, and does not interpret the fields of records.

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
    Acceptance, ActionRecord, ActionState, AppliedItem, FinishedAction, HandlerRecord, Intent, Inventory, KeptTask,
    LastRollout, LastSlots, Original, OtherNodes, Phase, PresentedCertificates, RecordNumbers, RejectedCandidates,
    RunRecord, SourceCheckpoint, StandingEvent, StorePosition, StoreRevision, StoreRow, StoredEvent, Unchecked,
};
