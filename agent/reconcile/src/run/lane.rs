//! A lane of a book run: a sequence of tasks with its findings and its queue of changes. A lane first makes the queued
//! file changes, and then the queued direct changes by tools or daemons.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use towpath_render::objects::task::{Book, Task};

use super::{
    context::{NotBegun, Run, Steps, Stop},
    segment,
};
use crate::{
    command::{Applied, Command, Findings, Finished, InstanceId},
    outcome::{BookReport, Outcome, TaskReport},
    plan::{
        assess::Admission,
        batch::{self, Queue, Queued},
        instance,
        removal::Managed,
        unrun::unrun,
    },
};

/// A sequence of tasks, with the reports and the queued changes of these tasks. A parallel book has one lane for each
/// task; any other book has a single lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The queue of changes that the lane of tasks has not made yet.
    queue: Queue,
    /// The reports, in the order in which the tasks ran. The report of a dropped change is `None`.
    reports: Vec<Option<TaskReport>>,
    /// The tasks that the run has reached. The map contains true for a task if the task, or a task that it requires,
    /// failed or is held.
    reached: BTreeMap<String, bool>,
    /// The items that the tasks of this lane manage.
    managed: BTreeSet<Managed>,
    /// The rendered tasks that are in sync but not recorded in the journal yet.
    observed: Vec<InstanceId>,
    /// True if some managed items are not known.
    incomplete: bool,
    /// True if the book is not in a steady state, so the next pass must run the book again.
    unsteady: bool,
    /// The reason why the lane of tasks runs no more tasks. `stop` is `None` while the lane may run another task.
    stop: Option<Stop>,
    /// The result of an elected task that this node ran.
    elected: Option<Value>,
    /// The results of loop items, by the position of the item's report. `results` omits the loop items that registered
    /// the default result. In a dry run, the result is `None` for an item that a real run changes.
    results: BTreeMap<usize, Option<Value>>,
}

impl Lane {
    /// Returns a separate lane for a task that runs in parallel with other tasks. The new lane contains the list of
    /// tasks that the run has reached.
    pub(super) fn beside(&self) -> Self {
        Self { reached: self.reached.clone(), ..Self::default() }
    }

    /// Adds the findings of parallel lanes to this lane of tasks. The reports that `is_first` selects come before all
    /// other reports.
    pub(super) fn merge(&mut self, mut others: Vec<Self>, is_first: impl Fn(&TaskReport) -> bool) {
        for other in &mut others {
            let (first, own) = std::mem::take(&mut other.reports)
                .into_iter()
                .partition::<Vec<_>, _>(|report| report.as_ref().is_some_and(&is_first));
            other.reports = own;
            self.reports.extend(first);
        }
        for other in others {
            self.reports.extend(other.reports);
            for (task, unmet) in other.reached {
                *self.reached.entry(task).or_default() |= unmet;
            }
            self.managed.extend(other.managed);
            self.observed.extend(other.observed);
            self.incomplete |= other.incomplete;
            self.unsteady |= other.unsteady;
            self.elected = self.elected.take().or(other.elected);
            if let Some(stop) = other.stop {
                self.stop(stop);
            }
        }
    }

    /// Adds the results of steps other than tasks, such as handlers and votes.
    pub(super) fn add(&mut self, steps: Steps) {
        let (reports, stop, unsteady) = steps.into_parts();
        self.reports.extend(reports.into_iter().map(Some));
        self.unsteady |= unsteady;
        if let Some(stop) = stop {
            self.stop(stop);
        }
    }

