//! The path resolver opens a path component by component, and keeps each opened directory open.
//!
//! Guarantees:
//! - Links resolve as in the kernel. A link cannot lead out of the root.
//! - A link is followed if root or the agent's user owns the link, or if the same user owns the link and the target. A
//!   link of an unprivileged user cannot lead the agent to a file of another user.
//! - If another process changes the path during the resolution, the resolver may return an error. The resolver never
//!   opens a file to which a rejected link leads.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};
use thiserror::Error;

/// The maximum number of links in one path. The kernel has the same limit.
const LINKS: usize = 40;

/// The error that the path resolver rejects a link.
#[derive(Debug, Error)]
#[error("cannot follow the link {link}: {cause}")]
pub struct RefusedLink {
    /// The path of the link below the root.
    pub link: String,
    /// The user id of the link's owner.
    pub owner: u32,
    cause: Cause,
}

impl RefusedLink {
    /// Returns true if the caller forbids all links in the folder that contains the rejected link.
    pub fn is_plain(error: &io::Error) -> bool {
        let found = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        found.is_some_and(|found| matches!(found.cause, Cause::Plain { .. }))
    }
}

#[derive(Debug, Error)]
enum Cause {
    #[error(
        "the owner of the link is {by}, and the owner of its target is {of}; \
         replace the link by a folder, or make root the owner of the link",
        by = named(*by),
        of = named(*of)
    )]
    Foreign { by: u32, of: u32 },
    #[error("the owner of the link is {by}, and all users can write to its folder; remove the link", by = named(*by))]
    Shared { by: u32 },
    #[error("the link has further names (hard links), and users can write to its folder; remove the link")]
    SeveralNames,
    #[error("`..` follows this folder of {by}, who can move the folder; write the path without `..`",
        by = named(*by))]
    Up { by: u32 },
    #[error("links below {folder} are not followed; remove the link")]
    Plain { folder: String },
}

/// Returns the name and the id of a user, for messages.
fn named(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => format!("user {uid}"),
    }
}

/// The end of a resolved path.
#[derive(Debug)]
pub(crate) struct Place {
    /// The open directory that contains the last component of the path.
    pub(crate) folder: OwnedFd,
    /// The last component of the path; `.` if the path is the root.
    pub(crate) name: OsString,
    /// The resolved path below the root, which contains no links.
    pub(crate) path: String,
    /// The device and the inode of the file to which a followed link leads; `None` without a followed link or without a
    /// file.
    pub(crate) found: Option<(u64, u64)>,
}

/// The rules by which the resolver follows or rejects the links in one path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// The folder below which all links are rejected; `None` if links are allowed in all folders.
    pub(crate) plain_below: Option<&'a str>,
    /// True if a link at the end of the path is followed.
    pub(crate) last: bool,
}

/// Resolves a path to its parent directory and its last component.
///
/// # Errors
/// Returns an error if a component is missing, or a link is rejected.
pub(crate) fn walk(root: &OwnedFd, path: &str, rules: Rules<'_>) -> io::Result<Place> {
    Walk::new(root, path, rules)?.run()
}

/// Returns a path with all links resolved. The resolver does not change the rest of a path after the first missing
/// component.
///
/// # Errors
/// Returns an error if a link is rejected.
pub(crate) fn real(root: &OwnedFd, path: &str, rules: Rules<'_>) -> io::Result<String> {
    let mut walk = Walk::new(root, path, rules)?;
    match walk.run() {
        Ok(place) => Ok(place.path),
        Err(error) => walk.missing.ok_or(error),
    }
}

