//! Real machines: systemd, D-Bus, PackageKit and polkit, each with a disk, a name and an address of its own.
//!
//! A fleet has a hub, a network namespace with a bridge. What all machines talk to (etcd, git) runs there, at `HUB`;
//! nothing else is reached from there, and nothing there from outside. Fleets do not see one another.

pub mod image;
pub mod server;
pub mod site;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{Running, ok, output, wait_until};

/// The hub's address.
pub const HUB: &str = "10.77.0.1";

const TIMEOUT: Duration = Duration::from_secs(60);

/// Becomes systemd-nspawn: in control groups of its own (else all machines would share them), and with a /run/systemd
/// that is a tmpfs (else nspawn refuses to clean up after itself).
const BOOT: &str = r#"for group in $MACHINE_GROUPS; do mkdir -p $group && echo $$ > $group/cgroup.procs || exit; done
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && exec systemd-nspawn "$@""#;

/// Machines on one bridge, `n0` the first of them; they end with the test.
#[derive(Debug)]
pub struct NspawnHosts {
    name: String,
    folder: PathBuf,
    binds: Vec<String>,
    machines: Vec<Machine>,
    /// The lock that keeps other processes from removing the fleet.
    _held: File,
}

/// The process of systemd-nspawn, and the thread that starts it again after a reboot.
#[derive(Debug, Default)]
struct Machine {
    nspawn: Arc<AtomicU32>,
    keeper: Option<JoinHandle<()>>,
}

impl NspawnHosts {
    /// Starts machines, and waits until they are up. They see folders of this machine, read-only: `(here, there)`.
    pub fn start(count: usize, binds: &[(&Path, &str)]) -> Self {
        let mut machines = Self::prepare(count, binds);
        (0..count).for_each(|number| machines.boot(number));
        (0..count).for_each(|number| machines.wait_up(number));
        machines
    }

