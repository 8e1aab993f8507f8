//! Write access to the machine's files. A file is replaced atomically: a crash leaves the old file or the new file.
//!
//! Guarantees:
//! - A staged file has its whole content, its mode and its owner before the rename to the final path.
//! - After [`FsWriter::sync_directories`], renames have reached the disk.
//! - A replaced file keeps its extended attributes.
//! - Every system call works on a directory that the path resolver opened, so a changed path cannot redirect the call.
//!
//! Assumptions: the file system renames a file in a directory atomically, as POSIX requires.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use super::{
    attributes::Attributes,
    reader::{FileKind, FileVersion, FsReader, is_missing, is_shared, meta},
    walk::Place,
    written::{self, WrittenFiles},
};

/// The minimum number of files for which one syncfs call is faster than an fsync call for each file.
const MANY: usize = 16;

/// The files below a root.
#[derive(Debug)]
pub struct Host(FsWriter);

impl Host {
    /// Opens the files below a directory.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be opened.
    pub fn at(root: &Path) -> io::Result<Self> {
        Ok(Self(FsWriter { reader: FsReader::at(root)?, written: Some(Arc::default()) }))
    }

    /// Returns a reader and the only writer of the files below the directory. Only code that holds a permit for changes
    /// gets the [`FsWriter`].
    pub fn split(self) -> (FsReader, FsWriter) {
        (self.0.reader.clone(), self.0)
    }
}

/// Write access to the files below a root directory.
#[derive(Debug)]
pub struct FsWriter {
    reader: FsReader,
    written: Option<Arc<WrittenFiles>>,
}

/// The permissions, the owner and the group of a file that the agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The permission bits of the file.
    pub mode: u32,
    /// The owner of the file; `None` for the agent's user.
    pub uid: Option<u32>,
    /// The group of the file; `None` for the agent's group.
    pub gid: Option<u32>,
}

/// A staged file: the agent has written the file under a temporary name, and later renames the file to its final path.
#[derive(Debug)]
#[must_use = "a staged file must be synced and put in place, or discarded"]
pub struct Staged {
    folder: OwnedFd,
    file: OwnedFd,
    temporary: OsString,
    name: OsString,
    /// The digest of the file's content; `None` for a download, which is written in pieces.
    digest: Option<[u8; 32]>,
    /// The final path of the file, without links.
    pub path: String,
    /// The path of the temporary file, which a `validate` command can read.
    pub temporary_path: std::path::PathBuf,
}

impl FsWriter {
    #[cfg(test)]
    pub(crate) fn new(reader: FsReader) -> Self {
        Self { reader, written: None }
    }

    /// Returns the records of the files that the writer has written.
    pub fn written(&self) -> Arc<WrittenFiles> {
        self.written.clone().unwrap_or_default()
    }

    /// Returns a writer for the files below a directory. The directory must be below the root of this writer. Returns
    /// `None` if the path is not a directory.
    ///
    /// The new writer returns an error for each link below the directory. The new writer does not record the files that
    /// it writes.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be opened.
    pub fn open_dir(&self, path: &str) -> io::Result<Option<Self>> {
        Ok(self.reader.open_dir(path)?.map(|reader| Self { reader, written: None }))
    }

    /// Returns a writer that gives an error for each link below a folder.
    #[must_use]
    pub fn plain_below(&self, folder: &str) -> Self {
        Self { reader: self.reader.plain_below(folder), written: self.written.clone() }
    }

    /// Returns the reader of the files below the same root.
    pub fn reader(&self) -> &FsReader {
        &self.reader
    }

    /// Writes a file under a temporary name in the folder of its final path, and sets its mode and owner.
    ///
    /// # Errors
    /// Returns an error if the directory or the file cannot be written.
    pub fn stage(&self, path: &str, content: &[u8], access: Access) -> io::Result<Staged> {
        self.stage_with(path, content, access, None)
    }

