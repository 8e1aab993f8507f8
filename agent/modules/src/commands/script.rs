//! The module `script` runs a file of the source.

use serde_json::Value;
use towpath_host::process;
use towpath_proto::{ModuleKind, ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::tree;

use super::invoked::{Invoked, check, finish, finish_run};
use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource,
    params::{Problem, environment, parse},
    resource::resource,
};

/// The resolved parameters of the module `script`.
#[derive(Debug)]
struct ScriptSpec(Invoked);

/// The module `script`.
#[derive(Debug)]
pub(crate) struct Script;

impl Module for Script {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Script::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for ScriptSpec {
    fn module(&self) -> &'static dyn Module {
        &Script
    }

    fn kind(&self) -> ModuleKind {
        self.0.kind()
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(&self.0, context)
    }

    fn asks_commands(&self) -> bool {
        self.0.asks_commands()
    }

    fn observe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        run(&self.0, context)
    }
}

fn resolve(script: pb::Script) -> Result<ScriptSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let env = environment(script.env, &mut problems);
    let spec = Invoked {
        argv: script.args,
        script: script.source,
        stdin: script.stdin,
        env,
        cwd: script.cwd,
        creates: script.creates,
        removes: script.removes,
        unless: script.unless,
        only_if: script.only_if,
        always: script.run.as_deref() == Some("always"),
        user: script.user,
    };
    finish(spec, problems).map(ScriptSpec)
}

/// Runs the script from a temporary file, and removes the file after the run.
fn run(spec: &Invoked, context: &Context<'_>) -> Result<Report, ModuleError> {
    let script = spec.script.as_deref().unwrap_or_default();
    let (tree, folder) = context
        .source
        .clone()
        .ok_or_else(|| ModuleError::new("cannot read a file of the source: the task has no source"))?;
    let path = tree::join(&folder, script).map_err(ModuleError::new)?;
    let bytes = tree
        .read(&path)
        .map_err(|error| ModuleError::io(&path, &error))?
        .ok_or_else(|| ModuleError::new(format!("cannot read {path}: the source does not contain the file")))?;
    let file = process::ScriptFile::new(&bytes).map_err(|error| ModuleError::io(&path, &error))?;
    let mut argv = vec![file.path().display().to_string()];
    argv.extend(spec.argv.iter().cloned());
    let mut invocation = spec.invocation(argv, context)?;
    file.give_to(invocation.user.as_ref()).map_err(|error| ModuleError::io(&path, &error))?;
    invocation.stdin = spec.stdin.clone().map(String::into_bytes);
    finish_run(&invocation, spec, context)
}
