//! The module `reboot` reboots the node: always, or only if the operating system asks for a reboot.

use serde_json::Value;
use towpath_host::{
    FsWriter,
    process::{self, Invocation},
};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb, params::parse, resource::resource,
};

/// The resolved parameters of the module `reboot`.
#[derive(Debug, Clone)]
pub(crate) struct RebootSpec {
    /// True if the task always reboots the node once. False if the task reboots the node only when the operating system
    /// asks for a reboot.
    always: bool,
}

/// The module `reboot`.
#[derive(Debug)]
pub(crate) struct Reboot;

impl Module for Reboot {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Reboot::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(Ok(resolve(&parse(params)?)))
    }
}

impl Resource for RebootSpec {
    fn module(&self) -> &'static dyn Module {
        &Reboot
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        run(context)
    }

    fn runs_once(&self) -> bool {
        self.always
    }
}

/// A Debian system asks for a reboot by creating one of these files.
const REQUIRED: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

pub(crate) fn resolve(reboot: &pb::Reboot) -> RebootSpec {
    RebootSpec { always: reboot.when.as_deref() == Some("always") }
}

pub(crate) fn check(spec: &RebootSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("reboot")?;
    let mut required = spec.always;
    for path in REQUIRED {
        required |= context.reader.exists(path).map_err(|error| ModuleError::io(path, &error))?;
    }
    if !required {
        return Ok(Checked::InSync);
    }
    Ok(Checked::Change(Change { verb: Verb::Run, diff: "reboot\n".into(), steps: Vec::new() }))
}

/// Starts the reboot. systemd then stops the agent.
pub(crate) fn run(context: &Context<'_>) -> Result<Report, ModuleError> {
    let invocation = Invocation {
        argv: ["systemctl", "reboot", "--no-block"].map(str::to_owned).to_vec(),
        timeout: Some(context.timeout),
        ..Invocation::default()
    };
    let output = process::run(&invocation, context.cancel)
        .map_err(|error| ModuleError::new(format!("cannot run systemctl reboot: {error}")))?;
    if output.rc != 0 {
        return Err(ModuleError::new(format!("cannot reboot with systemctl: {}", output.stderr.trim())));
    }
    Ok(Report::success())
}
