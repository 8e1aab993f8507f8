//! The keys of the data store. A [`Key`] is a parsed store key. The functions of this file build store keys, and
//! [`Key::parse`] parses them.
//!
//! Every node watches `shared/`. Only node NODE watches `inbox/NODE/`, and no node watches `fleet/` (P3).
//! ARCHITECTURE.md lists the keys, and `signed::writers` defines which nodes may write each key.

use std::{borrow::Cow, fmt};

/// A store key, split into its variable parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// The key of the acceptance record.
    Accepted,
    /// The key of a node's report that the store was restored from a backup.
    Recovery {
        /// The node that reports the restore.
        node: &'a str,
    },
    /// The key of the record that contains the open waves of a book's run.
    Progress {
        /// The book that the run belongs to.
        book: &'a str,
    },
    /// The store key of the notice that a budget may have free slots that no node has offered.
    Freed {
        /// The budget that has free slots.
        budget: &'a str,
    },
    /// The key of the notice that an elected task has a result.
    ResultNotice {
        /// The book that contains the task.
        book: &'a str,
        /// The id of the task.
        task: Cow<'a, str>,
    },
    /// The key of the record of the agent that runs under a node's name. A second agent with the same name overwrites
    /// the record, so that the first agent detects the second agent.
    Agent {
        /// The name under which the agent runs.
        node: &'a str,
    },
    /// The key of the notice that a node was offered a slot.
    OfferNotice {
        /// The node that was offered the slot.
        node: &'a str,
        /// The budget of the offered slot.
        budget: &'a str,
    },
    /// The store key of a wrapped sealing key. The target decrypts the result of an elected task with the sealing key.
    ResultKey {
        /// The target that can unwrap the sealing key.
        node: &'a str,
        /// The book that contains the task.
        book: &'a str,
        /// The id of the task.
        task: Cow<'a, str>,
        /// The node that published the result.
        by: &'a str,
    },
    /// The store key of a request for the sealing key of an elected task's result.
    ResultRequest {
        /// The node that receives the request.
        node: &'a str,
        /// The book that contains the task.
        book: &'a str,
        /// The id of the task.
        task: Cow<'a, str>,
        /// The node that published the result.
        by: &'a str,
        /// The node that sends the request.
        from: &'a str,
    },
    /// The key of a slot record, which contains the claim, offer, failure, loss or write-off of one node in a budget.
    Slot {
        /// The budget of the slot.
        budget: &'a str,
        /// The partition of the budget.
        partition: &'a str,
        /// The book for which the node holds the slot.
        book: &'a str,
        /// The node that the slot record is about.
        node: &'a str,
    },
    /// The key of a node's entry in the queue for a slot.
    Queue {
        /// The budget of the slot.
        budget: &'a str,
        /// The partition of the budget.
        partition: &'a str,
        /// The book for which the node waits.
        book: &'a str,
        /// The node that waits.
        node: &'a str,
    },
    /// The key of a node's vote, which states that the node has completed a segment of a run.
    Vote {
        /// The name of the run.
        run: &'a str,
        /// The number of the segment, counted from 0.
        segment: u32,
        /// True if the node is a member of the run, so that the run waits for the vote.
        member: bool,
        /// The node that votes.
        node: &'a str,
    },
    /// The key of the election record of one node, which was elected to run a task.
    Elected {
        /// The book that contains the task.
        book: &'a str,
        /// The id of the task.
        task: Cow<'a, str>,
        /// The elected node.
        node: &'a str,
    },
    /// The key of the join record of a node.
    Joined {
        /// The node that has joined.
        node: &'a str,
    },
    /// The key of the record that numbers a node's writes.
    Sequence {
        /// The node whose writes are numbered.
        node: &'a str,
    },
    /// The key of a node's fence. An outdated transaction of the node fails, because the fence has changed. The value
    /// is empty. A transaction compares only the etcd revision of the fence.
    Fence {
        /// The node whose transactions compare the fence.
        node: &'a str,
    },
    /// The key of a node's acknowledgement in a recovery: the node has republished its claims.
    RecoveryAck {
        /// The identifier of the recovery.
        recovery: &'a str,
        /// The node that acknowledges the recovery.
        node: &'a str,
    },
    /// The key of the record that shows that a node is alive. The store deletes the record when the lease of the node
    /// ends.
    Alive {
        /// The node that has the lease.
        node: &'a str,
    },
    /// The key of one page of a revision manifest.
    Manifest {
        /// The digest of the whole manifest.
        digest: &'a str,
        /// The number of the page, counted from 0.
        page: usize,
    },
    /// The key of a link in the chain of acceptances. The link has no signature, because a later signed acceptance
    /// record proves the digest of the link.
    Link {
        /// The generation of the link.
        generation: u64,
    },
    /// The key of the facts that a node publishes about itself.
    Facts {
        /// The node that the facts describe.
        node: &'a str,
    },
    /// The key of the state that a node publishes for other nodes.
    State {
        /// The node that publishes its state.
        node: &'a str,
    },
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str(ACCEPTED),
            Self::Recovery { node } => write!(f, "{ALL_RECOVERIES}{node}"),
            Self::Progress { book } => write!(f, "shared/progress/{book}"),
            Self::Freed { budget } => write!(f, "{ALL_FREED}{budget}"),
            Self::ResultNotice { book, task } => write!(f, "shared/result/{book}/{}", escaped(task)),
            Self::Agent { node } => write!(f, "inbox/{node}/agent"),
            Self::OfferNotice { node, budget } => write!(f, "inbox/{node}/slot/{budget}"),
            Self::ResultKey { node, book, task, by } => write!(f, "inbox/{node}/key/{book}/{}/{by}", escaped(task)),
            Self::ResultRequest { node, book, task, by, from } => {
                write!(f, "inbox/{node}/request/{book}/{}/{by}/{from}", escaped(task))
            }
            Self::Slot { budget, partition, book, node } => write!(f, "fleet/held/{budget}/{partition}/{book}/{node}"),
            Self::Queue { budget, partition, book, node } => {
                write!(f, "fleet/queue/{budget}/{partition}/{book}/{node}")
            }
            Self::Vote { run, segment, member, node } => {
                write!(f, "fleet/vote/{run}/{segment}/{}/{node}", if *member { MEMBER } else { LATE })
            }
            Self::Elected { book, task, node } => write!(f, "fleet/elect/{book}/{}/{node}", escaped(task)),
            Self::Joined { node } => write!(f, "{ALL_JOINED}{node}"),
            Self::Sequence { node } => write!(f, "fleet/sequence/{node}"),
            Self::Fence { node } => write!(f, "fleet/fence/{node}"),
            Self::RecoveryAck { recovery, node } => write!(f, "fleet/recovery/acks/{recovery}/{node}"),
            Self::Alive { node } => write!(f, "{ALL_ALIVE}{node}"),
            Self::Manifest { digest, page } => write!(f, "fleet/accepted/{digest}/{page:03}"),
            Self::Link { generation } => write!(f, "{LINKS}{generation:020}"),
            Self::Facts { node } => write!(f, "{ALL_FACTS}{node}"),
            Self::State { node } => write!(f, "{ALL_STATES}{node}"),
        }
    }
}