/// Returns true if the user is root or the agent's user. The links of root and of the agent's user may lead to any
/// file.
fn trusted(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

struct Component {
    name: OsString,
    /// True if the component is part of the requested path, or of a link that root or the agent's user owns.
    trusted: bool,
    /// True if the component must not be a link.
    plain: bool,
}

struct Directory {
    fd: OwnedFd,
    name: OsString,
    owner: u32,
    mode: u32,
}

/// A followed link that an unprivileged user owns. The target of the link is not yet open.
struct Followed {
    path: String,
    owner: u32,
    /// The number of path components that come after the link and are not yet open.
    rest: usize,
}

struct Walk<'a> {
    rules: Rules<'a>,
    /// The open directories, from the root to the current directory of the path resolver.
    directories: Vec<Directory>,
    /// The path components that are not yet open, in reverse order. The resolver opens the last element of the list
    /// first.
    rest: Vec<Component>,
    followed: Vec<Followed>,
    links: usize,
    /// True if the resolver has followed a link of an unprivileged user.
    by_user: bool,
    missing: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(root: &OwnedFd, path: &str, rules: Rules<'a>) -> io::Result<Self> {
        let names = |path: &str| path.split('/').filter(|name| !matches!(*name, "" | ".")).count();
        let inside = |folder: &str| {
            let folder = folder.trim_end_matches('/');
            path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') || folder.is_empty())
        };
        let free = rules.plain_below.filter(|folder| inside(folder)).map_or(usize::MAX, names);
        let mut rest: Vec<Component> = components(OsStr::new(path))
            .enumerate()
            .map(|(index, name)| Component { name: name.to_owned(), trusted: true, plain: index >= free })
            .collect();
        rest.reverse();
        let fd = root.try_clone()?;
        let stat = rustix::fs::fstat(&fd)?;
        let root = Directory { fd, name: OsString::new(), owner: stat.st_uid, mode: stat.st_mode };
        Ok(Self { rules, directories: vec![root], rest, followed: Vec::new(), links: 0, by_user: false, missing: None })
    }

    fn run(&mut self) -> io::Result<Place> {
        while let Some(component) = self.rest.pop() {
            if component.name == ".." {
                self.up(&component)?;
                continue;
            }
            if component.name == "." {
                self.judge()?;
                continue;
            }
            let last = self.rest.is_empty();
            let fd = match open_component(&self.here()?.fd, &component.name) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if last => return self.end(component.name, None),
                Err(error) => {
                    if error == Errno::NOENT {
                        self.missing = Some(self.remaining(&component));
                    }
                    return Err(error.into());
                }
            };
            let stat = rustix::fs::fstat(&fd)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink if !last || self.rules.last => self.follow(component, &fd, &stat)?,
                _ if last => return self.end(component.name, Some(&stat)),
                FileType::Directory => {
                    let Component { name, .. } = component;
                    self.directories.push(Directory { fd, name, owner: stat.st_uid, mode: stat.st_mode });
                    self.judge()?;
                }
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        let here = self.directories.pop().ok_or(Errno::INVAL)?;
        let path = self.path_to(&here.name);
        Ok(Place { folder: here.fd, name: OsString::from("."), path, found: None })
    }

    fn here(&self) -> io::Result<&Directory> {
        Ok(self.directories.last().ok_or(Errno::INVAL)?)
    }

    /// Returns the full path, without links, of a name in the resolver's current directory.
    fn path_to(&self, name: &OsStr) -> String {
        let names = self.directories.iter().skip(1).map(|one| one.name.as_os_str()).chain([name]);
        names.filter(|name| !name.is_empty()).map(|name| format!("/{}", name.to_string_lossy())).collect()
    }

    /// Returns the resolved part of a path, followed by the missing component and the rest of the path.
    fn remaining(&self, component: &Component) -> String {
        let rest = self.rest.iter().rev().map(|component| component.name.to_string_lossy());
        std::iter::once(self.path_to(&component.name).into()).chain(rest).collect::<Vec<_>>().join("/")
    }

    fn up(&mut self, component: &Component) -> io::Result<()> {
        if self.directories.len() > 1 {
            let from = self.directories.pop();
            let parent = self.here()?.owner;
            // The user's link has led to this folder, so the user would also choose the parent of the folder.
            if let Some(from) = from.filter(|from| self.by_user && component.trusted && !trusted(from.owner))
                && parent != from.owner
            {
                return Err(refused(self.path_to(&from.name), from.owner, Cause::Up { by: from.owner }));
            }
        }
        self.judge()
    }

    fn follow(&mut self, component: Component, fd: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let (path, owner) = (self.path_to(&component.name), stat.st_uid);
        if component.plain {
            let folder = self.rules.plain_below.unwrap_or_default();
            let folder = if folder.is_empty() { "the folder" } else { folder }.to_owned();
            return Err(refused(path, owner, Cause::Plain { folder }));
        }
        self.links += 1;
        if self.links > LINKS {
            return Err(Errno::LOOP.into());
        }
        let here = self.here()?;
        let trusted_link = trusted(owner);
        if trusted_link && stat.st_nlink > 1 && (!trusted(here.owner) || here.mode & 0o022 != 0) {
            return Err(refused(path, owner, Cause::SeveralNames));
        }
        // The walk bypasses the kernel's check fs.protected_symlinks, so the walk makes the same check.
        if !trusted_link && here.mode & 0o1002 == 0o1002 && here.owner != owner {
            return Err(refused(path, owner, Cause::Shared { by: owner }));
        }
        let target = rustix::fs::readlinkat(fd, "", Vec::new())?;
        let target = OsStr::from_bytes(target.as_bytes());
        if !trusted_link {
            self.by_user = true;
            self.followed.push(Followed { path, owner, rest: self.rest.len() });
        }
        if target.as_bytes().starts_with(b"/") {
            self.directories.truncate(1);
        }
        let names: Vec<&OsStr> = components(target).collect();
        self.rest.extend(names.into_iter().rev().map(|name| Component {
            name: name.to_owned(),
            trusted: trusted_link,
            plain: false,
        }));
        self.judge()
    }

    /// Checks the owner of each link that the path resolver has followed to reach the current directory. An
    /// unprivileged owner of a followed link must also own the directory.
    fn judge(&mut self) -> io::Result<()> {
        let owner = self.here()?.owner;
        while let Some(link) = self.followed.pop_if(|link| self.rest.len() <= link.rest) {
            owns(link, owner)?;
        }
        Ok(())
    }

    /// Returns the file in the current directory as the result of the path resolution. An unprivileged owner of a
    /// followed link must also own the file.
    fn end(&mut self, name: OsString, found: Option<&Stat>) -> io::Result<Place> {
        let path = self.path_to(&name);
        let here = self.directories.pop().ok_or(Errno::INVAL)?;
        // For a missing file, the owner of the directory counts, because this user can create the file.
        let owner = found.map_or(here.owner, |stat| stat.st_uid);
        for link in self.followed.drain(..) {
            owns(link, owner)?;
        }
        let found = found.filter(|_| self.links > 0).map(|stat| (stat.st_dev, stat.st_ino));
        Ok(Place { folder: here.fd, name, path, found })
    }
}

