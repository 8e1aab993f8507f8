//! The executors of runs. An executor carries out the commands of a [`BookRun`](towpath_reconcile::BookRun). The
//! `BookRun` makes all decisions.
//!
//! A [`Session`] is the data that an executor keeps while a TaskBook runs.

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
    HostContext, PassContext, SteadyCheck, Watched,
    instance::{self, Ready},
};

pub(in crate::reconcile) use dry_run::DryRun;
pub(in crate::reconcile) use executor::{CarryOut, Executor, Stage, Started};

/// A rendered task, and the findings of its check.
#[derive(Debug)]
pub(super) struct RenderedTask {
    pub(super) instance: Arc<Instance>,
    pub(super) ready: Ready,
    /// The time at which the rendering of the task began.
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

    /// Stores the findings of a check for the next command of the task.
    pub(super) fn keep(&self, found: Found) {
        *lock(&self.found) = Some(found);
    }

    /// Removes and returns the findings of the most recent check.
    pub(super) fn take_found(&self) -> Option<Found> {
        lock(&self.found).take()
    }
}

/// The change or the action that a check found to be necessary.
#[derive(Debug)]
pub(super) enum Found {
    /// The state of an item differs from the desired state.
    Change {
        /// The change that brings the item into the desired state.
        change: Change,
        /// The key of the item in the journal.
        key: Managed,
        /// The record of the item after the change.
        applied: AppliedItem,
        /// True if the journal had no record of the item before the change.
        is_first: bool,
        /// True if the `changed` expression of the task is false for this change.
        is_quiet: bool,
    },
    /// An action must run. `Action` contains the record of the action's previous run.
    Action(Option<ActionRecord>),
}

/// The findings of a run that the report of the run does not contain.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct Notes {
    /// The version of each managed file before the check of the file.
    pub(in crate::reconcile) watched: Watched,
    /// The full or read-only disk that the run found, with the error message.
    pub(in crate::reconcile) disk: Option<(Disk, String)>,
    /// True if another program changed managed items during the run.
    pub(in crate::reconcile) conflict: bool,
    /// The checks that confirm the steady state, by task and item.
    pub(super) steady_checks: BTreeMap<(TaskRef, usize), SteadyCheck>,
    /// The items that are in sync, but whose current definition is not in the journal.
    pub(super) in_sync: BTreeMap<InstanceId, (Managed, AppliedItem)>,
    /// The duration of each rendered task.
    took: BTreeMap<InstanceId, Duration>,
    /// The duration of each handler, `before` task and `after` task.
    took_by_name: BTreeMap<String, Duration>,
}

impl Notes {
    /// Returns the checks of the steady state.
    pub(in crate::reconcile) fn into_steady_checks(self) -> Vec<SteadyCheck> {
        self.steady_checks.into_values().collect()
    }

    /// Returns the duration of a task in the report.
    pub(in crate::reconcile) fn took(&self, instance: Option<InstanceId>, name: &str) -> Duration {
        let took = match instance {
            Some(id) => self.took.get(&id),
            None => self.took_by_name.get(name),
        };
        took.copied().unwrap_or_default()
    }
}

/// The data that an executor keeps while a TaskBook runs.
pub(in crate::reconcile) struct Session<'a> {
    pub(super) pass: &'a PassContext<'a>,
    pub(super) book: Arc<Book>,
    pub(super) id: BookId,
    pub(in crate::reconcile) renderer: Renderer,
    /// The outcome of a task that cannot run because the result of another task is missing.
    pub(super) lacking: Outcome,
    /// The rollout that a deleted TaskBook had before its deletion.
    pub(super) last: Option<LastRollout>,
    claims: &'a Claims,
    tasks: Mutex<BTreeMap<InstanceId, Arc<RenderedTask>>>,
    notes: Mutex<Notes>,
}

impl<'a> Session<'a> {
    /// Creates a session. `lacking` is the outcome of a task that cannot run because the result of another task is
    /// missing.
    pub(in crate::reconcile) fn new(
        pass: &'a PassContext<'a>,
        book: Arc<Book>,
        renderer: Renderer,
        claims: &'a Claims,
        lacking: Outcome,
    ) -> Self {
        let id = BookId::new(&book.namespace, &book.name);
        let (tasks, notes) = (Mutex::default(), Mutex::default());
        Self { pass, book, id, renderer, lacking, last: None, claims, tasks, notes }
    }

