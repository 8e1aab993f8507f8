//! File events of the kernel: they report a change of a managed path at once.
//!
//! The kernel filters the events. Opened and read files are not among them: an agent that reads a thousand files to check
//! them would otherwise wake itself a thousand times.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    Config, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher,
    event::{EventKindMask, ModifyKind},
};

/// The events that mean a change in a directory.
const CHANGES: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::ALL_MODIFY)
    // A file that was written through a mapping reports its end alone.
    .union(EventKindMask::ACCESS_CLOSE);

/// A change that the kernel reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A path that may have changed.
    Path(PathBuf),
    /// An unknown change: the event queue overflowed, or a watched directory itself changed.
    Anything,
}

/// The watched directories. `true` for a directory that was moved or deleted since: its watch no longer belongs to its
/// path.
type Directories = Arc<Mutex<BTreeMap<PathBuf, bool>>>;

/// A watch on the directories that contain managed paths.
pub struct FileWatch {
    watcher: INotifyWatcher,
    directories: Directories,
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").finish_non_exhaustive()
    }
}

impl FileWatch {
    /// Starts a thread that calls `on_change` with each path that may have changed.
    ///
    /// The thread runs until the watch is dropped.
    ///
    /// # Errors
    /// When inotify cannot be initialized.
    pub fn new(on_change: impl Fn(Touched) + Send + 'static) -> io::Result<Self> {
        let directories = Directories::default();
        let known = Arc::clone(&directories);
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) => report(&event, &known, &on_change),
            Err(error) => {
                tracing::warn!(%error, "file events are incomplete; drift is found at the interval");
                on_change(Touched::Anything);
            }
        };
        let config = Config::default().with_event_kinds(CHANGES);
        let watcher = INotifyWatcher::new(handler, config).map_err(io_error)?;
        Ok(Self { watcher, directories })
    }

    /// Watches exactly the directories of these paths, and stops watching all others.
    ///
    /// Drift below a directory that cannot be watched is found at the next interval.
    pub fn set<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let wanted: BTreeSet<&Path> = paths.into_iter().filter_map(Path::parent).collect();
        let held = self.directories.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (directory, _) in held.iter().filter(|(directory, lost)| **lost || !wanted.contains(directory.as_path())) {
            // The kernel has already dropped the watch of a deleted directory, so an error is harmless.
            let _ = self.watcher.unwatch(directory);
            self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
        }
        for directory in wanted.iter().filter(|directory| held.get(**directory) != Some(&false)) {
            // Noted before the kernel knows it, so that no event is without its directory.
            self.directories.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_path_buf(), false);
            if let Err(error) = self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                self.directories.lock().unwrap_or_else(PoisonError::into_inner).remove(*directory);
                if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                    tracing::warn!(directory = %directory.display(), %error, "cannot watch; drift below it is found at the interval");
                }
            }
        }
    }
}

/// Reports the paths of an event.
fn report(event: &Event, directories: &Directories, on_change: &impl Fn(Touched)) {
    if event.need_rescan() || event.paths.is_empty() {
        return on_change(Touched::Anything);
    }
    for path in &event.paths {
        let mut directories = directories.lock().unwrap_or_else(PoisonError::into_inner);
        let itself = directories.get_mut(path);
        let is_directory = itself.is_some();
        if let Some(lost) = itself {
            *lost |= matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        }
        drop(directories);
        // Every path in a directory that changed itself may have changed.
        on_change(if is_directory { Touched::Anything } else { Touched::Path(path.clone()) });
    }
}

fn io_error(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        _ => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::mpsc::{self, Receiver},
        time::Duration,
    };

    use super::*;

    /// Time in which an event arrives.
    const SOON: Duration = Duration::from_secs(5);

    fn watch(paths: &[&Path]) -> (FileWatch, Receiver<Touched>) {
        let (sender, receiver) = mpsc::channel();
        let mut watch = FileWatch::new(move |touched| drop(sender.send(touched))).unwrap();
        watch.set(paths.iter().copied());
        (watch, receiver)
    }

    /// Waits for an event, and drops the others that come with it.
    fn next(receiver: &Receiver<Touched>, wanted: &Touched) {
        while receiver.recv_timeout(SOON).unwrap() != *wanted {}
    }

    #[test]
    fn changes_are_reported_and_reads_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "one").unwrap();
        let (mut watch, receiver) = watch(&[&file]);
        for _ in 0..100 {
            assert_eq!(fs::read(&file).unwrap(), b"one");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
        fs::write(&file, "two").unwrap();
        assert_eq!(receiver.recv_timeout(SOON).unwrap(), Touched::Path(file));
        watch.set([]);
    }

    #[test]
    fn each_kind_of_change_is_reported_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let [file, other] = ["a", "b"].map(|name| folder.path().join(name));
        let (_watch, receiver) = watch(&[&file]);
        let touched = Touched::Path(file.clone());
        fs::write(&file, "one").unwrap();
        next(&receiver, &touched);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        while receiver.recv_timeout(Duration::from_millis(200)).is_ok() {}
        fs::set_permissions(&file, permissions).unwrap();
        next(&receiver, &touched);
        while receiver.recv_timeout(Duration::from_millis(200)).is_ok() {}
        fs::rename(&file, &other).unwrap();
        next(&receiver, &touched);
        fs::rename(&other, &file).unwrap();
        next(&receiver, &touched);
        while receiver.recv_timeout(Duration::from_millis(200)).is_ok() {}
        fs::remove_file(&file).unwrap();
        next(&receiver, &touched);
    }

    #[test]
    fn directory_that_was_replaced_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("d");
        let file = directory.join("a");
        for replace in ["remove", "rename"] {
            fs::create_dir(&directory).unwrap();
            let (mut watch, receiver) = watch(&[&file]);
            if replace == "remove" {
                fs::remove_dir(&directory).unwrap();
            } else {
                fs::rename(&directory, folder.path().join("moved")).unwrap();
            }
            next(&receiver, &Touched::Anything);
            fs::create_dir(&directory).unwrap();
            watch.set([file.as_path()]);
            fs::write(&file, "one").unwrap();
            next(&receiver, &Touched::Path(file.clone()));
            fs::remove_dir_all(&directory).unwrap();
        }
    }

    #[test]
    fn directory_that_is_missing_or_no_longer_wanted_is_not_watched() {
        let folder = tempfile::tempdir().unwrap();
        let [one, missing] = ["one", "missing"].map(|name| folder.path().join(name).join("a"));
        fs::create_dir(folder.path().join("one")).unwrap();
        let (mut watch, receiver) = watch(&[&one, &missing]);
        assert_eq!(watch.directories.lock().unwrap().len(), 1);
        watch.set([missing.as_path()]);
        fs::write(&one, "one").unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
    }
}
