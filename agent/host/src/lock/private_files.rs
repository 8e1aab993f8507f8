//! Private files in the agent's state directory: files with the mode 0600, and directories with the mode 0700.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Opens a private file for reading and writing. A missing file is created. The path must not be a link.
///
/// If the group or other users have access to the file, the agent sets the mode 0600 and logs a warning.
///
/// # Errors
/// Returns an error if the file cannot be opened or created.
pub fn open(file: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let opened = options.open(file)?;
    let mode = opened.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %file.display(), mode = format!("{:04o}", mode & 0o7777), "set the mode of a private file to 0600");
        opened.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    Ok(opened)
}

/// Renames a damaged file, so that the agent can create a new file at the path. Returns the new path, which ends with
/// `.damaged-NUMBER`.
///
/// # Errors
/// Returns an error if the file cannot be renamed.
pub fn set_aside(file: &Path) -> io::Result<PathBuf> {
    let named = |ending: &str| {
        let mut name = file.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let aside = (1..)
        .map(|number| named(&format!(".damaged-{number}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(".damaged"));
    fs::rename(file, &aside)?;
    Ok(aside)
}

/// Writes a new file that the agent does not change later. An existing file is kept. A crash cannot lose the file after
/// the function has returned.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write_once(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    use io::Write as _;
    let file = folder.join(name);
    if file.exists() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = folder.join(format!(".{name}"));
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&temporary, &file)?;
    fs::File::open(folder)?.sync_all()
}

/// Reads a private file.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file)
}
