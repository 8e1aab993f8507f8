//! The accepted revision in the data store, if a node does not adopt the revision (P25).

use std::time::Instant;

use towpath_coordination::{
    Accepted,
    accept::{Found, Rejected, Standing},
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
    unfollowed: Option<(AdoptionError, Rejected)>,
    /// The time that the node has waited for a missing commit, manifest, record or agent.
    lacking: LackingWait,
}

impl Adoption {
    pub(super) fn is_unfollowed(&self) -> bool {
        self.unfollowed.is_some()
    }

    /// Returns true if this node must not propose a revision, because the node does not adopt the accepted revision. A
    /// node that does not adopt the accepted revision might propose an older candidate.
    pub(super) fn blocks(&self) -> bool {
        self.unfollowed.is_some() && self.rejected().is_none()
    }

    /// Returns the acceptance record in the data store if this node may overwrite the record.
    pub(super) fn rejected(&self) -> Option<&Rejected> {
        match &self.unfollowed {
            Some((AdoptionError::Rejected(_) | AdoptionError::Void(_), record)) => Some(record),
            _ => None,
        }
    }

    /// Remembers why a revision is not adopted, and rejects the revision if the wait has expired. Returns the reason
    /// for not adopting the revision.
    pub(super) fn note(&mut self, found: &Found, why: Option<AdoptionError>, now: Instant) -> Option<AdoptionError> {
        let why = match why {
            // The verdict on the record stays as it is until the git server answers.
            Some(AdoptionError::Pending(why)) => match &self.unfollowed {
                Some((known, record)) if record.id == found.id => return Some(known.clone()),
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
        let counts = found.standing == Standing::Sound;
        let record = Rejected { id: found.id.clone(), counts };
        self.unfollowed = why.clone().map(|why| (why, record));
        why
    }
}

/// Returns the inputs that show in the status why a revision is not adopted.
pub(super) fn shown(found: &Found, why: Option<&AdoptionError>) -> Effects<'static> {
    let Accepted { generation, by, .. } = &found.record;
    let what = |why: &str| format!("generation {generation} was accepted by {by}: {why}");
    let stays = "this node stays at its last good revision, and replaces the record with the next commit";
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
                "ignored the invalid record of acceptance by {by}: {why}; nodes overwrite the record with a valid one"
            );
            (None, Some(ConditionReason::new("RejectedLocally", message)))
        }
    };
    Effects::default()
        .input(Input::Own("accepted", behind))
        .input(Input::TooOld(too_old))
        .input(Input::RejectedLocally(rejected))
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn found(id: &str) -> Found {
        Found { id: id.to_owned(), record: Accepted::default(), standing: Standing::Sound, revision: 0 }
    }

    #[test]
    fn pending_request_keeps_the_verdict_on_the_same_record() {
        let now = SystemClock.monotonic();
        let pending = || Some(AdoptionError::Pending("slow".into()));
        let rejected = AdoptionError::Rejected("unsigned".into());
        let mut adoption = Adoption::default();
        assert_eq!(adoption.note(&found("a"), pending(), now), pending(), "no verdict yet");
        assert!(adoption.blocks());
        adoption.note(&found("a"), Some(rejected.clone()), now);
        assert_eq!(adoption.note(&found("a"), pending(), now), Some(rejected.clone()));
        assert!(!adoption.blocks() && adoption.rejected().is_some());
        assert_eq!(adoption.note(&found("b"), pending(), now), pending(), "the verdict is about another record");
        assert!(adoption.blocks() && adoption.rejected().is_none());
    }

    #[test]
    fn pending_request_does_not_interrupt_the_wait_for_a_commit() {
        let begin = SystemClock.monotonic();
        let missing =
            || Some(AdoptionError::Missing { why: "no commit".into(), answered: true, what: Lacking::Commit });
        let mut adoption = Adoption::default();
        for minute in 0..20 {
            let now = begin + std::time::Duration::from_secs(30 * minute);
            let why = if minute % 2 == 0 { missing() } else { Some(AdoptionError::Pending("slow".into())) };
            adoption.note(&found("a"), why, now);
            assert!(adoption.rejected().is_none());
        }
        adoption.note(&found("a"), missing(), begin + std::time::Duration::from_secs(600));
        assert!(adoption.rejected().is_some(), "each answer counts with the time since the answer before");
    }
}
