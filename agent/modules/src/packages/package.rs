//! The module `package` installs, upgrades and removes packages of the distribution.
//!
//! The agent reads the list of installed packages from the package database, and caches the list for all tasks.
//! PackageKit makes the changes. If PackageKit is missing or hangs, the agent uses apt or dnf.

mod backend;
mod database;
mod installed;
mod simulation;
mod spec;
mod tool;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use towpath_host::FsWriter;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use self::{
    backend::BackendChoice,
    database::{Database, debian},
    installed::Packages,
    simulation::Named,
    spec::{Backend, Missing, PackageSpec, State},
};
use crate::{
    BatchKey, Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb, params::parse,
    resource::resource,
};

/// The module `package`.
#[derive(Debug)]
pub(crate) struct Package;

impl Module for Package {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Package::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(spec::resolve(parse(params)?))
    }

    fn apply_batch(
        &self,
        resources: &[&dyn Resource],
        context: &Context<'_>,
        _writer: &FsWriter,
    ) -> Result<(), ModuleError> {
        let packages: Vec<&PackageSpec> = resources.iter().filter_map(|resource| resource.downcast()).collect();
        package_transaction(&packages, context)
    }
}

impl Resource for PackageSpec {
    fn module(&self) -> &'static dyn Module {
        &Package
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        package_transaction(&[self], context).map(|()| Report::success())
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }

    fn parts(&self) -> &[String] {
        &self.names
    }

    /// Returns the key of the task's package transaction; `None` if the task needs a transaction of its own. A
    /// transaction either installs or removes packages, because the TaskBook defines the order of installations and
    /// removals. The agent applies a task with the parameter `version` in a transaction of its own, because the flags
    /// for the version must not affect other packages.
    fn batch(&self) -> Option<BatchKey> {
        let removes = self.state == State::Absent;
        let settings = format!("{:?} {:?} {removes}", self.backend, self.conffiles);
        self.version.is_none().then_some(BatchKey { module: Package.schema().key, settings })
    }
}

fn check(spec: &PackageSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("package")?;
    let installed = context.cache.entry::<Database>().read(spec.backend, context)?;
    let newest = newest(spec, context)?;
    let missing = spec.missing(&installed, &newest);
    if missing == Missing::default() {
        return Ok(Checked::InSync);
    }
    let verb = match (missing.remove.is_empty(), missing.install.is_empty()) {
        (false, _) => Verb::Remove,
        (true, false) if missing.install.iter().all(|name| !installed.contains_key(name)) => Verb::Create,
        _ => Verb::Update,
    };
    Ok(Checked::Change(Change { verb, diff: spec.diff(&missing, &installed, &newest), steps: Vec::new() }))
}

/// Returns parameters that remove the packages that the task installs; `None` if all packages are already installed.
fn undo(spec: &PackageSpec, context: &Context<'_>) -> Option<Value> {
    let installed = context.cache.entry::<Database>().read(spec.backend, context).ok()?;
    let new: Vec<&String> = spec.names.iter().filter(|name| !installed.contains_key(*name)).collect();
    (spec.state != State::Absent && !new.is_empty()).then(|| json!({ "names": new, "state": "absent" }))
}

