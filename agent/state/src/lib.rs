//! The state of one node on disk: typed records in a journal.
//!
//! [`Journal`] reads records, and [`Changes`] is a set of changes that reaches the disk in one commit. A [`Record`]
//! belongs to one [`Kind`], which gives the type of its keys. This crate alone turns keys into text, so a record cannot
//! be read or written below the key of another kind.
//!
//! To add a record: a line in `kinds.rs`, and `impl Record` beside the type. Records that several threads change field
//! by field ([`BookRecord`], [`ElectionRecord`]) have an edit for each field instead of `put`.
//!
//! The crate does not know when a record is written, nor the meaning of its fields for a rollout.

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
