//! Finds the side effects of an installation: removals and downgrades of other packages, and changes of held packages.
//! Before an installation, the agent runs a simulation with the package tool. The output of the simulation shows the
//! side effects.

use crate::ModuleError;

/// The side effects of a simulated installation on other packages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// The packages that the simulated installation removes.
    pub(super) removed: Vec<String>,
    /// The packages that the simulated installation downgrades.
    pub(super) downgraded: Vec<String>,
    /// The packages that the simulated installation changes, although an administrator has marked the packages as held.
    pub(super) held: Vec<String>,
}

/// The packages that a task names. A side effect is allowed only on a package that the task names.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    /// The packages to install or upgrade.
    pub(super) wanted: Vec<String>,
    /// The packages that the installation may remove.
    pub(super) replaces: Vec<String>,
    /// The native architecture of the machine. A package name without an architecture means the native architecture.
    pub(super) native: Option<String>,
}

impl Named {
    /// Returns the name of a package. The function removes the native architecture from a package name, and keeps any
    /// other architecture.
    fn plain<'a>(&self, name: &'a str) -> &'a str {
        match name.rsplit_once([':', '.']) {
            Some((plain, arch)) if self.native.as_deref() == Some(arch) || matches!(arch, "all" | "any" | "noarch") => {
                plain
            }
            _ => name,
        }
    }

    pub(super) fn has(&self, list: &[String], name: &str) -> bool {
        list.iter().any(|known| self.plain(known) == self.plain(name))
    }

    /// Checks the side effects of an installation. The installation may remove or downgrade a package, or change a held
    /// package, only if the task names the package.
    ///
    /// # Errors
    /// Returns an error if a side effect concerns a package that the task does not name. The error message lists the
    /// packages.
    pub(super) fn allow(&self, effects: &Effects) -> Result<(), ModuleError> {
        let others = |list: &[String], allowed: &[String]| {
            let mut others: Vec<&str> =
                list.iter().filter(|name| !self.has(allowed, name)).map(|name| self.plain(name)).collect();
            others.sort_unstable();
            others.dedup();
            others.join(", ")
        };
        let removed = others(&effects.removed, &self.replaces);
        let downgraded = others(&effects.downgraded, &self.wanted);
        let held = others(&effects.held, &self.wanted);
        let what = [("remove", removed), ("downgrade", downgraded), ("change the held", held)];
        let what: Vec<String> = what
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(verb, names)| format!("{verb} {names}"))
            .collect();
        if what.is_empty() {
            return Ok(());
        }
        Err(ModuleError::new(format!(
            "cannot install {}: the installation would {}; no package was changed. Add the packages \
             to remove to the parameter `replaces`, and change the other packages in an earlier task",
            self.wanted.join(", "),
            what.join(" and ")
        )))
    }
}

/// Reads the side effects from the output of `apt-get --simulate` in the C locale.
pub(super) fn apt(text: &str) -> Effects {
    let mut effects = Effects::default();
    let mut section = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("Remv ").or_else(|| line.strip_prefix("Purg ")) {
            effects.removed.extend(rest.split(' ').next().map(str::to_owned));
        } else if line.starts_with("  ") {
            let names = line.split_whitespace().map(|name| name.trim_end_matches('*').to_owned());
            match section {
                Some(Section::Downgraded) => effects.downgraded.extend(names),
                Some(Section::Held) => effects.held.extend(names),
                None => {}
            }
        } else {
            section = match line.trim_end() {
                "The following packages will be DOWNGRADED:" => Some(Section::Downgraded),
                "The following held packages will be changed:" => Some(Section::Held),
                _ => None,
            };
        }
    }
    effects
}

#[derive(Debug, Clone, Copy)]
enum Section {
    Downgraded,
    Held,
}

/// Reads the side effects from the table that `dnf` prints in the C locale before a question for confirmation.
pub(super) fn dnf(text: &str) -> Effects {
    let mut effects = Effects::default();
    let mut installed = Vec::new();
    let mut section = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // The package in the line above obsoletes this package.
            ["replacing", name, ..] => effects.removed.push((*name).to_owned()),
            [name, arch, _, ..] if line.starts_with(' ') => {
                let name = format!("{name}.{arch}");
                match section.as_str() {
                    text if text.starts_with("Removing") => effects.removed.push(name),
                    text if text.starts_with("Downgrading") => effects.downgraded.push(name),
                    text if text.starts_with("Installing") => installed.push(name),
                    _ => {}
                }
            }
            _ if line.ends_with(':') => section = line.trim().to_owned(),
            [] => section.clear(),
            _ => {}
        }
    }
    // Several kernel versions stay installed, and a new version displaces the oldest one. Such a displacement is not a
    // removal.
    effects.removed.retain(|name| !installed.contains(name));
    effects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(wanted: &[&str], replaces: &[&str]) -> Named {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Named { wanted: owned(wanted), replaces: owned(replaces), native: Some("amd64".into()) }
    }

    const APT: &str = "Reading package lists...\nThe following packages will be REMOVED:\n  a b:i386\n\
        The following NEW packages will be installed:\n  c\nThe following packages will be DOWNGRADED:\n  d e*\n\
        The following held packages will be changed:\n  f\n0 upgraded, 1 newly installed, 2 downgraded, 1 to remove.\n\
        Remv a [1]\nPurg b:i386 [2]\nInst c (1 repo [all])\nConf c (1 repo [all])\n";

    #[test]
    fn apt_simulation_shows_removed_downgraded_and_held_packages() {
        let effects = apt(APT);
        assert_eq!(effects.removed, ["a", "b:i386"]);
        assert_eq!(effects.downgraded, ["d", "e"]);
        assert_eq!(effects.held, ["f"]);
        assert_eq!(apt("Inst c [1] (2 repo [all])\n"), Effects::default());
    }

    #[test]
    fn installation_that_touches_others_is_refused_with_their_names() {
        let message = named(&["c"], &[]).allow(&apt(APT)).unwrap_err().message;
        for name in ["remove a, b:i386", "downgrade d, e", "change the held f"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(named(&["c", "d", "e", "f"], &["a:amd64", "b:i386"]).allow(&apt(APT)).is_ok());
        // A package of another architecture is a different package. A wanted package must not be removed either.
        assert!(named(&["c", "d", "e", "f", "b:i386"], &["a", "b"]).allow(&apt(APT)).is_err());
    }

    #[test]
    fn dnf_table_shows_removed_replaced_and_downgraded_packages() {
        let text = "Dependencies resolved.\n====\n Package Arch Version Repository Size\n====\nInstalling:\n \
            new x86_64 2-1 repo 1 k\n     replacing  old.x86_64 1-1\n kernel-core x86_64 6.2 repo 1 M\n\
            Downgrading:\n lib x86_64 1-1 repo 1 k\nRemoving:\n kernel-core x86_64 6.0 @repo 1 M\n\
            Removing dependent packages:\n tool noarch 1-1 @repo 1 k\n\nTransaction Summary\n====\nOperation aborted.\n";
        let effects = dnf(text);
        assert_eq!(effects.removed, ["old.x86_64", "tool.noarch"]);
        assert_eq!(effects.downgraded, ["lib.x86_64"]);
        let mut named = named(&["new", "lib"], &["old", "tool"]);
        named.native = Some("x86_64".into());
        assert!(named.allow(&effects).is_ok());
    }
}
