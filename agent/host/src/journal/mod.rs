//! The durable records of a node: intents, pending handlers, finished actions, inventories and originals.
//!
//! Guarantees: a commit is complete and on disk when it returns. After a crash, the journal contains the last commit.
//!
//! Assumptions: only one process uses the file; the lock on the state directory ensures this.

mod records;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use records::{
    Acceptance, ActionRecord, ActionState, AppliedItem, FinishedAction, HandlerRecord, Intent, Inventory, Managed,
    Original, Phase, RunRecord, Unchecked,
};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("journal");

/// An error of the journal.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A full disk.
    #[error("the disk that holds {path} is full", path = path.display())]
    DiskFull {
        /// The state directory.
        path: PathBuf,
    },
    /// A read-only file system, or a write without permission.
    #[error("{path} can't be written", path = path.display())]
    ReadOnly {
        /// The state directory.
        path: PathBuf,
    },
    /// A corrupt journal.
    #[error("the journal {path} is damaged: {message}", path = path.display())]
    Damaged {
        /// The state directory.
        path: PathBuf,
        /// The problem that was found.
        message: String,
    },
    /// Any other error.
    #[error("the journal {path} failed: {message}", path = path.display())]
    Failed {
        /// The state directory.
        path: PathBuf,
        /// The cause.
        message: String,
    },
}

/// The journal of one node.
#[derive(Debug)]
pub struct Journal {
    /// The open database; `None` after an error. The next use opens it again.
    database: Mutex<Option<Database>>,
    folder: PathBuf,
    observer: OnceLock<Observer>,
}

/// A function that is shown each commit.
struct Observer(Box<dyn Fn(&Changes) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// A set of changes that is committed atomically.
#[derive(Debug, Default)]
#[must_use = "changes count only when they are committed"]
pub struct Changes {
    puts: Vec<(String, Vec<u8>)>,
    deletes: Vec<String>,
}

impl Changes {
    /// Sets a record.
    pub fn put<T: Serialize>(&mut self, key: impl Into<String>, record: &T) {
        // Records are plain data with string keys, so JSON can represent them.
        if let Ok(bytes) = serde_json::to_vec(record) {
            self.puts.push((key.into(), bytes));
        }
    }

    /// Removes a record.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.deletes.push(key.into());
    }

    /// Adds the changes of another set.
    pub fn append(&mut self, mut others: Self) {
        self.puts.append(&mut others.puts);
        self.deletes.append(&mut others.deletes);
    }

    /// Returns true if there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    /// The records that are set, in their order: key and JSON.
    pub fn puts(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.puts.iter().map(|(key, bytes)| (key.as_str(), bytes.as_slice()))
    }

    /// The keys that are removed, in their order. A commit removes before it sets.
    pub fn deletes(&self) -> impl Iterator<Item = &str> {
        self.deletes.iter().map(String::as_str)
    }
}

impl Journal {
    /// Opens the journal of a state directory, and creates it if it is missing.
    ///
    /// A corrupt journal is renamed, and a new one replaces it. The path of the renamed journal is then returned.
    ///
    /// # Errors
    /// When the journal cannot be opened or created.
    pub fn open(folder: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let file = folder.join("journal.redb");
        match Self::open_file(folder, &file) {
            Ok(journal) => Ok((journal, None)),
            Err(JournalError::Damaged { .. }) if file.exists() => {
                let aside = (1..)
                    .map(|number| folder.join(format!("journal.redb.damaged-{number}")))
                    .find(|path| !path.exists())
                    .unwrap_or_else(|| folder.join("journal.redb.damaged"));
                fs::rename(&file, &aside).map_err(|error| io_error(folder, &error))?;
                Ok((Self::open_file(folder, &file)?, Some(aside)))
            }
            Err(error) => Err(error),
        }
    }

    fn open_file(folder: &Path, file: &Path) -> Result<Self, JournalError> {
        let database = Mutex::new(Some(database(folder, file)?));
        let journal = Self { database, folder: folder.to_owned(), observer: OnceLock::new() };
        let fresh = journal.with(|database| Ok(database.begin_read()?.open_table(TABLE).is_err()))?;
        if fresh {
            let mut changes = Changes::default();
            changes.put("schema", &1);
            journal.commit(changes)?;
        }
        Ok(journal)
    }

