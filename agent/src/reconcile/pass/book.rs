//! One book on one node: its tasks in order, batches of files, handlers, what comes before and after.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use towpath_coordination::{Gate, Permit, Windows};
use towpath_host::journal::{Changes, HandlerRecord, Managed};
use towpath_modules::{Disk, ModuleError, Sort};
use towpath_render::{
    objects::task::{Book, Task},
    rendering::{Item, Rendered, Renderer},
    template::Want,
};

use super::{
    super::runs::Run,
    Pass, Settled,
    batch::{self, Waiting},
    coordinated::InSegment,
    effects::Effect,
    gates,
    instance::{self, Prepared, Ready},
    outcome::{BookOutcome, Outcome, TaskOutcome},
    parallel::waves,
    prune,
};

/// Who manages what, over all books of a pass.
pub(super) type Owners = Mutex<BTreeMap<Managed, String>>;

/// What came of a book, for the pass.
pub(super) struct Ran {
    pub(super) outcome: BookOutcome,
    pub(super) watched: BTreeSet<PathBuf>,
    pub(super) facts_read: BTreeSet<String>,
    pub(super) disk: Option<(Disk, String)>,
    /// What the book manages; None where not all of it is known.
    pub(super) managed: Option<BTreeSet<Managed>>,
    /// Whether somebody else changed something meanwhile: another look is due.
    pub(super) moved: bool,
    /// The checks that found everything in order; None where more than checks is needed to know.
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
        watched: BTreeSet::new(),
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
        // What other nodes are like is not among the facts that are compared.
        run.settled = None;
    }
    let BookRun { tasks, interrupted, watched, disk, renderer, managed, moved, settled, gate, .. } = run;
    outcome.tasks = tasks;
    outcome.held.extend(gate);
    outcome.interrupted = interrupted;
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

/// A book while it runs.
pub(super) struct BookRun<'a, 'p> {
    pub(super) pass: &'a Pass<'p>,
    pub(super) book: &'a Arc<Book>,
    pub(super) renderer: Arc<Renderer>,
    pub(super) permit: &'a Permit,
    pub(super) owners: &'a Owners,
    pub(super) tasks: Vec<TaskOutcome>,
    pub(super) waiting: Vec<Waiting>,
    /// Effects that wait for others that they go with.
    pub(super) together: Vec<Effect>,
    /// What was registered by tasks whose batch is not carried out yet.
    pub(super) late: Vec<(String, usize, Option<Item>)>,
    pub(super) watched: BTreeSet<PathBuf>,
    pub(super) managed: BTreeSet<Managed>,
    /// Whether everything that the book manages is known: only then may something be removed.
    pub(super) complete: bool,
    pub(super) stopped: bool,
    pub(super) interrupted: bool,
    /// Whether what is changed was asked for by a commit that this node has not applied yet.
    pub(super) fresh: bool,
    /// The segment that nodes go through together.
    pub(super) in_segment: Option<InSegment>,
    /// What the book waits for.
    pub(super) gate: Option<Gate>,
    /// Whether it began within a maintenance window, or where there are none.
    pub(super) in_window: bool,
    /// The result of an elected task.
    pub(super) captured: Option<Value>,
    /// Whether the node stays out behind this segment: what could not be removed keeps it out as a task that failed
    /// does, and the removal comes behind the book.
    pub(super) stays_out: bool,
    /// Whether this segment has begun to change the node.
    pub(super) begun: bool,
    pub(super) adopted: Changes,
    /// Tasks that failed, are held, or require such: what requires them is not run.
    pub(super) unmet: BTreeSet<String>,
    /// Whether somebody else changed something meanwhile.
    pub(super) moved: bool,
    pub(super) settled: Option<Vec<Settled>>,
    /// The results of the loop at hand, by their place among the outcomes.
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
            watched: BTreeSet::new(),
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
            unmet: BTreeSet::new(),
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
        self.begun = !self.pass.plan && self.segment() == Some(true);
        self.stays_out = prune::still_there(self.pass, self.book);
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

    /// Whether the run makes way at this task.
    pub(super) fn makes_way(&mut self) -> bool {
        self.interrupted |= (self.pass.make_way)();
        self.interrupted
    }

    /// What comes behind the last task of a segment: its batch, its handlers, what frames it.
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

    /// Whether anything of the book would change: probes are only asked then.
    fn would_change(&self) -> bool {
        self.would_change_any(&[])
    }

