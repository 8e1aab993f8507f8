//! Processes that a test starts: none is left after it, however it ends.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use towpath_tests::{
    Running,
    etcd::Etcd,
    git::{FLEET, GpgSigner, Repository, book},
    git_servers::{Https, Ssh, free_port},
    node::Node,
    wait_until,
};

/// The programs of `every_kind_of_server`.
const PROGRAMS: [&str; 8] = ["etcd", "fcgiwrap", "git", "gpg-agent", "nginx", "sleep", "sshd", "towpath"];

/// The processes below this one, by their ids, with their names.
fn descendants() -> BTreeMap<i32, String> {
    let stats = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse::<i32>().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let mut words = rest.split(' ');
        let (state, parent) = (words.next()?, words.next()?.parse::<i32>().ok()?);
        (state != "Z").then(|| (id, (parent, name.to_owned())))
    });
    let all: BTreeMap<i32, (i32, String)> = stats.collect();
    let own = i32::try_from(std::process::id()).unwrap();
    let is_below = |id: &i32| {
        let parents = std::iter::successors(all.get(id), |(parent, _)| all.get(parent));
        parents.take(64).any(|(parent, _)| *parent == own)
    };
    all.iter().filter(|(id, _)| is_below(id)).map(|(id, (_, name))| (*id, name.clone())).collect()
}

/// Makes this process the parent of all orphans below it, and kills at its end those that are left. One test of a
/// process at a time has it.
struct Orphanage {
    _one: MutexGuard<'static, ()>,
}

impl Orphanage {
    fn open() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        Self { _one: one }
    }

    fn wait_until_empty(&self) {
        wait_until(Duration::from_secs(10), || descendants().is_empty(), || format!("left: {:?}", descendants()));
    }
}

impl Drop for Orphanage {
    fn drop(&mut self) {
        for id in descendants().into_keys().filter_map(Pid::from_raw) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// The end of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The process alone is killed.
    Killed,
    /// Its process group is killed: nextest does so after a timeout.
    GroupKilled,
    Panicked,
    Returned,
}

fn none_is_left(end: End) {
    let folder = tempfile::tempdir().unwrap();
    let orphanage = Orphanage::open();
    let ready = folder.path().join("ready");
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "--ignored", "--nocapture", "every_kind_of_server"]);
    test.env("LEFTOVERS_FOLDER", folder.path()).env("LEFTOVERS_END", format!("{end:?}"));
    let mut test = test.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until(Duration::from_secs(60), || ready.exists(), || format!("{:?}", descendants()));
    let names: Vec<String> = descendants().into_values().collect();
    for program in PROGRAMS {
        assert!(names.iter().any(|name| name == program), "{program} does not run: {names:?}");
    }
    let id = Pid::from_child(&test);
    match end {
        End::Killed => kill_process(id, Signal::KILL).unwrap(),
        End::GroupKilled => kill_process_group(id, Signal::KILL).unwrap(),
        End::Panicked | End::Returned => fs::write(folder.path().join("end"), "").unwrap(),
    }
    assert_eq!(test.wait().unwrap().code(), [None, None, Some(101), Some(0)][end as usize]);
    orphanage.wait_until_empty();
}

#[test]
fn killed_test_leaves_no_process() {
    none_is_left(End::Killed);
}

#[test]
fn test_whose_process_group_is_killed_leaves_no_process() {
    none_is_left(End::GroupKilled);
}

#[test]
fn panicking_test_leaves_no_process() {
    none_is_left(End::Panicked);
}

#[test]
fn passed_test_leaves_no_process() {
    none_is_left(End::Returned);
}

/// A book whose command has one child in its session and one that left it.
const BUSY: &str = "  tasks:\n    - name: busy\n      command: {shell: 'setsid sleep 1000 & sleep 1000'}\n";

/// The test that is ended.
#[test]
#[ignore = "the other tests of this file run it"]
fn every_kind_of_server() {
    let folder = PathBuf::from(std::env::var_os("LEFTOVERS_FOLDER").unwrap());
    let repository = Repository::new(&folder, "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("book.yaml", book("busy", BUSY));
    repository.publish("busy");
    let _https = Https::start(&folder.join("https"), &folder);
    let ssh = Ssh::start(&folder.join("ssh"));
    let _session = session(&ssh, &folder);
    let _etcd = Etcd::single(&folder, "etcd");
    let _gpg = GpgSigner::new(&folder, "gpg", "never");
    let mut daemon = Command::new("git");
    daemon.args(["daemon", &format!("--port={}", free_port()), "--listen=127.0.0.1"]).arg(&folder);
    let _daemon = Running::start(&daemon, Stdio::null(), Stdio::null());
    let node = Node::new(&folder, &format!("url: {}", repository.bare.display()));
    let _agent = node.start();
    let sleeps = || descendants().into_values().filter(|name| name == "sleep").count();
    wait_until(Duration::from_secs(30), || sleeps() >= 3, || format!("{:?}\n{}", descendants(), node.log()));
    fs::write(folder.join("ready"), "").unwrap();
    while !folder.join("end").exists() {
        thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(std::env::var("LEFTOVERS_END").unwrap(), "Panicked", "it was asked to");
}

/// A command that runs over ssh, in a session of its own.
fn session(ssh: &Ssh, folder: &Path) -> Running {
    let mut client = Command::new("ssh");
    client.args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o"]);
    client.arg(format!("UserKnownHostsFile={}", ssh.known_hosts.display())).arg("-i").arg(&ssh.key);
    client.args(["-p", &ssh.port.to_string(), "root@127.0.0.1", "sleep", "1000"]);
    let log = fs::File::create(folder.join("ssh.log")).unwrap();
    Running::start(&client, Stdio::null(), log)
}

#[test]
fn dropped_owner_leaves_no_process() {
    let orphanage = Orphanage::open();
    for end in [Signal::KILL, Signal::STOP, Signal::TERM] {
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sh -c 'trap \"\" TERM; sleep 1000; true' & (sleep 1000 &) ; sleep 1000; true"]);
        let running = Running::start(&command, Stdio::null(), Stdio::null());
        let sleeps = || descendants().into_values().filter(|name| name == "sleep").count();
        wait_until(Duration::from_secs(10), || sleeps() == 3, || format!("{:?}", descendants()));
        running.signal(end);
        drop(running);
        assert_eq!(descendants(), BTreeMap::new(), "{end:?}");
    }
    drop(orphanage);
}

#[test]
fn children_of_a_killed_command_live_until_its_owner_is_dropped() {
    let _orphanage = Orphanage::open();
    let mut command = Command::new("sh");
    let mut running = Running::start(command.args(["-c", "sleep 1000; true"]), Stdio::null(), Stdio::null());
    let names = || descendants().into_values().collect::<Vec<_>>();
    wait_until(Duration::from_secs(10), || names().contains(&"sleep".to_owned()), || format!("{:?}", names()));
    running.kill();
    assert!(names().contains(&"sleep".to_owned()), "{:?}", names());
    drop(running);
    assert_eq!(names(), Vec::<String>::new());
}
