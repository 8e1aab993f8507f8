//! One member of the gossip, without a thread and without a clock. The member gets messages and the time as inputs. The
//! member returns messages to send, and the liveness of other nodes.
//!
//! The algorithm is SWIM (Das, Gupta, Motivala 2002) as foca implements it. foca's periodic gossip is off, because it
//! sends messages even if there is no news. A member with news, such as a suspicion, sends it to a few members in
//! several rounds (P99).

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt,
    num::{NonZeroU8, NonZeroUsize},
    sync::Arc,
    time::{Duration, Instant},
};

use foca::{AccumulatingRuntime, Foca, OwnedNotification, PeriodicParams, PostcardCodec};
use rand::{SeedableRng as _, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use super::broadcast::{Announced, Ears, Holds, Told, What};

/// The liveness of a node as gossip sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// The node answers the probes of gossip.
    Alive,
    /// The node did not answer another node, and may still refute the suspicion.
    Suspect,
    /// The node did not refute a suspicion in time.
    Lost,
    /// The node announced its departure.
    Left,
    /// Gossip has never heard of the node.
    Unknown,
}

impl Liveness {
    /// Returns the name of the liveness state, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Lost => "lost",
            Self::Left => "left",
            Self::Unknown => "unknown",
        }
    }
}

/// The name of a node, with its incarnation. A node that returns has a higher incarnation.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "(String, u64)")]
pub struct Life {
    /// The name of the node. The text is shared, because foca copies the name for each member that a message contains.
    pub name: Arc<str>,
    /// The incarnation of the node.
    pub began: u64,
    /// A hash of the name. foca compares each member of a message with all known members, so the comparison must be
    /// fast.
    key: u128,
}

impl Life {
    /// Creates the identity of a node in one incarnation.
    pub fn new(name: String, began: u64) -> Self {
        use std::hash::Hasher as _;
        let half = |salt: u8| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(name.as_bytes());
            u128::from(hasher.finish())
        };
        let key = half(0) << 64 | half(1);
        Self { name: name.into(), began, key }
    }
}

impl PartialEq for Life {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.began) == (other.key, other.began)
    }
}

impl Eq for Life {}

impl From<(String, u64)> for Life {
    fn from((name, began): (String, u64)) -> Self {
        Self::new(name, began)
    }
}

impl Serialize for Life {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.name, self.began).serialize(serializer)
    }
}

impl foca::Identity for Life {
    type Addr = u128;

    fn renew(&self) -> Option<Self> {
        Some(Self { began: self.began + 1, ..self.clone() })
    }

    fn addr(&self) -> u128 {
        self.key
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.began > adversary.began
    }
}

/// An event that gossip reports to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The named node is alive.
    Joined(String),
    /// The named node has announced its departure.
    Left(String),
    /// The named node is lost.
    Lost(String),
    /// A node has accepted a higher generation.
    Accepted(Announced),
    /// Another node has changed the slots that it reports.
    Slots,
}

/// The time between two probes of members.
const PERIOD: Duration = Duration::from_secs(1);
/// The time in which a member must answer a probe. After that time, other members probe it too.
const ANSWER: Duration = Duration::from_millis(500);
/// The time in which a suspected member may refute the suspicion.
const SUSPICION: Duration = Duration::from_secs(4);
/// The time between two rounds that send news. `ROUNDS` is the number of rounds.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: u8 = 3;
/// The delay from which a member counts as stalled, because its machine slept or is overloaded.
const STALL: Duration = Duration::from_millis(100);
/// The factor between the delay of a late member and the extra pause before its next round of news.
const CARE: u32 = 50;
const CARE_AT_MOST: Duration = Duration::from_secs(10);
/// The time after a join at which the last announcements are repeated. Many nodes may join in this time.
const AGAIN: Duration = Duration::from_secs(2);
/// The maximum size of a message in bytes. The size is enough for a thousand names. Larger messages slow down the start
/// of a large fleet.
pub const LARGEST: usize = 16 << 10;
/// The pause between two attempts to join while no other member is known. `SELDOM` is the longest pause between
/// requests to nodes that gossip has never heard of. `ASKED` is the number of nodes that one attempt asks.
const ALONE: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);
const ASKED: usize = 3;

