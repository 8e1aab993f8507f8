//! Makes temporary copies of scripts and programs. The agent runs the copies.

use std::{
    fs,
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::Errno,
};

use super::account::Account;

/// A script in a temporary file. The script file is removed when the `ScriptFile` is dropped.
#[derive(Debug)]
pub struct ScriptFile {
    folder: PathBuf,
    path: PathBuf,
}

impl ScriptFile {
    /// Writes a script to a temporary folder that only the agent's user can read.
    ///
    /// # Errors
    /// Returns an error if the script cannot be written.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("towpath-{}", uuid::Uuid::new_v4()));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("script");
        let script = Self { folder, path };
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&script.path)?;
        file.write_all(bytes)?;
        Ok(script)
    }

    /// Returns the path of the script.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a user the owner of the script, so that the user may run the script.
    ///
    /// # Errors
    /// Returns an error if the owner of the script, or the mode of its folder, cannot be changed.
    pub fn give_to(&self, user: Option<&Account>) -> io::Result<()> {
        let Some(user) = user else { return Ok(()) };
        // The agent remains the owner of the folder, because the folder's owner could replace the script by a link.
        lchown(&self.path, Some(user.uid), Some(user.gid))?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711))
    }
}

impl Drop for ScriptFile {
    fn drop(&mut self) {
        // If the removal fails, the script remains in the folder for temporary files. Only its user can read it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A program in a sealed memory file. No process can change the bytes of a sealed file.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Copies a program or a script into a sealed memory file. A script must begin with an interpreter line (`#!`).
    ///
    /// # Errors
    /// Returns an error if the kernel does not provide the memory.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the flag EXEC; on these kernels, every memory file is executable.
        let fd = match rustix::fs::memfd_create("towpath", flags | MemfdFlags::EXEC) {
            Err(Errno::INVAL) => rustix::fs::memfd_create("towpath", flags)?,
            made => made?,
        };
        let mut file = fs::File::from(fd);
        file.write_all(bytes)?;
        let fd = OwnedFd::from(file);
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
        Ok(Self(fd))
    }

    /// Returns the path of the program below /proc. Only the agent and its child processes can use the path of a sealed
    /// file.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::run::{Cancel, Invocation, run},
        *,
    };

    #[test]
    fn sealed_script_runs_and_cannot_be_changed() {
        let sealed = Sealed::new(b"#!/bin/sh\necho \"$(cat) there\"\n").unwrap();
        let invocation =
            Invocation { argv: vec![sealed.path()], stdin: Some(b"who".to_vec()), ..Invocation::default() };
        assert_eq!(run(&invocation, &Cancel::default()).unwrap().stdout, "who there\n");
        let written = fs::OpenOptions::new().write(true).open(sealed.path()).and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
    }
}
