//! The keys of the store. Every key is made from a [`Key`] and can be read back into one.
//!
//! `board/` is watched by every node, `inbox/NODE/` by that node, `book/` by none. ARCHITECTURE.md lists the keys;
//! `signed::writers` states which nodes may write each of them.

use std::{borrow::Cow, fmt};

/// One key of the store, with its variable parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// The record of acceptance.
    Accepted,
    /// A node's report that the store was restored from a backup.
    Recovery {
        /// The node that reports it.
        node: &'a str,
    },
    /// How far the segments and waves of a book's run are open.
    Progress {
        /// The book.
        book: &'a str,
    },
    /// A wake-up: slots of a budget may be free although none was offered.
    Freed {
        /// The group whose budget it is.
        group: &'a str,
    },
    /// A wake-up: an elected task has a result.
    ResultNotice {
        /// The book.
        book: &'a str,
        /// The task.
        task: Cow<'a, str>,
    },
    /// The agent that runs under a node's name: a second one overwrites it, which the first one sees.
    Agent {
        /// The node.
        node: &'a str,
    },
    /// A wake-up: a node was offered a slot.
    OfferNotice {
        /// The node that is offered the slot.
        node: &'a str,
        /// The group whose budget the slot belongs to.
        group: &'a str,
    },
    /// The key of an elected task's result, wrapped for a node.
    ResultKey {
        /// The node that can unwrap it.
        node: &'a str,
        /// The book.
        book: &'a str,
        /// The task.
        task: Cow<'a, str>,
        /// The node that made the result.
        by: &'a str,
    },
    /// A request for the key of an elected task's result.
    ResultWant {
        /// The node that is asked.
        node: &'a str,
        /// The book.
        book: &'a str,
        /// The task.
        task: Cow<'a, str>,
        /// The node that made the result.
        by: &'a str,
        /// The node that asks.
        from: &'a str,
    },
    /// A claim, offer, failure, loss or write-off of a node in a budget.
    Slot {
        /// The group whose budget it is.
        group: &'a str,
        /// The part of the budget.
        part: &'a str,
        /// The book.
        book: &'a str,
        /// The node.
        node: &'a str,
    },
    /// A node's place in the queue for a slot.
    Queue {
        /// The group whose budget it is.
        group: &'a str,
        /// The part of the budget.
        part: &'a str,
        /// The book.
        book: &'a str,
        /// The node.
        node: &'a str,
    },
    /// A node's vote that it has completed a segment.
    Vote {
        /// The run.
        run: &'a str,
        /// The segment.
        segment: u32,
        /// Whether the run waits for the node.
        member: bool,
        /// The node.
        node: &'a str,
    },
    /// The record of one elected node.
    Elected {
        /// The book.
        book: &'a str,
        /// The task.
        task: Cow<'a, str>,
        /// The elected node.
        node: &'a str,
    },
    /// The record with which a node joined.
    Joined {
        /// The node.
        node: &'a str,
    },
    /// The number of a node's last write.
    Sequence {
        /// The node.
        node: &'a str,
    },
    /// The fence of a node's commits. The store itself writes and compares it; it has no value.
    Fence {
        /// The node.
        node: &'a str,
    },
    /// A node's statement that it has written again everything it holds, after a restore.
    RecoveryAck {
        /// The restore.
        restored: &'a str,
        /// The node.
        node: &'a str,
    },
    /// The key that is bound to a node's lease.
    Alive {
        /// The node.
        node: &'a str,
    },
    /// A page of a generation's table, by the table's digest.
    Manifest {
        /// The digest.
        digest: &'a str,
        /// The page.
        page: usize,
    },
    /// The link of a generation in the chain of acceptances, which the accepted record vouches for by its digest.
    Link {
        /// The generation.
        generation: u64,
    },
    /// The facts that a node shares.
    Facts {
        /// The node.
        node: &'a str,
    },
    /// The state of a node, for other nodes to show.
    State {
        /// The node.
        node: &'a str,
    },
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted => f.write_str(ACCEPTED),
            Self::Recovery { node } => write!(f, "{ALL_RECOVERIES}{node}"),
            Self::Progress { book } => write!(f, "board/open/{book}"),
            Self::Freed { group } => write!(f, "{ALL_FREED}{group}"),
            Self::ResultNotice { book, task } => write!(f, "board/result/{book}/{}", escaped(task)),
            Self::Agent { node } => write!(f, "inbox/{node}/agent"),
            Self::OfferNotice { node, group } => write!(f, "inbox/{node}/slot/{group}"),
            Self::ResultKey { node, book, task, by } => write!(f, "inbox/{node}/key/{book}/{}/{by}", escaped(task)),
            Self::ResultWant { node, book, task, by, from } => {
                write!(f, "inbox/{node}/want/{book}/{}/{by}/{from}", escaped(task))
            }
            Self::Slot { group, part, book, node } => write!(f, "book/held/{group}/{part}/{book}/{node}"),
            Self::Queue { group, part, book, node } => write!(f, "book/queue/{group}/{part}/{book}/{node}"),
            Self::Vote { run, segment, member, node } => {
                write!(f, "book/vote/{run}/{segment}/{}/{node}", if *member { MEMBER } else { LATE })
            }
            Self::Elected { book, task, node } => write!(f, "book/elect/{book}/{}/{node}", escaped(task)),
            Self::Joined { node } => write!(f, "{ALL_JOINED}{node}"),
            Self::Sequence { node } => write!(f, "book/mark/{node}"),
            Self::Fence { node } => write!(f, "book/fence/{node}"),
            Self::RecoveryAck { restored, node } => write!(f, "book/anew/{restored}/{node}"),
            Self::Alive { node } => write!(f, "{ALL_ALIVE}{node}"),
            Self::Manifest { digest, page } => write!(f, "book/accepted/{digest}/{page:03}"),
            Self::Link { generation } => write!(f, "{LINKS}{generation:020}"),
            Self::Facts { node } => write!(f, "{ALL_FACTS}{node}"),
            Self::State { node } => write!(f, "{ALL_STATES}{node}"),
        }
    }
}

