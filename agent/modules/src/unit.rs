//! `unit`: a unit file or drop-in below /etc/systemd/system. systemd reloads its unit files after a change.

use serde_json::{Value, json};
use towpath_host::systemd::Systemd;
use towpath_proto::v1alpha as pb;

use crate::{
    Checked, Context, ModuleError, Step, file,
    resolve::{Problem, done},
    service::{failed, whole},
};

/// A unit file and its desired state.
#[derive(Debug, Clone)]
pub struct Options {
    unit: String,
    drop_in: bool,
    absent: bool,
    file: file::Options,
}

pub(crate) fn resolve(unit: &pb::Unit) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = unit.name.as_deref().unwrap_or_default();
    let plain = |text: &str| !text.contains('/') && !text.contains(char::is_whitespace) && !text.starts_with('.');
    if !plain(name) {
        problems.push(Problem::new("name", format!("{name:?} is no name of a unit")).hint("such as web.service"));
    }
    if unit.drop_in.as_deref().is_some_and(|drop_in| !plain(drop_in)) {
        problems.push(Problem::new("dropIn", "the name of the drop-in is no name of a file"));
    }
    let absent = unit.state.as_deref() == Some("absent");
    if unit.content.is_none() && !absent {
        problems.push(Problem::new("content", "unit needs content or template"));
    }
    done(problems)?;
    let whole = whole(name);
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
    let file: pb::File =
        serde_json::from_value(params.clone()).map_err(|error| vec![Problem::new("", error.to_string())])?;
    let file = file::resolve(&file, &params)?;
    Ok(Options { unit: whole, drop_in: unit.drop_in.is_some(), absent, file })
}

impl Options {
    /// Returns the path of the file.
    pub fn path(&self) -> &str {
        self.file.path()
    }
}

/// Returns true for a template unit, which has no state of its own.
fn template(unit: &str) -> bool {
    unit.contains("@.")
}

/// Returns true if the distribution has a unit of the same name. That unit takes effect when this one is removed.
fn vendor(unit: &str, context: &Context<'_>) -> bool {
    ["/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|folder| context.look.exists(&format!("{folder}/{unit}")).unwrap_or(false))
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("unit")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let mut change = match file::check(&options.file, context)? {
        Checked::Change(change) => change,
        // After a crash between write and reload, the reload is still missing.
        Checked::InSync if !template(&options.unit) && systemd.state(&options.unit).map_err(failed)?.stale => {
            crate::Change {
                verb: crate::Verb::Update,
                diff: format!("systemd reads {} again\n", options.unit),
                steps: Vec::new(),
            }
        }
        other => return Ok(other),
    };
    let goes = change.steps.iter().any(|step| matches!(step, Step::Remove { .. }));
    if goes && !options.drop_in && !template(&options.unit) && !vendor(&options.unit, context) {
        change.steps.insert(0, Step::StopUnit { unit: options.unit.clone() });
    }
    change.steps.push(Step::ReloadUnits);
    Ok(Checked::Change(change))
}

/// Returns the parameters that remove the unit file. `None` if it exists already or the task removes it.
pub(crate) fn undo(options: &Options, params: &Value, context: &Context<'_>) -> Option<Value> {
    if options.absent || context.look.exists(options.path()).ok()? {
        return None;
    }
    let mut undo = json!({ "name": options.unit, "state": "absent" });
    if let Some(drop_in) = params.get("dropIn") {
        undo.as_object_mut()?.insert("dropIn".into(), drop_in.clone());
    }
    Some(undo)
}
