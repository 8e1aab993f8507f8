//! The module `unit` manages a unit file or drop-in below /etc/systemd/system. After a change of a unit file or
//! drop-in, the agent makes systemd reload all unit files.

use serde_json::{Value, json};
use towpath_host::systemd::Systemd;
use towpath_proto::{ModuleMessage as _, ModuleSchema, unit_name, v1alpha as pb};

use super::service::failed;
use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource, Step,
    files::file::FileSpec,
    params::{Problem, done, parse},
    resource::resource,
};

/// The resolved parameters of the module `unit`: a unit file and its desired state.
#[derive(Debug, Clone)]
pub(crate) struct UnitSpec {
    unit: String,
    absent: bool,
    file: FileSpec,
    /// The name of the drop-in, as written in the task; `None` if the task manages the unit file itself.
    drop_in: Option<String>,
}

/// The module `unit`.
#[derive(Debug)]
pub(crate) struct Unit;

impl Module for Unit {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Unit::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for UnitSpec {
    fn module(&self) -> &'static dyn Module {
        &Unit
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }

    fn path(&self) -> Option<&str> {
        self.file.path()
    }
}

pub(crate) fn resolve(unit: &pb::Unit) -> Result<UnitSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = unit.name.as_deref().unwrap_or_default();
    let plain = |text: &str| !text.contains('/') && !text.contains(char::is_whitespace) && !text.starts_with('.');
    if !plain(name) {
        problems
            .push(Problem::new("name", format!("{name:?} is not a valid name of a unit")).hint("such as web.service"));
    }
    if unit.drop_in.as_deref().is_some_and(|drop_in| !plain(drop_in)) {
        problems.push(Problem::new("dropIn", "the name of the drop-in is not a valid name of a file"));
    }
    let absent = unit.state.as_deref() == Some("absent");
    if unit.content.is_none() && !absent {
        problems.push(Problem::new("content", "unit needs content or template"));
    }
    done(problems)?;
    let whole = unit_name(name);
    let path = match &unit.drop_in {
        Some(drop_in) => {
            let drop_in = drop_in.strip_suffix(".conf").unwrap_or(drop_in);
            format!("/etc/systemd/system/{whole}.d/{drop_in}.conf")
        }
        None => format!("/etc/systemd/system/{whole}"),
    };
    let params = if absent {
        json!({ "path": path, "state": "absent" })
    } else {
        json!({ "path": path, "content": unit.content, "mode": "0644" })
    };
    let file = FileSpec::resolve(&params)?;
    Ok(UnitSpec { unit: whole, absent, file, drop_in: unit.drop_in.clone() })
}

/// Returns true if the unit is a template, such as `web@.service`. systemd can start only instances of a template.
fn template(unit: &str) -> bool {
    unit.contains("@.")
}

/// Returns true if the distribution has a unit with the same name as the managed unit. After the agent removes the
/// managed unit file, systemd uses the unit of the distribution.
fn vendor(unit: &str, context: &Context<'_>) -> bool {
    ["/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|folder| context.reader.exists(&format!("{folder}/{unit}")).unwrap_or(false))
}

pub(crate) fn check(spec: &UnitSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("unit")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let mut change = match spec.file.check(context)? {
        Checked::Change(change) => change,
        // If the agent crashed between the write and the reload, systemd still has to reload the unit.
        Checked::InSync if !template(&spec.unit) && systemd.state(&spec.unit).map_err(failed)?.stale => crate::Change {
            verb: crate::Verb::Update,
            diff: format!("reload the unit file of {}\n", spec.unit),
            steps: Vec::new(),
        },
        other => return Ok(other),
    };
    let goes = change.steps.iter().any(|step| matches!(step, Step::Remove { .. }));
    if goes && spec.drop_in.is_none() && !template(&spec.unit) && !vendor(&spec.unit, context) {
        change.steps.insert(0, Step::StopUnit { unit: spec.unit.clone() });
    }
    change.steps.push(Step::ReloadUnits);
    Ok(Checked::Change(change))
}

/// Returns the parameters that undo the task; `None` if the unit file already exists, or if the task removes the unit
/// file.
pub(crate) fn undo(spec: &UnitSpec, context: &Context<'_>) -> Option<Value> {
    if spec.absent || context.reader.exists(spec.path()?).ok()? {
        return None;
    }
    let mut undo = json!({ "name": spec.unit, "state": "absent" });
    if let Some(drop_in) = &spec.drop_in {
        undo.as_object_mut()?.insert("dropIn".into(), json!(drop_in));
    }
    Some(undo)
}
