//! The module `group` manages a group of the machine with groupadd(8), groupmod(8) and groupdel(8).

use serde_json::Value;
use towpath_host::FsWriter;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::tools::{ToolCall, checked, entry, named, removal, run, undo};
use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, parse},
    resource::resource,
};

/// The resolved parameters of the module `group`.
#[derive(Debug)]
struct GroupSpec(pb::Group);

/// The module `group`.
#[derive(Debug)]
pub(crate) struct Group;

impl Module for Group {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Group::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for GroupSpec {
    fn module(&self) -> &'static dyn Module {
        &Group
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        context.needs_whole_root(Group.schema().key)?;
        Ok(checked(self.call(context)?))
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        context.needs_whole_root(Group.schema().key)?;
        run(Group.schema().key, self.name(), self.call(context)?, context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self.name(), self.is_absent(), self.exists(context).ok()?)
    }
}

fn resolve(group: pb::Group) -> Result<GroupSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    named("name", group.name.as_deref(), &mut problems);
    done(problems)?;
    Ok(GroupSpec(group))
}

impl GroupSpec {
    fn name(&self) -> &str {
        self.0.name.as_deref().unwrap_or_default()
    }

    fn is_absent(&self) -> bool {
        self.0.state.as_deref() == Some("absent")
    }

    fn exists(&self, context: &Context<'_>) -> Result<bool, ModuleError> {
        Ok(entry("/etc/group", self.name(), context)?.is_some())
    }

    /// Returns the call of `groupadd`, `groupmod` or `groupdel` that brings the group to the desired state. Returns
    /// `None` if the group is in sync.
    fn call(&self, context: &Context<'_>) -> Result<Option<ToolCall>, ModuleError> {
        let (name, known) = (self.name(), entry("/etc/group", self.name(), context)?);
        if self.is_absent() {
            return Ok(removal("group", name, known.is_some()));
        }
        let exists = known.is_some();
        let gid = known.and_then(|fields| fields.get(2)?.parse::<i64>().ok());
        let wanted = self.0.gid.filter(|wanted| gid != Some(*wanted));
        if exists && wanted.is_none() {
            return Ok(None);
        }
        let mut argv = vec![if exists { "groupmod" } else { "groupadd" }.to_owned()];
        argv.extend((!exists && self.0.system == Some(true)).then(|| "--system".to_owned()));
        argv.extend(wanted.iter().flat_map(|gid| ["--gid".to_owned(), gid.to_string()]));
        argv.push(name.to_owned());
        let diff = wanted.map(|gid| format!("{name}: gid becomes {gid}\n")).unwrap_or_default();
        Ok(Some(if exists {
            ToolCall { argv, verb: Verb::Update, diff }
        } else {
            ToolCall { argv, verb: Verb::Create, diff: format!("make the group {name}\n{diff}") }
        }))
    }
}