    /// Writes a file with extended attributes under a temporary name.
    ///
    /// If `attributes` is `None`, the new file gets the extended attributes of the old file.
    fn stage_with(
        &self,
        path: &str,
        content: &[u8],
        access: Access,
        attributes: Option<&Attributes>,
    ) -> io::Result<Staged> {
        let Place { folder, name, path: real, .. } = self.reader.end(path)?;
        let temporary = temporary_name(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o600));
        let file = match create() {
            // A temporary file remains from a crash before the rename.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty())?;
                create()?
            }
            other => other?,
        };
        let temporary_path = self.reader.real_path(&real).with_file_name(&temporary);
        let digest = self.written.as_ref().map(|_| written::digest(content));
        let staged = Staged { folder, file, temporary, name, digest, path: real, temporary_path };
        let written = write_all(&staged.file, content).and_then(|()| match attributes {
            Some(attributes) => set_permissions_with(&staged.file, access, Some(attributes)),
            None => set_permissions_with(&staged.file, access, old_attributes(&staged)?.as_ref()),
        });
        match written {
            Ok(()) => Ok(staged),
            Err(error) => {
                self.discard(staged);
                Err(error)
            }
        }
    }

    /// Opens the partial file of a download. An interrupted download may have written the beginning of the file.
    ///
    /// # Errors
    /// Returns an error if the directory or the file cannot be written.
    pub fn part(&self, path: &str) -> io::Result<Part> {
        let Place { folder, name, path: real, .. } = self.reader.end(path)?;
        let mut temporary = temporary_name(&name);
        temporary.push(".part");
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o600));
        // Other users can guess the name of the partial file, and may be able to write to the directory. So an existing
        // file is used only if it belongs to the agent's user.
        let known = open(flags).ok().filter(|file| is_own(file));
        let file = match known {
            Some(file) => file,
            None => {
                match rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
                open(flags | OFlags::CREATE | OFlags::EXCL)?
            }
        };
        let temporary_path = self.reader.real_path(&real).with_file_name(&temporary);
        let file_of = file.try_clone()?;
        let staged = Staged { folder, file: file_of, temporary, name, digest: None, path: real, temporary_path };
        Ok(Part { staged, file: std::fs::File::from(file) })
    }

    /// Removes the partial file of a download, so that the next attempt fetches the whole file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be removed.
    pub fn drop_part(&self, path: &str) -> io::Result<()> {
        let Ok(Place { folder, name, .. }) = self.reader.end(path) else { return Ok(()) };
        let mut temporary = temporary_name(&name);
        temporary.push(".part");
        match rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Flushes staged files to the disk, and then renames the files to their final paths.
    ///
    /// # Errors
    /// Returns an error if a flush or a rename fails. After an error, some of the staged files may already be at their
    /// final paths.
    pub fn commit_all(&self, staged: Vec<Staged>) -> io::Result<()> {
        self.sync(&staged)?;
        let committed = staged.into_iter().map(|one| self.commit(one)).collect::<io::Result<Vec<_>>>()?;
        self.sync_directories(&committed)
    }

    /// Flushes staged files to the disk.
    ///
    /// # Errors
    /// Returns an error if a flush to the disk fails.
    pub fn sync(&self, staged: &[Staged]) -> io::Result<()> {
        if staged.len() < MANY {
            for one in staged {
                rustix::fs::fsync(&one.file)?;
            }
            return Ok(());
        }
        let mut devices = std::collections::BTreeSet::new();
        for one in staged {
            if devices.insert(meta(&one.file)?.version.0) {
                rustix::fs::syncfs(&one.file)?;
            }
        }
        Ok(())
    }

    /// Renames a staged file to its final path.
    ///
    /// # Errors
    /// Returns an error if the rename fails, so that the path still contains the old file.
    pub fn commit(&self, staged: Staged) -> io::Result<Committed> {
        if let (Some(written), Some(digest)) = (&self.written, staged.digest) {
            written.note(self.reader.real_path(&staged.path), &staged.file, digest);
        }
        let committed = match is_shared(&staged.folder) {
            Ok(true) => commit_shared(&staged),
            Ok(false) => rustix::fs::renameat(&staged.folder, &staged.temporary, &staged.folder, &staged.name)
                .map_err(io::Error::from),
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => Ok(Committed { folder: staged.folder }),
            Err(error) => {
                self.discard(staged);
                Err(error)
            }
        }
    }

    /// Discards a staged file: removes the temporary file, and does not change the file at the final path.
    pub fn discard(&self, staged: Staged) {
        // A failure is harmless, because the next write to the path removes the temporary file.
        let _ = rustix::fs::unlinkat(&staged.folder, &staged.temporary, AtFlags::empty());
    }

    /// Flushes the directories of renamed files to the disk, so that a crash does not undo the renames.
    ///
    /// # Errors
    /// Returns an error if a flush to the disk fails.
    pub fn sync_directories(&self, committed: &[Committed]) -> io::Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for one in committed {
            let version = meta(&one.folder)?.version;
            if seen.insert((version.0, version.1)) {
                sync_directory(&one.folder)?;
            }
        }
        Ok(())
    }

    /// Removes the temporary files that a crash has left beside a path. The partial file of an interrupted download is
    /// kept.
    ///
    /// # Errors
    /// Returns an error if a file cannot be removed.
    pub fn clear_temporary(&self, path: &str) -> io::Result<()> {
        let Ok(Place { folder, name, .. }) = self.reader.end(path) else { return Ok(()) };
        let temporary = temporary_name(&name);
        remove_at(&folder, &room_name(&temporary), 0)?;
        match rustix::fs::unlinkat(&folder, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a directory and its missing parents. Returns the paths of the created directories.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be created, or a parent is not a directory.
    pub fn make_directory(&self, path: &str, mode: u32) -> io::Result<Vec<String>> {
        let mut made = Vec::new();
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push('/');
            so_far.push_str(part);
            if self.reader.exists(&so_far)? {
                continue;
            }
            let Place { folder, name, .. } = self.reader.parent(&so_far)?;
            match rustix::fs::mkdirat(&folder, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(&folder, &name, flags, Mode::empty())?;
                    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
                    sync_directory(&folder)?;
                    made.push(so_far.clone());
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(made)
    }

    /// Sets mode and owner of a file. A link at the end of the path is followed.
    ///
    /// # Errors
    /// Returns an error if the mode or the owner cannot be set. Also returns an error if the path may be a hard link
    /// that another user created.
    pub fn set_permissions(&self, path: &str, access: Access) -> io::Result<()> {
        self.set_permissions_if(path, access, None)
    }

    /// Sets the mode and the owner of a file if the file still has the version `expects`. If `expects` is `None`, the
    /// file may have any version.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`FsWriter::set_permissions`], and if the version of the file is not
    /// `expects`.
    pub fn set_permissions_if(&self, path: &str, access: Access, expects: Option<FileVersion>) -> io::Result<()> {
        let place = self.reader.end(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.folder, &place.name, flags, Mode::empty())?;
        let found = meta(&fd)?;
        let same = |device, inode| (device, inode) == (found.version.0, found.version.1);
        if expects.is_some_and(|one| !same(one.0, one.1)) || place.found.is_some_and(|one| !same(one.0, one.1)) {
            return Err(io::Error::other("the file was replaced after its check"));
        }
        let folder = meta(&place.folder)?;
        let own = found.uid == folder.uid && folder.uid != 0;
        if found.kind != FileKind::Directory && found.names > 1 && !own && is_shared(&place.folder)? {
            return Err(io::Error::other(format!(
                "cannot set mode and owner: the file has {} hard links, and users can write to its folder, so the \
                 path may lead to a foreign file; replace the hard link by a copy of the file",
                found.names
            )));
        }
        set_permissions_with(&fd, access, None)
    }

    /// Creates a symbolic link. An existing link or file is replaced atomically.
    ///
    /// # Errors
    /// Returns an error if the link cannot be created.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let Place { folder, name, .. } = self.reader.parent(path)?;
        let temporary = temporary_name(&name);
        match rustix::fs::symlinkat(target, &folder, &temporary) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty())?;
                rustix::fs::symlinkat(target, &folder, &temporary)?;
            }
            other => other?,
        }
        if let Err(error) = rustix::fs::renameat(&folder, &temporary, &folder, &name) {
            let _ = rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty());
            return Err(error.into());
        }
        sync_directory(&folder)
    }

    /// Removes a file, a link, or a directory with its content. The target of a link is kept.
    ///
    /// # Errors
    /// Returns an error if a file or a directory cannot be removed.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let Place { folder, name, .. } = match self.reader.parent(path) {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        remove_at(&folder, &name, 0)?;
        sync_directory(&folder)
    }

    /// Removes a directory, if the directory is empty. Returns true if the directory no longer exists.
    ///
    /// # Errors
    /// Returns an error if an empty directory cannot be removed.
    pub fn remove_empty_directory(&self, path: &str) -> io::Result<bool> {
        let Place { folder, name, .. } = self.reader.parent(path)?;
        match rustix::fs::unlinkat(&folder, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the content of one file, and waits until the new file is on disk.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, renamed or flushed to the disk. If only the last flush fails,
    /// the path contains the new file. After any other error, the path still contains the old file.
    pub fn replace(&self, path: &str, content: &[u8], access: Access) -> io::Result<()> {
        self.replace_with(path, content, access, None)
    }

    /// Restores the earlier content and the earlier extended attributes of a file.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`FsWriter::replace`].
    pub fn restore(&self, path: &str, content: &[u8], access: Access, attributes: &Attributes) -> io::Result<()> {
        self.replace_with(path, content, access, Some(attributes))
    }

    fn replace_with(
        &self,
        path: &str,
        content: &[u8],
        access: Access,
        attributes: Option<&Attributes>,
    ) -> io::Result<()> {
        let staged = self.stage_with(path, content, access, attributes)?;
        if let Err(error) = self.sync(std::slice::from_ref(&staged)) {
            self.discard(staged);
            return Err(error);
        }
        let committed = self.commit(staged)?;
        self.sync_directories(&[committed])
    }
}

/// A partial file: a download that is written in pieces. After an interrupted download, the next attempt appends the
/// missing bytes.
#[derive(Debug)]
#[must_use = "it must be put in place, or left for the next attempt"]
pub struct Part {
    staged: Staged,
    /// The open partial file. The agent appends bytes to the partial file, and can read bytes at any offset.
    pub file: std::fs::File,
}

impl Part {
    /// Sets permissions and owner of a completely downloaded file. After the call, the caller can rename the downloaded
    /// file to its final path.
    ///
    /// # Errors
    /// Returns an error if permissions or owner cannot be set.
    pub fn finish(self, access: Access) -> io::Result<Staged> {
        set_permissions_with(&self.staged.file, access, old_attributes(&self.staged)?.as_ref())?;
        Ok(self.staged)
    }

    /// Empties the partial file, so that the download starts from the first byte.
    ///
    /// # Errors
    /// Returns an error if the file cannot be emptied.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)
    }
}

