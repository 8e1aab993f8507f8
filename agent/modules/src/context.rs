//! Types for calls of a module: the inputs, the errors, and the caches that all modules use.

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
    /// The reader of the node's files.
    pub reader: &'a FsReader,
    /// The files of the source that contains the TaskBook, and the folder of the TaskBook in the source.
    pub source: Option<(Arc<dyn Tree>, String)>,
    /// The name of the node.
    pub node: &'a str,
    /// The name of the task in its TaskBook.
    pub task: &'a str,
    /// The time limit of the task.
    pub timeout: Duration,
    /// A flag that becomes true when the task must stop.
    pub cancel: &'a Cancel,
    /// The caches that all tasks of the TaskBook use.
    pub cache: &'a ModuleCache,
}

/// The caches that all tasks of a TaskBook use. The agent reads the data in a cache, such as the list of installed
/// packages, only once in a run.
#[derive(Debug, Default)]
pub struct ModuleCache {
    /// The caches, by the type of the cached data. A module creates its cache at the first use.
    entries: Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// The list of running tasks. `towpath status` shows the list.
    pub activity: Activity,
    origins: Option<Arc<dyn Origins>>,
}

/// The paths of the files that Towpath has created or changed.
pub trait Origins: std::fmt::Debug + Send + Sync {
    /// Returns true if Towpath has created or changed the file at a path. The path contains no links.
    fn has_made(&self, path: &str) -> bool;
}

impl ModuleCache {
    /// Creates empty caches. `origins` contains the paths that Towpath has created or changed.
    pub fn knowing(origins: Arc<dyn Origins>) -> Self {
        Self { origins: Some(origins), ..Self::default() }
    }

    /// Returns the cache for data of the type `T`. If the cache does not exist yet, an empty cache is created.
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
    /// Sets the progress text of the task. `towpath status` shows the text.
    pub(crate) fn report_progress(&self, progress: &str) {
        self.cache.activity.report(self.task, progress);
    }

    /// Returns an error if the root directory is not `/`. Modules that change the whole machine call this function.
    pub(crate) fn needs_whole_root(&self, module: &str) -> Result<(), ModuleError> {
        if self.reader.root() == std::path::Path::new("/") {
            return Ok(());
        }
        Err(ModuleError::new(format!(
            "cannot use the module {module} with `root: {}`: the module changes the whole machine; set `root: /`",
            self.reader.root().display()
        )))
    }
}

/// The error of a module.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ModuleError {
    /// The error message, with the cause and the remedy.
    pub message: String,
    /// The reason why the disk rejected a write; `None` if the error has another cause.
    pub disk: Option<Disk>,
    /// True if another program changed the resource after the check. After a change by another program, the agent
    /// checks the resource again at once.
    pub conflict: bool,
}

/// The reason why the disk rejected a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The disk or the quota is full.
    Full,
    /// The file system or the directory is read-only.
    ReadOnly,
}

impl ModuleError {
    /// Creates an error from a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), disk: None, conflict: false }
    }

    /// Converts an I/O error at a path to a module error.
    pub fn io(path: &str, error: &std::io::Error) -> Self {
        let (message, disk) = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => (
                format!("cannot write {path}: the disk is full; delete files to free space, and the agent retries"),
                Some(Disk::Full),
            ),
            std::io::ErrorKind::ReadOnlyFilesystem => (
                format!(
                    "cannot write {path}: the file system is read-only; remount the file system as writable, and the \
                     agent retries"
                ),
                Some(Disk::ReadOnly),
            ),
            std::io::ErrorKind::PermissionDenied => (
                format!("cannot write {path}: {error}; check if the directory is read-only or immutable (`lsattr`)"),
                Some(Disk::ReadOnly),
            ),
            _ => (format!("{path}: {error}"), None),
        };
        Self { message, disk, conflict: false }
    }
}
