//! Read-only access to the machine's files. All paths are below a root directory, and links cannot lead out of the root
//! directory.
//!
//! A path without links is resolved by one system call. A path with links is resolved component by component, by the
//! module [`walk`](super::walk).

use std::{
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    attributes::Attributes,
    walk::{self, Place, Rules},
};

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A special file: a device, a socket or a pipe.
    Other,
}

/// The version of a file consists of its device, its inode and its change time (seconds and nanoseconds). Each change
/// of the file gives the file a new version.
pub type FileVersion = (u64, u64, i64, i64);

/// The metadata of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// The kind of the file.
    pub kind: FileKind,
    /// The permission bits of the file.
    pub mode: u32,
    /// The user id of the owner.
    pub uid: u32,
    /// The id of the file's group.
    pub gid: u32,
    /// The size of the file, in bytes.
    pub size: u64,
    /// The number of hard links to the file.
    pub names: u64,
    /// The version of the file. A different version means that another program has changed the file.
    pub version: FileVersion,
}

/// Read-only access to the files below a root directory.
#[derive(Debug, Clone)]
pub struct FsReader {
    root: Arc<OwnedFd>,
    path: PathBuf,
    whole: bool,
    plain_below: Option<Arc<str>>,
}

impl FsReader {
    /// Creates a reader of the files below a directory.
    ///
    /// # Errors
    /// Returns an error if the root cannot be opened.
    pub fn at(root: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(fd), path: root.to_owned(), whole: root == Path::new("/"), plain_below: None })
    }

    /// Creates a reader of the files below a directory. The directory must be below the root of this reader. Returns
    /// `None` if the path is not a directory.
    ///
    /// The new reader returns an error for each link below the directory.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be opened.
    pub fn open_dir(&self, path: &str) -> io::Result<Option<Self>> {
        let path_of = self.real_path(path);
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                Ok(Some(Self { root: Arc::new(fd), path: path_of, whole: false, plain_below: Some(Arc::from("")) }))
            }
            Err(error) => absent(error),
        }
    }

    /// Returns a reader that gives an error for each link below a folder. The reader follows links in the path that
    /// leads to the folder.
    #[must_use]
    pub fn plain_below(&self, folder: &str) -> Self {
        Self { plain_below: Some(Arc::from(folder)), ..self.clone() }
    }

    /// Returns the path of the root.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a managed file on the host: the root directory, followed by the managed path.
    pub fn real_path(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Opens a path below the root. A link at the end of the path is followed, unless `flags` contains `NOFOLLOW`.
    pub(crate) fn open(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        if let Some(fd) = self.open_plain(path, flags, mode)? {
            return Ok(fd);
        }
        let place = walk::walk(&self.root, path, self.rules(!flags.contains(OFlags::NOFOLLOW)))?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.folder, &place.name, flags, mode)?;
        if let Some(found) = place.found {
            let stat = rustix::fs::fstat(&fd)?;
            if found != (stat.st_dev, stat.st_ino) {
                return Err(Errno::AGAIN.into());
            }
        }
        Ok(fd)
    }

    /// Opens a path without links by one system call. Returns `None` if the path has links or the kernel does not
    /// support openat2.
    fn open_plain(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<Option<OwnedFd>> {
        let inside = if self.whole { ResolveFlags::empty() } else { ResolveFlags::IN_ROOT };
        let resolve = inside | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // The kernel returns EAGAIN if a file is renamed while the kernel resolves the path.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, relative(path), flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Some container runtimes return EPERM for a system call that the runtime does not know.
                Err(Errno::LOOP | Errno::NOSYS | Errno::PERM) => return Ok(None),
                other => return Ok(Some(other?)),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens the parent directory of a path. A link at the end of the path is not followed.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be opened, or the path has no last component.
    pub(crate) fn parent(&self, path: &str) -> io::Result<Place> {
        let (folder, name) = split(path).ok_or_else(nameless)?;
        match self.open_plain(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())? {
            Some(folder) => Ok(Place { folder, name: name.into(), path: clean(path), found: None }),
            None => walk::walk(&self.root, path.trim_end_matches('/'), self.rules(false)),
        }
    }

    /// Opens the directory that contains the file to which a path leads. A link at the end of the path is followed.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be opened, or a link is rejected.
    pub(crate) fn end(&self, path: &str) -> io::Result<Place> {
        let place = self.parent(path)?;
        match rustix::fs::readlinkat(&place.folder, &place.name, Vec::new()) {
            Ok(_) => walk::walk(&self.root, path.trim_end_matches('/'), self.rules(true)),
            Err(_) => Ok(place),
        }
    }

    fn rules(&self, last: bool) -> Rules<'_> {
        Rules { plain_below: self.plain_below.as_deref(), last }
    }

    /// Resolves the links in a path, and returns the path without links. Components of the path that do not exist are
    /// returned unchanged.
    ///
    /// If `last` is true, a link at the end of the path is also resolved.
    ///
    /// # Errors
    /// Returns an error if a link is rejected.
    pub fn resolved(&self, path: &str, last: bool) -> io::Result<String> {
        let place = if last { self.end(path) } else { self.parent(path) };
        match place {
            Ok(place) => Ok(place.path),
            Err(error) if is_missing(&error) => walk::real(&self.root, path.trim_end_matches('/'), self.rules(last)),
            Err(error) => Err(error),
        }
    }

    /// Returns true if only root and the agent's user can write to the directories above a path.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be opened.
    pub fn is_private(&self, path: &str) -> io::Result<bool> {
        let real = self.resolved(path, true)?;
        for (at, _) in real.match_indices('/') {
            let folder = self.open(&real[..at], OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            if is_shared(&folder)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the metadata of a path, without following a link at the end. Returns `None` if the path does not exist.
    ///
    /// # Errors
    /// Returns an error if the path exists but cannot be opened.
    pub fn meta(&self, path: &str) -> io::Result<Option<Meta>> {
        let fd = match self.open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => return absent(error),
        };
        Ok(Some(meta(&fd)?))
    }

    /// Returns the metadata of a path, or of the link's target if the path is a link. Returns `None` if the target does
    /// not exist.
    ///
    /// # Errors
    /// Returns an error if a link is rejected, or if the path exists but cannot be opened.
    pub fn target(&self, path: &str) -> io::Result<Option<Meta>> {
        match self.open(path, OFlags::PATH, Mode::empty()) {
            Ok(fd) => Ok(Some(meta(&fd)?)),
            Err(error) => absent(error),
        }
    }

    /// Returns true if a path exists. Returns false for a link without a target, because the function follows links.
    ///
    /// # Errors
    /// Returns an error if a directory in the path cannot be opened.
    pub fn exists(&self, path: &str) -> io::Result<bool> {
        match self.open(path, OFlags::PATH, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) => absent::<()>(error).map(|_| false),
        }
    }

    /// Reads the content and the metadata of a file; `None` if the file does not exist. Links are followed.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or is not a regular file.
    pub fn read(&self, path: &str) -> io::Result<Option<(Vec<u8>, Meta)>> {
        let Some((mut file, meta)) = self.file(path)? else { return Ok(None) };
        let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(size.min(64 << 20) + 1);
        // One read is enough for most files. A file of size 0 (as in /proc) and a growing file need further reads.
        if size > 0 && size < 64 << 20 {
            bytes.resize(size + 1, 0);
            let got = file.read(&mut bytes)?;
            bytes.truncate(got);
            if got == size {
                return Ok(Some((bytes, meta)));
            }
        }
        file.read_to_end(&mut bytes)?;
        Ok(Some((bytes, meta)))
    }

    /// Returns the extended attributes that the file keeps when the agent replaces it. Returns an empty set if the file
    /// does not exist.
    ///
    /// # Errors
    /// Returns an error if the attributes cannot be read.
    pub fn attributes(&self, path: &str) -> io::Result<Attributes> {
        match self.file(path)? {
            Some((file, _)) => Attributes::of(file),
            None => Ok(Attributes::default()),
        }
    }

    /// Opens a file for reading, and returns the file with its metadata; `None` if the file does not exist. Links are
    /// followed.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, or is not a regular file.
    pub fn file(&self, path: &str) -> io::Result<Option<(std::fs::File, Meta)>> {
        let fd = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => return absent(error),
        };
        let meta = meta(&fd)?;
        if meta.kind != FileKind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Some((std::fs::File::from(fd), meta)))
    }

    /// Returns the target of a symbolic link; `None` if the path is not a link.
    ///
    /// # Errors
    /// Returns an error if the link cannot be read.
    pub fn link(&self, path: &str) -> io::Result<Option<String>> {
        let place = match self.parent(path) {
            Ok(found) => found,
            Err(error) => return absent(error),
        };
        match rustix::fs::readlinkat(&place.folder, &place.name, Vec::new()) {
            Ok(target) => Ok(Some(String::from_utf8_lossy(target.as_bytes()).into_owned())),
            Err(Errno::INVAL) => Ok(None),
            Err(error) => absent(error.into()),
        }
    }

    /// Returns the sorted names of the files in a directory; an empty list if the directory does not exist.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be read.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let fd = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => return absent::<()>(error).map(|_| Vec::new()),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Returns the metadata of an open file.
pub(crate) fn meta(fd: impl AsFd) -> io::Result<Meta> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    let version = (stat.st_dev, stat.st_ino, stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0));
    Ok(Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        names: stat.st_nlink,
        version,
    })
}

/// Makes a path relative to the root, as openat2 requires.
pub(crate) fn relative(path: &str) -> &str {
    let trimmed = path.trim_start_matches('/');
    if trimmed.is_empty() { "." } else { trimmed }
}

/// Splits a path into a folder and a last component. Returns `None` if the last component is empty, `.` or `..`.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    (!name.is_empty() && name != "." && name != "..").then_some((folder, name))
}

/// Returns a path without repeated slashes and `.` components, for messages and for the journal.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

/// Returns true if a user other than root and the agent's user can write to a directory. The result is also true for a
/// directory with the sticky bit.
pub(crate) fn is_shared(folder: impl AsFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(folder)?;
    let own = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    Ok(!own || stat.st_mode & 0o022 != 0)
}

fn nameless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name")
}

/// Returns true if the error means that a path does not exist.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

fn absent<T>(error: io::Error) -> io::Result<Option<T>> {
    if is_missing(&error) { Ok(None) } else { Err(error) }
}
