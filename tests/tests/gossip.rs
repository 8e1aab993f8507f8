//! Lost nodes according to gossip, in virtual time: the members that agents run, over a network that delays and loses
//! messages. TOWPATH_SEED=N repeats a failing seed.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use towpath_coordination::{
    AcceptedId,
    gossip::{
        MemberId,
        broadcast::Announced,
        core::{Liveness, Member, MembershipEvent},
    },
};

/// Returns the acceptance that a member announces.
fn seventh() -> AcceptedId {
    AcceptedId { generation: 7, digest: "d7".into() }
}

/// A generator of pseudo-random numbers, which are the same for each seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// A message in transit, or a member with a timer. The earliest one is the greatest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due(std::cmp::Reverse<(Instant, u64)>, usize, Option<(usize, Vec<u8>)>);

struct World {
    now: Instant,
    members: Vec<Option<Member>>,
    numbers: BTreeMap<String, usize>,
    due: BinaryHeap<Due>,
    wakes: Vec<Option<Instant>>,
    counted: u64,
    messages: u64,
    chance: Chance,
    /// The number of messages that are lost of every 1,000.
    lossy: u64,
    /// The pairs that cannot reach each other.
    cut: BTreeSet<(usize, usize)>,
    heard: Vec<(Instant, usize, MembershipEvent)>,
}

impl World {
    fn new(count: usize, seed: u64, lossy: u64) -> Self {
        let now = Instant::now();
        let name = |number: usize| format!("n{number}");
        let members = (0..count)
            .map(|number| {
                let seed = seed.wrapping_mul(7919).wrapping_add(number as u64);
                Some(Member::new(MemberId::new(name(number), 1), seed, now))
            })
            .collect();
        let mut world = Self {
            now,
            members,
            numbers: (0..count).map(|number| (name(number), number)).collect(),
            due: BinaryHeap::new(),
            wakes: vec![None; count],
            counted: 0,
            messages: 0,
            chance: Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            lossy,
            cut: BTreeSet::new(),
            heard: Vec::new(),
        };
        for number in 0..count {
            if let Some(member) = &mut world.members[number] {
                member.seeds((0..count).filter(|other| *other != number).map(name).collect(), now);
                member.tick(now);
            }
            world.after(number);
        }
        world
    }

    /// Sends the messages of a member, and records its next timer.
    fn after(&mut self, number: usize) {
        let Some(member) = &mut self.members[number] else { return };
        let (sends, heard, next) = (member.sends(), member.take_events(), member.next());
        self.heard.extend(heard.into_iter().map(|heard| (self.now, number, heard)));
        for (to, bytes) in sends {
            self.messages += 1;
            let to = self.numbers[&*to.name];
            let late = Duration::from_millis(1 + self.chance.below(40));
            let lost = self.chance.below(1000) < self.lossy || self.cut.contains(&(number.min(to), number.max(to)));
            if !lost {
                self.counted += 1;
                self.due.push(Due(std::cmp::Reverse((self.now + late, self.counted)), to, Some((number, bytes))));
            }
        }
        if let Some(next) = next.filter(|next| self.wakes[number] != Some(*next)) {
            self.wakes[number] = Some(next);
            self.counted += 1;
            self.due.push(Due(std::cmp::Reverse((next.max(self.now), self.counted)), number, None));
        }
    }

    /// Advances the time until a condition holds, which is checked twice a second. `None` if it does not hold in time.
    fn run(&mut self, time: Duration, mut until: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        let mut look = begin;
        while self.now < begin + time {
            if self.now >= look {
                if until(self) {
                    return Some(self.now - begin);
                }
                look = self.now + Duration::from_millis(500);
            }
            let Some(Due(std::cmp::Reverse((at, _)), number, message)) = self.due.pop() else { break };
            self.now = self.now.max(at);
            let Some(member) = &mut self.members[number] else { continue };
            match message {
                Some((from, bytes)) => member.receive(&format!("n{from}"), &bytes, self.now).unwrap(),
                None => {
                    self.wakes[number] = None;
                    member.tick(self.now);
                }
            }
            self.after(number);
        }
        None
    }

    fn all_think(&self, of: &str, liveness: Liveness) -> bool {
        self.members.iter().enumerate().all(|(number, member)| {
            format!("n{number}") == of
                || member.as_ref().is_none_or(|member| member.liveness_by_node().get(of) == Some(&liveness))
        })
    }

    fn know_all(&self) -> bool {
        let count = self.members.len();
        self.members.iter().flatten().all(|member| member.others() == count - 1)
    }

    fn lost(&self) -> BTreeSet<&str> {
        let lost = |(_, _, heard): &'_ (Instant, usize, MembershipEvent)| matches!(heard, MembershipEvent::Lost(_));
        let name = |(_, _, heard): &'_ (Instant, usize, MembershipEvent)| match heard {
            MembershipEvent::Lost(name) => self.numbers.get_key_value(name).map(|(name, _)| name.as_str()),
            _ => None,
        };
        self.heard.iter().filter(|heard| lost(heard)).filter_map(name).collect()
    }
}

