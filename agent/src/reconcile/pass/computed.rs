//! Evaluates computed values before the TaskBooks are rendered, and caches each value for its `refresh` time.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use serde_json::Value;
use towpath_modules::resolve;
use towpath_render::{
    objects::task::{Book, Rollout},
    rendering::{Inputs, PendingTask, Rendered, Renderer, pending_tasks},
    taint::Tainted,
};

use super::{PassContext, instance};

/// The cache of computed values, with the time of each computation.
#[derive(Debug, Default)]
pub struct ComputedCache {
    values: BTreeMap<(String, String), (Tainted<Value>, Instant)>,
}

/// Computes the values that are missing or outdated. Returns the template inputs with all computed values, and a
/// message for each value that could not be computed.
pub(in crate::reconcile) fn evaluate(pass: &PassContext<'_>, cache: &mut ComputedCache) -> (Inputs, Vec<String>) {
    let (mut inputs, mut failures) = (pass.inputs.clone(), Vec::new());
    for pending in pending_tasks(pass.set, pass.view) {
        let key = (pending.namespace.clone(), pending.computed.name.clone());
        let now = pass.machine.clock.monotonic();
        let fresh = cache
            .values
            .get(&key)
            .filter(|(_, at)| now.duration_since(*at) < pending.computed.refresh)
            .map(|(value, _)| value.clone());
        let value = match fresh {
            Some(value) => Ok(value),
            None => compute(pass, &inputs, &pending).inspect(|value| {
                cache.values.insert(key.clone(), (value.clone(), now));
            }),
        };
        match value {
            Ok(value) => {
                inputs.computed.insert(key, value);
            }
            Err(why) => {
                // If a computation fails, the last good value is used until the next success.
                if let Some((value, _)) = cache.values.get(&key) {
                    inputs.computed.insert(key, value.clone());
                }
                failures.push(format!(
                    "{}: cannot compute the value of {}: {why}",
                    pending.computed.place.file_line(),
                    pending.computed.name
                ));
            }
        }
    }
    for failure in &failures {
        tracing::warn!("{failure}");
    }
    (inputs, failures)
}

fn compute(pass: &PassContext<'_>, inputs: &Inputs, pending: &PendingTask) -> Result<Tainted<Value>, String> {
    let task = pending.computed.task.as_deref().ok_or("the value has no task")?;
    let book = Arc::new(Book {
        namespace: pending.namespace.clone(),
        name: pending.computed.name.clone(),
        targets: None,
        depends_on: Vec::new(),
        rollout: Rollout::default(),
        parallel: false,
        prune: false,
        prune_budget: None,
        vars: serde_json::Map::new(),
        tasks: Vec::new(),
        handlers: Vec::new(),
        suspend: None,
        place: pending.computed.place.clone(),
    });
    let renderer = Renderer::new(pass.set, pass.view, &book, inputs).map_err(|error| error.to_string())?;
    let params = match renderer.params(task, None).map_err(|error| error.to_string())? {
        Rendered::Ready(params) => params,
        Rendered::Missing(_) => return Err("the task uses a value that is not known".into()),
    };
    let module = task.module.as_ref().ok_or("the task has no module")?;
    let options = resolve(module.name, params.value())
        .map_err(|problems| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "))?;
    let context = instance::context(pass.machine, &renderer, task, pass.cancel);
    if !module.schema.computes {
        return Err(format!("{} computes no value", module.name));
    }
    let report = options.observe(&context).map_err(|error| error.message)?;
    if !report.ok {
        return Err(report.message.unwrap_or_else(|| "the task failed".into()));
    }
    let result: serde_json::Map<String, Value> =
        report.fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let result = Value::Object(result);
    let value = renderer.value(task, &pending.computed.value, &result, &params.taint());
    match value.map_err(|error| error.to_string())? {
        Rendered::Ready(value) => Ok(value),
        Rendered::Missing(_) => Err("the expression of the value uses a value that is not known".into()),
    }
}
