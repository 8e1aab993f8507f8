//! The state of runs as `rollouts` shows it, and the fields of records that only `rollouts` reads (times and messages).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::{Fleet, snapshot_key};
use crate::{
    Gate, Liveness, Milestone, NodeReport, Rollout,
    explain::{self, LostNodes, Observed, OpenElection, WrittenOff},
    keys::{self, Key},
    rollout::{
        Elected, OnLost, Request, RolloutSpec, RunSnapshot, SlotEntry, SlotNote, SlotState, frontier, queue_entry,
        slot_entry,
    },
    store::{Compare, Op, Row, StoreError, Txn},
};

/// The time that a node without gossip waits, under `onLostNode: hold`, before it checks the leases of the slot
/// holders.
const LONG_WAIT: Duration = Duration::from_secs(20);

/// The maximum number of slot holders whose leases a node reads in one check.
const CHECKED: usize = 5;

impl Fleet {
    /// Sets the error message for this node's next failure record in a book.
    pub fn describe_failure(&self, book: &str, message: &str) {
        self.lock().loss.describe(book, message);
    }

    /// Returns the write-offs that this node has committed since the previous call.
    pub fn take_written_off(&self) -> Vec<WrittenOff> {
        self.lock().loss.take_written_off()
    }

    /// Returns the milestones that transactions of this node have caused since the previous call.
    pub fn take_milestones(&self) -> Vec<Milestone> {
        self.lock().loss.take_milestones()
    }

    /// Returns true if the run was halted in the newest snapshot that this node has read. `None` if this node has read
    /// no snapshot.
    pub fn is_halted(&self, spec: &RolloutSpec) -> Option<bool> {
        let inner = self.lock();
        inner.snapshots.get(&snapshot_key(spec, &self.node)).map(|known| known.snapshot.halted(spec))
    }

    /// Stores the milestones that a committed transaction has caused.
    pub(super) fn note_milestones(&self, spec: &RolloutSpec, before: &RunSnapshot, txn: &Txn, after: &RunSnapshot) {
        let reached = explain::reached(spec, &self.node, before, txn, after);
        if !reached.is_empty() {
            self.lock().loss.note_milestones(reached);
        }
    }

    /// Adds the time of the write and the error message of this node's failure to the records in a transaction. Only
    /// `rollouts` reads the time and the error message.
    pub(super) fn stamped(&self, mut txn: Txn) -> Txn {
        let now = self.clock.wall();
        for operation in &mut txn.then {
            let Op::Put { key, value, .. } = operation else { continue };
            let parsed = Key::parse(key);
            let is_shown = matches!(
                parsed,
                Some(
                    Key::Slot { .. }
                        | Key::Queue { .. }
                        | Key::Progress { .. }
                        | Key::Elected { .. }
                        | Key::Recovery { .. }
                )
            );
            if !is_shown {
                continue;
            }
            let Ok(Value::Object(mut record)) = serde_json::from_slice(value) else { continue };
            record.entry("at").or_insert_with(|| now.into());
            if let Some(Key::Slot { book, node, .. }) = parsed
                && node == self.node
                && record.get("kind").is_some_and(|kind| kind == "failure" || kind == "unadmitted")
                && let Some(message) = self.lock().loss.message(book)
            {
                record.insert("message".into(), message.clone().into());
            }
            *value = serde_json::to_vec(&record).unwrap_or_default();
        }
        txn
    }

    /// Returns the transaction that updates the error message in this node's failure record. `None` if the message is
    /// unchanged.
    pub(super) fn newer_message(&self, spec: &RolloutSpec, snapshot: &RunSnapshot, request: Request) -> Option<Txn> {
        let own_slot = snapshot
            .own_slot(spec, &self.node)
            .filter(|own_slot| matches!(own_slot.held.kind, SlotState::Failure | SlotState::Unadmitted))?;
        let newest = self.lock().loss.message(&spec.book).cloned();
        if !matches!(request, Request::Failed(..)) || newest.is_none() || newest == own_slot.note.message {
            return None;
        }
        let key = keys::held(&spec.budget, &own_slot.partition, &spec.book, &self.node);
        let mut record = serde_json::to_value(&own_slot.held).ok()?;
        record["at"] = own_slot.note.at.into();
        let compare = vec![Compare::Revision(key.clone(), own_slot.modified)];
        let value = serde_json::to_vec(&record).ok()?;
        Some(Txn { compare, then: vec![Op::put(key, value)], otherwise: Vec::new() })
    }

