//! Elections on one node: the node reads the election records, decides whether it is elected, and publishes a result.

use super::{ElectedTask, Fleet, TRIES, TaskResult};
use crate::{
    Milestone, MilestoneKind, keys,
    rollout::{
        ElectStep, Election, ElectionContext, OnLost, Record, RolloutSpec, RunSnapshot, elect, publish,
        republish_election,
    },
    store::StoreError,
};

impl Fleet {
    /// Takes part in the election of the node that runs a task.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn elect(&self, elected_task: ElectedTask<'_>, eligible: bool, count: usize) -> Result<Election, StoreError> {
        let ElectedTask { spec, task, definition } = elected_task;
        let lost: Vec<String> = if spec.on_lost == OnLost::Skip {
            let alive = self.alive()?;
            let gone = |node: &&String| !alive.contains(*node) && self.confirms_loss(node);
            spec.members.keys().chain(&spec.late).filter(gone).cloned().collect()
        } else {
            Vec::new()
        };
        let context = ElectionContext { spec, own_node: &self.node, task, definition, eligible, count, lost: &lost };
        let mut is_new = false;
        for _ in 0..TRIES {
            let record = self.elected(spec, task)?;
            if self.needs_republish() {
                // The store may lack an earlier election of this node, so the node waits until it has republished its
                // claims.
                return Ok(Election::Wait(Vec::new()));
            }
            // A snapshot costs a request, so the first decision is made without one.
            let snapshot = match elect(&record, &RunSnapshot::default(), &context) {
                ElectStep::Decided(election) => {
                    if is_new && election == Election::Run {
                        let kind = MilestoneKind::Elected { task: task.to_owned() };
                        self.lock().loss.note_milestones(vec![Milestone::new(spec, kind)]);
                    }
                    return self.observe_election(spec, election);
                }
                ElectStep::Behind | ElectStep::Commit(_) => {
                    let snapshot = self.look(spec)?;
                    self.with_acknowledgements(snapshot)?
                }
            };
            match elect(&record, &snapshot, &context) {
                ElectStep::Decided(election) => return self.observe_election(spec, election),
                ElectStep::Behind => return Ok(Election::Wait(Vec::new())),
                ElectStep::Commit(txn) => is_new |= self.commit_marked(txn)?,
            }
        }
        self.look_soon();
        Ok(Election::Wait(Vec::new()))
    }

    /// Returns the given election. If this node must wait for an elected node, the function sets a timer for the end of
    /// that node's lease.
    fn observe_election(&self, spec: &RolloutSpec, election: Election) -> Result<Election, StoreError> {
        if let Election::Wait(nodes) = &election {
            self.watch_elected(spec, nodes)?;
        }
        Ok(election)
    }

    /// Publishes the result of an elected task to all targets of the book.
    ///
    /// # Errors
    /// Returns an error if the store does not answer, or if the result is too large.
    pub fn publish_result(&self, elected_task: ElectedTask<'_>, found: &TaskResult) -> Result<(), StoreError> {
        let ElectedTask { spec, task, definition } = elected_task;
        let result = self.sealed(elected_task, found)?;
        for _ in 0..TRIES {
            let record = self.elected(spec, task)?;
            let txn = publish(spec, &self.node, task, definition, &record, &result);
            if self.commit_marked(txn)? {
                return Ok(());
            }
        }
        Err(too_fast())
    }

    /// Writes this node's election record and task result to the store again if a rollback of the store has removed
    /// them.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn republish_election(
        &self,
        elected_task: ElectedTask<'_>,
        found: Option<&TaskResult>,
    ) -> Result<(), StoreError> {
        if let Some(found) = found {
            // The result is sealed again for all targets, because the wrapped keys in the backup may belong to another
            // result.
            return self.publish_result(elected_task, found);
        }
        let ElectedTask { spec, task, definition } = elected_task;
        for _ in 0..TRIES {
            let record = self.elected(spec, task)?;
            let Some(txn) = republish_election(spec, &self.node, task, definition, &record, None) else {
                return Ok(());
            };
            if self.commit_marked(txn)? {
                return Ok(());
            }
        }
        Err(too_fast())
    }

    fn elected(&self, spec: &RolloutSpec, task: &str) -> Result<Record, StoreError> {
        let prefix = keys::all_elected(&spec.book, task);
        let before = self.known();
        // Only eligible targets write below this prefix, so the read returns a few pages at most.
        let (revision, rows) = self.all_rows(&prefix)?;
        self.seen(before, revision);
        Ok(Record::of(&rows, revision))
    }
}

fn too_fast() -> StoreError {
    StoreError::LostRaces(TRIES)
}
