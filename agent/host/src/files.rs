//! The write side: files are replaced atomically, and a crash at any instruction leaves the old one or the new.
//!
//! Guarantees: a staged file is complete, with its mode and owner, before it is renamed; after [`Hand::settle`]
//! renames have reached the disk. A replaced file keeps its extended attributes. Every call works in a directory that
//! the resolver of paths has opened, never by a path.
//! Assumptions: rename within a directory is atomic, which POSIX says.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::{
    FileVersion,
    attributes::Attributes,
    look::{FileKind, Look, is_missing, is_shared, meta},
    walk::Place,
};

/// From how many files on one call to sync their whole file system costs less than one for each.
const MANY: usize = 16;

/// The write side of the files below a root.
#[derive(Debug, Clone)]
pub struct Hand {
    look: Look,
}

/// Permissions and owner of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The permissions.
    pub mode: u32,
    /// The owner; None: as the agent.
    pub uid: Option<u32>,
    /// The group; None: as the agent.
    pub gid: Option<u32>,
}

/// A file that is written but not yet in place.
#[derive(Debug)]
#[must_use = "a staged file must be synced and put in place, or discarded"]
pub struct Staged {
    folder: OwnedFd,
    file: OwnedFd,
    temporary: OsString,
    name: OsString,
    /// The path that it will have, without links.
    pub path: String,
    /// Where it is until then, as a process would open it.
    pub temporary_path: std::path::PathBuf,
}

impl Hand {
    /// The write side of what is looked at. Lend it only to who holds a permit.
    pub fn new(look: Look) -> Self {
        Self { look }
    }

    /// Returns the same root, with links refused below a folder.
    #[must_use]
    pub fn plain_below(&self, folder: &str) -> Self {
        Self { look: self.look.plain_below(folder) }
    }

    /// The read side.
    pub fn look(&self) -> &Look {
        &self.look
    }

    /// Writes a file beside its place, with its mode and owner.
    ///
    /// # Errors
    /// When the directory or the file can't be written.
    pub fn stage(&self, path: &str, content: &[u8], access: Access) -> io::Result<Staged> {
        self.stage_with(path, content, access, None)
    }

