//! The write side: files are replaced atomically, and a crash at any instruction leaves the old one or the new.
//!
//! Guarantees: a staged file is complete, with its mode and owner, before it is renamed; after [`Hand::settle`]
//! renames have reached the disk. Assumptions: rename within a directory is atomic, which POSIX says.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};
use sha2::{Digest as _, Sha256};

use crate::look::{FileKind, Look, meta, split};

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
    /// The path that it will have.
    pub path: String,
    /// Where it is until then, as a process would open it.
    pub temporary_path: std::path::PathBuf,
}

impl Hand {
    /// The write side of what is looked at. Lend it only to who holds a permit.
    pub fn new(look: Look) -> Self {
        Self { look }
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
        let (folder_path, _) =
            split(path).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no name"))?;
        let (folder, name) = self.look.parent(path)?;
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
        let temporary_path = self.look.real_path(folder_path).join(Path::new(&temporary));
        let staged = Staged { folder, file, temporary, name, path: path.to_owned(), temporary_path };
        match write_all(&staged.file, content).and_then(|()| grant(&staged.file, access)) {
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
        let (folder_path, _) =
            split(path).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no name"))?;
        let (folder, name) = self.look.parent(path)?;
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
        let temporary_path = self.look.real_path(folder_path).join(Path::new(&temporary));
        let staged = Staged { folder, file: file.try_clone()?, temporary, name, path: path.to_owned(), temporary_path };
        Ok(Part { staged, file: std::fs::File::from(file) })
    }

    /// Removes what was begun of a file and will not be gone on with.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn drop_part(&self, path: &str) -> io::Result<()> {
        let Ok((folder, name)) = self.look.parent(path) else { return Ok(()) };
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
        match rustix::fs::renameat(&staged.folder, &staged.temporary, &staged.folder, &staged.name) {
            Ok(()) => Ok(Placed { folder: staged.folder }),
            Err(error) => {
                self.discard(staged);
                Err(error.into())
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
        let Ok((folder, name)) = self.look.parent(path) else { return Ok(()) };
        match rustix::fs::unlinkat(&folder, temporary_name(&name), AtFlags::empty()) {
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
            let (folder, name) = self.look.parent(&so_far)?;
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

    /// Sets mode and owner of what is there.
    ///
    /// # Errors
    /// When they can't be set.
    pub fn grant(&self, path: &str, access: Access) -> io::Result<()> {
        let fd = self.look.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW, Mode::empty())?;
        grant(&fd, access)
    }

    /// Makes a symbolic link, replacing another link or file atomically.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (folder, name) = self.look.parent(path)?;
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
        let (folder, name) = match self.look.parent(path) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        remove_at(&folder, &name, 0)?;
        sync_directory(&folder)
    }

    /// Removes a directory that is empty; leaves others alone. Says whether it is gone.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove_empty_directory(&self, path: &str) -> io::Result<bool> {
        let (folder, name) = self.look.parent(path)?;
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
        let staged = self.stage(path, content, access)?;
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
        grant(&self.staged.file, access)?;
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

fn grant(fd: impl AsFd, access: Access) -> io::Result<()> {
    if access.uid.is_some() || access.gid.is_some() {
        rustix::fs::fchown(&fd, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))?;
    }
    // After the owner: changing that clears the bits for setuid and setgid.
    Ok(rustix::fs::fchmod(&fd, Mode::from_raw_mode(access.mode))?)
}

fn sync_directory(folder: impl AsFd) -> io::Result<()> {
    let fd = rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(fd)?)
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
        Err(Errno::NOTDIR) => return Err(Errno::PERM.into()),
        Err(Errno::XDEV) => {
            let name = name.to_string_lossy();
            return Err(io::Error::other(format!("a file system is mounted at {name}, and stays; unmount it first")));
        }
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
mod tests {
    use super::*;

    const PLAIN: Access = Access { mode: 0o640, uid: None, gid: None };

    fn fixture() -> (tempfile::TempDir, Hand) {
        let folder = tempfile::tempdir().unwrap();
        let hand = Hand::new(Look::at(folder.path()).unwrap());
        (folder, hand)
    }

    #[test]
    fn replaces_with_mode() {
        let (folder, hand) = fixture();
        hand.make_directory("/etc/app", 0o755).unwrap();
        hand.replace("/etc/app/a.conf", b"one", PLAIN).unwrap();
        hand.replace("/etc/app/a.conf", b"two", PLAIN).unwrap();
        let (bytes, meta) = hand.look().read("/etc/app/a.conf").unwrap().unwrap();
        assert_eq!((bytes.as_slice(), meta.mode), (b"two".as_slice(), 0o640));
        assert_eq!(std::fs::read_dir(folder.path().join("etc/app")).unwrap().count(), 1);
    }

    #[test]
    fn no_link_escapes_the_root() {
        let (folder, hand) = fixture();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "keep").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../../../../../..", folder.path().join("up")).unwrap();
        assert!(hand.look().read("/out/secret").unwrap().is_none());
        assert!(hand.replace("/out/secret", b"gone", PLAIN).is_err());
        let up = format!("/up{}/secret", outside.path().display());
        assert!(hand.look().read(&up).unwrap().is_none());
        assert!(hand.look().read("/../../../../../../etc/passwd").unwrap().is_none());
        hand.remove("/out").unwrap();
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "keep");
    }

