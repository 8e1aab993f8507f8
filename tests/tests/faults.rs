//! Faults around a node: the condition names the fault and the remedy, and the node recovers without help.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use towpath_tests::{
    git::{FLEET, Repository, book},
    git_servers::Https,
    node::{Node, condition, task},
    ok, wait_until,
};

const TIMEOUT: Duration = Duration::from_secs(40);

fn files(text: &str, size: usize) -> String {
    book(
        "data",
        &format!(
            "  tasks:\n    - name: data\n      file: {{path: /srv/data, content: \"{{{{ '{text}' * {size} }}}}\"}}\n"
        ),
    )
}

fn fleet(folder: &Path) -> Repository {
    let repository = Repository::new(folder, "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("data.yaml", files("a", 10));
    repository
}

/// A small file system, unmounted after the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        ok(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "towpath-test"]).arg(at));
        Self(at.to_owned())
    }

    fn remount(&self, options: &str) {
        ok(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn reason(node: &Node, kind: &str, wanted: &str) -> String {
    wait_until(
        TIMEOUT,
        || condition(&node.status(), kind)["reason"] == wanted,
        || format!("{:#}\n{}", node.status(), node.log()),
    );
    let status = node.status();
    assert_eq!(condition(&status, kind)["status"], true);
    condition(&status, kind)["message"].as_str().unwrap().to_owned()
}

fn local(repository: &Repository) -> String {
    format!("url: {}\n      interval: 1s", repository.bare.display())
}

#[test]
fn full_disk_is_reported_and_recovered_from() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("small");
    let disk = Mounted::tmpfs(&folder.path().join("n1/root"), "1m");
    let node = Node::with(folder.path(), &local(&repository), "  reconcile: {interval: 3s}\n");
    let agent = node.start();
    node.wait_for(&first);
    repository.write("data.yaml", files("b", 3_000_000));
    let large = repository.publish("large");
    let message = reason(&node, "Reconciling", "DiskFull");
    assert!(message.contains("free space"), "{message}");
    assert_eq!(node.read("/srv/data").unwrap(), "a".repeat(10), "the old file stays");
    disk.remount("size=16m");
    wait_until(TIMEOUT, || node.applied(&large), || format!("{:#}", node.status()));
    assert_eq!(node.read("/srv/data").unwrap().len(), 3_000_000);
    assert_ne!(condition(&node.status(), "Reconciling")["reason"], "DiskFull");
    drop(agent);
}

#[test]
fn read_only_directory_is_reported_and_recovered_from() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("small");
    let disk = Mounted::tmpfs(&folder.path().join("n1/root"), "8m");
    let node = Node::with(folder.path(), &local(&repository), "  reconcile: {interval: 3s}\n");
    let agent = node.start();
    node.wait_for(&first);
    disk.remount("ro");
    repository.write("data.yaml", files("b", 10));
    let second = repository.publish("second");
    let message = reason(&node, "Reconciling", "ReadOnly");
    assert!(message.contains("remount"), "{message}");
    disk.remount("rw");
    wait_until(TIMEOUT, || node.applied(&second), || format!("{:#}", node.status()));
    assert_eq!(node.read("/srv/data").unwrap(), "b".repeat(10));
    drop(agent);
}

#[test]
fn full_state_directory_is_reported_and_recovered_from() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("small");
    let disk = Mounted::tmpfs(&folder.path().join("n1/state"), "8m");
    let node = Node::with(folder.path(), &local(&repository), "  reconcile: {interval: 2s}\n");
    let agent = node.start();
    node.wait_for(&first);
    let ballast = node.state.join("ballast");
    // dd fails when the disk is full, as intended.
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", "status=none"])
        .arg(format!("of={}", ballast.display()))
        .stderr(std::process::Stdio::null())
        .status();
    repository.write("data.yaml", files("b", 10));
    repository.write(
        "files/large",
        (0..4_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    );
    let second = repository.publish("second");
    let message = reason(&node, "Reconciling", "DiskFull");
    assert!(message.contains("free space"), "{message}");
    fs::remove_file(&ballast).unwrap();
    disk.remount("size=64m");
    wait_until(TIMEOUT, || node.applied(&second), || format!("{:#}\n{}", node.status(), node.log()));
    drop(agent);
}

