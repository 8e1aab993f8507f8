//! `package`: packages of the distribution.
//!
//! The installed packages are read from the package database and cached for all tasks. Changes go through PackageKit.
//! If PackageKit is missing or hangs, apt or dnf is used.

mod backend;
mod database;
mod simulation;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Context, ModuleError, Report, Verb,
    resolve::{Problem, done},
};
use backend::How;
pub use database::Database;
use database::Packages;
use simulation::Named;

/// Packages and their desired state.
#[derive(Debug, Clone)]
pub struct Options {
    names: Vec<String>,
    state: State,
    version: Option<String>,
    hold: Option<bool>,
    backend: Backend,
    conffiles: Conffiles,
    replaces: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Present,
    Absent,
    Latest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Auto,
    PackageKit,
    Apt,
    Dnf,
}

/// The treatment of configuration files that the administrator has changed, if a new package version changes them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conffiles {
    Keep,
    Replace,
}

impl Conffiles {
    /// Returns the flags for dpkg (dpkg(1), force-things).
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Keep => &["--force-confdef", "--force-confold"],
            Self::Replace => &["--force-confnew"],
        }
    }
}

pub(crate) fn resolve(package: pb::Package) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    if package.name.is_some() != package.names.is_empty() {
        problems.push(Problem::new("name", "write name, or names"));
    }
    let state = match package.state.as_deref() {
        Some("absent") => State::Absent,
        Some("latest") => State::Latest,
        _ => State::Present,
    };
    if package.version.is_some() && state != State::Present {
        let state = package.state.as_deref().unwrap_or_default();
        problems.push(Problem::new("version", format!("a version does not go with state: {state}")));
    }
    let names: Vec<String> = package.name.into_iter().chain(package.names).collect();
    if package.version.is_some() && names.len() > 1 {
        problems.push(Problem::new("version", "one version for several packages can't be meant"));
    }
    if package.hold.is_some() && state == State::Absent {
        problems.push(Problem::new("hold", "what is absent can't be held"));
    }
    if !package.replaces.is_empty() && state == State::Absent {
        problems.push(Problem::new("replaces", "what is absent replaces nothing"));
    }
    for name in names.iter().chain(&package.replaces) {
        let fine = |c: char| c.is_ascii_alphanumeric() || "+-._:".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(fine) {
            problems.push(Problem::new("name", format!("{name:?} is no name of a package")));
        }
    }
    let backend = match package.backend.as_deref() {
        Some("packagekit") => Backend::PackageKit,
        Some("apt") => Backend::Apt,
        Some("dnf") => Backend::Dnf,
        _ => Backend::Auto,
    };
    let conffiles = if package.conffiles.as_deref() == Some("replace") { Conffiles::Replace } else { Conffiles::Keep };
    if conffiles == Conffiles::Replace && matches!(backend, Backend::PackageKit | Backend::Dnf) {
        let problem = Problem::new("conffiles", "only apt replaces them");
        problems.push(problem.hint("leave backend out, or set it to apt"));
    }
    done(problems)?;
    Ok(Options {
        names,
        state,
        version: package.version,
        hold: package.hold,
        backend,
        conffiles,
        replaces: package.replaces,
    })
}

/// The packages to change, by kind of change.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    install: Vec<String>,
    upgrade: Vec<String>,
    remove: Vec<String>,
    hold: Vec<String>,
    unhold: Vec<String>,
}

impl Missing {
    fn append(&mut self, other: Self) {
        self.install.extend(other.install);
        self.upgrade.extend(other.upgrade);
        self.remove.extend(other.remove);
        self.hold.extend(other.hold);
        self.unhold.extend(other.unhold);
    }
}

impl Options {
    /// Returns the names of the packages.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns true if two uses can share a transaction.
    ///
    /// Installing and removing are not combined: a tool would choose the order, but the book defines one. A version
    /// needs flags that must not apply to other packages.
    pub(crate) fn goes_with(&self, other: &Self) -> bool {
        let brings = |options: &Self| options.state != State::Absent;
        let any = |options: &Self| options.version.is_none();
        let same = (self.backend, self.conffiles) == (other.backend, other.conffiles);
        same && brings(self) == brings(other) && any(self) && any(other)
    }

    /// Returns the newest available versions; empty unless the state is `latest`.
    fn newest(&self, context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
        if self.state == State::Latest { backend::newest(self, context) } else { Ok(BTreeMap::new()) }
    }