    /// Runs work on the database. An error closes the database, and the next call opens it again.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, JournalError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(database(&self.folder, &self.folder.join("journal.redb"))?);
        }
        let Some(open) = slot.as_ref() else {
            return Err(JournalError::Failed { path: self.folder.clone(), message: "it is not open".into() });
        };
        work(open).map_err(|error| {
            *slot = None;
            database_error(&self.folder, &error)
        })
    }

    /// Returns the record at a key; `None` if it is missing or if this version cannot parse it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, JournalError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            let bytes = table.get(key)?;
            Ok(bytes.and_then(|bytes| serde_json::from_slice(bytes.value()).ok()))
        })
    }

    /// Returns the records below a key prefix, in key order. The returned keys lack the prefix.
    ///
    /// A record that this version cannot parse is omitted.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, JournalError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(TABLE)?;
            let mut records = Vec::new();
            for row in table.range(prefix..)? {
                let (key, bytes) = row?;
                let Some(rest) = key.value().strip_prefix(prefix) else { break };
                if let Ok(record) = serde_json::from_slice(bytes.value()) {
                    records.push((rest.to_owned(), record));
                }
            }
            Ok(records)
        })
    }

    /// Commits changes to the disk.
    ///
    /// # Errors
    /// When the write fails. The journal then has none of the changes.
    pub fn commit(&self, changes: Changes) -> Result<(), JournalError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.with(|database| {
            let mut write = database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            {
                let mut table = write.open_table(TABLE)?;
                for key in &changes.deletes {
                    table.remove(key.as_str())?;
                }
                for (key, bytes) in &changes.puts {
                    table.insert(key.as_str(), bytes.as_slice())?;
                }
            }
            write.commit()?;
            if let Some(Observer(show)) = self.observer.get() {
                show(&changes);
            }
            Ok(())
        })
    }

    /// Shows every later commit to a function, in the order of the commits. The first call counts.
    ///
    /// For tests alone: records may hold secrets, and `tests/tests/tidy` rejects a call in the agent. The function
    /// must not use the journal, which waits for it.
    pub fn observe_commits(&self, show: impl Fn(&Changes) + Send + Sync + 'static) {
        let _ = self.observer.set(Observer(Box::new(show)));
    }

    /// Stores the original bytes of a file before Towpath replaces it for the first time. Returns their SHA-256 digest.
    ///
    /// # Errors
    /// When the write fails.
    pub fn keep_original(&self, bytes: &[u8]) -> Result<String, JournalError> {
        let name = hex::encode(Sha256::digest(bytes));
        let folder = self.folder.join("originals");
        let file = folder.join(&name);
        if file.exists() {
            return Ok(name);
        }
        let keep = || -> std::io::Result<()> {
            use std::{
                io::Write as _,
                os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
            };
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            let temporary = folder.join(format!(".{name}"));
            let mut out =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            out.write_all(bytes)?;
            out.sync_all()?;
            fs::rename(&temporary, &file)?;
            fs::File::open(&folder)?.sync_all()
        };
        keep().map_err(|error| io_error(&self.folder, &error))?;
        Ok(name)
    }

    /// Returns the original with a digest; `None` if it is missing or was changed.
    pub fn original(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.folder.join("originals").join(name)).ok()?;
        (hex::encode(Sha256::digest(&bytes)) == name).then_some(bytes)
    }

    /// Returns the node's random key for digests of possible secrets. The first call creates it. The key never leaves
    /// the node.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub fn digest_key(&self) -> Result<[u8; 32], JournalError> {
        if let Some(key) = self.get::<[u8; 32]>("digest-key")? {
            return Ok(key);
        }
        let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let mut key = [0; 32];
        key[..16].copy_from_slice(first.as_bytes());
        key[16..].copy_from_slice(second.as_bytes());
        let mut changes = Changes::default();
        changes.put("digest-key", &key);
        self.commit(changes)?;
        Ok(key)
    }
}