const MEMBER: &str = "member";
const LATE: &str = "late";

/// The part of a store key that is not parsed yet.
struct Parts<'a>(Option<&'a str>);

impl<'a> Parts<'a> {
    /// Removes the next `segments` path segments from the rest of the key, and returns these path segments. `None` if a
    /// path segment is missing or empty.
    fn take(&mut self, segments: usize) -> Option<&'a str> {
        let rest = self.0?;
        let (taken, left) = match rest.match_indices('/').nth(segments.checked_sub(1)?) {
            Some((at, _)) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        self.0 = left;
        (taken.split('/').count() == segments && taken.split('/').all(|part| !part.is_empty())).then_some(taken)
    }

    fn one(&mut self) -> Option<&'a str> {
        self.take(1)
    }

    /// Removes the name of a book or a budget (two path segments) from the rest of the key, and returns the name.
    fn pair(&mut self) -> Option<&'a str> {
        self.take(2)
    }

    fn task(&mut self) -> Option<Cow<'a, str>> {
        self.one().map(unescape)
    }
}

impl<'a> Key<'a> {
    /// Parses a key. `None` if the text is not a valid store key.
    pub fn parse(key: &'a str) -> Option<Self> {
        let mut parts = Parts(Some(key));
        let found = match parts.one()? {
            "shared" => Self::in_shared(&mut parts)?,
            "inbox" => Self::in_inbox(&mut parts)?,
            "fleet" => Self::in_fleet(&mut parts)?,
            _ => return None,
        };
        parts.0.is_none().then_some(found)
    }

