//! Failure detection among the nodes: which nodes are alive or lost, even while the store is away.
//!
//! [`core`] is one member without effects. Here it gets a thread, a clock, and [`Peers`] as its transport. This module
//! does not know the transport, nor does it authenticate senders: the caller of [`Gossip::receive`] has done that.

pub mod broadcast;
pub mod core;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use towpath_host::Clock;

use self::{
    broadcast::{Announced, Holds},
    core::{Heard, Life, Liveness, Member},
};

/// The transport of messages between nodes.
pub trait Peers: fmt::Debug + Send + Sync {
    /// Sends a message to a node at HOST:PORT. A message that does not arrive is lost, and this does not wait for it.
    fn send(&self, node: &str, address: &str, message: Vec<u8>);

    /// Returns the nodes with a refused certificate (this node's or theirs), with the reasons, as of now. Such a node
    /// is alive, even though gossip does not hear from it.
    fn refused(&self) -> BTreeMap<String, String>;

    /// Asks a node for its acceptance record and manifest, as they are in the data store. Waits for the answer.
    ///
    /// # Errors
    /// The reason why there is no answer.
    fn acceptance(&self, node: &str, address: &str) -> Result<(Vec<u8>, Vec<u8>), String>;

    /// Asks a node for a pack, and writes it to a file. Waits for the answer.
    ///
    /// # Errors
    /// The reason why there is no answer.
    fn pack(&self, node: &str, address: &str, wanted: &Wanted, into: &Path) -> Result<(), String>;
}

/// A request for a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The source.
    pub source: String,
    /// The commit of the accepted revision.
    pub commit: String,
    /// A commit that this node has already, with all its ancestors. `None`: it has none.
    pub have: Option<String>,
    /// The largest size of the pack, in bytes.
    pub bytes: u64,
    /// The longest duration of the transfer.
    pub time: Duration,
}

/// The nodes that may be alive, with their addresses.
pub type Seeds = BTreeMap<String, String>;

/// The maximum number of messages that wait for the thread.
const WAITING: usize = 1024;
/// The time within which gossip hears of every alive node.
const SETTLED: Duration = Duration::from_secs(15);
/// The largest age of the published liveness while there is news, and while there is none.
const SHOWN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(2);
/// The most nodes that are asked one question.
const ASKED: usize = 5;
/// The stack size of the thread, in bytes.
const STACK: usize = 512 << 10;

enum Input {
    Message(String, Vec<u8>),
    Seeds(Seeds),
    Accepted(u64, String),
    Holds(Holds),
    Leave(Sender<()>),
}

/// A handle of this node's gossip.
#[derive(Debug, Clone)]
pub struct Gossip {
    inputs: SyncSender<Input>,
    seen: Arc<Mutex<Seen>>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// A number that differs by node, so that nodes do not all ask the same ones.
    seed: usize,
}

#[derive(Debug, Default)]
struct Seen {
    opinions: BTreeMap<Arc<str>, Liveness>,
    addresses: Seeds,
    announced: Announced,
    holds: BTreeMap<String, Holds>,
}

/// The settings of a member.
#[derive(Debug)]
pub struct Options {
    /// The node.
    pub node: String,
    /// The incarnation of the node. It is larger than each earlier one.
    pub life: u64,
    /// The port of other nodes if git names none.
    pub port: u16,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The transport.
    pub peers: Arc<dyn Peers>,
}

impl Gossip {
    /// Starts the gossip on its own thread. That thread calls `tell` with each event.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn begin(options: Options, tell: impl Fn(Heard) + Send + 'static) -> std::io::Result<Self> {
        let Options { node, life, port, clock, peers } = options;
        let (inputs, received) = sync_channel(WAITING);
        let seen = Arc::<Mutex<Seen>>::default();
        let seed = node.bytes().fold(life, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let life = Life::new(node, life);
        let member = Member::new(life, seed, clock.monotonic());
        let began = clock.monotonic();
        let gossip = Self {
            inputs,
            seen: Arc::clone(&seen),
            peers: Arc::clone(&peers),
            clock: Arc::clone(&clock),
            began,
            seed: usize::try_from(seed >> 32).unwrap_or(0),
        };
        let seeds = Seeds::new();
        let mut thread = Thread { member, port, clock, peers, seen, seeds, shown: began, tell: Box::new(tell) };
        thread::Builder::new().name("gossip".into()).stack_size(STACK).spawn(move || thread.run(&received))?;
        Ok(gossip)
    }

