//! Executes the steps of several tasks as one batch. All files are written under temporary names, synced to disk, and
//! then renamed.
//!
//! Guarantees: after a crash at any instruction, each file has its old or its new content. If another program changed a
//! file after the check, the agent changes neither the content nor the permissions of the file.

use std::{collections::BTreeMap, io};

use towpath_host::{
    FsWriter,
    attributes::Attributes,
    files::{Access, Committed, Staged},
    process::{Cancel, Invocation, Sealed},
    systemd::{Job, Systemd, SystemdError},
};

use crate::{Content, ModuleError, Step};

/// The phases in which a batch changes files. The agent can record the start of each phase in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The files are written under temporary names beside their paths.
    Write,
    /// The written files are synced to disk.
    Sync,
    /// The written files are renamed to their paths.
    Rename,
}

/// A function that [`batch`] calls before each phase, with the paths of all files that the batch writes. If the
/// function returns an error, the batch stops.
pub type Before<'a> = dyn FnMut(Phase, &[String]) -> Outcome + 'a;

/// The result of the steps of one task.
pub type Outcome = Result<(), ModuleError>;

/// Executes the steps of several tasks as one batch.
///
/// The function calls `before` before each phase, with the paths of all files that the batch writes. An error of
/// `before` stops the batch.
///
/// Returns the result of each task, in the order of `tasks`.
pub fn batch(tasks: Vec<Vec<Step>>, writer: &FsWriter, cancel: &Cancel, before: &mut Before<'_>) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = tasks.iter().map(|_| Ok(())).collect();
    let paths: Vec<String> = tasks
        .iter()
        .flatten()
        .filter(|step| matches!(step.inner(), Step::Write { .. }))
        .map(|step| step.path().to_owned())
        .collect();
    let refuse = |outcomes: &mut Vec<Outcome>, error: &ModuleError| {
        outcomes.iter_mut().for_each(|outcome| {
            if outcome.is_ok() {
                *outcome = Err(error.clone())
            }
        })
    };
    if let Err(error) = before(Phase::Write, &paths) {
        refuse(&mut outcomes, &error);
        return outcomes;
    }
    let reloads: Vec<bool> =
        tasks.iter().map(|steps| steps.iter().any(|step| matches!(step, Step::ReloadUnits))).collect();
    let mut pending: Vec<(usize, Pending)> = Vec::new();
    let mut synced: Vec<Staged> = Vec::new();
    for (task, steps) in tasks.into_iter().enumerate() {
        for step in steps {
            if outcomes[task].is_err() {
                break;
            }
            match carry_out(step, writer, cancel) {
                Ok(Some((staged, pending_one))) => {
                    synced.push(staged);
                    pending.push((task, pending_one));
                }
                Ok(None) => {}
                Err(error) => outcomes[task] = Err(error),
            }
        }
    }
    if synced.is_empty() {
        reload_units(&reloads, &mut outcomes);
        return outcomes;
    }
    let ready = before(Phase::Sync, &paths)
        .and_then(|()| writer.sync(&synced).map_err(|error| ModuleError::io(&synced[0].path, &error)));
    let ready = ready.and_then(|()| before(Phase::Rename, &paths));
    if let Err(error) = ready {
        synced.into_iter().for_each(|staged| writer.discard(staged));
        refuse(&mut outcomes, &error);
        return outcomes;
    }
    commit_all(synced, pending, writer, cancel, &mut outcomes);
    reload_units(&reloads, &mut outcomes);
    outcomes
}

/// Makes systemd reload its unit files once, if at least one task needs the reload.
fn reload_units(reloads: &[bool], outcomes: &mut [Outcome]) {
    let asked = |(reload, outcome): &(&bool, &mut Outcome)| **reload && outcome.is_ok();
    let mut asking: Vec<&mut Outcome> =
        reloads.iter().zip(outcomes).filter(asked).map(|(_, outcome)| outcome).collect();
    if asking.is_empty() {
        return;
    }
    if let Err(error) = Systemd::connect().and_then(|systemd| systemd.reload()) {
        asking.iter_mut().for_each(|outcome| **outcome = Err(failed(error.to_string())));
    }
}

fn failed(message: String) -> ModuleError {
    ModuleError::new(message)
}

/// The maximum time to wait until a unit has stopped, before its unit file is removed.
const STOP: std::time::Duration = std::time::Duration::from_secs(100);

fn stop_unit(unit: &str) -> Outcome {
    let stopped = || {
        let systemd = Systemd::connect()?;
        if systemd.state(unit)?.load != "not-found" {
            systemd.run(unit, Job::Stop, STOP)?;
            systemd.enable(unit, false)?;
        }
        Ok::<_, SystemdError>(())
    };
    stopped().map_err(|error| failed(error.to_string()))
}

