//! Checks CronJobs, Triggers and Beacons against the limits of their Namespace.

use serde_json::Value;

use super::{
    Object, book,
    limits::{self, Targets},
    load::Loader,
};

/// Checks the targets and the tasks of one object; its mistakes go to the loader.
pub(super) fn check(loader: &mut Loader<'_>, object: &Object) {
    let (spec, namespace) = (object.spec.as_ref(), object.key.namespace.as_str());
    let place = object.place.key("spec");
    match object.key.kind {
        "Trigger" => {
            let run = spec.get("run").cloned().unwrap_or_default();
            let place = place.key("run");
            Targets::read(loader, &place, &run, namespace);
            book::check_tasks(loader, &place, &run, &object.key);
        }
        "Beacon" => {
            Targets::read(loader, &place, spec, namespace);
            let check = spec.get("check").unwrap_or(&Value::Null);
            for module in limits::modules_in(check) {
                limits::check_module(loader, &place.key("check"), &module, namespace);
            }
        }
        _ => {
            Targets::read(loader, &place, spec, namespace);
            book::check_tasks(loader, &place, spec, &object.key);
        }
    }
}
