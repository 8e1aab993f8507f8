//! The extended attributes that a file keeps when the agent replaces it: ACLs, SELinux and Smack labels, user and
//! trusted attributes.
//!
//! A replaced file loses its file capabilities, because an administrator granted the capabilities to the old content.

use std::{collections::BTreeMap, ffi::CStr, io, os::fd::AsFd};

use rustix::{fs::XattrFlags, io::Errno};
use serde::{Deserialize, Serialize};

/// The name of the extended attribute with the access ACL. For a file with an ACL, the group bits of the mode are the
/// mask of the ACL.
const ACL: &str = "system.posix_acl_access";

/// The extended attributes of one file, by name. The values are hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Returns true if the set contains no extended attributes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the extended attributes of an open file. Returns an empty set if the file system does not support extended
    /// attributes.
    ///
    /// # Errors
    /// Returns an error if the attributes cannot be read.
    pub(crate) fn of(file: impl AsFd) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        for name in names(&file)? {
            if kept(&name)
                && let Some(value) = value(&file, &name)?
            {
                found.insert(name, hex::encode(value));
            }
        }
        Ok(Self(found))
    }

    /// Sets the extended attributes of an open file. The function removes an ACL that the file inherited from its
    /// directory.
    ///
    /// The function ignores an attribute that the file system does not support. If the kernel denies the agent an
    /// attribute other than an ACL, the agent logs a warning and continues.
    ///
    /// # Errors
    /// Returns an error if the agent lacks the permission to set an ACL, or if the kernel rejects an attribute.
    pub(crate) fn give(&self, file: impl AsFd) -> io::Result<()> {
        if !self.0.contains_key(ACL) {
            match rustix::fs::fremovexattr(&file, ACL) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(error) => return Err(named(ACL, error)),
            }
        }
        for (name, value) in &self.0 {
            let Ok(value) = hex::decode(value) else { continue };
            match rustix::fs::fsetxattr(&file, name.as_str(), &value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error @ (Errno::PERM | Errno::ACCESS)) if !is_access(name) => {
                    tracing::warn!(attribute = name, %error, "cannot keep an extended attribute");
                }
                Err(error) => return Err(named(name, error)),
            }
        }
        Ok(())
    }
}

fn is_access(name: &str) -> bool {
    name.starts_with("system.")
}

fn kept(name: &str) -> bool {
    matches!(name, ACL | "system.nfs4_acl" | "security.selinux")
        || name.starts_with("user.")
        || name.starts_with("security.SMACK64")
        || name.starts_with("trusted.") && !name.starts_with("trusted.overlay.")
}

fn named(name: &str, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("cannot keep the extended attribute {name}: {error}"))
}

fn names(file: impl AsFd) -> io::Result<Vec<String>> {
    let mut buffer = vec![0; 1024];
    loop {
        match rustix::fs::flistxattr(&file, &mut buffer) {
            Ok(size) => {
                let names = buffer.get(..size).unwrap_or_default().split_inclusive(|byte| *byte == 0);
                let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()?.to_str().ok());
                return Ok(names.map(str::to_owned).collect());
            }
            Err(Errno::RANGE) if buffer.len() < LARGEST => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn value(file: impl AsFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; 1024];
    loop {
        match rustix::fs::fgetxattr(&file, name, &mut buffer) {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) if buffer.len() < LARGEST => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(named(name, error)),
        }
    }
}

/// The kernel's limit of 64 KiB for the value of an extended attribute, and for the list of all attribute names.
const LARGEST: usize = 64 << 10;
