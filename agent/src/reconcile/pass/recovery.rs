//! Recovery after a crash of the agent, and after a rollback of the data store (P15).

use std::collections::BTreeSet;

use towpath_coordination::{
    fleet::{ElectedTask, Fleet},
    rollout::NodeClaims,
    store::StoreError,
};
use towpath_render::objects::{SegmentKind, task::Book, task_digest};
use towpath_state::{BookRecord, Changes, ElectionRecord, Intent, Journal, JournalError, RunProgress, SlotRef};

use super::{
    HostContext, batch, book_id,
    coordinated::{known_claim, remember_store_position, slot_of},
};
use crate::reconcile::{admission::Permit, revision::Revision, runs::Run};

/// Cleans up after a crash: removes temporary files, and validates files that the crash left without validation.
///
/// # Errors
/// Fails if the journal cannot be read or written.
pub(crate) fn recover(journal: &Journal, permit: Permit<'_>) -> Result<Option<Intent>, JournalError> {
    let writer = permit.writer();
    batch::check_unchecked(journal, writer)?;
    let Some(intent) = journal.get_readable::<Intent>(&())? else { return Ok(None) };
    for path in &intent.paths {
        if let Err(error) = writer.clear_temporary(path) {
            tracing::warn!(path, %error, "cannot remove a temporary file of an interrupted run");
        }
    }
    Ok(Some(intent))
}

/// Republishes the records of this node: votes, claims, failures and elections. Returns whether the records had to be
/// republished.
///
/// # Errors
/// Fails if the data store does not answer.
pub fn republish_claims(
    machine: &HostContext,
    journal: &Journal,
    fleet: &Fleet,
    revision: &Revision,
) -> Result<bool, StoreError> {
    if !fleet.check_needs_republish()? {
        return Ok(false);
    }
    for book in &revision.view.books {
        if let Some(run) = Run::of(&revision.set, &revision.id, &revision.manifest, book) {
            republish_book(machine, fleet, revision, book, &run)?;
        }
    }
    let known: Vec<String> = revision.set.all_nodes().into_iter().collect();
    fleet.acknowledge_recovery(&known)?;
    let mut changes = Changes::default();
    // The end of each run must be confirmed again after the data store was rolled back.
    for (book, record) in machine.records::<BookRecord>() {
        if let Some(progress) = record.progress {
            changes.set_progress(&book, RunProgress { completed: false, ..progress });
        }
    }
    remember_store_position(fleet, &mut changes);
    if let Err(error) = journal.commit(changes) {
        tracing::warn!(%error, "cannot record in the journal that the claims were republished");
    }
    Ok(true)
}

fn republish_book(
    machine: &HostContext,
    fleet: &Fleet,
    revision: &Revision,
    book: &Book,
    run: &Run,
) -> Result<(), StoreError> {
    let id = book_id(book);
    let BookRecord { progress, slot, .. } = machine.book(&id);
    let progress = progress.unwrap_or_default();
    let done = if progress.run == run.spec.run { progress.done } else { 0 };
    let voted: BTreeSet<u32> = (0..u32::try_from(done).unwrap_or(u32::MAX)).collect();
    let mut republished = BTreeSet::new();
    for index in 0..run.segments.len() {
        let spec = run.spec_of(index);
        let own = slot_of(spec, &revision.view.node);
        // A node holds a slot in only one partition of a budget, so the slot is not republished in other partitions.
        let elsewhere = |slot: &&SlotRef| slot.claim.is_some() && slot.budget == own.budget && !slot.is_in(&own);
        if slot.as_ref().filter(elsewhere).is_none() && republished.insert((own.budget.clone(), own.partition.clone()))
        {
            let claim = slot.as_ref().filter(|slot| slot.is_in(&own)).and_then(|slot| slot.claim.clone());
            let away = claim.map(known_claim);
            fleet.republish_claims(spec, &NodeClaims { away, voted: voted.clone() })?;
        }
    }
    for segment in run.segments.iter().filter(|segment| segment.kind == SegmentKind::Elected) {
        let Some(task) = book.tasks.get(segment.tasks.start) else { continue };
        let definition = task_digest(&revision.set, book, task);
        let ElectionRecord { begun, published, .. } = machine.record(&id.task(task.id.as_str())).unwrap_or_default();
        let found = published.filter(|published| published.definition == definition);
        if found.is_some() || begun.as_deref() == Some(definition.as_str()) {
            let elected_task = ElectedTask { spec: &run.spec, task: &task.id, definition: &definition };
            fleet.republish_election(elected_task, found.map(Into::into).as_ref())?;
        }
    }
    Ok(())
}
