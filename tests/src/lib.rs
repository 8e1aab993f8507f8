//! The harness: real nodes, real git repositories, real servers, each in a folder of its own.

pub mod course;
pub mod etcd;
pub mod fleet;
pub mod git;
pub mod git_servers;
pub mod node;
pub mod nspawn;
pub mod proxy;
mod running;

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

pub use nspawn::{image, server, site};
pub use running::Running;

/// The program under test.
pub fn towpath() -> Command {
    let program = std::env::var("TOWPATH_BIN")
        .expect("TOWPATH_BIN is not set: run the tests with .ci/test, which builds the binary and hands over its path");
    let mut command = Command::new(program);
    // What the machine's user has configured must not matter.
    for name in ["GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// Returns whether `TOWPATH_LONG` asks for the long variants of tests.
pub fn long() -> bool {
    std::env::var_os("TOWPATH_LONG").is_some()
}

/// Runs a command to its end, and fails with all it said where it does not succeed.
pub fn ok(command: &mut Command) -> Output {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\nstdout: {}\nstderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command to its end; one that is not installed is named with its package.
pub fn output(command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{program} can't be run: {error}; install the package {}", package(&program)),
    }
}

/// The Debian package that a program is in.
pub fn package(program: &str) -> &'static str {
    match program.rsplit('/').next().unwrap_or(program) {
        "git" => "git",
        "etcd" => "etcd-server",
        "etcdctl" => "etcd-client",
        "nginx" => "nginx-light",
        "fcgiwrap" => "fcgiwrap",
        "sshd" => "openssh-server",
        "ssh-keygen" | "ssh" => "openssh-client",
        "gpg" => "gnupg",
        "gpg-agent" => "gpg-agent",
        "openssl" => "openssl",
        "curl" => "curl",
        "systemd-nspawn" => "systemd-container",
        "mmdebstrap" => "mmdebstrap",
        "zstd" => "zstd",
        "age" | "age-keygen" => "age",
        "nft" => "nftables",
        "ip" => "iproute2",
        "setpriv" | "unshare" | "nsenter" => "util-linux",
        "faketime" => "faketime",
        "mount" | "umount" => "mount",
        "mkfs.ext4" => "e2fsprogs",
        _ => "that has it",
    }
}

/// Waits until something holds, and gives how long it took; fails with what is said when it takes too long. Without
/// TOWPATH_LONG, which measures the limits, a slow or busy machine has three times as long.
pub fn wait_until(timeout: Duration, mut holds: impl FnMut() -> bool, what: impl Fn() -> String) -> Duration {
    let begin = Instant::now();
    let timeout = if long() { timeout } else { timeout * 3 };
    loop {
        if holds() {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < timeout, "not within {timeout:?}: {}", what());
        std::thread::sleep(Duration::from_millis(10));
    }
}