/// Executes the steps of one task.
///
/// # Errors
/// The function stops at the first step that fails, and returns the error of the step.
pub fn all(steps: Vec<Step>, writer: &FsWriter, cancel: &Cancel) -> Outcome {
    batch(vec![steps], writer, cancel, &mut |_, _| Ok(())).into_iter().collect()
}

/// Settings for the rename of a written file: the version of the old file, the `validate` command and the backup.
struct Pending {
    expects: Option<towpath_host::FileVersion>,
    validate_after: Option<String>,
    backup: bool,
}

/// Executes a step at once. For a step that writes a file, the function writes the temporary file, but does not rename
/// the temporary file.
fn carry_out(step: Step, writer: &FsWriter, cancel: &Cancel) -> Result<Option<(Staged, Pending)>, ModuleError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |error: io::Error| ModuleError::io(&path, &error)
    };
    match step {
        Step::MakeDirectory { path, access } => {
            // Another task of the batch may have created the directory. The directory then keeps the permissions of
            // that task.
            let made = writer.make_directory(&path, 0o755).map_err(failed(&path))?;
            if made.contains(&path.trim_end_matches('/').to_owned()) {
                writer.set_permissions(&path, access).map_err(failed(&path))?;
            }
        }
        Step::Grant { path, access, expects } => {
            writer.set_permissions_if(&path, access, Some(expects)).map_err(failed(&path))?
        }
        Step::Link { path, target } => writer.link(&path, &target).map_err(failed(&path))?,
        Step::Remove { path } => writer.remove(&path).map_err(failed(&path))?,
        Step::Within { folder, step } => return carry_out(*step, &writer.plain_below(&folder), cancel),
        Step::StopUnit { unit } => stop_unit(&unit)?,
        Step::ReloadUnits => {}
        Step::Write { path, content, access, validate, backup, expects } => {
            return stage(&path, &content, access, validate, backup, expects, writer, cancel).map(Some);
        }
    }
    Ok(None)
}

#[expect(clippy::too_many_arguments, reason = "the fields of one step")]
fn stage(
    path: &str,
    content: &Content,
    access: Access,
    validate: Option<String>,
    backup: bool,
    expects: Option<towpath_host::FileVersion>,
    writer: &FsWriter,
    cancel: &Cancel,
) -> Result<(Staged, Pending), ModuleError> {
    let bytes = content.bytes()?;
    // If the path is a link, the target of the link is replaced.
    let staged = writer.stage(path, &bytes, access).map_err(|error| ModuleError::io(path, &error))?;
    let (now, later) = match validate {
        Some(line) if line.contains("%s") => (Some(line), None),
        other => (None, other),
    };
    if let Some(line) = now {
        let judged = judged(&line, &staged, &bytes, writer, cancel);
        if let Err(error) = judged {
            writer.discard(staged);
            return Err(error);
        }
    }
    Ok((staged, Pending { expects, validate_after: later, backup }))
}

/// Runs the `validate` command on a new file before the file is renamed to its path. If other users could replace the
/// new file, the command validates a sealed copy of the file.
fn judged(line: &str, staged: &Staged, bytes: &[u8], writer: &FsWriter, cancel: &Cancel) -> Outcome {
    let io = |error: io::Error| ModuleError::io(&staged.path, &error);
    let sealed = if writer.reader().is_private(&staged.path).map_err(io)? { None } else { Some(Sealed::new(bytes)) };
    let sealed = sealed.transpose().map_err(io)?;
    let path = sealed.as_ref().map_or_else(|| staged.temporary_path.display().to_string(), Sealed::path);
    validated(&line.replace("%s", &quoted(&path)), cancel)
}

