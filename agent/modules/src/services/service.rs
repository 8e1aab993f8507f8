//! The module `service` manages the state of a systemd unit: running or stopped, enabled or disabled at boot, masked or
//! unmasked.

mod aliases;

use serde_json::{Value, json};
use towpath_host::{
    FsWriter,
    process::{self, Invocation},
    systemd::{Job, Systemd, SystemdError, UnitState},
};
use towpath_proto::{ModuleKind, ModuleMessage as _, ModuleSchema, unit_name, v1alpha as pb};

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, parse},
    resource::resource,
};

/// The resolved parameters of the module `service`: the desired state of a unit.
#[derive(Debug, Clone)]
pub(crate) struct ServiceSpec {
    unit: String,
    state: Option<State>,
    enabled: Option<bool>,
    masked: Option<bool>,
}

/// The module `service`.
#[derive(Debug)]
pub(crate) struct Service;

impl Module for Service {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Service::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for ServiceSpec {
    fn module(&self) -> &'static dyn Module {
        &Service
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        run(self, context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }

    fn kind(&self) -> ModuleKind {
        if self.is_action() { ModuleKind::Action } else { ModuleKind::State }
    }

    fn other_name(&self, context: &Context<'_>) -> Option<String> {
        Some(self.unit_name(context))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Started,
    Stopped,
    Restarted,
    Reloaded,
}

/// The number of lines of systemd's journal in the error message about a failed unit.
const LINES: &str = "10";

pub(crate) fn resolve(service: &pb::Service) -> Result<ServiceSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    if service.state.is_none() && service.enabled.is_none() && service.masked.is_none() {
        problems.push(Problem::new("", "service needs state, enabled or masked"));
    }
    let state = match service.state.as_deref() {
        Some("started") => Some(State::Started),
        Some("stopped") => Some(State::Stopped),
        Some("restarted") => Some(State::Restarted),
        Some("reloaded") => Some(State::Reloaded),
        _ => None,
    };
    if service.masked == Some(true)
        && (service.enabled == Some(true) || state.is_some_and(|state| state != State::Stopped))
    {
        problems.push(Problem::new("masked", "a masked unit cannot be started or enabled"));
    }
    let name = service.name.as_deref().unwrap_or_default();
    if name.contains('/') || name.contains(char::is_whitespace) {
        problems.push(
            Problem::new("name", format!("{name:?} is not a valid name of a unit"))
                .hint("write the name as systemctl shows it"),
        );
    }
    done(problems)?;
    Ok(ServiceSpec { unit: unit_name(name), state, enabled: service.enabled, masked: service.masked })
}

pub(crate) fn failed(error: SystemdError) -> ModuleError {
    ModuleError::new(error.to_string())
}

/// A difference between a unit and its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Unmask,
    Enable(bool),
    Run(Job),
    Mask,
}

impl ServiceSpec {
    /// Returns true if the task restarts or reloads the unit. A task that restarts or reloads a unit is an action, not
    /// a state.
    pub(crate) fn is_action(&self) -> bool {
        matches!(self.state, Some(State::Restarted | State::Reloaded))
    }

    /// Returns the real name of the unit, if the parameter `name` is an alias. The function reads unit files from the
    /// disk, so systemd need not have loaded the unit.
    pub(crate) fn unit_name(&self, context: &Context<'_>) -> String {
        aliases::unit(context.reader, &self.unit)
    }

    /// Returns the state of the unit. The state contains the real name of the unit, even if the task names an alias.
    fn state(&self, systemd: &Systemd, context: &Context<'_>) -> Result<UnitState, ModuleError> {
        systemd.state(&self.unit_name(context)).map_err(failed)
    }

    fn missing(&self, unit: &UnitState) -> Vec<Missing> {
        let mut missing = Vec::new();
        let masked = unit.load == "masked" || unit.file.starts_with("masked");
        if self.masked == Some(false) && masked {
            missing.push(Missing::Unmask);
        }
        let runs = matches!(unit.active.as_str(), "active" | "reloading" | "activating" | "refreshing");
        // The unit is stopped first, because disabling it may remove the alias that the task uses.
        if self.state == Some(State::Stopped) && (runs || unit.active == "deactivating") {
            missing.push(Missing::Run(Job::Stop));
        }
        // A unit without an [Install] section cannot be enabled. Other units start such a unit.
        let file = unit.file.as_str();
        let enabled = matches!(file, "enabled" | "enabled-runtime" | "static" | "alias" | "generated" | "indirect");
        // A unit without an [Install] section cannot be disabled either.
        let fixed = |wanted: bool| !wanted && matches!(file, "static" | "alias" | "generated" | "indirect");
        if self.enabled.is_some_and(|wanted| wanted != enabled && !fixed(wanted)) {
            missing.push(Missing::Enable(self.enabled == Some(true)));
        }
        missing.extend(match self.state {
            Some(State::Started) if !runs => Some(Missing::Run(Job::Start)),
            Some(State::Restarted) => Some(Missing::Run(Job::Restart)),
            Some(State::Reloaded) => Some(Missing::Run(Job::Reload)),
            _ => None,
        });
        if self.masked == Some(true) && !masked {
            missing.push(Missing::Mask);
        }
        missing
    }
}

