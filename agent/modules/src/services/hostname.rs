//! The module `hostname` sets the host name of the machine.

use serde_json::{Value, json};
use towpath_host::{FsWriter, files::Access, kernel};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, parse},
    resource::resource,
};

const HOSTNAME: &str = "/etc/hostname";

/// The resolved parameters of the module `hostname`.
#[derive(Debug)]
struct HostnameSpec {
    name: String,
}

/// The module `hostname`.
#[derive(Debug)]
pub(crate) struct Hostname;

impl Module for Hostname {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Hostname::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for HostnameSpec {
    fn module(&self) -> &'static dyn Module {
        &Hostname
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        context.needs_whole_root(Hostname.schema().key)?;
        let (file, now) = (written(context)?, kernel::hostname());
        if file == self.name && now == self.name {
            return Ok(Checked::InSync);
        }
        Ok(Change::direct(Verb::Update, format!("the host name {now} becomes {}\n", self.name)))
    }

    fn apply(&self, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
        context.needs_whole_root(Hostname.schema().key)?;
        let access = Access { mode: 0o644, uid: None, gid: None };
        let text = format!("{}\n", self.name);
        writer.replace(HOSTNAME, text.as_bytes(), access).map_err(|error| ModuleError::io(HOSTNAME, &error))?;
        kernel::set_hostname(&self.name)
            .map_err(|error| ModuleError::new(format!("cannot set the host name {}: {error}", self.name)))?;
        Ok(Report::success())
    }

    /// Returns parameters that restore the current host name; `None` if /etc/hostname contains no host name.
    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        let name = written(context).ok().filter(|name| !name.is_empty())?;
        Some(json!({ "name": name }))
    }
}

fn resolve(hostname: &pb::Hostname) -> Result<HostnameSpec, Vec<Problem>> {
    let name = hostname.name.clone().unwrap_or_default();
    let label = |label: &str| {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(fine) && !label.starts_with('-')
    };
    if name.len() > 64 || !name.split('.').all(label) {
        let problem = Problem::new("name", format!("{name:?} is not a host name"))
            .hint("use letters, digits and -, and separate parts by dots");
        return Err(vec![problem]);
    }
    Ok(HostnameSpec { name })
}

/// Returns the host name in /etc/hostname; empty if the file contains no host name.
fn written(context: &Context<'_>) -> Result<String, ModuleError> {
    let read = context.reader.read(HOSTNAME).map_err(|error| ModuleError::io(HOSTNAME, &error))?;
    Ok(read.map(|(bytes, _)| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default())
}
