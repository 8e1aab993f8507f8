//! A reboot, which needs the root `/`. It runs in its own process. The PATH of that process holds a shell, git and a fake
//! `systemctl` that only writes a file, so that no machine reboots.

use std::{env, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, thread, time::Duration};

use towpath_state::{ActionRecord, BookId, Changes};
use towpath_tests::wait_until;

use crate::{book, harness::Trace};

/// The variable that names the folder of the programs.
const PROGRAMS: &str = "TOWPATH_TRACE_PROGRAMS";

#[test]
fn reboot() {
    if let Some(programs) = env::var_os(PROGRAMS) {
        return with_programs(Path::new(&programs));
    }
    let programs = tempfile::tempdir().unwrap();
    for name in ["sh", "git", "touch"] {
        let found = ["/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join(name)).find(|file| file.exists());
        std::os::unix::fs::symlink(found.unwrap(), programs.path().join(name)).unwrap();
    }
    let systemctl = programs.path().join("systemctl");
    fs::write(&systemctl, "#!/bin/sh\necho \"$@\" > \"${0%/*}/asked\"\n").unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let mut again = Command::new(env::current_exe().unwrap());
    again
        .args([thread::current().name().unwrap(), "--exact", "--nocapture"])
        .env("PATH", programs.path())
        .env(PROGRAMS, programs.path());
    let output = again.output().unwrap();
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{text}");
}

fn with_programs(programs: &Path) {
    assert_eq!(env::var_os("PATH").as_deref(), Some(programs.as_os_str()));
    let asked = programs.join("asked");
    let mut trace = Trace::with_root(1, Some("/".into()));
    let spec = r#"
rollout:
  serialize: {count: 1}
  before:
    - name: drain
      command: {shell: "echo drain"}
  after:
    - name: undrain
      command: {shell: "echo undrain"}
tasks:
  - name: first
    command: {shell: "echo first"}
  - name: anew
    reboot: {when: always}
    notify: [announce]
  - name: behind
    command: {shell: "echo behind"}
handlers:
  - name: announce
    command: {shell: "echo it is back"}
"#;
    trace.publish("a reboot", &[("book.yaml", &book("web", spec))]);
    // The system asks the agent to end once it reboots.
    let (inbox, seen) = (trace.node("n1").inbox(), asked.clone());
    let system = thread::spawn(move || {
        wait_until(Duration::from_secs(30), || seen.exists(), || "the node does not reboot".to_owned());
        inbox.notify(|work| work.stop = true);
    });
    trace.once();
    system.join().unwrap();
    assert_eq!(fs::read_to_string(&asked).unwrap(), "reboot --no-block\n");
    let key = BookId::new("app", "web").task("anew");
    trace.between("the node comes back with another boot", |journal| {
        let record: ActionRecord = journal.get(&key).unwrap().unwrap();
        let mut changes = Changes::default();
        changes.put(&key, &ActionRecord { boot: Some("the one before".into()), ..record });
        journal.commit(changes).unwrap();
    });
    trace.once();
    trace.once();
    trace.ends("reboot");
}
