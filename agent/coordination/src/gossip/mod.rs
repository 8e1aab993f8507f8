//! Failure detection by gossip. Gossip shows which nodes are alive or lost, even while the data store does not answer.
//!
//! The module [`core`] implements one gossip member without side effects. This module runs the member on a thread, with
//! a clock, and with [`Peers`] as the transport. The caller of [`Gossip::receive`] must authenticate the sender of the
//! message first.

mod announcements;
pub mod broadcast;
pub mod core;
mod joining;
mod member_id;
mod rounds;
mod timers;

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
    core::{Liveness, Member, MembershipEvent},
};

pub use self::member_id::MemberId;
use crate::accept::AcceptedId;

/// The transport of messages between nodes.
pub trait Peers: fmt::Debug + Send + Sync {
    /// Sends a message to a node at the address `HOST:PORT`, and does not wait for the result. The message may be lost.
    fn send(&self, node: &str, address: &str, message: Vec<u8>);

    /// Returns the nodes to which this node cannot connect because one side rejects the certificate, each with the
    /// reason. A node in the result may be alive, although gossip receives no messages from it.
    fn refused(&self) -> BTreeMap<String, String>;

    /// Requests the acceptance record and its manifest from the node `node`. Waits for the answer.
    ///
    /// # Errors
    /// Returns an error with the reason if the node does not answer.
    fn acceptance(&self, node: &str, address: &str) -> Result<(Vec<u8>, Vec<u8>), String>;

    /// Requests a pack of git objects from a node, and writes the pack to the file `into`. Waits for the answer.
    ///
    /// # Errors
    /// Returns an error with the reason if the node does not answer.
    fn fetch_pack(&self, node: &str, address: &str, wanted: &PackRequest, into: &Path) -> Result<(), String>;
}

/// A request for a pack of git objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRequest {
    /// The name of the source that the pack belongs to.
    pub source: String,
    /// The commit of the accepted revision that the pack must contain.
    pub commit: String,
    /// A commit that this node already has with all its ancestors. The pack need not contain these commits. `None` if
    /// this node has no commit of the source.
    pub have: Option<String>,
    /// The maximum size of the pack, in bytes.
    pub bytes: u64,
    /// The maximum duration of the transfer.
    pub time: Duration,
}

/// The addresses of the nodes in git to which gossip may send messages, by the name of the node.
pub type Seeds = BTreeMap<String, String>;

/// The maximum number of messages in the queue of the gossip thread.
const WAITING: usize = 1024;
/// The time that gossip needs after its start to learn of every alive node.
const JOIN_PERIOD: Duration = Duration::from_secs(15);
/// The minimum time between two updates of the published liveness, if the liveness of a node may have changed. `SELDOM`
/// is the maximum time between two updates of the published liveness.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(2);
/// The maximum number of nodes to which this node sends the same request.
const PEERS_ASKED: usize = 5;
/// The stack size of the gossip thread, in bytes.
const STACK: usize = 512 << 10;

enum Input {
    Message(String, Vec<u8>),
    Seeds(Seeds),
    Accepted(AcceptedId),
    Holds(Holds),
    Leave(Sender<()>),
}

/// A handle by which the agent uses the gossip of this node.
#[derive(Debug, Clone)]
pub struct Gossip {
    inputs: SyncSender<Input>,
    seen: Arc<Mutex<Seen>>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// A number that differs from node to node, so that the nodes of a fleet send their requests to different nodes.
    seed: usize,
}

#[derive(Debug, Default)]
struct Seen {
    liveness_by_node: BTreeMap<Arc<str>, Liveness>,
    addresses: Seeds,
    announced: Announced,
    holds: BTreeMap<String, Holds>,
}

/// The settings of the gossip of this node.
#[derive(Debug)]
pub struct Options {
    /// The name of this node.
    pub node: String,
    /// The incarnation of this node, which must be higher than all its earlier incarnations.
    pub incarnation: u64,
    /// The port of each node whose address in git contains no port.
    pub port: u16,
    /// The clock that measures the timers of the gossip.
    pub clock: Arc<dyn Clock>,
    /// The transport of messages to other nodes.
    pub peers: Arc<dyn Peers>,
}

impl Gossip {
    /// Starts the gossip on its own thread. The thread calls `notify` with each event.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn begin(options: Options, notify: impl Fn(MembershipEvent) + Send + 'static) -> std::io::Result<Self> {
        let Options { node, incarnation, port, clock, peers } = options;
        let (inputs, received) = sync_channel(WAITING);
        let seen = Arc::<Mutex<Seen>>::default();
        let seed = node.bytes().fold(incarnation, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let member_id = MemberId::new(node, incarnation);
        let member = Member::new(member_id, seed, clock.monotonic());
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
        let mut thread = Thread { member, port, clock, peers, seen, seeds, shown: began, notify: Box::new(notify) };
        thread::Builder::new().name("gossip".into()).stack_size(STACK).spawn(move || thread.run(&received))?;
        Ok(gossip)
    }

    /// Passes a message of another node to the gossip thread. The caller must authenticate the sender `from` first.
    pub fn receive(&self, from: &str, message: Vec<u8>) {
        // If the queue of the gossip thread is full, the message is lost, as on any network.
        let _ = self.inputs.try_send(Input::Message(from.to_owned(), message));
    }