    #[test]
    fn removes_trees_without_following_links() {
        let (folder, hand) = fixture();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("a/b/link")).unwrap();
        hand.remove("/a").unwrap();
        assert!(!folder.path().join("a").exists());
        assert!(outside.path().join("keep").exists());
    }

    #[test]
    fn a_leftover_of_a_crash_is_replaced() {
        let (_folder, hand) = fixture();
        let staged = hand.stage("/a", b"half", PLAIN).unwrap();
        drop(staged);
        hand.replace("/a", b"whole", PLAIN).unwrap();
        assert_eq!(hand.look().read("/a").unwrap().unwrap().0, b"whole");
        drop(hand.stage("/a", b"half", PLAIN).unwrap());
        hand.clear_temporary("/a").unwrap();
        assert_eq!(hand.look().list("/").unwrap(), ["a"]);
    }

    #[test]
    fn a_part_is_gone_on_with() {
        let (_folder, hand) = fixture();
        let mut part = hand.part("/a").unwrap();
        part.file.write_all(b"one ").unwrap();
        drop(part);
        assert!(hand.look().read("/a").unwrap().is_none());
        let mut part = hand.part("/a").unwrap();
        part.file.write_all(b"two").unwrap();
        hand.place_all(vec![part.finish(PLAIN).unwrap()]).unwrap();
        let (bytes, meta) = hand.look().read("/a").unwrap().unwrap();
        assert_eq!((bytes.as_slice(), meta.mode), (b"one two".as_slice(), 0o640));
        let mut part = hand.part("/a").unwrap();
        part.file.write_all(b"half").unwrap();
        part.clear().unwrap();
        hand.place_all(vec![part.finish(PLAIN).unwrap()]).unwrap();
        assert_eq!(hand.look().read("/a").unwrap().unwrap().0, b"");
        assert_eq!(hand.look().list("/").unwrap(), ["a"]);
    }

    #[test]
    fn a_part_that_anybody_can_have_written_is_not_gone_on_with() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, hand) = fixture();
        let mut name = temporary_name("a".as_ref());
        name.push(".part");
        let planted = folder.path().join(&name);
        let elsewhere = folder.path().join("elsewhere");
        for how in ["open", "linked", "a pipe"] {
            match how {
                "open" => {
                    std::fs::write(&planted, "evil").unwrap();
                    std::fs::set_permissions(&planted, std::fs::Permissions::from_mode(0o666)).unwrap();
                }
                "linked" => {
                    std::fs::write(&elsewhere, "kept").unwrap();
                    std::fs::hard_link(&elsewhere, &planted).unwrap();
                }
                _ => rustix::fs::mkfifoat(rustix::fs::CWD, &planted, Mode::from_raw_mode(0o600)).unwrap(),
            }
            let part = hand.part("/a").unwrap();
            assert_eq!(part.file.metadata().unwrap().len(), 0, "{how}");
            hand.drop_part("/a").unwrap();
            assert!(!planted.exists());
        }
        assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), "kept");
    }
}
