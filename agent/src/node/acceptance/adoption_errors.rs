//! Remembers the accepted revision that a node does not adopt, and the reason (P25).

use std::time::Instant;

use towpath_coordination::{
    Accepted,
    accept::{Found, Rejected, Relation},
};

use super::wait::LackingWait;
use crate::{
    node::{
        sources::follow::{AdoptionError, Lacking},
        writer::Effects,
    },
    status::conditions::{ConditionReason, Input},
};

/// The accepted revision that this node does not adopt, with the reason and the time that the node has waited.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    error: Option<Unfollowed>,
    /// The time that the node has waited for a missing commit, manifest, acceptance record or agent version.
    lacking: LackingWait,
}

/// An acceptance record that this node does not adopt.
#[derive(Debug)]
struct Unfollowed {
    record: Rejected,
    /// True if this node may overwrite the acceptance record.
    is_replaceable: bool,
}

impl Adoption {
    pub(super) fn has_adoption_error(&self) -> bool {
        self.error.is_some()
    }

    /// Returns true if this node is not allowed to propose a revision, because the node does not adopt the accepted
    /// revision. A candidate of this node can be older than the accepted revision.
    pub(super) fn blocks(&self) -> bool {
        self.error.is_some() && self.rejected().is_none()
    }

    /// Returns the acceptance record in the data store if this node may overwrite the record.
    pub(super) fn rejected(&self) -> Option<&Rejected> {
        self.error.as_ref().filter(|error| error.is_replaceable).map(|error| &error.record)
    }

    /// Turns an expired wait into a rejection, and remembers why an acceptance record is not adopted. `is_sure` returns
    /// true if this node has accepted a revision before, or if its git servers answer. Returns the state machine inputs
    /// that show the reason.
    pub(super) fn note(
        &mut self,
        found: &Found,
        why: Option<AdoptionError>,
        now: Instant,
        is_sure: impl FnOnce() -> bool,
    ) -> Effects<'static> {
        let why = match why {
            // The verdict on the record stays as it is until the git server answers.
            Some(AdoptionError::Pending(why)) => match &self.error {
                Some(known) if known.record.id == found.id => return Effects::default(),
                _ => Some(AdoptionError::Pending(why)),
            },
            Some(AdoptionError::Missing { why, answered, what }) => {
                let over = self.lacking.look(&found.id, what, answered, now);
                Some(match (over, what) {
                    (false, _) => AdoptionError::Missing { why, answered, what },
                    (true, Lacking::Record) => AdoptionError::Void(why),
                    (true, Lacking::Commit) => AdoptionError::Rejected(format!(
                        "for 10 minutes neither the git server nor another node supplied the commit: {why}"
                    )),
                    (true, Lacking::Agent) => AdoptionError::Rejected(format!(
                        "{why}; upgrade the agent: this node has waited 10 minutes for a newer agent"
                    )),
                    (true, Lacking::Manifest) => AdoptionError::Rejected(why),
                })
            }
            other => {
                self.lacking.end();
                other
            }
        };
        // A generation is valid only if the chain of records leads to it.
        let counts = found.relation == Relation::Sound;
        let record = Rejected { id: found.id.clone(), counts };
        let doubt = why.as_ref().and_then(|why| remaining_doubt(why, &found.relation, is_sure));
        let effects = inputs_of(found, why.as_ref(), doubt);
        self.error = why.map(|why| {
            let is_rejected = matches!(why, AdoptionError::Rejected(_) | AdoptionError::Void(_));
            Unfollowed { record, is_replaceable: is_rejected && doubt.is_none() }
        });
        effects
    }
}

/// Returns the message that explains why a node does not overwrite an acceptance record that it rejects. Returns `None`
/// if the node may overwrite the record, or has not rejected the record.
fn remaining_doubt(why: &AdoptionError, relation: &Relation, is_sure: impl FnOnce() -> bool) -> Option<&'static str> {
    match (why, relation) {
        (AdoptionError::Rejected(_), Relation::Apart) => Some(
            "the data store does not keep the chain of acceptances back to the generation of this node, so another node must replace the record; if no other node can, delete the key /towpath/CLUSTER/shared/accepted from the data store",
        ),
        (AdoptionError::Rejected(_), _) if !is_sure() => Some(
            "this node has not accepted a revision yet, so it replaces the record only while its own git server answers; check the network, the URL and `auth`",
        ),
        _ => None,
    }
}

