//! Facts about processors, memory, disks and mounts.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::first_line::first_line;

pub(super) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

pub(super) fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// Gathers the fact `disks`: size and model of each disk, by name. The fact `disks` does not contain virtual disks,
/// such as loop devices and memory disks.
pub(super) fn disks() -> BTreeMap<String, Value> {
    let mut disks = BTreeMap::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"].iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let sectors: Option<u64> = first_line(&format!("/sys/block/{name}/size")).and_then(|text| text.parse().ok());
        let model = first_line(&format!("/sys/block/{name}/device/model"));
        disks.insert(name, json!({ "sizeBytes": sectors.map(|sectors| sectors * 512), "model": model }));
    }
    disks
}

/// Gathers the fact `mounts`: device, type and sizes of each mount, by path. The fact `mounts` contains neither network
/// file systems nor virtual file systems such as /proc.
pub(super) fn mounts() -> BTreeMap<String, Value> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut mounts = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(path), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if matches!(
            kind,
            "proc"
                | "sysfs"
                | "cgroup"
                | "cgroup2"
                | "devpts"
                | "mqueue"
                | "securityfs"
                | "debugfs"
                | "tracefs"
                | "autofs"
                | "bpf"
                | "pstore"
                | "configfs"
                | "binfmt_misc"
                | "hugetlbfs"
                | "fusectl"
                | "rpc_pipefs"
                | "nfs"
                | "nfs4"
                | "cifs"
        ) {
            continue;
        }
        let path = unescape(path);
        let Ok(stat) = rustix::fs::statvfs(path.as_str()) else { continue };
        let size = stat.f_blocks.saturating_mul(stat.f_frsize);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        mounts.insert(path, json!({ "device": unescape(device), "type": kind, "sizeBytes": size, "freeBytes": free }));
    }
    mounts
}

/// Decodes the octal escapes of /proc/self/mounts, in which the kernel writes a blank as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}