fn as_str(missing: Missing) -> &'static str {
    match missing {
        Missing::Unmask => "is unmasked",
        Missing::Enable(true) => "is enabled",
        Missing::Enable(false) => "is disabled",
        Missing::Run(Job::Start) => "is started",
        Missing::Run(Job::Stop) => "is stopped",
        Missing::Run(Job::Restart) => "is restarted",
        Missing::Run(Job::Reload) => "is reloaded",
        Missing::Mask => "is masked",
    }
}

pub(crate) fn check(spec: &ServiceSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("service")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let unit = spec.state(&systemd, context)?;
    let gone = unit.load == "not-found";
    let nothing = spec.enabled != Some(true) && matches!(spec.state, None | Some(State::Stopped));
    if gone && nothing && spec.masked == Some(true) {
        // The unit is masked before its package is installed.
        let diff = format!("{} is masked\n", spec.unit);
        return Ok(Checked::Change(Change { verb: Verb::Update, diff, steps: Vec::new() }));
    }
    if gone && nothing {
        return Ok(Checked::InSync);
    }
    if gone {
        return Ok(Checked::Unknown(format!(
            "this node has no unit {}; install its package or write its unit file in an earlier task",
            spec.unit
        )));
    }
    let missing = spec.missing(&unit);
    if missing.is_empty() {
        return Ok(Checked::InSync);
    }
    let diff: String = missing.iter().map(|missing| format!("{} {}\n", unit.id, as_str(*missing))).collect();
    let verb = if spec.is_action() { Verb::Run } else { Verb::Update };
    Ok(Checked::Change(Change { verb, diff, steps: Vec::new() }))
}

pub(crate) fn run(spec: &ServiceSpec, context: &Context<'_>) -> Result<Report, ModuleError> {
    context.needs_whole_root("service")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let unit = spec.state(&systemd, context)?;
    if unit.stale {
        systemd.reload().map_err(failed)?;
    }
    let id = unit.id.as_str();
    let mut started_now = false;
    for missing in spec.missing(&unit) {
        started_now |= missing == Missing::Run(Job::Start);
        let done = match missing {
            Missing::Unmask => systemd.mask(id, false),
            Missing::Enable(enabled) => systemd.enable(id, enabled),
            Missing::Run(job) => started(&systemd, id, job, context),
            Missing::Mask => systemd.mask(id, true),
        };
        done.map_err(|error| with_journal("", id, &error, context))?;
    }
    Ok(Report { fields: [("started", json!(started_now))].into(), ..Report::success() })
}

/// Runs a systemd job. Returns an error if the unit is in the state `failed` after the job.
fn started(systemd: &Systemd, unit: &str, job: Job, context: &Context<'_>) -> Result<(), SystemdError> {
    systemd.run(unit, job, context.timeout)?;
    if job != Job::Stop && systemd.state(unit)?.active == "failed" {
        return Err(SystemdError::Failed { unit: unit.to_owned(), job: "start", result: "failed".into() });
    }
    Ok(())
}

/// Adds the last lines of systemd's journal about a unit to an error message. The message begins with the text `what`,
/// unless `what` is empty.
pub(crate) fn with_journal(what: &str, unit: &str, error: &SystemdError, context: &Context<'_>) -> ModuleError {
    let lines = journal(unit, context);
    let said = if lines.is_empty() { String::new() } else { format!("; its journal ends with: {lines}") };
    let what = if what.is_empty() { String::new() } else { format!("{what}: ") };
    ModuleError::new(format!("{what}{error}{said}"))
}

/// Returns the last lines of systemd's journal about a unit.
fn journal(unit: &str, context: &Context<'_>) -> String {
    let argv = ["journalctl", "--no-pager", "--quiet", "-o", "cat", "-n", LINES, "-u", unit];
    let invocation = Invocation {
        argv: argv.map(str::to_owned).to_vec(),
        timeout: Some(std::time::Duration::from_secs(10)),
        ..Invocation::default()
    };
    let output = process::run(&invocation, context.cancel).map(|output| output.stdout).unwrap_or_default();
    output.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Returns parameters that restore the current state of the unit; `None` if the task does not change the state.
pub(crate) fn undo(spec: &ServiceSpec, context: &Context<'_>) -> Option<Value> {
    let unit = spec.state(&Systemd::connect().ok()?, context).ok()?;
    let mut params = json!({ "name": unit.id });
    let map = params.as_object_mut()?;
    for missing in spec.missing(&unit) {
        let (key, value) = match missing {
            Missing::Unmask => ("masked", json!(true)),
            Missing::Mask => ("masked", json!(false)),
            Missing::Enable(enabled) => ("enabled", json!(!enabled)),
            Missing::Run(Job::Start) => ("state", json!("stopped")),
            Missing::Run(Job::Stop) => ("state", json!("started")),
            Missing::Run(_) => continue,
        };
        map.insert(key.into(), value);
    }
    (map.len() > 1).then_some(params)
}
