//! One book on one node: its tasks in order, batches of files, handlers, and tasks before and after.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    time::Instant,
};

use serde_json::{Value, json};
use towpath_coordination::{Gate, Permit, Windows};
use towpath_host::files::written::Seen;
use towpath_modules::{Disk, ModuleError};
use towpath_proto::ModuleKind;
use towpath_render::{
    objects::task::{Book, Task},
    rendering::{Claims, Item, Rendered, Renderer},
    template::Want,
};
use towpath_state::{Changes, Managed, SegmentPhase};

use super::{
    super::runs::Run,
    Pass, Settled, Watched,
    batch::{self, Waiting},
    coordinated::InSegment,
    effects::Effect,
    gates,
    instance::{self, Prepared, Ready},
    outcome::{BookOutcome, Origin, Outcome, TaskOutcome},
    parallel::waves,
    prune,
};

/// The tasks that manage each item, over all books of a pass.
pub(super) type Owners = Claims;

/// The report of a book to the pass.
pub(super) struct Ran {
    pub(super) outcome: BookOutcome,
    pub(super) watched: Watched,
    pub(super) facts_read: BTreeSet<String>,
    pub(super) disk: Option<(Disk, String)>,
    /// The managed items. `None` if not all of them are known.
    pub(super) managed: Option<BTreeSet<Managed>>,
    /// True if managed items were modified concurrently. The pass must then be repeated.
    pub(super) moved: bool,
    /// The checks of the steady state. `None` if checks alone cannot confirm it.
    pub(super) settled: Option<Vec<Settled>>,
}

/// Runs a book.
pub(super) fn run(
    pass: &Pass<'_>,
    book: &Arc<Book>,
    blockers: Vec<String>,
    owners: &Owners,
    computed_failures: &[String],
) -> Ran {
    let begun = pass.machine.clock.monotonic();
    let started = pass.machine.clock.wall();
    let mut outcome = BookOutcome {
        namespace: book.namespace.clone(),
        name: book.name.clone(),
        tasks: Vec::new(),
        held: Vec::new(),
        started,
        took: std::time::Duration::ZERO,
        interrupted: false,
        uncoordinated: book.coordinated() && pass.coordination.is_none_or(|with| !with.fleet.store().shared()),
    };
    let ran = |outcome| Ran {
        outcome,
        watched: Watched::new(),
        facts_read: BTreeSet::new(),
        disk: None,
        managed: None,
        moved: false,
        settled: None,
    };
    let permit = match gates::of(pass, book, blockers).pass() {
        Ok(permit) => permit,
        Err(closed) => {
            outcome.held = closed;
            if !pass.plan {
                outcome.tasks = not_run(book, &BTreeMap::new(), &outcome);
            }
            return ran(outcome);
        }
    };
    let renderer = match Renderer::new(pass.set, pass.view, book, &pass.inputs) {
        Ok(renderer) => renderer,
        Err(error) => {
            let because = computed_failures.join("; ");
            let message = if because.is_empty() { error.to_string() } else { format!("{error} ({because})") };
            outcome.tasks.push(TaskOutcome::new("variables".into(), "vars", Outcome::Failed).say(message));
            return ran(outcome);
        }
    };
    let mut run = BookRun::new(pass, book, Arc::new(renderer), &permit, owners);
    run.all();
    let whole = run.complete && !run.stopped && !run.interrupted;
    if run.renderer.reads().nodes() {
        // The steady state does not compare values of other nodes.
        run.settled = None;
    }
    let stopped = run.stopped || run.interrupted;
    let BookRun { tasks, interrupted, watched, disk, renderer, managed, moved, settled, gate, reached, .. } = run;
    outcome.tasks = tasks;
    outcome.held.extend(gate);
    outcome.interrupted = interrupted;
    if stopped && !pass.plan {
        let rest = not_run(book, &reached, &outcome);
        outcome.tasks.extend(rest);
    }
    outcome.took = begun.elapsed();
    Ran {
        outcome,
        watched,
        facts_read: renderer.reads().facts().into_iter().collect(),
        disk,
        managed: whole.then_some(managed),
        moved,
        settled,
    }
}

