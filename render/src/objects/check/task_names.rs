//! Checks the names with which tasks of a TaskBook refer to other tasks: `requires`, `notify` and registered results.

use std::collections::{BTreeMap, BTreeSet};

use towpath_proto::did_you_mean;

use crate::{
    document::Place,
    objects::{
        ledger::Found,
        task::{Book, Task},
    },
    order,
    problem::Finding,
};

/// The names of the tasks, handlers and registered results of a TaskBook.
pub(in crate::objects) struct TaskNames<'a> {
    handlers: BTreeSet<&'a str>,
    lists: Vec<TaskList<'a>>,
}

/// A list of tasks. Two tasks of one list must not have the same name.
struct TaskList<'a> {
    /// The tasks of the list, each with the location of an earlier task that registers the same result, or `None`.
    tasks: Vec<(&'a Task, Option<&'a Place>)>,
    ids: BTreeSet<&'a str>,
}

impl<'a> TaskNames<'a> {
    /// Reads the names of a TaskBook.
    pub(in crate::objects) fn of(book: &'a Book) -> Self {
        let mut registered: BTreeMap<&str, &Place> = BTreeMap::new();
        let mut earlier = |task: &'a Task| registered.insert(task.register.as_ref()?, &task.place);
        let mut list = |tasks: &'a [Task]| TaskList {
            tasks: tasks.iter().map(|task| (task, earlier(task))).collect(),
            ids: ids(tasks),
        };
        let lists = [&book.tasks, &book.handlers, &book.rollout.before, &book.rollout.after];
        let lists = lists.into_iter().map(|tasks| list(tasks)).collect();
        Self { handlers: ids(&book.handlers), lists }
    }

    /// Returns an error for each reference to a missing task, for each duplicate name, and for each cycle of tasks.
    pub(in crate::objects) fn problems(&self) -> impl Iterator<Item = Found<'_>> {
        self.lists.iter().flat_map(move |list| {
            let tasks = list.tasks.iter().flat_map(move |(task, earlier)| {
                let requires = task.requires.iter().enumerate().filter(move |(_, id)| !list.ids.contains(id.as_str()));
                let requires = requires
                    .map(move |(index, id)| missing(task.place.key("requires").index(index), "task", id, &list.ids));
                let notify = task.notify.iter().enumerate().filter(move |(_, id)| !self.handlers.contains(id.as_str()));
                let notify = notify.map(move |(index, id)| {
                    missing(task.place.key("notify").index(index), "handler", id, &self.handlers)
                });
                requires.chain(notify).chain(earlier.map(|earlier| registered_twice(task, earlier)))
            });
            list.repeated_ids().chain(tasks).chain(list.cycles())
        })
    }
}

impl TaskList<'_> {
    fn repeated_ids(&self) -> impl Iterator<Item = Found<'_>> {
        let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
        let tasks = self.tasks.iter().map(|(task, _)| *task).filter(|task| !task.id.is_empty());
        tasks.filter_map(move |task| {
            let first = seen.insert(&task.id, &task.place)?;
            // The schema check already reports duplicates within one list.
            (first.file() != task.place.file() || task.within.outer.is_some()).then(|| {
                let finding = Finding::new(format!("two tasks are called {:?}", task.id));
                Found::new(task.place.key("name"), finding).hint_at(first, |line| {
                    format!(
                        "the other task is at {line}; give the include a name, which becomes a prefix of the names of \
                         its tasks"
                    )
                })
            })
        })
    }

    /// Returns an error for each task that requires itself, directly or through other tasks.
    fn cycles(&self) -> Vec<Found<'static>> {
        let tasks = || self.tasks.iter().map(|(task, _)| *task);
        let places: BTreeMap<&str, &Place> = tasks().map(|task| (task.id.as_str(), &task.place)).collect();
        let graph: BTreeMap<String, Vec<String>> =
            tasks().map(|task| (task.id.clone(), task.requires.clone())).collect();
        let mut found = Vec::new();
        for cycle in order::cycles(&graph) {
            if let Some(place) = cycle.first().and_then(|id| places.get(id.as_str())) {
                let finding = Finding::new(format!("these tasks require each other: {}", cycle.join(" → ")));
                found.push(Found::new(place.key("requires"), finding.hint("remove one of the requires")));
            }
        }
        found
    }
}

fn ids(tasks: &[Task]) -> BTreeSet<&str> {
    tasks.iter().map(|task| task.id.as_str()).collect()
}

fn missing<'a>(place: Place, what: &'static str, wanted: &'a str, known: &'a BTreeSet<&str>) -> Found<'a> {
    let finding = Finding::new(format!("there is no {what} {wanted:?}"));
    Found::new(place, finding).hint(move || match did_you_mean(wanted, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant:?}?"),
        None if known.is_empty() => format!("the book has no {what}s"),
        None => format!("one of: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
    })
}

fn registered_twice(task: &Task, earlier: &Place) -> Found<'static> {
    let name = task.register.as_deref().unwrap_or_default();
    let finding = Finding::new(format!("two tasks register {name:?}"));
    Found::new(task.place.key("register"), finding).hint_at(earlier, |line| format!("the other task is at {line}"))
}
