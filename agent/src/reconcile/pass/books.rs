//! A pass over the TaskBooks of a node. All TaskBooks run their tasks before items are removed, because an item may
//! have moved to another TaskBook.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use towpath_reconcile::{
    BookReport, Outcome, TaskReport,
    names::Managed as ManagedItem,
    plan::{removal::Inventory, unrun::unrun},
};
use towpath_render::{
    document::{Path, Place, SourceFile},
    objects::task::{Book, ModuleUse, Rollout, Task},
    rendering::{Claims, RenderError, Renderer},
    view::PruneBudget,
};
use towpath_state::{BookId, HandlerRecord, Inventory as InventoryRecord, KeptTask, LastRollout, Managed};

use super::{BookOutcome, PassContext, PassOutcome, TaskOutcome, book_id, coordinated};
use crate::reconcile::{
    admission,
    execute::{CarryOut, Notes, Session, Stage, Started, resource::managed_item},
};

/// A TaskBook in a pass, with its run and its outcome so far.
struct Course<E> {
    book: Arc<Book>,
    outcome: BookOutcome,
    /// The run of the TaskBook. `run` is `None` after the end of the run, or if the run could not start.
    run: Option<Started<E>>,
    /// The items that the TaskBook manages. `managed` is `None` if some managed items are not known.
    managed: Option<Arc<BTreeSet<ManagedItem>>>,
    begun: Instant,
}

/// The TaskBooks of a pass, and the outcome of the pass so far.
struct Books<E> {
    courses: Vec<Course<E>>,
    outcome: PassOutcome,
}

/// Runs a pass with an executor of type `E` that changes the node or makes a dry run. `computed_failures` contains
/// messages about values that could not be computed.
pub(in crate::reconcile) fn run<'a, E: CarryOut<'a>>(
    pass: &'a PassContext<'a>,
    tools: E::Tools,
    claims: &'a Claims,
    computed_failures: &[String],
) -> PassOutcome {
    let steady_checks = pass.inputs.computed.is_empty().then(Vec::new);
    let mut books: Books<E> =
        Books { courses: Vec::new(), outcome: PassOutcome { steady_checks, ..PassOutcome::default() } };
    books.run_tasks(pass, tools, claims, computed_failures);
    books.remove(pass);
    books.end(pass, tools, claims)
}

impl<'a, E: CarryOut<'a>> Books<E> {
    /// Runs the tasks of all TaskBooks in order, until a run is preempted.
    fn run_tasks(
        &mut self,
        pass: &'a PassContext<'a>,
        tools: E::Tools,
        claims: &'a Claims,
        computed_failures: &[String],
    ) {
        let mut done: BTreeMap<String, Outcome> = BTreeMap::new();
        for book in &pass.view.books {
            self.outcome.interrupted |= (pass.should_preempt)();
            if self.outcome.interrupted {
                break;
            }
            let mut course = begin(pass, tools, book, dependencies(book, &done), claims, computed_failures, None);
            let mut worst = course.outcome.worst();
            match course.run.as_mut().map(Started::advance) {
                Some(Stage::Removing(interim)) => {
                    course.managed = interim.managed;
                    worst = interim.worst;
                }
                Some(Stage::Finished(report)) => {
                    self.outcome.interrupted |= report.preempted;
                    course = self.finish(course, report);
                    worst = course.outcome.worst();
                }
                None => self.outcome.steady_checks = None,
            }
            done.insert(book.id(), worst);
            self.courses.push(course);
        }
    }

    /// Continues the runs that waited for the other TaskBooks. These runs now remove items.
    fn remove(&mut self, pass: &'a PassContext<'a>) {
        let all_managed = self.all_managed(pass);
        let interrupted = self.outcome.interrupted;
        for mut course in std::mem::take(&mut self.courses) {
            let inventory = all_managed.as_ref().map(|all_managed| inventory(pass, &course.book, all_managed));
            let stage = course.run.as_mut().map(|run| {
                if interrupted {
                    run.preempt();
                }
                run.remove(inventory)
            });
            if let Some(Stage::Finished(report)) = stage {
                self.outcome.interrupted |= report.preempted;
                course = self.finish(course, report);
            }
            self.courses.push(course);
        }
    }