/// The state of a running book.
pub(super) struct BookRun<'a, 'p> {
    pub(super) pass: &'a Pass<'p>,
    pub(super) book: &'a Arc<Book>,
    pub(super) renderer: Arc<Renderer>,
    pub(super) permit: &'a Permit,
    pub(super) owners: &'a Owners,
    pub(super) tasks: Vec<TaskOutcome>,
    pub(super) waiting: Vec<Waiting>,
    /// Direct changes that wait for a common transaction.
    pub(super) together: Vec<Effect>,
    /// Registered results that wait for a batch.
    pub(super) late: Vec<(String, usize, Option<Item>)>,
    pub(super) watched: Watched,
    pub(super) managed: BTreeSet<Managed>,
    /// True if all managed items are known. Items are pruned only then.
    pub(super) complete: bool,
    pub(super) stopped: bool,
    pub(super) interrupted: bool,
    /// True if changes come from a commit that this node has not applied yet.
    pub(super) fresh: bool,
    /// The active segment of a coordinated book.
    pub(super) in_segment: Option<InSegment>,
    /// The gate that the book waits for.
    pub(super) gate: Option<Gate>,
    /// True if the book began in a maintenance window, or without windows.
    pub(super) in_window: bool,
    /// The result of the elected task.
    pub(super) captured: Option<Value>,
    /// True if the node stays out of service after this segment, because a removal has failed. The removal is retried
    /// after the book.
    pub(super) stays_out: bool,
    /// True if this segment has begun to change the node.
    pub(super) begun: bool,
    pub(super) adopted: Changes,
    /// The tasks that the run has reached. The others are reported as not run. True for tasks that failed or are held,
    /// and for tasks that require them: tasks that require one of these do not run.
    pub(super) reached: BTreeMap<String, bool>,
    /// True if managed items were modified concurrently.
    pub(super) moved: bool,
    pub(super) settled: Option<Vec<Settled>>,
    /// Results of the current loop, by position in `tasks`.
    pub(super) loop_results: Vec<(usize, Option<Value>)>,
    pub(super) disk: Option<(Disk, String)>,
    pub(super) probes: bool,
}

impl<'a, 'p> BookRun<'a, 'p> {
    pub(super) fn new(
        pass: &'a Pass<'p>,
        book: &'a Arc<Book>,
        renderer: Arc<Renderer>,
        permit: &'a Permit,
        owners: &'a Owners,
    ) -> Self {
        Self {
            pass,
            book,
            renderer,
            permit,
            owners,
            tasks: Vec::new(),
            waiting: Vec::new(),
            together: Vec::new(),
            late: Vec::new(),
            watched: Watched::new(),
            managed: BTreeSet::new(),
            complete: true,
            stopped: false,
            interrupted: false,
            fresh: pass.fresh,
            in_segment: None,
            gate: None,
            in_window: false,
            captured: None,
            begun: false,
            stays_out: false,
            adopted: Changes::default(),
            disk: None,
            probes: pass.fresh,
            reached: BTreeMap::new(),
            moved: false,
            settled: Some(Vec::new()),
            loop_results: Vec::new(),
        }
    }

    fn all(&mut self) {
        let book = Arc::clone(self.book);
        if !self.probes && !self.pass.plan && has_probes(&book) {
            self.probes = self.would_change();
        }
        if let (false, Some(with)) = (self.pass.plan, self.pass.coordination)
            && let Some(run) = Run::of(self.pass.set, self.pass.generation, with.manifest, &book)
        {
            self.in_segments(with, &run);
            self.settle();
            return;
        }
        self.begun = !self.pass.plan && self.segment() == Some(SegmentPhase::Changing);
        self.stays_out = prune::removal_failed(self.pass, self.book);
        self.tasks_of(&book.tasks.iter().collect::<Vec<_>>());
        self.end_of_segment();
        if !self.pass.plan {
            self.settle();
        }
    }

    /// Runs tasks in the order of the book.
    pub(super) fn tasks_of(&mut self, tasks: &[&Task]) {
        for wave in waves(tasks, self.book.parallel) {
            if self.stopped || self.makes_way() {
                break;
            }
            self.wave(&wave);
        }
    }

    /// Returns whether the run is preempted at this task (P41).
    pub(super) fn makes_way(&mut self) -> bool {
        self.interrupted |= (self.pass.make_way)();
        self.interrupted
    }

    /// Ends a segment: carries out its batch, its handlers and its `after` tasks.
    pub(super) fn end_of_segment(&mut self) {
        self.flush();
        if self.pass.plan {
            return;
        }
        if !self.stopped && !self.interrupted {
            self.handlers();
        }
        if !self.stopped && !self.interrupted && !self.stays_out {
            self.after();
        }
    }

    /// Returns whether the book would change anything. Probes run only then.
    fn would_change(&self) -> bool {
        self.would_change_any(&[])
    }

