//! The journal is a database file that contains the state of a node as records.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use towpath_host::lock::{self, private_files};

use crate::{
    book::BookRecord,
    changes::{Changes, Commit, Put},
    election::ElectionRecord,
    error::JournalError,
    keys::{BookId, Key, TaskId},
    kinds::{KeyOf, Kind, Record, prefix_of, text_of},
    records::{DigestKey, Schema},
};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("journal");

/// The name of the journal's file in the state directory.
const FILE: &str = "journal.redb";

/// The folder in the state directory that keeps the original content of each file that Towpath has replaced.
const ORIGINALS: &str = "originals";

/// The size of the database cache in bytes. The agent seldom reads the journal, so a small cache is enough.
const CACHE: usize = 256 << 10;

/// The journal of one node.
///
/// Guarantees: when [`Journal::commit`] returns, all changes are on disk, so a crash does not lose the changes.
///
/// Assumptions: only one process uses the journal, because the agent has locked the state directory.
#[derive(Debug)]
pub struct Journal {
    /// The open database; `None` after an error, until the next call opens the database again.
    database: Mutex<Option<Database>>,
    folder: PathBuf,
    observer: OnceLock<Observer>,
}

/// A function of a test. The journal calls the function with each transaction.
struct Observer(Box<dyn Fn(&Commit) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal of a state directory, or creates a missing journal.
    ///
    /// If the journal file is damaged, the function renames the file and creates a new journal. The function also
    /// returns the new path of the damaged file; `None` if the journal was not damaged.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be opened or created.
    pub fn open(folder: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let file = folder.join(FILE);
        match Self::open_file(folder, &file) {
            Ok(journal) => Ok((journal, None)),
            Err(JournalError::Damaged { .. }) if file.exists() => {
                let aside = private_files::set_aside(&file).map_err(|error| JournalError::of_io(folder, &error))?;
                Ok((Self::open_file(folder, &file)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the journal of a state directory; `None` if the journal is missing. The function does not rename a damaged
    /// journal file.
    ///
    /// # Errors
    /// Returns an error if the journal is damaged or cannot be opened.
    pub fn open_existing(folder: &Path) -> Result<Option<Self>, JournalError> {
        let file = folder.join(FILE);
        if file.exists() { Self::open_file(folder, &file).map(Some) } else { Ok(None) }
    }

    fn open_file(folder: &Path, file: &Path) -> Result<Self, JournalError> {
        let database = Mutex::new(Some(database(folder, file)?));
        let journal = Self { database, folder: folder.to_owned(), observer: OnceLock::new() };
        let fresh = journal.with(|database| Ok(database.begin_read()?.open_table(TABLE).is_err()))?;
        if fresh {
            let mut changes = Changes::default();
            changes.set(&Schema(1));
            journal.commit(changes)?;
        }
        Ok(journal)
    }

    /// Calls `work` with the open database. If `work` fails, the function closes the database, and the next call opens
    /// the database again.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, JournalError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(database(&self.folder, &self.folder.join(FILE))?);
        }
        let Some(open) = slot.as_ref() else {
            return Err(JournalError::Failed { path: self.folder.clone(), message: "the database is not open".into() });
        };
        work(open).map_err(|error| {
            *slot = None;
            JournalError::of_database(&self.folder, &error)
        })
    }

    /// Returns the record with the given key; `None` if the record is missing.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read, or if this version of the agent cannot parse the record.
    pub fn get<R: Record>(&self, key: &KeyOf<R>) -> Result<Option<R>, JournalError> {
        let key = text_of::<R::Kind>(key);
        let bytes = self.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            Ok(table.get(key.as_str())?.map(|bytes| bytes.value().to_vec()))
        })?;
        bytes.map(|bytes| self.parse(&key, &bytes)).transpose()
    }

    /// Returns the record with the given key; `None` if the record is missing or unreadable.
    ///
    /// If this version of the agent cannot parse the record, the agent logs a warning. A newer version of the agent may
    /// have written the record.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    pub fn get_readable<R: Record>(&self, key: &KeyOf<R>) -> Result<Option<R>, JournalError> {
        match self.get(key) {
            Err(error @ JournalError::Unreadable { .. }) => {
                tracing::warn!("ignored an unreadable record: {error}");
                Ok(None)
            }
            other => other,
        }
    }

    /// Returns all records of a kind, in key order. If this version of the agent cannot parse a record, the agent logs
    /// a warning and omits the record.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    pub fn all<R: Record>(&self) -> Result<Vec<(KeyOf<R>, R)>, JournalError> {
        self.below(prefix_of::<R::Kind>())
    }

    /// Returns all records of one kind for the tasks of a TaskBook. The result contains the name of the task with each
    /// record. If this version of the agent cannot parse a record, the agent logs a warning and omits the record.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    pub fn of_book<R: Record>(&self, book: &BookId) -> Result<Vec<(String, R)>, JournalError>
    where
        R::Kind: Kind<Key = TaskId>,
    {
        let records = self.below::<R>(&text_of::<R::Kind>(&book.task("")))?;
        Ok(records.into_iter().map(|(key, record)| (key.task, record)).collect())
    }

    fn below<R: Record>(&self, prefix: &str) -> Result<Vec<(KeyOf<R>, R)>, JournalError> {
        let mut records = Vec::new();
        self.scan(prefix, |key, bytes| {
            let Some(parsed) = key.strip_prefix(prefix_of::<R::Kind>()).and_then(KeyOf::<R>::parse) else { return };
            match self.parse(key, bytes) {
                Ok(record) => records.push((parsed, record)),
                Err(error) => tracing::warn!("ignored an unreadable record: {error}"),
            }
        })?;
        Ok(records)
    }

    /// Returns the keys of all records of a kind, in key order.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    pub fn keys<R: Record>(&self) -> Result<Vec<KeyOf<R>>, JournalError> {
        let prefix = prefix_of::<R::Kind>();
        let mut keys = Vec::new();
        self.scan(prefix, |key, _| keys.extend(key.strip_prefix(prefix).and_then(KeyOf::<R>::parse)))?;
        Ok(keys)
    }

    /// Returns the highest key among the records of a kind. Returns `None` if the journal has no record of the kind.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read.
    pub fn last_key<R: Record>(&self) -> Result<Option<KeyOf<R>>, JournalError> {
        let prefix = prefix_of::<R::Kind>();
        let behind = format!("{prefix}{}", char::MAX);
        self.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            let last = table.range(prefix..behind.as_str())?.next_back().transpose()?;
            Ok(last.and_then(|(key, _)| key.value().strip_prefix(prefix).and_then(KeyOf::<R>::parse)))
        })
    }

    fn scan(&self, prefix: &str, mut found: impl FnMut(&str, &[u8])) -> Result<(), JournalError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            for row in table.range(prefix..)? {
                let (key, bytes) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found(key.value(), bytes.value());
            }
            Ok(())
        })
    }

    fn parse<R: DeserializeOwned>(&self, key: &str, bytes: &[u8]) -> Result<R, JournalError> {
        serde_json::from_slice(bytes).map_err(|error| JournalError::Unreadable {
            path: self.folder.clone(),
            record: key.to_owned(),
            message: error.to_string(),
        })
    }

    /// Commits changes to the disk.
    ///
    /// Two threads can change different fields of one record, because a change of a field keeps the other fields. The
    /// function removes a record if all fields of the record have default values.
    ///
    /// # Errors
    /// Returns an error if the write fails, and then the journal contains none of the changes.
    pub fn commit(&self, changes: Changes) -> Result<(), JournalError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.with(|database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            let commit = {
                let mut table = write.open_table(TABLE)?;
                let commit = self.resolve(changes, &table)?;
                for key in &commit.deletes {
                    table.remove(key.as_str())?;
                }
                for (key, bytes) in &commit.puts {
                    table.insert(key.as_str(), bytes.as_slice())?;
                }
                commit
            };
            write.commit()?;
            if let Some(Observer(show)) = self.observer.get() {
                show(&commit);
            }
            Ok(())
        })
    }

    /// Applies changes of single fields to the stored records. Each changed record is written only once.
    fn resolve(&self, changes: Changes, table: &Table<'_, &str, &[u8]>) -> Result<Commit, redb::Error> {
        let Changes { puts, mut deletes } = changes;
        let mut writes: Vec<(String, Option<Vec<u8>>)> = Vec::with_capacity(puts.len());
        let mut edited: Vec<(usize, Edited)> = Vec::new();
        for (key, put) in puts {
            let edit = match put {
                Put::Whole(bytes) => {
                    writes.push((key, Some(bytes)));
                    continue;
                }
                edit => edit,
            };
            let known = edited.iter().position(|(place, _)| writes.get(*place).is_some_and(|(other, _)| *other == key));
            let index = match known {
                Some(index) => index,
                None => {
                    let bytes = table.get(key.as_str())?;
                    let bytes = bytes.as_ref().map(|bytes| bytes.value());
                    let record = match &edit {
                        Put::Election(_) => Edited::Election(self.known(&key, bytes)),
                        _ => Edited::Book(self.known(&key, bytes)),
                    };
                    edited.push((writes.len(), record));
                    writes.push((key, None));
                    edited.len() - 1
                }
            };
            match (edit, edited.get_mut(index)) {
                (Put::Book(edit), Some((_, Edited::Book(record)))) => edit.apply(record),
                (Put::Election(edit), Some((_, Edited::Election(record)))) => edit.apply(record),
                // Each key belongs to one kind, so the record always has the type of its edit.
                _ => {}
            }
        }
        for (place, record) in edited {
            if let Some((_, bytes)) = writes.get_mut(place) {
                *bytes = record.bytes();
            }
        }
        let mut puts = Vec::with_capacity(writes.len());
        for (key, bytes) in writes {
            match bytes {
                Some(bytes) => puts.push((key, bytes)),
                None => deletes.push(key),
            }
        }
        Ok(Commit { puts, deletes })
    }

    /// Returns the stored record, or the default record if the record is missing. If this version of the agent cannot
    /// parse the record, the agent logs a warning and uses the default record.
    fn known<R: DeserializeOwned + Default>(&self, key: &str, bytes: Option<&[u8]>) -> R {
        let parsed = bytes.map(|bytes| self.parse(key, bytes)).transpose();
        parsed
            .unwrap_or_else(|error| {
                tracing::warn!("replaced an unreadable record by its default: {error}");
                None
            })
            .unwrap_or_default()
    }

    /// Calls `show` with every later journal transaction, in the order of the transactions. Only the first call of
    /// `observe_commits` has an effect.
    ///
    /// Only tests may call `observe_commits`, because records can contain secrets. The test `tests/tests/tidy` fails if
    /// the code of the agent calls `observe_commits`. The function `show` must not use the journal, because the journal
    /// waits until `show` returns.
    pub fn observe_commits(&self, show: impl Fn(&Commit) + Send + Sync + 'static) {
        let _ = self.observer.set(Observer(Box::new(show)));
    }

    /// Stores the original content of a file that Towpath is about to replace for the first time. Returns the SHA-256
    /// digest of the content.
    ///
    /// # Errors
    /// Returns an error if the write fails.
    pub fn keep_original(&self, bytes: &[u8]) -> Result<String, JournalError> {
        let name = hex::encode(Sha256::digest(bytes));
        private_files::write_once(&self.folder.join(ORIGINALS), &name, bytes)
            .map_err(|error| JournalError::of_io(&self.folder, &error))?;
        Ok(name)
    }

    /// Returns the original content of a file, by the digest of the content. Returns `None` if the stored content is
    /// missing or was changed.
    pub fn original(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = private_files::read(&self.folder.join(ORIGINALS).join(name)).ok()?;
        (hex::encode(Sha256::digest(&bytes)) == name).then_some(bytes)
    }

    /// Returns the random key with which this node computes digests of values that may be secret. The first call
    /// creates the key. The key never leaves the node.
    ///
    /// # Errors
    /// Returns an error if the journal cannot be read or written. The method never replaces an unreadable key, because
    /// a new key makes all actions run again.
    pub fn digest_key(&self) -> Result<[u8; 32], JournalError> {
        if let Some(DigestKey(key)) = self.get(&())? {
            return Ok(key);
        }
        let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let mut key = [0; 32];
        key[..16].copy_from_slice(first.as_bytes());
        key[16..].copy_from_slice(second.as_bytes());
        let mut changes = Changes::default();
        changes.set(&DigestKey(key));
        self.commit(changes)?;
        Ok(key)
    }
}

