//! File events of the kernel: tells at once when something touches a managed path.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Watches the directories that hold managed paths.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    directories: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").field("directories", &self.directories.len()).finish()
    }
}

impl FileWatch {
    /// Calls back with each path that something may have changed.
    ///
    /// # Errors
    /// When the kernel gives no events.
    pub fn new(on_change: impl Fn(&Path) + Send + 'static) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            event.paths.iter().for_each(|path| on_change(path));
        })?;
        Ok(Self { watcher, directories: BTreeMap::new() })
    }

    /// Watches the directories of just these paths. What can't be watched is left to the interval.
    pub fn set(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut wanted: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        for path in paths {
            if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
                wanted.entry(directory.to_owned()).or_default().insert(name.to_string_lossy().into_owned());
            }
        }
        let mut paths = self.watcher.paths_mut();
        for gone in self.directories.keys().filter(|directory| !wanted.contains_key(*directory)) {
            let _ = paths.remove(gone);
        }
        for new in wanted.keys().filter(|directory| !self.directories.contains_key(*directory)) {
            if let Err(error) = paths.add(new, RecursiveMode::NonRecursive) {
                tracing::warn!(directory = %new.display(), %error, "can't be watched; drift below it is found at the interval");
            }
        }
        if let Err(error) = paths.commit() {
            tracing::warn!(%error, "file events are incomplete; drift is found at the interval");
        }
        self.directories = wanted;
    }
}
