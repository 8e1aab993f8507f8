//! One gossip member, as a state machine without a thread and without a clock. The inputs of the state machine are
//! received messages and the time. The outputs of the state machine are messages to send, and the liveness of other
//! nodes.
//!
//! The gossip library `foca` implements the algorithm SWIM (Das, Gupta, Motivala 2002). The option `periodic_gossip` of
//! `foca` is off, because the option makes members send messages even if nothing has changed. After a change, such as
//! the suspicion that a node is lost, a member sends gossip to a few members several times (P99).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::{NonZeroU8, NonZeroUsize},
    sync::Arc,
    time::{Duration, Instant},
};

use foca::{AccumulatingRuntime, Foca, OwnedNotification, PeriodicParams, PostcardCodec};
use rand::{SeedableRng as _, rngs::SmallRng};

use super::{
    announcements::Announcements,
    broadcast::{Announced, Broadcast, BroadcastState, Holds, Payload},
    joining::Joining,
    member_id::MemberId,
    rounds::Rounds,
    timers::Timers,
};
use crate::accept::AcceptedId;

/// The liveness of a node as gossip sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// The node answers the probes of gossip.
    Alive,
    /// The node did not answer a probe of another node, and still has time to prove that it is alive.
    Suspect,
    /// The suspected node did not prove in time that it is alive.
    Lost,
    /// The node announced its departure.
    Left,
    /// Gossip has not received any data about the node.
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

/// An event that gossip reports to the agent of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// The named node is alive.
    Joined(String),
    /// The node that the variant names has announced its departure.
    Left(String),
    /// The named node is lost.
    Lost(String),
    /// Another node has announced an acceptance with the highest generation so far.
    Accepted(Announced),
    /// The slots of another node have changed.
    Slots,
}

/// The interval at which a member probes another member.
const PERIOD: Duration = Duration::from_secs(1);
/// The time in which a member must answer a probe. If the member does not answer in time, other members also probe the
/// silent member.
const ANSWER: Duration = Duration::from_millis(500);
/// The time that a suspected member has to prove that it is alive.
const SUSPICION: Duration = Duration::from_secs(4);
/// The maximum size of a gossip message, in bytes. A gossip message of 16 KiB can contain the names of a thousand
/// nodes. Larger messages slow down the start of a large fleet.
pub const LARGEST: usize = 16 << 10;

/// Returns the number of times that each member sends one update, in a fleet of `nodes` nodes. The number is four for
/// each decimal digit of `nodes`, plus one.
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

/// One gossip member: this node's view of the other nodes, and its messages to them.
pub struct Member {
    foca: Foca<MemberId, PostcardCodec, SmallRng, BroadcastState>,
    broadcasts: BroadcastState,
    runtime: AccumulatingRuntime<MemberId>,
    timers: Timers,
    sends: Vec<(MemberId, Vec<u8>)>,
    events: Vec<MembershipEvent>,
    announcements: Announcements,
    joining: Joining,
    rounds: Rounds,
    /// The number of alive nodes for which the gossip library `foca` is configured.
    nodes: usize,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("me", self.foca.identity()).finish_non_exhaustive()
    }
}