    fn in_shared(parts: &mut Parts<'a>) -> Option<Self> {
        Some(match parts.one()? {
            "accepted" => Self::Accepted,
            "recovery" => Self::Recovery { node: parts.one()? },
            "progress" => Self::Progress { book: parts.pair()? },
            "freed" => Self::Freed { budget: parts.pair()? },
            "result" => Self::ResultNotice { book: parts.pair()?, task: parts.task()? },
            _ => return None,
        })
    }

    fn in_inbox(parts: &mut Parts<'a>) -> Option<Self> {
        let node = parts.one()?;
        Some(match parts.one()? {
            "agent" => Self::Agent { node },
            "slot" => Self::OfferNotice { node, budget: parts.pair()? },
            "key" => Self::ResultKey { node, book: parts.pair()?, task: parts.task()?, by: parts.one()? },
            "request" => Self::ResultRequest {
                node,
                book: parts.pair()?,
                task: parts.task()?,
                by: parts.one()?,
                from: parts.one()?,
            },
            _ => return None,
        })
    }

    fn in_fleet(parts: &mut Parts<'a>) -> Option<Self> {
        Some(match parts.one()? {
            "held" => {
                Self::Slot { budget: parts.pair()?, partition: parts.one()?, book: parts.pair()?, node: parts.one()? }
            }
            "queue" => {
                Self::Queue { budget: parts.pair()?, partition: parts.one()?, book: parts.pair()?, node: parts.one()? }
            }
            "vote" => Self::Vote {
                run: parts.pair()?,
                segment: parts.one()?.parse().ok()?,
                member: match parts.one()? {
                    MEMBER => true,
                    LATE => false,
                    _ => return None,
                },
                node: parts.one()?,
            },
            "elect" => Self::Elected { book: parts.pair()?, task: parts.task()?, node: parts.one()? },
            "joined" => Self::Joined { node: parts.one()? },
            "sequence" => Self::Sequence { node: parts.one()? },
            "fence" => Self::Fence { node: parts.one()? },
            "recovery" if parts.one()? == "acks" => Self::RecoveryAck { recovery: parts.one()?, node: parts.one()? },
            "alive" => Self::Alive { node: parts.one()? },
            "accepted" => match parts.one()? {
                "chain" => {
                    let digits = parts.one().filter(|digits| digits.len() == 20)?;
                    Self::Link { generation: digits.parse().ok()? }
                }
                digest => Self::Manifest { digest, page: parts.one()?.parse().ok()? },
            },
            "facts" => Self::Facts { node: parts.one()? },
            "state" => Self::State { node: parts.one()? },
            _ => return None,
        })
    }
}

/// The key of the acceptance record.
pub const ACCEPTED: &str = "shared/accepted";

/// The prefix of the keys of all reports that the store was restored from a backup.
pub const ALL_RECOVERIES: &str = "shared/recovery/";

/// Returns the key of a node's report that the store was restored from a backup.
pub fn recovery(node: &str) -> String {
    Key::Recovery { node }.to_string()
}

/// Returns the key of the record that contains the open waves of a book's run.
pub fn progress(book: &str) -> String {
    Key::Progress { book }.to_string()
}

/// Returns the key of the notice that an elected task has a result.
pub fn result_notice(book: &str, task: &str) -> String {
    Key::ResultNotice { book, task: task.into() }.to_string()
}

/// Returns the store key of the notice that a budget may have free slots that no node has offered.
pub fn freed(budget: &str) -> String {
    Key::Freed { budget }.to_string()
}

