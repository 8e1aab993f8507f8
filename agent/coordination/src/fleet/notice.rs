//! What a node has seen for how long, by its own clock and ears: decisions are told, and look at no clock themselves.

use std::{collections::BTreeMap, time::Duration};

use super::{Fleet, HEARSAY, OFFER, sooner};
use crate::{
    gossip::news::Holds,
    keys,
    rollout::{Kind, Mark, OnLost, Spec, View, complete, idle, worth_reading},
    store::{Page, StoreError},
};

/// A part of a group's budget, by one name.
fn part_of(spec: &Spec, part: &str) -> String {
    format!("{}/{part}", spec.group)
}

impl Fleet {
    /// Adds what this node has seen for how long, and whom it thinks lost.
    pub(super) fn notice(&self, spec: &Spec, view: &mut View) -> Result<(), StoreError> {
        self.notice_unsure(view);
        self.notice_offers(view);
        self.notice_absences(view);
        self.notice_idle(spec, view);
        self.notice_anew(view)?;
        if spec.on_lost != OnLost::Hold && (!view.done(spec) || view.restored.is_some()) {
            let alive = self.alive()?;
            let known = spec.known.iter().filter(|_| view.restored.is_some()).cloned();
            let held = view.held.iter().map(|held| held.node.clone());
            let named = spec.members.keys().cloned().chain(held).chain(known);
            view.lost = named
                .filter(|node| *node != self.node && !alive.contains(node))
                .filter(|node| self.agrees_lost(node))
                .collect();
        }
        // They belong to the view: it is noticed again before each decision.
        let read = |view: &View, stretch| view.names.as_ref().is_some_and(|(of, _)| *of == stretch);
        if let Some(stretch) = worth_reading(spec, view)
            && !read(view, stretch)
        {
            let prefix = keys::member_votes(&spec.run, stretch);
            view.names = Some((stretch, self.names(&prefix)?));
        }
        self.notice_soak(spec, view);
        self.notice_unseen(spec, view)
    }

    /// Whose word stands against the store's: who says that it holds a slot, by a write that the store does not know.
    fn notice_unseen(&self, spec: &Spec, view: &mut View) -> Result<(), StoreError> {
        view.unseen.clear();
        let Some(gossip) = self.gossip.get().filter(|_| spec.count.is_some()) else { return Ok(()) };
        for (node, number) in gossip.holders(&part_of(spec, spec.part(&self.node))) {
            let shown = node == self.node || view.held.iter().any(|held| held.node == node);
            // Who is lost is gone on without, where the book says so.
            let counts = !shown && spec.known.contains(&node) && !view.lost.contains(&node);
            if counts && self.mark_of(&node)? < number {
                view.unseen.insert(node);
            }
        }
        self.bound_hearsay(&part_of(spec, spec.part(&self.node)), view);
        Ok(())
    }

