//! One member of the gossip, without threads or clocks of its own: what it is given, what it sends, what it thinks.
//!
//! The algorithm is SWIM (Das, Gupta, Motivala 2002) as foca implements it. foca's periodic gossip is off: it costs as
//! much when nothing happens. Who has news, be it a suspicion, sends it to a few, a few times.

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

/// What is thought of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It did not answer somebody, and may still speak up.
    Suspect,
    /// It did not speak up.
    Lost,
    /// It said that it goes.
    Left,
    /// Nothing was heard of it.
    Unknown,
}

impl Liveness {
    /// How it is written.
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

/// One life of a node: who comes back is newer.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "(String, u64)")]
pub struct Life {
    /// The node. foca copies it for each member that a message names.
    pub name: Arc<str>,
    /// When it began.
    pub began: u64,
    /// A hash of the name: foca looks for a member by comparing it with all others, for each that a message names.
    key: u128,
}

impl Life {
    /// A life of a node that began at some time.
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

/// Something that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A node is there.
    Joined(String),
    /// A node said that it goes.
    Left(String),
    /// A node is lost.
    Lost(String),
    /// Somebody has accepted a generation.
    Accepted(Announced),
    /// Somebody has taken a slot, or given one back.
    Slots,
}

/// How often a member is asked whether it lives.
const PERIOD: Duration = Duration::from_secs(1);
/// How long it has before others ask for it.
const ANSWER: Duration = Duration::from_millis(500);
/// How long one that is suspected may speak up.
const SUSPICION: Duration = Duration::from_secs(4);
/// How often who has news sends them on, and how many times.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: u8 = 3;
/// A member that is so late was kept from its work: its machine slept, or has too much to do.
const STALL: Duration = Duration::from_millis(100);
/// How much longer the next round waits, for so much as a member is late.
const CARE: u32 = 50;
const CARE_AT_MOST: Duration = Duration::from_secs(10);
/// How long who has joined waits for what was accepted: many come at once.
const AGAIN: Duration = Duration::from_secs(2);
/// The largest message: names of about a thousand nodes. Larger ones make the beginning of a large fleet slow.
pub const LARGEST: usize = 16 << 10;
/// How often somebody is asked to be let in while nobody is there, and how many at once; how seldom, in the end, those of
/// whom nothing was ever heard.
const ALONE: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);
const ASKED: usize = 3;

/// How often news is sent on by each of so many nodes: four times the logarithm of their number, and one.
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
        // What a partition took apart finds together again.
        periodic_announce_to_down_members: Some(PeriodicParams { frequency: Duration::from_secs(5), num_members: few }),
        periodic_gossip: None,
        // However long a partition lasts: its halves must not forget each other.
        remove_down_after: None,
    }
}

/// One member.
pub struct Member {
    foca: Foca<Life, PostcardCodec, SmallRng, Ears>,
    ears: Ears,
    runtime: AccumulatingRuntime<Life>,
    timers: BinaryHeap<Timer>,
    numbered: u64,
    sends: Vec<(Life, Vec<u8>)>,
    heard: Vec<Heard>,
    /// The highest acceptance: this node's own, or one that it has heard of.
    accepted: Announced,
    /// What this node said last of the slots that it holds.
    holds: Holds,
    /// How many changes of what others hold were heard.
    changed: u64,
    /// When it is told again: who has joined since has not heard of it.
    again: Option<Instant>,
    /// Who may be there, whose turn it is to be asked, and when.
    seeds: Vec<String>,
    turn: usize,
    ask: Instant,
    pause: Duration,
    /// When news are sent on next, and how many times still.
    round: Instant,
    rounds: u8,
    /// How much foca had to tell when it was looked at last.
    backlog: usize,
    /// How many nodes there were when it was last decided how often news is sent on.
    nodes: usize,
    /// Whether there was news since that was asked last.
    news: bool,
    /// How late this member does what is due: who has too much to do sends news on more slowly, so that who asks
    /// whether it lives is answered still.
    late: Duration,
}

