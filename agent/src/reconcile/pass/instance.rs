//! Prepares one task, or one item of its loop: the condition, the parameters, the options and the definition.

use std::sync::Arc;

use serde_json::Value;
use towpath_host::{keyed_digest, process::Cancel};
use towpath_modules::{Context, Problem, Resource, path_module, resolve};
use towpath_proto::ModuleKind;
use towpath_render::{
    objects::task::Task,
    rendering::{Item, RenderError, Rendered, Renderer},
    template::MissingInput,
};
use towpath_state::Managed;

use super::HostContext;

/// The result of preparing a task.
pub(in crate::reconcile) enum Prepared {
    /// The condition of the task is false. `Skipped` contains the items of the skipped task. `Skipped(None)` means that
    /// the items of the skipped task are not known.
    Skipped(Option<Vec<Managed>>),
    /// Inputs of the task are missing.
    Missing(Vec<MissingInput>),
    /// The task cannot be rendered, or its parameters are invalid.
    Failed(String),
    /// The task is ready to be checked.
    Ready(Box<Ready>),
}

/// A rendered task that is ready to be checked.
#[derive(Debug)]
pub(in crate::reconcile) struct Ready {
    pub(in crate::reconcile) options: Arc<dyn Resource>,
    pub(in crate::reconcile) params: Value,
    /// A keyed digest of the parameters and the source file of the task.
    pub(in crate::reconcile) definition: String,
    /// The identity of the managed item. `identity` is `None` for a task without an item.
    pub(in crate::reconcile) identity: Option<String>,
}

impl Ready {
    /// Returns the journal key of the managed item.
    pub(in crate::reconcile) fn managed(&self) -> Managed {
        Managed { module: self.options.name().to_owned(), identity: self.identity.clone().unwrap_or_default() }
    }
}

/// Returns the name of a task, followed by the loop item in brackets.
pub(in crate::reconcile) fn name(task: &Task, item: Option<&Item>) -> String {
    match item {
        None => task.id.clone(),
        Some(item) => {
            let shown = match &item.value {
                Value::String(text) => text.clone(),
                Value::Object(map) => map
                    .get("name")
                    .or_else(|| map.get("key"))
                    .or_else(|| map.get("path"))
                    .and_then(Value::as_str)
                    .map_or_else(|| item.value.to_string(), str::to_owned),
                other => other.to_string(),
            };
            let shown: String = shown.chars().take(80).collect();
            format!("{} [{shown}]", task.id)
        }
    }
}

pub(in crate::reconcile) fn prepare(
    machine: &HostContext,
    renderer: &Renderer,
    task: &Task,
    item: Option<&Item>,
) -> Prepared {
    match renderer.condition(task, item) {
        Ok(Rendered::Ready(true)) => {}
        Ok(Rendered::Ready(false)) => return Prepared::Skipped(skipped(machine, renderer, task, item)),
        Ok(Rendered::Missing(missing_inputs)) => return Prepared::Missing(missing_inputs),
        Err(error) => return Prepared::Failed(display_error(&error)),
    }
    let Some(module) = &task.module else { return Prepared::Skipped(None) };
    let params = match renderer.params(task, item) {
        Ok(Rendered::Ready(params)) => params.into_value(),
        Ok(Rendered::Missing(missing_inputs)) => return Prepared::Missing(missing_inputs),
        Err(error) => return Prepared::Failed(display_error(&error)),
    };
    let options = match resolve(module.name, &params) {
        Ok(options) => options,
        Err(problems) => {
            return Prepared::Failed(format!(
                "{}: {}",
                task.place.file_line(),
                problems.iter().map(problem).collect::<Vec<_>>().join("; ")
            ));
        }
    };
    let mut defined = serde_json::to_vec(&params).unwrap_or_default();
    if let Some(content) = source_id(renderer, task, &*options, &params) {
        defined.extend(content);
    }
    let definition = keyed_digest(&machine.digest_key, &defined);
    let identity = module.schema.identity(&params);
    Prepared::Ready(Box::new(Ready { options, params, definition, identity }))
}

/// Returns the items of a skipped task. The agent does not prune the items of a skipped task. Returns `None` if the
/// items of the task are not known.
pub(in crate::reconcile) fn skipped(
    machine: &HostContext,
    renderer: &Renderer,
    task: &Task,
    item: Option<&Item>,
) -> Option<Vec<Managed>> {
    let Some(module) = task.module.as_ref().filter(|module| module.schema.kind == ModuleKind::State) else {
        return Some(Vec::new());
    };
    let Ok(Rendered::Ready(params)) = renderer.params(task, item) else { return None };
    let options = resolve(module.name, params.value()).ok()?;
    let identity = module.schema.identity(params.value())?;
    let cancel = Cancel::default();
    Some(managed(&*options, &identity, &context(machine, renderer, task, &cancel)))
}

/// Returns the items that a task manages. For a directory tree, each file is an item.
pub(in crate::reconcile) fn managed(options: &dyn Resource, identity: &str, context: &Context<'_>) -> Vec<Managed> {
    let name = options.name().to_owned();
    if !options.parts().is_empty() {
        let part = |identity: &String| Managed { module: name.clone(), identity: identity.clone() };
        return options.parts().iter().map(part).collect();
    }
    let mut all = vec![Managed { module: name.clone(), identity: identity.to_owned() }];
    if options.schema().keeps_originals {
        let of_path = |identity| Managed { module: path_module().into(), identity };
        all.extend(options.path().map(|path| of_path(path.trim_end_matches('/').to_owned())));
        all.extend(options.watched_paths(context).into_iter().map(of_path));
    }
    all
}

/// Returns the part of a definition that comes from a source file: a script's bytes, or a copied file's id.
fn source_id(renderer: &Renderer, task: &Task, options: &dyn Resource, params: &Value) -> Option<Vec<u8>> {
    let source = params.get("source").and_then(Value::as_str)?;
    let tree = renderer.tree(task)?;
    let path = towpath_render::tree::join(&task.within.folder, source).ok()?;
    match options.schema().runs_source {
        true => tree.read(&path).ok().flatten(),
        false => tree.entry(&path).ok().flatten().and_then(|entry| entry.id).map(String::into_bytes),
    }
}

fn problem(problem: &Problem) -> String {
    let key = if problem.key.is_empty() { String::new() } else { format!("{}: ", problem.key) };
    let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{key}{}{hint}", problem.message)
}

fn display_error(error: &RenderError) -> String {
    error.to_string()
}

/// Returns the data that a module receives in each call.
pub(in crate::reconcile) fn context<'a>(
    machine: &'a HostContext,
    renderer: &Renderer,
    task: &'a Task,
    cancel: &'a Cancel,
) -> Context<'a> {
    Context {
        reader: &machine.reader,
        source: renderer.tree(task).map(|tree| (tree, task.within.folder.clone())),
        node: &machine.node,
        task: &task.id,
        timeout: task.timeout,
        cancel,
        cache: &machine.module_cache,
    }
}

/// Returns a suffix that distinguishes loop items with the same name.
pub(in crate::reconcile) fn item_mark(item: Option<&Item>) -> String {
    use sha2::Digest as _;
    let Some(item) = item else { return String::new() };
    format!("#{}", &hex::encode(sha2::Sha256::digest(item.value.to_string()))[..16])
}
