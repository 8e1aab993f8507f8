//! The module `custom` manages a resource through a program in the state repository. The agent calls the program for
//! the operations `describe`, `check` and `apply`. For each operation, the program reads one JSON document and writes
//! one JSON document:
//!
//! - `describe` returns the known parameters: `{"params": {"port": {"required": true}}}`.
//! - `check` changes nothing, and returns `{"inSync": true}` or `{"inSync": false, "diff": "readable text"}`.
//! - `apply` returns `{"changed": true}`, and an optional `message`.
//! - `check` and `apply` may return `data`, which becomes part of the registered result.
//!
//! The program reads a JSON request from stdin. The JSON request contains the fields `operation`, `name` and `node`.
//! The JSON request for the operations `check` and `apply` also contains the fields `params` and `root`. If the program
//! ends with a status other than 0, the task fails, and the program's stderr is the error message. The agent copies the
//! program from the accepted commit to a sealed memory file, and runs the copy.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use towpath_host::{
    FsWriter,
    process::{self, Invocation, Sealed},
};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::tree;

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done},
    resource::resource,
};

/// The resolved parameters of the module `custom`: a program, and the name and the parameters of the resource.
#[derive(Debug, Clone)]
pub(crate) struct CustomSpec {
    name: String,
    source: String,
    params: Map<String, Value>,
}

/// The module `custom`.
#[derive(Debug)]
pub(crate) struct Custom;

impl Module for Custom {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Custom::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(params))
    }
}

impl Resource for CustomSpec {
    fn module(&self) -> &'static dyn Module {
        &Custom
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn asks_commands(&self) -> bool {
        true
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        run(self, context)
    }
}

pub(crate) fn resolve(params: &Value) -> Result<CustomSpec, Vec<Problem>> {
    let text = |key: &str| params.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, source) = (text("name"), text("source"));
    let mut problems = Vec::new();
    if name.trim().is_empty() {
        problems.push(Problem::new("name", "the name is empty"));
    }
    done(problems)?;
    let params = params.get("params").and_then(Value::as_object).cloned().unwrap_or_default();
    Ok(CustomSpec { name, source, params })
}

/// The answer of a program to the operation `describe`: the parameters that the program supports.
#[derive(Debug, Default, Deserialize)]
struct Described {
    #[serde(default)]
    params: BTreeMap<String, Param>,
}

#[derive(Debug, Default, Deserialize)]
struct Param {
    #[serde(default)]
    required: bool,
}

/// A cache that maps the digest of each program to the parameters that the program supports.
#[derive(Debug, Default)]
struct Descriptions(Mutex<BTreeMap<String, Arc<Described>>>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    in_sync: bool,
    #[serde(default)]
    diff: String,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Apply {
    changed: bool,
    message: Option<String>,
    data: Option<Value>,
}

/// A copy of a program in a sealed memory file. The program supports all parameters that the task sets.
struct Program<'a> {
    spec: &'a CustomSpec,
    context: &'a Context<'a>,
    path: String,
    sealed: Sealed,
}