    /// Returns whether one of the named tasks would change something, or a handler is pending. Without names, all tasks
    /// count.
    pub(super) fn would_change_any(&self, names: &[&str]) -> bool {
        let mut plan = Pass {
            plan: true,
            inputs: self.pass.inputs.clone(),
            suspended: Vec::new(),
            windows: Windows::default(),
            ..*self.pass
        };
        plan.fresh = false;
        let ran = run(&plan, self.book, Vec::new(), &Owners::default(), &[]);
        let named = |task: &TaskOutcome| {
            names.is_empty()
                || names.iter().any(|name| task.name == *name || task.name.starts_with(&format!("{name} [")))
        };
        !self.pending_handlers().is_empty()
            || ran.outcome.tasks.iter().filter(|task| named(task)).any(|task| task.action != "none")
    }

    /// Saves the inventory of a book that has run, and the items that were found in sync.
    fn settle(&mut self) {
        let id = self.book.id();
        let mut changes = std::mem::take(&mut self.adopted);
        prune::remember(self.pass, self.book, &self.managed, &mut changes);
        self.commit(changes, &id);
    }

    pub(super) fn commit(&mut self, changes: Changes, what: &str) {
        let Some(journal) = &self.pass.machine.journal else { return };
        if let Err(error) = journal.commit(changes) {
            let failed = batch::journal_failed(&error);
            self.note_disk(&failed);
            self.tasks.push(TaskOutcome::new(what.to_owned(), "journal", Outcome::Failed).say(failed.message));
        }
    }

    pub(super) fn note_disk(&mut self, error: &ModuleError) {
        if let (None, Some(disk)) = (&self.disk, error.disk) {
            self.disk = Some((disk, error.message.clone()));
        }
    }

    pub(super) fn task(&mut self, task: &Task) {
        if !task.requires.is_empty() {
            self.flush();
            if self.stopped() {
                return;
            }
        }
        if let Some(missing) = self.unmet(task) {
            self.complete = false;
            self.reached.insert(task.id.clone(), true);
            self.finish(
                task,
                None,
                TaskOutcome::new(task.id.clone(), module(task), Outcome::Skipped)
                    .say(format!("it requires {missing:?}, which failed")),
                None,
            );
            return;
        }
        if task.sync || task.flush_handlers {
            self.flush();
            if self.stopped {
                return;
            }
            // In a coordinated book, handlers run at the end of each segment.
            if !self.pass.plan && (task.flush_handlers || self.in_segment.is_none()) {
                self.handlers();
            }
            if self.stopped {
                return;
            }
            if task.module.is_none() {
                self.reached.entry(task.id.clone()).or_default();
                self.push(TaskOutcome::new(task.id.clone(), "sync", Outcome::Unchanged));
                return;
            }
        }
        self.reached.entry(task.id.clone()).or_default();
        let items = match self.ask(|run| run.renderer.items(task)) {
            Ok(Rendered::Ready(items)) => items,
            Ok(Rendered::Wants(wants)) => return self.wanting(task, None, &wants),
            Err(error) => return self.failed(task, None, error.to_string()),
        };
        let Some(items) = items else { return self.instance(task, None) };
        if task.register.is_some() {
            // Results of a loop refer to positions in `tasks`, which a dropped change would shift.
            self.flush();
            if self.stopped() {
                return;
            }
        }
        self.loop_results.clear();
        for item in items {
            if self.stopped {
                break;
            }
            if (self.pass.make_way)() {
                self.interrupted = true;
                self.stopped = true;
                break;
            }
            self.instance(task, Some(item));
        }
        if task.register.is_some() {
            self.flush();
            self.register_loop(task);
        }
    }

