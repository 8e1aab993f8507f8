//! `package`: packages of the distribution. What is installed is read from the package database itself, once for all
//! tasks; changing goes through PackageKit, or through apt or dnf where it is absent or hangs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use towpath_host::{
    FileVersion, Look,
    packagekit::{Found, PackageKit, PackageKitError},
    process::{self, Cancel, Invocation, Output},
};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Context, ModuleError, Report, Verb,
    resolve::{Problem, done},
};

/// Where dpkg keeps what is installed.
const DPKG: &str = "/var/lib/dpkg/status";

/// Packages and how they are to be.
#[derive(Debug, Clone)]
pub struct Options {
    names: Vec<String>,
    state: State,
    version: Option<String>,
    hold: Option<bool>,
    backend: Backend,
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
    for name in &names {
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
    done(problems)?;
    Ok(Options { names, state, version: package.version, hold: package.hold, backend })
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    version: String,
    /// Of rpm: the version without the release, which is as good a name for it.
    plain: Option<String>,
    held: bool,
    /// Whether its installation has come to its end.
    whole: bool,
}

/// What was read of the package database, kept for as long as it does not change.
#[derive(Debug, Default)]
pub struct Database(Mutex<Option<(FileVersion, Arc<Packages>)>>);

type Packages = BTreeMap<String, Installed>;

impl Installed {
    fn is(&self, version: &str) -> bool {
        self.version == version || self.plain.as_deref() == Some(version)
    }
}

impl Database {
    /// The packages that are installed, by name, and by name and architecture.
    fn read(&self, options: &Options, context: &Context<'_>) -> Result<Arc<Packages>, ModuleError> {
        let look: &Look = context.look;
        // Where both are, the backend says whose packages are meant.
        if options.backend == Backend::Dnf {
            return rpm(&options.names, context).map(Arc::new);
        }
        let io = |error: std::io::Error| ModuleError::io(DPKG, &error);
        let Some(meta) = look.meta(DPKG).map_err(io)? else { return rpm(&options.names, context).map(Arc::new) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, packages)) = known.as_ref().filter(|(version, _)| *version == meta.version) {
            let _: &FileVersion = version;
            return Ok(Arc::clone(packages));
        }
        let (bytes, meta) = look.read(DPKG).map_err(io)?.unwrap_or((Vec::new(), meta));
        let packages = Arc::new(dpkg(&String::from_utf8_lossy(&bytes)));
        *known = Some((meta.version, Arc::clone(&packages)));
        Ok(packages)
    }
}

/// Reads the status file of dpkg (deb-control(5), dpkg(1): "want flag status").
fn dpkg(text: &str) -> Packages {
    let mut packages = Packages::new();
    for stanza in text.split("\n\n") {
        let field =
            |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim);
        let (Some(name), Some(status), Some(version)) = (field("Package"), field("Status"), field("Version")) else {
            continue;
        };
        let words: Vec<&str> = status.split(' ').collect();
        if matches!(words.get(2), None | Some(&("not-installed" | "config-files"))) {
            continue;
        }
        let installed = Installed {
            version: version.to_owned(),
            plain: None,
            held: words.first() == Some(&"hold"),
            whole: words.get(2) == Some(&"installed"),
        };
        if let Some(arch) = field("Architecture") {
            packages.insert(format!("{name}:{arch}"), installed.clone());
        }
        packages.insert(name.to_owned(), installed);
    }
    packages
}