    /// Reports that the store does not confirm block others for a time only: gossip proves nothing. The time begins again
    /// once there is no such report.
    fn bound_hearsay(&self, part: &str, view: &mut View) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        if view.unseen.is_empty() {
            inner.hearsay.remove(part);
            return;
        }
        let since = *inner.hearsay.entry(part.to_owned()).or_insert(now);
        if now.duration_since(since) >= HEARSAY {
            tracing::warn!(part, nodes = ?view.unseen, "ignored reports of slots that the data store does not have");
            view.unseen.clear();
        } else {
            // Nothing tells when the store shows them.
            sooner(&mut inner.due, now + OFFER);
        }
    }

    /// The number of what a node wrote last, as the store has it.
    fn mark_of(&self, node: &str) -> Result<u64, StoreError> {
        let rows = self.store.read(&keys::mark(node), &Page { after: None, limit: 1 })?.rows;
        let row = rows.iter().find(|row| row.key == keys::mark(node));
        Ok(row.and_then(|row| serde_json::from_slice::<Mark>(&row.value).ok()).map_or(0, |mark| mark.number))
    }

    /// Tells the others where this node holds a slot, after it has written something.
    pub(super) fn tell_holds(&self, spec: &Spec, view: &View) {
        let Some(gossip) = self.gossip.get() else { return };
        let mine = view.mine(spec, &self.node).filter(|mine| mine.held.kind == Kind::Claim);
        let mut inner = self.lock();
        match mine {
            Some(mine) => inner.holding.insert(spec.book.clone(), part_of(spec, &mine.part)),
            None => inner.holding.remove(&spec.book),
        };
        let parts: Vec<String> = inner.holding.values().cloned().collect();
        drop(inner);
        gossip.holds(Holds { number: view.mark, parts });
    }

    pub(super) fn notice_offers(&self, view: &mut View) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let offers: Vec<(String, u64)> = view
            .held
            .iter()
            .filter(|held| held.held.kind == Kind::Offer && held.node != self.node)
            .map(|held| (held.node.clone(), held.modified))
            .collect();
        inner.offers.retain(|offer, _| offers.contains(offer));
        for offer in offers {
            let first = *inner.offers.entry(offer.clone()).or_insert(now);
            if now.duration_since(first) >= OFFER {
                view.stale.insert(offer);
            } else {
                sooner(&mut inner.due, first + OFFER);
            }
        }
    }

    pub(super) fn notice_absences(&self, view: &mut View) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let absent: BTreeMap<(String, u64), u64> = view
            .held
            .iter()
            .filter(|held| held.held.absent > 0)
            .map(|held| ((held.node.clone(), held.modified), held.held.absent))
            .collect();
        inner.absences.retain(|absence, _| absent.contains_key(absence));
        for (absence, seconds) in absent {
            let first = *inner.absences.entry(absence.clone()).or_insert(now);
            let back = first + Duration::from_secs(seconds);
            if now >= back {
                view.overdue.insert(absence);
            } else {
                sooner(&mut inner.due, back);
            }
        }
    }

    pub(super) fn notice_idle(&self, spec: &Spec, view: &mut View) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        let Some(waiting) = idle(spec, view, &self.node) else {
            inner.idle.remove(&spec.group);
            self.membership.touches(|touches| touches.forget(&spec.group));
            return;
        };
        let (known, since) = inner.idle.get(&spec.group).cloned().unwrap_or_else(|| (waiting.clone(), now));
        // Another one that waits is another wait.
        let since = if known == waiting { since } else { now };
        inner.idle.insert(spec.group.clone(), (waiting, since));
        // Not all at once: whoever comes first sees to it.
        let spread = self.node.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        let patience = OFFER + Duration::from_millis(u64::from(spread % 20_000));
        let touched = self.membership.touches(|touches| touches.offers_now(&spec.group));
        view.idle = touched || now.duration_since(since) >= patience;
        if !view.idle {
            sooner(&mut inner.due, since + patience);
        }
    }

    pub(super) fn notice_soak(&self, spec: &Spec, view: &mut View) {
        let now = self.clock.monotonic();
        let mut inner = self.lock();
        match complete(spec, view) {
            None => drop(inner.complete.remove(&spec.run)),
            Some(wave) => {
                let (known, since) = inner.complete.get(&spec.run).copied().unwrap_or((wave, now));
                let since = if known == wave { since } else { now };
                inner.complete.insert(spec.run.clone(), (wave, since));
                view.soaked = now.duration_since(since) >= spec.soak;
                if !view.soaked {
                    sooner(&mut inner.due, since + spec.soak);
                }
            }
        }
    }

    pub(super) fn notice_unsure(&self, view: &mut View) {
        let sure = self.horizon.unsure_until(self.clock.monotonic());
        view.unsure = sure.is_some();
        if let Some(sure) = sure {
            sooner(&mut self.lock().due, sure);
        }
    }
}