    /// Returns the name of a required task that failed, is held, or did not run for such a reason.
    fn unmet<'t>(&self, task: &'t Task) -> Option<&'t str> {
        task.requires.iter().find(|name| self.reached.get(*name) == Some(&true)).map(String::as_str)
    }

    /// Returns whether any change waits for a batch.
    fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.together.is_empty()
    }

    /// Renders. If a result is missing that a batch may supply, carries out the batch and renders again.
    fn ask<T>(
        &mut self,
        render: impl Fn(&Self) -> Result<Rendered<T>, towpath_render::rendering::RenderError>,
    ) -> Result<Rendered<T>, towpath_render::rendering::RenderError> {
        match render(self)? {
            Rendered::Wants(_) if self.waits() => {
                self.flush();
                render(self)
            }
            other => Ok(other),
        }
    }

    fn instance(&mut self, task: &Task, item: Option<Item>) {
        let begun = self.pass.machine.clock.monotonic();
        let mut prepared = instance::prepare(self.pass.machine, &self.renderer, task, item.as_ref());
        if matches!(prepared, Prepared::Wants(_)) && self.waits() {
            self.flush();
            prepared = instance::prepare(self.pass.machine, &self.renderer, task, item.as_ref());
        }
        let name = instance::name(task, item.as_ref());
        match prepared {
            Prepared::Skipped(managed) => {
                self.complete &= managed.is_some();
                self.managed.extend(managed.unwrap_or_default());
                self.finish(task, item, TaskOutcome::new(name, module(task), Outcome::Skipped), None);
            }
            Prepared::Wants(wants) => self.wanting(task, item, &wants),
            Prepared::Failed(message) => self.failed(task, item, message),
            Prepared::Ready(ready) => self.ready(task, item, *ready, name, begun),
        }
    }

    fn wanting(&mut self, task: &Task, item: Option<Item>, wants: &[Want]) {
        self.complete = false;
        let shown = wants.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let name = instance::name(task, item.as_ref());
        let steps = wants.iter().all(|want| matches!(want, Want::Step(_)));
        if self.pass.plan && steps {
            let outcome = TaskOutcome::new(name, module(task), Outcome::Unknown).say(format!("it depends on {shown}"));
            self.push(outcome);
        } else if steps {
            self.failed(task, item, format!("it needs {shown}, which is not there"));
        } else {
            self.push(TaskOutcome::new(name, module(task), Outcome::Held).say(format!("{shown} can't be read yet")));
            self.stopped |= !task.go_on && !self.pass.plan;
        }
    }

    pub(super) fn failed(&mut self, task: &Task, item: Option<Item>, message: String) {
        self.complete = false;
        let name = instance::name(task, item.as_ref());
        self.finish(task, item, TaskOutcome::new(name, module(task), Outcome::Failed).say(message), None);
    }

    fn ready(&mut self, task: &Task, item: Option<Item>, ready: Ready, name: String, begun: Instant) {
        if let Some(identity) = &ready.identity
            && let Some(other) = self.claim(task, &ready, identity)
        {
            return self.failed(
                task,
                item,
                format!(
                    "{} {identity} is managed by {other} too; remove one of the two tasks, or give it another item",
                    ready.options.name()
                ),
            );
        }
        // A batch of direct changes ends at a task that cannot join its transaction.
        if self.together.iter().any(|waiting| !waiting.ready.options.can_batch_with(&*ready.options)) {
            self.flush();
            if self.stopped() {
                return;
            }
        }
        // Registered probes, and tasks that run by conditions, must run in every pass. They rule out a steady state.
        let schema = ready.options.schema();
        let by_checks = match ready.options.kind() {
            ModuleKind::Probe => task.register.is_none(),
            // Pending reboots are checked in every pass.
            ModuleKind::Action => !schema.reboots,
            ModuleKind::Always => false,
            // The conditions of an action ask commands.
            ModuleKind::State => schema.kind == ModuleKind::State,
        };
        if !by_checks {
            self.settled = None;
        }
        match ready.options.kind() {
            ModuleKind::Probe => self.probe(task, item, &ready, name, begun),
            _ if schema.reboots => self.reboot(task, item, &ready, name, begun),
            ModuleKind::Action | ModuleKind::Always => self.action(task, item, &ready, name, begun),
            ModuleKind::State if schema.kind == ModuleKind::Action => self.action(task, item, &ready, name, begun),
            ModuleKind::State if schema.applies_directly => self.effect(task, item, ready, name, begun),
            ModuleKind::State => self.state(task, item, ready, name, begun),
        }
    }

    /// Records the items that a task manages. Returns the task that already manages one of them.
    fn claim(&mut self, task: &Task, ready: &Ready, identity: &str) -> Option<String> {
        let module = ready.options.name();
        let one = std::slice::from_ref(&identity);
        let parts: Vec<&str> = ready.options.parts().iter().map(String::as_str).collect();
        let mut parts = if parts.is_empty() { one.to_vec() } else { parts };
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let other_name = ready.options.other_name(&context);
        parts.extend(other_name.as_deref().filter(|name| *name != identity));
        let owner = format!("{}/{}", self.book.id(), task.id);
        let keeps_state = ready.options.kind() == ModuleKind::State;
        for part in parts {
            if let Some(other) = self.owners.take(module, part, &owner, keeps_state) {
                return Some(other);
            }
        }
        self.managed.extend(instance::managed(&*ready.options, identity, &context));
        // Before the check, so that a change that comes while the pass runs is not taken for its result.
        let machine = self.pass.machine;
        for path in ready.options.watched_paths(&context) {
            let real = machine.look.real_path(&path);
            // The first of several tasks on a file counts: a change between them is not the agent's own.
            if let Entry::Vacant(unseen) = self.watched.entry(real) {
                if !self.pass.plan {
                    machine.written.forget(unseen.key());
                }
                unseen.insert(Seen::before_check(&machine.look, &path));
            }
        }
        None
    }

    /// Registers the results of a loop: all of them, whether any item changed, and the worst outcome.
    fn register_loop(&mut self, task: &Task) {
        let Some(name) = &task.register else { return };
        let collected = std::mem::take(&mut self.loop_results);
        let outcomes: Vec<&TaskOutcome> = collected.iter().map(|(position, _)| &self.tasks[*position]).collect();
        let changed = outcomes.iter().any(|outcome| outcome.outcome == Outcome::Changed);
        let worst = outcomes.iter().map(|outcome| outcome.outcome).max().unwrap_or(Outcome::Skipped);
        let results: Vec<Value> = collected
            .iter()
            .map(|(position, result)| result.clone().unwrap_or_else(|| self.tasks[*position].result([])))
            .collect();
        let all = json!({ "results": results, "changed": changed, "outcome": worst.word() });
        self.renderer.register(name, &all);
        if task.elect.is_some() {
            self.captured = Some(all);
        }
    }

    /// Ends a task: registers its result and stops the book after a failure.
    pub(super) fn finish(&mut self, task: &Task, item: Option<Item>, outcome: TaskOutcome, result: Option<Value>) {
        if task.elect.is_some() && item.is_none() {
            self.captured = Some(result.clone().unwrap_or_else(|| outcome.result([])));
        }
        match (&task.register, &item) {
            (Some(name), None) => {
                let result = result.unwrap_or_else(|| outcome.result([]));
                self.renderer.register(name, &result);
            }
            (Some(_), Some(_)) => self.loop_results.push((self.tasks.len(), result)),
            _ => {}
        }
        if outcome.outcome >= Outcome::Held {
            self.reached.insert(task.id.clone(), true);
        }
        self.stopped |= outcome.outcome == Outcome::Failed && !task.go_on && !self.pass.plan;
        self.push(outcome);
    }

    pub(super) fn push(&mut self, mut outcome: TaskOutcome) {
        // The output of a command may contain a URL with credentials.
        outcome.message = outcome.message.map(|message| towpath_git::without_secrets(&message));
        self.tasks.push(outcome);
    }

    /// Returns whether the book ends in this pass. Then not all managed items are known.
    pub(super) fn stopped(&mut self) -> bool {
        self.complete &= !self.stopped;
        self.stopped
    }

    pub(super) fn asks_probes(&self, task: &Task) -> bool {
        self.probes || task.register.is_some()
    }
}