    /// Makes the disks and the network of machines that are switched on later.
    pub fn prepare(count: usize, binds: &[(&Path, &str)]) -> Self {
        static FLEETS: AtomicU32 = AtomicU32::new(0);
        let fleets = image::cache().join("fleets");
        let _one_at_a_time = image::lock(&image::cache().join("fleets.lock"));
        let base = image::base();
        for folder in fs::read_dir(&fleets).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            // The lock is free, because its process was killed.
            if File::open(folder.join("held")).is_ok_and(|held| held.try_lock().is_ok()) {
                clear(&folder);
            }
        }
        let name = format!("tp{}x{}", std::process::id(), FLEETS.fetch_add(1, SeqCst));
        let folder = fleets.join(&name);
        let _held = image::lock(&folder.join("held"));
        let binds = binds.iter().map(|(here, there)| format!("--bind-ro={}:{there}", here.display())).collect();
        let fleet = Self { name, folder, binds, machines: (0..count).map(|_| Machine::default()).collect(), _held };
        let hub = fleet.namespace("hub");
        ip(&format!("netns add {hub}"));
        for rest in ["link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0", "link set br0 up"] {
            ip(&format!("-n {hub} {rest}"));
        }
        (0..count).for_each(|number| fleet.make(number, &base));
        fleet
    }

    /// A disk and a network card.
    fn make(&self, number: usize, base: &Path) {
        let (hub, machine) = (self.namespace("hub"), self.namespace(number));
        ip(&format!("netns add {machine}"));
        ip(&format!("-n {machine} link set lo up"));
        ip(&format!("-n {hub} link add v{number} type veth peer name host0 netns {machine}"));
        ip(&format!("-n {hub} link set v{number} master br0 up"));
        ip(&format!("-n {machine} addr add {}/24 dev host0", self.address(number)));
        ip(&format!("-n {machine} link set host0 up"));
        ip(&format!("-n {machine} route add default via {HUB}"));
        let disk = self.folder.join(number.to_string());
        ["upper", "work", "root"].iter().for_each(|folder| fs::create_dir_all(disk.join(folder)).unwrap());
        let (base, disk) = (base.display(), disk.display());
        let layers = format!("lowerdir={base},upperdir={disk}/upper,workdir={disk}/work");
        ok(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(self.root(number)));
        let others = (0..self.machines.len()).map(|other| format!("{} n{other}\n", self.address(other)));
        self.put(number, "/etc/hosts", format!("127.0.0.1 localhost\n{HUB} hub\n{}", others.collect::<String>()));
        self.put(number, "/etc/hostname", format!("n{number}\n"));
        self.put(number, "/etc/machine-id", format!("{:024x}{:08x}\n", std::process::id(), number + 1));
    }

    fn namespace(&self, of: impl std::fmt::Display) -> String {
        format!("{}-{of}", self.name)
    }

    /// A machine's address.
    pub fn address(&self, number: usize) -> String {
        format!("10.77.0.{}", 10 + number)
    }

    /// A machine's disk, whether it is on or off; but not its /run and /tmp.
    pub fn root(&self, number: usize) -> PathBuf {
        self.folder.join(number.to_string()).join("root")
    }

    /// All that a machine that is on has below /, such as the sockets in /run.
    pub fn live(&self, number: usize) -> PathBuf {
        self.try_live(number).unwrap_or_else(|| panic!("n{number} is off"))
    }

    /// The same, where the machine is on.
    pub fn try_live(&self, number: usize) -> Option<PathBuf> {
        Some(format!("/proc/{}/root", self.leader(number)?).into())
    }

    /// Writes a file of a machine's disk.
    pub fn put(&self, number: usize, path: &str, bytes: impl AsRef<[u8]>) {
        let file = self.root(number).join(path.trim_start_matches('/'));
        assert!(!file.is_symlink(), "{path} is a link, which may lead out of n{number}");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    /// A command that will run in the hub.
    pub fn hub(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace("hub"))).args(arguments);
        command
    }

    /// A command that will run in a machine, and may do more there than its services may.
    pub fn command(&self, number: usize, arguments: &[&str]) -> Command {
        inside(self.leader(number).unwrap_or_else(|| panic!("n{number} is off")), arguments)
    }

    /// Runs a command in a machine.
    pub fn exec(&self, number: usize, arguments: &[&str]) -> Output {
        output(&mut self.command(number, arguments))
    }

    /// Pulls a machine's cable.
    pub fn cut(&self, number: usize) {
        ip(&format!("-n {} link set v{number} down", self.namespace("hub")));
    }

    /// Puts a machine's cable back.
    pub fn heal(&self, number: usize) {
        ip(&format!("-n {} link set v{number} up", self.namespace("hub")));
    }

    /// Nothing goes between two machines any more; both still reach the hub.
    pub fn part(&self, one: usize, other: usize) {
        let table = format!("bridge part_{}_{}", one.min(other), one.max(other));
        let rules = format!(
            "add table {table}; add chain {table} pair {{ type filter hook forward priority 0; }}; \
             add rule {table} pair iifname v{one} oifname v{other} drop; \
             add rule {table} pair iifname v{other} oifname v{one} drop"
        );
        ok(&mut self.hub(&["nft", &rules]));
    }

    /// Two machines that were parted reach each other again.
    pub fn join(&self, one: usize, other: usize) {
        ok(&mut self.hub(&["nft", &format!("delete table bridge part_{}_{}", one.min(other), one.max(other))]));
    }

    /// Switches a machine on. Its root may do to its own network what it likes.
    pub fn boot(&mut self, number: usize) {
        let name = self.namespace(number);
        let groups = groups(&name);
        let log = File::options().create(true).append(true).open(self.root(number).with_file_name("console")).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", "sh", "-c", BOOT, "sh"])
            .args(["-q", "--boot", "--register=no", "--keep-unit", "--resolv-conf=off", "--console=read-only"])
            .arg("--capability=CAP_NET_ADMIN")
            .args([format!("--machine={name}"), format!("--network-namespace-path=/run/netns/{name}")])
            .arg(format!("--directory={}", self.root(number).display()))
            .args(&self.binds)
            .env("MACHINE_GROUPS", groups.join(" "))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
        let machine = &mut self.machines[number];
        assert!(machine.keeper.as_ref().is_none_or(JoinHandle::is_finished), "n{number} is on already");
        let nspawn = Arc::clone(&machine.nspawn);
        let run = move || {
            let mut running = Running::start(&command, log.try_clone().unwrap(), log.try_clone().unwrap());
            nspawn.store(running.id(), SeqCst);
            running.wait().code()
        };
        // It ends with 133 when the machine is to be started again.
        machine.keeper = Some(thread::spawn(move || while run() == Some(133) {}));
    }

    /// The process of a machine's systemd, when it is on.
    fn leader(&self, number: usize) -> Option<u32> {
        self.machines[number].keeper.as_ref().filter(|keeper| !keeper.is_finished())?;
        let nspawn = self.machines[number].nspawn.load(SeqCst);
        let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
        let child = children.trim().parse::<u32>().ok()?;
        let begun = fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "systemd");
        begun.then_some(child)
    }

    /// Waits until a machine has booted.
    pub fn wait_up(&self, number: usize) {
        let state = |leader| output(&mut inside(leader, &["systemctl", "is-system-running"])).stdout;
        let booted = |leader| matches!(state(leader).trim_ascii(), b"running" | b"degraded");
        let log = || fs::read_to_string(self.root(number).with_file_name("console")).unwrap_or_default();
        wait_until(TIMEOUT, || self.leader(number).is_some_and(booted), log);
    }

    /// Has a machine reboot itself, and waits until it is up again.
    pub fn reboot(&self, number: usize) {
        let before = self.leader(number);
        self.exec(number, &["systemctl", "reboot", "--no-block"]);
        let rebooted = || self.leader(number).is_some_and(|leader| Some(leader) != before);
        wait_until(TIMEOUT, rebooted, || format!("n{number} does not reboot"));
        self.wait_up(number);
    }

    /// Takes a machine's power away: all that runs there is killed, its disk stays.
    pub fn kill(&self, number: usize) {
        let gone = || {
            self.leader(number).into_iter().for_each(|leader| kill(&leader.to_string()));
            self.machines[number].keeper.as_ref().is_none_or(JoinHandle::is_finished)
        };
        wait_until(TIMEOUT, gone, || format!("n{number} does not die"));
    }
}