/// Asks rpm for some packages.
fn rpm(names: &[String], context: &Context<'_>) -> Result<Packages, ModuleError> {
    let mut argv = vec!["rpm", "-q", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n"];
    argv.extend(names.iter().map(String::as_str));
    let output = run_tool(&argv, context)?;
    let line = |line: &str| {
        let (name, version) = line.split_once('\t')?;
        let plain = version.rsplit_once('-').map(|(plain, _)| plain.to_owned());
        Some((name.to_owned(), Installed { version: version.to_owned(), plain, held: false, whole: true }))
    };
    Ok(output.stdout.lines().filter_map(line).collect())
}

fn run_tool(argv: &[&str], context: &Context<'_>) -> Result<Output, ModuleError> {
    let env = [("DEBIAN_FRONTEND", "noninteractive"), ("LC_ALL", "C"), ("NEEDRESTART_SUSPEND", "1")];
    let invocation = Invocation {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        timeout: Some(context.timeout),
        ..Invocation::default()
    };
    // A package manager that is cut off leaves a database that has to be mended: it comes to its end.
    let output = process::run(&invocation, &Cancel::default())
        .map_err(|error| ModuleError::new(format!("{} can't be run: {error}", argv[0])))?;
    if output.timed_out {
        let seconds = context.timeout.as_secs();
        return Err(ModuleError::new(format!("{} took longer than {seconds} s and was ended", argv[0])));
    }
    Ok(output)
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    install: Vec<String>,
    upgrade: Vec<String>,
    remove: Vec<String>,
    hold: Vec<String>,
    unhold: Vec<String>,
}

impl Options {
    /// The packages.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
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

    /// The newest versions, where they matter.
    fn newest(&self, context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
        if self.state != State::Latest {
            return Ok(BTreeMap::new());
        }
        let mut argv = vec!["apt-cache", "policy"];
        argv.extend(self.names.iter().map(String::as_str));
        if self.backend == Backend::Dnf || !debian(context) {
            return newest_rpm(&self.names, context);
        }
        let output = run_tool(&argv, context)?;
        let mut newest = BTreeMap::new();
        let mut at = String::new();
        for line in output.stdout.lines() {
            match line.trim().split_once(": ") {
                Some(("Candidate", version)) if version != "(none)" => {
                    drop(newest.insert(at.clone(), version.to_owned()))
                }
                _ if !line.starts_with(' ') => at = line.trim_end_matches(':').to_owned(),
                _ => {}
            }
        }
        Ok(newest)
    }
}

fn newest_rpm(names: &[String], context: &Context<'_>) -> Result<BTreeMap<String, String>, ModuleError> {
    let mut argv = vec!["dnf", "-q", "repoquery", "--latest-limit=1", "--qf", "%{name}\t%{version}-%{release}\n"];
    argv.extend(names.iter().map(String::as_str));
    let output = run_tool(&argv, context)?;
    let pair = |line: &str| line.split_once('\t').map(|(name, version)| (name.to_owned(), version.to_owned()));
    Ok(output.stdout.lines().filter_map(pair).collect())
}

fn debian(context: &Context<'_>) -> bool {
    context.look.exists(DPKG).unwrap_or(false)
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

/// The parameters that remove what is not installed yet.
pub(crate) fn undo(options: &Options, context: &Context<'_>) -> Option<Value> {
    let installed = context.memory.packages.read(options, context).ok()?;
    let new: Vec<&String> = options.names.iter().filter(|name| !installed.contains_key(*name)).collect();
    (options.state != State::Absent && !new.is_empty()).then(|| json!({ "names": new, "state": "absent" }))
}

pub(crate) fn run(options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    context.needs_whole_root("package")?;
    let installed = context.memory.packages.read(options, context)?;
    let missing = options.missing(&installed, &options.newest(context)?);
    let held = missing.remove.iter().filter(|name| installed.get(*name).is_some_and(|known| known.held)).cloned();
    let unhold: Vec<String> = missing.unhold.iter().cloned().chain(held).collect();
    if !unhold.is_empty() {
        mark("unhold", &unhold, context)?;
    }
    let changes = !missing.install.is_empty() || !missing.upgrade.is_empty() || !missing.remove.is_empty();
    if changes {
        // Of another architecture, or half installed: apt knows what to do, PackageKit does not name it.
        let odd = |name: &String| name.contains(':') || installed.get(name).is_some_and(|known| !known.whole);
        let plain = !options.names.iter().any(odd);
        by_backend(options, &missing, plain, context)?;
    }
    if !missing.hold.is_empty() {
        mark("hold", &missing.hold, context)?;
    }
    // What the tool says is one thing, what the database says another.
    let installed = context.memory.packages.read(options, context)?;
    let left = options.missing(&installed, &BTreeMap::new());
    if left != Missing::default() {
        let what = options.diff(&left, &installed, &BTreeMap::new());
        return Err(ModuleError::new(format!("it ended well, and this is still to be done: {}", what.trim())));
    }
    Ok(Report::well())
}

fn by_backend(options: &Options, missing: &Missing, plain: bool, context: &Context<'_>) -> Result<(), ModuleError> {
    // A version is asked for by name, which PackageKit does not have on all systems.
    let try_packagekit = match options.backend {
        Backend::PackageKit => true,
        Backend::Auto => options.version.is_none() && plain,
        Backend::Apt | Backend::Dnf => false,
    };
    if try_packagekit {
        match patiently(missing, context) {
            Ok(()) => return Ok(()),
            Err(error @ (PackageKitError::Missing(_) | PackageKitError::Hangs)) if options.backend == Backend::Auto => {
                tracing::info!("the package manager is used directly: {error}");
            }
            Err(error) => return Err(ModuleError::new(error.to_string())),
        }
    }
    match options.backend {
        Backend::Dnf => dnf(missing, options, context),
        Backend::Auto if !debian(context) => dnf(missing, options, context),
        _ => apt(missing, options, context),
    }
}

/// How long one waits before the lock is asked for again, and what is left of the task's time then for the work.
const PAUSE: Duration = Duration::from_secs(2);
const WORK: Duration = Duration::from_secs(10);

/// PackageKit gives up at once where somebody else holds the lock of the package database: it is asked again, as apt
/// waits by itself.
fn patiently(missing: &Missing, context: &Context<'_>) -> Result<(), PackageKitError> {
    let mut waited = Duration::ZERO;
    loop {
        match by_packagekit(missing, context) {
            Err(PackageKitError::Failed(why))
                if why.contains("get lock") && waited + WORK < context.timeout && !context.cancel.is_cancelled() =>
            {
                if waited.is_zero() {
                    tracing::info!("waiting for the lock of the package database: {why}");
                }
                thread::sleep(PAUSE);
                waited += PAUSE;
            }
            done => return done,
        }
    }
}

fn by_packagekit(missing: &Missing, context: &Context<'_>) -> Result<(), PackageKitError> {
    let kit = PackageKit::connect()?;
    let done = transactions(&kit, missing, context);
    kit.quit();
    done
}

fn transactions(kit: &PackageKit, missing: &Missing, context: &Context<'_>) -> Result<(), PackageKitError> {
    let ids = |names: &[String], installed: bool| -> Result<Vec<String>, PackageKitError> {
        let asked: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut found = kit.resolve(&asked, context.timeout)?;
        if !installed && names.iter().any(|name| !found.iter().any(|package| package.name == *name)) {
            // It may be new since the lists were read last.
            kit.refresh(context.timeout)?;
            found = kit.resolve(&asked, context.timeout)?;
        }
        names
            .iter()
            .map(|name| {
                let fits = |package: &&Found| package.name == *name && package.installed == installed;
                // The newest comes last.
                let id = found.iter().rfind(fits).map(|package| package.id.clone());
                id.ok_or_else(|| PackageKitError::Failed(format!("no repository of this node has the package {name}")))
            })
            .collect()
    };
    if !missing.remove.is_empty() {
        let ids = ids(&missing.remove, true)?;
        kit.remove(&ids.iter().map(String::as_str).collect::<Vec<_>>(), context.timeout)?;
    }
    if !missing.install.is_empty() {
        let ids = ids(&missing.install, false)?;
        kit.install(&ids.iter().map(String::as_str).collect::<Vec<_>>(), context.timeout)?;
    }
    if !missing.upgrade.is_empty() {
        let ids = ids(&missing.upgrade, false)?;
        kit.update(&ids.iter().map(String::as_str).collect::<Vec<_>>(), context.timeout)?;
    }
    Ok(())
}

/// apt-get, which keeps configuration files that the administrator has changed, and waits for the lock.
fn apt(missing: &Missing, options: &Options, context: &Context<'_>) -> Result<(), ModuleError> {
    let lock = format!("DPkg::Lock::Timeout={}", context.timeout.as_secs().saturating_sub(10).max(1));
    let base =
        ["apt-get", "-y", "-q", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"];
    let call = |verb: &str, more: &[&str], names: &[String]| {
        let mut argv = base.to_vec();
        argv.extend(["-o", &lock, verb]);
        argv.extend(more);
        argv.push("--");
        argv.extend(names.iter().map(String::as_str));
        run_tool(&argv, context)
    };
    if !missing.remove.is_empty() {
        let simulated = call("remove", &["--simulate"], &missing.remove)?;
        well("apt-get remove", &simulated)?;
        let goes = |line: &str| line.strip_prefix("Remv ")?.split(' ').next().map(str::to_owned);
        let others: Vec<String> =
            simulated.stdout.lines().filter_map(goes).filter(|name| !missing.remove.contains(name)).collect();
        if !others.is_empty() {
            let what = format!("{} would go too, which need it", others.join(", "));
            return Err(ModuleError::new(format!(
                "{}: {what}; name them as well, or let them go first",
                missing.remove.join(", ")
            )));
        }
        well("apt-get remove", &call("remove", &[], &missing.remove)?)?;
    }
    let mut wanted: Vec<String> = missing.install.iter().chain(&missing.upgrade).cloned().collect();
    if let Some(version) = &options.version {
        wanted.iter_mut().for_each(|name| *name = format!("{name}={version}"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let more: &[&str] =
        if options.version.is_some() { &["--allow-downgrades", "--allow-change-held-packages"] } else { &[] };
    let mut output = call("install", more, &wanted)?;
    if output.rc != 0 && output.stderr.contains("dpkg was interrupted") {
        well(
            "dpkg --configure -a",
            &run_tool(&["dpkg", "--configure", "-a", "--force-confdef", "--force-confold"], context)?,
        )?;
        output = call("install", more, &wanted)?;
    }
    let old = ["Unable to locate", "was not found", "no installation candidate", "Failed to fetch", "404"];
    if output.rc != 0 && old.iter().any(|word| output.stderr.contains(word)) {
        // It may be new since the lists were read last.
        // A list that can't be fetched is a mistake, not a warning: it may be the one that is missing.
        let any = "APT::Update::Error-Mode=any";
        well("apt-get update", &run_tool(&["apt-get", "-q", "-o", &lock, "-o", any, "update"], context)?)?;
        output = call("install", more, &wanted)?;
    }
    well("apt-get install", &output)
}

fn dnf(missing: &Missing, options: &Options, context: &Context<'_>) -> Result<(), ModuleError> {
    let call = |verb: &str, names: &[String]| {
        let mut argv = vec!["dnf", "-y", verb];
        argv.extend(names.iter().map(String::as_str));
        run_tool(&argv, context)
    };
    if !missing.remove.is_empty() {
        well("dnf remove", &call("remove", &missing.remove)?)?;
    }
    let mut wanted = missing.install.clone();
    if let Some(version) = &options.version {
        // One that is older than what is there is gone back to.
        wanted.iter_mut().for_each(|name| *name = format!("{name}-{version}"));
    }
    if !wanted.is_empty() {
        well("dnf install", &call("install", &wanted)?)?;
    }
    if !missing.upgrade.is_empty() {
        well("dnf upgrade", &call("upgrade", &missing.upgrade)?)?;
    }
    Ok(())
}

fn mark(verb: &str, names: &[String], context: &Context<'_>) -> Result<(), ModuleError> {
    if !debian(context) {
        return Err(ModuleError::new("hold is for Debian and its kin; use the versionlock plugin of dnf"));
    }
    let mut argv = vec!["apt-mark", verb];
    argv.extend(names.iter().map(String::as_str));
    well(&format!("apt-mark {verb}"), &run_tool(&argv, context)?)
}

/// How many lines of each output of a tool that did not end well are shown.
const SHOWN: usize = 6;

/// A tool that did not end well is told with what it said last.
fn well(what: &str, output: &Output) -> Result<(), ModuleError> {
    if output.rc == 0 {
        return Ok(());
    }
    // What a maintainer script says stands among the progress, errors and the lock's holder beside it.
    let last = |text: &str| {
        let lines: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(SHOWN)..].to_vec()
    };
    let shown = [last(&output.stdout), last(&output.stderr)].concat();
    Err(ModuleError::new(format!("{what} ended with status {}: {}", output.rc, shown.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.22.1-9\nConffiles:\n /etc/nginx/nginx.conf 123\nDescription: web\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: kept\nStatus: hold ok installed\nArchitecture: all\nVersion: 2\n\nPackage: half\nStatus: install ok half-configured\nVersion: 3\n";

    fn missing(params: Value) -> Missing {
        resolve(serde_json::from_value(params).unwrap())
            .unwrap()
            .missing(&dpkg(STATUS), &[("nginx".into(), "1.24".into())].into())
    }

    #[test]
    fn what_is_installed_is_read_from_dpkg() {
        let known = dpkg(STATUS);
        assert_eq!(known["nginx"].version, "1.22.1-9");
        assert_eq!(known["nginx:amd64"], known["nginx"]);
        assert!(known["kept"].held && !known.contains_key("gone") && !known["half"].whole);
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
    fn parameters_that_do_not_fit_are_told() {
        for (params, key) in [
            (json!({}), "name"),
            (json!({"name": "a", "names": ["b"]}), "name"),
            (json!({"name": "a", "version": "1", "state": "latest"}), "version"),
            (json!({"names": ["a", "b"], "version": "1"}), "version"),
            (json!({"name": "-rf"}), "name"),
            (json!({"name": "a b"}), "name"),
        ] {
            let problems = resolve(serde_json::from_value(params.clone()).unwrap()).unwrap_err();
            assert_eq!(problems[0].key, key, "{params}");
        }
    }
}
