//! The inputs of a module, its errors, and the caches that modules share.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use towpath_host::{FsReader, process::Cancel};
use towpath_render::tree::Tree;

use crate::activity::Activity;

/// The inputs of a module.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The read access to the files of the node.
    pub reader: &'a FsReader,
    /// The files of the task's source, and the folder of the task's TaskBook in the source.
    pub source: Option<(Arc<dyn Tree>, String)>,
    /// The name of the node.
    pub node: &'a str,
    /// The name of the task in its TaskBook.
    pub task: &'a str,
    /// The time limit of the task.
    pub timeout: Duration,
    /// The flag that asks the task to stop.
    pub cancel: &'a Cancel,
    /// The caches that the tasks of a TaskBook share.
    pub cache: &'a ModuleCache,
}

/// The caches that modules share between the tasks of a TaskBook, so that the same data is read only once.
#[derive(Debug, Default)]
pub struct ModuleCache {
    /// The caches, by the type of their data. A cache is created when a module first uses the cache.
    entries: Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// The changes in progress, which `towpath status` shows.
    pub activity: Activity,
    origins: Option<Arc<dyn Origins>>,
}

/// A record of the paths that Towpath has created or changed.
pub trait Origins: std::fmt::Debug + Send + Sync {
    /// Returns true if Towpath has created or changed the file at a path. The path contains no links.
    fn has_made(&self, path: &str) -> bool;
}

impl ModuleCache {
    /// Creates empty caches, with a record of the paths that Towpath has changed.
    pub fn knowing(origins: Arc<dyn Origins>) -> Self {
        Self { origins: Some(origins), ..Self::default() }
    }

    /// Returns the cache of a type. If the cache does not exist yet, an empty cache is created.
    pub(crate) fn entry<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Arc::clone(entries.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default())));
        drop(entries);
        // The key is the type of the entry, so the entry always has the type.
        entry.downcast().unwrap_or_default()
    }

    /// Returns true if Towpath has created or changed the file at a path. The path contains no links.
    pub(crate) fn has_made(&self, path: &str) -> bool {
        self.origins.as_ref().is_some_and(|origins| origins.has_made(path))
    }
}

impl Context<'_> {
    /// Records the progress of the task, which `towpath status` shows.
    pub(crate) fn report_progress(&self, progress: &str) {
        self.cache.activity.report(self.task, progress);
    }

    /// Returns an error if the root is not `/`, because the module changes the whole machine.
    pub(crate) fn needs_whole_root(&self, module: &str) -> Result<(), ModuleError> {
        if self.reader.root() == std::path::Path::new("/") {
            return Ok(());
        }
        Err(ModuleError::new(format!(
            "cannot use the module {module} with root {}: the module changes the whole machine; set root: /",
            self.reader.root().display()
        )))
    }
}

/// The error of a module.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ModuleError {
    /// The cause of the error, and the remedy.
    pub message: String,
    /// The problem of the disk; `None` if the error has another cause.
    pub disk: Option<Disk>,
    /// True if the resource changed after the check. The caller then checks the resource again at once.
    pub moved: bool,
}

/// The reason why the disk rejected a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The disk or the quota is full.
    Full,
    /// The file system or the directory is not writable.
    ReadOnly,
}

impl ModuleError {
    /// Creates an error from a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), disk: None, moved: false }
    }

    /// Converts an error of the file system at a path to a module error.
    pub fn io(path: &str, error: &std::io::Error) -> Self {
        let (message, disk) = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                (format!("cannot write {path}: the disk is full; free space, and the agent retries"), Some(Disk::Full))
            }
            std::io::ErrorKind::ReadOnlyFilesystem => (
                format!(
                    "cannot write {path}: the file system is read-only; remount the file system, and the agent retries"
                ),
                Some(Disk::ReadOnly),
            ),
            std::io::ErrorKind::PermissionDenied => (
                format!("cannot write {path}: {error}; check if its directory is read-only or immutable (lsattr)"),
                Some(Disk::ReadOnly),
            ),
            _ => (format!("{path}: {error}"), None),
        };
        Self { message, disk, moved: false }
    }
}