    /// Returns the items that the TaskBooks of this node manage. Returns `None` if some managed items are not known, or
    /// if an object is held. The pass prunes nothing while an object is held, because the object is still in git.
    fn all_managed(&self, pass: &PassContext<'_>) -> Option<Arc<BTreeSet<ManagedItem>>> {
        let is_complete = self.courses.len() == pass.view.books.len() && pass.set.held.is_empty();
        let known = self.courses.iter().map(|course| course.managed.as_ref()).collect::<Option<Vec<_>>>();
        let known = known.filter(|_| is_complete)?;
        if let [only] = known.as_slice() {
            return Some(Arc::clone(only));
        }
        Some(Arc::new(known.into_iter().flat_map(|managed| managed.iter().cloned()).collect()))
    }

    /// Ends the run of a TaskBook, and adds its report and its findings to the outcome of the pass.
    fn finish(&mut self, mut course: Course<E>, report: BookReport) -> Course<E> {
        let Some(run) = course.run.take() else { return course };
        let session = run.session();
        let mut notes = std::mem::take(&mut *session.notes());
        // The steady state does not compare values of other nodes, so a TaskBook that reads such values is not steady.
        let is_steady = report.steady && !session.renderer.reads().nodes();
        let outcome = &mut self.outcome;
        outcome.facts_read.extend(session.renderer.reads().facts());
        outcome.conflict |= notes.conflict;
        outcome.disk = outcome.disk.take().or(notes.disk.take());
        // If several TaskBooks check a file, the version that the first TaskBook saw counts.
        for (path, seen) in std::mem::take(&mut notes.watched) {
            outcome.watched.entry(path).or_insert(seen);
        }
        let BookReport { tasks, gates, preempted, .. } = report;
        course.outcome.tasks.extend(tasks.into_iter().map(|report| task(report, &notes)));
        course.outcome.held.extend(gates);
        course.outcome.interrupted = preempted;
        course.outcome.took = course.begun.elapsed();
        outcome.steady_checks = outcome.steady_checks.take().filter(|_| is_steady).map(|mut all| {
            all.extend(notes.into_steady_checks());
            all
        });
        course
    }

    /// Removes the items of deleted TaskBooks, and returns the outcome of the pass.
    fn end(mut self, pass: &'a PassContext<'a>, tools: E::Tools, claims: &'a Claims) -> PassOutcome {
        self.outcome.books = self.courses.iter_mut().map(|course| std::mem::take(&mut course.outcome)).collect();
        let all_managed = self.all_managed(pass).filter(|_| !self.outcome.interrupted);
        let mut removing = E::out_of_service(pass);
        for (id, record) in all_managed.is_some().then(|| gone(pass)).into_iter().flatten() {
            let book = book_of(&id, &record);
            let last = record.rollout.unwrap_or_default();
            let mut course: Course<E> = begin(pass, tools, &book, Vec::new(), claims, &[], Some(last));
            let mut stage = course.run.as_mut().map(Started::advance);
            if let (Some(Stage::Removing(_)), Some(all_managed), Some(run)) = (&stage, &all_managed, &mut course.run) {
                stage = Some(run.remove(Some(inventory(pass, &course.book, all_managed))));
            }
            if let Some(Stage::Finished(report)) = stage {
                self.outcome.interrupted |= report.preempted;
                course = self.finish(course, report);
            }
            if !course.outcome.held.is_empty() || !E::forget_gone(pass, &id) {
                removing.insert(id);
            } else {
                removing.remove(&id);
            }
            if !course.outcome.tasks.is_empty() || !course.outcome.held.is_empty() {
                self.outcome.books.push(course.outcome);
            }
        }
        let mut outcome = self.outcome;
        if !outcome.interrupted && !coordinated::leave_gone_books(pass, &removing) {
            outcome.steady_checks = None;
        }
        if outcome.interrupted || !removing.is_empty() || outcome.worst() > Outcome::Unchanged {
            outcome.steady_checks = None;
        }
        outcome
    }
}

