//! The image that machines start from.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::ok;

/// The packages of the image.
const PACKAGES: &str = "systemd,systemd-sysv,libpam-systemd,dbus,polkitd,packagekit,packagekit-tools,iproute2,\
    nftables,procps,git,openssh-client,ca-certificates,sudo,tzdata,python3,dnf,rpm";

/// Packages come from /srv/repo, names from /etc/hosts, and nothing runs on its own.
const CUSTOMIZE: &str = r#"set -e; cd "$1"
rm -rf etc/apt/sources.list etc/apt/sources.list.d etc/machine-id etc/resolv.conf; mkdir etc/apt/sources.list.d
echo "deb [trusted=yes] file:/srv/repo ./" > etc/apt/sources.list; : > etc/resolv.conf; chmod 644 etc/resolv.conf
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer dpkg-db-backup.timer fstrim.timer \
  console-getty.service; do ln -sf /dev/null etc/systemd/system/$unit; done"#;

/// Returns the folder that outlives a run of the tests.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("towpath-tests")
}

/// A file that is locked until it is closed, which also happens when the process is killed.
pub fn lock(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::options().create(true).append(true).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// Returns the folder of the unpacked image. Creates the image if it is missing. The caller holds the lock on fleets.
/// It is of this machine's own release, so that what was built here runs there too.
pub fn base() -> PathBuf {
    for program in ["systemd-nspawn", "mmdebstrap", "zstd", "nft", "ip", "setpriv", "unshare", "nsenter"] {
        ok(Command::new(program).arg(if program == "ip" { "-Version" } else { "--version" }));
    }
    let system = fs::read_to_string("/etc/os-release").unwrap();
    let release = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap();
    let [stamp, archive, base, old] =
        ["node.recipe", "node.tar.zst", "node-base", "node-base.old"].map(|name| cache().join(name));
    let recipe = format!("{release}\n{PACKAGES}\n{CUSTOMIZE}\n");
    if !fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--mode=root", "--variant=minbase", &format!("--include={PACKAGES}")]);
        make.args(["doc", "man", "locale"].map(|what| format!("--dpkgopt=path-exclude=/usr/share/{what}/*")));
        ok(make.arg(format!("--customize-hook={CUSTOMIZE}")).arg(release).arg(&archive));
        // Machines that run now stay on what they have.
        let _ = (fs::remove_file(&stamp), fs::remove_dir_all(&old), fs::rename(&base, &old));
        fs::create_dir(&base).unwrap();
        ok(Command::new("tar").arg("-C").arg(&base).args(["--numeric-owner", "-xf"]).arg(&archive));
        fs::write(&stamp, &recipe).unwrap();
    }
    base
}
