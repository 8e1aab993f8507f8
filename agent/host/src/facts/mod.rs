//! What a machine is: the facts that templates and expressions read. Always the host's, whatever the root.

mod custom;
mod hardware;
mod network;
mod system;

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};

pub use custom::{CustomProblem, YAML_MARK};

/// Where facts are read from.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folders of own facts.
    pub facts_d: Vec<PathBuf>,
    /// How long an executable there may take.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { facts_d: vec![PathBuf::from("/etc/towpath/facts.d")], timeout: Duration::from_secs(10) }
    }
}

/// Gathers all facts; own facts that can't be read are told beside them.
pub fn gather(options: &Options) -> (Value, Vec<CustomProblem>) {
    let (custom, problems) = custom::gather(options);
    let (hostname, fqdn) = system::names();
    let facts = json!({
        "os": system::os(),
        "kernel": { "release": line("/proc/sys/kernel/osrelease") },
        "hostname": hostname,
        "fqdn": fqdn,
        "cpus": hardware::cpus(),
        "memory": { "totalBytes": hardware::memory() },
        "disks": hardware::disks(),
        "mounts": hardware::mounts(),
        "interfaces": network::interfaces(),
        "addresses": network::addresses(),
        "packageManager": system::package_manager(),
        "init": system::init(),
        "virtualization": system::virtualization(),
        "machineId": line("/etc/machine-id"),
        "bootId": line("/proc/sys/kernel/random/boot_id"),
        "custom": custom,
    });
    (facts, problems)
}

/// The machine's host name, as far as its first dot.
pub fn host_name() -> String {
    system::names().0
}

/// What tells this machine from others.
pub fn machine_id() -> Option<String> {
    line("/etc/machine-id")
}

/// The first line of a file; None where it can't be read or is empty.
fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Which boot of the machine this is.
pub fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_of_the_contract_is_there() {
        let (facts, _) = gather(&Options::default());
        for fact in [
            "os",
            "kernel",
            "hostname",
            "fqdn",
            "cpus",
            "memory",
            "disks",
            "mounts",
            "interfaces",
            "addresses",
            "packageManager",
            "init",
            "virtualization",
            "machineId",
            "bootId",
            "custom",
        ] {
            assert!(facts.get(fact).is_some(), "{fact}");
        }
        for fact in ["family", "name", "version", "codename", "arch"] {
            assert!(facts["os"].get(fact).is_some(), "os.{fact}");
        }
        assert!(facts["cpus"].as_u64().unwrap() >= 1);
        assert!(facts["memory"]["totalBytes"].as_u64().unwrap() > 1 << 20);
        assert!(facts["mounts"]["/"]["sizeBytes"].is_u64());
    }
}
