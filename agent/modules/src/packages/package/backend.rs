//! Changes packages with PackageKit, or with apt or dnf if PackageKit is missing or hangs.

use std::{collections::BTreeMap, thread, time::Duration};

use towpath_host::packagekit::{Effect, Found, PackageKit, PackageKitError};

use super::{
    database::debian,
    simulation::{self, Effects, Named},
    spec::{Backend, Conffiles, Missing, PackageSpec},
    tool::{Deadline, check_status, run_tool, run_until},
};
use crate::{Context, ModuleError};

/// The settings for a change of packages: the backend, the version and the allowed side effects.
#[derive(Debug, Clone)]
pub(super) struct BackendChoice {
    pub(super) backend: Backend,
    /// The version to install; `None` if the task does not set a version.
    pub(super) version: Option<String>,
    /// True if PackageKit can change all packages of the task. PackageKit can change neither half-installed packages
    /// nor packages of another architecture.
    pub(super) plain: bool,
    /// The parameter `conffiles`: an upgrade keeps or replaces configuration files that were changed on the node.
    pub(super) conffiles: Conffiles,
    /// The packages that the task names. The installation may remove or downgrade only these packages.
    pub(super) named: Named,
}

/// Returns the newest version of each package in the package repositories.
pub(super) fn newest(spec: &PackageSpec, context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
    if spec.backend == Backend::Dnf || !debian(context) {
        return newest_rpm(&spec.names, context);
    }
    let mut argv = vec!["apt-cache", "policy"];
    argv.extend(spec.names.iter().map(String::as_str));
    let output = run_tool(&argv, context)?;
    check_status("apt-cache policy", &output)?;
    let mut newest = BTreeMap::new();
    let mut at = String::new();
    for line in output.stdout.lines() {
        match line.trim().split_once(": ") {
            Some(("Candidate", version)) if version != "(none)" => drop(newest.insert(at.clone(), version.to_owned())),
            _ if !line.starts_with(' ') => at = line.trim_end_matches(':').to_owned(),
            _ => {}
        }
    }
    Ok(newest)
}

fn newest_rpm(names: &[String], context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
    let mut argv = vec!["dnf", "-q", "repoquery", "--latest-limit=1", "--qf", "%{name}\t%{version}-%{release}\n"];
    argv.extend(names.iter().map(String::as_str));
    let output = run_tool(&argv, context)?;
    check_status("dnf repoquery", &output)?;
    let pair = |line: &str| line.split_once('\t').map(|(name, version)| (name.to_owned(), version.to_owned()));
    Ok(output.stdout.lines().filter_map(pair).collect())
}

/// Makes the changes in `missing`: installations, upgrades and removals of packages.
pub(super) fn change(missing: &Missing, choice: &BackendChoice, context: &Context<'_>) -> Result<(), ModuleError> {
    let deadline = Deadline::of(context);
    // On some systems, PackageKit cannot find a version by name. PackageKit also keeps changed configuration files.
    let try_packagekit = match choice.backend {
        Backend::PackageKit => true,
        Backend::Auto => choice.version.is_none() && choice.plain && choice.conffiles == Conffiles::Keep,
        Backend::Apt | Backend::Dnf => false,
    };
    if try_packagekit {
        match patiently(missing, &choice.named, deadline, context) {
            Ok(()) => return Ok(()),
            Err(error @ (PackageKitError::Missing(_) | PackageKitError::Hangs(_)))
                if choice.backend == Backend::Auto =>
            {
                tracing::info!("using apt or dnf instead of PackageKit: {error}");
            }
            Err(error) => return Err(ModuleError::new(error.to_string())),
        }
    }
    if choice.conffiles == Conffiles::Replace && !debian(context) {
        return Err(ModuleError::new("conffiles: replace works only with dpkg; leave conffiles out on this node"));
    }
    match choice.backend {
        Backend::Dnf => dnf(missing, choice, deadline, context),
        Backend::Auto if !debian(context) => dnf(missing, choice, deadline, context),
        _ => apt(missing, choice, deadline, context),
    }
}

/// The time between two attempts to change packages while another process holds the lock of the package database.
const PAUSE: Duration = Duration::from_secs(2);

