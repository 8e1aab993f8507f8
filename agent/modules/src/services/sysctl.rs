//! The module `sysctl` sets a kernel setting, now and at every boot (sysctl.d(5)).

use serde_json::{Value, json};
use towpath_host::{FsWriter, files::Access, kernel};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, one_line, parse},
    resource::resource,
};

/// The resolved parameters of the module `sysctl`: a kernel setting and its desired value.
#[derive(Debug, Clone)]
pub(crate) struct SysctlSpec {
    name: String,
    value: Option<String>,
    absent: bool,
}

/// The module `sysctl`.
#[derive(Debug)]
pub(crate) struct Sysctl;

impl Module for Sysctl {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Sysctl::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for SysctlSpec {
    fn module(&self) -> &'static dyn Module {
        &Sysctl
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
        run(self, context, writer)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }
}

pub(crate) fn resolve(sysctl: &pb::Sysctl) -> Result<SysctlSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = sysctl.name.clone().unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let parts = name.split(['.', '/']);
    if !name.chars().all(fine) || parts.clone().count() < 2 || parts.clone().any(str::is_empty) {
        let problem = Problem::new("name", format!("{name:?} is not a valid name of a kernel setting"));
        problems.push(problem.hint("write the name as sysctl -a shows it, such as net.ipv4.ip_forward"));
    }
    let absent = sysctl.state.as_deref() == Some("absent");
    let value = sysctl.value.as_deref().map(plain);
    if value.is_none() && !absent {
        problems.push(Problem::new("value", "sysctl needs value"));
    }
    if let Some(value) = &value {
        one_line("value", value, &mut problems);
    }
    if value.as_deref() == Some("") {
        problems.push(Problem::new("value", "the value is empty"));
    }
    done(problems)?;
    Ok(SysctlSpec { name, value, absent })
}

/// Returns the value of a kernel setting, with one blank between the words of the value. The kernel separates the words
/// of a value by tabs.
fn plain(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl SysctlSpec {
    /// Returns the path of the file below /etc/sysctl.d that applies the setting at every boot.
    fn file(&self) -> String {
        format!("/etc/sysctl.d/60-towpath-{}.conf", self.name.replace('/', "-"))
    }

    fn text(&self) -> String {
        format!("{} = {}\n", self.name, self.value.as_deref().unwrap_or_default())
    }

    /// Returns the path of the kernel setting below /proc/sys. A dot separates the parts of the name; if the first
    /// separator is a slash, a slash separates all parts (sysctl.d(5)).
    fn place(&self) -> String {
        let slash = self.name.find('/').unwrap_or(usize::MAX);
        if slash < self.name.find('.').unwrap_or(usize::MAX) {
            return self.name.clone();
        }
        self.name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    }

    fn now(&self, context: &Context<'_>) -> Result<Option<String>, ModuleError> {
        let path = format!("/proc/sys/{}", self.place());
        let read = context.reader.read(&path).map_err(|error| ModuleError::io(&path, &error))?;
        Ok(read.map(|(bytes, _)| plain(&String::from_utf8_lossy(&bytes))))
    }

    fn unknown(&self) -> String {
        format!("this kernel has no setting {}; load the kernel module of the setting in an earlier task", self.name)
    }
}

/// The differences between a kernel setting and its desired state: in the file, in the running kernel, or in both.
#[derive(Default)]
struct Missing {
    /// True if the file below /etc/sysctl.d must be written or removed.
    file: bool,
    /// True if the running kernel does not have the desired value.
    kernel: bool,
    diff: String,
}

/// Returns the differences between a kernel setting and its desired state; `None` if the kernel does not have the
/// setting.
fn missing(spec: &SysctlSpec, context: &Context<'_>) -> Result<Option<Missing>, ModuleError> {
    let mut missing = Missing::default();
    let file = spec.file();
    let text = context.reader.read(&file).map_err(|error| ModuleError::io(&file, &error))?.map(|(bytes, _)| bytes);
    let wanted = (!spec.absent).then(|| spec.text().into_bytes());
    if text != wanted {
        missing.file = true;
        missing.diff.push_str(&match wanted {
            Some(_) => format!("{file}: {}", spec.text()),
            None => format!("remove {file}\n"),
        });
    }
    if let Some(value) = &spec.value {
        let Some(now) = spec.now(context)? else { return Ok(spec.absent.then_some(missing)) };
        if now != *value {
            missing.kernel = true;
            missing.diff.push_str(&format!("{}: {now} becomes {value}\n", spec.name));
        }
    }
    Ok(Some(missing))
}

pub(crate) fn check(spec: &SysctlSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("sysctl")?;
    let Some(missing) = missing(spec, context)? else { return Ok(Checked::Unknown(spec.unknown())) };
    if !missing.file && !missing.kernel {
        return Ok(Checked::InSync);
    }
    let verb = if spec.absent { Verb::Remove } else { Verb::Update };
    Ok(Checked::Change(Change { verb, diff: missing.diff, steps: Vec::new() }))
}

pub(crate) fn run(spec: &SysctlSpec, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
    context.needs_whole_root("sysctl")?;
    let missing = missing(spec, context)?.ok_or_else(|| ModuleError::new(spec.unknown()))?;
    // The value is set in the kernel first. A value that the kernel rejects is then not set at every boot.
    if let (true, Some(value)) = (missing.kernel, &spec.value) {
        kernel::set_parameter(&spec.place(), value)
            .map_err(|error| ModuleError::new(format!("cannot set {} = {value}: {error}", spec.name)))?;
        let now = spec.now(context)?.unwrap_or_default();
        if now != *value {
            let what =
                format!("the kernel stored {now} for {} = {value}; write the stored value in the task", spec.name);
            return Err(ModuleError::new(what));
        }
    }
    if missing.file {
        let file = spec.file();
        let io = |error: std::io::Error| ModuleError::io(&file, &error);
        if spec.absent {
            writer.remove(&file).map_err(io)?;
        } else {
            writer.make_directory("/etc/sysctl.d", 0o755).map_err(io)?;
            let access = Access { mode: 0o644, uid: None, gid: None };
            writer.replace(&file, spec.text().as_bytes(), access).map_err(io)?;
        }
    }
    Ok(Report::success())
}

/// Returns parameters that restore the kernel's current value. Returns `None` if Towpath already manages the kernel
/// setting, or if the task removes the kernel setting.
pub(crate) fn undo(spec: &SysctlSpec, context: &Context<'_>) -> Option<Value> {
    if spec.absent || context.reader.exists(&spec.file()).ok()? {
        return None;
    }
    Some(json!({ "name": spec.name, "value": spec.now(context).ok()??, "state": "absent" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_separator_of_a_name_decides() {
        let place = |name: &str| {
            let sysctl = pb::Sysctl { name: Some(name.into()), value: Some("1".into()), ..pb::Sysctl::default() };
            resolve(&sysctl).unwrap().place()
        };
        assert_eq!(place("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(place("net.ipv4.conf.eth0/100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(place("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }

    #[test]
    fn name_outside_of_the_settings_is_refused() {
        for name in ["../../etc/passwd", "net..ipv4", "/net.ipv4", "net", "net.ipv4\n"] {
            let sysctl = pb::Sysctl { name: Some(name.into()), value: Some("1".into()), ..pb::Sysctl::default() };
            assert!(resolve(&sysctl).is_err(), "{name:?}");
        }
    }
}
