//! Elected tasks: a few nodes are elected to run the task, and all nodes use their results.

use serde_json::{Map, Value};
use towpath_coordination::{
    Gate,
    fleet::{ElectedTask, TaskResult},
    rollout::{Election, RolloutSpec},
    store::StoreError,
};
use towpath_host::journal::Changes;
use towpath_render::objects::{
    task::{Book, Task},
    task_digest,
};

use super::{
    book::{BookRun, module},
    coordinated::{Coordination, remember_horizon},
    instance,
    outcome::{Outcome, TaskOutcome},
};
use crate::reconcile::runs::may_be_elected;

/// Returns the journal key of the result that this node has published for an elected task.
pub(super) fn share_key(book: &Book, task: &Task) -> String {
    format!("share/{}/{}", book.id(), task.id)
}

/// Returns the journal key that records that this node was elected for a task and has begun it.
pub(super) fn begun_key(book: &Book, task: &Task) -> String {
    format!("begun/{}/{}", book.id(), task.id)
}

/// Maximum length of a text in a published result, in bytes. Only the end of a longer text is published.
const PASSED_ON: usize = 16 << 10;

/// Returns a result as it is published.
fn shortened(result: &Value) -> Value {
    match result {
        Value::String(text) if text.len() > PASSED_ON => {
            let from = text.len() - PASSED_ON;
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
            Value::String(text[from..].to_owned())
        }
        Value::Array(items) => Value::Array(items.iter().map(shortened).collect()),
        Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), shortened(value))).collect()),
        other => other.clone(),
    }
}

impl BookRun<'_, '_> {
    /// Runs an elected task, or uses the results of the elected nodes (P79).
    pub(super) fn elected(&mut self, with: Coordination<'_>, spec: &RolloutSpec, task: &Task, settled: bool) {
        let elect = task.elect.clone().unwrap_or_default();
        let definition = task_digest(self.pass.set, self.book, task);
        let may = |node: &str| may_be_elected(self.pass.set, task, node);
        let eligible = may(&self.pass.view.node);
        // At most all eligible members can be elected.
        let most = spec.members.keys().filter(|node| may(node)).count().max(1);
        let count = usize::try_from(elect.count.unwrap_or(1).max(1)).unwrap_or(1).min(most);
        let key = format!("elected/{}/{}", self.book.id(), task.id);
        let known: Option<(String, Value)> = self.pass.machine.record(&key);
        if let Some((_, value)) = known.filter(|(known, _)| settled && *known == definition) {
            return self.register_elected(task, value, None);
        }
        let errand = ElectedTask { spec, task: &task.id, definition: &definition };
        let election = with.fleet.elect(errand, eligible, count);
        self.forget_election(task, election.as_ref().ok());
        let unreachable = |error: StoreError| {
            with.fleet.look_soon();
            Gate { reason: "StoreUnreachable", opens: error.to_string() }
        };
        match election {
            Err(error) => self.hold(unreachable(error)),
            Ok(Election::Wait(nodes)) => {
                let who = if nodes.is_empty() { "an eligible node".to_owned() } else { nodes.join(", ") };
                self.hold(Gate {
                    reason: "Dependency",
                    opens: format!("{:?} is run by {who}; all go on with its result", task.id),
                });
            }
            Ok(Election::Results(results)) => match with.fleet.open(errand, &results) {
                Err(error) => self.hold(unreachable(error)),
                Ok(Err(closed)) => self.hold(Gate {
                    reason: "Dependency",
                    opens: format!(
                        "the result of {:?} is sealed, and this node has asked {} for the key",
                        task.id,
                        closed.join(", ")
                    ),
                }),
                Ok(Ok(found)) => self.results(task, &key, &definition, &found, count),
            },
            Ok(Election::Run) => {
                let mut changes = Changes::default();
                changes.put(begun_key(self.book, task), &definition);
                remember_horizon(with.fleet, &mut changes);
                self.commit(changes, "elected");
                self.tasks_of(&[task]);
                self.flush();
                if self.interrupted || self.gate.is_some() {
                    return;
                }
                let outcome = self.tasks.iter().rev().find(|outcome| outcome.name.starts_with(&task.id));
                let (ok, message) =
                    outcome.map_or((false, None), |outcome| (outcome.outcome < Outcome::Held, outcome.message.clone()));
                let result = self.captured.take().map(|result| shortened(&result)).unwrap_or_default();
                let found = TaskResult { ok, result, message };
                let mut changes = Changes::default();
                changes.put(share_key(self.book, task), &(&definition, &found));
                self.commit(changes, "share");
                if let Err(error) = with.fleet.share(errand, &found) {
                    self.hold(unreachable(error));
                }
                if !ok {
                    self.stopped = true;
                }
            }
        }
    }

    /// Deletes the records of this node's election if other nodes are elected.
    fn forget_election(&mut self, task: &Task, election: Option<&Election>) {
        let me = &self.pass.view.node;
        let others = match election {
            Some(Election::Wait(nodes)) => !nodes.is_empty() && !nodes.contains(me),
            Some(Election::Results(results)) => !results.contains_key(me),
            Some(Election::Run) | None => false,
        };
        let (begun, share) = (begun_key(self.book, task), share_key(self.book, task));
        let known = |key: &str| self.pass.machine.record::<Value>(key).is_some();
        if others && (known(&begun) || known(&share)) {
            let mut changes = Changes::default();
            changes.delete(begun);
            changes.delete(share);
            self.commit(changes, "elected");
        }
    }

    /// Uses the results of other nodes for this node (P81, P82).
    fn results(
        &mut self,
        task: &Task,
        key: &str,
        definition: &str,
        results: &std::collections::BTreeMap<String, TaskResult>,
        count: usize,
    ) {
        if let Some((node, share)) = results.iter().find(|(_, share)| !share.ok) {
            let why = share.message.clone().unwrap_or_default();
            return self.hold(Gate {
                reason: "Dependency",
                opens: format!("{:?} failed on {node}, which was elected for it: {why}", task.id),
            });
        }
        let value = match results.values().next() {
            Some(share) if count == 1 => share.result.clone(),
            _ => Value::Object(
                results.iter().map(|(node, share)| (node.clone(), share.result.clone())).collect::<Map<_, _>>(),
            ),
        };
        let mut changes = Changes::default();
        changes.put(key.to_owned(), &(definition, &value));
        self.commit(changes, "elected");
        let nodes = results.keys().cloned().collect::<Vec<_>>().join(", ");
        self.register_elected(task, value, Some(format!("run by {nodes}")));
    }

    fn register_elected(&mut self, task: &Task, value: Value, message: Option<String>) {
        // The items of the task exist on the node that ran it. They must not count as removed here.
        let managed = instance::skipped(self.pass.machine, &self.renderer, task, None);
        self.complete &= managed.is_some();
        self.managed.extend(managed.unwrap_or_default());
        if let Some(name) = &task.register {
            self.renderer.register(name, &value);
        }
        let mut outcome = TaskOutcome::new(task.id.clone(), module(task), Outcome::Unchanged);
        outcome.message = message;
        self.push(outcome);
    }
}