    /// Writes a file beside its place; None: with the extended attributes of the file that is there.
    fn stage_with(
        &self,
        path: &str,
        content: &[u8],
        access: Access,
        attributes: Option<&Attributes>,
    ) -> io::Result<Staged> {
        let Place { folder, name, path: real, .. } = self.look.end(path)?;
        let temporary = temporary_name(&name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o600));
        let file = match create() {
            // Left by a crash: it was never in place.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty())?;
                create()?
            }
            other => other?,
        };
        let temporary_path = self.look.real_path(&real).with_file_name(&temporary);
        let staged = Staged { folder, file, temporary, name, path: real, temporary_path };
        let written = write_all(&staged.file, content).and_then(|()| match attributes {
            Some(attributes) => grant_with(&staged.file, access, Some(attributes)),
            None => grant_with(&staged.file, access, old_attributes(&staged)?.as_ref()),
        });
        match written {
            Ok(()) => Ok(staged),
            Err(error) => {
                self.discard(staged);
                Err(error)
            }
        }
    }

    /// A file that is written piece by piece beside its place, and goes on where an earlier attempt broke off.
    ///
    /// # Errors
    /// When the directory or the file can't be written.
    pub fn part(&self, path: &str) -> io::Result<Part> {
        let Place { folder, name, path: real, .. } = self.look.end(path)?;
        let mut temporary = temporary_name(&name);
        temporary.push(".part");
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(&folder, &temporary, flags, Mode::from_raw_mode(0o600));
        // Only what this agent has begun is gone on with: its name can be told by whoever may write there.
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
        let temporary_path = self.look.real_path(&real).with_file_name(&temporary);
        let staged = Staged { folder, file: file.try_clone()?, temporary, name, path: real, temporary_path };
        Ok(Part { staged, file: std::fs::File::from(file) })
    }

    /// Removes what was begun of a file and will not be gone on with.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn drop_part(&self, path: &str) -> io::Result<()> {
        let Ok(Place { folder, name, .. }) = self.look.end(path) else { return Ok(()) };
        let mut temporary = temporary_name(&name);
        temporary.push(".part");
        match rustix::fs::unlinkat(&folder, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts whole files in their places: all are brought to the disk before the first is.
    ///
    /// # Errors
    /// When a step fails; old files then still stand, or new ones do.
    pub fn place_all(&self, staged: Vec<Staged>) -> io::Result<()> {
        self.sync(&staged)?;
        let placed = staged.into_iter().map(|one| self.place(one)).collect::<io::Result<Vec<_>>>()?;
        self.settle(&placed)
    }

    /// Brings staged files to the disk.
    ///
    /// # Errors
    /// When the disk does not take them.
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

    /// Puts a staged file in its place.
    ///
    /// # Errors
    /// When it can't be renamed; the old file then still stands.
    pub fn place(&self, staged: Staged) -> io::Result<Placed> {
        let placed = match is_shared(&staged.folder) {
            Ok(true) => place_shared(&staged),
            Ok(false) => rustix::fs::renameat(&staged.folder, &staged.temporary, &staged.folder, &staged.name)
                .map_err(io::Error::from),
            Err(error) => Err(error),
        };
        match placed {
            Ok(()) => Ok(Placed { folder: staged.folder }),
            Err(error) => {
                self.discard(staged);
                Err(error)
            }
        }
    }

    /// Removes a staged file that will not be put in place.
    pub fn discard(&self, staged: Staged) {
        // Nothing is lost when it stays: the next write to its place replaces it.
        let _ = rustix::fs::unlinkat(&staged.folder, &staged.temporary, AtFlags::empty());
    }

    /// Brings the directories of placed files to the disk.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn settle(&self, placed: &[Placed]) -> io::Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for one in placed {
            let version = meta(&one.folder)?.version;
            if seen.insert((version.0, version.1)) {
                sync_directory(&one.folder)?;
            }
        }
        Ok(())
    }

    /// Removes what a crash left beside a path.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn clear_temporary(&self, path: &str) -> io::Result<()> {
        let Ok(Place { folder, name, .. }) = self.look.end(path) else { return Ok(()) };
        let temporary = temporary_name(&name);
        remove_at(&folder, &room_name(&temporary), 0)?;
        match rustix::fs::unlinkat(&folder, temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory and its missing parents; gives the paths that were made.
    ///
    /// # Errors
    /// When one can't be made, or something else is in the way.
    pub fn make_directory(&self, path: &str, mode: u32) -> io::Result<Vec<String>> {
        let mut made = Vec::new();
        let mut so_far = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            so_far.push('/');
            so_far.push_str(part);
            if self.look.exists(&so_far)? {
                continue;
            }
            let Place { folder, name, .. } = self.look.parent(&so_far)?;
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

    /// Sets mode and owner of what is at a path, or at the end of a link there.
    ///
    /// # Errors
    /// When they can't be set, or when a user may have linked another user's file to that name.
    pub fn grant(&self, path: &str, access: Access) -> io::Result<()> {
        self.grant_if(path, access, None)
    }

    /// Sets mode and owner, if the file is still the one that was looked at; None: of any file.
    ///
    /// # Errors
    /// As [`Hand::grant`]; when it is another file.
    pub fn grant_if(&self, path: &str, access: Access, expects: Option<FileVersion>) -> io::Result<()> {
        let place = self.look.end(path)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&place.folder, &place.name, flags, Mode::empty())?;
        let found = meta(&fd)?;
        let same = |device, inode| (device, inode) == (found.version.0, found.version.1);
        if expects.is_some_and(|one| !same(one.0, one.1)) || place.found.is_some_and(|one| !same(one.0, one.1)) {
            return Err(io::Error::other("it was replaced since it was looked at"));
        }
        let folder = meta(&place.folder)?;
        let own = found.uid == folder.uid && folder.uid != 0;
        if found.kind != FileKind::Directory && found.names > 1 && !own && is_shared(&place.folder)? {
            return Err(io::Error::other(format!(
                "cannot set its mode and owner: it has {} names, and users can write in its folder, so it may be a \
                 file of another folder; copy it, and remove this name",
                found.names
            )));
        }
        grant_with(&fd, access, None)
    }

    /// Makes a symbolic link, replacing another link or file atomically.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let Place { folder, name, .. } = self.look.parent(path)?;
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

    /// Removes a file, a link, or a directory with all that is in it. Links are removed, never followed.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let Place { folder, name, .. } = match self.look.parent(path) {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        remove_at(&folder, &name, 0)?;
        sync_directory(&folder)
    }

    /// Removes a directory that is empty; leaves others alone. Says whether it is gone.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_empty_directory(&self, path: &str) -> io::Result<bool> {
        let Place { folder, name, .. } = self.look.parent(path)?;
        match rustix::fs::unlinkat(&folder, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces one file: stage, sync, rename, sync of the directory.
    ///
    /// # Errors
    /// When a step fails; the old file then still stands.
    pub fn replace(&self, path: &str, content: &[u8], access: Access) -> io::Result<()> {
        self.replace_with(path, content, access, None)
    }

    /// Replaces one file by what it was before, with the extended attributes that it had.
    ///
    /// # Errors
    /// As [`Hand::replace`].
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
        let placed = self.place(staged)?;
        self.settle(&[placed])
    }
}

