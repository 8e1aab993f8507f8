//! Reads the objects in Namespaces: TaskBooks, CronJobs, Triggers, Beacons, readers of Secrets, and variables. The
//! reader expands includes and resolves names.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    expand::{Expanded, Expansion, Tasks},
    notify::Restarts,
};
use crate::{
    document::Place,
    objects::{
        ComputedValue, Key, Object, Reaction, Targets, VariablesObject,
        check::TaskNames,
        ledger::Found,
        limits::Field,
        spec::{flag, list, map, members, message, text, time},
        task::{Book, Dependency, IncludeContext, ModuleUse, Rollout, Task},
    },
    problem::Finding,
    scalars::Count,
};

/// All objects in Namespaces, and all ClusterVariables.
#[derive(Default)]
pub(super) struct Namespaced {
    /// The TaskBooks, by `namespace/name`.
    pub(super) books: BTreeMap<String, Arc<Book>>,
    /// The CronJobs, Triggers and Beacons, by identity.
    pub(super) reactions: BTreeMap<Key, Reaction>,
    /// The nodes that may read each Secret.
    pub(super) readers: BTreeMap<Key, Targets>,
    /// The ClusterVariables and Variables, sorted by identity.
    pub(super) variables: Vec<VariablesObject>,
}

impl Namespaced {
    /// Reads the objects in Namespaces of all sources. The result omits sources that exceed their budget.
    pub(super) fn read(objects: &BTreeMap<Key, Object>, mut expansion: Expansion<'_>) -> (Self, Expanded) {
        let mut read = Self::default();
        for object in objects.values() {
            if expansion.is_beyond(object.place.source()) {
                continue;
            }
            match object.key.kind {
                "TaskBook" => {
                    let book = book(&mut expansion, object);
                    read.books.insert(book.id(), Arc::new(book));
                }
                "CronJob" | "Trigger" | "Beacon" => {
                    read.reactions.insert(object.key.clone(), reaction(&mut expansion, object));
                }
                "Secret" => {
                    let (place, namespace) = (object.place.key("spec"), &object.key.namespace);
                    let readers = expansion.targets(&place, &object.spec, Field::Readers("readers"), namespace);
                    read.readers.insert(object.key.clone(), readers);
                }
                "Variables" | "ClusterVariables" => read.variables.push(variables(&mut expansion, object)),
                _ => {}
            }
        }
        (read, expansion.finish())
    }
}

fn book(expansion: &mut Expansion<'_>, object: &Object) -> Book {
    let (spec, namespace) = (object.spec.as_ref(), object.key.namespace.as_str());
    let place = object.place.key("spec");
    let within = IncludeContext::of_source(place.source());
    let targets = expansion.targets(&place, spec, Field::Targets, namespace);
    let mut read = |place: &Place, spec: &Value, key: &str| {
        expansion.tasks(&object.key, &place.key(key), members(spec, key), &within)
    };
    let Tasks { mut tasks, mut handlers } = read(&place, spec, "tasks");
    let listed = read(&place, spec, "handlers");
    // A file that the list includes may have handlers of its own.
    handlers.extend(listed.tasks.into_iter().chain(listed.handlers));
    let rollout_spec = spec.get("rollout").cloned().unwrap_or_default();
    let rollout_place = place.key("rollout");
    let mut before = read(&rollout_place, &rollout_spec, "before");
    let mut after = read(&rollout_place, &rollout_spec, "after");
    handlers.extend(before.handlers.drain(..).chain(after.handlers.drain(..)));
    let parallel = text(spec, "order").as_deref() == Some("parallel");
    if flag(spec, "autoNotify") {
        let restarts = Restarts::add(&mut tasks, &handlers, parallel);
        expansion.report_all(restarts.problems(&tasks));
        handlers.extend(restarts.handlers);
    }
    let book = Book {
        namespace: namespace.to_owned(),
        name: object.key.name.clone(),
        targets: targets.is_written().then_some(targets),
        depends_on: list(spec, "dependsOn").iter().filter_map(dependency).collect(),
        rollout: Rollout {
            serialize: message(&rollout_spec, "serialize", "Serialize"),
            waves: list(&rollout_spec, "waves"),
            soak: time(&rollout_spec, "soak", Duration::ZERO),
            fail_after_all: flag(&rollout_spec, "failAfterAllTargetsRan"),
            on_lost: text(&rollout_spec, "onLostNode").unwrap_or_else(|| "hold".into()),
            max_failures: rollout_spec.get("maxFailures").and_then(|count| Count::read(count).ok()),
            before: before.tasks,
            after: after.tasks,
        },
        parallel,
        prune: flag(spec, "prune"),
        prune_budget: text(spec, "pruneBudget"),
        vars: map(spec, "vars"),
        tasks,
        handlers,
        suspend: message(spec, "suspend", "Suspend"),
        place,
    };
    expansion.report_all(TaskNames::of(&book).problems());
    book
}

