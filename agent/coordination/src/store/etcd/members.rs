//! The selection of etcd members. Decides which etcd member a request asks next, how long requests avoid a failed
//! member, and when the whole etcd cluster counts as unreachable (P132).
//!
//! All functions are pure. The functions of this file read no clock: the caller passes the time as a duration since an
//! arbitrary start. Other files in the folder `etcd` send the requests and read the clock.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::store::StoreError;

/// The time for which requests avoid a member after the first failure of the member. Each further failure doubles the
/// time for which requests avoid the member.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);

/// The maximum time for which requests avoid a failed member.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15);

/// The time for which a node repeats a request that no member answers, if etcd has answered an earlier request. In 10
/// s, the members of an etcd cluster can elect a new leader.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The minimum number of rounds in which a node sends a request to all members. At the first attempt of a request, the
/// members may still be without a leader.
const ROUNDS: u32 = 2;

/// The time for which new requests fail without an attempt, after no member has answered a request. When `AWAY` has
/// passed, one request tries the members again.
const AWAY: Duration = Duration::from_secs(1);

/// The time for which new requests fail without an attempt, after a member has rejected the node's credentials.
/// `REFUSED` is longer than `AWAY`, because each attempt costs the members a TLS handshake or the check of a password.
const REFUSED: Duration = Duration::from_secs(5);

/// The time after which a probe (a request during an outage) counts as abandoned, so that another request may try the
/// members.
const LONGEST_PROBE: Duration = Duration::from_secs(30);

/// The state of the members of an etcd cluster, as one node sees it.
#[derive(Debug)]
pub(super) struct Members {
    /// The indexes of the members, in this node's order of preference. The order differs from node to node, so that the
    /// nodes of a fleet use different members.
    order: Vec<usize>,
    /// The position in `order` of the member that requests ask first now.
    current: usize,
    /// The backoff of each member, by the index of the member.
    backoffs: Vec<Backoff>,
    outage: Option<Outage>,
    /// The time of the newest answer from any member. `None` before the first answer.
    answered: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
struct Backoff {
    failures: u32,
    until: Duration,
}

#[derive(Debug)]
struct Outage {
    error: StoreError,
    /// The time from which a probe (one request during the outage) may try the members.
    probe_from: Duration,
    /// The time at which the current probe began. `None` if no probe runs.
    probe: Option<Duration>,
}

/// The decision whether the node may send a request to the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// The request may be sent.
    Ask {
        /// True if the node asks all members again after a round without an answer.
        patient: bool,
    },
    /// The request fails without an attempt, because no member answered a moment ago. The variant contains the error of
    /// the earlier attempt.
    Refused(StoreError),
}

impl Members {
    pub(super) fn new(node: &str, endpoints: &[String]) -> Self {
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        order.sort_by_key(|member| rank(node, endpoints.get(*member).map_or("", String::as_str)));
        let backoffs = vec![Backoff::default(); endpoints.len()];
        Self { order, current: 0, backoffs, outage: None, answered: None }
    }

    /// Decides whether the node may send a request now. During an outage, only one request at a time may try the
    /// members.
    pub(super) fn admit(&mut self, now: Duration) -> Admission {
        let Some(outage) = &mut self.outage else { return Admission::Ask { patient: self.answered.is_some() } };
        let probed = outage.probe.is_some_and(|begun| now < begun + LONGEST_PROBE);
        if now < outage.probe_from || probed {
            return Admission::Refused(outage.error.clone());
        }
        outage.probe = Some(now);
        Admission::Ask { patient: false }
    }

    /// Returns all members, in the order in which a request asks them. The current member is first. Failed members are
    /// last, but not left out, because a request fails only if no member answers.
    pub(super) fn round(&self, now: Duration) -> Vec<usize> {
        let count = self.order.len();
        let mut round: Vec<usize> =
            (0..count).filter_map(|step| self.order.get((self.current + step) % count).copied()).collect();
        // The sort is stable, so members that are not avoided keep their order.
        round.sort_by_key(|member| self.avoided(*member, now));
        round
    }

    /// Returns the time until which requests avoid a member. `None` if requests do not avoid the member.
    fn avoided(&self, member: usize, now: Duration) -> Option<Duration> {
        self.backoffs.get(member).map(|backoff| backoff.until).filter(|until| now < *until)
    }

