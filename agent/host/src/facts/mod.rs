//! The facts about a machine, for templates and expressions. Facts always describe the running host, even if the agent
//! manages files below another root than `/`.

mod custom;
mod first_line;
mod hardware;
mod network;
mod system;

use std::fs;

use serde_json::{Value, json};

pub use custom::{CustomProblem, Options, YAML_MARK};
use first_line::first_line;

/// Gathers all facts. Returns the facts about the machine, and an error for each custom fact that cannot be read.
pub fn gather(options: &Options) -> (Value, Vec<CustomProblem>) {
    let (custom, problems) = custom::gather(options);
    let (hostname, fqdn) = system::names();
    let facts = json!({
        "os": system::os(),
        "kernel": { "release": first_line("/proc/sys/kernel/osrelease") },
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
        "machineId": first_line("/etc/machine-id"),
        "bootId": first_line("/proc/sys/kernel/random/boot_id"),
        "custom": custom,
    });
    (facts, problems)
}

/// Returns the machine's host name up to its first dot.
pub fn host_name() -> String {
    system::names().0
}

/// Returns the machine id of systemd, from /etc/machine-id.
pub fn machine_id() -> Option<String> {
    first_line("/etc/machine-id")
}

/// Returns the kernel's id of the current boot.
pub fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_facts_include_every_fact_of_the_contract() {
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
