//! The key space: what stands where, who watches it, and who may write it.
//!
//! `board/` is watched by all, `inbox/NODE/` by that node, `book/` by nobody. The map is in ARCHITECTURE.md.

/// The record of acceptance.
pub const ACCEPTED: &str = "board/accepted";

/// That the store has gone back, and all say anew what they hold.
pub const RESTORED: &str = "board/restored";

/// How far the stretches and waves of a book's run are open.
pub fn opening(book: &str) -> String {
    format!("board/open/{book}")
}

/// That an elected task has a result.
pub fn result_notice(book: &str, task: &str) -> String {
    format!("board/result/{book}/{task}")
}

/// The notice that slots of a budget may be free although none was offered.
pub fn freed(group: &str) -> String {
    format!("{ALL_FREED}{group}")
}

/// The notices of all budgets.
pub const ALL_FREED: &str = "board/freed/";

/// What a node is told: it looks again when something appears here.
pub fn inbox(node: &str) -> String {
    format!("inbox/{node}/")
}

/// The notice that a node was offered a slot of a group.
pub fn offer_notice(node: &str, group: &str) -> String {
    format!("inbox/{node}/slot/{group}")
}

/// The key of a result of an elected task, wrapped for a node.
pub fn result_key(node: &str, book: &str, task: &str, by: &str) -> String {
    format!("inbox/{node}/key/{book}/{}/{by}", escaped(task))
}

/// What a node was asked for.
pub fn result_wants(node: &str) -> String {
    format!("inbox/{node}/want/")
}

/// That somebody asks a node for the key of a result that `by` made.
pub fn result_want(node: &str, book: &str, task: &str, by: &str, from: &str) -> String {
    format!("inbox/{node}/want/{book}/{}/{by}/{from}", escaped(task))
}

/// A task's name as one part of a key.
fn escaped(task: &str) -> String {
    task.replace('%', "%25").replace('/', "%2F")
}

/// A task's name from a part of a key.
pub fn unescaped(part: &str) -> String {
    part.replace("%2F", "/").replace("%25", "%")
}

/// Claims, offers and failures that share a budget: all below one prefix, so that one compare sees what is newer.
pub fn all_held(group: &str) -> String {
    format!("book/held/{group}/")
}

/// The claim, offer or failure of one node for one book; `part` is the value of the label that a budget is `per`.
pub fn held(group: &str, part: &str, book: &str, node: &str) -> String {
    format!("book/held/{group}/{part}/{book}/{node}")
}

/// Those who wait for a slot.
pub fn whole_queue(group: &str) -> String {
    format!("book/queue/{group}/")
}

/// Those who wait for a slot of one part of a budget.
pub fn part_of_queue(group: &str, part: &str) -> String {
    format!("book/queue/{group}/{part}/")
}

/// A place in the queue.
pub fn queue(group: &str, part: &str, book: &str, node: &str) -> String {
    format!("book/queue/{group}/{part}/{book}/{node}")
}

/// All votes of a run.
pub fn run_votes(run: &str) -> String {
    format!("book/vote/{run}/")
}

/// The votes of the members of a run in one of its stretches.
pub fn member_votes(run: &str, stretch: u32) -> String {
    format!("book/vote/{run}/{stretch}/member/")
}

/// The vote of a node that is done with a stretch.
pub fn vote(run: &str, stretch: u32, member: bool, node: &str) -> String {
    let kind = if member { "member" } else { "late" };
    format!("book/vote/{run}/{stretch}/{kind}/{node}")
}

/// Who was elected for a task.
pub fn elected(book: &str, task: &str) -> String {
    format!("book/elect/{book}/{task}")
}

/// The record with which a node joined.
pub fn joined(node: &str) -> String {
    format!("book/joined/{node}")
}

/// All who joined.
pub const ALL_JOINED: &str = "book/joined/";

/// The fence of a node: its commits compare the revision of this key, so that a commit which a stopped member still
/// holds is void once the node has written the key. It has no value, and no node reads it.
pub fn fence(node: &str) -> String {
    format!("book/fence/{node}")
}

/// A number that grows with what a node writes: one that is older than the node knows tells that the store went back.
pub fn mark(node: &str) -> String {
    format!("book/mark/{node}")
}

/// That a node has said anew what it holds, after the store had gone back.
pub fn anew(restored: &str, node: &str) -> String {
    format!("book/anew/{restored}/{node}")
}

/// All who have.
pub fn all_anew(restored: &str) -> String {
    format!("book/anew/{restored}/")
}

/// What goes with a node's lease.
pub fn alive(node: &str) -> String {
    format!("book/alive/{node}")
}

/// All whose lease is kept.
pub const ALL_ALIVE: &str = "book/alive/";

/// A page of the table that came with a generation, by the table's digest.
pub fn table(digest: &str, page: usize) -> String {
    format!("book/accepted/{digest}/{page:03}")
}

/// All pages of it.
pub fn whole_table(digest: &str) -> String {
    format!("book/accepted/{digest}/")
}

/// The link of a generation in the chain of acceptances.
pub fn link(generation: u64) -> String {
    format!("{LINKS}{generation:020}")
}

/// All links that are kept, in the order of their generations.
pub const LINKS: &str = "book/accepted/chain/";

/// The facts that a node shares.
pub fn facts(node: &str) -> String {
    format!("book/facts/{node}")
}

/// The facts of all.
pub const ALL_FACTS: &str = "book/facts/";

/// The state of a node, for others to see.
pub fn state(node: &str) -> String {
    format!("book/state/{node}")
}

/// The states of all.
pub const ALL_STATES: &str = "book/state/";

/// The parts of a key behind a prefix.
pub fn parts<'a>(key: &'a str, prefix: &str) -> Vec<&'a str> {
    key.strip_prefix(prefix).map(|rest| rest.split('/').collect()).unwrap_or_default()
}
