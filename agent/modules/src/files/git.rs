//! The module `git` copies the files of a git repository at one commit to the node. The agent fetches the repository
//! together with the commit that contains the task. The agent manages the files of the repository in the same way as
//! files of the source.

use serde_json::{Value, json};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::file::FileSpec;
use crate::{
    Checked, Context, Expectation, Module, ModuleError, Resolved, Resource,
    params::{Problem, done, managed_path},
    resource::resource,
};

/// The resolved parameters of the module `git`: the files of the commit as a tree.
#[derive(Debug)]
struct GitSpec(FileSpec);

/// The module `git`.
#[derive(Debug)]
pub(crate) struct Git;

impl Module for Git {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Git::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(params))
    }
}

impl Resource for GitSpec {
    fn module(&self) -> &'static dyn Module {
        &Git
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        if context.source.is_none() {
            return Ok(Checked::Unknown(UNKNOWN.into()));
        }
        self.0.check(context)
    }

    fn reads_source(&self) -> bool {
        self.0.reads_source()
    }

    fn path(&self) -> Option<&str> {
        self.0.path()
    }

    fn watched_paths(&self, context: &Context<'_>) -> Vec<String> {
        self.0.watched_paths(context)
    }

    fn expectations(&self, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
        self.0.expectations(context, key)
    }
}

/// The text in a plan for a git repository that the node has not fetched yet.
const UNKNOWN: &str = "the files are unknown: only the agent fetches the repository, not a plan from a working tree";

fn resolve(params: &Value) -> Result<GitSpec, Vec<Problem>> {
    let text = |key: &str| params.get(key).and_then(Value::as_str);
    let mut problems = Vec::new();
    managed_path("path", text("path").unwrap_or_default(), &mut problems);
    done(problems)?;
    let mut file = json!({ "path": text("path"), "source": text("folder").unwrap_or(".") });
    if let Some(file) = file.as_object_mut() {
        for key in ["mode", "owner", "group"] {
            file.extend(text(key).map(|value| (key.to_owned(), json!(value))));
        }
    }
    FileSpec::resolve(&file).map(GitSpec)
}