impl Drop for NspawnHosts {
    fn drop(&mut self) {
        clear(&self.folder);
    }
}

/// A command that will run in the machine with this systemd, as root and with nothing of this machine's environment.
fn inside(leader: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"]).args(arguments);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", "/root").env("LANG", "C.UTF-8");
    command
}

fn ip(arguments: &str) {
    ok(Command::new("ip").args(arguments.split(' ')));
}

fn kill(process: &str) {
    let _ = Command::new("kill").args(["-KILL", process]).stderr(Stdio::null()).status();
}

/// A folder in each tree of control groups that systemd looks at: two where version 1 is still there, else one.
fn groups(name: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let trees = mounts.lines().filter(|line| line.contains(" cgroup2 ") || line.contains("name=systemd"));
    trees.map(|line| format!("{}/{name}", line.split(' ').nth(1).unwrap())).collect()
}

/// Ends what runs in a fleet, and removes its control groups, namespaces, mounts and disks.
fn clear(folder: &Path) {
    let fleet = folder.file_name().unwrap().to_string_lossy();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let numbers = entries.filter_map(|name| name.to_str()?.parse::<u32>().ok()).map(|number| number.to_string());
    let begin = Instant::now();
    for part in numbers.chain(["hub".to_owned()]) {
        let name = format!("{fleet}-{part}");
        let groups = groups(&name);
        while groups.iter().any(|group| !remove_group(Path::new(group))) && begin.elapsed() < TIMEOUT {
            groups.iter().for_each(|group| drop(fs::write(format!("{group}/cgroup.kill"), "1")));
            thread::sleep(Duration::from_millis(5));
        }
        let inside = output(Command::new("ip").args(["netns", "pids", &name])).stdout;
        String::from_utf8_lossy(&inside).split_whitespace().for_each(kill);
        let _ = Command::new("umount").arg("-l").arg(folder.join(&part).join("root")).stderr(Stdio::null()).status();
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
    }
    let _ = fs::remove_dir_all(folder);
}

/// Removes a control group with all below it; false while something still runs there.
fn remove_group(group: &Path) -> bool {
    let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).for_each(|path| _ = remove_group(&path));
    let _ = fs::remove_dir(group);
    !group.exists()
}