/// Returns how often each member sends one piece of news: four times for each decimal digit of `nodes`, and once more.
fn transmissions(nodes: usize) -> NonZeroU8 {
    let digits = nodes.saturating_sub(1).checked_ilog10().map_or(1, |digits| digits + 1);
    NonZeroU8::new(u8::try_from(4 * digits + 1).unwrap_or(u8::MAX)).unwrap_or(NonZeroU8::MIN)
}

fn config(nodes: usize) -> foca::Config {
    let few = NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN);
    let one = NonZeroUsize::MIN;
    foca::Config {
        probe_period: PERIOD,
        probe_rtt: ANSWER,
        num_indirect_probes: few,
        max_transmissions: transmissions(nodes),
        suspect_to_down_after: SUSPICION,
        max_packet_size: NonZeroUsize::new(LARGEST).unwrap_or(NonZeroUsize::MIN),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(30), num_members: one }),
        // The two sides of a network partition find each other again.
        periodic_announce_to_down_members: Some(PeriodicParams { frequency: Duration::from_secs(5), num_members: few }),
        periodic_gossip: None,
        // The two sides of a network partition must not forget each other, however long the partition lasts.
        remove_down_after: None,
    }
}

/// A member of the gossip: the state of this node.
pub struct Member {
    foca: Foca<Life, PostcardCodec, SmallRng, Ears>,
    ears: Ears,
    runtime: AccumulatingRuntime<Life>,
    timers: BinaryHeap<Timer>,
    numbered: u64,
    sends: Vec<(Life, Vec<u8>)>,
    heard: Vec<Heard>,
    /// The highest acceptance that this node knows, which is its own or a received one.
    accepted: Announced,
    /// The last report of this node about the slots that it holds.
    holds: Holds,
    /// The number of changes of reported slots that this member has handled.
    changed: u64,
    /// The time at which announcements are repeated, because a node that has joined has not received them.
    again: Option<Instant>,
    /// The nodes that may be alive. The fields `turn` and `ask` are the position and the time of the next request to
    /// join.
    seeds: Vec<String>,
    turn: usize,
    ask: Instant,
    pause: Duration,
    /// The time of the next round that sends news. The field `rounds` is the number of rounds left.
    round: Instant,
    rounds: u8,
    /// The size of foca's backlog when it was last read.
    backlog: usize,
    /// The number of nodes for which foca was last configured.
    nodes: usize,
    /// True if there was news since the last call of `has_news`.
    news: bool,
    /// The delay with which this member does its work. A late member sends news less often, so that it still answers
    /// probes in time.
    late: Duration,
}

/// A timer of foca. The earliest timer compares as the greatest, because the heap returns the greatest element first.
struct Timer {
    at: Instant,
    number: u64,
    timer: foca::Timer<Life>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("me", self.foca.identity()).finish_non_exhaustive()
    }
}