/// Changes packages with PackageKit. While another process holds the lock of the package database, the agent retries,
/// because PackageKit does not wait.
fn patiently(
    missing: &Missing,
    named: &Named,
    deadline: Deadline,
    context: &Context<'_>,
) -> Result<(), PackageKitError> {
    let mut first = true;
    loop {
        match by_packagekit(missing, named, deadline, context) {
            Err(PackageKitError::Failed(why))
                if why.contains("get lock")
                    && deadline.left() > deadline.least + PAUSE
                    && !context.cancel.is_cancelled() =>
            {
                if std::mem::take(&mut first) {
                    tracing::info!("waiting for the lock of the package database: {why}");
                }
                context.report_progress("waiting for the lock of the package database");
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn by_packagekit(
    missing: &Missing,
    named: &Named,
    deadline: Deadline,
    context: &Context<'_>,
) -> Result<(), PackageKitError> {
    let say = |text: &str| context.report_progress(text);
    let kit = PackageKit::connect(&say, deadline.left())?;
    let done = transactions(&kit, missing, named);
    kit.quit();
    done
}

fn transactions(kit: &PackageKit<'_>, missing: &Missing, named: &Named) -> Result<(), PackageKitError> {
    let allow = |found: Vec<Found>| {
        let names = |effect| found.iter().filter(|package| package.effect == Some(effect)).map(full_name).collect();
        let effects =
            Effects { removed: names(Effect::Removed), downgraded: names(Effect::Downgraded), held: Vec::new() };
        named.allow(&effects).map_err(|error| PackageKitError::Failed(error.message))
    };
    let ids = |names: &[String], installed: bool| -> Result<Vec<String>, PackageKitError> {
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut found = kit.resolve(&asked)?;
        if !installed && names.iter().any(|name| !found.iter().any(|package| package.name == *name)) {
            // The cached package lists may be older than the package.
            kit.refresh()?;
            found = kit.resolve(&asked)?;
        }
        names
            .iter()
            .map(|name| {
                let fits = |package: &&Found| package.name == *name && package.installed == installed;
                // PackageKit lists the newest version last.
                let id = found.iter().rfind(fits).map(|package| package.id.clone());
                id.ok_or_else(|| {
                    PackageKitError::Failed(format!("cannot find the package {name} in the repositories of this node"))
                })
            })
            .collect()
    };
    if !missing.remove.is_empty() {
        let ids = ids(&missing.remove, true)?;
        kit.remove(&ids.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    if !missing.install.is_empty() {
        let ids = ids(&missing.install, false)?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        allow(kit.simulate_install(&ids)?)?;
        kit.install(&ids)?;
    }
    if !missing.upgrade.is_empty() {
        let ids = ids(&missing.upgrade, false)?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        allow(kit.simulate_update(&ids)?)?;
        kit.update(&ids)?;
    }
    Ok(())
}

/// Returns the name of a package with its architecture, such as `libc6:amd64`.
fn full_name(package: &Found) -> String {
    format!("{}:{}", package.name, package.arch)
}

/// Changes packages with apt-get. If another process holds the lock of the package database, apt-get waits for the
/// lock.
fn apt(
    missing: &Missing,
    choice: &BackendChoice,
    deadline: Deadline,
    context: &Context<'_>,
) -> Result<(), ModuleError> {
    let lock = || {
        let seconds = deadline.left().saturating_sub(deadline.least).as_secs().max(1);
        format!("DPkg::Lock::Timeout={seconds}")
    };
    let run_tool = |argv: &[&str]| run_until(argv, deadline, context);
    let conffiles = choice.conffiles.flags();
    let options = conffiles.iter().flat_map(|flag| ["-o".to_owned(), format!("Dpkg::Options::={flag}")]);
    let options: Vec<String> = options.collect();
    let call = |verb: &str, more: &[&str], names: &[String]| {
        deadline.allows("apt-get")?;
        let lock = lock();
        let mut argv = vec!["apt-get", "-y", "-q"];
        argv.extend(options.iter().map(String::as_str));
        // Dependencies of removed packages stay, even if the machine is configured to remove them.
        argv.extend(["-o", "APT::Get::AutomaticRemove=false", "-o", &lock, verb]);
        argv.extend(more);
        argv.push("--");
        argv.extend(names.iter().map(String::as_str));
        run_tool(&argv)
    };
    if !missing.remove.is_empty() {
        let simulated = call("remove", &["--simulate"], &missing.remove)?;
        check_status("apt-get remove", &simulated)?;
        let removed = simulation::apt(&simulated.stdout).removed;
        let others: Vec<String> = removed.into_iter().filter(|name| !choice.named.has(&missing.remove, name)).collect();
        if !others.is_empty() {
            let what = format!("the removal would also remove {}", others.join(", "));
            return Err(ModuleError::new(format!(
                "cannot remove {}: {what}; name the additional packages in the task, or remove the additional packages \
                 in an earlier task",
                missing.remove.join(", ")
            )));
        }
        check_status("apt-get remove", &call("remove", &[], &missing.remove)?)?;
    }
    let mut wanted: Vec<String> = missing.install.iter().chain(&missing.upgrade).cloned().collect();
    if let Some(version) = &choice.version {
        wanted.iter_mut().for_each(|name| *name = format!("{name}={version}"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let more: &[&str] =
        if choice.version.is_some() { &["--allow-downgrades", "--allow-change-held-packages"] } else { &[] };
    let install = || {
        let simulated = call("install", &[more, &["--simulate"]].concat(), &wanted)?;
        if simulated.rc != 0 {
            // The real installation would fail for the same reasons as the simulation.
            return Ok(simulated);
        }
        let effects = simulation::apt(&simulated.stdout);
        choice.named.allow(&effects)?;
        // If the simulation removes nothing, `--no-remove` stays valid even if the package lists change before the
        // installation.
        let kept: &[&str] = if effects.removed.is_empty() { &["--no-remove"] } else { &[] };
        call("install", &[more, kept].concat(), &wanted)
    };
    let mut output = install()?;
    if output.rc != 0 && output.stderr.contains("dpkg was interrupted") {
        deadline.allows("dpkg --configure -a")?;
        let mut argv = vec!["dpkg", "--configure", "-a"];
        argv.extend(conffiles);
        check_status("dpkg --configure -a", &run_tool(&argv)?)?;
        output = install()?;
    }
    let old = ["Unable to locate", "was not found", "no installation candidate", "Failed to fetch", "404"];
    if output.rc != 0 && old.iter().any(|word| output.stderr.contains(word)) {
        // The cached package lists may be older than the package. A list that cannot be fetched is an error here,
        // because the list may contain the package.
        let any = "APT::Update::Error-Mode=any";
        check_status("apt-get update", &run_tool(&["apt-get", "-q", "-o", &lock(), "-o", any, "update"])?)?;
        output = install()?;
    }
    check_status("apt-get install", &output)
}

fn dnf(
    missing: &Missing,
    choice: &BackendChoice,
    deadline: Deadline,
    context: &Context<'_>,
) -> Result<(), ModuleError> {
    let run_tool = |argv: &[&str]| run_until(argv, deadline, context);
    let call = |verb: &str, names: &[String]| {
        deadline.allows("dnf")?;
        // Dependencies of removed packages stay, as with apt.
        let mut argv = vec!["dnf", "-y", "--setopt=clean_requirements_on_remove=False", verb];
        argv.extend(names.iter().map(String::as_str));
        run_tool(&argv)
    };
    let simulate = |verb: &str, names: &[String]| {
        let mut argv = vec!["dnf", "--assumeno", "--setopt=clean_requirements_on_remove=False", verb];
        argv.extend(names.iter().map(String::as_str));
        let output = run_tool(&argv)?;
        let asked = [&output.stdout, &output.stderr].into_iter().any(|text| text.contains("Operation aborted"));
        if !asked {
            check_status(&format!("dnf {verb}"), &output)?;
        }
        choice.named.allow(&simulation::dnf(&output.stdout))
    };
    if !missing.remove.is_empty() {
        // dnf would also remove packages that depend on these. The test of rpm fails instead, and names the packages.
        let mut argv = vec!["rpm", "-e", "--test", "--allmatches"];
        argv.extend(missing.remove.iter().map(String::as_str));
        check_status("rpm -e --test", &run_tool(&argv)?)?;
        check_status("dnf remove", &call("remove", &missing.remove)?)?;
    }
    let mut wanted = missing.install.clone();
    if let Some(version) = &choice.version {
        // A version that is older than the installed version is a downgrade.
        wanted.iter_mut().for_each(|name| *name = format!("{name}-{version}"));
    }
    if !wanted.is_empty() {
        simulate("install", &wanted)?;
        check_status("dnf install", &call("install", &wanted)?)?;
    }
    if !missing.upgrade.is_empty() {
        simulate("upgrade", &missing.upgrade)?;
        check_status("dnf upgrade", &call("upgrade", &missing.upgrade)?)?;
    }
    Ok(())
}

/// Marks packages as held or not held. Upgrades do not change a held package.
pub(super) fn mark(verb: &str, names: &[String], context: &Context<'_>) -> Result<(), ModuleError> {
    if !debian(context) {
        return Err(ModuleError::new("hold works only with dpkg; use the versionlock plugin of dnf"));
    }
    let mut argv = vec!["apt-mark", verb];
    argv.extend(names.iter().map(String::as_str));
    check_status(&format!("apt-mark {verb}"), &run_tool(&argv, context)?)
}