    /// Sets the rollout that a deleted TaskBook had before its deletion.
    pub(in crate::reconcile) fn of_gone(self, last: LastRollout) -> Self {
        Self { last: Some(last), ..self }
    }

    pub(super) fn machine(&self) -> &'a HostContext {
        self.pass.machine
    }

    /// Returns the task at a position of the TaskBook.
    ///
    /// # Errors
    /// Fails if the TaskBook has no task at this position.
    pub(super) fn task(&self, at: TaskRef) -> Result<&Task, String> {
        let list = match at.list {
            List::Tasks => &self.book.tasks,
            List::Handlers => &self.book.handlers,
            List::Before => &self.book.rollout.before,
            List::After => &self.book.rollout.after,
        };
        list.get(at.index).ok_or_else(|| UNKNOWN.to_owned())
    }

    /// Returns a rendered task, and its definition in the TaskBook.
    ///
    /// # Errors
    /// Fails if no rendered task has this number.
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

    /// Returns true if the status of the node shows the activity of this session. The status does not show the activity
    /// of a plan.
    pub(super) fn shows_activity(&self) -> bool {
        self.lacking == Outcome::Failed
    }

    /// Returns the data that a module receives in each call.
    pub(super) fn context<'t>(&'t self, task: &'t Task) -> Context<'t> {
        instance::context(self.machine(), &self.renderer, task, self.pass.cancel)
    }

    pub(in crate::reconcile) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }

    /// Records the duration of a task.
    pub(super) fn took(&self, rendered: &RenderedTask) {
        self.notes().took.insert(rendered.instance.id, rendered.begun.elapsed());
    }

    /// Records the duration of a handler, a `before` task or an `after` task.
    pub(super) fn took_by_name(&self, name: &str, begun: Instant) {
        self.notes().took_by_name.insert(name.to_owned(), begun.elapsed());
    }

    /// Records a full disk or a concurrent change, if one of the two caused an error. Returns the message of the error.
    pub(super) fn failed(&self, error: ModuleError) -> String {
        let mut notes = self.notes();
        if let (None, Some(disk)) = (&notes.disk, error.disk) {
            notes.disk = Some((disk, error.message.clone()));
        }
        notes.conflict |= error.conflict;
        error.message
    }

    /// Records the items that a task manages. Returns the name of another task that already manages one of the items.
    pub(super) fn claim(&self, parts: Vec<Managed>, owner: &Owner, keeps_state: bool) -> Option<String> {
        let mut parts = parts.iter();
        parts.find_map(|part| self.claims.take(&part.module, &part.identity, owner, keeps_state))
    }

    /// Records the versions of the files that a task manages. The caller checks the task after the versions are
    /// recorded. With the recorded version, the agent detects a change that another program makes during the pass. If
    /// several tasks manage a file, the session records the version before the first of these tasks.
    pub(super) fn watch(&self, options: &dyn Resource, context: &Context<'_>) {
        let machine = self.machine();
        for path in options.watched_paths(context) {
            let real = machine.reader.real_path(&path);
            if let Entry::Vacant(unseen) = self.notes().watched.entry(real) {
                if self.shows_activity() {
                    machine.written.forget(unseen.key());
                }
                unseen.insert(Seen::before_check(&machine.reader, &path));
            }
        }
    }

    /// Records the new versions of directories, links and removed files that this run has changed.
    pub(super) fn saw_own_changes(&self, paths: Vec<PathBuf>) {
        let reader = &self.machine().reader;
        let mut notes = self.notes();
        for path in paths {
            if let (Some(seen), Ok(inner)) = (notes.watched.get_mut(&path), path.strip_prefix(reader.root())) {
                *seen = Seen::after_own_change(reader, &format!("/{}", inner.display()));
            }
        }
    }
}

/// The error message for a command about a task that the session does not know.
pub(super) const UNKNOWN: &str = "internal error: a command names an unknown task; report this error with the log";

pub(in crate::reconcile) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