    /// Sets the addresses of the nodes to which gossip may send messages.
    pub fn seeds(&self, seeds: Seeds) {
        let _ = self.inputs.send(Input::Seeds(seeds));
    }

    /// Announces to all other nodes the acceptance that this node has adopted.
    pub fn accepted(&self, id: AcceptedId) {
        let _ = self.inputs.send(Input::Accepted(id));
    }

    /// Announces to all other nodes the partitions in which this node holds a slot, with the sequence number of its
    /// newest write to the store.
    pub fn holds(&self, holds: Holds) {
        let _ = self.inputs.send(Input::Holds(holds));
    }

    /// Returns the nodes that have announced a slot in a partition, each with the sequence number of its newest write
    /// to the store.
    pub fn holders(&self, partition: &str) -> BTreeMap<String, u64> {
        let seen = self.lock();
        let of_partition = seen.holds.iter().filter(|(_, holds)| holds.partitions.iter().any(|held| held == partition));
        of_partition.map(|(node, holds)| (node.clone(), holds.number)).collect()
    }

    /// Returns the acceptance with the highest generation that another node has announced.
    pub fn announced(&self) -> Announced {
        self.lock().announced.clone()
    }

    /// Returns the addresses of at most five alive nodes. The node `first` comes first if it is alive. The order of the
    /// other addresses differs from node to node.
    fn answering(&self, first: &str) -> Vec<(String, String)> {
        let seen = self.lock();
        let alive = |node: &str| seen.liveness_by_node.get(node) == Some(&Liveness::Alive);
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
        // The sort is stable, so the other nodes keep their order.
        nodes.sort_by_key(|(node, _)| node != first);
        nodes.truncate(PEERS_ASKED);
        nodes
    }

    /// Sends a request to alive nodes, one after another, until a node answers. The closure `question` sends the
    /// request to one node.
    ///
    /// # Errors
    /// Returns the errors of all asked nodes if no node answers.
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

    /// Announces the departure of this node, and waits until the announcement was sent.
    pub fn leave(&self) {
        let (done, waiting) = channel();
        if self.inputs.send(Input::Leave(done)).is_ok() {
            let _ = waiting.recv_timeout(Duration::from_secs(2));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the liveness of a node, as gossip sees it.
    pub fn liveness_of(&self, node: &str) -> Liveness {
        let liveness = self.lock().liveness_by_node.get(node).copied().unwrap_or(Liveness::Unknown);
        // A node whose certificate is refused counts as unknown, not as lost (P102).
        let silent = matches!(liveness, Liveness::Lost | Liveness::Suspect);
        if silent && self.peers.refused().contains_key(node) { Liveness::Unknown } else { liveness }
    }

    /// Returns true if gossip considers a node lost. If a node was lost before this node started, gossip receives no
    /// data about the lost node. A node about which gossip has received no data counts as lost 15 s after the start of
    /// gossip.
    pub fn considers_lost(&self, node: &str) -> bool {
        match self.liveness_of(node) {
            Liveness::Lost | Liveness::Left => true,
            Liveness::Alive | Liveness::Suspect => false,
            Liveness::Unknown => {
                let heard = self.lock().liveness_by_node.contains_key(node);
                let since = self.clock.monotonic().duration_since(self.began);
                !heard && since >= JOIN_PERIOD && !self.peers.refused().contains_key(node)
            }
        }
    }

    /// Returns the nodes to which this node cannot connect because one side rejects the certificate, each with the
    /// reason.
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
    /// The time at which the gossip thread last published the liveness of the nodes.
    shown: Instant,
    notify: Box<dyn Fn(MembershipEvent) + Send>,
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
            // Queued messages are handled before timers, because a member whose answer is in the queue was not silent.
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

    /// Handles an input. Returns true if this node leaves and the gossip thread must end.
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
            Input::Accepted(id) => self.member.accepted(id, now),
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

    /// Adds the default port to each address without a port.
    fn whole(&self, seeds: Seeds) -> Seeds {
        let whole = |address: String| match address.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => address,
            Err(_) => format!("{address}:{}", self.port),
        };
        seeds.into_iter().map(|(node, address)| (node, whole(address))).collect()
    }

    /// Sends the member's messages, publishes the liveness of nodes, and reports the member's events.
    fn flush(&mut self) {
        for (to, message) in self.member.sends() {
            // Only nodes with an address in git get messages.
            if let Some(address) = self.seeds.get(&*to.name) {
                self.peers.send(&to.name, address, message);
            }
        }
        let (events, now) = (self.member.take_events(), self.clock.monotonic());
        // The liveness is not published after each message, because a large fleet sends many messages that change
        // nothing.
        let since = now.duration_since(self.shown);
        let urgent = events.iter().any(|event| matches!(event, MembershipEvent::Lost(_) | MembershipEvent::Left(_)));
        if urgent || since >= SELDOM || since >= PUBLISH_INTERVAL + self.member.backoff() && self.member.has_news() {
            self.shown = now;
            self.see().liveness_by_node = self.member.liveness_by_node();
        }
        for event in events {
            match &event {
                MembershipEvent::Accepted(announced) => self.see().announced = announced.clone(),
                MembershipEvent::Slots => self.see().holds = self.member.held(),
                _ => {}
            }
            (self.notify)(event);
        }
    }
}
