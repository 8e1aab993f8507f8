//! The recorder of a trace: commits of journals, transactions of the store and steps of the test, in order, as text.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::mpsc;
use towpath_coordination::{
    LocalStore, Store,
    store::{Change, Compare, LeaseId, Op, Outcome, Page, Read, StoreError, Txn},
};
use towpath_state::{Commit, Journal, JournalError};

use crate::plain::{Names, record};

/// The prefix of the store's rows in the journal of the first node.
const ROWS: &str = "store/";

/// The trace of one test.
#[derive(Debug)]
pub struct Recorder {
    driver: ThreadId,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: Vec<String>,
    /// The blocks of each thread of a parallel book, since the last block of the test's own thread.
    aside: Vec<(ThreadId, Vec<String>)>,
    /// The last value of each record, by node.
    known: BTreeMap<(String, String), Value>,
    names: Names,
}

impl Recorder {
    /// Begins a trace. The calling thread drives it.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { driver: thread::current().id(), inner: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces every occurrence of a text.
    pub fn replace(&self, text: impl Into<String>, name: &str) {
        self.lock().names.replace(text, name);
    }

    /// Adds a block of lines.
    pub fn add(&self, block: impl Into<String>) {
        let mut inner = self.lock();
        let thread = thread::current().id();
        if thread == self.driver {
            inner.merge();
            inner.blocks.push(block.into());
            return;
        }
        let at = inner.aside.iter().position(|(other, _)| *other == thread);
        let at = at.unwrap_or_else(|| {
            inner.aside.push((thread, Vec::new()));
            inner.aside.len() - 1
        });
        inner.aside[at].1.push(block.into());
    }

    /// Drops the blocks so far. The last value of each record stays known.
    pub fn forget(&self) {
        let mut inner = self.lock();
        inner.merge();
        inner.blocks.clear();
    }

    /// Returns the whole trace, with placeholders.
    pub fn text(&self) -> String {
        let mut inner = self.lock();
        inner.merge();
        let blocks = std::mem::take(&mut inner.blocks);
        let lines = blocks.iter().flat_map(|block| block.lines());
        lines.map(|line| inner.names.apply(line).trim_end().to_owned() + "\n").collect()
    }

    /// Records each later commit of a node's journal.
    pub fn observe(self: &Arc<Self>, node: &str, journal: &Journal) {
        let (recorder, node) = (Arc::clone(self), node.to_owned());
        journal.observe_commits(move |changes| recorder.commit(&node, changes));
    }

    fn commit(&self, node: &str, changes: &Commit) {
        let mut block = format!("{node} journal\n");
        for key in changes.deletes().filter(|key| !is_summarized(key)) {
            let was = self.lock().known.remove(&(node.to_owned(), key.to_owned()));
            let nothing = if was.is_none() && self.is_driver() { " (not there)" } else { "" };
            block.push_str(&format!("    delete {key}{nothing}\n"));
        }
        for (key, bytes) in changes.puts().filter(|(key, _)| !is_summarized(key)) {
            let value: Value = serde_json::from_slice(bytes).unwrap();
            block.push_str(&match key.strip_prefix("event/") {
                Some(_) => format!("    event {}\n", event(&value)),
                None => format!("    put {key} {}\n", self.put(node, key, &value)),
            });
        }
        let rows = changes.deletes().chain(changes.puts().map(|(key, _)| key)).filter(|key| key.starts_with(ROWS));
        let rows: Vec<&str> = rows.filter_map(|key| key.strip_prefix("store/row/")).collect();
        if !rows.is_empty() {
            block.push_str(&format!("    rows of the store: {}\n", rows.join(", ")));
        }
        self.add(block);
    }

    fn is_driver(&self) -> bool {
        thread::current().id() == self.driver
    }

    /// Formats a record that is set. Of the node's state it shows the fields that changed.
    fn put(&self, node: &str, key: &str, value: &Value) -> String {
        let shown = record(value);
        let before = self.lock().known.insert((node.to_owned(), key.to_owned()), shown.clone());
        let Some(before) = before.filter(|_| self.is_driver()) else { return shown.to_string() };
        match (&before, &shown) {
            (before, shown) if before == shown => "(as it was)".to_owned(),
            (Value::Object(before), Value::Object(now)) if key == "state" => {
                let new = now.iter().filter(|(name, value)| before.get(*name) != Some(value));
                let new: Vec<String> = new.map(|(name, value)| format!("{name}={value}")).collect();
                format!("with {}", new.join(" "))
            }
            (_, shown) => shown.to_string(),
        }
    }
}

impl Inner {
    /// Adds the blocks of other threads. Blocks of one thread keep their order; threads are sorted by their blocks.
    fn merge(&mut self) {
        let aside = std::mem::take(&mut self.aside);
        let mut threads: Vec<(String, Vec<String>)> =
            aside.into_iter().map(|(_, blocks)| (self.names.blank(&blocks.concat()), blocks)).collect();
        threads.sort();
        for (_, blocks) in threads {
            self.blocks.extend(blocks.into_iter().map(|block| format!("beside {block}")));
        }
    }
}