/// Returns true if only the agent's user can write to the file.
fn is_own(file: impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
            && stat.st_nlink == 1
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_mode & 0o022 == 0
    })
}

/// A file that was renamed to its final path. A crash can undo the rename until the directory is flushed to the disk.
#[derive(Debug)]
#[must_use = "the directory must be brought to the disk"]
pub struct Committed {
    folder: OwnedFd,
}

fn temporary_name(name: &std::ffi::OsStr) -> OsString {
    let digest = Sha256::digest(name.as_encoded_bytes());
    OsString::from(format!(".towpath-{}", hex::encode(&digest[..8])))
}

fn write_all(fd: &OwnedFd, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::from(fd.try_clone()?);
    file.write_all(content)
}

/// Returns the extended attributes of the old file at the final path of a staged file. Returns `None` if the old file
/// is missing or unreadable.
fn old_attributes(staged: &Staged) -> io::Result<Option<Attributes>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&staged.folder, &staged.name, flags, Mode::empty()) {
        Ok(old) if meta(&old)?.kind == FileKind::File => Attributes::of(&old).map(Some),
        // A new file gets no attributes from a special file or from a file that cannot be read.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Returns the name of the private directory from which [`place_shared`] renames a file.
fn room_name(temporary: &std::ffi::OsStr) -> OsString {
    let mut room = temporary.to_owned();
    room.push(".place");
    room
}

/// Renames a staged file in a directory where other users can write.
///
/// Another user could replace the temporary file in the shared directory. The agent links the open file into a private
/// directory, and renames the file from the private directory.
fn commit_shared(staged: &Staged) -> io::Result<()> {
    let room = room_name(&staged.temporary);
    remove_at(&staged.folder, &room, 0)?;
    rustix::fs::mkdirat(&staged.folder, &room, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(&staged.folder, &room, flags, Mode::empty())?;
    let found = meta(&inner)?;
    if found.uid != rustix::process::geteuid().as_raw() || found.mode & 0o077 != 0 {
        return Err(io::Error::other("another user has changed the folder of the file"));
    }
    let committed = link_open(&staged.file, &inner)
        .and_then(|()| Ok(rustix::fs::renameat(&inner, "file", &staged.folder, &staged.name)?));
    // Errors are ignored, because the next write to the path removes the private directory.
    let _ = rustix::fs::unlinkat(&inner, "file", AtFlags::empty());
    let _ = rustix::fs::unlinkat(&staged.folder, &room, AtFlags::REMOVEDIR);
    let _ = rustix::fs::unlinkat(&staged.folder, &staged.temporary, AtFlags::empty());
    committed
}

/// Creates a hard link with the name `file` in a directory. The link leads to an open file.
fn link_open(file: &OwnedFd, folder: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = match rustix::fs::linkat(file, "", folder, "file", AtFlags::EMPTY_PATH) {
        // AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH; without this capability, the kernel returns ENOENT. For a file
        // without a remaining name, both calls return ENOENT.
        Err(Errno::NOENT) => rustix::fs::linkat(rustix::fs::CWD, open, folder, "file", AtFlags::SYMLINK_FOLLOW),
        other => other,
    };
    linked.map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("cannot link the new file: {error}")))
}

