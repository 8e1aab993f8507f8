//! Applies adjacent file tasks as one batch. The agent writes intents and notifications to the journal before it writes
//! the files.

use std::{collections::BTreeSet, path::PathBuf};

use towpath_host::{FsReader, FsWriter, files::Access, walk::RefusedLink};
use towpath_modules::{ModuleError, Step, apply};
use towpath_state::{AppliedItem, Changes, Intent, Journal, JournalError, Managed, Original, Phase, Unchecked, kinds};

use super::HostContext;
use crate::reconcile::admission::Permit;

/// The change of one task, ready to be applied in a batch.
pub(in crate::reconcile) struct Waiting {
    /// The position of the task in the set of changes.
    pub(in crate::reconcile) position: usize,
    /// The steps of the change, in order.
    pub(in crate::reconcile) steps: Vec<Step>,
    /// The key of the managed item in the journal.
    pub(in crate::reconcile) key: Managed,
    /// The record of the item after the change.
    pub(in crate::reconcile) applied: AppliedItem,
    /// The records of the handlers that the task notifies.
    pub(in crate::reconcile) handlers: Changes,
}

/// Applies a batch of changes. Returns one result for each task.
pub(in crate::reconcile) fn carry_out(
    machine: &HostContext,
    journal: &Journal,
    book: &str,
    waiting: Vec<Waiting>,
    permit: Permit<'_>,
    cancel: &towpath_host::process::Cancel,
) -> Vec<(usize, Result<(), ModuleError>)> {
    let writer = permit.writer();
    let mut first = Changes::default();
    let mut last = Changes::default();
    let mut steps = Vec::new();
    let mut finished = Vec::new();
    let mut refused = Vec::new();
    for one in waiting {
        if let Err(error) = remember_originals(machine, journal, &one.steps, &mut first) {
            refused.push((one.position, Err(error)));
            continue;
        }
        if let Err(error) = mark_unchecked(machine, journal, &one.steps, &mut first, &mut last) {
            refused.push((one.position, Err(error)));
            continue;
        }
        first.append(one.handlers);
        steps.push(one.steps);
        finished.push((one.position, one.key, one.applied));
    }
    let mut first = Some(first);
    let outcomes = apply::batch(steps, writer, cancel, &mut |phase, paths| {
        let phase = match phase {
            apply::Phase::Write => Phase::Write,
            apply::Phase::Sync => Phase::Sync,
            apply::Phase::Rename => Phase::Rename,
        };
        let mut changes = first.take().unwrap_or_default();
        changes.set(&Intent { phase, book: book.to_owned(), paths: paths.to_vec() });
        journal.commit(changes).map_err(|error| journal_failed(&error))
    });
    for ((_, key, applied), outcome) in finished.iter().zip(&outcomes) {
        if outcome.is_ok() {
            last.put(key, applied);
            machine.set_applied(key, Some(applied.clone()));
        }
    }
    last.set(&Intent::idle(book.to_owned()));
    let written = journal.commit(last).map_err(|error| journal_failed(&error));
    let positions = finished.into_iter().map(|(position, _, _)| position);
    refused.extend(positions.zip(outcomes).map(|(position, outcome)| (position, outcome.and(written.clone()))));
    refused
}

/// Saves the original content of each path before the agent changes the path for the first time. The agent does not
/// change a path if the content of the path cannot be saved.
fn remember_originals(
    machine: &HostContext,
    journal: &Journal,
    steps: &[Step],
    changes: &mut Changes,
) -> Result<(), ModuleError> {
    let mut seen = BTreeSet::new();
    for step in steps.iter().filter(|step| !step.path().is_empty()) {
        let (path, reader) = real_path(machine, step)?;
        if !seen.insert(path.clone())
            || journal.get_readable::<Original>(&path).map_err(|error| journal_failed(&error))?.is_some()
        {
            continue;
        }
        changes.put(&path, &original(&reader, journal, &path)?);
    }
    Ok(())
}

/// Records the files that can be validated only in their final location, and therefore only after the write. After a
/// crash, the agent validates the recorded files at its next start.
fn mark_unchecked(
    machine: &HostContext,
    journal: &Journal,
    steps: &[Step],
    before: &mut Changes,
    after: &mut Changes,
) -> Result<(), ModuleError> {
    for step in steps {
        let Step::Write { validate: Some(line), .. } = step.inner() else { continue };
        if line.contains("%s") {
            continue;
        }
        let (path, reader) = real_path(machine, step)?;
        before.put(&path, &Unchecked { validate: line.clone(), old: original(&reader, journal, &path)? });
        after.delete::<kinds::Unchecked>(&path);
    }
    Ok(())
}