/// Returns whether the trace shows a key in another way: rows of the store by their keys, and an event that stands by
/// the event of the same commit.
fn is_summarized(key: &str) -> bool {
    key.starts_with(ROWS) || key.starts_with("active-event/")
}

/// Formats an event as one line.
fn event(value: &Value) -> String {
    let word = |name: &str| value[name].as_str().unwrap_or("-").to_owned();
    let words = ["namespace", "type", "state", "reason", "object"].map(word);
    format!("{}: {}", words.join(" "), word("message"))
}

/// The store of one node: records the node's transactions and passes them to the store that all nodes share.
///
/// Its watches report nothing. The test steps one node after another, and a thread that a watch wakes would act at any
/// time.
#[derive(Debug)]
pub struct Recorded {
    node: String,
    store: Arc<LocalStore>,
    recorder: Arc<Recorder>,
    watches: Mutex<Vec<mpsc::UnboundedSender<Change>>>,
}

impl Recorded {
    /// The store of a node.
    pub fn new(node: &str, store: Arc<LocalStore>, recorder: Arc<Recorder>) -> Self {
        Self { node: node.to_owned(), store, recorder, watches: Mutex::default() }
    }

    /// Ends all watches, and with them the threads that wait for a change.
    pub fn close(&self) {
        self.watches.lock().unwrap().clear();
    }

    fn condition(&self, compare: &Compare) -> String {
        let newest = |prefix: &str| {
            let rows = self.store.read(prefix, &Page::default()).unwrap().rows;
            rows.into_iter().map(|row| (row.key, row.modified)).collect::<Vec<_>>()
        };
        match compare {
            Compare::Absent(key) => format!("absent {key}"),
            Compare::Revision(key, revision) => {
                let same = newest(key).iter().any(|(found, modified)| found == key && modified == revision);
                format!("{} {key}", if same { "unchanged" } else { "unchanged (which it is not)" })
            }
            Compare::NoneNewer(prefix, revision) => {
                let same = newest(prefix).iter().all(|(_, modified)| modified <= revision);
                format!("nothing newer below {prefix}{}", if same { "" } else { " (which there is)" })
            }
        }
    }

    fn operation(operation: &Op) -> String {
        let value = |bytes: &[u8]| match serde_json::from_slice::<Value>(bytes) {
            Ok(value) => record(&value).to_string(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        };
        match operation {
            Op::Put { key, value: bytes, lease } => {
                format!("put {key} {}{}", value(bytes), if lease.is_some() { " with a lease" } else { "" })
            }
            Op::Delete(key) => format!("delete {key}"),
            Op::DeleteAll(prefix) => format!("delete all {prefix}"),
            Op::Read(prefix) => format!("read {prefix}"),
            Op::Oldest(prefix, limit) => format!("oldest {limit} of {prefix}"),
            Op::Count(prefix) => format!("count {prefix}"),
        }
    }

    fn shown(&self, txn: &Txn) -> (String, String) {
        let writes = |operation: &&Op| matches!(operation, Op::Put { .. } | Op::Delete(_) | Op::DeleteAll(_));
        let mut block = String::new();
        for compare in &txn.compare {
            block.push_str(&format!("    if {}\n", self.condition(compare)));
        }
        for operation in txn.then.iter().filter(writes) {
            block.push_str(&format!("    {}\n", Self::operation(operation)));
        }
        let reads: Vec<&Op> = txn.then.iter().filter(|operation| !writes(operation)).collect();
        if let Some(first) = reads.first() {
            let more = if reads.len() > 1 { format!(" and {} more", reads.len() - 1) } else { String::new() };
            block.push_str(&format!("    {}{more}\n", Self::operation(first)));
        }
        let mut otherwise = String::new();
        for operation in txn.otherwise.iter().filter(writes) {
            otherwise.push_str(&format!("    otherwise {}\n", Self::operation(operation)));
        }
        (block, otherwise)
    }
}

impl Store for Recorded {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        self.store.read(prefix, page)
    }

    fn watch(&self, _: &str, _: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.watches.lock().unwrap().push(sender);
        Ok(receiver)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.lease(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease)
    }

    fn time_left(&self, key: &str) -> Result<Option<Duration>, StoreError> {
        self.store.time_left(key)
    }

    fn shared(&self) -> bool {
        self.store.shared()
    }

    fn keep_in(&self, journal: &Arc<Journal>) -> Result<(), JournalError> {
        self.recorder.observe(&self.node, journal);
        self.store.keep_in(journal)
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let (block, otherwise) = self.shown(txn);
        let outcome = self.store.commit(txn);
        let word = match &outcome {
            Ok(Outcome::Done { .. }) => "done",
            Ok(Outcome::Refused { .. }) => "refused",
            Err(_) => "failed",
        };
        self.recorder.add(format!("{} store {word}\n{block}{otherwise}", self.node));
        outcome
    }
}