/// Returns the state machine inputs that show why an acceptance record is not adopted. `doubt` is the reason why this
/// node does not overwrite a rejected record.
fn inputs_of(found: &Found, why: Option<&AdoptionError>, doubt: Option<&str>) -> Effects<'static> {
    let Accepted { generation, by, .. } = &found.record;
    let what = |why: &str| format!("generation {generation} was accepted by {by}: {why}");
    let stays = match doubt {
        Some(doubt) => format!("this node stays at its last good revision; {doubt}"),
        None => "this node stays at its last good revision, and replaces the record with the next commit".to_owned(),
    };
    let too_old = match why {
        Some(AdoptionError::Missing { why, what: Lacking::Agent, .. }) => Some(what(why)),
        _ => None,
    };
    let (behind, rejected) = match why {
        None | Some(AdoptionError::Missing { what: Lacking::Agent, .. }) => (None, None),
        Some(AdoptionError::Behind(why) | AdoptionError::Pending(why) | AdoptionError::Missing { why, .. }) => {
            (Some(ConditionReason::new("Progressing", what(why))), None)
        }
        Some(AdoptionError::Refused(why)) => (
            Some(ConditionReason::new(
                "Refused",
                format!("{why}; until the conflict is resolved, this node accepts no revision"),
            )),
            None,
        ),
        Some(AdoptionError::Rejected(why)) => {
            (None, Some(ConditionReason::new("RejectedLocally", format!("{}; {stays}", what(why)))))
        }
        Some(AdoptionError::Void(why)) => {
            let message = format!(
                "ignored the invalid acceptance record of {by}: {why}; nodes overwrite the record with a valid record"
            );
            (None, Some(ConditionReason::new("RejectedLocally", message)))
        }
    };
    Effects::default()
        .input(Input::Node("accepted", behind))
        .input(Input::TooOld(too_old))
        .input(Input::RejectedLocally(rejected))
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn found(id: &str) -> Found {
        Found { id: id.to_owned(), record: Accepted::default(), relation: Relation::Sound, revision: 0 }
    }

    #[test]
    fn pending_request_keeps_the_verdict_on_the_same_record() {
        let now = SystemClock.monotonic();
        let pending = || Some(AdoptionError::Pending("slow".into()));
        let mut adoption = Adoption::default();
        let mut note = |id: &str, why| {
            let _ = adoption.note(&found(id), why, now, || true);
            (adoption.blocks(), adoption.rejected().is_some())
        };
        assert_eq!(note("a", pending()), (true, false), "no verdict yet");
        assert_eq!(note("a", Some(AdoptionError::Rejected("unsigned".into()))), (false, true));
        assert_eq!(note("a", pending()), (false, true));
        assert_eq!(note("b", pending()), (true, false), "the verdict is about another record");
    }

    #[test]
    fn pending_request_does_not_interrupt_the_wait_for_a_commit() {
        let begin = SystemClock.monotonic();
        let missing =
            || Some(AdoptionError::Missing { why: "no commit".into(), answered: true, what: Lacking::Commit });
        let mut adoption = Adoption::default();
        let mut note = |why, seconds| {
            let now = begin + std::time::Duration::from_secs(seconds);
            let _ = adoption.note(&found("a"), why, now, || true);
            adoption.rejected().is_some()
        };
        for step in 0..20 {
            let why = if step % 2 == 0 { missing() } else { Some(AdoptionError::Pending("slow".into())) };
            assert!(!note(why, 30 * step));
        }
        assert!(note(missing(), 600), "each answer counts with the time since the answer before");
    }

    /// Returns whether a node may overwrite a record of a standing that it does not adopt.
    fn replaces(relation: Relation, why: AdoptionError, is_sure: bool) -> bool {
        let found = Found { record: Accepted::default(), id: "a".into(), relation, revision: 1 };
        let mut adoption = Adoption::default();
        let _ = adoption.note(&found, Some(why), SystemClock.monotonic(), || is_sure);
        assert!(adoption.has_adoption_error());
        assert_eq!(adoption.blocks(), adoption.rejected().is_none());
        adoption.rejected().is_some()
    }

    #[test]
    fn rejected_record_that_no_kept_chain_reaches_is_never_overwritten() {
        let rejected = || AdoptionError::Rejected("no signature".into());
        assert!(replaces(Relation::Sound, rejected(), true));
        assert!(!replaces(Relation::Apart, rejected(), true));
        assert!(replaces(Relation::Void("no chain".into()), AdoptionError::Void("no chain".into()), true));
    }

    #[test]
    fn new_node_overwrites_a_rejected_record_only_while_its_git_server_answers() {
        let rejected = || AdoptionError::Rejected("no signature".into());
        assert!(!replaces(Relation::Sound, rejected(), false));
        assert!(replaces(Relation::Void("no chain".into()), AdoptionError::Void("no chain".into()), false));
        assert!(!replaces(Relation::Sound, AdoptionError::Behind("no mirror".into()), true));
    }
}