/// Returns the outcomes of the tasks that a book has not run, with the cause.
fn not_run(book: &Book, reached: &BTreeMap<String, bool>, so_far: &BookOutcome) -> Vec<TaskOutcome> {
    let blocker = so_far.tasks.iter().rev().find(|task| task.outcome >= Outcome::Held);
    let (outcome, why) = match (so_far.held.first(), blocker) {
        (Some(gate), _) => (Outcome::Held, format!("not run: the book is held ({})", gate.reason)),
        (None, Some(task)) if task.outcome == Outcome::Failed => {
            (Outcome::Skipped, format!("not run: {:?} failed", task.name))
        }
        (None, Some(task)) => (Outcome::Skipped, format!("not run: {:?} is held", task.name)),
        (None, None) => (Outcome::Skipped, "not run: the pass was interrupted".to_owned()),
    };
    let rest = book.tasks.iter().filter(|task| !reached.contains_key(&task.id));
    let of = |task: &Task| {
        let unrun = TaskOutcome::new(task.id.clone(), module(task), outcome).say(why.clone());
        TaskOutcome { origin: Origin::NotRun, ..unrun }
    };
    rest.map(of).collect()
}

/// Returns the module of a task, for status.
pub(super) fn module(task: &Task) -> &'static str {
    task.module.as_ref().map_or("sync", |module| module.name)
}

fn has_probes(book: &Book) -> bool {
    let probe = |task: &Task| task.module.as_ref().is_some_and(|module| module.schema.kind == ModuleKind::Probe);
    book.tasks.iter().any(probe)
}
