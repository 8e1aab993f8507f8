//! Reboots within a book: recorded, announced to the fleet, and continued where the book was (P59).

use std::time::{Duration, Instant};

use towpath_host::facts::boot_id;
use towpath_modules::Checked;
use towpath_render::{objects::task::Task, rendering::Item};
use towpath_state::{ActionRecord, ActionState, Changes, FinishedAction, Intent, Phase, TaskId};

use super::{
    batch,
    book::{BookRun, module},
    book_id,
    instance::{self, Ready},
    outcome::{Outcome, TaskOutcome},
};

impl BookRun<'_, '_> {
    /// Reboots the node if that is due, or continues after the reboot.
    pub(super) fn reboot(&mut self, task: &Task, item: Option<Item>, ready: &Ready, name: String, begun: Instant) {
        self.flush();
        if self.stopped() {
            return;
        }
        let key = book_id(self.book).task(name.clone());
        let outcome =
            |outcome| TaskOutcome { took: begun.elapsed(), ..TaskOutcome::new(name.clone(), module(task), outcome) };
        let known: Option<ActionRecord> = match self.pass.machine.try_record::<ActionRecord>(&key) {
            Ok(known) => known.filter(|known| known.definition == ready.definition),
            Err(error) => return self.failed(task, item, batch::journal_failed(&error).message),
        };
        let boot = boot_id();
        // A reboot that came after the timeout still counts.
        if let Some(before) = known.as_ref().filter(|known| known.state != ActionState::Finished)
            && before.boot.is_some()
            && before.boot != boot
            && !self.pass.plan
        {
            self.rebooted(task, &key, ready);
            return self.finish(task, item, outcome(Outcome::Changed).say("the node was rebooted"), None);
        }
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let checked = match ready.options.check(&context) {
            Ok(checked) => checked,
            Err(error) => return self.failed(task, item, error.message),
        };
        let settled = known.as_ref().is_some_and(|known| known.state == ActionState::Finished);
        let due = matches!(checked, Checked::Change(_)) && !(settled && ready.options.runs_once());
        if !due {
            return self.finish(task, item, outcome(Outcome::Unchanged), None);
        }
        let mut planned = outcome(Outcome::Unchanged);
        planned.action = "run";
        planned.diff = Some("reboot\n".into());
        if self.pass.plan {
            return self.push(planned);
        }
        if let Err(why) = self.begin_segment() {
            return self.not_begun(task, item, planned, &why);
        }
        if let Err(gate) = self.goes_away(task.timeout) {
            self.stopped = true;
            let held = TaskOutcome { outcome: Outcome::Held, message: Some(gate.to_string()), ..planned };
            return self.finish(task, item, held, None);
        }
        let record = ActionRecord {
            definition: ready.definition.clone(),
            state: ActionState::Begun,
            interrupted: 0,
            finished: known.and_then(|known| known.finished),
            boot,
        };
        if let Err(error) = self.intend(Phase::Action, Some((&key, &record))) {
            return self.failed(task, item, error.message);
        }
        tracing::warn!(task = name, "the node reboots");
        if let Err(error) = ready.options.apply(&context, &self.pass.machine.hand()) {
            return self.not_rebooted(task, item, &key, record, error.message);
        }
        let waited = self.waits_for_its_end(task.timeout);
        if waited {
            // The system ends the agent. Later tasks run after the reboot.
            self.interrupted = true;
            self.stopped = true;
            return self.push(TaskOutcome {
                outcome: Outcome::Held,
                message: Some("the node reboots".into()),
                ..planned
            });
        }
        let message = format!("the node did not reboot within {} s", task.timeout.as_secs());
        self.not_rebooted(task, item, &key, record, message);
    }

    /// Waits until the agent is asked to end. Returns false at the timeout.
    fn waits_for_its_end(&self, timeout: Duration) -> bool {
        let begin = self.pass.machine.clock.monotonic();
        while begin.elapsed() < timeout {
            if self.pass.cancel.is_cancelled() || (self.pass.stops)() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }

    fn rebooted(&mut self, task: &Task, key: &TaskId, ready: &Ready) {
        let finished = FinishedAction { definition: ready.definition.clone(), result: serde_json::Value::Null };
        let record = ActionRecord {
            definition: ready.definition.clone(),
            state: ActionState::Finished,
            interrupted: 0,
            finished: Some(finished),
            boot: boot_id(),
        };
        let mut changes = self.notified(task, None);
        changes.put(key, &record);
        changes.set(&Intent::idle(self.book.id()));
        self.commit_changes(changes);
    }

    fn not_rebooted(&mut self, task: &Task, item: Option<Item>, key: &TaskId, record: ActionRecord, message: String) {
        let mut changes = Changes::default();
        changes.put(key, &ActionRecord { state: ActionState::Failed, ..record });
        self.commit_changes(changes);
        self.failed(task, item, message);
    }
}
