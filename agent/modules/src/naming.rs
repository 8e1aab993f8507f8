//! `hostname` and `timezone`: the name and the time zone of the machine.

use std::sync::Arc;

use serde_json::{Value, json};
use towpath_host::{files::Access, process};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Content, Context, ModuleError, Report, Step, Verb,
    resolve::{Problem, done},
};

const HOSTNAME: &str = "/etc/hostname";
const LOCALTIME: &str = "/etc/localtime";
const ZONES: &str = "/usr/share/zoneinfo";

/// A host name.
#[derive(Debug, Clone)]
pub struct Hostname {
    name: String,
}

pub(crate) fn resolve_hostname(hostname: &pb::Hostname) -> Result<Hostname, Vec<Problem>> {
    let name = hostname.name.clone().unwrap_or_default();
    let label = |label: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(fine) && !label.starts_with('-')
    };
    if name.len() > 64 || !name.split('.').all(label) {
        let problem =
            Problem::new("name", format!("{name:?} is no host name")).hint("letters, digits and -, parts by dots");
        return Err(vec![problem]);
    }
    Ok(Hostname { name })
}

fn written(context: &Context<'_>) -> Result<String, ModuleError> {
    let read = context.look.read(HOSTNAME).map_err(|error| ModuleError::io(HOSTNAME, &error))?;
    Ok(read.map(|(bytes, _)| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default())
}

pub(crate) fn check_hostname(hostname: &Hostname, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("hostname")?;
    let (file, now) = (written(context)?, process::hostname());
    if file == hostname.name && now == hostname.name {
        return Ok(Checked::InSync);
    }
    let diff = format!("the host name {now} becomes {}\n", hostname.name);
    Ok(Checked::Change(Change { verb: Verb::Update, diff, steps: Vec::new() }))
}

pub(crate) fn set_hostname(
    hostname: &Hostname,
    context: &Context<'_>,
    hand: &towpath_host::Hand,
) -> Result<Report, ModuleError> {
    context.needs_whole_root("hostname")?;
    let access = Access { mode: 0o644, uid: None, gid: None };
    let text = format!("{}\n", hostname.name);
    hand.replace(HOSTNAME, text.as_bytes(), access).map_err(|error| ModuleError::io(HOSTNAME, &error))?;
    process::set_hostname(&hostname.name).map_err(|error| {
        ModuleError::new(format!("the kernel does not take the host name {}: {error}", hostname.name))
    })?;
    Ok(Report::well())
}

/// Returns the parameters that restore the current host name. `None` if /etc/hostname has none.
pub(crate) fn undo_hostname(context: &Context<'_>) -> Option<Value> {
    let name = written(context).ok().filter(|name| !name.is_empty())?;
    Some(json!({ "name": name }))
}

/// A time zone.
#[derive(Debug, Clone)]
pub struct Timezone {
    name: String,
}

pub(crate) fn resolve_timezone(timezone: &pb::Timezone) -> Result<Timezone, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = timezone.name.clone().unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    if name.is_empty() || name.starts_with('/') || !name.chars().all(fine) {
        problems.push(Problem::new("name", format!("{name:?} is no time zone")).hint("such as Europe/Berlin"));
    }
    done(problems)?;
    Ok(Timezone { name })
}

impl Timezone {
    /// Returns the path of the link that selects the zone.
    pub fn path(&self) -> &'static str {
        LOCALTIME
    }
}

pub(crate) fn check_timezone(timezone: &Timezone, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let zone = format!("{ZONES}/{}", timezone.name);
    let io = |error: std::io::Error| ModuleError::io(LOCALTIME, &error);
    let target = context.look.link(LOCALTIME).map_err(io)?;
    let now = target.as_deref().and_then(|target| target.split("zoneinfo/").nth(1)).unwrap_or("none").to_owned();
    if now == timezone.name {
        return Ok(Checked::InSync);
    }
    if !context.look.exists(&zone).map_err(io)? {
        let what = format!("this node has no time zone {} below {ZONES}", timezone.name);
        return Err(ModuleError::new(format!("{what}; install the package tzdata before this task")));
    }
    let mut steps = vec![Step::Link { path: LOCALTIME.into(), target: format!("..{zone}") }];
    // Debian also keeps the name of the zone in this file.
    if let Some((old, meta)) = context.look.read("/etc/timezone").map_err(io)? {
        let text = format!("{}\n", timezone.name);
        if old != text.as_bytes() {
            steps.push(Step::Write {
                path: "/etc/timezone".into(),
                content: Content::Bytes(Arc::from(text.into_bytes())),
                access: Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) },
                validate: None,
                backup: false,
                expects: Some(meta.version),
            });
        }
    }
    let diff = format!("the time zone {now} becomes {}\n", timezone.name);
    Ok(Checked::Change(Change { verb: Verb::Update, diff, steps }))
}

/// Returns the parameters that restore the current time zone. `None` if no zone is set.
pub(crate) fn undo_timezone(context: &Context<'_>) -> Option<Value> {
    let target = context.look.link(LOCALTIME).ok()??;
    Some(json!({ "name": target.split("zoneinfo/").nth(1)? }))
}
