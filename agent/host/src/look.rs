//! The read side of the machine's files. All paths are below a root that no link escapes.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a socket or a pipe.
    Other,
}

/// Device, inode and time of change of a file: another one is another file, or the same one changed.
pub type FileVersion = (u64, u64, i64, i64);

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Its permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size.
    pub size: u64,
    /// Device, inode and time of change: tells own writes from others'.
    pub version: FileVersion,
}

/// The read side of the files below a root.
#[derive(Debug, Clone)]
pub struct Look {
    root: Arc<OwnedFd>,
    path: PathBuf,
    whole: bool,
}

impl Look {
    /// Looks at the files below a root.
    ///
    /// # Errors
    /// When the root can't be opened.
    pub fn at(root: &Path) -> io::Result<Self> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root: Arc::new(fd), path: root.to_owned(), whole: root == Path::new("/") })
    }

    /// Looks at the files below a directory, whose links then lead no further; None where there is no directory.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn below(&self, path: &str) -> io::Result<Option<Self>> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { root: Arc::new(fd), path: self.real_path(path), whole: false })),
            Err(error) => absent(error),
        }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// Where a managed path really is, for messages and file events.
    pub fn real_path(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// Opens a path below the root; links are followed, but never out of it.
    pub(crate) fn open(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let relative = relative(path);
        let resolve =
            if self.whole { ResolveFlags::empty() } else { ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS };
        // The kernel may ask to try again when something was renamed meanwhile.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, relative, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The directory that holds a path, and the path's last part.
    ///
    /// # Errors
    /// When the directory can't be opened, or the path has no last part.
    pub(crate) fn parent(&self, path: &str) -> Result<(OwnedFd, OsString), Errno> {
        let (folder, name) = split(path).ok_or(Errno::INVAL)?;
        let fd = self.open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((fd, OsString::from(name)))
    }

    /// What stands at a path, without following a link there; None where there is nothing.
    ///
    /// # Errors
    /// When it can't be seen.
    pub fn meta(&self, path: &str) -> io::Result<Option<Meta>> {
        let fd = match self.open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => return absent(error),
        };
        Ok(Some(meta(&fd)?))
    }

    /// Whether anything is at a path, links followed.
    ///
    /// # Errors
    /// When it can't be seen.
    pub fn exists(&self, path: &str) -> io::Result<bool> {
        match self.open(path, OFlags::PATH, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) => absent::<()>(error).map(|_| false),
        }
    }

    /// The bytes and what is known of a file; None where there is nothing. A link is followed below the root.
    ///
    /// # Errors
    /// When it can't be read, or is no file.
    pub fn read(&self, path: &str) -> io::Result<Option<(Vec<u8>, Meta)>> {
        let Some((mut file, meta)) = self.file(path)? else { return Ok(None) };
        let size = usize::try_from(meta.size).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(size.min(64 << 20) + 1);
        // Most files come with one call; what is empty by its size (as in /proc), or grows, is read to its end.
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

    /// A file to read from, and what is known of it; None where there is nothing. A link is followed below the root.
    ///
    /// # Errors
    /// When it can't be opened, or is no file.
    pub fn file(&self, path: &str) -> io::Result<Option<(std::fs::File, Meta)>> {
        let fd = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) => return absent(error),
        };
        let meta = meta(&fd)?;
        if meta.kind != FileKind::File {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        Ok(Some((std::fs::File::from(fd), meta)))
    }

    /// What a link points to; None where there is no link.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn link(&self, path: &str) -> io::Result<Option<String>> {
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(error) => return absent(error),
        };
        match rustix::fs::readlinkat(&parent, &name, Vec::new()) {
            Ok(target) => Ok(Some(String::from_utf8_lossy(target.as_bytes()).into_owned())),
            Err(Errno::INVAL) => Ok(None),
            Err(error) => absent(error),
        }
    }

    /// The names in a directory, sorted; none where there is no directory.
    ///
    /// # Errors
    /// When it can't be read.
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

/// What is known of an open file.
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
        version,
    })
}

/// A path as it is opened: relative to the root.
pub(crate) fn relative(path: &str) -> &str {
    let trimmed = path.trim_start_matches('/');
    if trimmed.is_empty() { "." } else { trimmed }
}

/// The folder and the last part of a path.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    (!name.is_empty() && name != "." && name != "..").then_some((folder, name))
}

fn absent<T>(error: Errno) -> io::Result<Option<T>> {
    match error {
        Errno::NOENT | Errno::NOTDIR => Ok(None),
        other => Err(other.into()),
    }
}
