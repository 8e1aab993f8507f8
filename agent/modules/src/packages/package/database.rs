//! Reads the installed packages from the status file of dpkg, or with one query to rpm.

use std::sync::{Arc, Mutex, PoisonError};

use towpath_host::FileVersion;

use super::{
    installed::{Installed, Packages},
    spec::Backend,
    tool::{check_status, run_tool},
};
use crate::{Context, ModuleError};

/// The path of dpkg's status file.
pub(super) const DPKG: &str = "/var/lib/dpkg/status";

/// Returns true if the node has the package database of dpkg, as on Debian and Ubuntu.
pub(super) fn debian(context: &Context<'_>) -> bool {
    context.reader.exists(DPKG).unwrap_or(false)
}

/// The files of the rpm database: one file name for each of the backends sqlite, ndb and bdb, and the write-ahead log
/// of sqlite.
const RPM: [&str; 4] = ["rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages"];

/// A cache of the installed packages. The cache is valid until the files of the package database change.
#[derive(Debug, Default)]
pub(super) struct Database(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    dpkg: Option<(FileVersion, Arc<Packages>)>,
    rpm: Option<(Vec<FileVersion>, Arc<Packages>)>,
    /// The folder of the rpm database.
    folder: Option<String>,
}

impl Database {
    /// Returns the installed packages. The function reads the package database only if its files have changed.
    pub(super) fn read(&self, backend: Backend, context: &Context<'_>) -> Result<Arc<Packages>, ModuleError> {
        let io = |error: std::io::Error| ModuleError::io(DPKG, &error);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If the node has the databases of dpkg and rpm, the backend selects one database.
        let meta = if backend == Backend::Dnf { None } else { context.reader.meta(DPKG).map_err(io)? };
        let Some(meta) = meta else { return known.rpm(context) };
        if let Some((_, packages)) = known.dpkg.as_ref().filter(|(version, _)| *version == meta.version) {
            return Ok(Arc::clone(packages));
        }
        let (bytes, meta) = context.reader.read(DPKG).map_err(io)?.unwrap_or((Vec::new(), meta));
        let packages = Arc::new(dpkg(&String::from_utf8_lossy(&bytes)));
        known.dpkg = Some((meta.version, Arc::clone(&packages)));
        Ok(packages)
    }
}

impl Known {
    fn rpm(&mut self, context: &Context<'_>) -> Result<Arc<Packages>, ModuleError> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => {
                let output = run_tool(&["rpm", "--eval", "%{_dbpath}"], context)?;
                check_status("rpm --eval", &output)?;
                let folder = output.stdout.trim().to_owned();
                self.folder.insert(folder).clone()
            }
        };
        let versions = || -> Vec<FileVersion> {
            let meta = |file: &&str| context.reader.meta(&format!("{folder}/{file}")).ok().flatten();
            RPM.iter().filter_map(meta).map(|meta| meta.version).collect()
        };
        let before = versions();
        if let Some((_, packages)) = self.rpm.as_ref().filter(|(known, _)| *known == before && !before.is_empty()) {
            return Ok(Arc::clone(packages));
        }
        let lines = "%{NAME}\\t%{ARCH}\\t%{VERSION}-%{RELEASE}\\t%{INSTALLTIME}\\n";
        let output = run_tool(&["rpm", "-qa", "--qf", lines], context)?;
        check_status("rpm -qa", &output)?;
        let packages = Arc::new(rpm(&output.stdout));
        // The result is not cached if the database changed during the query.
        self.rpm = (versions() == before).then(|| (before, Arc::clone(&packages)));
        Ok(packages)
    }
}

/// Returns the native architecture of the machine. The function returns the architecture of the installed package
/// `dpkg` or `rpm`.
pub(super) fn native(packages: &Packages) -> Option<&str> {
    packages.get("dpkg").or_else(|| packages.get("rpm")).and_then(|own| own.arch.as_deref())
}

/// Parses the status file of dpkg (deb-control(5), dpkg(1): "want flag status"). In the result, a package name without
/// an architecture means the native architecture.
pub(super) fn dpkg(text: &str) -> Packages {
    let mut packages = entries(text);
    let Some(native) = native(&packages).map(str::to_owned) else { return packages };
    let own = |arch: &str| arch == native || arch == "all";
    let foreign = |(name, known): (&String, &Installed)| {
        (!name.contains(':') && known.arch.as_deref().is_some_and(|arch| !own(arch))).then(|| name.clone())
    };
    for name in packages.iter().filter_map(foreign).collect::<Vec<_>>() {
        packages.remove(&name);
        for arch in [&native, "all"] {
            if let Some(known) = packages.get(&format!("{name}:{arch}")).cloned() {
                packages.insert(name.clone(), known);
            }
        }
    }
    packages
}

fn entries(text: &str) -> Packages {
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
            arch: field("Architecture").map(str::to_owned),
        };
        if let Some(arch) = field("Architecture") {
            packages.insert(format!("{name}:{arch}"), installed.clone());
        }
        packages.insert(name.to_owned(), installed);
    }
    packages
}

/// Parses the output of rpm. Each line of the rpm output contains the name, the architecture, the version with release,
/// and the install time of a package. If several versions of a package are installed, such as kernels, the result
/// contains the most recently installed version.
fn rpm(text: &str) -> Packages {
    let mut packages = Packages::new();
    let mut lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    lines.sort_by_key(|parts| parts.get(3).and_then(|time| time.parse::<u64>().ok()).unwrap_or(0));
    for parts in lines {
        let [name, arch, version, _] = parts[..] else { continue };
        let plain = version.rsplit_once('-').map(|(plain, _)| plain.to_owned());
        let held = Some(arch.to_owned());
        let installed = Installed { version: version.to_owned(), plain, held: false, whole: true, arch: held };
        packages.insert(format!("{name}.{arch}"), installed.clone());
        packages.insert(name.to_owned(), installed);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_are_read_from_dpkg() {
        let known = dpkg(super::super::tests::STATUS);
        assert_eq!(known["nginx"].version, "1.22.1-9");
        assert_eq!(known["nginx:amd64"], known["nginx"]);
        assert!(known["kept"].held && !known.contains_key("gone") && !known["half"].whole);
    }

    #[test]
    fn name_without_architecture_means_the_native_one() {
        let stanza = |name: &str, arch: &str, version: u32| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nVersion: {version}\n\n")
        };
        let foreign = stanza("dpkg", "amd64", 1) + &stanza("m", "i386", 2);
        let known = dpkg(&foreign);
        assert!(!known.contains_key("m") && known.contains_key("m:i386") && native(&known) == Some("amd64"));
        for text in [stanza("m", "amd64", 3) + &foreign, foreign + &stanza("m", "amd64", 3)] {
            let known = dpkg(&text);
            assert_eq!((known["m"].version.as_str(), known["m:i386"].version.as_str()), ("3", "2"));
        }
        let known = dpkg(&(stanza("dpkg", "arm64", 1) + &stanza("doc", "all", 4)));
        assert_eq!(known["doc"].version, "4");
    }

    #[test]
    fn installed_packages_are_read_from_rpm() {
        let known =
            rpm("bash\tx86_64\t5.2.15-3.fc39\t20\nno line\ngpg-pubkey\t(none)\t1-2\t5\nbash\tx86_64\t5.1-1\t10\n");
        assert_eq!(known["bash.x86_64"], known["bash"]);
        assert!(known["bash"].is("5.2.15") && known["bash"].is("5.2.15-3.fc39") && !known["bash"].is("5.2"));
        assert_eq!(known.len(), 4);
    }
}
