//! The executors of book runs. They carry out the commands of a [`BookRun`](towpath_reconcile::BookRun), and leave all
//! decisions to it.
//!
//! A [`Session`] is the data that an executor keeps while a book runs.

mod apply;
mod attempts;
mod coordinate;
mod direct;
mod dry_run;
mod executor;
mod invoke;
pub(super) mod resource;
mod restore;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use towpath_coordination::Permit;
use towpath_host::files::written::Seen;
use towpath_modules::{Change, Context, Disk, ModuleError, Resource};
use towpath_reconcile::{
    Outcome,
    command::{Instance, InstanceId, List, TaskRef},
};
use towpath_render::{
    objects::task::{Book, Task},
    rendering::{Claims, Item, Owner, Renderer},
};
use towpath_state::{ActionRecord, AppliedItem, BookId, LastRollout, Managed};

use crate::reconcile::pass::{
    Machine, Pass, Settled, Watched,
    instance::{self, Ready},
};

pub(in crate::reconcile) use dry_run::DryRun;
pub(in crate::reconcile) use executor::{CarryOut, Executor, Stage, Started};

/// A rendered task, and the findings of its check.
#[derive(Debug)]
pub(super) struct RenderedTask {
    pub(super) instance: Arc<Instance>,
    pub(super) ready: Ready,
    /// The time at which its rendering began.
    pub(super) begun: Instant,
    found: Mutex<Option<Found>>,
}

impl RenderedTask {
    pub(super) fn new(instance: Arc<Instance>, ready: Ready, begun: Instant) -> Self {
        Self { instance, ready, begun, found: Mutex::new(None) }
    }

    pub(super) fn item(&self) -> Option<&Item> {
        self.instance.item.as_ref()
    }

    /// Keeps the findings of a check, which the command after it needs.
    pub(super) fn keep(&self, found: Found) {
        *lock(&self.found) = Some(found);
    }

    /// Takes the findings of the last check.
    pub(super) fn take_found(&self) -> Option<Found> {
        lock(&self.found).take()
    }
}

/// The findings of a check that calls for a change.
#[derive(Debug)]
pub(super) enum Found {
    /// A state that differs.
    Change {
        /// The change.
        change: Change,
        /// The key of the item.
        key: Managed,
        /// The record of the item after the change.
        applied: AppliedItem,
        /// True if the item was not recorded before.
        is_first: bool,
        /// True if the task's own `changed` condition is false.
        is_quiet: bool,
    },
    /// The record of an action.
    Action(Option<ActionRecord>),
}

/// The findings of a run that its report does not hold.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct Notes {
    /// The managed files, as they were before they were checked.
    pub(in crate::reconcile) watched: Watched,
    /// A full or read-only disk, with its message.
    pub(in crate::reconcile) disk: Option<(Disk, String)>,
    /// True if managed items were modified concurrently.
    pub(in crate::reconcile) moved: bool,
    /// The checks that confirm the steady state, by task and item.
    pub(super) settled: BTreeMap<(TaskRef, usize), Settled>,
    /// The items that were in sync, and whose record lacks their definition.
    pub(super) in_sync: BTreeMap<InstanceId, (Managed, AppliedItem)>,
    /// The duration of each task.
    took: BTreeMap<InstanceId, Duration>,
    /// The duration of tasks without a rendering of their own: handlers, and tasks around a segment.
    took_by_name: BTreeMap<String, Duration>,
}

impl Notes {
    /// Returns the checks of the steady state.
    pub(in crate::reconcile) fn into_settled(self) -> Vec<Settled> {
        self.settled.into_values().collect()
    }

    /// Returns the duration of a reported task.
    pub(in crate::reconcile) fn took(&self, instance: Option<InstanceId>, name: &str) -> Duration {
        let took = match instance {
            Some(id) => self.took.get(&id),
            None => self.took_by_name.get(name),
        };
        took.copied().unwrap_or_default()
    }
}

/// The data that an executor keeps while a book runs.
pub(in crate::reconcile) struct Session<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) book: Arc<Book>,
    pub(super) id: BookId,
    pub(in crate::reconcile) renderer: Renderer,
    pub(super) permit: Permit,
    /// The outcome of a task that lacks the result of another one.
    pub(super) lacking: Outcome,
    /// The rollout that the book last had, if it is gone.
    pub(super) last: Option<LastRollout>,
    claims: &'a Claims,
    tasks: Mutex<BTreeMap<InstanceId, Arc<RenderedTask>>>,
    notes: Mutex<Notes>,
}