/// A record in which a journal transaction changes single fields.
enum Edited {
    Book(BookRecord),
    Election(ElectionRecord),
}

impl Edited {
    /// Returns the record as JSON; `None` if all fields of the record have default values.
    fn bytes(&self) -> Option<Vec<u8>> {
        fn json<R: Serialize + Default + PartialEq>(record: &R) -> Option<Vec<u8>> {
            (*record != R::default()).then(|| serde_json::to_vec(record).ok()).flatten()
        }
        match self {
            Self::Book(record) => json(record),
            Self::Election(record) => json(record),
        }
    }
}

fn database(folder: &Path, file: &Path) -> Result<Database, JournalError> {
    let mut opened = create(file);
    // A child of a killed agent can hold the file for a moment, between its fork and its exec.
    for _ in 0..lock::TRIES {
        if !matches!(opened, Err(redb::Error::DatabaseAlreadyOpen)) {
            break;
        }
        std::thread::sleep(lock::PAUSE);
        opened = create(file);
    }
    opened.map_err(|error| JournalError::of_database(folder, &error))
}

fn create(file: &Path) -> Result<Database, redb::Error> {
    let backend = redb::backends::FileBackend::new(private_files::open(file).map_err(redb::Error::Io)?)?;
    Ok(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?)
}