/// Checks the package database after a package tool has failed. Returns true if all packages have the desired state.
/// For rpm, the result is always false, because the rpm database does not show unfinished installations.
fn all_there(uses: &[&PackageSpec], context: &Context<'_>) -> Result<bool, ModuleError> {
    if uses.iter().any(|spec| spec.backend == Backend::Dnf) || !debian(context) {
        return Ok(false);
    }
    for spec in uses {
        let installed = context.cache.entry::<Database>().read(spec.backend, context)?;
        let missing = spec.missing(&installed, &newest(spec, context)?);
        if !(missing.install.is_empty() && missing.upgrade.is_empty() && missing.remove.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Applies several tasks of the module `package`. If the package tool supports transactions, all packages change in one
/// transaction.
fn package_transaction(uses: &[&PackageSpec], context: &Context<'_>) -> Result<(), ModuleError> {
    context.needs_whole_root("package")?;
    let Some(first) = uses.first() else { return Ok(()) };
    let installed = context.cache.entry::<Database>().read(first.backend, context)?;
    let mut missing = Missing::default();
    for spec in uses {
        missing.append(spec.missing(&installed, &newest(spec, context)?));
    }
    let held = missing.remove.iter().filter(|name| installed.get(*name).is_some_and(|known| known.held)).cloned();
    let unhold: Vec<String> = missing.unhold.iter().cloned().chain(held).collect();
    if !unhold.is_empty() {
        backend::mark("unhold", &unhold, context)?;
    }
    let changes = !missing.install.is_empty() || !missing.upgrade.is_empty() || !missing.remove.is_empty();
    if changes {
        // apt can change packages of another architecture and half-installed packages. PackageKit has no names for such
        // packages.
        let odd = |name: &String| name.contains(':') || installed.get(name).is_some_and(|known| !known.whole);
        let plain = !uses.iter().flat_map(|spec| &spec.names).any(odd);
        let named = Named {
            wanted: missing.install.iter().chain(&missing.upgrade).cloned().collect(),
            replaces: uses.iter().flat_map(|spec| spec.replaces.iter().cloned()).collect(),
            native: database::native(&installed).map(str::to_owned),
        };
        let choice = BackendChoice {
            backend: first.backend,
            version: first.version.clone(),
            plain,
            conffiles: first.conffiles,
            named,
        };
        if let Err(error) = backend::change(&missing, &choice, context) {
            // apt can also fail because of broken packages that are not part of this task.
            if !all_there(uses, context)? {
                return Err(error);
            }
            tracing::warn!("the package tool failed, but the packages have the desired state: {error}");
        }
    }
    if !missing.hold.is_empty() {
        backend::mark("hold", &missing.hold, context)?;
    }
    // A tool can report success without making all changes, so the database is read again.
    let installed = context.cache.entry::<Database>().read(first.backend, context)?;
    let mut left = String::new();
    for spec in uses {
        // The repositories may have a newer version now, so the newest versions are queried again. A failed query is
        // ignored, because the change was made.
        left.push_str(&unfinished(spec, &installed, &newest(spec, context).unwrap_or_default()));
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(ModuleError::new(format!(
        "cannot change the packages: the package tool did not make these changes: {}; run the package tool by hand to \
         find the cause",
        left.trim()
    )))
}

/// Describes the wanted changes that a package transaction has not made. Returns an empty text if the transaction has
/// made all changes.
fn unfinished(spec: &PackageSpec, installed: &Packages, newest: &BTreeMap<String, String>) -> String {
    let left = spec.missing(installed, newest);
    if left == Missing::default() { String::new() } else { spec.diff(&left, installed, newest) }
}

/// Returns the newest version of each package, if the desired state is `latest`. Returns an empty map for any other
/// desired state.
fn newest(spec: &PackageSpec, context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
    if spec.state == State::Latest { backend::newest(spec, context) } else { Ok(BTreeMap::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const STATUS: &str = "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22.1-9\nConffiles:\n /etc/nginx/nginx.conf 123\nDescription: web\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: kept\nStatus: hold ok installed\nArchitecture: all\nVersion: 2\n\nPackage: half\nStatus: install ok half-configured\nVersion: 3\n";

    fn of(params: Value) -> PackageSpec {
        spec::resolve(serde_json::from_value(params).unwrap()).unwrap()
    }

    fn missing(params: Value) -> Missing {
        of(params).missing(&database::dpkg(STATUS), &[("nginx".into(), "1.24".into())].into())
    }

    #[test]
    fn difference_from_the_installed_packages_is_found() {
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
    fn packages_with_the_same_settings_share_a_transaction() {
        let goes = |one: Value, other: Value| {
            let [one, other] = [one, other].map(of);
            let (one, other): (&dyn Resource, &dyn Resource) = (&one, &other);
            assert_eq!(one.can_batch_with(other), other.can_batch_with(one));
            one.can_batch_with(other)
        };
        assert!(goes(json!({"name": "a"}), json!({"names": ["b", "c"], "state": "latest", "hold": true})));
        assert!(goes(json!({"name": "a", "state": "absent"}), json!({"name": "b", "state": "absent"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "state": "absent"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "version": "1"})));
        assert!(!goes(json!({"name": "a"}), json!({"name": "b", "backend": "apt"})));
        assert!(!goes(json!({"name": "a", "version": "1"}), json!({"name": "a", "version": "1"})));
    }

    #[test]
    fn contradicting_parameters_are_problems() {
        for (params, key) in [
            (json!({}), "name"),
            (json!({"name": "a", "names": ["b"]}), "name"),
            (json!({"name": "a", "version": "1", "state": "latest"}), "version"),
            (json!({"names": ["a", "b"], "version": "1"}), "version"),
            (json!({"name": "a", "conffiles": "replace", "backend": "dnf"}), "conffiles"),
            (json!({"name": "-rf"}), "name"),
            (json!({"name": "a b"}), "name"),
        ] {
            let problems = spec::resolve(serde_json::from_value(params.clone()).unwrap()).unwrap_err();
            assert_eq!(problems[0].key, key, "{params}");
        }
    }

    #[test]
    fn upgrade_that_did_not_happen_is_unfinished() {
        let newest = |version: &str| BTreeMap::from([("nginx".to_owned(), version.to_owned())]);
        let installed = database::dpkg(STATUS);
        let latest = of(json!({"name": "nginx", "state": "latest"}));
        assert_eq!(unfinished(&latest, &installed, &newest("1.24")), "nginx 1.22.1-9 becomes 1.24\n");
        assert_eq!(unfinished(&latest, &installed, &newest("1.22.1-9")), "");
        // A held package is not upgraded, and neither is a package without a newer version.
        let held = of(json!({"names": ["kept", "nginx"], "state": "latest"}));
        assert_eq!(unfinished(&held, &installed, &BTreeMap::new()), "");
        let kept = BTreeMap::from([("kept".to_owned(), "3".to_owned())]);
        assert_eq!(unfinished(&held, &installed, &kept), "kept 2 becomes 3\n");
        assert_eq!(unfinished(&of(json!({"name": "gone"})), &installed, &BTreeMap::new()), "install gone\n");
    }
}