const MEMBER: &str = "member";
const LATE: &str = "late";

/// The parts of a key that are still to be read.
struct Parts<'a>(Option<&'a str>);

impl<'a> Parts<'a> {
    /// The next part, of so many segments. `None` if there are fewer, or one of them is empty.
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

    /// A book or a group: two segments.
    fn pair(&mut self) -> Option<&'a str> {
        self.take(2)
    }

    fn task(&mut self) -> Option<Cow<'a, str>> {
        self.one().map(unescape)
    }
}

impl<'a> Key<'a> {
    /// Reads a key. `None` if no kind of key has this form.
    pub fn parse(key: &'a str) -> Option<Self> {
        let mut parts = Parts(Some(key));
        let found = match parts.one()? {
            "board" => Self::on_board(&mut parts)?,
            "inbox" => Self::in_inbox(&mut parts)?,
            "book" => Self::in_book(&mut parts)?,
            _ => return None,
        };
        parts.0.is_none().then_some(found)
    }

    fn on_board(parts: &mut Parts<'a>) -> Option<Self> {
        Some(match parts.one()? {
            "accepted" => Self::Accepted,
            "restored" => Self::Recovery { node: parts.one()? },
            "open" => Self::Progress { book: parts.pair()? },
            "freed" => Self::Freed { group: parts.pair()? },
            "result" => Self::ResultNotice { book: parts.pair()?, task: parts.task()? },
            _ => return None,
        })
    }

    fn in_inbox(parts: &mut Parts<'a>) -> Option<Self> {
        let node = parts.one()?;
        Some(match parts.one()? {
            "agent" => Self::Agent { node },
            "slot" => Self::OfferNotice { node, group: parts.pair()? },
            "key" => Self::ResultKey { node, book: parts.pair()?, task: parts.task()?, by: parts.one()? },
            "want" => Self::ResultWant {
                node,
                book: parts.pair()?,
                task: parts.task()?,
                by: parts.one()?,
                from: parts.one()?,
            },
            _ => return None,
        })
    }