    /// Stops the lane.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.stop = Some(stop.after(self.stop.take()));
    }

    /// Returns true if the lane of tasks runs no more tasks.
    pub(super) fn stopped(&self) -> bool {
        self.stop.is_some()
    }

    /// Returns the reason why the lane of tasks runs no more tasks. Returns `None` while the lane may run another task.
    pub(super) fn why_stopped(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// Returns the queue of changes that the lane of tasks has not made yet.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Adds a file change to the queue. Returns true if the batch is full after the change is added.
    pub(super) fn queue_files(&mut self, change: Queued) -> bool {
        self.queue.push_files(change)
    }

    /// Adds a direct change by a tool or daemon to the queue.
    pub(super) fn queue_direct(&mut self, change: Queued) {
        self.queue.push_direct(change);
    }

    /// Adds a report, and returns its position.
    pub(super) fn push(&mut self, report: TaskReport) -> usize {
        self.reports.push(Some(report));
        self.reports.len().saturating_sub(1)
    }

    /// Returns the position of the next report.
    pub(super) fn next_position(&self) -> usize {
        self.reports.len()
    }

    /// Returns the reports of the lane of tasks from a position to the end.
    pub(super) fn reports_from(&self, position: usize) -> impl Iterator<Item = &TaskReport> {
        self.reports.iter().skip(position).flatten()
    }

    /// Returns the outcome of the report at a position. Returns `None` if the change of the report was dropped.
    pub(super) fn outcome(&self, position: usize) -> Option<Outcome> {
        self.reports.get(position)?.as_ref().map(|report| report.outcome)
    }

    /// Returns true if a task of this lane has failed.
    pub(super) fn any_failed(&self) -> bool {
        self.reports_from(0).any(|report| report.outcome == Outcome::Failed)
    }

    /// Returns the worst outcome of the tasks that this lane has run. If a gate is closed, the function returns `Held`
    /// or a worse outcome.
    pub(super) fn worst(&self) -> Outcome {
        let worst = self.reports_from(0).map(|report| report.outcome).max().unwrap_or(Outcome::Unchanged);
        let blocked = matches!(self.stop, Some(Stop::Blocked(_)));
        if blocked { worst.max(Outcome::Held) } else { worst.max(Outcome::Unchanged) }
    }

    /// Returns one text with the names and messages of all failed tasks, and of all failed steps in `later`.
    pub(super) fn failure_message(&self, later: &Steps) -> String {
        let failed = self.reports_from(0).chain(later.reports()).filter(|report| report.outcome == Outcome::Failed);
        let message =
            |report: &TaskReport| format!("{}: {}", report.name, report.message.as_deref().unwrap_or_default());
        failed.map(message).collect::<Vec<_>>().join("; ")
    }

    /// Records that the run has reached a task. If the run does not reach a task, the report states that the task did
    /// not run.
    pub(super) fn reach(&mut self, task: &Task) {
        self.reached.entry(task.id.clone()).or_default();
    }

    /// Records that a task failed or is held. Tasks that require a failed or held task do not run.
    pub(super) fn fail(&mut self, task: &Task) {
        self.reached.insert(task.id.clone(), true);
    }

    /// Checks the tasks that a task requires, and returns the first required task that failed or is held.
    pub(super) fn unmet_by<'t>(&self, task: &'t Task) -> Option<&'t str> {
        task.requires.iter().find(|name| self.reached.get(*name) == Some(&true)).map(String::as_str)
    }

    /// Adds the items that a task manages. `items` is `None` if the items of the task are not known.
    pub(super) fn manage(&mut self, items: Option<Vec<Managed>>) {
        self.incomplete |= items.is_none();
        self.managed.extend(items.unwrap_or_default());
    }

    /// Records that some managed items are not known.
    pub(super) fn note_unknown_items(&mut self) {
        self.incomplete = true;
    }

    /// Returns true if all managed items are known.
    pub(super) fn knows_all_items(&self) -> bool {
        !self.incomplete
    }

    /// Records that a rendered task was already in sync.
    pub(super) fn observe(&mut self, instance: InstanceId) {
        self.observed.push(instance);
    }

    /// Removes and returns the findings that the journal must record.
    pub(super) fn take_findings(&mut self) -> Findings {
        Findings { managed: Arc::new(std::mem::take(&mut self.managed)), observed: std::mem::take(&mut self.observed) }
    }

    /// Records that the book is not in a steady state, so the next pass must run the book again.
    pub(super) fn note_unsteady(&mut self) {
        self.unsteady = true;
    }

    /// Removes and returns the result of an elected task that this node ran.
    pub(super) fn take_elected(&mut self) -> Option<Value> {
        self.elected.take()
    }

    /// Stores the result of a loop item under the position of the item's report.
    pub(super) fn keep_result(&mut self, position: usize, result: Value) {
        self.results.insert(position, Some(result));
    }

    /// Returns the result that a loop registers: the results of all items, true if an item changed, and the worst
    /// outcome. Returns `None` in a dry run, if an item of the loop needs a change.
    pub(super) fn loop_result(&self, items: &[usize]) -> Option<Value> {
        let reports = || items.iter().filter_map(|at| Some((at, self.reports.get(*at)?.as_ref()?)));
        let changed = reports().any(|(_, report)| report.outcome == Outcome::Changed);
        let worst = reports().map(|(_, report)| report.outcome).max().unwrap_or(Outcome::Skipped);
        let mut results = Vec::new();
        for (at, report) in reports() {
            match self.results.get(at) {
                None => results.push(report.result([])),
                Some(Some(result)) => results.push(result.clone()),
                Some(None) => return None,
            }
        }
        Some(json!({ "results": results, "changed": changed, "outcome": worst.as_str() }))
    }

    /// Returns the report of the book, from the tasks that this lane ran. `managed` contains all items that the book
    /// manages. If `unrun_of` is a book, the report also lists the tasks of the book that did not run.
    pub(super) fn into_report(self, managed: Option<Arc<BTreeSet<Managed>>>, unrun_of: Option<&Book>) -> BookReport {
        let mut tasks: Vec<TaskReport> = self.reports.into_iter().flatten().collect();
        let changed = tasks.iter().any(|task| task.outcome > Outcome::Unchanged);
        let steady = !self.unsteady && !changed && self.stop.is_none();
        let preempted = self.stop == Some(Stop::Preempted);
        let gates = match self.stop {
            Some(Stop::Blocked(gates)) => gates,
            _ => Vec::new(),
        };
        if let Some(book) = unrun_of {
            let rest = unrun(book, |task| self.reached.contains_key(&task.id), &tasks, &gates);
            tasks.extend(rest);
        }
        BookReport { tasks, gates, preempted, managed, steady }
    }

    /// Prepares the node for changes.
    ///
    /// # Errors
    /// Fails if a gate is closed or a `before` task failed. An error also stops the lane.
    pub(super) async fn begin(&mut self, run: &Run) -> Result<(), NotBegun> {
        let (steps, begun) = segment::begin(run).await;
        self.add(steps);
        begun
    }

    /// Makes all queued changes. Returns true if the lane of tasks may run another task.
    pub(super) async fn flush(&mut self, run: &Run) -> bool {
        self.flush_files(run).await;
        self.flush_direct(run).await;
        !self.stopped()
    }

    /// Makes the queued file changes. The lane makes corrections of file content even if the gates refuse admission
    /// (P90). Returns true if the lane of tasks may run another task.
    pub(super) async fn flush_files(&mut self, run: &Run) -> bool {
        let mut changes = self.queue.take_files();
        if batch::admission(&changes) != Admission::Free
            && let Err(why) = self.begin(run).await
        {
            let (free, held) = batch::split_free(changes);
            for change in held {
                self.queue.hold(&change);
                self.refuse(run, &change, &why);
            }
            changes = free;
        }
        if !changes.is_empty() {
            let results = run.channel.apply(batch::files(&changes), batch::admission(&changes)).await;
            for (change, applied) in changes.iter().zip(results) {
                // Not all files that a failed change would manage may be known.
                self.incomplete |= matches!(applied, Applied::Failed(_));
                self.end(run, change, applied).await;
            }
        }
        !self.stopped()
    }

    /// Makes the queued direct changes by tools or daemons in one transaction.
    async fn flush_direct(&mut self, run: &Run) {
        let changes = self.queue.take_direct();
        if changes.is_empty() {
            return;
        }
        if self.stop == Some(Stop::Preempted) || (!self.stopped() && run.channel.preempted()) {
            // A preempted run drops the changes that have not begun.
            self.stop(Stop::Preempted);
            changes.iter().for_each(|change| self.drop_report(change));
            return;
        }
        if let Err(why) = self.begin(run).await {
            for change in &changes {
                self.refuse(run, change, &why);
            }
            return;
        }
        let results = run.channel.apply(batch::direct(&changes), Admission::SlotAndWindow).await;
        for (change, applied) in changes.iter().zip(results) {
            self.end(run, change, applied).await;
        }
    }

    fn report_of(&mut self, change: &Queued) -> Option<&mut TaskReport> {
        self.reports.get_mut(change.report).and_then(Option::as_mut)
    }

    fn drop_report(&mut self, change: &Queued) {
        self.incomplete = true;
        if let Some(report) = self.reports.get_mut(change.report) {
            *report = None;
        }
    }

    /// Reports a change that could not begin.
    fn refuse(&mut self, run: &Run, change: &Queued, why: &NotBegun) {
        self.incomplete = true;
        if let Some(task) = run.task(change.instance.task) {
            self.fail(task);
        }
        if let Some(report) = self.report_of(change) {
            report.outcome = why.outcome();
            report.message = Some(why.message());
        }
    }

    /// Reports the result of a change, and registers the result for later tasks.
    async fn end(&mut self, run: &Run, change: &Queued, applied: Applied) {
        let Some(task) = run.task(change.instance.task) else { return };
        let (outcome, Finished { message, result }) = match applied {
            Applied::NotStarted => {
                self.stop(if run.channel.preempted() { Stop::Preempted } else { Stop::Failed });
                return self.drop_report(change);
            }
            Applied::Changed(finished) => (Outcome::Changed, finished),
            Applied::Unchanged(finished) => (Outcome::Unchanged, finished),
            Applied::Failed(finished) => (Outcome::Failed, finished),
            Applied::Planned => {
                if let Some(report) = self.report_of(change) {
                    report.outcome = Outcome::Unchanged;
                    report.message = None;
                }
                self.results.insert(change.report, None);
                return;
            }
        };
        let Some(report) = self.report_of(change) else { return };
        report.outcome = outcome;
        report.message = message.or_else(|| report.message.take().filter(|_| outcome != Outcome::Failed));
        let result = result.unwrap_or_else(|| report.result([]));
        if outcome == Outcome::Failed {
            self.fail(task);
            if !task.continue_on_failure && run.inputs.ends_at_failure {
                self.stop(Stop::Failed);
            }
        }
        if change.instance.item.is_some() {
            return self.keep_result(change.report, result);
        }
        self.register(run, task, result).await;
    }

    /// Makes the result of a task available to later tasks. All items of a loop register one combined result.
    pub(super) async fn register(&mut self, run: &Run, task: &Task, result: Value) {
        if task.elect.is_some() {
            self.elected = Some(result.clone());
        }
        if let Some(name) = &task.register
            && let Err(message) = run.channel.record(Command::Register(name.clone(), result)).await
        {
            let report = TaskReport::new(task.id.clone(), instance::module(task), Outcome::Failed);
            self.add(Steps::failed(report.with_message(message)));
        }
    }
}
