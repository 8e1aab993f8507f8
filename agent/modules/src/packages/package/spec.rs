//! The resolved parameters of the module `package`. The agent compares the parameters with the installed packages to
//! find the packages that must change.

use std::collections::BTreeMap;

use towpath_proto::v1alpha as pb;

use super::installed::Packages;
use crate::params::{Problem, done};

/// The resolved parameters of the module `package`: names of packages, and their desired state.
#[derive(Debug, Clone)]
pub(crate) struct PackageSpec {
    pub(super) names: Vec<String>,
    pub(super) state: State,
    pub(super) version: Option<String>,
    pub(super) hold: Option<bool>,
    pub(super) backend: Backend,
    pub(super) conffiles: Conffiles,
    pub(super) replaces: Vec<String>,
}

/// The desired state of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Present,
    Absent,
    Latest,
}

/// The tool that installs packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Auto,
    PackageKit,
    Apt,
    Dnf,
}

/// The version of a configuration file that an upgrade keeps, if an administrator and the new package have both changed
/// the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conffiles {
    Keep,
    Replace,
}

impl Conffiles {
    /// Returns the dpkg flags that keep or replace changed configuration files (dpkg(1), force-things).
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Keep => &["--force-confdef", "--force-confold"],
            Self::Replace => &["--force-confnew"],
        }
    }
}

/// Resolves the parameters of the module `package`.
pub(super) fn resolve(package: pb::Package) -> Result<PackageSpec, Vec<Problem>> {
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
        problems.push(Problem::new("version", format!("`version` cannot be combined with `state: {state}`")));
    }
    let names: Vec<String> = package.name.into_iter().chain(package.names).collect();
    if package.version.is_some() && names.len() > 1 {
        problems.push(Problem::new("version", "version needs exactly one package; write one task for each package"));
    }
    if package.hold.is_some() && state == State::Absent {
        problems.push(Problem::new("hold", "`hold` cannot be combined with `state: absent`"));
    }
    if !package.replaces.is_empty() && state == State::Absent {
        problems.push(Problem::new("replaces", "`replaces` cannot be combined with `state: absent`"));
    }
    for name in names.iter().chain(&package.replaces) {
        let fine = |c: char| c.is_ascii_alphanumeric() || "+-._:".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(fine) {
            problems.push(Problem::new("name", format!("{name:?} is not a valid name of a package")));
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
        let problem = Problem::new("conffiles", "only apt supports conffiles: replace");
        problems.push(problem.hint("leave backend out, or set it to apt"));
    }
    done(problems)?;
    Ok(PackageSpec {
        names,
        state,
        version: package.version,
        hold: package.hold,
        backend,
        conffiles,
        replaces: package.replaces,
    })
}

/// The names of the packages to install, to upgrade and to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) install: Vec<String>,
    pub(super) upgrade: Vec<String>,
    pub(super) remove: Vec<String>,
    pub(super) hold: Vec<String>,
    pub(super) unhold: Vec<String>,
}

impl Missing {
    /// Adds the packages of another task to the packages that must change.
    pub(super) fn append(&mut self, other: Self) {
        self.install.extend(other.install);
        self.upgrade.extend(other.upgrade);
        self.remove.extend(other.remove);
        self.hold.extend(other.hold);
        self.unhold.extend(other.unhold);
    }
}

impl PackageSpec {
    /// Returns the packages that do not have the desired state.
    pub(super) fn missing(&self, installed: &Packages, newest: &BTreeMap<String, String>) -> Missing {
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

    /// Describes the changes of packages in a text for people.
    pub(super) fn diff(&self, missing: &Missing, installed: &Packages, newest: &BTreeMap<String, String>) -> String {
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
        missing.unhold.iter().for_each(|name| diff.push_str(&format!("unhold {name}\n")));
        diff
    }
}