fn seed() -> u64 {
    std::env::var("TOWPATH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn crash_is_known_to_all_members_within_ten_seconds() {
    let count = if towpath_tests::long() { 1000 } else { 150 };
    let mut world = World::new(count, seed(), 10);
    let joined = world.run(Duration::from_secs(60), World::know_all).expect("not all have heard of all");
    assert_eq!(world.lost(), BTreeSet::new(), "a starting member was considered lost");
    let (quiet, before) = (if towpath_tests::long() { 600 } else { 30 }, world.messages);
    world.run(Duration::from_secs(quiet), |_| false);
    let cost = (world.messages - before) as f64 / count as f64 / quiet as f64;
    assert_eq!(world.lost(), BTreeSet::new(), "an alive member was considered lost");
    let mut slowest = Duration::ZERO;
    for dead in [17, 50, 149] {
        world.members[dead] = None;
        let name = format!("n{dead}");
        let heard = world.run(Duration::from_secs(30), |world| world.all_think(&name, Liveness::Lost));
        slowest = slowest.max(heard.expect("not all have heard of the crash"));
    }
    assert_eq!(world.lost(), BTreeSet::from(["n17", "n50", "n149"]));
    println!(
        "all joined after {joined:.1?}; {cost:.2} messages a node and second when nothing happens; lost known to all after {slowest:.1?} at most"
    );
    assert!(slowest <= Duration::from_secs(10), "{slowest:?}");
}

#[test]
fn unconnected_pair_and_healed_partition_lose_no_member() {
    let mut world = World::new(12, seed(), 10);
    world.run(Duration::from_secs(30), World::know_all).expect("not all have heard of all");
    // A separated pair: the other members probe each of them.
    world.cut.insert((2, 7));
    world.run(Duration::from_secs(120), |_| false);
    assert_eq!(world.lost(), BTreeSet::new());
    world.cut.clear();
    // Two halves lose each other, and merge again.
    world.cut = (0..6).flat_map(|one| (6..12).map(move |other| (one, other))).collect();
    world.run(Duration::from_secs(30), |world| world.lost().len() == 12).expect("the halves do not lose each other");
    world.cut.clear();
    let healed = world.run(Duration::from_secs(60), |world| {
        (0..12).all(|number| world.all_think(&format!("n{number}"), Liveness::Alive))
    });
    println!("healed after {:.1?}", healed.expect("the halves do not find together again"));
}

#[test]
fn late_member_receives_an_earlier_acceptance() {
    let mut world = World::new(20, seed(), 10);
    let late = world.members[9].take();
    let all_others = |world: &World| world.members.iter().flatten().all(|member| member.others() == 18);
    world.run(Duration::from_secs(90), all_others).expect("not all have heard of all");
    let now = world.now;
    if let Some(member) = &mut world.members[3] {
        member.accepted(seventh(), now);
    }
    world.after(3);
    // After this time no member spreads the acceptance any more.
    world.run(Duration::from_secs(60), |_| false);
    world.members[9] = late;
    world.wakes[9] = None;
    if let Some(member) = &mut world.members[9] {
        member.tick(world.now);
    }
    world.after(9);
    let informed = |world: &World| {
        world.heard.iter().any(|(_, member, heard)| {
            *member == 9 && matches!(heard, MembershipEvent::Accepted(accepted) if accepted.id == seventh())
        })
    };
    world.run(Duration::from_secs(20), informed).expect("the late member has not heard of the acceptance");
}

#[test]
fn acceptance_and_departure_reach_all_members() {
    let mut world = World::new(50, seed(), 10);
    world.run(Duration::from_secs(30), World::know_all).expect("not all have heard of all");
    let now = world.now;
    if let Some(member) = &mut world.members[3] {
        member.accepted(seventh(), now);
    }
    world.after(3);
    let heard = world.run(Duration::from_secs(10), |world| {
        let announced = Announced { id: seventh(), by: "n3".into() };
        world.heard.iter().filter(|(_, _, heard)| *heard == MembershipEvent::Accepted(announced.clone())).count() == 49
    });
    assert!(heard.is_some(), "not all have heard of the acceptance");
    let now = world.now;
    if let Some(member) = &mut world.members[5] {
        member.leave(now);
    }
    world.after(5);
    world.members[5] = None;
    world
        .run(Duration::from_secs(20), |world| world.all_think("n5", Liveness::Left))
        .expect("not all know that it left");
    assert_eq!(world.lost(), BTreeSet::new());
}

#[test]
fn members_that_start_together_find_each_other() {
    for count in 2..60 {
        let mut world = World::new(count, seed() + count as u64, 10);
        let joined = world.run(Duration::from_secs(60), World::know_all);
        assert!(joined.is_some(), "of {count} nodes, not all have heard of all");
    }
}