    /// Takes a message of a node. The caller has authenticated that node.
    pub fn receive(&self, from: &str, message: Vec<u8>) {
        // A message that arrives faster than the thread reads is lost, as on any network.
        let _ = self.inputs.try_send(Input::Message(from.to_owned(), message));
    }

    /// Sets the nodes that may be alive.
    pub fn seeds(&self, seeds: Seeds) {
        let _ = self.inputs.send(Input::Seeds(seeds));
    }

    /// Broadcasts the generation that this node has accepted, and the digest of its record.
    pub fn accepted(&self, generation: u64, digest: String) {
        let _ = self.inputs.send(Input::Accepted(generation, digest));
    }

    /// Broadcasts the partitions in which this node holds a slot, with the sequence number of its last write.
    pub fn holds(&self, holds: Holds) {
        let _ = self.inputs.send(Input::Holds(holds));
    }

    /// Returns the nodes that report a slot of a partition, with the sequence numbers of their last writes.
    pub fn holders(&self, part: &str) -> BTreeMap<String, u64> {
        let seen = self.lock();
        let of_part = seen.holds.iter().filter(|(_, holds)| holds.parts.iter().any(|held| held == part));
        of_part.map(|(node, holds)| (node.clone(), holds.number)).collect()
    }

    /// Returns the highest acceptance that another node has announced.
    pub fn announced(&self) -> Announced {
        self.lock().announced.clone()
    }

    /// Returns alive nodes with their addresses, at most five. The preferred one comes first if it is alive. The others
    /// follow in an order that differs by node.
    fn answering(&self, first: &str) -> Vec<(String, String)> {
        let seen = self.lock();
        let alive = |node: &str| seen.opinions.get(node) == Some(&Liveness::Alive);
        let mut nodes: Vec<(String, String)> = seen
            .addresses
            .iter()
            .filter(|(node, _)| alive(node))
            .map(|(node, address)| (node.clone(), address.clone()))
            .collect();
        if !nodes.is_empty() {
            let turn = self.seed % nodes.len();
            nodes.rotate_left(turn);
        }
        // The sort is stable, so the others keep their order.
        nodes.sort_by_key(|(node, _)| node != first);
        nodes.truncate(ASKED);
        nodes
    }

    /// Asks some alive nodes a question, one after the other, until one answers.
    ///
    /// # Errors
    /// The errors of all nodes that were asked.
    pub fn ask<T>(
        &self,
        first: &str,
        question: impl Fn(&dyn Peers, &str, &str) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut failures = Vec::new();
        for (node, address) in self.answering(first) {
            match question(self.peers.as_ref(), &node, &address) {
                Ok(answer) => return Ok(answer),
                Err(why) => failures.push(format!("{node}: {why}")),
            }
        }
        Err(if failures.is_empty() { "no other node answers".into() } else { failures.join("; ") })
    }