/// Returns a keyed hash of bytes, which can be compared without exposing them.
pub fn keyed_digest(key: &[u8; 32], bytes: &[u8]) -> String {
    use hmac::Mac as _;
    match hmac::Hmac::<Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(bytes);
            hex::encode(mac.finalize().into_bytes())
        }
        // HMAC accepts keys of any length, so this never happens.
        Err(_) => String::new(),
    }
}

/// The size of the database cache in bytes. The journal is written often and seldom read.
const CACHE: usize = 256 << 10;

fn database(folder: &Path, file: &Path) -> Result<Database, JournalError> {
    let mut opened = create(file);
    // A child of a killed agent holds the file for the instant between fork and exec.
    for _ in 0..crate::lock::TRIES {
        if !matches!(opened, Err(redb::Error::DatabaseAlreadyOpen)) {
            break;
        }
        std::thread::sleep(crate::lock::PAUSE);
        opened = create(file);
    }
    opened.map_err(|error| database_error(folder, &error))
}

/// Opens the database in a file with mode 0600, and creates the file if it is missing.
fn create(file: &Path) -> Result<Database, redb::Error> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let opened = options.open(file).map_err(redb::Error::Io)?;
    let mode = opened.metadata().map_err(redb::Error::Io)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %file.display(), mode = format!("{:04o}", mode & 0o7777), "set the mode of the journal to 0600");
        opened.set_permissions(fs::Permissions::from_mode(0o600)).map_err(redb::Error::Io)?;
    }
    let backend = redb::backends::FileBackend::new(opened)?;
    Ok(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?)
}

fn io_error(folder: &Path, error: &std::io::Error) -> JournalError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            JournalError::DiskFull { path: folder.to_owned() }
        }
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            JournalError::ReadOnly { path: folder.to_owned() }
        }
        _ => JournalError::Failed { path: folder.to_owned(), message: error.to_string() },
    }
}

fn database_error(folder: &Path, error: &redb::Error) -> JournalError {
    match error {
        redb::Error::Io(inner) if inner.kind() == std::io::ErrorKind::InvalidData => {
            JournalError::Damaged { path: folder.to_owned(), message: inner.to_string() }
        }
        redb::Error::Io(inner) => io_error(folder, inner),
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => {
            JournalError::Damaged { path: folder.to_owned(), message: error.to_string() }
        }
        other => JournalError::Failed { path: folder.to_owned(), message: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_records_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, aside) = Journal::open(folder.path()).unwrap();
        assert!(aside.is_none());
        let mut changes = Changes::default();
        changes.put("a/1", &"one");
        changes.put("a/2", &"two");
        changes.put("b/1", &"three");
        journal.commit(changes).unwrap();
        let key = journal.digest_key().unwrap();
        drop(journal);
        let (journal, _) = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.scan::<String>("a/").unwrap(), [("1".into(), "one".into()), ("2".into(), "two".into())]);
        assert_eq!(journal.digest_key().unwrap(), key);
    }

    #[test]
    fn observer_sees_commits_that_reach_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path()).unwrap();
        let (send, seen) = std::sync::mpsc::channel();
        journal.observe_commits(move |changes| {
            let puts = changes.puts().map(|(key, bytes)| format!("{key}={}", String::from_utf8_lossy(bytes)));
            let deletes = changes.deletes().map(|key| format!("-{key}"));
            send.send(deletes.chain(puts).collect::<Vec<_>>()).unwrap();
        });
        journal.commit(Changes::default()).unwrap();
        let mut changes = Changes::default();
        changes.put("a", &1);
        changes.delete("b");
        journal.commit(changes).unwrap();
        assert_eq!(seen.try_iter().collect::<Vec<_>>(), [["-b", "a=1"]]);
    }

    #[test]
    fn a_damaged_journal_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("journal.redb"), vec![7; 100_000]).unwrap();
        let (journal, aside) = Journal::open(folder.path()).unwrap();
        assert!(aside.unwrap().exists());
        assert_eq!(journal.get::<u32>("schema").unwrap(), Some(1));
    }

    #[test]
    fn originals_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(folder.path()).unwrap();
        let name = journal.keep_original(b"old").unwrap();
        assert_eq!(journal.original(&name).unwrap(), b"old");
        fs::write(folder.path().join("originals").join(&name), "tampered").unwrap();
        assert!(journal.original(&name).is_none());
    }
}
