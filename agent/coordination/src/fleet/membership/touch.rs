//! Touches: notices that slots of a budget may be free. A node sends at most one touch a second for each budget. Only a
//! node that waits for a slot of the budget reacts to the notice (P135).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    keys,
    rollout::{Freed, RolloutSpec},
    store::{Op, Row, Txn},
};

/// The minimum time between two notices of free slots that a node sends for the same budget.
const PAUSE: Duration = Duration::from_secs(1);

/// The notice of free slots in a transaction that a node will commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fleet) struct Touch {
    budget: String,
    /// True if the node sends the notice later, because it sent a notice for the budget less than a second ago.
    delayed: bool,
}

/// The notices of free slots that a node sends and receives.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Touches {
    sent: BTreeMap<String, Instant>,
    /// The budgets for which this node sends a notice of free slots later, each with the time of that notice.
    postponed: BTreeMap<String, Instant>,
    /// The budgets in which this node waits for a slot. Each budget has the name of the book that needs the slot.
    waits: BTreeSet<(String, String)>,
    /// The budgets for which a notice of free slots arrived while this node waited.
    touched: BTreeSet<String>,
}

impl Touches {
    /// Returns the notice of free slots that a transaction contains. Removes the notice from the transaction if this
    /// node sent a notice for the same budget less than a second ago.
    pub(in crate::fleet) fn before_commit(&self, txn: &mut Txn, now: Instant) -> Option<Touch> {
        let is_touch = |operation: &Op| match operation {
            Op::Put { key, .. } => key.strip_prefix(keys::ALL_FREED).map(str::to_owned),
            _ => None,
        };
        let budget = txn.then.iter().find_map(is_touch)?;
        let delayed = self.sent.get(&budget).is_some_and(|sent| now.duration_since(*sent) < PAUSE);
        if delayed {
            txn.then.retain(|operation| is_touch(operation).is_none());
        }
        Some(Touch { budget, delayed })
    }

    /// Records that the store has applied a transaction with a notice of free slots.
    pub(in crate::fleet) fn committed(&mut self, touch: Touch, now: Instant) {
        if touch.delayed {
            self.postponed.entry(touch.budget).or_insert(now + PAUSE);
        } else {
            self.sent.insert(touch.budget, now);
        }
    }

    /// Returns the budgets whose delayed notice the node must send now, and removes these budgets from the list.
    pub(in crate::fleet) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due: Vec<String> =
            self.postponed.iter().filter(|(_, at)| **at <= now).map(|(budget, _)| budget.clone()).collect();
        for budget in &due {
            self.postponed.remove(budget);
            self.sent.insert(budget.clone(), now);
        }
        due
    }

    /// Delays a notice of free slots again, because the node could not send it.
    pub(in crate::fleet) fn postpone(&mut self, budget: String, now: Instant) {
        self.postponed.entry(budget).or_insert(now + PAUSE);
    }

    /// Stores the fact that this node waits, or does not wait, for a slot in the run that `spec` describes.
    pub(in crate::fleet) fn set_waiting(&mut self, spec: &RolloutSpec, waits: bool) {
        let entry = (spec.budget.clone(), spec.book.clone());
        if waits {
            self.waits.insert(entry);
        } else {
            self.waits.remove(&entry);
        }
    }

    /// Returns true if this node must react to a notice of free slots. A node reacts if it waits for a slot of the
    /// budget. A notice that names nodes is only for the named nodes.
    pub(in crate::fleet) fn acts_on(&mut self, node: &str, row: &Row) -> bool {
        let Some(budget) = row.key.strip_prefix(keys::ALL_FREED) else { return false };
        // The watch reports the record before it is verified. A record that cannot be parsed is meant for every waiting
        // node.
        let freed: Freed = serde_json::from_slice(&row.value).unwrap_or_default();
        let named = freed.nodes.is_empty() || freed.nodes.iter().any(|named| named == node);
        let acts = named && self.waits.iter().any(|(waits, _)| waits == budget);
        if acts {
            self.touched.insert(budget.to_owned());
        }
        acts
    }

    /// Permits this node to offer the free slots of a budget without a delay.
    pub(in crate::fleet) fn offer_now(&mut self, budget: &str) {
        self.touched.insert(budget.to_owned());
    }

    /// Returns true if this node may offer the free slots of a budget without a delay.
    pub(in crate::fleet) fn offers_now(&self, budget: &str) -> bool {
        self.touched.contains(budget)
    }

    /// Deletes a received notice of free slots, because no waiting node can take a free slot of the budget.
    pub(in crate::fleet) fn forget(&mut self, budget: &str) {
        self.touched.remove(budget);
    }
}

#[cfg(test)]
mod tests {
    use towpath_host::{Clock as _, SystemClock};

    use super::*;

    fn touch(nodes: &[&str]) -> (Txn, Row) {
        let freed = Freed { nodes: nodes.iter().map(|node| (*node).to_owned()).collect() };
        let value = serde_json::to_vec(&freed).unwrap();
        let row = Row { key: keys::freed("g"), value: value.clone(), created: 1, modified: 1 };
        (Txn { then: vec![Op::put(keys::freed("g"), value)], ..Txn::default() }, row)
    }

    #[test]
    fn second_touch_within_a_second_is_sent_later() {
        let (mut touches, now) = (Touches::default(), SystemClock.monotonic());
        let (mut first, _) = touch(&["a"]);
        let sent = touches.before_commit(&mut first, now).unwrap();
        assert_eq!(first.then.len(), 1);
        touches.committed(sent, now);
        let (mut second, _) = touch(&["b"]);
        let delayed = touches.before_commit(&mut second, now + PAUSE / 2).unwrap();
        assert_eq!(second.then.len(), 0, "taken out");
        touches.committed(delayed, now + PAUSE / 2);
        assert_eq!(touches.take_due(now + PAUSE), Vec::<String>::new());
        assert_eq!(touches.take_due(now + PAUSE * 2), ["g"], "and not lost");
    }

    #[test]
    fn only_a_named_node_that_waits_acts_on_a_touch() {
        let mut touches = Touches::default();
        let spec = RolloutSpec { budget: "g".into(), book: "n/b".into(), ..RolloutSpec::default() };
        let (_, named) = touch(&["a", "b"]);
        assert!(!touches.acts_on("a", &named), "it does not wait");
        touches.set_waiting(&spec, true);
        assert!(touches.acts_on("a", &named) && touches.offers_now("g"));
        touches.forget("g");
        assert!(!touches.acts_on("c", &named) && !touches.offers_now("g"), "it is not named");
        assert!(touches.acts_on("c", &touch(&[]).1), "a touch without names is for every waiter");
    }
}
