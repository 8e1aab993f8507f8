//! The module `timezone` sets the time zone of the machine.

use std::sync::Arc;

use serde_json::{Value, json};
use towpath_host::files::Access;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Change, Checked, Content, Context, Module, ModuleError, Resolved, Resource, Step, Verb,
    params::{Problem, done, parse},
    resource::resource,
};

const LOCALTIME: &str = "/etc/localtime";
const ZONES: &str = "/usr/share/zoneinfo";

/// The resolved parameters of the module `timezone`.
#[derive(Debug)]
struct TimezoneSpec {
    name: String,
}

/// The module `timezone`.
#[derive(Debug)]
pub(crate) struct Timezone;

impl Module for Timezone {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Timezone::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for TimezoneSpec {
    fn module(&self) -> &'static dyn Module {
        &Timezone
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        compare(self, context)
    }

    /// Returns parameters that restore the current time zone; `None` if the machine has no time zone setting.
    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        let target = context.reader.link(LOCALTIME).ok()??;
        Some(json!({ "name": target.split("zoneinfo/").nth(1)? }))
    }

    fn path(&self) -> Option<&str> {
        Some(LOCALTIME)
    }

    fn watched_paths(&self, _context: &Context<'_>) -> Vec<String> {
        Vec::new()
    }
}

fn resolve(timezone: &pb::Timezone) -> Result<TimezoneSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = timezone.name.clone().unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    if name.is_empty() || name.starts_with('/') || !name.chars().all(fine) {
        problems.push(Problem::new("name", format!("{name:?} is not a time zone")).hint("such as Europe/Berlin"));
    }
    done(problems)?;
    Ok(TimezoneSpec { name })
}

fn compare(timezone: &TimezoneSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let zone = format!("{ZONES}/{}", timezone.name);
    let io = |error: std::io::Error| ModuleError::io(LOCALTIME, &error);
    let target = context.reader.link(LOCALTIME).map_err(io)?;
    let now = target.as_deref().and_then(|target| target.split("zoneinfo/").nth(1)).unwrap_or("none").to_owned();
    if now == timezone.name {
        return Ok(Checked::InSync);
    }
    if !context.reader.exists(&zone).map_err(io)? {
        let what = format!("this node has no time zone {} below {ZONES}", timezone.name);
        return Err(ModuleError::new(format!("{what}; install the package tzdata in an earlier task")));
    }
    let mut steps = vec![Step::Link { path: LOCALTIME.into(), target: format!("..{zone}") }];
    // Debian also stores the name of the time zone in this file.
    if let Some((old, meta)) = context.reader.read("/etc/timezone").map_err(io)? {
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