    /// Records that a member has answered, so that later requests ask that member first.
    pub(super) fn answered(&mut self, member: usize, now: Duration) {
        self.answered = Some(now);
        self.outage = None;
        if let Some(backoff) = self.backoffs.get_mut(member) {
            *backoff = Backoff::default();
        }
        if let Some(position) = self.order.iter().position(|known| *known == member) {
            self.current = position;
        }
    }

    /// Records that a member has failed. Returns true at the first failure since the newest answer of the member.
    pub(super) fn failed(&mut self, member: usize, now: Duration) -> bool {
        let Some(backoff) = self.backoffs.get_mut(member) else { return false };
        if now < backoff.until {
            return false;
        }
        let doublings = backoff.failures.min(8);
        backoff.failures = backoff.failures.saturating_add(1);
        backoff.until = now + FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF);
        backoff.failures == 1
    }

    /// Returns true if a request must ask all members again after `rounds` rounds without an answer. `started` is the
    /// time at which the request began.
    pub(super) fn again(&self, patient: bool, rounds: u32, started: Duration, now: Duration) -> bool {
        patient && (rounds < ROUNDS || now.saturating_sub(started) < FAILOVER_TIMEOUT)
    }

    /// Records that no member has answered a request that began at `started`.
    pub(super) fn gave_up(&mut self, error: StoreError, started: Duration, now: Duration) {
        if self.answered.is_some_and(|answered| answered > started) {
            // Another request has got an answer in the meantime, so the store is not away.
            return;
        }
        let pause = if matches!(error, StoreError::Denied(_)) { REFUSED } else { AWAY };
        self.outage = Some(Outage { error, probe_from: now + pause, probe: None });
    }

    /// Ends the current probe, so that another request may try the members.
    pub(super) fn ended_probe(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.probe = None;
        }
    }
}

