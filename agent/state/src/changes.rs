//! A set of changes to the journal. The journal writes all changes of a set, or none.

use crate::{
    book::{BookEdit, RunProgress, SegmentPhase, SlotRef},
    election::{ElectionEdit, PublishedResult, UsedResult},
    keys::{BookId, TaskId},
    kinds::{self, KeyOf, Record, Whole, text_of},
};

/// A set of changes to the journal. [`crate::Journal::commit`] writes all changes of the set, or none.
#[derive(Debug, Default)]
#[must_use = "changes count only when they are committed"]
pub struct Changes {
    pub(crate) puts: Vec<(String, Put)>,
    pub(crate) deletes: Vec<String>,
}

/// A change of a record: a new record, or new values of some fields.
#[derive(Debug)]
pub(crate) enum Put {
    /// The whole record as JSON.
    Whole(Vec<u8>),
    /// A new value of one field in the record of a TaskBook.
    Book(BookEdit),
    /// New values of fields in the record of an election.
    Election(ElectionEdit),
}

impl Changes {
    /// Sets the record with the given key.
    pub fn put<R: Record>(&mut self, key: &KeyOf<R>, record: &R)
    where
        R::Kind: Whole,
    {
        // Records are plain data with string keys, so JSON can represent them.
        if let Ok(bytes) = serde_json::to_vec(record) {
            self.puts.push((text_of::<R::Kind>(key), Put::Whole(bytes)));
        }
    }

    /// Sets the only record of a kind, such as the accepted revision.
    pub fn set<R: Record>(&mut self, record: &R)
    where
        R::Kind: Whole + kinds::Kind<Key = ()>,
    {
        self.put(&(), record);
    }

    /// Removes the record with the given key.
    pub fn delete<K: Whole>(&mut self, key: &K::Key) {
        self.deletes.push(text_of::<K>(key));
    }

    /// Sets the progress of this node in the run of a TaskBook.
    pub fn set_progress(&mut self, book: &BookId, progress: RunProgress) {
        self.edit_book(book, BookEdit::Progress(progress));
    }

    /// Sets the slot of a TaskBook; `None` removes the slot from the record.
    pub fn set_slot(&mut self, book: &BookId, slot: Option<SlotRef>) {
        self.edit_book(book, BookEdit::Slot(slot));
    }

    /// Sets the phase of a TaskBook's segment; `None` ends the segment.
    pub fn set_segment(&mut self, book: &BookId, phase: Option<SegmentPhase>) {
        self.edit_book(book, BookEdit::Segment(phase));
    }

    /// Records whether the agent failed to remove an object that was deleted from a TaskBook.
    pub fn set_removal_failed(&mut self, book: &BookId, failed: bool) {
        self.edit_book(book, BookEdit::RemovalFailed(failed));
    }

    /// Records that this node is elected for a task, and begins to run the task.
    pub fn set_election_begun(&mut self, task: &TaskId, definition: &str) {
        self.edit_election(task, ElectionEdit::Begun(definition.to_owned()));
    }

    /// Records the result that this node publishes for an elected task.
    pub fn set_published_result(&mut self, task: &TaskId, result: PublishedResult) {
        self.edit_election(task, ElectionEdit::Published(result));
    }

    /// Records the combined result that this node uses for an elected task. The elected nodes have published the
    /// combined result.
    pub fn set_used_result(&mut self, task: &TaskId, result: UsedResult) {
        self.edit_election(task, ElectionEdit::Used(result));
    }

    /// Removes this node's run of an elected task and the result of the run from the record, because other nodes are
    /// elected now.
    pub fn forget_election(&mut self, task: &TaskId) {
        self.edit_election(task, ElectionEdit::Forgotten);
    }

    fn edit_book(&mut self, book: &BookId, edit: BookEdit) {
        self.puts.push((text_of::<kinds::Book>(book), Put::Book(edit)));
    }

    fn edit_election(&mut self, task: &TaskId, edit: ElectionEdit) {
        self.puts.push((text_of::<kinds::Election>(task), Put::Election(edit)));
    }

    /// Appends the changes of another set to this set.
    pub fn append(&mut self, mut others: Self) {
        self.puts.append(&mut others.puts);
        self.deletes.append(&mut others.deletes);
    }

    /// Returns true if the set contains no changes.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// A journal transaction that is on disk.
#[derive(Debug, Default)]
pub struct Commit {
    pub(crate) puts: Vec<(String, Vec<u8>)>,
    pub(crate) deletes: Vec<String>,
}

impl Commit {
    /// Returns the key and the JSON of each record that the journal transaction has set, in the order of the changes.
    pub fn puts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.puts.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
    }

    /// Returns the keys of the records that the journal transaction has removed, in the order of the changes. A journal
    /// transaction first removes records, and then sets records.
    pub fn deletes(&self) -> impl Iterator<Item = &str> {
        self.deletes.iter().map(String::as_str)
    }
}
