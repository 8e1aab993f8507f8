//! The module `sudoers` manages a file with sudo rules below /etc/sudoers.d. The command `visudo` validates the rules.

use serde_json::{Value, json};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource,
    files::drop_in::{DropInFile, file_name},
    params::{Problem, done, parse},
    resource::resource,
};

/// The resolved parameters of the module `sudoers`: a file below /etc/sudoers.d.
#[derive(Debug)]
struct SudoersSpec(DropInFile);

/// The module `sudoers`.
#[derive(Debug)]
pub(crate) struct Sudoers;

impl Module for Sudoers {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Sudoers::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for SudoersSpec {
    fn module(&self) -> &'static dyn Module {
        &Sudoers
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        self.0.check(context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        self.0.undo(context)
    }

    fn path(&self) -> Option<&str> {
        self.0.path()
    }
}

fn resolve(sudoers: &pb::Sudoers) -> Result<SudoersSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = file_name(sudoers.name.as_deref(), &mut problems);
    let path = format!("/etc/sudoers.d/{name}");
    let absent = sudoers.state.as_deref() == Some("absent");
    if sudoers.content.is_none() && !absent {
        problems.push(Problem::new("content", "sudoers needs content or template"));
    }
    done(problems)?;
    let params = if absent {
        json!({ "path": path, "state": "absent" })
    } else {
        // A broken sudoers file disables sudo for all users, so visudo validates the file before it is written.
        json!({ "path": path, "content": sudoers.content, "mode": "0440", "validate": "visudo -cqf %s" })
    };
    DropInFile::resolve(name, &params).map(SudoersSpec)
}
