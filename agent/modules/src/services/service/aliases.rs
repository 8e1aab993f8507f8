//! Resolves aliases of systemd units. An alias is a link to another unit file, or a name in the setting `Alias=` of a
//! unit (systemd.unit(5)).

use towpath_host::FsReader;

/// The folders of unit files. A unit file in an earlier folder of the list has precedence over a file in a later
/// folder.
const FOLDERS: [&str; 8] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/transient",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The maximum number of links that the agent follows from an alias to the unit file.
const LINKS: usize = 8;

/// Returns the real name of the unit to which an alias belongs. A name that is not an alias is returned unchanged.
pub(super) fn unit(reader: &FsReader, name: &str) -> String {
    let mut unit = name.to_owned();
    for _ in 0..LINKS {
        match target(reader, &unit) {
            Found::Alias(target) => unit = target,
            Found::Unit => return unit,
            Found::Nothing => match owner(reader, &unit) {
                // The unit that takes the alias may have a link as its file, too.
                Some(owner) => unit = owner,
                None => return unit,
            },
        }
    }
    unit
}

enum Found {
    Nothing,
    Unit,
    Alias(String),
}

/// Searches the unit folders, in their order, for a file with the given name, and returns the kind of the first file.
fn target(reader: &FsReader, unit: &str) -> Found {
    for folder in FOLDERS {
        let path = format!("{folder}/{unit}");
        if let Ok(Some(link)) = reader.link(&path) {
            let name = link.rsplit('/').next().unwrap_or_default();
            // A link to /dev/null masks the unit. A link to a file of the same name only leads to another folder.
            return if link == "/dev/null" || name == unit || !name.contains('.') {
                Found::Unit
            } else {
                Found::Alias(instance(name, unit))
            };
        }
        if reader.exists(&path).unwrap_or(false) {
            return Found::Unit;
        }
    }
    Found::Nothing
}

/// Returns the name of the unit to which an alias links. If the unit is a template, such as `web@.service`, the result
/// contains the instance name from the alias.
fn instance(target: &str, alias: &str) -> String {
    let of_alias = alias.split_once('@').and_then(|(_, rest)| rest.rsplit_once('.')).map(|(instance, _)| instance);
    match (target.split_once("@."), of_alias) {
        (Some((name, kind)), Some(instance)) if !instance.is_empty() => format!("{name}@{instance}.{kind}"),
        _ => target.to_owned(),
    }
}

/// Returns the unit whose setting `Alias=` contains the given name. On Debian, for example, `ssh.service` contains
/// `Alias=sshd.service`.
fn owner(reader: &FsReader, alias: &str) -> Option<String> {
    // An instance of a template unit has no file of its own.
    if alias.contains('@') {
        return None;
    }
    for folder in FOLDERS {
        let names = reader.list(folder).unwrap_or_default();
        for name in names.into_iter().filter(|name| name.rsplit('.').next() == alias.rsplit('.').next()) {
            let read = reader.read(&format!("{folder}/{name}")).ok().flatten();
            if read.is_some_and(|(bytes, _)| takes(&String::from_utf8_lossy(&bytes), alias)) {
                return Some(name);
            }
        }
    }
    None
}

/// Returns true if the setting `Alias=` in the text of a unit file contains the given name.
fn takes(text: &str, alias: &str) -> bool {
    let mut install = false;
    text.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            install = line == "[Install]";
        }
        let names = line.strip_prefix("Alias").and_then(|rest| rest.trim_start().strip_prefix('='));
        install && names.is_some_and(|names| names.split_whitespace().any(|name| name == alias))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn alias_leads_to_its_unit() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/systemd/system");
        let lib = root.path().join("usr/lib/systemd/system");
        fs::create_dir_all(&etc).unwrap();
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("ssh.service"), "[Unit]\nAlias=no.service\n[Install]\nAlias = other.service sshd.service\n")
            .unwrap();
        fs::write(lib.join("getty@.service"), "").unwrap();
        fs::write(lib.join("plain.service"), "").unwrap();
        symlink("/usr/lib/systemd/system/ssh.service", etc.join("openssh.service")).unwrap();
        symlink("openssh.service", etc.join("remote.service")).unwrap();
        symlink("getty@.service", lib.join("autovt@.service")).unwrap();
        symlink("/usr/lib/systemd/system/getty@.service", etc.join("autovt@tty2.service")).unwrap();
        symlink("/dev/null", etc.join("masked.service")).unwrap();
        symlink("loop.service", etc.join("loop.service")).unwrap();
        symlink("b.service", etc.join("a.service")).unwrap();
        symlink("a.service", etc.join("b.service")).unwrap();
        let reader = FsReader::at(root.path()).unwrap();
        for (name, wanted) in [
            ("openssh.service", "ssh.service"),
            ("remote.service", "ssh.service"),
            // ssh.service is not enabled, so the link for this alias is missing.
            ("sshd.service", "ssh.service"),
            ("other.service", "ssh.service"),
            ("no.service", "no.service"),
            ("sshd.socket", "sshd.socket"),
            ("autovt@tty2.service", "getty@tty2.service"),
            ("plain.service", "plain.service"),
            ("masked.service", "masked.service"),
            ("loop.service", "loop.service"),
            ("unknown.service", "unknown.service"),
        ] {
            assert_eq!(unit(&reader, name), wanted, "{name}");
        }
        unit(&reader, "a.service");
    }
}