    fn missing(&self, installed: &Packages, newest: &BTreeMap<String, String>) -> Missing {
        let mut missing = Missing::default();
        for name in &self.names {
            let known = installed.get(name);
            match (self.state, known) {
                (State::Absent, Some(_)) => missing.remove.push(name.clone()),
                (State::Absent, None) => {}
                (_, None) => missing.install.push(name.clone()),
                (_, Some(known)) if !known.whole => missing.install.push(name.clone()),
                (State::Latest, Some(known)) if newest.get(name).is_some_and(|newest| *newest != known.version) => {
                    missing.upgrade.push(name.clone());
                }
                (State::Present, Some(known)) if self.version.as_ref().is_some_and(|wanted| !known.is(wanted)) => {
                    missing.install.push(name.clone());
                }
                _ => {}
            }
            match self.hold {
                Some(true) if known.is_none_or(|known| !known.held) => missing.hold.push(name.clone()),
                Some(false) if known.is_some_and(|known| known.held) => missing.unhold.push(name.clone()),
                _ => {}
            }
        }
        missing
    }

    fn diff(&self, missing: &Missing, installed: &Packages, newest: &BTreeMap<String, String>) -> String {
        let mut diff = String::new();
        let version = |name: &String| installed.get(name).map(|known| known.version.clone());
        for name in &missing.install {
            let wanted = self.version.as_ref().map(|wanted| format!(" {wanted}")).unwrap_or_default();
            diff.push_str(&match version(name) {
                Some(old) => format!("{name} {old} becomes{wanted}\n"),
                None => format!("install {name}{wanted}\n"),
            });
        }
        for name in &missing.upgrade {
            let (old, new) = (version(name).unwrap_or_default(), newest.get(name).cloned().unwrap_or_default());
            diff.push_str(&format!("{name} {old} becomes {new}\n"));
        }
        for name in &missing.remove {
            diff.push_str(&format!("remove {name} {}\n", version(name).unwrap_or_default()));
        }
        missing.hold.iter().for_each(|name| diff.push_str(&format!("hold {name}\n")));
        missing.unhold.iter().for_each(|name| diff.push_str(&format!("do not hold {name} any more\n")));
        diff
    }
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("package")?;
    let installed = context.memory.packages.read(options, context)?;
    let newest = options.newest(context)?;
    let missing = options.missing(&installed, &newest);
    if missing == Missing::default() {
        return Ok(Checked::InSync);
    }
    let verb = match (missing.remove.is_empty(), missing.install.is_empty()) {
        (false, _) => Verb::Remove,
        (true, false) if missing.install.iter().all(|name| !installed.contains_key(name)) => Verb::Create,
        _ => Verb::Update,
    };
    Ok(Checked::Change(Change { verb, diff: options.diff(&missing, &installed, &newest), steps: Vec::new() }))
}

/// Returns the parameters that remove the packages that are not installed yet. `None` if there are none.
pub(crate) fn undo(options: &Options, context: &Context<'_>) -> Option<Value> {
    let installed = context.memory.packages.read(options, context).ok()?;
    let new: Vec<&String> = options.names.iter().filter(|name| !installed.contains_key(*name)).collect();
    (options.state != State::Absent && !new.is_empty()).then(|| json!({ "names": new, "state": "absent" }))
}

pub(crate) fn run(options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    together(&[options], context).map(|()| Report::well())
}

