//! The module `debug` shows a message in the log and in `towpath status`.

use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{Checked, Context, Module, ModuleError, Report, Resolved, Resource, params::parse, resource::resource};

/// The resolved parameters of the module `debug`.
#[derive(Debug)]
struct DebugSpec(pb::Debug);

/// The module `debug`.
#[derive(Debug)]
pub(crate) struct Debug;

impl Module for Debug {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Debug::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(parse(params).map(DebugSpec))
    }
}

impl Resource for DebugSpec {
    fn module(&self) -> &'static dyn Module {
        &Debug
    }

    fn check(&self, _context: &Context<'_>) -> Result<Checked, ModuleError> {
        Ok(Checked::InSync)
    }

    fn observe(&self, _context: &Context<'_>) -> Result<Report, ModuleError> {
        Ok(Report { message: self.0.message.clone(), ..Report::success() })
    }
}