/// The prefix of the notices of free slots in all budgets.
pub const ALL_FREED: &str = "shared/freed/";

/// Returns the prefix of a node's inbox. A new key in the inbox wakes the node.
pub fn inbox(node: &str) -> String {
    format!("inbox/{node}/")
}

/// Returns the key of the record of the agent that runs under a node's name.
pub fn agent(node: &str) -> String {
    Key::Agent { node }.to_string()
}

/// Returns the key of the notice that a node was offered a slot of a budget.
pub fn offer_notice(node: &str, budget: &str) -> String {
    Key::OfferNotice { node, budget }.to_string()
}

/// Returns the store key of the sealing key of a task result, wrapped for one node. `by` is the node that published the
/// result.
pub fn result_key(node: &str, book: &str, task: &str, by: &str) -> String {
    Key::ResultKey { node, book, task: task.into(), by }.to_string()
}

/// Returns the prefix of all requests for sealing keys that were sent to a node.
pub fn result_requests(node: &str) -> String {
    format!("inbox/{node}/request/")
}

/// Returns the store key of a request for a sealing key. The node `from` sends the request to `node`, for the result
/// that `by` has published.
pub fn result_request(node: &str, book: &str, task: &str, by: &str, from: &str) -> String {
    Key::ResultRequest { node, book, task: task.into(), by, from }.to_string()
}

/// Escapes the id of a task, so that the id can be one path segment of a key.
fn escaped(task: &str) -> String {
    task.replace('%', "%25").replace('/', "%2F")
}

/// Returns the id of a task from the escaped id.
pub fn unescaped(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

fn unescape(part: &str) -> Cow<'_, str> {
    if part.contains('%') { unescaped(part).into() } else { part.into() }
}

/// Returns the prefix of all slot records of a budget. A transaction can compare all slot records with this prefix in
/// one condition.
pub fn all_held(budget: &str) -> String {
    format!("fleet/held/{budget}/")
}

/// Returns the key of the slot record of one node for one book. `partition` is the value of the node label that the
/// field `per` names.
pub fn held(budget: &str, partition: &str, book: &str, node: &str) -> String {
    Key::Slot { budget, partition, book, node }.to_string()
}

/// Returns the prefix of all queue entries of a budget.
pub fn whole_queue(budget: &str) -> String {
    format!("fleet/queue/{budget}/")
}

/// Returns the prefix of all queue entries of one partition of a budget.
pub fn partition_queue(budget: &str, partition: &str) -> String {
    format!("fleet/queue/{budget}/{partition}/")
}

/// Returns the key of a node's queue entry.
pub fn queue(budget: &str, partition: &str, book: &str, node: &str) -> String {
    Key::Queue { budget, partition, book, node }.to_string()
}

/// Returns the prefix of all votes of a run.
pub fn run_votes(run: &str) -> String {
    format!("fleet/vote/{run}/")
}

/// Returns the prefix of the votes of a run's members in one segment.
pub fn member_votes(run: &str, segment: u32) -> String {
    format!("fleet/vote/{run}/{segment}/{MEMBER}/")
}

/// Returns the key of a node's vote for a segment.
pub fn vote(run: &str, segment: u32, member: bool, node: &str) -> String {
    Key::Vote { run, segment, member, node }.to_string()
}

/// Returns the key of the election record of one node for a task.
pub fn elected(book: &str, task: &str, node: &str) -> String {
    Key::Elected { book, task: task.into(), node }.to_string()
}

/// Returns the prefix of the election records of all tasks of a book.
pub fn book_elections(book: &str) -> String {
    format!("fleet/elect/{book}/")
}

/// Returns the prefix of the election records of all nodes for a task.
pub fn all_elected(book: &str, task: &str) -> String {
    format!("fleet/elect/{book}/{}/", escaped(task))
}

/// Returns the key of a node's join record.
pub fn joined(node: &str) -> String {
    Key::Joined { node }.to_string()
}

/// The prefix of the join records of all nodes.
pub const ALL_JOINED: &str = "fleet/joined/";

