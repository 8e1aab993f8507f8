//! Reads CronJobs, Triggers, Beacons and the readers of Secrets, within the limits of their Namespace.

use serde_json::Value;

use super::{
    Object, book,
    limits::{self, Field, Targets},
    load::Loader,
    task::{ModuleUse, Task},
};
use crate::document::Place;

/// The nodes and the tasks of a CronJob, a Trigger or a Beacon.
#[derive(Debug, Clone)]
pub struct Reaction {
    /// The nodes that run the tasks or checks.
    pub targets: Targets,
    /// The tasks, with includes expanded.
    pub tasks: Vec<Task>,
    /// The modules in the checks of a Beacon, with their locations.
    pub checks: Vec<(ModuleUse, Place)>,
}

/// Reads a CronJob, a Trigger or a Beacon, and reports errors to the loader.
pub(super) fn read(loader: &mut Loader<'_>, object: &Object) -> Reaction {
    let (spec, namespace) = (object.spec.as_ref(), object.key.namespace.as_str());
    let place = object.place.key("spec");
    match object.key.kind {
        "Trigger" => {
            let run = spec.get("run").cloned().unwrap_or_default();
            let place = place.key("run");
            let targets = Targets::read(loader, &place, &run, Field::Targets, namespace);
            Reaction { targets, tasks: book::other_tasks(loader, &place, &run, &object.key), checks: Vec::new() }
        }
        "Beacon" => {
            let targets = Targets::read(loader, &place, spec, Field::Targets, namespace);
            let place = place.key("check");
            let modules = limits::modules_in(spec.get("check").unwrap_or(&Value::Null));
            for module in &modules {
                limits::check_module(loader, &place, module, namespace);
            }
            let checks = modules.into_iter().map(|module| (module, place.clone())).collect();
            Reaction { targets, tasks: Vec::new(), checks }
        }
        _ => {
            let targets = Targets::read(loader, &place, spec, Field::Targets, namespace);
            Reaction { targets, tasks: book::other_tasks(loader, &place, spec, &object.key), checks: Vec::new() }
        }
    }
}

/// Reads the readers of a Secret, and reports errors to the loader.
pub(super) fn readers(loader: &mut Loader<'_>, secret: &Object) -> Targets {
    let place = secret.place.key("spec");
    Targets::read(loader, &place, &secret.spec, Field::Readers("readers"), &secret.key.namespace)
}
