//! A watch for file events of the kernel (inotify). Through inotify, the agent notices a change of a managed path at
//! once.
//!
//! The watch reports changes of files, but not reads, because the agent's own checks read files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use notify::{
    Config, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher,
    event::{EventKindMask, ModifyKind},
};

/// The inotify events that report a change in a directory.
const CHANGES: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::ALL_MODIFY)
    // For a file that is written through a memory mapping, the kernel reports only the close.
    .union(EventKindMask::ACCESS_CLOSE);

/// A file event of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A path that may have changed.
    Path(PathBuf),
    /// Any watched path may have changed, because the kernel's event queue overflowed or a watched directory itself
    /// changed.
    Anything,
}

/// The device and the inode of each watched directory, by path; `None` if the kernel may have dropped the directory's
/// watch.
type Directories = Arc<Mutex<BTreeMap<PathBuf, Option<(u64, u64)>>>>;

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
    /// The thread runs until the `FileWatch` is dropped.
    ///
    /// # Errors
    /// Returns an error if inotify cannot be initialized.
    pub fn new(on_change: impl Fn(Touched) + Send + 'static) -> io::Result<Self> {
        let directories = Directories::default();
        let known = Arc::clone(&directories);
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) => report(&event, &known, &on_change),
            Err(error) => {
                tracing::warn!(%error, "file events are incomplete; drift is found at the reconcile interval");
                on_missed(&known, &on_change);
            }
        };
        let config = Config::default().with_event_kinds(CHANGES);
        let watcher = INotifyWatcher::new(handler, config).map_err(io_error)?;
        Ok(Self { watcher, directories })
    }

    /// Watches the directories that contain the given paths, and no other directories.
    ///
    /// Returns the newly watched directories, in which the agent may have missed earlier changes. If the kernel cannot
    /// watch a directory, the agent finds drift in the directory only at the next reconcile interval.
    pub fn set<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) -> BTreeSet<PathBuf> {
        let wanted: BTreeSet<&Path> = paths.into_iter().filter_map(Path::parent).collect();
        let held = self.lock().clone();
        // The path may lead to another directory now.
        let is_watched = |directory: &Path| {
            held.get(directory).is_some_and(|known| known.is_some() && *known == identity(directory))
        };
        for directory in held.keys().filter(|held| !wanted.contains(held.as_path()) || !is_watched(held)) {
            // The kernel has already dropped the watch of a deleted directory, so an error is harmless.
            let _ = self.watcher.unwatch(directory);
            self.lock().remove(directory);
        }
        let mut new = BTreeSet::new();
        for directory in wanted.into_iter().filter(|directory| !is_watched(directory)) {
            // Events can arrive before the call of `watch` returns.
            self.lock().insert(directory.to_owned(), identity(directory));
            match self.watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(new.insert(directory.to_owned())),
                Err(error) => {
                    self.lock().remove(directory);
                    if !matches!(error.kind, notify::ErrorKind::PathNotFound) {
                        tracing::warn!(directory = %directory.display(), %error, "cannot watch a directory; the agent checks it for drift at the reconcile interval");
                    }
                }
            }
        }
        new
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Option<(u64, u64)>>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the device and the inode of a directory. The function follows links, because inotify follows links.
fn identity(directory: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(directory).ok()?;
    Some((found.dev(), found.ino()))
}

/// Calls `on_change` with each path of a file event.
fn report(event: &Event, directories: &Directories, on_change: &impl Fn(Touched)) {
    if event.need_rescan() || event.paths.is_empty() {
        return on_missed(directories, on_change);
    }
    let goes = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    for path in &event.paths {
        let mut directories = directories.lock().unwrap_or_else(PoisonError::into_inner);
        let is_directory = directories.contains_key(path);
        if goes {
            // When a directory is removed or renamed, the watches on the directories below are lost.
            let below = directories.iter_mut().filter(|(directory, _)| directory.starts_with(path));
            below.for_each(|(_, identity)| *identity = None);
        }
        drop(directories);
        // After a change of a directory itself, every path in the directory may have changed.
        on_change(if is_directory { Touched::Anything } else { Touched::Path(path.clone()) });
    }
}

/// Calls `on_change` with `Touched::Anything`, because file events were missed. The kernel may also have dropped
/// watches.
fn on_missed(directories: &Directories, on_change: &impl Fn(Touched)) {
    let mut directories = directories.lock().unwrap_or_else(PoisonError::into_inner);
    directories.values_mut().for_each(|identity| *identity = None);
    drop(directories);
    on_change(Touched::Anything);
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

    /// The maximum time in which a file event must arrive.
    const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

    fn watch(paths: &[&Path]) -> (FileWatch, Receiver<Touched>) {
        let (sender, receiver) = mpsc::channel();
        let mut watch = FileWatch::new(move |touched| drop(sender.send(touched))).unwrap();
        watch.set(paths.iter().copied());
        (watch, receiver)
    }

    /// Waits for the wanted file event, and drops all other file events.
    fn next(receiver: &Receiver<Touched>, wanted: &Touched) {
        while receiver.recv_timeout(EVENT_TIMEOUT).unwrap() != *wanted {}
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
        assert_eq!(receiver.recv_timeout(EVENT_TIMEOUT).unwrap(), Touched::Path(file));
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
        let above = folder.path().join("p");
        let directory = above.join("d");
        let file = directory.join("a");
        let beside = above.join("b");
        for replace in ["remove", "rename", "rename above", "rename above and back"] {
            fs::create_dir_all(&directory).unwrap();
            // The parent directory is watched too, because the file `beside` is managed.
            let (mut watch, receiver) = watch(&[&file, &beside]);
            assert!(watch.set([file.as_path(), &beside]).is_empty());
            match replace {
                "remove" => fs::remove_dir(&directory).unwrap(),
                "rename" => fs::rename(&directory, folder.path().join("moved")).unwrap(),
                _ => fs::rename(&above, folder.path().join("moved")).unwrap(),
            }
            next(&receiver, &Touched::Anything);
            if replace == "rename above and back" {
                fs::rename(folder.path().join("moved"), &above).unwrap();
            }
            fs::create_dir_all(&directory).unwrap();
            assert!(watch.set([file.as_path(), &beside]).contains(&directory), "{replace}");
            fs::write(&file, "one").unwrap();
            next(&receiver, &Touched::Path(file.clone()));
            for name in ["p", "moved"] {
                let _ = fs::remove_dir_all(folder.path().join(name));
            }
        }
    }

    #[test]
    fn directory_that_a_link_led_to_is_watched_anywhere_else_after_a_switch() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, link] = ["one", "two", "current"].map(|name| folder.path().join(name));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let file = link.join("a");
        let (mut watch, receiver) = watch(&[&file]);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&two, &link).unwrap();
        assert_eq!(watch.set([file.as_path()]), BTreeSet::from([link.clone()]));
        fs::write(two.join("a"), "two").unwrap();
        next(&receiver, &Touched::Path(file));
    }

    #[test]
    fn missed_events_renew_each_watch() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let (mut watch, receiver) = watch(&[&file]);
        let rescan = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        report(&rescan, &watch.directories, &|touched| assert_eq!(touched, Touched::Anything));
        assert_eq!(watch.set([file.as_path()]), BTreeSet::from([folder.path().to_owned()]));
        fs::write(&file, "one").unwrap();
        next(&receiver, &Touched::Path(file));
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
