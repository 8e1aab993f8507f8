//! The module `mount` manages the mount of a file system. A systemd unit mounts the file system, now and at every boot
//! (systemd.mount(5)).

use serde_json::{Value, json};
use towpath_host::{
    FsWriter,
    files::Access,
    systemd::{Job, Systemd, UnitState},
};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::service::{failed, with_journal};
use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, managed_path, one_line, parse},
    resource::resource,
};

/// The resolved parameters of the module `mount`: a file system, its mount point and its desired state.
#[derive(Debug, Clone)]
pub(crate) struct MountSpec {
    path: String,
    device: String,
    kind: Option<String>,
    options: Vec<String>,
    state: State,
}

/// The module `mount`.
#[derive(Debug)]
pub(crate) struct Mount;

impl Module for Mount {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Mount::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for MountSpec {
    fn module(&self) -> &'static dyn Module {
        &Mount
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
        run(self, context, writer)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Mounted,
    Unmounted,
    Absent,
}

/// The types of network file systems. A mount of a network file system needs the network.
const NETWORK: [&str; 9] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "fuse.sshfs", "fuse.glusterfs"];

pub(crate) fn resolve(mount: pb::Mount) -> Result<MountSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = mount.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    if path.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        problems.push(Problem::new("path", format!("{path:?} contains characters that a unit file cannot contain")));
    }
    let path = format!("/{}", path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
    let state = match mount.state.as_deref() {
        Some("absent") => State::Absent,
        Some("unmounted") => State::Unmounted,
        _ => State::Mounted,
    };
    let device = mount.device.unwrap_or_default();
    if device.is_empty() && state != State::Absent {
        problems
            .push(Problem::new("device", "mount needs device").hint("such as /dev/vdb1, UUID=…, host:/path, tmpfs"));
    }
    for (key, text) in std::iter::once(("device", &device))
        .chain(mount.r#type.iter().map(|kind| ("type", kind)))
        .chain(mount.options.iter().map(|option| ("options", option)))
    {
        one_line(key, text, &mut problems);
        if text.contains(char::is_whitespace) {
            problems.push(
                Problem::new(key, format!("{text:?} contains a blank")).hint("write each option as a list member"),
            );
        }
        // systemd joins a line that ends with a backslash with the next line.
        if text.ends_with('\\') {
            problems.push(Problem::new(key, format!("{text:?} ends with a backslash")));
        }
    }
    done(problems)?;
    Ok(MountSpec { path, device, kind: mount.r#type, options: mount.options, state })
}

/// Returns the name of the systemd mount unit for a path. The function escapes the path in the same way as
/// `systemd-escape --path`.
fn unit(path: &str) -> String {
    let mut name = String::new();
    for (at, byte) in path.trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b':' | b'_' | b'.' => name.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    format!("{name}.mount")
}

impl MountSpec {
    fn file(&self) -> String {
        format!("/etc/systemd/system/{}", unit(&self.path))
    }

    fn text(&self) -> String {
        // A per cent sign begins a specifier in a unit file, so the sign is doubled.
        let plain = |text: &str| text.replace('%', "%%");
        let network = self.kind.as_deref().is_some_and(|kind| NETWORK.contains(&kind))
            || self.options.iter().any(|option| option == "_netdev");
        let target = if network { "remote-fs.target" } else { "local-fs.target" };
        let mut text = format!("[Mount]\nWhat={}\nWhere={}\n", plain(&self.device), plain(&self.path));
        if let Some(kind) = &self.kind {
            text.push_str(&format!("Type={}\n", plain(kind)));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("Options={}\n", plain(&self.options.join(","))));
        }
        // With WantedBy, the machine boots even if the file system is missing.
        text.push_str(&format!("[Install]\nWantedBy={target}\n"));
        text
    }
}

/// A step that brings a mount to its desired state, such as `systemctl enable` for the mount unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Write,
    Enable(bool),
    Run(Job),
    Remove,
}

fn missing(
    spec: &MountSpec,
    systemd: &Systemd,
    context: &Context<'_>,
) -> Result<(Vec<Missing>, UnitState, Option<String>), ModuleError> {
    refuse_fstab(spec, context)?;
    let file = spec.file();
    let name = unit(&spec.path);
    let state = systemd.state(&name).map_err(failed)?;
    let read = context.reader.read(&file).map_err(|error| ModuleError::io(&file, &error))?;
    let old = read.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
    let (mounted, enabled) = (state.active == "active", state.file == "enabled");
    let mut missing = Vec::new();
    if spec.state == State::Absent {
        if old.is_some() {
            missing.extend(mounted.then_some(Missing::Run(Job::Stop)));
            missing.extend(enabled.then_some(Missing::Enable(false)));
            missing.push(Missing::Remove);
        }
        return Ok((missing, state, old));
    }
    let text = spec.text();
    let wanted = spec.state == State::Mounted;
    let changed = old.as_deref() != Some(text.as_str());
    let of_options = |line: &&str| !line.starts_with("Options=");
    let only_options =
        old.as_deref().is_some_and(|old| old.lines().filter(of_options).eq(text.lines().filter(of_options)));
    // A mounted file system keeps its device until it is unmounted. If more than the options changes, the file system
    // is therefore unmounted before the unit is written.
    let remounts = wanted && mounted && changed && !only_options;
    missing.extend(remounts.then_some(Missing::Run(Job::Stop)));
    missing.extend((changed || state.stale).then_some(Missing::Write));
    missing.extend((enabled != wanted).then_some(Missing::Enable(wanted)));
    match (wanted, mounted) {
        (true, false) => missing.push(Missing::Run(Job::Start)),
        (true, true) if remounts => missing.push(Missing::Run(Job::Start)),
        (true, true) if changed => missing.push(Missing::Run(Job::Reload)),
        (false, true) => missing.push(Missing::Run(Job::Stop)),
        _ => {}
    }
    Ok((missing, state, old))
}

/// Returns an error if /etc/fstab also contains the mount point, because /etc/fstab and the mount unit could contradict
/// each other.
fn refuse_fstab(spec: &MountSpec, context: &Context<'_>) -> Result<(), ModuleError> {
    let read = context.reader.read("/etc/fstab").map_err(|error| ModuleError::io("/etc/fstab", &error))?;
    let text = read.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let here = |line: &str| {
        let place = line.split_whitespace().nth(1).filter(|_| !line.trim_start().starts_with('#'));
        place.is_some_and(|place| place.trim_end_matches('/') == spec.path)
    };
    if text.lines().any(here) && spec.state != State::Absent {
        return Err(ModuleError::new(format!(
            "cannot manage the mount {}: /etc/fstab also contains the mount; \
             remove the line in an earlier task (module `line`)",
            spec.path
        )));
    }
    Ok(())
}

fn display_missing(spec: &MountSpec, missing: Missing) -> String {
    let what = match missing {
        Missing::Write => format!("its unit becomes\n{}", spec.text()),
        Missing::Enable(true) => "is mounted at boot".into(),
        Missing::Enable(false) => "is not mounted at boot".into(),
        Missing::Run(Job::Start) => format!("{} is mounted", spec.device),
        Missing::Run(Job::Stop) => "is unmounted".into(),
        Missing::Run(Job::Reload) => "is remounted with other options".into(),
        Missing::Run(Job::Restart) => "is mounted again".into(),
        Missing::Remove => "its unit is removed".into(),
    };
    format!("{}: {what}\n", spec.path)
}

pub(crate) fn check(spec: &MountSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root("mount")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let (missing, state, _) = missing(spec, &systemd, context)?;
    if missing.is_empty() {
        return Ok(Checked::InSync);
    }
    let diff = missing.iter().map(|missing| display_missing(spec, *missing)).collect();
    let verb = match spec.state {
        State::Absent => Verb::Remove,
        _ if state.load == "not-found" => Verb::Create,
        _ => Verb::Update,
    };
    Ok(Checked::Change(Change { verb, diff, steps: Vec::new() }))
}

pub(crate) fn run(spec: &MountSpec, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
    context.needs_whole_root("mount")?;
    let systemd = Systemd::connect().map_err(failed)?;
    let (name, file) = (unit(&spec.path), spec.file());
    let io = |error: std::io::Error| ModuleError::io(&file, &error);
    let access = Access { mode: 0o644, uid: None, gid: None };
    let (missing, _, old) = missing(spec, &systemd, context)?;
    for missing in missing {
        let done = match missing {
            Missing::Write => {
                writer.replace(&file, spec.text().as_bytes(), access).map_err(io)?;
                systemd.reload()
            }
            Missing::Remove => {
                writer.remove(&file).map_err(io)?;
                systemd.reload()
            }
            Missing::Enable(enabled) => systemd.enable(&name, enabled),
            Missing::Run(job) => systemd.run(&name, job, context.timeout),
        };
        if let (Err(_), Missing::Run(Job::Reload), Some(old)) = (&done, missing, &old) {
            // systemd rejected the new options. The old unit is restored, because it describes the mounted file system.
            writer.replace(&file, old.as_bytes(), access).map_err(io)?;
            let _ = systemd.reload();
        }
        done.map_err(|error| with_journal(&spec.path, &name, &error, context))?;
    }
    Ok(Report::success())
}

/// Returns the parameters that undo the task; `None` if the mount unit already exists, or if the task removes the mount
/// unit.
pub(crate) fn undo(spec: &MountSpec, context: &Context<'_>) -> Option<Value> {
    let new = spec.state != State::Absent && !context.reader.exists(&spec.file()).ok()?;
    new.then(|| json!({ "path": spec.path, "state": "absent" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_systemd_escapes_them() {
        assert_eq!(unit("/srv/data"), "srv-data.mount");
        assert_eq!(unit("/srv/my-data/.x"), "srv-my\\x2ddata-.x.mount");
        assert_eq!(unit("/.hidden"), "\\x2ehidden.mount");
        assert_eq!(unit("/srv/ä"), "srv-\\xc3\\xa4.mount");
    }

    #[test]
    fn unit_file_holds_device_path_type_and_options() {
        let of = |params: Value| resolve(serde_json::from_value(params).unwrap()).unwrap().text();
        let bare = json!({"path": "/srv/a", "device": "/dev/vdb1"});
        let text = "[Mount]\nWhat=/dev/vdb1\nWhere=/srv/a\n[Install]\nWantedBy=local-fs.target\n";
        assert_eq!(of(bare), text);
        let full = json!({"path": "/srv/b", "device": "h:/b%", "type": "nfs", "options": ["ro", "soft"]});
        let text = "[Mount]\nWhat=h:/b%%\nWhere=/srv/b\nType=nfs\nOptions=ro,soft\n\
                    [Install]\nWantedBy=remote-fs.target\n";
        assert_eq!(of(full), text);
    }
}
