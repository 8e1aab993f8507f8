//! `sysctl`: a kernel setting, now and at every boot (sysctl.d(5)).

use serde_json::{Value, json};
use towpath_host::{Hand, files::Access, process};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Context, ModuleError, Report, Verb,
    resolve::{Problem, done, one_line},
};

/// A kernel setting and its desired value.
#[derive(Debug, Clone)]
pub struct Options {
    name: String,
    value: Option<String>,
    absent: bool,
}

pub(crate) fn resolve(sysctl: &pb::Sysctl) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = sysctl.name.clone().unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let parts = name.split(['.', '/']);
    if !name.chars().all(fine) || parts.clone().count() < 2 || parts.clone().any(str::is_empty) {
        let problem = Problem::new("name", format!("{name:?} is no setting of the kernel"));
        problems.push(problem.hint("write it as sysctl -a does, such as net.ipv4.ip_forward"));
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
    Ok(Options { name, value, absent })
}

/// Returns a value with single blanks between its words. The kernel separates words by tabs.
fn plain(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Options {
    /// Returns the path of the file that sets the value at every boot.
    fn file(&self) -> String {
        format!("/etc/sysctl.d/60-towpath-{}.conf", self.name.replace('/', "-"))
    }

    fn text(&self) -> String {
        format!("{} = {}\n", self.name, self.value.as_deref().unwrap_or_default())
    }

    /// Returns the path of the setting below /proc/sys. The first separator in the name decides its spelling
    /// (sysctl.d(5)).
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
        let read = context.look.read(&path).map_err(|error| ModuleError::io(&path, &error))?;
        Ok(read.map(|(bytes, _)| plain(&String::from_utf8_lossy(&bytes))))
    }

    fn unknown(&self) -> String {
        format!("this kernel has no setting {}; load the module that brings it before this task", self.name)
    }
}

/// The differences of a setting.
#[derive(Default)]
struct Missing {
    /// True if the file must be written or removed.
    file: bool,
    /// True if the kernel has another value.
    kernel: bool,
    diff: String,
}

/// Returns the differences. `None` if the kernel lacks the setting and the task is not about to remove it.
fn missing(options: &Options, context: &Context<'_>) -> Result<Option<Missing>, ModuleError> {
    let mut missing = Missing::default();
    let file = options.file();
    let text = context.look.read(&file).map_err(|error| ModuleError::io(&file, &error))?.map(|(bytes, _)| bytes);
    let wanted = (!options.absent).then(|| options.text().into_bytes());
    if text != wanted {
        missing.file = true;
        missing.diff.push_str(&match wanted {
            Some(_) => format!("{file}: {}", options.text()),
            None => format!("remove {file}\n"),
        });
    }
    if let Some(value) = &options.value {
        let Some(now) = options.now(context)? else { return Ok(options.absent.then_some(missing)) };
        if now != *value {
            missing.kernel = true;
            missing.diff.push_str(&format!("{}: {now} becomes {value}\n", options.name));
        }
    }
    Ok(Some(missing))
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("sysctl")?;
    let Some(missing) = missing(options, context)? else { return Ok(Checked::Unknown(options.unknown())) };
    if !missing.file && !missing.kernel {
        return Ok(Checked::InSync);
    }
    let verb = if options.absent { Verb::Remove } else { Verb::Update };
    Ok(Checked::Change(Change { verb, diff: missing.diff, steps: Vec::new() }))
}

pub(crate) fn run(options: &Options, context: &Context<'_>, hand: &Hand) -> Result<Report, ModuleError> {
    context.needs_whole_root("sysctl")?;
    let missing = missing(options, context)?.ok_or_else(|| ModuleError::new(options.unknown()))?;
    // The kernel comes first, so that a value that it rejects is not set at every boot.
    if let (true, Some(value)) = (missing.kernel, &options.value) {
        process::set_kernel(&options.place(), value).map_err(|error| {
            ModuleError::new(format!("the kernel does not take {} = {value}: {error}", options.name))
        })?;
        let now = options.now(context)?.unwrap_or_default();
        if now != *value {
            let what = format!("the kernel made {now} of {} = {value}; write that", options.name);
            return Err(ModuleError::new(what));
        }
    }
    if missing.file {
        let file = options.file();
        let io = |error: std::io::Error| ModuleError::io(&file, &error);
        if options.absent {
            hand.remove(&file).map_err(io)?;
        } else {
            hand.make_directory("/etc/sysctl.d", 0o755).map_err(io)?;
            let access = Access { mode: 0o644, uid: None, gid: None };
            hand.replace(&file, options.text().as_bytes(), access).map_err(io)?;
        }
    }
    Ok(Report::well())
}

/// Returns the parameters that restore the kernel's current value. `None` if Towpath has set it before or the task
/// removes it.
pub(crate) fn undo(options: &Options, context: &Context<'_>) -> Option<Value> {
    if options.absent || context.look.exists(&options.file()).ok()? {
        return None;
    }
    Some(json!({ "name": options.name, "value": options.now(context).ok()??, "state": "absent" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_decides() {
        let place = |name: &str| {
            let sysctl = pb::Sysctl { name: Some(name.into()), value: Some("1".into()), ..pb::Sysctl::default() };
            resolve(&sysctl).unwrap().place()
        };
        assert_eq!(place("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(place("net.ipv4.conf.eth0/100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
        assert_eq!(place("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }

    #[test]
    fn no_name_leads_out_of_the_settings() {
        for name in ["../../etc/passwd", "net..ipv4", "/net.ipv4", "net", "net.ipv4\n"] {
            let sysctl = pb::Sysctl { name: Some(name.into()), value: Some("1".into()), ..pb::Sysctl::default() };
            assert!(resolve(&sysctl).is_err(), "{name:?}");
        }
    }
}
