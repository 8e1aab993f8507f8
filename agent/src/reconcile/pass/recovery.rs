//! Recovery after a rollback of the data store: a node republishes its claims from its journal (P15).

use std::collections::BTreeSet;

use towpath_coordination::{
    fleet::{ElectedTask, Fleet, TaskResult},
    rollout::NodeClaims,
    store::StoreError,
};
use towpath_host::journal::{Changes, Journal};
use towpath_render::objects::{SegmentKind, task::Book, task_digest};

use super::{
    Machine,
    coordinated::{PROGRESS, Progress, SLOT, SlotOf, remember_horizon},
    elected::{begun_key, share_key},
};
use crate::reconcile::{revision::Revision, runs::Run};

/// Republishes the records of this node: votes, claims, failures, and begun or completed elections. Returns whether
/// that was necessary.
///
/// # Errors
/// If the store does not answer.
pub fn republish_claims(
    machine: &Machine,
    journal: &Journal,
    fleet: &Fleet,
    revision: &Revision,
) -> Result<bool, StoreError> {
    if !fleet.check_needs_republish()? {
        return Ok(false);
    }
    for book in &revision.view.books {
        if let Some(run) = Run::of(&revision.set, revision.generation, &revision.manifest, book) {
            book_anew(machine, fleet, revision, book, &run)?;
        }
    }
    let known: Vec<String> = revision.set.all_nodes().into_iter().collect();
    fleet.acknowledge_recovery(&known)?;
    let mut changes = Changes::default();
    // The end of each run must be confirmed again.
    for (book, progress) in machine.records::<Progress>(PROGRESS) {
        changes.put(format!("{PROGRESS}{book}"), &Progress { through: false, ..progress });
    }
    remember_horizon(fleet, &mut changes);
    if let Err(error) = journal.commit(changes) {
        tracing::warn!(%error, "the journal does not take that all was said anew");
    }
    Ok(true)
}

fn book_anew(machine: &Machine, fleet: &Fleet, revision: &Revision, book: &Book, run: &Run) -> Result<(), StoreError> {
    let id = book.id();
    let progress: Progress = machine.record(&format!("{PROGRESS}{id}")).unwrap_or_default();
    let slot: Option<SlotOf> = machine.record(&format!("{SLOT}{id}"));
    let done = if progress.run == run.spec.run { progress.done } else { 0 };
    let voted: BTreeSet<u32> = (0..u32::try_from(done).unwrap_or(u32::MAX)).collect();
    let mut said = BTreeSet::new();
    for index in 0..run.segments.len() {
        let spec = run.spec_of(index);
        let own = SlotOf::of(spec, &revision.view.node);
        // A slot is held in one partition of a budget. Another partition of the same budget would show it a second
        // time.
        let elsewhere = |slot: &&SlotOf| slot.away.is_some() && slot.group == own.group && !slot.is_in(&own);
        if slot.as_ref().filter(elsewhere).is_none() && said.insert((own.group.clone(), own.part.clone())) {
            let away = slot.as_ref().filter(|slot| slot.is_in(&own)).and_then(|slot| slot.away.clone());
            fleet.republish_claims(spec, &NodeClaims { away, voted: voted.clone() })?;
        }
    }
    for segment in run.segments.iter().filter(|segment| segment.kind == SegmentKind::Elected) {
        let Some(task) = book.tasks.get(segment.tasks.start) else { continue };
        let definition = task_digest(&revision.set, book, task);
        let found: Option<(String, TaskResult)> = machine.record(&share_key(book, task));
        let found = found.filter(|(known, _)| *known == definition).map(|(_, found)| found);
        let begun: Option<String> = machine.record(&begun_key(book, task));
        if found.is_some() || begun.as_deref() == Some(definition.as_str()) {
            let errand = ElectedTask { spec: &run.spec, task: &task.id, definition: &definition };
            fleet.republish_election(errand, found.as_ref())?;
        }
    }
    Ok(())
}