    /// Stores the write-offs in a transaction that the store has applied, until they are reported as events.
    pub(super) fn note_write_offs(&self, spec: &RolloutSpec, txn: &Txn) {
        for (book, node, run) in txn.then.iter().filter_map(|operation| explain::written_off(spec, operation)) {
            let since = self.lost_at(node);
            self.lock().loss.note_written_off(WrittenOff::new(&self.node, book, node, &run, since));
        }
    }

    /// Returns the time at which this node first noticed the loss of another node. Unit: milliseconds since 1970.
    fn lost_at(&self, node: &str) -> i64 {
        let now = self.clock.wall();
        self.lock().loss.lost_at(node, now)
    }

    /// Returns the lost nodes that block a run. Under `onLostNode: hold`, only lost slot holders block a run. Under
    /// `onLostNode: skip` or `fail`, each lost node for which the run waits blocks the run.
    pub(super) fn lost_holders(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<LostNodes, StoreError> {
        let mut lost = snapshot.lost.clone();
        if spec.on_lost == OnLost::Hold {
            lost.extend(self.dead_holders(spec, snapshot)?);
        }
        Ok(lost.into_iter().map(|node| (node.clone(), Some(self.lost_at(&node)))).collect())
    }

    /// Returns the slot holders that are lost. Without gossip, the function reads the leases only after a long wait,
    /// because each read is a request to the store.
    fn dead_holders(&self, spec: &RolloutSpec, snapshot: &RunSnapshot) -> Result<BTreeSet<String>, StoreError> {
        let has_slot =
            |held: &&SlotEntry| matches!(held.held.kind, SlotState::Claim | SlotState::Offer) && held.node != self.node;
        let holders: Vec<&SlotEntry> = snapshot.held.iter().filter(has_slot).take(CHECKED).collect();
        if let Some(gossip) = self.gossip.get() {
            let lost = holders.iter().filter(|held| gossip.considers_lost(&held.node));
            return Ok(lost.map(|held| held.node.clone()).collect());
        }
        let now = self.clock.monotonic();
        let seen: BTreeSet<(String, u64)> = holders.iter().map(|held| (held.node.clone(), held.modified)).collect();
        if holders.is_empty() || !self.lock().loss.waits_long(&spec.book, seen, now, LONG_WAIT) {
            return Ok(BTreeSet::new());
        }
        let reads = holders.iter().map(|held| Op::Read(keys::alive(&held.node))).collect();
        let (_, answers) = self.store.commit(&Txn { then: reads, ..Txn::default() })?.answers();
        let lost = holders.iter().zip(answers).filter(|(_, answer)| answer.rows.is_empty());
        Ok(lost.map(|(held, _)| held.node.clone()).filter(|node| self.confirms_loss(node)).collect())
    }

    /// Returns the state of a book's run, as `rollouts` shows it. The first element of `specs` has the budget of the
    /// book. The other elements of `specs` have the budgets of single tasks. `accepted` is the time at which this node
    /// accepted the generation of `specs`, in milliseconds since 1970.
    pub fn rollout(
        &self,
        specs: &[&RolloutSpec],
        liveness: &dyn Fn(&str) -> &'static str,
        reports: &BTreeMap<String, NodeReport>,
        accepted: Option<i64>,
    ) -> Rollout {
        let Some(spec) = specs.first() else { return Rollout::default() };
        match self.observe(spec, specs, liveness, reports) {
            Ok(observed) => explain::report(&Observed { accepted, ..observed }),
            Err(error) => {
                let silent = self.note_silence();
                explain::unreachable(spec, Gate::unreachable(&error).since(Some(silent)))
            }
        }
    }

    /// Records that the store did not answer a request. Returns the time since which the store has not answered this
    /// node's requests for a snapshot.
    pub(super) fn note_silence(&self) -> i64 {
        let now = self.clock.wall();
        *self.lock().silent_since.get_or_insert(now)
    }

    fn observe<'a>(
        &self,
        spec: &RolloutSpec,
        specs: &'a [&'a RolloutSpec],
        liveness: &dyn Fn(&str) -> &'static str,
        reports: &'a BTreeMap<String, NodeReport>,
    ) -> Result<Observed<'a>, StoreError> {
        let snapshot = self.look(spec)?;
        let mut snapshot = self.noticed(spec, snapshot)?;
        if let Some((segment, _)) = frontier(spec, &snapshot).first().copied() {
            snapshot.names = Some((segment, self.names(&keys::member_votes(&spec.run, segment))?));
        }
        let of_budget = |budget: &str, partition: &str, node: &str| {
            let own = specs.iter().position(|spec| spec.budget == budget && spec.partition(node) == partition);
            own.or_else(|| specs.iter().position(|spec| spec.budget == budget)).unwrap_or(0)
        };
        let (mut held, mut queue) = (Vec::new(), Vec::new());
        let budgets: BTreeSet<&str> = specs.iter().map(|spec| spec.budget.as_str()).collect();
        for budget in budgets {
            let prefix = keys::all_held(budget);
            let (_, rows) = self.all_rows(&prefix)?;
            let entries = rows.iter().filter_map(|row| slot_entry(row, &prefix));
            held.extend(entries.map(|entry| (of_budget(budget, &entry.partition, &entry.node), entry)));
            let prefix = keys::whole_queue(budget);
            let (_, rows) = self.all_rows(&prefix)?;
            let entries = rows.iter().filter_map(|row| queue_entry(row, &prefix));
            queue.extend(entries.map(|entry| (of_budget(budget, &entry.partition, &entry.node), entry)));
        }
        queue.sort_by_key(|(_, entry)| entry.modified);
        let elected = if spec.elected.is_empty() { Vec::new() } else { self.elected_without_result(spec)? };
        let alive = self.alive()?;
        let named = held.iter().map(|(_, held)| &held.node).chain(elected.iter().map(|elected| &elected.node));
        let named: BTreeSet<&String> = spec.members.keys().chain(named).collect();
        let liveness = named.into_iter().map(|node| {
            let word = liveness(node);
            let live = Liveness { word, lost_since: None };
            let lost_since = live.is_lost().then(|| self.lost_at(node));
            (node.clone(), Liveness { lost_since, ..live })
        });
        let liveness = liveness.collect();
        let rejected = self.store.strangers();
        let rejected = rejected.into_iter().filter(|(node, _)| spec.selects(node) && !alive.contains(node)).collect();
        let opened = if snapshot.progress.as_ref().is_some_and(|(progress, _)| progress.run == spec.run) {
            let rows = self.rows(&keys::progress(&spec.book))?;
            rows.get("").and_then(|value| serde_json::from_slice::<SlotNote>(value).ok()?.at)
        } else {
            None
        };
        let hidden = self.hidden_since(spec);
        let behind = self.lock().behind_since;
        let accepted = None;
        Ok(Observed {
            specs,
            snapshot,
            held,
            queue,
            opened,
            elected,
            liveness,
            reports,
            rejected,
            hidden,
            behind,
            accepted,
        })
    }

    /// Returns the elected tasks of a run whose elected node has not published a result.
    fn elected_without_result(&self, spec: &RolloutSpec) -> Result<Vec<OpenElection>, StoreError> {
        let (_, rows) = self.all_rows(&keys::book_elections(&spec.book))?;
        let open = |row: &Row| {
            let elected: Elected = serde_json::from_slice(&row.value).ok()?;
            let Some(Key::Elected { task, node, .. }) = Key::parse(&row.key) else { return None };
            let is_open = elected.result.is_none() && elected.run == spec.run && spec.selects(node);
            let note: SlotNote = serde_json::from_slice(&row.value).unwrap_or_default();
            is_open.then(|| OpenElection { task: task.into_owned(), node: node.to_owned(), since: note.at })
        };
        Ok(rows.iter().filter_map(open).collect())
    }
}