/// Returns true if the dpkg database shows the desired state although the tool failed. Always false for rpm, whose
/// database does not show unfinished installations.
fn all_there(uses: &[&Options], context: &Context<'_>) -> Result<bool, ModuleError> {
    if uses.iter().any(|options| options.backend == Backend::Dnf) || !backend::debian(context) {
        return Ok(false);
    }
    for options in uses {
        let installed = context.memory.packages.read(options, context)?;
        let missing = options.missing(&installed, &options.newest(context)?);
        if !(missing.install.is_empty() && missing.upgrade.is_empty() && missing.remove.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Applies several uses, in one transaction if the backend allows it.
pub(crate) fn together(uses: &[&Options], context: &Context<'_>) -> Result<(), ModuleError> {
    context.needs_whole_root("package")?;
    let Some(first) = uses.first() else { return Ok(()) };
    let installed = context.memory.packages.read(first, context)?;
    let mut missing = Missing::default();
    for options in uses {
        missing.append(options.missing(&installed, &options.newest(context)?));
    }
    let held = missing.remove.iter().filter(|name| installed.get(*name).is_some_and(|known| known.held)).cloned();
    let unhold: Vec<String> = missing.unhold.iter().cloned().chain(held).collect();
    if !unhold.is_empty() {
        backend::mark("unhold", &unhold, context)?;
    }
    let changes = !missing.install.is_empty() || !missing.upgrade.is_empty() || !missing.remove.is_empty();
    if changes {
        // apt handles packages of another architecture and half-installed ones; PackageKit has no names for them.
        let odd = |name: &String| name.contains(':') || installed.get(name).is_some_and(|known| !known.whole);
        let plain = !uses.iter().flat_map(|options| &options.names).any(odd);
        let named = Named {
            wanted: missing.install.iter().chain(&missing.upgrade).cloned().collect(),
            replaces: uses.iter().flat_map(|options| options.replaces.iter().cloned()).collect(),
            native: database::native(&installed).map(str::to_owned),
        };
        let how =
            How { backend: first.backend, version: first.version.clone(), plain, conffiles: first.conffiles, named };
        if let Err(error) = backend::change(&missing, &how, context) {
            // apt also fails because of broken packages that are not part of this task.
            if !all_there(uses, context)? {
                return Err(error);
            }
            tracing::warn!("the packages of the task are as they should be, though: {error}");
        }
    }
    if !missing.hold.is_empty() {
        backend::mark("hold", &missing.hold, context)?;
    }
    // A tool can report success without having done everything, so the database is read again.
    let installed = context.memory.packages.read(first, context)?;
    let left = |options: &&Options| {
        let left = options.missing(&installed, &BTreeMap::new());
        (left != Missing::default()).then(|| options.diff(&left, &installed, &BTreeMap::new()))
    };
    match uses.iter().filter_map(left).collect::<String>() {
        nothing if nothing.is_empty() => Ok(()),
        what => Err(ModuleError::new(format!("it ended well, and this is still to be done: {}", what.trim()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const STATUS: &str = "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22.1-9\nConffiles:\n /etc/nginx/nginx.conf 123\nDescription: web\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: kept\nStatus: hold ok installed\nArchitecture: all\nVersion: 2\n\nPackage: half\nStatus: install ok half-configured\nVersion: 3\n";

    fn missing(params: Value) -> Missing {
        resolve(serde_json::from_value(params).unwrap())
            .unwrap()
            .missing(&database::dpkg(STATUS), &[("nginx".into(), "1.24".into())].into())
    }

    #[test]
    fn what_is_missing() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(missing(json!({"name": "nginx"})), Missing::default());
        assert_eq!(missing(json!({"name": "half", "state": "absent"})).remove, names(&["half"]));
        assert_eq!(missing(json!({"names": ["nginx", "gone", "half"]})).install, names(&["gone", "half"]));
        assert_eq!(missing(json!({"name": "nginx", "version": "2"})).install, names(&["nginx"]));
        assert_eq!(missing(json!({"name": "nginx", "state": "latest"})).upgrade, names(&["nginx"]));
        assert_eq!(missing(json!({"name": "nginx", "state": "absent"})).remove, names(&["nginx"]));
        assert_eq!(missing(json!({"name": "nginx", "hold": true})).hold, names(&["nginx"]));
        assert_eq!(missing(json!({"name": "kept", "hold": false})).unhold, names(&["kept"]));
    }

    #[test]
    fn what_goes_into_one_transaction() {
        let goes = |one: Value, other: Value| {
            let [one, other] = [one, other].map(|params| resolve(serde_json::from_value(params).unwrap()).unwrap());
            assert_eq!(one.goes_with(&other), other.goes_with(&one));
            one.goes_with(&other)
        };
        assert!(goes(json!({"name": "a"}), json!({"names": ["b", "c"], "state": "latest", "hold": true})));
        assert!(goes(json!({"name": "a", "state": "absent"}), json!({"name": "b", "state": "absent"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "state": "absent"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "version": "1"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "backend": "apt"})));
    }

    #[test]
    fn parameters_that_do_not_fit_are_told() {
        for (params, key) in [
            (json!({}), "name"),
            (json!({"name": "a", "names": ["b"]}), "name"),
            (json!({"name": "a", "version": "1", "state": "latest"}), "version"),
            (json!({"names": ["a", "b"], "version": "1"}), "version"),
            (json!({"name": "a", "conffiles": "replace", "backend": "dnf"}), "conffiles"),
            (json!({"name": "-rf"}), "name"),
            (json!({"name": "a b"}), "name"),
        ] {
            let problems = resolve(serde_json::from_value(params.clone()).unwrap()).unwrap_err();
            assert_eq!(problems[0].key, key, "{params}");
        }
    }
}