/// Returns the dependencies of a TaskBook that have failed or are held (P86, P88).
fn dependencies(book: &Book, done: &BTreeMap<String, Outcome>) -> Vec<String> {
    let needed = book.depends_on.iter().map(|dependency| format!("{}/{}", book.namespace, dependency.book));
    let blocks = |id: String| match done.get(&id) {
        Some(Outcome::Failed) => Some(format!("book {id}, which has failed on this node")),
        Some(Outcome::Held) => Some(format!("book {id}, which is held on this node")),
        // A TaskBook that does not target this node counts as done.
        _ => None,
    };
    needed.filter_map(blocks).collect()
}

/// Returns the deleted TaskBooks of this node with their inventories. The result includes TaskBooks without items,
/// because a deleted TaskBook may have a pending handler.
fn gone(pass: &PassContext<'_>) -> BTreeMap<BookId, InventoryRecord> {
    let present: BTreeSet<BookId> = pass.view.books.iter().map(|book| book_id(book)).collect();
    let mut inventories: BTreeMap<BookId, InventoryRecord> = pass.machine.records().into_iter().collect();
    for (handler, _) in pass.machine.records::<HandlerRecord>() {
        inventories.entry(handler.book).or_default();
    }
    inventories.retain(|id, _| !present.contains(id));
    inventories
}

/// Returns an empty TaskBook, whose run removes the remaining items of a deleted TaskBook. The `before` and `after`
/// tasks come from the rollout that the TaskBook had before its deletion.
fn book_of(id: &BookId, record: &InventoryRecord) -> Arc<Book> {
    // A deleted TaskBook has no location in git.
    let place = Place::new(Arc::new(SourceFile::new("", "", "")), 0, Path::default());
    let last = record.rollout.clone().unwrap_or_default();
    let around = |tasks: Vec<KeptTask>| tasks.into_iter().map(|kept| task_of(kept, &place)).collect();
    Arc::new(Book {
        namespace: id.namespace.clone(),
        name: id.name.clone(),
        targets: None,
        depends_on: Vec::new(),
        rollout: Rollout { before: around(last.before), after: around(last.after), ..Rollout::default() },
        parallel: false,
        prune: record.prune,
        prune_budget: record.budget.clone(),
        vars: serde_json::Map::new(),
        tasks: Vec::new(),
        handlers: Vec::new(),
        suspend: None,
        place,
    })
}

/// Returns a `before` or `after` task for the removal of a deleted TaskBook. The returned task has no parameters,
/// because the executor reads the parameters from the journal.
fn task_of(kept: KeptTask, place: &Place) -> Task {
    let module = towpath_proto::module(&kept.module);
    Task {
        id: kept.name,
        module: module.map(|schema| ModuleUse { name: schema.key, schema, params: serde_json::Value::Null }),
        when: Vec::new(),
        loop_items: None,
        vars: serde_json::Map::new(),
        register: None,
        success: None,
        changed: None,
        until: None,
        continue_on_failure: false,
        timeout: Duration::from_secs(600),
        requires: Vec::new(),
        notify: Vec::new(),
        drift: None,
        sync: false,
        flush_handlers: false,
        serialize: None,
        elect: None,
        within: Arc::default(),
        place: place.clone(),
    }
}

/// Starts the run of a TaskBook, or reports the reason why the TaskBook cannot run. `last` is the rollout that a
/// deleted TaskBook had before its deletion.
fn begin<'a, E: CarryOut<'a>>(
    pass: &'a PassContext<'a>,
    tools: E::Tools,
    book: &Arc<Book>,
    blockers: Vec<String>,
    claims: &'a Claims,
    computed_failures: &[String],
    last: Option<LastRollout>,
) -> Course<E> {
    let clock = &pass.machine.clock;
    let outcome = BookOutcome {
        namespace: book.namespace.clone(),
        name: book.name.clone(),
        tasks: Vec::new(),
        held: Vec::new(),
        started: clock.wall(),
        took: Duration::ZERO,
        interrupted: false,
        uncoordinated: book.coordinated() && !pass.shares_store,
    };
    let mut course = Course { book: Arc::clone(book), outcome, run: None, managed: None, begun: clock.monotonic() };
    let closed = admission::closed(pass, book, blockers);
    if !closed.is_empty() {
        // A plan shows only the closed gates. A real pass also lists the tasks that do not run.
        let rest = (E::LACKING == Outcome::Failed).then(|| unrun(book, |_| false, &[], &closed));
        let rest = rest.into_iter().flatten();
        course.outcome.tasks = rest.map(|report| task(report, &Notes::default())).collect();
        course.outcome.held = closed;
        return course;
    }
    match Renderer::new(pass.set, pass.view, book, &pass.inputs) {
        Ok(renderer) => {
            let session = Session::new(pass, Arc::clone(book), renderer, claims, E::LACKING);
            let session = match last {
                None => session,
                Some(last) => session.of_gone(last),
            };
            course.run = Some(Started::new(E::of(session, tools)));
        }
        Err(error) => course.outcome.tasks.push(no_variables(&error, computed_failures)),
    }
    course
}

