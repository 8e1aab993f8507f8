//! Measures how soon all members know of a crash, and counts false alarms, while all processors are busy.
//! Run by hand: cargo run --release -p towpath-tests --bin crowd -- memory 1000 600, or -- processes 50 600 (the seconds
//! of load; needs TOWPATH_BIN).

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use towpath_coordination::gossip::{
    Gossip, Options, PackRequest, Peers,
    core::{Liveness, MembershipEvent},
};
use towpath_host::SystemClock;
use towpath_tests::{etcd::Etcd, fleet::Fleet, output, towpath};

/// All members of one process; what is sent to one that is dead is lost.
#[derive(Debug, Default)]
struct Room {
    members: OnceLock<Vec<Gossip>>,
    dead: Mutex<Option<usize>>,
}

/// One member's way to the others.
#[derive(Debug)]
struct Door {
    room: Arc<Room>,
    number: usize,
}

impl Peers for Door {
    fn send(&self, node: &str, _: &str, message: Vec<u8>) {
        let to: usize = node.trim_start_matches('n').parse().unwrap();
        let dead = *self.room.dead.lock().unwrap();
        if let Some(members) = self.room.members.get().filter(|_| dead != Some(to) && dead != Some(self.number)) {
            members[to].receive(&format!("n{}", self.number), message);
        }
    }

    fn refused(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn acceptance(&self, _: &str, _: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        Err("no node accepts a revision in this measurement".into())
    }

    fn fetch_pack(&self, _: &str, _: &str, _: &PackRequest, _: &Path) -> Result<(), String> {
        Err("no node has a repository in this measurement".into())
    }
}

/// Keeps all processors busy until it is dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut number = 1_u64;
                while !stop.load(Ordering::Relaxed) {
                    number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> Option<Duration> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if holds() {
            return Some(begin.elapsed());
        }
        thread::sleep(Duration::from_millis(100));
    }
    None
}

fn memory(count: usize, seconds: u64) {
    let room = Arc::<Room>::default();
    let lost = Arc::<Mutex<Vec<String>>>::default();
    let begin = |number: usize| {
        let peers = Arc::new(Door { room: Arc::clone(&room), number });
        let lost = Arc::clone(&lost);
        let notify = move |heard| {
            if let MembershipEvent::Lost(node) = heard {
                lost.lock().unwrap().push(node);
            }
        };
        let clock = Arc::new(SystemClock);
        Gossip::begin(Options { node: format!("n{number}"), incarnation: 1, port: 1, clock, peers }, notify).unwrap()
    };
    room.members.set((0..count).map(begin).collect()).unwrap();
    let members = room.members.get().unwrap();
    let seeds: BTreeMap<String, String> = (0..count).map(|number| (format!("n{number}"), "127.0.0.1".into())).collect();
    for (number, member) in members.iter().enumerate() {
        let mut others = seeds.clone();
        others.remove(&format!("n{number}"));
        member.seeds(others);
    }
    let all = |liveness: Liveness, of: usize| {
        let name = format!("n{of}");
        members.iter().enumerate().all(|(number, member)| number == of || member.liveness_of(&name) == liveness)
    };
    let joined = until(Duration::from_secs(300), || (0..count).step_by(50).all(|of| all(Liveness::Alive, of)));
    println!("{count} members in one process: every 50th known to all after {joined:.1?}");
    // The memory of the start is not part of the measurement.
    thread::sleep(Duration::from_secs(30));
    println!("thought lost until then, and 30 s on: {} times", lost.lock().unwrap().len());
    let before = lost.lock().unwrap().len();
    let load = Load::begin();
    thread::sleep(Duration::from_secs(seconds));
    let false_ones = lost.lock().unwrap().len() - before;
    println!("under full load for {seconds} s: thought lost {false_ones} times");
    *room.dead.lock().unwrap() = Some(7);
    println!(
        "a crash, still under load: lost for all after {:.1?}",
        until(Duration::from_secs(60), || all(Liveness::Lost, 7))
    );
    drop(load);
}

fn processes(count: usize, seconds: u64) {
    let mut fleet = Fleet::secured(count, |folder| Etcd::single(folder, "etcd"));
    let liveness_of = |fleet: &Fleet, of: usize, by: &str, about: usize| {
        let nodes = fleet.nodes[of].ask(&["nodes"]).unwrap_or_default();
        let name = format!("n{about}");
        let found = nodes.as_array().and_then(|nodes| nodes.iter().find(|node| node["name"] == name.as_str()).cloned());
        found.unwrap_or_default()[by].as_str().unwrap_or_default().to_owned()
    };
    let lost = |fleet: &Fleet| {
        let of = |node: &towpath_tests::node::Node| {
            let events = output(towpath().args(["events", "--output", "json", "--socket"]).arg(&node.socket));
            String::from_utf8_lossy(&events.stdout).lines().filter(|line| line.contains("\"node.lost\"")).count()
        };
        fleet.nodes.iter().map(of).sum::<usize>()
    };
    println!("{count} agents over TLS have joined");
    let before = lost(&fleet);
    let load = Load::begin();
    thread::sleep(Duration::from_secs(seconds));
    println!("under full load for {seconds} s: thought lost {} times", lost(&fleet) - before);
    fleet.agents[count - 1] = None;
    let begin = Instant::now();
    // Every tenth is asked: to ask all takes longer than what is measured.
    let asked: Vec<usize> = (0..count - 1).step_by(10).collect();
    for by in ["gossip", "lease"] {
        let after =
            until(Duration::from_secs(90), || asked.iter().all(|of| liveness_of(&fleet, *of, by, count - 1) == "lost"));
        println!("a crash, still under load: lost by {by} {:.1?} after it ({})", begin.elapsed(), after.is_some());
    }
    drop(load);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok());
    match (arguments.get(1).map(String::as_str), number(2), number(3)) {
        (Some("memory"), Some(count), Some(seconds)) => memory(count as usize, seconds),
        (Some("processes"), Some(count), Some(seconds)) => processes(count as usize, seconds),
        _ => println!("crowd memory|processes COUNT SECONDS"),
    }
}