impl Member {
    /// Creates a gossip member that knows no other member.
    pub fn new(me: MemberId, seed: u64, now: Instant) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        let broadcasts = BroadcastState::default();
        Self {
            foca: Foca::with_custom_broadcast(me, config(1), random, PostcardCodec, broadcasts.clone()),
            broadcasts,
            runtime: AccumulatingRuntime::new(),
            timers: Timers::default(),
            sends: Vec::new(),
            events: Vec::new(),
            announcements: Announcements::default(),
            joining: Joining::new(seed, now),
            rounds: Rounds::new(now),
            nodes: 1,
        }
    }

    /// Returns the number of other members that are alive.
    pub fn others(&self) -> usize {
        self.foca.num_members()
    }

    /// Sets the names of the nodes that this member may ask to join. This member sends join requests to the nodes that
    /// gossip does not know yet.
    pub fn seeds(&mut self, seeds: Vec<String>, now: Instant) {
        self.joining.seeds(seeds, now);
    }

    /// Sends join requests to other nodes, if a join request is due.
    fn ask_member(&mut self, now: Instant) {
        if !self.joining.is_due(now) {
            return;
        }
        let names = || self.foca.iter_membership_state().map(|member| &*member.id().name);
        let known: Option<BTreeSet<&str>> = (self.others() > 0).then(|| names().collect());
        let asked = self.joining.choose(known.as_ref(), now);
        for node in asked {
            let done = self.foca.announce(MemberId::new(node, 0), &mut self.runtime);
            self.after(done, now);
        }
    }

    /// Handles a message of a node. The member rejects a message that names a sender other than `from`.
    ///
    /// # Errors
    /// Returns an error with the reason if the member rejects the message.
    pub fn receive(&mut self, from: &str, message: &[u8], now: Instant) -> Result<(), String> {
        let (header, _) =
            postcard::take_from_bytes::<foca::Header<MemberId>>(message).map_err(|error| error.to_string())?;
        if *header.src.name != *from {
            return Err(format!("node {from} sent a message in the name of node {}", header.src.name));
        }
        let done = self.foca.handle_data(message, &mut self.runtime);
        self.after(done, now);
        Ok(())
    }

    /// Does the work that is due at `now`: runs timers, sends gossip, and sends requests to join.
    pub fn tick(&mut self, now: Instant) {
        self.timers.measure_delay(now, SUSPICION);
        while let Some(timer) = self.timers.take_due(now) {
            let done = self.foca.handle_timer(timer, &mut self.runtime);
            self.after(done, now);
        }
        if self.announcements.take_repetition(now) {
            self.broadcast_acceptance(now);
            if !self.announcements.holds().partitions.is_empty() {
                self.broadcast_slots(now);
            }
        }
        self.send_on(now);
        self.ask_member(now);
    }

    /// Sends gossip to some members, if a round of gossip is due.
    fn send_on(&mut self, now: Instant) {
        if self.rounds.take_due(now, self.backoff()) {
            let done = self.foca.gossip(&mut self.runtime);
            // `foca` removes news from its backlog after enough transmissions.
            self.rounds.sent(self.pending_broadcasts());
            self.after(done, now);
        }
    }

    /// Returns the number of broadcasts that the gossip library `foca` must still send.
    fn pending_broadcasts(&self) -> usize {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog()
    }

    /// Returns the time at which the caller must call `tick` next.
    pub fn next(&self) -> Option<Instant> {
        let times = [self.timers.next(), self.rounds.next(), self.joining.next(), self.announcements.next()];
        times.into_iter().flatten().min()
    }

    /// Announces to all members the acceptance that this node has adopted.
    pub fn accepted(&mut self, id: AcceptedId, now: Instant) {
        let by = self.foca.identity().name.to_string();
        if self.announcements.adopt(Announced { id, by }) {
            self.broadcast_acceptance(now);
        }
    }

    /// Announces to all members the partitions in which this node holds a slot, with the sequence number of its newest
    /// write to the store.
    pub fn holds(&mut self, holds: Holds, now: Instant) {
        if self.announcements.hold(holds) {
            self.broadcast_slots(now);
        }
    }

    fn broadcast_slots(&mut self, now: Instant) {
        let Holds { number, partitions } = self.announcements.holds().clone();
        self.broadcast(self.foca.identity().name.to_string(), number, Payload::Holds(partitions), now);
    }

    /// Returns the newest report of each other node about the slots that it holds.
    pub fn held(&self) -> BTreeMap<String, Holds> {
        self.broadcasts.lock().holds.clone()
    }

    fn broadcast_acceptance(&mut self, now: Instant) {
        let Announced { id, by } = self.announcements.accepted().clone();
        if id.generation > 0 {
            self.broadcast(by, id.generation, Payload::Accepted(id), now);
        }
    }

    /// Announces to all members that this node leaves.
    pub fn leave(&mut self, now: Instant) {
        let incarnation = self.foca.identity().began;
        self.broadcast(self.foca.identity().name.to_string(), incarnation, Payload::Leaves, now);
        let done = self.foca.leave_cluster(&mut self.runtime);
        self.after(done, now);
    }

    fn broadcast(&mut self, node: String, number: u64, what: Payload, now: Instant) {
        let broadcast = Broadcast { node, number, what };
        let Ok(bytes) = postcard::to_stdvec(&broadcast) else { return };
        let done = self.foca.add_broadcast(&bytes).map(drop);
        self.after(done, now);
    }

    /// Returns the duration by which this member delays work that is not urgent. The delay is zero if this member
    /// handles its timers in time.
    pub fn backoff(&self) -> Duration {
        self.timers.backoff()
    }

    /// Returns the messages to send, and removes them from the member.
    pub fn sends(&mut self) -> Vec<(MemberId, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// Returns the gossip events since the previous call.
    pub fn take_events(&mut self) -> Vec<MembershipEvent> {
        std::mem::take(&mut self.events)
    }

    /// Returns true if the liveness of other nodes may have changed since the previous call.
    pub fn has_news(&mut self) -> bool {
        self.rounds.take_news()
    }

    /// Returns the liveness of each other node about which gossip has received data.
    pub fn liveness_by_node(&self) -> BTreeMap<Arc<str>, Liveness> {
        let states = self.foca.iter_membership_state();
        states.map(|member| (Arc::clone(&member.id().name), self.liveness_of(member))).collect()
    }

    fn liveness_of(&self, member: &foca::Member<MemberId>) -> Liveness {
        let said = self
            .broadcasts
            .lock()
            .left
            .get(&*member.id().name)
            .is_some_and(|incarnation| *incarnation >= member.id().began);
        match member.state() {
            foca::State::Alive => Liveness::Alive,
            foca::State::Suspect => Liveness::Suspect,
            // A node that answers is alive, even if other members report that it has left.
            foca::State::Down if said => Liveness::Left,
            foca::State::Down => Liveness::Lost,
        }
    }

    /// Processes the results of a call to the gossip library foca: events, messages to send, and timers.
    fn after(&mut self, done: Result<(), foca::Error>, now: Instant) {
        if let Err(error) = done {
            tracing::debug!(%error, "ignored a gossip message that cannot be decoded");
        }
        let (pending, events) = (self.pending_broadcasts(), self.events.len());
        self.notice(now);
        let nodes = self.others() + 1;
        if transmissions(nodes) != transmissions(self.nodes) {
            self.nodes = nodes;
            // `foca` rejects this only if periodic work is switched on or off, and that never changes here.
            let _ = self.foca.set_config(config(nodes));
        }
        // News that replaces older news does not enlarge the backlog, but it is an event.
        self.rounds.note(pending, self.events.len() > events);
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.sends.push((to, bytes.to_vec()));
        }
        while let Some((delay, timer)) = self.runtime.to_schedule() {
            self.timers.schedule(now + delay, timer);
        }
    }

    fn notice(&mut self, now: Instant) {
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(member_id) => {
                    self.announcements.note_joined(now);
                    self.events.push(MembershipEvent::Joined(member_id.name.to_string()));
                }
                OwnedNotification::MemberDown(member_id) => {
                    let left = self
                        .broadcasts
                        .lock()
                        .left
                        .get(&*member_id.name)
                        .is_some_and(|known| *known >= member_id.began);
                    let name = member_id.name.to_string();
                    self.events.push(if left { MembershipEvent::Left(name) } else { MembershipEvent::Lost(name) });
                }
                _ => {}
            }
        }
        let listener = self.broadcasts.lock();
        let highest = self.announcements.is_below(&listener.accepted).then(|| listener.accepted.clone());
        let slots = self.announcements.note_slots(listener.changed);
        drop(listener);
        if let Some(highest) = highest {
            self.announcements.hear(&highest);
            self.events.push(MembershipEvent::Accepted(highest));
        }
        if slots {
            self.events.push(MembershipEvent::Slots);
        }
    }
}