impl Member {
    /// Creates a member that knows no other member.
    pub fn new(me: Life, seed: u64, now: Instant) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        let ears = Ears::default();
        Self {
            foca: Foca::with_custom_broadcast(me, config(1), random, PostcardCodec, ears.clone()),
            ears,
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            numbered: 0,
            sends: Vec::new(),
            heard: Vec::new(),
            accepted: Announced::default(),
            holds: Holds::default(),
            changed: 0,
            again: None,
            seeds: Vec::new(),
            turn: usize::try_from(seed % 1_000_003).unwrap_or(0),
            ask: now,
            pause: ALONE,
            round: now,
            rounds: 0,
            backlog: 0,
            nodes: 1,
            news: true,
            late: Duration::ZERO,
        }
    }

    /// Returns the number of other members that are alive.
    pub fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// Sets the nodes that may be alive. The member asks those of them that gossip has never heard of to admit it.
    pub fn seeds(&mut self, seeds: Vec<String>, now: Instant) {
        if self.seeds != seeds {
            self.pause = ALONE;
            self.ask = self.ask.min(now + ALONE);
        }
        self.seeds = seeds;
    }

    /// Asks nodes to admit this member. A member that knows no other member asks any of the given nodes. Later the
    /// member asks only nodes that gossip has never heard of. Nodes that start together and ask only one another would
    /// otherwise stay a separate group.
    fn ask_member(&mut self, now: Instant) {
        if self.seeds.is_empty() || now < self.ask {
            return;
        }
        let alone = self.others() == 0;
        let candidates: Vec<String> = if alone {
            self.seeds.clone()
        } else {
            let known: BTreeSet<&str> = self.foca.iter_membership_state().map(|member| &*member.id().name).collect();
            self.seeds.iter().filter(|seed| !known.contains(seed.as_str())).cloned().collect()
        };
        self.pause = if alone { ALONE } else { (self.pause * 2).min(SELDOM) };
        self.ask = now + self.pause;
        for _ in 0..if alone { ASKED } else { 1 }.min(candidates.len()) {
            // The large step prevents that nodes which start together all ask the same nodes.
            self.turn = self.turn.wrapping_add(7919);
            let to = Life::new(candidates[self.turn % candidates.len()].clone(), 0);
            let done = self.foca.announce(to, &mut self.runtime);
            self.after(done, now);
        }
    }

    /// Handles a message of a node. A message that names another sender is rejected.
    ///
    /// # Errors
    /// The reason for the rejection.
    pub fn receive(&mut self, from: &str, message: &[u8], now: Instant) -> Result<(), String> {
        let (header, _) =
            postcard::take_from_bytes::<foca::Header<Life>>(message).map_err(|error| error.to_string())?;
        if *header.src.name != *from {
            return Err(format!("node {from} sent a message in the name of {}", header.src.name));
        }
        let done = self.foca.handle_data(message, &mut self.runtime);
        self.after(done, now);
        Ok(())
    }

    /// Runs the timers that are due, sends news, and asks nodes to admit this member.
    pub fn tick(&mut self, now: Instant) {
        let late = self.timers.peek().map_or(Duration::ZERO, |timer| now.saturating_duration_since(timer.at));
        self.late = late.max(self.late / 2).min(SUSPICION);
        let late = late.min(SUSPICION);
        if late >= STALL {
            // A stalled member could not receive answers, so it cannot conclude that other members were silent. All
            // timers are postponed by the delay.
            self.timers = self.timers.drain().map(|timer| Timer { at: timer.at + late, ..timer }).collect();
        }
        while self.timers.peek().is_some_and(|timer| timer.at <= now) {
            let Some(timer) = self.timers.pop() else { return };
            let done = self.foca.handle_timer(timer.timer, &mut self.runtime);
            self.after(done, now);
        }
        if self.again.is_some_and(|again| again <= now) {
            self.tell_accepted(now);
            if !self.holds.parts.is_empty() {
                self.tell_holds(now);
            }
        }
        self.send_on(now);
        self.ask_member(now);
    }

    /// Sends news to some members, if a round is due.
    fn send_on(&mut self, now: Instant) {
        if self.rounds > 0 && self.round <= now {
            self.rounds -= 1;
            self.round = now + ROUND + self.care();
            let done = self.foca.gossip(&mut self.runtime);
            // foca removes news from its backlog after enough transmissions.
            self.backlog = self.pending_broadcasts();
            self.after(done, now);
        }
    }

    /// Returns the number of broadcasts that foca has not sent often enough.
    fn pending_broadcasts(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// Returns the time at which `tick` has to be called next.
    pub fn next(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|timer| timer.at);
        let round = (self.rounds > 0).then_some(self.round);
        let ask = (!self.seeds.is_empty()).then_some(self.ask);
        timer.into_iter().chain(round).chain(ask).chain(self.again).min()
    }

    /// Broadcasts the generation that this node has accepted, and the digest of its acceptance record.
    pub fn accepted(&mut self, generation: u64, digest: String, now: Instant) {
        if generation > self.accepted.generation {
            self.accepted = Announced { generation, digest, by: self.foca.identity().name.to_string() };
            self.tell_accepted(now);
        }
    }

    /// Broadcasts the partitions in which this node holds a slot, with the sequence number of its last write.
    pub fn holds(&mut self, holds: Holds, now: Instant) {
        if holds.number > self.holds.number {
            self.holds = holds;
            self.tell_holds(now);
        }
    }

    fn tell_holds(&mut self, now: Instant) {
        let Holds { number, parts } = self.holds.clone();
        self.say(self.foca.identity().name.to_string(), number, What::Holds(parts), now);
    }

    /// Returns the last report of each other node about the slots that it holds.
    pub fn held(&self) -> BTreeMap<String, Holds> {
        self.ears.lock().holds.clone()
    }

    fn tell_accepted(&mut self, now: Instant) {
        self.again = None;
        let Announced { generation, digest, by } = self.accepted.clone();
        if generation > 0 {
            self.say(by, generation, What::Accepted(generation, digest), now);
        }
    }

    /// Broadcasts that this node leaves.
    pub fn leave(&mut self, now: Instant) {
        let life = self.foca.identity().began;
        self.say(self.foca.identity().name.to_string(), life, What::Leaves, now);
        let done = self.foca.leave_cluster(&mut self.runtime);
        self.after(done, now);
    }

    fn say(&mut self, node: String, number: u64, what: What, now: Instant) {
        let broadcast = Told { node, number, what };
        let Ok(bytes) = postcard::to_stdvec(&broadcast) else { return };
        let done = self.foca.add_broadcast(&bytes).map(drop);
        self.after(done, now);
    }

    /// Returns the extra delay of work that is not urgent. The delay is zero unless this member is late.
    pub fn care(&self) -> Duration {
        (self.late * CARE).min(CARE_AT_MOST)
    }

    /// Returns the messages to send, and removes them from the member.
    pub fn sends(&mut self) -> Vec<(Life, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Returns the events since the last call.
    pub fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// Returns whether the liveness of other nodes may have changed since the last call.
    pub fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Returns the liveness of every other node that gossip has ever heard of.
    pub fn opinions(&self) -> BTreeMap<Arc<str>, Liveness> {
        let states = self.foca.iter_membership_state();
        states.map(|member| (Arc::clone(&member.id().name), self.opinion(member))).collect()
    }

    fn opinion(&self, member: &foca::Member<Life>) -> Liveness {
        let said = self.ears.lock().left.get(&*member.id().name).is_some_and(|life| *life >= member.id().began);
        match member.state() {
            foca::State::Alive => Liveness::Alive,
            foca::State::Suspect => Liveness::Suspect,
            // A node that answers is alive, even if other members report that it has left.
            foca::State::Down if said => Liveness::Left,
            foca::State::Down => Liveness::Lost,
        }
    }

    /// Handles the result of a call to foca, and schedules rounds for new broadcasts.
    fn after(&mut self, done: Result<(), foca::Error>, now: Instant) {
        if let Err(error) = done {
            tracing::debug!(%error, "ignored a gossip message that cannot be decoded");
        }
        let (pending, heard) = (self.pending_broadcasts(), self.heard.len());
        self.notice(now);
        let nodes = self.others() + 1;
        if transmissions(nodes) != transmissions(self.nodes) {
            self.nodes = nodes;
            // foca rejects this only if periodic work is switched on or off, and that never changes here.
            let _ = self.foca.set_config(config(nodes));
        }
        // News that replaces older news does not enlarge the backlog.
        if pending > self.backlog || self.heard.len() > heard {
            self.rounds = ROUNDS;
            self.news = true;
        }
        self.backlog = pending;
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.sends.push((to, bytes.to_vec()));
        }
        while let Some((delay, timer)) = self.runtime.to_schedule() {
            self.numbered += 1;
            self.timers.push(Timer { at: now + delay, number: self.numbered, timer });
        }
    }

    fn notice(&mut self, now: Instant) {
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(life) => {
                    self.again.get_or_insert(now + AGAIN);
                    self.heard.push(Heard::Joined(life.name.to_string()));
                }
                OwnedNotification::MemberDown(life) => {
                    let left = self.ears.lock().left.get(&*life.name).is_some_and(|known| *known >= life.began);
                    let name = life.name.to_string();
                    self.heard.push(if left { Heard::Left(name) } else { Heard::Lost(name) });
                }
                _ => {}
            }
        }
        let listener = self.ears.lock();
        let highest = (listener.accepted.generation > self.accepted.generation).then(|| listener.accepted.clone());
        let slots = listener.changed != self.changed;
        self.changed = listener.changed;
        drop(listener);
        if let Some(highest) = highest {
            self.accepted = highest.clone();
            self.heard.push(Heard::Accepted(highest));
        }
        if slots {
            self.heard.push(Heard::Slots);
        }
    }
}