impl<'a> Session<'a> {
    /// Creates a session. `lacking` is the outcome of a task that lacks the result of another one.
    pub(in crate::reconcile) fn new(
        pass: &'a Pass<'a>,
        book: Arc<Book>,
        renderer: Renderer,
        permit: Permit,
        claims: &'a Claims,
        lacking: Outcome,
    ) -> Self {
        let id = BookId::new(&book.namespace, &book.name);
        let (tasks, notes) = (Mutex::default(), Mutex::default());
        Self { pass, book, id, renderer, permit, lacking, last: None, claims, tasks, notes }
    }

    /// Sets the rollout that the book last had. The book is gone.
    pub(in crate::reconcile) fn of_gone(self, last: LastRollout) -> Self {
        Self { last: Some(last), ..self }
    }

    pub(super) fn machine(&self) -> &'a Machine {
        self.pass.machine
    }

    /// Returns a task by its position.
    ///
    /// # Errors
    /// If the book has no such task.
    pub(super) fn task(&self, at: TaskRef) -> Result<&Task, String> {
        let list = match at.list {
            List::Tasks => &self.book.tasks,
            List::Handlers => &self.book.handlers,
            List::Before => &self.book.rollout.before,
            List::After => &self.book.rollout.after,
        };
        list.get(at.index).ok_or_else(|| UNKNOWN.to_owned())
    }

    /// Returns a rendered task, with its task.
    ///
    /// # Errors
    /// If there is none with this number.
    pub(super) fn rendered(&self, id: InstanceId) -> Result<(Arc<RenderedTask>, &Task), String> {
        let rendered = lock(&self.tasks).get(&id).cloned().ok_or_else(|| UNKNOWN.to_owned())?;
        let task = self.task(rendered.instance.task)?;
        Ok((rendered, task))
    }

    pub(super) fn keep(&self, rendered: RenderedTask) {
        lock(&self.tasks).insert(rendered.instance.id, Arc::new(rendered));
    }

    /// Drops a rendered task that no later command needs.
    pub(super) fn drop_task(&self, id: InstanceId) {
        lock(&self.tasks).remove(&id);
    }

    /// Returns whether status shows the work of the session. A plan works beside the agent.
    pub(super) fn shows_activity(&self) -> bool {
        self.lacking == Outcome::Failed
    }

    /// Returns the context of a module call.
    pub(super) fn context<'t>(&'t self, task: &'t Task) -> Context<'t> {
        instance::context(self.machine(), &self.renderer, task, self.pass.cancel)
    }

    pub(in crate::reconcile) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    /// Notes the duration of a task.
    pub(super) fn took(&self, rendered: &RenderedTask) {
        self.notes().took.insert(rendered.instance.id, rendered.begun.elapsed());
    }

    /// Notes the duration of a handler, or of a task around a segment.
    pub(super) fn took_by_name(&self, name: &str, begun: Instant) {
        self.notes().took_by_name.insert(name.to_owned(), begun.elapsed());
    }

    /// Notes a full disk and a concurrent change, and returns the message.
    pub(super) fn failed(&self, error: ModuleError) -> String {
        let mut notes = self.notes();
        if let (None, Some(disk)) = (&notes.disk, error.disk) {
            notes.disk = Some((disk, error.message.clone()));
        }
        notes.moved |= error.moved;
        error.message
    }

    /// Records the items that a task manages. Returns the other task that manages one of them.
    pub(super) fn claim(&self, parts: Vec<Managed>, owner: &Owner, keeps_state: bool) -> Option<String> {
        let mut parts = parts.iter();
        parts.find_map(|part| self.claims.take(&part.module, &part.identity, owner, keeps_state))
    }

    /// Notes the files that a task manages, before its check: a change that comes while the pass runs is not taken for
    /// its result. The first of several tasks on a file counts: a change between them is not the agent's own.
    pub(super) fn watch(&self, options: &dyn Resource, context: &Context<'_>) {
        let machine = self.machine();
        for path in options.watched_paths(context) {
            let real = machine.look.real_path(&path);
            if let Entry::Vacant(unseen) = self.notes().watched.entry(real) {
                if self.shows_activity() {
                    machine.written.forget(unseen.key());
                }
                unseen.insert(Seen::before_check(&machine.look, &path));
            }
        }
    }

    /// Notes the directories, links and removed files that this run has changed itself.
    pub(super) fn saw_own_changes(&self, paths: Vec<PathBuf>) {
        let look = &self.machine().look;
        let mut notes = self.notes();
        for path in paths {
            if let (Some(seen), Ok(inner)) = (notes.watched.get_mut(&path), path.strip_prefix(look.root())) {
                *seen = Seen::after_own_change(look, &format!("/{}", inner.display()));
            }
        }
    }
}

/// The message for a command about a task that the session does not know.
pub(super) const UNKNOWN: &str = "internal error: a command names an unknown task; please report it with the log";

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