/// Validates the files that a crash left without validation. The agent restores the earlier content of invalid files.
pub(in crate::reconcile) fn check_unchecked(journal: &Journal, writer: &FsWriter) -> Result<(), JournalError> {
    let cancel = towpath_host::process::Cancel::default();
    for (path, record) in journal.all::<Unchecked>()? {
        if let Err(error) = apply::validated(&record.validate, &cancel) {
            tracing::warn!(
                path,
                "restoring an invalid file that was written before the agent was interrupted: {error}"
            );
            let done = match &record.old {
                Original::File { content, mode, uid, gid, attributes } => match journal.original(content) {
                    Some(bytes) => {
                        let access = Access { mode: *mode, uid: Some(*uid), gid: Some(*gid) };
                        writer.restore(&path, &bytes, access, attributes)
                    }
                    None => Ok(()),
                },
                Original::Link { target } => writer.link(&path, target),
                Original::Nothing => writer.remove(&path),
                Original::Directory { .. } | Original::Part => Ok(()),
            };
            if let Err(error) = done {
                tracing::error!(path, %error, "cannot restore the file");
                continue;
            }
        }
        let mut changes = Changes::default();
        changes.delete::<kinds::Unchecked>(&path);
        journal.commit(changes)?;
    }
    Ok(())
}

/// Returns the path that a step changes, after links are resolved, and the file reader for this path. A step that
/// writes through a link changes the target of the link.
fn real_path(machine: &HostContext, step: &Step) -> Result<(String, FsReader), ModuleError> {
    let path = step.path();
    let io = |error: std::io::Error| ModuleError::io(path, &error);
    if let Step::Within { folder, .. } = step {
        let base = machine.reader.resolved(folder, true).map_err(io)?;
        let real = format!("{base}{}", path.strip_prefix(folder.as_str()).unwrap_or(path));
        return Ok((real, machine.reader.plain_below(&base)));
    }
    let through = matches!(step, Step::Write { .. } | Step::Grant { .. });
    Ok((machine.reader.resolved(path, through).map_err(io)?, machine.reader.clone()))
}

/// Returns the path on the host that a step changes. Returns `None` if the path cannot be resolved.
pub(in crate::reconcile) fn changed_path(machine: &HostContext, step: &Step) -> Option<PathBuf> {
    let (path, _) = real_path(machine, step).ok()?;
    Some(machine.reader.real_path(&path))
}

fn original(reader: &FsReader, journal: &Journal, path: &str) -> Result<Original, ModuleError> {
    let io = |error: std::io::Error| ModuleError::io(path, &error);
    let meta = match reader.meta(path) {
        // An earlier step of the change removes the link.
        Err(error) if RefusedLink::is_plain(&error) => None,
        found => found.map_err(io)?,
    };
    let Some(meta) = meta else { return Ok(Original::Nothing) };
    Ok(match meta.kind {
        towpath_host::FileKind::File => match reader.read(path).map_err(io)? {
            Some((bytes, meta)) => {
                let content = journal.keep_original(&bytes).map_err(|error| journal_failed(&error))?;
                let attributes = reader.attributes(path).map_err(io)?;
                Original::File { content, mode: meta.mode, uid: meta.uid, gid: meta.gid, attributes }
            }
            None => Original::Nothing,
        },
        towpath_host::FileKind::Directory => Original::Directory { mode: meta.mode, uid: meta.uid, gid: meta.gid },
        towpath_host::FileKind::Link => Original::Link { target: reader.link(path).map_err(io)?.unwrap_or_default() },
        towpath_host::FileKind::Other => Original::Part,
    })
}

/// Returns the error of a change whose intent cannot be written to the journal. The agent makes no change without a
/// recorded intent.
pub(in crate::reconcile) fn journal_failed(error: &JournalError) -> ModuleError {
    let disk = match error {
        JournalError::DiskFull { .. } => Some(towpath_modules::Disk::Full),
        JournalError::ReadOnly { .. } => Some(towpath_modules::Disk::ReadOnly),
        JournalError::Damaged { .. } | JournalError::Unreadable { .. } | JournalError::Failed { .. } => None,
    };
    ModuleError {
        message: format!("{error}; the agent changes nothing until it can write the journal"),
        disk,
        conflict: false,
    }
}
