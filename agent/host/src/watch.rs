//! File events of the kernel: they report a change of a managed path at once.
//!
//! This module uses inotify directly. The crate notify (8) also subscribes to opened files. An agent that reads a
//! thousand files to check them would then wake itself a thousand times.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

/// The inotify events that mean a change in a directory. Reads are not among them.
const MASK: WatchMask = WatchMask::ATTRIB
    .union(WatchMask::CREATE)
    .union(WatchMask::DELETE)
    .union(WatchMask::CLOSE_WRITE)
    .union(WatchMask::MODIFY)
    .union(WatchMask::MOVED_FROM)
    .union(WatchMask::MOVED_TO)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);

/// A change that the kernel reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A path that may have changed.
    Path(PathBuf),
    /// An unknown change: the event queue overflowed, or a watched directory itself changed.
    Anything,
}

/// A watch on the directories that contain managed paths.
pub struct FileWatch {
    watches: Watches,
    known: Arc<Mutex<HashMap<WatchDescriptor, PathBuf>>>,
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").finish_non_exhaustive()
    }
}

impl FileWatch {
    /// Starts a thread that calls `on_change` with each path that may have changed.
    ///
    /// The thread runs until the process ends or reading events fails.
    ///
    /// # Errors
    /// When inotify cannot be initialized.
    pub fn new(on_change: impl Fn(Touched) + Send + 'static) -> io::Result<Self> {
        let mut inotify = Inotify::init()?;
        let watches = inotify.watches();
        let known: Arc<Mutex<HashMap<WatchDescriptor, PathBuf>>> = Arc::default();
        let directories = Arc::clone(&known);
        thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let events = match inotify.read_events_blocking(&mut buffer) {
                    Ok(events) => events,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => {
                        tracing::warn!(%error, "file events have ended; drift is found at the interval");
                        return;
                    }
                };
                for event in events {
                    if event.mask.contains(EventMask::Q_OVERFLOW) {
                        on_change(Touched::Anything);
                        continue;
                    }
                    let mut known = directories.lock().unwrap_or_else(PoisonError::into_inner);
                    if event.mask.contains(EventMask::IGNORED) {
                        known.remove(&event.wd);
                        continue;
                    }
                    let Some(directory) = known.get(&event.wd).cloned() else { continue };
                    drop(known);
                    match event.name {
                        Some(name) => on_change(Touched::Path(directory.join(name))),
                        // The directory itself changed, moved or was deleted, so every path in it may have changed.
                        None => on_change(Touched::Anything),
                    }
                }
            }
        });
        Ok(Self { watches, known })
    }

    /// Watches exactly the directories of these paths, and stops watching all others.
    ///
    /// Drift below a directory that cannot be watched is found at the next interval.
    pub fn set<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let wanted: BTreeSet<&Path> = paths.into_iter().filter_map(Path::parent).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let held: BTreeMap<PathBuf, WatchDescriptor> =
            known.iter().map(|(wd, path)| (path.clone(), wd.clone())).collect();
        for (directory, wd) in &held {
            if !wanted.contains(directory.as_path()) {
                // The kernel has already dropped the watch of a deleted directory, so an error is harmless.
                let _ = self.watches.remove(wd.clone());
                known.remove(wd);
            }
        }
        for directory in wanted.iter().filter(|directory| !held.contains_key(**directory)) {
            match self.watches.add(directory, MASK) {
                Ok(wd) => {
                    known.insert(wd, directory.to_path_buf());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "can't be watched; drift below it is found at the interval");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc, time::Duration};

    use super::*;

    #[test]
    fn changes_are_told_and_reads_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "one").unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut watch = FileWatch::new(move |touched| drop(sender.send(touched))).unwrap();
        watch.set([file.as_path()]);
        assert_eq!(fs::read(&file).unwrap(), b"one");
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
        fs::write(&file, "two").unwrap();
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).unwrap(), Touched::Path(file));
        watch.set([]);
    }
}