    /// Whether one of some tasks would change something (of all, where none are named), or a handler is pending.
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
        let pending: Vec<(String, HandlerRecord)> = self.pass.machine.records(&format!("handler/{}/", self.book.id()));
        let named = |task: &TaskOutcome| {
            names.is_empty()
                || names.iter().any(|name| task.name == *name || task.name.starts_with(&format!("{name} [")))
        };
        !pending.is_empty() || ran.outcome.tasks.iter().filter(|task| named(task)).any(|task| task.action != "none")
    }

    /// What is remembered of a book that has run: what it manages, and what was found in place.
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
            self.unmet.insert(task.id.clone());
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
            // Between segments that nodes go through together, handlers have run at the cut.
            if !self.pass.plan && (task.flush_handlers || self.in_segment.is_none()) {
                self.handlers();
            }
            if self.stopped {
                return;
            }
            if task.module.is_none() {
                self.push(TaskOutcome::new(task.id.clone(), "sync", Outcome::Unchanged));
                return;
            }
        }
        let items = match self.ask(|run| run.renderer.items(task)) {
            Ok(Rendered::Ready(items)) => items,
            Ok(Rendered::Wants(wants)) => return self.wanting(task, None, &wants),
            Err(error) => return self.failed(task, None, error.to_string()),
        };
        let Some(items) = items else { return self.instance(task, None) };
        if task.register.is_some() {
            // Their outcomes are looked up by their places, which must not move.
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

    /// A required task that failed, is held, or was itself not run for that.
    fn unmet<'t>(&self, task: &'t Task) -> Option<&'t str> {
        task.requires.iter().find(|name| self.unmet.contains(*name)).map(String::as_str)
    }

    /// Whether anything waits to be carried out.
    fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.together.is_empty()
    }

    /// Renders, and where a result is wanted that waits in the batch, carries the batch out and renders again.
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
                    "{} {identity} is managed by {other} too; two tasks must not manage one thing",
                    ready.options.name()
                ),
            );
        }
        // What waits for others that it goes with waits no longer when something else comes.
        if self.together.iter().any(|waiting| !waiting.ready.options.goes_with(&ready.options)) {
            self.flush();
            if self.stopped() {
                return;
            }
        }
        // What asks, or runs by conditions, must be asked again in every pass.
        let by_checks = match ready.options.sort() {
            Sort::Probe => task.register.is_none(),
            // Whether the system asks for a reboot is looked at in every pass.
            Sort::Action => !matches!(ready.options, towpath_modules::Options::Reboot(_)),
            Sort::Always => false,
            Sort::State => !matches!(ready.options, towpath_modules::Options::Command(_)),
        };
        if !by_checks {
            self.settled = None;
        }
        match ready.options.sort() {
            Sort::Probe => self.probe(task, item, &ready, name, begun),
            _ if matches!(ready.options, towpath_modules::Options::Reboot(_)) => {
                self.reboot(task, item, &ready, name, begun);
            }
            Sort::Action | Sort::Always => self.action(task, item, &ready, name, begun),
            Sort::State if matches!(ready.options, towpath_modules::Options::Command(_)) => {
                self.action(task, item, &ready, name, begun)
            }
            Sort::State if ready.options.is_effect() => self.effect(task, item, ready, name, begun),
            Sort::State => self.state(task, item, ready, name, begun),
        }
    }

    /// Remembers what a task manages; gives who manages it already.
    fn claim(&mut self, task: &Task, ready: &Ready, identity: &str) -> Option<String> {
        let module = ready.options.name();
        let one = std::slice::from_ref(&identity);
        let parts: Vec<&str> = ready.options.parts().iter().map(String::as_str).collect();
        let mut parts = if parts.is_empty() { one.to_vec() } else { parts };
        let context = instance::context(self.pass.machine, &self.renderer, task, self.pass.cancel);
        let other_name = ready.options.other_name(&context);
        parts.extend(other_name.as_deref().filter(|name| *name != identity));
        let owner = format!("{}/{}", self.book.id(), task.id);
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts {
            let managed = Managed { module: module.to_owned(), identity: part.to_owned() };
            if let Some(other) = owners.get(&managed).filter(|_| ready.options.sort() == Sort::State) {
                return Some(other.clone());
            }
            owners.insert(managed, owner.clone());
        }
        drop(owners);
        self.managed.extend(instance::managed(&ready.options, identity, &context));
        let look = &self.pass.machine.look;
        self.watched.extend(ready.options.manages(&context).iter().map(|path| look.real_path(path)));
        None
    }

    /// Registers the results of a loop: all of them, and whether any changed something.
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

    /// Ends a task: its outcome, its result, and whether the book goes on.
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
            self.unmet.insert(task.id.clone());
        }
        self.stopped |= outcome.outcome == Outcome::Failed && !task.go_on && !self.pass.plan;
        self.push(outcome);
    }

    pub(super) fn push(&mut self, outcome: TaskOutcome) {
        self.tasks.push(outcome);
    }

    /// Whether the book goes no further in this pass.
    pub(super) fn stopped(&mut self) -> bool {
        self.complete &= !self.stopped;
        self.stopped
    }

    pub(super) fn asks_probes(&self, task: &Task) -> bool {
        self.probes || task.register.is_some()
    }
}

/// The module of a task, for status.
pub(super) fn module(task: &Task) -> &'static str {
    task.module.as_ref().map_or("sync", |module| module.name)
}

fn has_probes(book: &Book) -> bool {
    book.tasks.iter().any(|task| task.module.as_ref().is_some_and(|module| module.message.module == Some("probe")))
}
