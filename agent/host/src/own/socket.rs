//! The Unix socket of the agent's API. Only root and the agent's user can connect to the socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::Path,
};

/// Binds a Unix socket with the mode 0600. Missing folders are created. The function returns a non-blocking listener.
///
/// # Errors
/// Returns an error if the socket or its folder cannot be created, or if an old socket cannot be removed.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    // A crashed agent leaves its socket file, which must be removed before a new socket is bound.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Removes a Unix socket from the file system.
///
/// # Errors
/// Returns an error if the file cannot be removed.
pub fn remove(socket: &Path) -> io::Result<()> {
    fs::remove_file(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftover_socket_is_replaced_by_a_private_socket() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("run/api.sock");
        drop(bind(&socket).unwrap());
        let _listener = bind(&socket).unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        remove(&socket).unwrap();
        assert!(!socket.exists());
    }
}
