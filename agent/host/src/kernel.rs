//! Reads and sets the kernel's host name and kernel parameters. A reboot resets the host name and the parameters.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

/// Returns the current host name; an empty string if the host name cannot be read.
pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

/// Sets the kernel's host name. The next boot resets the host name.
///
/// # Errors
/// Returns an error if the kernel rejects the host name.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(name)?)
}

/// Sets a kernel parameter. The next boot resets the kernel parameter. `path` is below /proc/sys.
///
/// # Errors
/// Returns an error if the kernel rejects the value.
pub fn set_parameter(path: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(Path::new("/proc/sys").join(path))?;
    file.write_all(format!("{value}\n").as_bytes())
}