fn dependency(value: &Value) -> Option<Dependency> {
    match value {
        Value::String(book) => Some(Dependency { book: book.clone(), fleet: false }),
        other => {
            Some(Dependency { book: text(other, "taskBook")?, fleet: text(other, "on").as_deref() == Some("fleet") })
        }
    }
}

fn reaction(expansion: &mut Expansion<'_>, object: &Object) -> Reaction {
    let (spec, place) = (object.spec.as_ref(), object.place.key("spec"));
    match object.key.kind {
        "Trigger" => {
            let run = spec.get("run").cloned().unwrap_or_default();
            reaction_with_tasks(expansion, object, &place.key("run"), &run)
        }
        "Beacon" => {
            let targets = expansion.targets(&place, spec, Field::Targets, &object.key.namespace);
            let place = place.key("check");
            let modules: Vec<_> = ModuleUse::all_in(spec.get("check").unwrap_or(&Value::Null)).collect();
            for module in &modules {
                expansion.check_module(&place, module, &object.key.namespace);
            }
            let checks = modules.into_iter().map(|module| (module, place.clone())).collect();
            Reaction { targets, tasks: Vec::new(), checks }
        }
        _ => reaction_with_tasks(expansion, object, &place, spec),
    }
}

/// Reads the targets and the tasks of a CronJob, a Trigger or a Beacon. The returned list contains the handlers of
/// included files after the tasks.
fn reaction_with_tasks(expansion: &mut Expansion<'_>, object: &Object, place: &Place, spec: &Value) -> Reaction {
    let targets = expansion.targets(place, spec, Field::Targets, &object.key.namespace);
    let within = IncludeContext::of_source(place.source());
    let Tasks { mut tasks, mut handlers } =
        expansion.tasks(&object.key, &place.key("tasks"), members(spec, "tasks"), &within);
    tasks.append(&mut handlers);
    Reaction { targets, tasks, checks: Vec::new() }
}

fn variables(expansion: &mut Expansion<'_>, object: &Object) -> VariablesObject {
    let place = object.place.key("spec");
    let computed = members(&object.spec, "computed").iter().enumerate();
    let computed = computed.map(|(index, value)| {
        let place = place.key("computed").index(index);
        computed_value(expansion, object, place, value)
    });
    let computed = computed.collect();
    let targets = expansion.targets(&place, &object.spec, Field::Targets, &object.key.namespace);
    VariablesObject {
        key: object.key.clone(),
        targets,
        priority: object.spec.get("priority").and_then(Value::as_i64).unwrap_or(0),
        values: map(&object.spec, "values"),
        by_node: map(&object.spec, "valuesByNode"),
        computed,
        place,
    }
}

fn computed_value(expansion: &mut Expansion<'_>, object: &Object, place: Place, value: &Value) -> ComputedValue {
    let expression = text(value, "expression");
    let task = value.get("task").filter(|task| task.is_object());
    if expression.is_some() == task.is_some() {
        let finding = Finding::new("a computed variable needs either an expression or a task");
        expansion.report_all([Found::new(place.clone(), finding)]);
    }
    let task = task.map(|task| {
        let place = place.key("task");
        Box::new(expansion.task(&object.key, &place, task, &IncludeContext::of_source(place.source())))
    });
    expansion.report_all(task.as_deref().and_then(|task| computes_nothing(&place, task)));
    ComputedValue {
        name: text(value, "name").unwrap_or_default(),
        expression,
        task,
        value: text(value, "value").unwrap_or_else(|| "result.stdout".to_owned()),
        refresh: time(value, "refresh", Duration::from_secs(600)),
        place,
    }
}

/// Returns an error if a computed variable has a task with a module that cannot compute a value.
fn computes_nothing(place: &Place, task: &Task) -> Option<Found<'static>> {
    let module = task.module.as_ref().filter(|module| !module.schema.computes)?;
    let able: Vec<_> = towpath_proto::modules().filter(|able| able.computes).map(|able| able.key).collect();
    let finding = Finding::new(format!("cannot compute a value with {}", module.name))
        .hint(format!("use one of: {}", able.join(", ")));
    Some(Found::new(place.key("task").key(module.name), finding).at_key())
}
