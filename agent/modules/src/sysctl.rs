//! `sysctl`: a setting of the kernel, now and at every boot (sysctl.d(5)).

use serde_json::{Value, json};
use towpath_host::{Hand, files::Access, process};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Context, ModuleError, Report, Verb,
    resolve::{Problem, done, one_line},
};

/// A setting.
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

/// A value with one blank between its words, as the kernel's tabs mean it too.
fn plain(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Options {
    /// The file that says it at every boot.
    fn file(&self) -> String {
        format!("/etc/sysctl.d/60-towpath-{}.conf", self.name.replace('/', "-"))
    }

    fn text(&self) -> String {
        format!("{} = {}\n", self.name, self.value.as_deref().unwrap_or_default())
    }

    /// Where the kernel shows it, below /proc/sys: as sysctl.d(5) says, the first separator decides.
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

/// What is missing.
#[derive(Default)]
struct Missing {
    /// The file is to be written or removed.
    file: bool,
    /// The kernel is to be told.
    kernel: bool,
    diff: String,
}

/// None where the kernel does not have the setting.
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
    // The kernel first: a value that it does not take is not said again at every boot.
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

/// The parameters that give the kernel its value of now back, where Towpath has not set it before.
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