/// A file of which a part is written. What is not put in place is found again by the next attempt.
#[derive(Debug)]
#[must_use = "it must be put in place, or left for the next attempt"]
pub struct Part {
    staged: Staged,
    /// Its bytes so far: written at their end, read wherever one likes.
    pub file: std::fs::File,
}

impl Part {
    /// All of it is there: with its permissions and owner it is ready for its place.
    ///
    /// # Errors
    /// When they can't be set.
    pub fn finish(self, access: Access) -> io::Result<Staged> {
        grant_with(&self.staged.file, access, old_attributes(&self.staged)?.as_ref())?;
        Ok(self.staged)
    }

    /// Begins anew.
    ///
    /// # Errors
    /// When it can't be emptied.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        io::Seek::rewind(&mut self.file)
    }
}

/// Whether a file is one that this process alone can have made.
fn is_own(file: impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
            && stat.st_nlink == 1
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_mode & 0o022 == 0
    })
}

/// A file that is in place, but whose directory may not have reached the disk.
#[derive(Debug)]
#[must_use = "the directory must be brought to the disk"]
pub struct Placed {
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

/// The extended attributes of the file that a staged one replaces; None where there is none.
fn old_attributes(staged: &Staged) -> io::Result<Option<Attributes>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&staged.folder, &staged.name, flags, Mode::empty()) {
        Ok(old) if meta(&old)?.kind == FileKind::File => Attributes::of(&old).map(Some),
        // What is no file, or can't be read, has nothing that a file could keep.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The directory of root's own through which a file is put in place.
fn room_name(temporary: &std::ffi::OsStr) -> OsString {
    let mut room = temporary.to_owned();
    room.push(".place");
    room
}

/// Puts a staged file in a directory where users can write: they could put another file under its temporary name, so
/// the open file itself is moved, by way of a directory of root's own.
fn place_shared(staged: &Staged) -> io::Result<()> {
    let room = room_name(&staged.temporary);
    remove_at(&staged.folder, &room, 0)?;
    rustix::fs::mkdirat(&staged.folder, &room, Mode::from_raw_mode(0o700))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(&staged.folder, &room, flags, Mode::empty())?;
    let found = meta(&inner)?;
    if found.uid != rustix::process::geteuid().as_raw() || found.mode & 0o077 != 0 {
        return Err(io::Error::other("its folder was changed by another user meanwhile"));
    }
    let placed = link_open(&staged.file, &inner)
        .and_then(|()| Ok(rustix::fs::renameat(&inner, "file", &staged.folder, &staged.name)?));
    // What can't be removed is empty, and in a folder of the user's.
    let _ = rustix::fs::unlinkat(&inner, "file", AtFlags::empty());
    let _ = rustix::fs::unlinkat(&staged.folder, &room, AtFlags::REMOVEDIR);
    let _ = rustix::fs::unlinkat(&staged.folder, &staged.temporary, AtFlags::empty());
    placed
}

/// Gives an open file a name in a directory.
fn link_open(file: &OwnedFd, folder: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    let linked = match rustix::fs::linkat(file, "", folder, "file", AtFlags::EMPTY_PATH) {
        // Only with CAP_DAC_READ_SEARCH; a file without a name left gives the same error, twice.
        Err(Errno::NOENT) => rustix::fs::linkat(rustix::fs::CWD, open, folder, "file", AtFlags::SYMLINK_FOLLOW),
        other => other,
    };
    linked
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("the temporary file is gone: {error}")))
}

fn grant_with(fd: impl AsFd, access: Access, attributes: Option<&Attributes>) -> io::Result<()> {
    if access.uid.is_some() || access.gid.is_some() {
        rustix::fs::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))?;
    }
    if let Some(attributes) = attributes {
        attributes.give(&fd)?;
    }
    // After the owner, which clears the bits for setuid and setgid; and after the ACL, whose mask are the group bits.
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(access.mode))?)
}

fn sync_directory(folder: impl AsFd) -> io::Result<()> {
    let fd = rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(fd)?)
}

fn mounted(name: &std::ffi::OsStr) -> io::Error {
    let name = name.to_string_lossy();
    io::Error::other(format!("a file system is mounted at {name}, and stays; unmount it first"))
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
    // What is mounted there is another file system, and not meant.
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
