//! Failure detection among the nodes themselves: who is there, who is lost, also while the store is away.
//!
//! [`core`] is one member, pure; here it gets a thread, a clock, and [`Peers`] to speak through. Does not know how
//! messages travel, nor who may speak: whoever hands them in has seen to that.

pub mod core;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use towpath_host::Clock;

use self::core::{Heard, Life, Liveness, Member};

/// How messages travel between nodes.
pub trait Peers: fmt::Debug + Send + Sync {
    /// Sends a message to a node at HOST:PORT. What does not arrive is lost; nobody waits for it.
    fn send(&self, node: &str, address: &str, message: Vec<u8>);

    /// Why a node refused this one's certificate, or this one its, as far as that is so now: it is there, whatever
    /// the gossip makes of its silence.
    fn refused(&self) -> BTreeMap<String, String>;
}

/// Who may be there: nodes and where they are reached.
pub type Seeds = BTreeMap<String, String>;

/// How many messages may wait.
const WAITING: usize = 1024;
/// By when who is there has been heard.
const SETTLED: Duration = Duration::from_secs(15);
/// How old what is shown of the others may be while messages come.
const SHOWN: Duration = Duration::from_millis(200);
/// The stack of the thread.
const STACK: usize = 512 << 10;

enum Input {
    Message(String, Vec<u8>),
    Seeds(Seeds),
    Accepted(u64),
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
}

#[derive(Debug, Default)]
struct Seen {
    opinions: BTreeMap<String, Liveness>,
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
        let life = Life { name: node, began: life };
        let member = Member::new(life, seed, clock.monotonic());
        let began = clock.monotonic();
        let gossip =
            Self { inputs, seen: Arc::clone(&seen), peers: Arc::clone(&peers), clock: Arc::clone(&clock), began };
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

    /// Says which generation this node has accepted.
    pub fn accepted(&self, generation: u64) {
        let _ = self.inputs.send(Input::Accepted(generation));
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
            match inputs.recv_timeout(wait) {
                Ok(Input::Message(from, message)) => {
                    if let Err(why) = self.member.receive(&from, &message, self.clock.monotonic()) {
                        tracing::warn!(%from, "a message of the gossip was refused: {why}");
                    }
                }
                Ok(Input::Seeds(seeds)) => {
                    self.seeds = self.whole(seeds);
                    self.member.seeds(self.seeds.keys().cloned().collect());
                }
                Ok(Input::Accepted(generation)) => self.member.accepted(generation, self.clock.monotonic()),
                Ok(Input::Leave(done)) => {
                    self.member.leave(self.clock.monotonic());
                    self.flush();
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.member.tick(self.clock.monotonic());
            self.flush();
        }
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
            if let Some(address) = self.seeds.get(&to.name) {
                self.peers.send(&to.name, address, message);
            }
        }
        let (heard, now) = (self.member.heard(), self.clock.monotonic());
        // Not for each message: in a large fleet they are many, and say little.
        if !heard.is_empty() || now.duration_since(self.shown) >= SHOWN {
            self.shown = now;
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).opinions = self.member.opinions();
        }
        for heard in heard {
            (self.tell)(heard);
        }
    }
}
