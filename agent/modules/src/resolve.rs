//! Parameters, templates filled, to options: pure, and called by `validate` for what is literal.

use std::collections::BTreeMap;

use serde_json::Value;
use towpath_proto::v1alpha as pb;
use towpath_render::words;

use crate::{
    account, archive, authorized_key, checkout, command, config, custom, download, edit, file, http, line, mount,
    naming, package, probe, reboot, service, sysctl, unit,
};

/// What a task asks of a module.
#[derive(Debug, Clone)]
pub enum Options {
    /// A file, directory, tree or link.
    File(file::Options),
    /// One line of a file.
    Line(line::Options),
    /// A block of a file.
    Block(crate::block::Options),
    /// A command or a script.
    Command(command::Options),
    /// The state of a unit.
    Service(service::Options),
    /// The file of a unit.
    Unit(unit::Options),
    /// Packages.
    Package(package::Options),
    /// A user or a group.
    Account(account::Options),
    /// One file with a form of its own.
    Config(config::Options),
    /// A key that opens an account.
    AuthorizedKey(authorized_key::Options),
    /// The machine's name.
    Hostname(naming::Hostname),
    /// The machine's time zone.
    Timezone(naming::Timezone),
    /// The files of a repository at one commit.
    Git(file::Options),
    /// One value of a file with a form.
    Edit(edit::Options),
    /// A setting of the kernel.
    Sysctl(sysctl::Options),
    /// A mounted file system.
    Mount(mount::Options),
    /// An archive, unpacked.
    Archive(archive::Options),
    /// A file that comes over https.
    Download(download::Options),
    /// What a program of the source keeps so.
    Custom(custom::Options),
    /// A reboot.
    Reboot(reboot::Options),
    /// A request.
    Http(http::Options),
    /// A wait.
    Wait(probe::Wait),
    /// An assertion.
    Assert(pb::Assert),
    /// A message.
    Debug(pb::Debug),
    /// A module that is carried out elsewhere.
    Elsewhere(&'static str),
}

/// A parameter that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The parameter; empty where several don't fit together.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Resolves the parameters of a module, which have been checked against the schema.
///
/// # Errors
/// Everything that is wrong with them.
pub fn resolve(module: &str, params: &Value) -> Result<Options, Vec<Problem>> {
    match module {
        "file" => file::resolve(&parse(params)?, params).map(Options::File),
        "line" => line::resolve(parse(params)?).map(Options::Line),
        "block" => crate::block::resolve(parse(params)?).map(Options::Block),
        "command" => command::resolve(parse(params)?).map(Options::Command),
        "script" => command::resolve_script(parse(params)?).map(Options::Command),
        "http" => http::resolve(parse(params)?).map(Options::Http),
        "wait" => probe::resolve_wait(&parse(params)?).map(Options::Wait),
        "assert" => parse(params).map(Options::Assert),
        "debug" => parse(params).map(Options::Debug),
        "package" => package::resolve(parse(params)?).map(Options::Package),
        "service" => service::resolve(&parse(params)?).map(Options::Service),
        "unit" => unit::resolve(&parse(params)?).map(Options::Unit),
        "user" => account::resolve_user(parse(params)?).map(Options::Account),
        "sudoers" => config::sudoers(&parse(params)?).map(Options::Config),
        "packageRepository" => config::repository(&parse(params)?).map(Options::Config),
        "authorizedKey" => authorized_key::resolve(&parse(params)?).map(Options::AuthorizedKey),
        "hostname" => naming::resolve_hostname(&parse(params)?).map(Options::Hostname),
        "timezone" => naming::resolve_timezone(&parse(params)?).map(Options::Timezone),
        "group" => account::resolve_group(parse(params)?).map(Options::Account),
        "git" => checkout::resolve(params).map(Options::Git),
        "ini" | "json" | "yaml" | "toml" => edit::resolve(module, params).map(Options::Edit),
        "sysctl" => sysctl::resolve(&parse(params)?).map(Options::Sysctl),
        "mount" => mount::resolve(parse(params)?).map(Options::Mount),
        "archive" => archive::resolve(parse(params)?).map(Options::Archive),
        "download" => download::resolve(parse(params)?).map(Options::Download),
        "custom" => custom::resolve(params).map(Options::Custom),
        "publish" => publish(&parse(params)?).map(|()| Options::Elsewhere("publish")),
        "reboot" => parse(params).map(|reboot| Options::Reboot(reboot::resolve(&reboot))),
        other => Err(vec![Problem::new("", format!("there is no module {other}"))]),
    }
}

fn parse<T: serde::de::DeserializeOwned>(params: &Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(params.clone()).map_err(|error| vec![Problem::new("", error.to_string())])
}

fn publish(publish: &pb::Publish) -> Result<(), Vec<Problem>> {
    if publish.value.is_some() == publish.file.is_some() {
        return Err(vec![Problem::new("value", "write value, or file")]);
    }
    Ok(())
}

pub(crate) fn done(problems: Vec<Problem>) -> Result<(), Vec<Problem>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// A path that a module manages must be absolute and go straight.
pub(crate) fn managed_path(key: &str, path: &str, problems: &mut Vec<Problem>) {
    if !path.starts_with('/') {
        problems.push(Problem::new(key, format!("{path:?} is not absolute")).hint(format!("write /{path}")));
    } else if path.split('/').any(|part| part == "..") {
        problems.push(Problem::new(key, format!("{path:?} has \"..\"")).hint("write the path that is meant"));
    } else if path.contains('\0') {
        problems.push(Problem::new(key, "the path has a NUL character"));
    } else if path.trim_matches('/').is_empty() {
        problems.push(Problem::new(key, "the root itself can't be managed"));
    }
}

/// Refuses what a value that becomes part of one line of a file may not hold: it could write further lines of that file.
pub(crate) fn one_line(key: &str, text: &str, problems: &mut Vec<Problem>) {
    // Line and paragraph separators end a line for some readers; NEL is a control character.
    let found = text.chars().find(|c| c.is_control() && *c != '\t' || matches!(c, '\u{2028}' | '\u{2029}'));
    if let Some(found) = found {
        let what = format!("the value holds the character {found:?}, and it is one line of a file");
        problems.push(Problem::new(key, what).hint("remove line breaks and control characters"));
    }
}

pub(crate) fn mode(key: &str, mode: Option<&str>, problems: &mut Vec<Problem>) -> Option<u32> {
    match words::mode(mode?) {
        Ok(mode) => Some(mode),
        Err(finding) => {
            problems.push(Problem { key: key.to_owned(), message: finding.message, hint: finding.hint });
            None
        }
    }
}

/// The variables of a command's environment.
pub(crate) fn environment(env: BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    for name in env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
        problems.push(Problem::new("env", format!("{name:?} is no name of a variable")));
    }
    env
}