fn owns(link: Followed, owner: u32) -> io::Result<()> {
    if link.owner == owner {
        return Ok(());
    }
    Err(refused(link.path, link.owner, Cause::Foreign { by: link.owner, of: owner }))
}

fn refused(link: String, owner: u32, cause: Cause) -> io::Error {
    io::Error::other(RefusedLink { link, owner, cause })
}

/// Returns the components of a path. A path that ends in `/` or `/.` has `.` as its last component.
fn components(path: &OsStr) -> impl Iterator<Item = &OsStr> {
    let bytes = path.as_bytes();
    let names = bytes.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let folder = (bytes.ends_with(b"/") || bytes.ends_with(b"/.")).then_some(b".".as_slice());
    names.chain(folder).map(OsStr::from_bytes)
}

fn open_component(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let open = |name: &OsStr, flags| rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, Mode::empty());
    let fd = open(name, OFlags::PATH | OFlags::NOFOLLOW)?;
    // An automounter mounts a file system only for a lookup of a name below the mount point.
    if rustix::fs::fstatfs(&fd).is_ok_and(|found| found.f_type == AUTOFS) {
        let mut below = name.to_owned();
        below.push("/.");
        return open(&below, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW);
    }
    Ok(fd)
}

/// The file system type of an automounter's mount point (linux/magic.h).
const AUTOFS: rustix::fs::FsWord = 0x0187;

#[cfg(test)]
mod tests;