/// Returns the key of a node's fence. Each etcd transaction of the node requires that the fence is unchanged. A paused
/// etcd member may apply an old transaction late. A late transaction fails if the node has written its fence in the
/// meantime.
pub fn fence(node: &str) -> String {
    Key::Fence { node }.to_string()
}

/// Returns the key of the record that numbers a node's writes. If the sequence number in the store is lower than in the
/// journal of the node, the store was rolled back.
pub fn write_sequence(node: &str) -> String {
    Key::Sequence { node }.to_string()
}

/// Returns the key of a node's acknowledgement in a recovery: the node has republished its claims.
pub fn recovery_ack(recovery: &str, node: &str) -> String {
    Key::RecoveryAck { recovery, node }.to_string()
}

/// Returns the prefix of the acknowledgements of all nodes in a recovery.
pub fn all_recovery_acks(recovery: &str) -> String {
    format!("fleet/recovery/acks/{recovery}/")
}

/// Returns the key of the record that shows that a node is alive.
pub fn alive(node: &str) -> String {
    Key::Alive { node }.to_string()
}

/// The prefix of the records that show that nodes are alive.
pub const ALL_ALIVE: &str = "fleet/alive/";

/// Returns the key of one page of a revision manifest. `digest` is the digest of the whole manifest.
pub fn manifest(digest: &str, page: usize) -> String {
    Key::Manifest { digest, page }.to_string()
}

/// Returns the prefix of all pages of a manifest.
pub fn whole_manifest(digest: &str) -> String {
    format!("fleet/accepted/{digest}/")
}

/// Returns the key of a generation's link in the chain of acceptances.
pub fn link(generation: u64) -> String {
    Key::Link { generation }.to_string()
}

/// The prefix of all links in the chain of acceptances. The keys sort by generation.
pub const LINKS: &str = "fleet/accepted/chain/";

/// Returns the key of the facts that a node publishes about itself.
pub fn facts(node: &str) -> String {
    Key::Facts { node }.to_string()
}

/// The prefix of the facts of all nodes.
pub const ALL_FACTS: &str = "fleet/facts/";

/// Returns the key of the state that a node publishes for other nodes.
pub fn state(node: &str) -> String {
    Key::State { node }.to_string()
}

/// The prefix of the states of all nodes.
pub const ALL_STATES: &str = "fleet/state/";

/// Returns the path segments of a key after a prefix. The result is empty if the key does not begin with the prefix.
pub fn parts<'a>(key: &'a str, prefix: &str) -> Vec<&'a str> {
    key.strip_prefix(prefix).map(|rest| rest.split('/').collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_read_back_as_it_was_made() {
        let made = [
            ACCEPTED.to_owned(),
            recovery("a"),
            progress("n/b"),
            result_notice("n/b", "a/b%"),
            freed("n/slot=x"),
            link(7),
            agent("a"),
            offer_notice("a", "n/slot=x"),
            result_key("a", "n/b", "a/b", "c"),
            result_request("a", "n/b", "t", "c", "d"),
            held("n/b", "-", "n/b", "a"),
            queue("n/b", "=3=x", "n/b", "a"),
            vote("n/b@7", 2, true, "a"),
            vote("n/b@7", 2, false, "a"),
            elected("n/b", "a/b%2F", "c"),
            joined("a"),
            write_sequence("a"),
            fence("a"),
            recovery_ack("id", "a"),
            alive("a"),
            manifest("abc", 7),
            facts("a"),
            state("a"),
        ];
        for key in made {
            assert_eq!(Key::parse(&key).map(|parsed| parsed.to_string()), Some(key));
        }
    }

    #[test]
    fn key_of_no_kind_is_not_read() {
        for key in ["", "shared", "shared/recovery", "shared/recovery/", "shared/accepted/x", "fleet/held/n/b/-/n/b"] {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        for key in
            ["fleet/vote/n/b@1/x/member/a", "fleet/vote/n/b@1/1/other/a", "inbox/a/what", "fleet/alive/a/b", "x/y"]
        {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        assert_eq!(
            Key::parse(&elected("n/b", "a/b", "c")),
            Some(Key::Elected { book: "n/b", task: "a/b".into(), node: "c" })
        );
    }
}
