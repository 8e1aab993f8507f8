//! Facts about the operating system and the host name.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::first_line::first_line;

/// Gathers the fact `os`: family, name, version, codename and architecture of the operating system.
pub(super) fn os() -> Value {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let field = |wanted: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key == wanted).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
        })
    };
    let name = field("ID");
    let like = field("ID_LIKE").unwrap_or_default();
    let arch = rustix::system::uname().machine().to_string_lossy().into_owned();
    json!({ "family": family(name.as_deref().unwrap_or_default(), &like), "name": name, "version": field("VERSION_ID"), "codename": field("VERSION_CODENAME"), "arch": arch })
}

/// Returns the family of a distribution, such as `debian` for Ubuntu. For an unknown distribution, the family is the
/// name of the distribution.
fn family(name: &str, like: &str) -> String {
    let mut words = std::iter::once(name).chain(like.split_whitespace());
    let family = words.find_map(|word| match word {
        "debian" | "ubuntu" => Some("debian"),
        "rhel" | "fedora" | "centos" => Some("redhat"),
        "suse" | "opensuse" | "sles" => Some("suse"),
        "arch" => Some("arch"),
        "alpine" => Some("alpine"),
        "gentoo" => Some("gentoo"),
        "nixos" => Some("nixos"),
        _ => None,
    });
    family.unwrap_or(name).to_owned()
}

/// Returns the host name up to its first dot, and the fully qualified name.
pub(super) fn names() -> (String, String) {
    let hostname =
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into());
    let fqdn = if hostname.contains('.') { Some(hostname.clone()) } else { from_hosts(&hostname) };
    let short = hostname.split('.').next().unwrap_or(&hostname).to_owned();
    (short, fqdn.unwrap_or(hostname))
}

/// Returns the fully qualified host name from /etc/hosts. The fully qualified name is the first name with a dot on a
/// line that contains the host name.
///
/// The agent does not look up the host name in DNS, because facts must not wait for the network.
fn from_hosts(hostname: &str) -> Option<String> {
    let hosts = fs::read_to_string("/etc/hosts").ok()?;
    let names = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().split_whitespace().skip(1).collect::<Vec<_>>());
    names.filter(|names| names.contains(&hostname)).flatten().find(|name| name.contains('.')).map(str::to_owned)
}

pub(super) fn package_manager() -> Option<&'static str> {
    let known = [
        ("apt", "/usr/bin/apt-get"),
        ("dnf", "/usr/bin/dnf"),
        ("yum", "/usr/bin/yum"),
        ("zypper", "/usr/bin/zypper"),
        ("pacman", "/usr/bin/pacman"),
        ("apk", "/sbin/apk"),
    ];
    known.into_iter().find(|(_, path)| Path::new(path).exists()).map(|(name, _)| name)
}

pub(super) fn init() -> Option<String> {
    if Path::new("/run/systemd/system").exists() {
        return Some("systemd".into());
    }
    first_line("/proc/1/comm")
}

/// Returns the fact `virtualization`: the type of the container or the hypervisor, or `none`.
pub(super) fn virtualization() -> String {
    if Path::new("/run/systemd/container").exists() || Path::new("/.dockerenv").exists() {
        return first_line("/run/systemd/container").unwrap_or_else(|| "container".into());
    }
    let vendor = first_line("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let product = first_line("/sys/class/dmi/id/product_name").unwrap_or_default();
    let known = [
        ("QEMU", "kvm"),
        ("KVM", "kvm"),
        ("VMware", "vmware"),
        ("VirtualBox", "virtualbox"),
        ("Xen", "xen"),
        ("Amazon EC2", "amazon"),
        ("Google", "google"),
        ("Microsoft Corporation", "hyperv"),
    ];
    let found =
        known.into_iter().find(|(word, _)| vendor.contains(word) || product.contains(word)).map(|(_, name)| name);
    found.unwrap_or("none").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_family_is_derived_from_os_release() {
        assert_eq!(family("ubuntu", "debian"), "debian");
        assert_eq!(family("rocky", "rhel centos fedora"), "redhat");
        assert_eq!(family("void", ""), "void");
    }
}