fn set_permissions_with(fd: impl AsFd, access: Access, attributes: Option<&Attributes>) -> io::Result<()> {
    if access.uid.is_some() || access.gid.is_some() {
        rustix::fs::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))?;
    }
    if let Some(attributes) = attributes {
        attributes.give(&fd)?;
    }
    // The mode is set last, because chown clears the setuid and setgid bits, and an ACL changes the group bits.
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(access.mode))?)
}

fn sync_directory(folder: impl AsFd) -> io::Result<()> {
    let fd = rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(fd)?)
}

fn mounted(name: &std::ffi::OsStr) -> io::Error {
    let name = name.to_string_lossy();
    io::Error::other(format!("a file system is mounted at {name}; unmount the file system first"))
}

fn remove_at(folder: &OwnedFd, name: &std::ffi::OsStr, depth: usize) -> io::Result<()> {
    if depth > 256 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested more than 256 deep"));
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // A mount point is another file system, which a removal must not touch.
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let inner = match rustix::fs::openat2(folder, name, flags, Mode::empty(), resolve) {
        Ok(inner) => inner,
        Err(Errno::NOSYS) => {
            let inner = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            if meta(&inner)?.version.0 != meta(folder)?.version.0 {
                return Err(mounted(name));
            }
            inner
        }
        Err(Errno::NOTDIR) => return Err(Errno::PERM.into()),
        Err(Errno::XDEV) => return Err(mounted(name)),
        Err(error) => return Err(error.into()),
    };
    if meta(&inner)?.kind != FileKind::Directory {
        return Err(Errno::PERM.into());
    }
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            use std::os::unix::ffi::OsStrExt as _;
            remove_at(&inner, std::ffi::OsStr::from_bytes(bytes), depth + 1)?;
        }
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
