//! Sets of changes to the journal, which are committed atomically.

use crate::{
    book::{BookEdit, RunProgress, SegmentPhase, SlotRef},
    election::{ElectionEdit, PublishedResult, UsedResult},
    keys::{BookId, TaskId},
    kinds::{self, KeyOf, Record, Whole, text_of},
};

/// A set of changes to the journal, which is committed atomically.
#[derive(Debug, Default)]
#[must_use = "changes count only when they are committed"]
pub struct Changes {
    pub(crate) puts: Vec<(String, Put)>,
    pub(crate) deletes: Vec<String>,
}

/// The new value of a record, or of one field of a record.
#[derive(Debug)]
pub(crate) enum Put {
    /// The whole record as JSON.
    Whole(Vec<u8>),
    /// One field of the record of a TaskBook.
    Book(BookEdit),
    /// Fields of the record of an election.
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

    /// Sets the record of a kind that has only one record.
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

    /// Sets the progress of a TaskBook in its run.
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

    /// Records if the last removal of an object of a TaskBook failed.
    pub fn set_removal_failed(&mut self, book: &BookId, failed: bool) {
        self.edit_book(book, BookEdit::RemovalFailed(failed));
    }

    /// Records that this node was elected for a task and begins the task.
    pub fn set_election_begun(&mut self, task: &TaskId, definition: &str) {
        self.edit_election(task, ElectionEdit::Begun(definition.to_owned()));
    }

    /// Records the result that this node publishes for an elected task.
    pub fn set_published_result(&mut self, task: &TaskId, result: PublishedResult) {
        self.edit_election(task, ElectionEdit::Published(result));
    }

    /// Records the result that this node uses: the result of the elected nodes.
    pub fn set_used_result(&mut self, task: &TaskId, result: UsedResult) {
        self.edit_election(task, ElectionEdit::Used(result));
    }

    /// Removes this node's own run of an elected task from the record, because other nodes are elected.
    pub fn forget_election(&mut self, task: &TaskId) {
        self.edit_election(task, ElectionEdit::Forgotten);
    }

    fn edit_book(&mut self, book: &BookId, edit: BookEdit) {
        self.puts.push((text_of::<kinds::Book>(book), Put::Book(edit)));
    }

    fn edit_election(&mut self, task: &TaskId, edit: ElectionEdit) {
        self.puts.push((text_of::<kinds::Election>(task), Put::Election(edit)));
    }

    /// Adds all changes of another set to this set of changes.
    pub fn append(&mut self, mut others: Self) {
        self.puts.append(&mut others.puts);
        self.deletes.append(&mut others.deletes);
    }

    /// Returns true if the set contains no changes.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }
}

/// A commit of the journal that has reached the disk.
#[derive(Debug, Default)]
pub struct Commit {
    pub(crate) puts: Vec<(String, Vec<u8>)>,
    pub(crate) deletes: Vec<String>,
}

impl Commit {
    /// Returns the records that the commit has set, in their order: key and JSON.
    pub fn puts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.puts.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
    }

    /// Returns the keys that the commit has removed, in their order. A commit removes keys before it sets records.
    pub fn deletes(&self) -> impl Iterator<Item = &str> {
        self.deletes.iter().map(String::as_str)
    }
}
