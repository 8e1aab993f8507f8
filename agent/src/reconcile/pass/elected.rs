//! Elected tasks: a few nodes are elected to run the task, and all nodes use their results.

use serde_json::{Map, Value};
use towpath_coordination::{
    Gate,
    fleet::{ElectedTask, TaskResult},
    rollout::{Election, RolloutSpec},
    store::StoreError,
};
use towpath_render::objects::{task::Task, task_digest};
use towpath_state::{Changes, ElectionRecord, PublishedResult, TaskId, UsedResult};

use super::{
    book::{BookRun, module},
    book_id,
    coordinated::{Coordination, remember_store_position},
    instance,
    outcome::{Outcome, TaskOutcome},
};
use crate::reconcile::runs::may_be_elected;

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
        let key = book_id(self.book).task(task.id.as_str());
        let known = self.pass.machine.record::<ElectionRecord>(&key).unwrap_or_default();
        if let Some(used) = known.used.as_ref().filter(|used| settled && used.definition == definition) {
            return self.register_elected(task, used.result.clone(), None);
        }
        let errand = ElectedTask { spec, task: &task.id, definition: &definition };
        let election = with.fleet.elect(errand, eligible, count);
        self.forget_election(&key, &known, election.as_ref().ok());
        let unreachable = |error: StoreError| {
            with.fleet.look_soon();
            Gate::unreachable(&error)
        };
        match election {
            Err(error) => self.hold(unreachable(error)),
            Ok(Election::Wait(nodes)) => {
                let who = if nodes.is_empty() { "an eligible node".to_owned() } else { nodes.join(", ") };
                self.hold(Gate::shared(
                    "Dependency",
                    format!(
                        "waiting for the result of the elected task {:?} (run by {who}); continues when it is published",
                        task.id
                    ),
                ));
            }
            Ok(Election::Results(results)) => match with.fleet.open(errand, &results) {
                Err(error) => self.hold(unreachable(error)),
                Ok(Err(closed)) => self.hold(Gate::shared(
                    "Dependency",
                    format!(
                        "waiting for the key to the result of the elected task {:?} (requested from {}); continues when one of them has sent it",
                        task.id,
                        closed.join(", ")
                    ),
                )),
                Ok(Ok(found)) => self.results(task, &key, &definition, &found, count),
            },
            Ok(Election::Run) => {
                let mut changes = Changes::default();
                changes.set_election_begun(&key, &definition);
                remember_store_position(with.fleet, &mut changes);
                self.commit(changes, "elected");
                let from = self.tasks.len();
                self.tasks_of(&[task]);
                self.flush();
                if self.interrupted || self.gate.is_some() {
                    return;
                }
                // All outcomes since then belong to the task: one for each of its items.
                let outcomes = self.tasks.get(from..).unwrap_or_default();
                let failure = outcomes.iter().find(|outcome| outcome.outcome >= Outcome::Held);
                let ok = failure.is_none() && !self.stopped;
                let message = failure.or(outcomes.last()).and_then(|outcome| outcome.message.clone());
                let result = self.captured.take().map(|result| shortened(&result)).unwrap_or_default();
                let found = TaskResult { ok, result, message };
                let mut changes = Changes::default();
                let TaskResult { ok, result, message } = found.clone();
                let published = PublishedResult { definition: definition.clone(), ok, result, message };
                changes.set_published_result(&key, published);
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
    fn forget_election(&mut self, key: &TaskId, known: &ElectionRecord, election: Option<&Election>) {
        let me = &self.pass.view.node;
        let others = match election {
            Some(Election::Wait(nodes)) => !nodes.is_empty() && !nodes.contains(me),
            Some(Election::Results(results)) => !results.contains_key(me),
            Some(Election::Run) | None => false,
        };
        if others && (known.begun.is_some() || known.published.is_some()) {
            let mut changes = Changes::default();
            changes.forget_election(key);
            self.commit(changes, "elected");
        }
    }

    /// Uses the results of other nodes for this node (P81, P82).
    fn results(
        &mut self,
        task: &Task,
        key: &TaskId,
        definition: &str,
        results: &std::collections::BTreeMap<String, TaskResult>,
        count: usize,
    ) {
        if let Some((node, share)) = results.iter().find(|(_, share)| !share.ok) {
            let why = share.message.clone().unwrap_or_default();
            let opens = format!(
                "waiting for the elected task {:?}, which failed on {node}: {why}; continues when {node} has succeeded",
                task.id
            );
            let action = format!("Push a fix, or repair {node}: it retries at the interval");
            return self.hold(Gate::shared("Dependency", opens).action(action));
        }
        let value = match results.values().next() {
            Some(share) if count == 1 => share.result.clone(),
            _ => Value::Object(
                results.iter().map(|(node, share)| (node.clone(), share.result.clone())).collect::<Map<_, _>>(),
            ),
        };
        let mut changes = Changes::default();
        changes.set_used_result(key, UsedResult { definition: definition.to_owned(), result: value.clone() });
        self.commit(changes, "elected");
        let nodes = results.keys().cloned().collect::<Vec<_>>().join(", ");
        self.register_elected(task, value, Some(format!("run by {nodes}")));
    }

    fn register_elected(&mut self, task: &Task, value: Value, message: Option<String>) {
        self.reached.entry(task.id.clone()).or_default();
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
