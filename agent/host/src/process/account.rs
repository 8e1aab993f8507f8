//! Reads the user accounts and the groups of the machine. The agent can run a command as an account, and give an
//! account the ownership of a file.

use std::{ffi::CString, io, path::PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

/// A user account of the machine, with its groups, home directory and shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user id.
    pub uid: u32,
    /// The id of the primary group.
    pub gid: u32,
    /// The ids of all groups of the account, including the primary group.
    pub groups: Vec<u32>,
    /// The name of the account. For a user id without an account, the name is the user id as text.
    pub name: String,
    /// The home directory. For a user id without an account, the home directory is `/`.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}

impl Account {
    /// Returns the account with the given name or user id. For a user id without an account, the result has one group,
    /// and the group id equals the user id.
    ///
    /// Returns `None` if the machine has no account with the name.
    ///
    /// # Errors
    /// Returns an error if the user database cannot be read.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        // A name that consists of digits is first looked up as a name, then as a number, as in chown(1).
        if let Some(user) = User::from_name(name)? {
            return Self::of(user).map(Some);
        }
        let Some(uid) = id(name) else { return Ok(None) };
        if uid == u32::MAX {
            // For setresuid(2), this value means "keep the user id".
            return Ok(None);
        }
        Self::by_id(uid).map(Some)
    }

    /// Returns the account of the agent's own process.
    ///
    /// # Errors
    /// Returns an error if the user database cannot be read.
    pub fn own() -> io::Result<Self> {
        Self::by_id(rustix::process::geteuid().as_raw())
    }

    fn by_id(uid: u32) -> io::Result<Self> {
        match User::from_uid(Uid::from_raw(uid))? {
            Some(user) => Self::of(user),
            None => Ok(Self {
                uid,
                gid: uid,
                groups: vec![uid],
                name: uid.to_string(),
                home: PathBuf::from("/"),
                shell: PathBuf::from("/bin/sh"),
            }),
        }
    }

    fn of(user: User) -> io::Result<Self> {
        let name = CString::new(user.name.as_str()).map_err(io::Error::other)?;
        let groups = nix::unistd::getgrouplist(&name, user.gid)?;
        let or = |path: PathBuf, default: &str| if path.as_os_str().is_empty() { default.into() } else { path };
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            name: user.name,
            home: or(user.dir, "/"),
            shell: or(user.shell, "/bin/sh"),
        })
    }
}

/// Parses a user id or a group id. A number with a sign, such as +5, is rejected.
fn id(name: &str) -> Option<u32> {
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().ok()).flatten()
}

/// Returns the user id and the group id of a user. The user is given by name or user id.
pub fn user(name: &str) -> Option<(u32, u32)> {
    if let Some(number) = id(name) {
        let known = User::from_uid(number.into()).ok().flatten();
        return Some(known.map_or((number, number), |user| (user.uid.as_raw(), user.gid.as_raw())));
    }
    User::from_name(name).ok().flatten().map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// Returns the id of a group. The group is given by name or group id.
pub fn group(name: &str) -> Option<u32> {
    if let Some(number) = id(name) {
        return Some(number);
    }
    Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_found_by_name_or_number() {
        let root = Account::find("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_str()), (0, 0, "root"));
        assert!(root.groups.contains(&0));
        assert_eq!(Account::find("0").unwrap().unwrap(), root);
        let bare = Account::find("4242424").unwrap().unwrap();
        assert_eq!((bare.uid, bare.groups.as_slice(), bare.home.to_str()), (4_242_424, &[4_242_424][..], Some("/")));
        assert_eq!(Account::find("no-such-user-here").unwrap(), None);
        assert_eq!(Account::find(&u32::MAX.to_string()).unwrap(), None);
    }

    #[test]
    fn name_with_a_sign_is_not_a_number_of_an_account() {
        assert_eq!((user("0"), group("0")), (Some((0, 0)), Some(0)));
        for name in ["+0", "-0", "0 ", ""] {
            assert_eq!((user(name), group(name)), (None, None), "{name:?}");
        }
    }
}
