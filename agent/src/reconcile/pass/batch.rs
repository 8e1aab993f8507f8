//! Adjacent file tasks, carried out together: intents and notifications reach the journal before the files do.

use std::collections::BTreeSet;

use towpath_coordination::Permit;
use towpath_host::journal::{AppliedItem, Changes, Intent, Journal, Original, Phase};
use towpath_modules::{ModuleError, Step, apply};

use super::Machine;

/// The change of one task that waits for its batch.
pub(super) struct Waiting {
    /// The task's place in the book's outcomes.
    pub(super) position: usize,
    /// What is to be done.
    pub(super) steps: Vec<Step>,
    /// Its identity in the journal: `module/identity`.
    pub(super) key: String,
    /// What is remembered once it is applied.
    pub(super) applied: AppliedItem,
    /// What is notified: the records of the handlers.
    pub(super) handlers: Changes,
}

/// Carries out a batch; gives for each task what came of it.
pub(super) fn carry_out(
    machine: &Machine,
    journal: &Journal,
    book: &str,
    waiting: Vec<Waiting>,
    permit: &Permit,
    cancel: &towpath_host::process::Cancel,
) -> Vec<(usize, Result<(), ModuleError>)> {
    // The permit is what allows the write side to be lent.
    let _: &Permit = permit;
    let hand = machine.hand();
    let mut first = Changes::default();
    let mut steps = Vec::new();
    let mut finished = Vec::new();
    for one in waiting {
        remember_originals(machine, journal, &one.steps, &mut first);
        first.append(one.handlers);
        steps.push(one.steps);
        finished.push((one.position, one.key, one.applied));
    }
    let mut first = Some(first);
    let outcomes = apply::batch(steps, &hand, cancel, &mut |phase, paths| {
        let phase = match phase {
            apply::Phase::Write => Phase::Write,
            apply::Phase::Sync => Phase::Sync,
            apply::Phase::Rename => Phase::Rename,
        };
        let mut changes = first.take().unwrap_or_default();
        changes.put("intent", &Intent { phase, book: book.to_owned(), paths: paths.to_vec() });
        journal.commit(changes).map_err(|error| journal_failed(&error))
    });
    let mut last = Changes::default();
    for ((_, key, applied), outcome) in finished.iter().zip(&outcomes) {
        if outcome.is_ok() {
            last.put(format!("applied/{key}"), applied);
            machine.set_applied(key, Some(applied.clone()));
        }
    }
    last.put("intent", &Intent { phase: Phase::Idle, book: book.to_owned(), paths: Vec::new() });
    let written = journal.commit(last).map_err(|error| journal_failed(&error));
    let positions = finished.into_iter().map(|(position, _, _)| position);
    positions.zip(outcomes).map(|(position, outcome)| (position, outcome.and(written.clone()))).collect()
}

/// Keeps what was at the paths before Towpath came, once.
fn remember_originals(machine: &Machine, journal: &Journal, steps: &[Step], changes: &mut Changes) {
    let mut seen = BTreeSet::new();
    for step in steps {
        let path = step.path();
        let key = format!("original/{path}");
        if !seen.insert(path) || matches!(journal.get::<Original>(&key), Ok(Some(_))) {
            continue;
        }
        if let Some(original) = original(machine, journal, path) {
            changes.put(key, &original);
        }
    }
}

fn original(machine: &Machine, journal: &Journal, path: &str) -> Option<Original> {
    let Some(meta) = machine.look.meta(path).ok()? else { return Some(Original::Nothing) };
    match meta.kind {
        towpath_host::FileKind::File => {
            let (bytes, meta) = machine.look.read(path).ok()??;
            let content = journal.keep_original(&bytes).ok()?;
            Some(Original::File { content, mode: meta.mode, uid: meta.uid, gid: meta.gid })
        }
        towpath_host::FileKind::Directory => {
            Some(Original::Directory { mode: meta.mode, uid: meta.uid, gid: meta.gid })
        }
        towpath_host::FileKind::Link => Some(Original::Link { target: machine.look.link(path).ok()?? }),
        towpath_host::FileKind::Other => Some(Original::Part),
    }
}

/// A journal that does not take an intent stops the effect.
pub(super) fn journal_failed(error: &towpath_host::journal::JournalError) -> ModuleError {
    use towpath_host::journal::JournalError;
    let disk = match error {
        JournalError::DiskFull { .. } => Some(towpath_modules::Disk::Full),
        JournalError::ReadOnly { .. } => Some(towpath_modules::Disk::ReadOnly),
        JournalError::Failed { .. } => None,
    };
    ModuleError { message: format!("{error}; nothing is changed without the journal"), disk }
}
