//! Resolves parameters with filled templates to options, without I/O. `validate` calls it for literal parameters.

use std::collections::BTreeMap;

use serde_json::Value;
use towpath_proto::v1alpha as pb;
use towpath_render::words;

use crate::{
    account, archive, authorized_key, checkout, command, config, custom, download, edit, file, http, line, mount,
    naming, package, probe, reboot, service, sysctl, unit,
};

/// The resolved parameters of a module.
#[derive(Debug, Clone)]
pub enum Options {
    /// A file, directory, tree or link.
    File(file::Options),
    /// One line of a file.
    Line(line::Options),
    /// A marked block of a file.
    Block(crate::block::Options),
    /// A command or a script.
    Command(command::Options),
    /// The state of a unit.
    Service(service::Options),
    /// A unit file.
    Unit(unit::Options),
    /// Packages.
    Package(package::Options),
    /// A user or a group.
    Account(account::Options),
    /// A file with a fixed path and form: sudoers or a package repository.
    Config(config::Options),
    /// An ssh key that is authorized for a user.
    AuthorizedKey(authorized_key::Options),
    /// The host name.
    Hostname(naming::Hostname),
    /// The time zone.
    Timezone(naming::Timezone),
    /// The files of a repository at one commit.
    Git(file::Options),
    /// One value of a structured file.
    Edit(edit::Options),
    /// A kernel setting.
    Sysctl(sysctl::Options),
    /// A mounted file system.
    Mount(mount::Options),
    /// An unpacked archive.
    Archive(archive::Options),
    /// A file that is fetched over https.
    Download(download::Options),
    /// A resource that a program of the source manages.
    Custom(custom::Options),
    /// A reboot.
    Reboot(reboot::Options),
    /// An http request.
    Http(http::Options),
    /// A wait.
    Wait(probe::Wait),
    /// An assertion.
    Assert(pb::Assert),
    /// A message.
    Debug(pb::Debug),
    /// A module that this crate does not implement.
    Elsewhere(&'static str),
}

/// A problem of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of the parameter; empty if several parameters contradict each other.
    pub key: String,
    /// The problem.
    pub message: String,
    /// The remedy.
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

/// Resolves the parameters of a module. The caller has checked them against the schema.
///
/// # Errors
/// All problems of the parameters.
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

/// Checks that a managed path is absolute and has neither `..` nor NUL.
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

/// Rejects control characters and line breaks in a value that becomes part of one line of a file. They could add lines.
pub(crate) fn one_line(key: &str, text: &str, problems: &mut Vec<Problem>) {
    // Some readers end a line at a line or paragraph separator. NEL is a control character.
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

/// Checks the names of a command's environment variables.
pub(crate) fn environment(env: BTreeMap<String, String>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    for name in env.keys().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
        problems.push(Problem::new("env", format!("{name:?} is no name of a variable")));
    }
    env
}