    /// Announces the departure of this node, and waits until the message was sent.
    pub fn leave(&self) {
        let (done, waiting) = channel();
        if self.inputs.send(Input::Leave(done)).is_ok() {
            let _ = waiting.recv_timeout(Duration::from_secs(2));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the liveness of a node.
    pub fn opinion(&self, node: &str) -> Liveness {
        let opinion = self.lock().opinions.get(node).copied().unwrap_or(Liveness::Unknown);
        // A node with a refused certificate is not lost (P102).
        let silent = matches!(opinion, Liveness::Lost | Liveness::Suspect);
        if silent && self.peers.refused().contains_key(node) { Liveness::Unknown } else { opinion }
    }

    /// Returns whether gossip considers a node lost. A node that gossip never heard of may have been lost before this
    /// one began. It counts as lost only after gossip had the time to hear of every alive node.
    pub fn thinks_lost(&self, node: &str) -> bool {
        match self.opinion(node) {
            Liveness::Lost | Liveness::Left => true,
            Liveness::Alive | Liveness::Suspect => false,
            Liveness::Unknown => {
                let heard = self.lock().opinions.contains_key(node);
                let since = self.clock.monotonic().duration_since(self.began);
                !heard && since >= SETTLED && !self.peers.refused().contains_key(node)
            }
        }
    }

    /// Returns the nodes with a refused certificate (this node's or theirs), with the reasons.
    pub fn refused(&self) -> BTreeMap<String, String> {
        self.peers.refused()
    }
}

struct Thread {
    member: Member,
    port: u16,
    clock: Arc<dyn Clock>,
    peers: Arc<dyn Peers>,
    seen: Arc<Mutex<Seen>>,
    seeds: Seeds,
    /// The time at which the liveness was last published.
    shown: Instant,
    tell: Box<dyn Fn(Heard) + Send>,
}

impl Thread {
    fn run(&mut self, inputs: &Receiver<Input>) {
        loop {
            let now = self.clock.monotonic();
            let wait = self.member.next().map_or(Duration::from_secs(60), |next| next.saturating_duration_since(now));
            let mut next = match inputs.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Waiting messages come before due timers, because an answer that waits here is not silence.
            for _ in 0..WAITING {
                let Some(input) = next else { break };
                if self.take(input) {
                    return;
                }
                self.flush();
                next = inputs.try_recv().ok();
            }
            self.member.tick(self.clock.monotonic());
            self.flush();
        }
    }

    /// Handles an input. Returns whether it was the last one.
    fn take(&mut self, input: Input) -> bool {
        let now = self.clock.monotonic();
        match input {
            Input::Message(from, message) => {
                if let Err(why) = self.member.receive(&from, &message, now) {
                    tracing::warn!(%from, "rejected a gossip message: {why}");
                }
            }
            Input::Seeds(seeds) => {
                self.seeds = self.whole(seeds);
                self.member.seeds(self.seeds.keys().cloned().collect(), now);
                self.see().addresses = self.seeds.clone();
            }
            Input::Accepted(generation, digest) => self.member.accepted(generation, digest, now),
            Input::Holds(holds) => self.member.holds(holds, now),
            Input::Leave(done) => {
                self.member.leave(now);
                self.flush();
                let _ = done.send(());
                return true;
            }
        }
        false
    }

    fn see(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the addresses with their ports.
    fn whole(&self, seeds: Seeds) -> Seeds {
        let whole = |address: String| match address.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => address,
            Err(_) => format!("{address}:{}", self.port),
        };
        seeds.into_iter().map(|(node, address)| (node, whole(address))).collect()
    }

    /// Sends messages, publishes the liveness, and reports the events of a step.
    fn flush(&mut self) {
        for (to, message) in self.member.sends() {
            // git names the address of each node.
            if let Some(address) = self.seeds.get(&*to.name) {
                self.peers.send(&to.name, address, message);
            }
        }
        let (heard, now) = (self.member.heard(), self.clock.monotonic());
        // Not after each message: a large fleet sends many, and most of them change nothing.
        let since = now.duration_since(self.shown);
        let urgent = heard.iter().any(|heard| matches!(heard, Heard::Lost(_) | Heard::Left(_)));
        if urgent || since >= SELDOM || since >= SHOWN + self.member.care() && self.member.has_news() {
            self.shown = now;
            self.see().opinions = self.member.opinions();
        }
        for heard in heard {
            match &heard {
                Heard::Accepted(announced) => self.see().announced = announced.clone(),
                Heard::Slots => self.see().holds = self.member.held(),
                _ => {}
            }
            (self.tell)(heard);
        }
    }
}