/// Returns the value by which a node sorts the members into its order of preference.
fn rank(node: &str, endpoint: &str) -> [u8; 32] {
    Sha256::digest(format!("{node}\n{endpoint}")).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn three() -> Members {
        let mut members = Members::new("n1", &["a".into(), "b".into(), "c".into()]);
        members.order = vec![0, 1, 2];
        members
    }

    fn away() -> StoreError {
        StoreError::Unreachable("away".into())
    }

    #[test]
    fn start_member_is_spread_over_the_members() {
        let endpoints: Vec<String> = (1..=3).map(|number| format!("https://etcd{number}:2379")).collect();
        let mut starts: BTreeMap<usize, u32> = BTreeMap::new();
        let mut seconds: BTreeMap<(usize, usize), u32> = BTreeMap::new();
        for node in 0..600 {
            let round = Members::new(&format!("node-{node}"), &endpoints).round(Duration::ZERO);
            assert_eq!(round.len(), 3);
            *starts.entry(round[0]).or_default() += 1;
            *seconds.entry((round[0], round[1])).or_default() += 1;
        }
        assert!(starts.len() == 3 && starts.values().all(|count| *count > 150), "{starts:?}");
        // The nodes of a failed member spread over the other two members.
        assert!(seconds.len() == 6 && seconds.values().all(|count| *count > 60), "{seconds:?}");
    }

    #[test]
    fn start_member_of_a_node_is_always_the_same() {
        let endpoints: Vec<String> = ["x", "y", "z"].map(String::from).to_vec();
        assert_eq!(Members::new("n", &endpoints).order, Members::new("n", &endpoints).order);
    }

    /// Each case lists the events of members, and the order of members that the next request gets.
    #[test]
    fn rounds_begin_with_the_member_in_use_and_end_with_failed_ones() {
        enum Event {
            Failed(usize),
            Answered(usize),
        }
        use Event::{Answered, Failed};
        for (name, events, now, round) in [
            ("nothing happened", vec![], 0, [0, 1, 2]),
            ("the preferred one failed", vec![(0, Failed(0))], 0, [1, 2, 0]),
            (
                "two failed, the longer avoided one is last",
                vec![(0, Failed(1)), (1, Failed(1)), (1, Failed(0))],
                1,
                [2, 0, 1],
            ),
            ("all failed", vec![(0, Failed(2)), (0, Failed(0)), (0, Failed(1))], 0, [0, 1, 2]),
            ("another one answered: it is kept", vec![(0, Failed(0)), (0, Answered(1))], 0, [1, 2, 0]),
            ("it is kept when the failed one is back", vec![(0, Failed(0)), (0, Answered(1))], 60, [1, 2, 0]),
            ("an answer ends the backoff", vec![(0, Failed(0)), (0, Answered(0))], 0, [0, 1, 2]),
            ("the backoff is over", vec![(0, Failed(0))], 1, [0, 1, 2]),
            ("the second backoff is longer", vec![(0, Failed(0)), (1, Failed(0))], 2, [1, 2, 0]),
            ("a failure seen twice counts once", vec![(0, Failed(0)), (0, Failed(0))], 1, [0, 1, 2]),
            ("the second member failed as well", vec![(0, Failed(0)), (0, Answered(1)), (9, Failed(1))], 9, [2, 0, 1]),
        ] {
            let mut members = three();
            for (at, event) in events {
                match event {
                    Failed(member) => _ = members.failed(member, seconds(at)),
                    Answered(member) => members.answered(member, seconds(at)),
                }
            }
            assert_eq!(members.round(seconds(now)), round, "{name}");
        }
    }

    #[test]
    fn backoff_doubles_to_a_bound() {
        let mut members = three();
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..40 {
            members.failed(0, now);
            let until = members.avoided(0, now).unwrap();
            waits.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 15, 15]);
        assert_eq!(waits.last(), Some(&15));
    }

    #[test]
    fn failure_is_news_once() {
        let mut members = three();
        assert!(members.failed(0, seconds(0)));
        assert!(!members.failed(0, seconds(0)));
        assert!(!members.failed(0, seconds(5)));
        members.answered(0, seconds(5));
        assert!(members.failed(0, seconds(5)));
    }

    #[test]
    fn outage_refuses_requests_but_one_probe_at_a_time() {
        let mut members = three();
        assert_eq!(members.admit(seconds(0)), Admission::Ask { patient: false }, "never reached: asked once");
        members.answered(1, seconds(3));
        assert_eq!(members.admit(seconds(3)), Admission::Ask { patient: true });
        members.gave_up(away(), seconds(2), seconds(10));
        assert_eq!(members.admit(seconds(10)), Admission::Ask { patient: true }, "another request got an answer");
        members.gave_up(away(), seconds(5), seconds(10));
        assert_eq!(members.admit(seconds(10)), Admission::Refused(away()));
        assert_eq!(members.admit(seconds(11)), Admission::Ask { patient: false }, "the probe");
        assert_eq!(members.admit(seconds(11)), Admission::Refused(away()), "one probe at a time");
        assert_eq!(members.admit(seconds(40)), Admission::Refused(away()));
        assert_eq!(members.admit(seconds(41)), Admission::Ask { patient: false }, "the probe was abandoned");
        members.ended_probe();
        assert_eq!(members.admit(seconds(42)), Admission::Ask { patient: false });
        members.answered(2, seconds(42));
        assert_eq!(members.admit(seconds(42)), Admission::Ask { patient: true });
        assert_eq!(members.round(seconds(42))[0], 2);
    }

    #[test]
    fn refused_node_probes_less_often() {
        for (error, probe_after) in [(away(), 1), (StoreError::Denied("no".into()), 5)] {
            let mut members = three();
            members.gave_up(error.clone(), seconds(0), seconds(10));
            assert_eq!(members.admit(seconds(9 + probe_after)), Admission::Refused(error));
            assert_eq!(members.admit(seconds(10 + probe_after)), Admission::Ask { patient: false });
        }
    }

    #[test]
    fn request_is_repeated_at_all_members_for_seconds_after_an_answer() {
        let members = three();
        for (patient, rounds, now, again) in
            [(true, 7, 9, true), (true, 7, 10, false), (true, 1, 18, true), (true, 2, 18, false), (false, 1, 0, false)]
        {
            assert_eq!(members.again(patient, rounds, seconds(0), seconds(now)), again, "{patient} {rounds} {now}");
        }
    }

    #[test]
    fn one_member_is_asked_also_while_it_is_avoided() {
        let mut members = Members::new("n", &["only".into()]);
        members.failed(0, seconds(0));
        assert_eq!(members.round(seconds(0)), [0]);
        assert_eq!(Members::new("n", &[]).round(seconds(0)), [0; 0]);
    }
}