fn commit_all(
    staged: Vec<Staged>,
    pending: Vec<(usize, Pending)>,
    writer: &FsWriter,
    cancel: &Cancel,
    outcomes: &mut [Outcome],
) {
    let mut committed: Vec<Committed> = Vec::new();
    let mut undo: BTreeMap<usize, Vec<Undo>> = BTreeMap::new();
    let mut validations: Vec<(usize, String)> = Vec::new();
    for (staged, (task, pending)) in staged.into_iter().zip(pending) {
        if outcomes[task].is_err() {
            writer.discard(staged);
            continue;
        }
        let path = staged.path.clone();
        match prepare(&path, &pending, writer) {
            Ok(old) => {
                if pending.validate_after.is_some() {
                    undo.entry(task).or_default().push(old);
                }
            }
            Err(error) => {
                writer.discard(staged);
                outcomes[task] = Err(error);
                continue;
            }
        }
        match writer.commit(staged) {
            Ok(done) => committed.push(done),
            Err(error) => {
                outcomes[task] = Err(ModuleError::io(&path, &error));
                continue;
            }
        }
        if let Some(line) = pending.validate_after.filter(|line| !validations.contains(&(task, line.clone()))) {
            validations.push((task, line));
        }
    }
    if let Err(error) = writer.sync_directories(&committed) {
        let error = ModuleError::new(format!("cannot sync the changed directories to disk: {error}"));
        outcomes.iter_mut().filter(|outcome| outcome.is_ok()).for_each(|outcome| *outcome = Err(error.clone()));
    }
    for (task, line) in validations {
        if let Err(error) = validated(&line, cancel) {
            outcomes[task] = put_back(undo.remove(&task).unwrap_or_default(), writer).and(Err(error));
        }
    }
}

/// The old content of a replaced file. If the `validate` command fails after the rename, the agent restores the old
/// content.
struct Undo {
    path: String,
    old: Option<(Vec<u8>, Access, Attributes)>,
}

/// Returns an error if another program has changed the old file after the check. Returns the old content if the task
/// needs a backup or a restore.
fn prepare(path: &str, pending: &Pending, writer: &FsWriter) -> Result<Undo, ModuleError> {
    let meta = writer.reader().meta(path).map_err(|error| ModuleError::io(path, &error))?;
    if pending.expects.is_none() && meta.is_none() {
        return Ok(Undo { path: path.to_owned(), old: None });
    }
    let read = || writer.reader().read(path).map_err(|error| ModuleError::io(path, &error));
    let same = match (pending.expects, meta) {
        (Some(expected), Some(meta)) if meta.kind == towpath_host::FileKind::Link => {
            read()?.is_none_or(|(_, meta)| meta.version == expected)
        }
        (Some(expected), Some(meta)) => meta.version == expected,
        // The file was created or removed since the check. An earlier task of this batch may have created the file.
        (expected, found) => expected.is_some() == found.is_some(),
    };
    if !same {
        let message = format!(
            "cannot change {path}: another program has changed the path after the check; checking {path} again now"
        );
        return Err(ModuleError { message, disk: None, conflict: true });
    }
    if pending.validate_after.is_none() && !pending.backup {
        return Ok(Undo { path: path.to_owned(), old: None });
    }
    let attributes = writer.reader().attributes(path).map_err(|error| ModuleError::io(path, &error))?;
    let old = read()?
        .map(|(bytes, meta)| (bytes, Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) }, attributes));
    if let (true, Some((bytes, access, attributes))) = (pending.backup, &old) {
        let beside = format!("{path}.towpath-backup");
        writer.restore(&beside, bytes, *access, attributes).map_err(|error| ModuleError::io(&beside, &error))?;
    }
    Ok(Undo { path: path.to_owned(), old })
}

fn put_back(undo: Vec<Undo>, writer: &FsWriter) -> Outcome {
    for Undo { path, old } in undo {
        let done = match old {
            Some((bytes, access, attributes)) => writer.restore(&path, &bytes, access, &attributes),
            None => writer.remove(&path),
        };
        done.map_err(|error| {
            ModuleError::new(format!("cannot restore the old file {path} after the `validate` command failed: {error}"))
        })?;
    }
    Ok(())
}

/// Runs the `validate` command of a file.
///
/// # Errors
/// Returns an error if the command cannot be run, fails, takes longer than 60 s, or is cancelled.
pub fn validated(line: &str, cancel: &Cancel) -> Outcome {
    let invocation = Invocation {
        argv: vec!["/bin/sh".into(), "-c".into(), line.to_owned()],
        timeout: Some(std::time::Duration::from_secs(60)),
        ..Invocation::default()
    };
    let output = towpath_host::process::run(&invocation, cancel)
        .map_err(|error| ModuleError::new(format!("cannot run validate {line:?}: {error}")))?;
    if output.timed_out || output.cancelled {
        let why = if output.cancelled { "the agent stops" } else { "the command took longer than 60 s" };
        return Err(ModuleError::new(format!("the agent ended validate {line:?}: {why}; the old file is kept")));
    }
    if output.rc == 0 {
        return Ok(());
    }
    let said = if output.stderr.trim().is_empty() { output.stdout } else { output.stderr };
    let said: String = said.lines().take(5).collect::<Vec<_>>().join("; ");
    Err(ModuleError::new(format!("validate {line:?} ended with status {}: {said}; the old file is kept", output.rc)))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