    fn in_book(parts: &mut Parts<'a>) -> Option<Self> {
        Some(match parts.one()? {
            "held" => Self::Slot { group: parts.pair()?, part: parts.one()?, book: parts.pair()?, node: parts.one()? },
            "queue" => {
                Self::Queue { group: parts.pair()?, part: parts.one()?, book: parts.pair()?, node: parts.one()? }
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
            "mark" => Self::Sequence { node: parts.one()? },
            "fence" => Self::Fence { node: parts.one()? },
            "anew" => Self::RecoveryAck { restored: parts.one()?, node: parts.one()? },
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

/// The record of acceptance.
pub const ACCEPTED: &str = "board/accepted";

/// The prefix of all reports that the store was restored from a backup.
pub const ALL_RECOVERIES: &str = "board/restored/";

/// A node's report that the store was restored from a backup.
pub fn recovery(node: &str) -> String {
    Key::Recovery { node }.to_string()
}

/// How far the segments and waves of a book's run are open.
pub fn progress(book: &str) -> String {
    Key::Progress { book }.to_string()
}

/// That an elected task has a result.
pub fn result_notice(book: &str, task: &str) -> String {
    Key::ResultNotice { book, task: task.into() }.to_string()
}

/// The notice that slots of a budget may be free although none was offered.
pub fn freed(group: &str) -> String {
    Key::Freed { group }.to_string()
}

/// The notices of all budgets.
pub const ALL_FREED: &str = "board/freed/";

/// What a node is told: it looks again when something appears here.
pub fn inbox(node: &str) -> String {
    format!("inbox/{node}/")
}

/// The agent that runs under a node's name.
pub fn agent(node: &str) -> String {
    Key::Agent { node }.to_string()
}

/// The notice that a node was offered a slot of a group.
pub fn offer_notice(node: &str, group: &str) -> String {
    Key::OfferNotice { node, group }.to_string()
}

/// The key of a result of an elected task, wrapped for a node.
pub fn result_key(node: &str, book: &str, task: &str, by: &str) -> String {
    Key::ResultKey { node, book, task: task.into(), by }.to_string()
}

/// What a node was asked for.
pub fn result_wants(node: &str) -> String {
    format!("inbox/{node}/want/")
}

/// That somebody asks a node for the key of a result that `by` made.
pub fn result_want(node: &str, book: &str, task: &str, by: &str, from: &str) -> String {
    Key::ResultWant { node, book, task: task.into(), by, from }.to_string()
}

/// A task's name as one part of a key.
fn escaped(task: &str) -> String {
    task.replace('%', "%25").replace('/', "%2F")
}

/// A task's name from a part of a key.
pub fn unescaped(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

fn unescape(part: &str) -> Cow<'_, str> {
    if part.contains('%') { unescaped(part).into() } else { part.into() }
}

/// Claims, offers and failures that share a budget: all below one prefix, so that one compare sees what is newer.
pub fn all_held(group: &str) -> String {
    format!("book/held/{group}/")
}

/// The claim, offer or failure of one node for one book; `part` is the value of the label that a budget is `per`.
pub fn held(group: &str, part: &str, book: &str, node: &str) -> String {
    Key::Slot { group, part, book, node }.to_string()
}

/// Those who wait for a slot.
pub fn whole_queue(group: &str) -> String {
    format!("book/queue/{group}/")
}

/// Those who wait for a slot of one part of a budget.
pub fn partition_queue(group: &str, part: &str) -> String {
    format!("book/queue/{group}/{part}/")
}

/// A place in the queue.
pub fn queue(group: &str, part: &str, book: &str, node: &str) -> String {
    Key::Queue { group, part, book, node }.to_string()
}

/// All votes of a run.
pub fn run_votes(run: &str) -> String {
    format!("book/vote/{run}/")
}

/// The votes of the members of a run in one of its segments.
pub fn member_votes(run: &str, segment: u32) -> String {
    format!("book/vote/{run}/{segment}/{MEMBER}/")
}

/// The vote of a node that is done with a segment.
pub fn vote(run: &str, segment: u32, member: bool, node: &str) -> String {
    Key::Vote { run, segment, member, node }.to_string()
}

/// The record of a node that was elected for a task.
pub fn elected(book: &str, task: &str, node: &str) -> String {
    Key::Elected { book, task: task.into(), node }.to_string()
}

/// The records of all nodes that were elected for a task.
pub fn all_elected(book: &str, task: &str) -> String {
    format!("book/elect/{book}/{}/", escaped(task))
}

/// The record with which a node joined.
pub fn joined(node: &str) -> String {
    Key::Joined { node }.to_string()
}

/// All who joined.
pub const ALL_JOINED: &str = "book/joined/";

/// The fence of a node: its commits compare the revision of this key, so that a commit which a stopped member still
/// holds is void once the node has written the key. It has no value, and no node reads it.
pub fn fence(node: &str) -> String {
    Key::Fence { node }.to_string()
}

/// A number that grows with what a node writes: one that is older than the node knows shows that the store went back.
pub fn write_sequence(node: &str) -> String {
    Key::Sequence { node }.to_string()
}

/// That a node has written again what it holds, after the store had gone back.
pub fn recovery_ack(restored: &str, node: &str) -> String {
    Key::RecoveryAck { restored, node }.to_string()
}

/// All who have.
pub fn all_recovery_acks(restored: &str) -> String {
    format!("book/anew/{restored}/")
}

/// What goes with a node's lease.
pub fn alive(node: &str) -> String {
    Key::Alive { node }.to_string()
}

/// All whose lease is kept.
pub const ALL_ALIVE: &str = "book/alive/";

/// A page of the table that came with a generation, by the table's digest.
pub fn manifest(digest: &str, page: usize) -> String {
    Key::Manifest { digest, page }.to_string()
}

/// All pages of it.
pub fn whole_manifest(digest: &str) -> String {
    format!("book/accepted/{digest}/")
}

/// The link of a generation in the chain of acceptances.
pub fn link(generation: u64) -> String {
    Key::Link { generation }.to_string()
}

/// All links that are kept, in the order of their generations.
pub const LINKS: &str = "book/accepted/chain/";

/// The facts that a node shares.
pub fn facts(node: &str) -> String {
    Key::Facts { node }.to_string()
}

/// The facts of all.
pub const ALL_FACTS: &str = "book/facts/";

/// The state of a node, for others to see.
pub fn state(node: &str) -> String {
    Key::State { node }.to_string()
}

/// The states of all.
pub const ALL_STATES: &str = "book/state/";

/// The parts of a key behind a prefix.
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
            result_want("a", "n/b", "t", "c", "d"),
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
        for key in ["", "board", "board/restored", "board/restored/", "board/accepted/x", "book/held/n/b/-/n/b"] {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        for key in ["book/vote/n/b@1/x/member/a", "book/vote/n/b@1/1/other/a", "inbox/a/what", "book/alive/a/b", "x/y"]
        {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        assert_eq!(
            Key::parse(&elected("n/b", "a/b", "c")),
            Some(Key::Elected { book: "n/b", task: "a/b".into(), node: "c" })
        );
    }
}