/// The one that is due first is the greatest.
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
    /// A member that knows nobody.
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

    /// How many others are there.
    pub fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// Says who may be there: those of whom nothing was heard are asked.
    pub fn seeds(&mut self, seeds: Vec<String>, now: Instant) {
        if self.seeds != seeds {
            self.pause = ALONE;
            self.ask = self.ask.min(now + ALONE);
        }
        self.seeds = seeds;
    }

    /// Asks to be let in: while nobody is there, somebody; then those of whom nothing was heard. Nodes that begin together
    /// and ask only one another would else stay among themselves.
    fn ask_somebody(&mut self, now: Instant) {
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
            // Wide steps, so that those who begin together do not all ask the same.
            self.turn = self.turn.wrapping_add(7919);
            let to = Life::new(candidates[self.turn % candidates.len()].clone(), 0);
            let done = self.foca.announce(to, &mut self.runtime);
            self.after(done, now);
        }
    }

    /// Takes a message that a node sent; one that is not what it says it is from is refused.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn receive(&mut self, from: &str, message: &[u8], now: Instant) -> Result<(), String> {
        let (header, _) =
            postcard::take_from_bytes::<foca::Header<Life>>(message).map_err(|error| error.to_string())?;
        if *header.src.name != *from {
            return Err(format!("{from} speaks as {}", header.src.name));
        }
        let done = self.foca.handle_data(message, &mut self.runtime);
        self.after(done, now);
        Ok(())
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let late = self.timers.peek().map_or(Duration::ZERO, |timer| now.saturating_duration_since(timer.at));
        self.late = late.max(self.late / 2).min(SUSPICION);
        let late = late.min(SUSPICION);
        if late >= STALL {
            // While this member did not get to hear anything nobody was silent: what is due counts from now on.
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
        self.ask_somebody(now);
    }

    /// Sends on what is new.
    fn send_on(&mut self, now: Instant) {
        if self.rounds > 0 && self.round <= now {
            self.rounds -= 1;
            self.round = now + ROUND + self.care();
            let done = self.foca.gossip(&mut self.runtime);
            // What was sent often enough is no longer told.
            self.backlog = self.told();
            self.after(done, now);
        }
    }

    fn told(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|timer| timer.at);
        let round = (self.rounds > 0).then_some(self.round);
        let ask = (!self.seeds.is_empty()).then_some(self.ask);
        timer.into_iter().chain(round).chain(ask).chain(self.again).min()
    }

    /// Tells all others which generation this node has accepted, and the digest of its record.
    pub fn accepted(&mut self, generation: u64, digest: String, now: Instant) {
        if generation > self.accepted.generation {
            self.accepted = Announced { generation, digest, by: self.foca.identity().name.to_string() };
            self.tell_accepted(now);
        }
    }

    /// Tells all others in which parts of budgets this node holds a slot, with the number of what it has written last.
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

    /// What the others said last of the slots that they hold.
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

    /// Says that this node goes.
    pub fn leave(&mut self, now: Instant) {
        let life = self.foca.identity().began;
        self.say(self.foca.identity().name.to_string(), life, What::Leaves, now);
        let done = self.foca.leave_cluster(&mut self.runtime);
        self.after(done, now);
    }

    fn say(&mut self, node: String, number: u64, what: What, now: Instant) {
        let told = Told { node, number, what };
        let Ok(bytes) = postcard::to_stdvec(&told) else { return };
        let done = self.foca.add_broadcast(&bytes).map(drop);
        self.after(done, now);
    }

    /// How much longer what is not urgent waits, as this member has too much to do.
    pub fn care(&self) -> Duration {
        (self.late * CARE).min(CARE_AT_MOST)
    }

    /// Takes what is to be sent.
    pub fn sends(&mut self) -> Vec<(Life, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Takes what was heard.
    pub fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.heard)
    }

    /// Whether there may be something new in what is thought of the others since this was asked last.
    pub fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What is thought of each node that was ever heard of, this one not included.
    pub fn opinions(&self) -> BTreeMap<Arc<str>, Liveness> {
        let states = self.foca.iter_membership_state();
        states.map(|member| (Arc::clone(&member.id().name), self.opinion(member))).collect()
    }

    fn opinion(&self, member: &foca::Member<Life>) -> Liveness {
        let said = self.ears.lock().left.get(&*member.id().name).is_some_and(|life| *life >= member.id().began);
        match member.state() {
            foca::State::Alive => Liveness::Alive,
            foca::State::Suspect => Liveness::Suspect,
            // Whatever others say that it said: who answers is there.
            foca::State::Down if said => Liveness::Left,
            foca::State::Down => Liveness::Lost,
        }
    }

    /// Sorts out what came of a step; what is new is sent on.
    fn after(&mut self, done: Result<(), foca::Error>, now: Instant) {
        if let Err(error) = done {
            tracing::debug!(%error, "a message of the gossip can't be used");
        }
        let (told, heard) = (self.told(), self.heard.len());
        self.notice(now);
        let nodes = self.others() + 1;
        if transmissions(nodes) != transmissions(self.nodes) {
            self.nodes = nodes;
            // It is refused only where periods come or go.
            let _ = self.foca.set_config(config(nodes));
        }
        // What takes the place of older news does not make them more.
        if told > self.backlog || self.heard.len() > heard {
            self.rounds = ROUNDS;
            self.news = true;
        }
        self.backlog = told;
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
