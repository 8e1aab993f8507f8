//! The module `publish` is reserved for a task that publishes a value for other nodes. The module is not implemented
//! yet.

use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource,
    params::{Problem, parse},
    resource::resource,
};

/// A task with the module `publish`. The task fails because the module is not implemented yet.
#[derive(Debug)]
struct Unsupported;

/// The module `publish`.
#[derive(Debug)]
pub(crate) struct Publish;

impl Module for Publish {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Publish::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for Unsupported {
    fn module(&self) -> &'static dyn Module {
        &Publish
    }

    fn check(&self, _context: &Context<'_>) -> Result<Checked, ModuleError> {
        Err(ModuleError::new("this version of the agent does not support the module publish"))
    }
}

fn resolve(publish: &pb::Publish) -> Result<Unsupported, Vec<Problem>> {
    if publish.value.is_some() == publish.file.is_some() {
        return Err(vec![Problem::new("value", "publish needs value or file")]);
    }
    Ok(Unsupported)
}