fn no_variables(error: &RenderError, computed_failures: &[String]) -> TaskOutcome {
    let because = computed_failures.join("; ");
    let message = if because.is_empty() { error.to_string() } else { format!("{error} ({because})") };
    TaskOutcome::new("variables".into(), "vars", Outcome::Failed).with_message(message)
}

/// Returns the recorded items of a TaskBook, and the data that the removal needs.
fn inventory(pass: &PassContext<'_>, book: &Book, all_managed: &Arc<BTreeSet<ManagedItem>>) -> Inventory {
    let id = book_id(book);
    let record: InventoryRecord = pass.machine.record(&id).unwrap_or_default();
    // An item may be listed in the inventories of several TaskBooks.
    let all = pass.machine.records::<InventoryRecord>();
    let total = all.iter().flat_map(|(_, other)| &other.items).collect::<BTreeSet<_>>().len();
    let budget = budget_of(pass, &id, book.prune_budget.as_deref());
    let same_budget = |other: &BookId, record: &InventoryRecord| {
        *other != id && budget_of(pass, other, record.budget.as_deref()).scope() == budget.scope()
    };
    let prunes = |other: &BookId, record: &InventoryRecord| {
        present(pass, other).map_or(record.prune, |book| book.prune) && same_budget(other, record)
    };
    let others = all.iter().filter(|(other, record)| prunes(other, record)).flat_map(|(_, other)| &other.items);
    let is_counted =
        |item: &&Managed| !record.items.contains(*item) && !all_managed.contains(&managed_item((*item).clone()));
    let others = others.filter(is_counted).collect::<BTreeSet<_>>().len();
    let modules: BTreeSet<String> = record.items.iter().map(|item| item.module.clone()).collect();
    Inventory {
        order: modules.into_iter().map(|module| (module.clone(), removal_order(&module))).collect(),
        recorded: record.items.into_iter().map(managed_item).collect(),
        managed_anywhere: Arc::clone(all_managed),
        prune: book.prune,
        budget,
        others: u64::try_from(others).unwrap_or(u64::MAX),
        total: u64::try_from(total).unwrap_or(u64::MAX),
    }
}

/// Returns the prune budget of a TaskBook. `last` is the prune budget that a deleted TaskBook had before its deletion.
fn budget_of(pass: &PassContext<'_>, id: &BookId, last: Option<&str>) -> PruneBudget {
    PruneBudget::of(pass.set, &id.namespace, &id.name, last)
}

/// Returns the TaskBook with the given id. Returns `None` if the node has no TaskBook with the id.
fn present<'p>(pass: &PassContext<'p>, id: &BookId) -> Option<&'p Arc<Book>> {
    pass.view.books.iter().find(|book| book.namespace == id.namespace && book.name == id.name)
}

/// Returns the rank of a module in the order of removal. The agent first removes the items of modules that it does not
/// know.
fn removal_order(module: &str) -> u32 {
    towpath_proto::module(module).map_or(0, |module| module.removal)
}

/// Converts the report of a task into the outcome of the task.
fn task(report: TaskReport, notes: &Notes) -> TaskOutcome {
    TaskOutcome {
        took: notes.took(report.instance, &report.name),
        outcome: report.outcome,
        // The output of a command may contain a URL with credentials.
        message: report.message.map(|message| towpath_git::without_secrets(&message)),
        action: report.action,
        diff: report.diff,
        origin: report.origin,
        name: report.name,
        module: report.module,
    }
}