#[test]
fn vanished_git_server_is_reported_and_recovered_from() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("one");
    let mut server = Https::start_with(&folder.path().join("https"), folder.path(), "");
    let source = format!(
        "url: {}\n      interval: 1s\n      auth: {{caFile: {}}}",
        server.url("fleet"),
        server.authority.certificate().display()
    );
    let node = Node::new(folder.path(), &source);
    let mut agent = node.start();
    node.wait_for(&first);
    server.down();
    let message = reason(&node, "Reconciling", "SourceUnreachable");
    assert!(message.contains("keeps applying the last good revision"), "{message}");
    assert_eq!(condition(&node.status(), "Ready")["status"], true, "what is applied stays applied");
    fs::write(node.root.join("srv/data"), "drift").unwrap();
    wait_until(TIMEOUT, || node.read("/srv/data").unwrap() == "a".repeat(10), || node.log());
    // An agent that starts without its git server applies the last good revision.
    agent.terminate();
    fs::remove_file(node.root.join("srv/data")).unwrap();
    let once = node.once();
    assert_eq!(once.code, 1, "{}", once.log);
    assert_eq!(node.read("/srv/data").unwrap(), "a".repeat(10));
    let _agent = node.start();
    repository.write("data.yaml", files("c", 10));
    let second = repository.publish("two");
    server.up();
    wait_until(TIMEOUT, || node.applied(&second), || format!("{:#}\n{}", node.status(), node.log()));
    assert_eq!(condition(&node.status(), "Reconciling")["status"], false);
}

#[test]
fn corrupt_mirror_is_reported_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    let first = repository.publish("one");
    let node = Node::new(folder.path(), &local(&repository));
    assert_eq!(node.once().code, 0);
    let packs = node.state.join("mirrors/fleet.git/objects/pack");
    for entry in fs::read_dir(&packs).unwrap().flatten() {
        let path = entry.path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    // Without its git server the node cannot restore the mirror, and reports that.
    let away = folder.path().join("away.git");
    fs::rename(&repository.bare, &away).unwrap();
    let once = node.once();
    assert_eq!(condition(&once.status, "Reconciling")["reason"], "MirrorCorrupt", "{:#}\n{}", once.status, once.log);
    let message = condition(&once.status, "Reconciling")["message"].as_str().unwrap();
    assert!(message.contains("check the disk"), "{message}");
    fs::rename(&away, &repository.bare).unwrap();
    let once = node.once();
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(once.status["lastApplied"]["commits"]["fleet"], first);
    assert_eq!(condition(&once.status, "Reconciling")["status"], false);
}

#[test]
fn backward_clock_jump_is_reported_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    let repository = fleet(folder.path());
    repository.publish("one");
    let node = Node::new(folder.path(), &local(&repository));
    assert_eq!(node.once().code, 0);
    let mut earlier = Command::new("faketime");
    earlier.args(["-f", "-2d", std::env::var("TOWPATH_BIN").unwrap().as_str(), "agent", "--config"]).arg(&node.config);
    repository.write("data.yaml", files("b", 10));
    let second = repository.publish("two");
    let once = node.once_with(&mut earlier);
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(condition(&once.status, "Reconciling")["reason"], "ClockJumped", "{:#}", once.status);
    assert!(condition(&once.status, "Reconciling")["message"].as_str().unwrap().contains("check the time service"));
    assert_eq!(once.status["lastApplied"]["commits"]["fleet"], second);
    assert_eq!(node.read("/srv/data").unwrap(), "b".repeat(10));
    let once = node.once();
    assert_eq!(condition(&once.status, "Reconciling")["status"], false, "{:#}", once.status);
    assert_eq!(task(&once.status, "data")["outcome"], "unchanged");
}