impl<'a> Program<'a> {
    /// Reads the program from the source. Returns an error if the task sets an unsupported parameter or omits a
    /// required parameter.
    fn open(spec: &'a CustomSpec, context: &'a Context<'a>) -> Result<Self, ModuleError> {
        let (tree, folder) = context
            .source
            .clone()
            .ok_or_else(|| ModuleError::new("cannot read a file of the source: the task has no source"))?;
        let path = tree::join(&folder, &spec.source).map_err(ModuleError::new)?;
        let bytes = tree
            .read(&path)
            .map_err(|error| ModuleError::io(&path, &error))?
            .ok_or_else(|| ModuleError::new(format!("cannot read {path}: the source does not contain the file")))?;
        let sealed = Sealed::new(&bytes).map_err(|error| ModuleError::io(&path, &error))?;
        let program = Self { spec, context, path, sealed };
        let descriptions = context.cache.entry::<Descriptions>();
        let known = &descriptions.0;
        let digest = hex::encode(Sha256::digest(&bytes));
        let described = known.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let described = match described {
            Some(described) => described,
            None => {
                let described: Arc<Described> = Arc::new(program.ask("describe")?);
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, Arc::clone(&described));
                described
            }
        };
        program.fits(&described)?;
        Ok(program)
    }

    fn fits(&self, described: &Described) -> Result<(), ModuleError> {
        let given = &self.spec.params;
        let missing = described.params.iter().find(|(name, param)| param.required && !given.contains_key(*name));
        if let Some((name, _)) = missing {
            return Err(ModuleError::new(format!("the program {} needs params.{name}", self.path)));
        }
        if let Some(unknown) = given.keys().find(|name| !described.params.contains_key(*name)) {
            let known: Vec<&str> = described.params.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(ModuleError::new(format!(
                "the program {} does not support params.{unknown}; supported parameters: {known}",
                self.path
            )));
        }
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, operation: &str) -> Result<T, ModuleError> {
        let root = self.context.reader.root().display().to_string();
        let mut request = json!({ "operation": operation, "name": self.spec.name, "node": self.context.node });
        if let (Some(request), true) = (request.as_object_mut(), operation != "describe") {
            request.insert("params".into(), Value::Object(self.spec.params.clone()));
            request.insert("root".into(), json!(root));
        }
        let invocation = Invocation {
            argv: vec![self.sealed.path()],
            stdin: Some(format!("{request}\n").into_bytes()),
            env: [("TOWPATH_ROOT".to_owned(), root), ("TOWPATH_NODE".to_owned(), self.context.node.to_owned())].into(),
            timeout: Some(self.context.timeout),
            ..Invocation::default()
        };
        let what = format!("{} ({operation})", self.path);
        let output = process::run(&invocation, self.context.cancel).map_err(|error| {
            ModuleError::new(format!("cannot start {what}: {error}; check that its interpreter is installed"))
        })?;
        if output.cancelled {
            return Err(ModuleError::new("the program was ended because the agent stops"));
        }
        if output.timed_out {
            let seconds = self.context.timeout.as_secs();
            return Err(ModuleError::new(format!(
                "{what} took longer than {seconds} s, so the agent ended it; raise the timeout of the task"
            )));
        }
        let said = output.stderr.trim().lines().rev().take(5).collect::<Vec<_>>();
        let said = said.into_iter().rev().collect::<Vec<_>>().join("; ");
        if output.rc != 0 {
            return Err(ModuleError::new(format!("{what} ended with status {}: {said}", output.rc)));
        }
        serde_json::from_str(&output.stdout).map_err(|error| {
            ModuleError::new(format!(
                "cannot parse the output of {what}: {error}; the program must print exactly one JSON document"
            ))
        })
    }
}

pub(crate) fn check(spec: &CustomSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let check: Check = Program::open(spec, context)?.ask("check")?;
    if check.in_sync {
        return Ok(check.data.map_or(Checked::InSync, Checked::InSyncWithData));
    }
    let diff = check.diff.trim_end();
    let diff = if diff.is_empty() { format!("{} changes {}", spec.source, spec.name) } else { diff.to_owned() };
    Ok(Checked::Change(Change { verb: Verb::Update, diff: format!("{diff}\n"), steps: Vec::new() }))
}

pub(crate) fn run(spec: &CustomSpec, context: &Context<'_>) -> Result<Report, ModuleError> {
    let program = Program::open(spec, context)?;
    let apply: Apply = program.ask("apply")?;
    let check: Check = program.ask("check")?;
    if !check.in_sync {
        let what = if apply.changed { "`apply` reported a change, but" } else { "`apply` reported no change, and" };
        return Err(ModuleError::new(format!(
            "cannot apply {}: {what} `check` still reports a difference; correct the program",
            program.path
        )));
    }
    let data = apply.data.unwrap_or(Value::Null);
    Ok(Report { ok: true, fields: [("data", data)].into(), message: apply.message })
}
