//! Failure detection among the nodes themselves: who is there, who is lost, also while the store is away.
//!
//! [`core`] is one member, pure; here it gets a thread, a clock, and [`Peers`] to speak through. Does not know how
//! messages travel, nor who may speak: whoever hands them in has seen to that.

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

/// How messages travel between nodes.
pub trait Peers: fmt::Debug + Send + Sync {
    /// Sends a message to a node at HOST:PORT. What does not arrive is lost; nobody waits for it.
    fn send(&self, node: &str, address: &str, message: Vec<u8>);

    /// Why a node refused this one's certificate, or this one its, as far as that is so now: it is there, whatever
    /// the gossip makes of its silence.
    fn refused(&self) -> BTreeMap<String, String>;

    /// Asks a node for the record of its acceptance and the table that came with it, as they stand in the data store.
    /// Waits for the answer.
    ///
    /// # Errors
    /// Why there is none.
    fn acceptance(&self, node: &str, address: &str) -> Result<(Vec<u8>, Vec<u8>), String>;

    /// Asks a node for a pack, and writes it to a file. Waits for the answer.
    ///
    /// # Errors
    /// Why there is none.
    fn pack(&self, node: &str, address: &str, wanted: &Wanted, into: &Path) -> Result<(), String>;
}

/// A pack that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The source.
    pub source: String,
    /// The commit of the accepted revision.
    pub commit: String,
    /// What is there already, with all that it descends from.
    pub have: Option<String>,
    /// How large the pack may be.
    pub bytes: u64,
    /// How long it may take.
    pub time: Duration,
}

/// Who may be there: nodes and where they are reached.
pub type Seeds = BTreeMap<String, String>;

/// How many messages may wait.
const WAITING: usize = 1024;
/// By when who is there has been heard.
const SETTLED: Duration = Duration::from_secs(15);
/// How old what is shown of the others may be while there is news, and while there is none that could be seen.
const SHOWN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(2);
/// How many nodes are asked for what one of them must have.
const ASKED: usize = 5;
/// The stack of the thread.
const STACK: usize = 512 << 10;

enum Input {
    Message(String, Vec<u8>),
    Seeds(Seeds),
    Accepted(u64, String),
    Holds(Holds),
    Leave(Sender<()>),
}

/// A node's ears among the others.
#[derive(Debug, Clone)]
pub struct Gossip {
    inputs: SyncSender<Input>,
    seen: Arc<Mutex<Seen>>,
    peers: Arc<dyn Peers>,
    clock: Arc<dyn Clock>,
    began: Instant,
    /// Another one for each node: not all ask the same.
    seed: usize,
}

#[derive(Debug, Default)]
struct Seen {
    opinions: BTreeMap<Arc<str>, Liveness>,
    addresses: Seeds,
    announced: Announced,
    holds: BTreeMap<String, Holds>,
}

/// What a member is made from.
#[derive(Debug)]
pub struct Options {
    /// The node.
    pub node: String,
    /// The number of this life of it: larger than that of every earlier one.
    pub life: u64,
    /// The port of the others, where git names none.
    pub port: u16,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// How messages travel.
    pub peers: Arc<dyn Peers>,
}

impl Gossip {
    /// Begins; what is heard is told to a function, from a thread of its own.
    ///
    /// # Errors
    /// When the thread can't be started.
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

    /// Hands in a message that a node sent, which has shown that it is that node.
    pub fn receive(&self, from: &str, message: Vec<u8>) {
        // What comes faster than it can be read is lost, as on any network.
        let _ = self.inputs.try_send(Input::Message(from.to_owned(), message));
    }

    /// Says who may be there.
    pub fn seeds(&self, seeds: Seeds) {
        let _ = self.inputs.send(Input::Seeds(seeds));
    }

    /// Says which generation this node has accepted, and the digest of its record.
    pub fn accepted(&self, generation: u64, digest: String) {
        let _ = self.inputs.send(Input::Accepted(generation, digest));
    }

    /// Says in which parts of budgets this node holds a slot, with the number of what it has written last.
    pub fn holds(&self, holds: Holds) {
        let _ = self.inputs.send(Input::Holds(holds));
    }

    /// Who has told that it holds a slot of a part of a budget, and the number of what it had written last.
    pub fn holders(&self, part: &str) -> BTreeMap<String, u64> {
        let seen = self.lock();
        let of_part = seen.holds.iter().filter(|(_, holds)| holds.parts.iter().any(|held| held == part));
        of_part.map(|(node, holds)| (node.clone(), holds.number)).collect()
    }

    /// The highest acceptance that another node has told of.
    pub fn announced(&self) -> Announced {
        self.lock().announced.clone()
    }

    /// Who answers, and where: the one that is asked first, if it is among them, then the others from a place of their
    /// own for each asker.
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
        // Stable: the others stay in their order.
        nodes.sort_by_key(|(node, _)| node != first);
        nodes.truncate(ASKED);
        nodes
    }

    /// Asks some of those who answer for something, one after the other.
    ///
    /// # Errors
    /// What each of them said.
    pub fn ask<T>(
        &self,
        first: &str,
        question: impl Fn(&dyn Peers, &str, &str) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut told = Vec::new();
        for (node, address) in self.answering(first) {
            match question(self.peers.as_ref(), &node, &address) {
                Ok(answer) => return Ok(answer),
                Err(why) => told.push(format!("{node}: {why}")),
            }
        }
        Err(if told.is_empty() { "no other node answers".into() } else { told.join("; ") })
    }

    /// Says good-bye, and waits until that was sent.
    pub fn leave(&self) {
        let (done, waiting) = channel();
        if self.inputs.send(Input::Leave(done)).is_ok() {
            let _ = waiting.recv_timeout(Duration::from_secs(2));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is thought of a node.
    pub fn opinion(&self, node: &str) -> Liveness {
        let opinion = self.lock().opinions.get(node).copied().unwrap_or(Liveness::Unknown);
        // A certificate that is refused is no death.
        let silent = matches!(opinion, Liveness::Lost | Liveness::Suspect);
        if silent && self.peers.refused().contains_key(node) { Liveness::Unknown } else { opinion }
    }

    /// Whether the nodes agree that one is lost. One that nobody has heard of since this node began may have been lost
    /// before; but somebody must have been asked.
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

    /// Who refuses whom, and why.
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
    /// When what is thought was shown last.
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
            // What has come is heard before what is due is done: an answer that waits here is no silence.
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

    /// Takes what has come; says whether this was the end.
    fn take(&mut self, input: Input) -> bool {
        let now = self.clock.monotonic();
        match input {
            Input::Message(from, message) => {
                if let Err(why) = self.member.receive(&from, &message, now) {
                    tracing::warn!(%from, "a message of the gossip was refused: {why}");
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

    /// Addresses with their ports.
    fn whole(&self, seeds: Seeds) -> Seeds {
        let whole = |address: String| match address.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => address,
            Err(_) => format!("{address}:{}", self.port),
        };
        seeds.into_iter().map(|(node, address)| (node, whole(address))).collect()
    }

    /// Sends, shows and tells what came of a step.
    fn flush(&mut self) {
        for (to, message) in self.member.sends() {
            // Where a node is reached, git says.
            if let Some(address) = self.seeds.get(&*to.name) {
                self.peers.send(&to.name, address, message);
            }
        }
        let (heard, now) = (self.member.heard(), self.clock.monotonic());
        // Not for each message: in a large fleet they are many, and say little.
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
