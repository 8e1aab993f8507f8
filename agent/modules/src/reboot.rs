//! `reboot`: the check for a required reboot, and the call that starts it.

use towpath_host::process::{self, Invocation};
use towpath_proto::v1alpha as pb;

use crate::{Change, Checked, Context, ModuleError, Report, Verb};

/// The condition of a reboot.
#[derive(Debug, Clone)]
pub struct Options {
    always: bool,
}

/// The files that mark a required reboot.
const REQUIRED: [&str; 2] = ["/run/reboot-required", "/var/run/reboot-required"];

pub(crate) fn resolve(reboot: &pb::Reboot) -> Options {
    Options { always: reboot.when.as_deref() == Some("always") }
}

impl Options {
    /// Returns true if it runs once for each definition; false if it runs when the system requires it.
    pub fn always(&self) -> bool {
        self.always
    }
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("reboot")?;
    let mut required = options.always;
    for path in REQUIRED {
        required |= context.look.exists(path).map_err(|error| ModuleError::io(path, &error))?;
    }
    if !required {
        return Ok(Checked::InSync);
    }
    Ok(Checked::Change(Change { verb: Verb::Run, diff: "reboot\n".into(), steps: Vec::new() }))
}

/// Starts the reboot. systemd stops the agent afterwards.
pub(crate) fn run(context: &Context<'_>) -> Result<Report, ModuleError> {
    let invocation = Invocation {
        argv: ["systemctl", "reboot", "--no-block"].map(str::to_owned).to_vec(),
        timeout: Some(context.timeout),
        ..Invocation::default()
    };
    let output = process::run(&invocation, context.cancel)
        .map_err(|error| ModuleError::new(format!("systemctl reboot can't be run: {error}")))?;
    if output.rc != 0 {
        return Err(ModuleError::new(format!("systemctl reboot: {}", output.stderr.trim())));
    }
    Ok(Report::well())
}
