//! The module `assert` fails if one of its expressions is false.

use serde_json::Value;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{Checked, Context, Module, ModuleError, Report, Resolved, Resource, params::parse, resource::resource};

/// The resolved parameters of the module `assert`: the expressions that are false, and the message of the task. The
/// renderer has already evaluated the expressions.
#[derive(Debug)]
struct AssertSpec(pb::Assert);

/// The module `assert`.
#[derive(Debug)]
pub(crate) struct Assert;

impl Module for Assert {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Assert::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(parse(params).map(AssertSpec))
    }
}

impl Resource for AssertSpec {
    fn module(&self) -> &'static dyn Module {
        &Assert
    }

    fn check(&self, _context: &Context<'_>) -> Result<Checked, ModuleError> {
        Ok(Checked::InSync)
    }

    fn observe(&self, _context: &Context<'_>) -> Result<Report, ModuleError> {
        let (failed, ok) = (self.0.that.join("; "), self.0.that.is_empty());
        let message = match self.0.message.clone() {
            Some(message) if !ok => Some(format!("{message} ({failed} does not hold)")),
            None if !ok => Some(format!("{failed} does not hold")),
            _ => None,
        };
        Ok(Report { ok, message, ..Report::success() })
    }
}
