//! Removes items that a TaskBook no longer mentions, and restores the original state of these items.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use towpath_host::{FsWriter, files::Access};
use towpath_modules::{Context, Problem, Resource, apply_batch, path_module, resolve};
use towpath_reconcile::{
    Outcome,
    command::{Removal, Removed},
    names::Managed as ManagedItem,
};
use towpath_state::{BookId, BookRecord, Changes, Inventory, Managed, Original, kinds};

use super::{Session, invoke::execute};
use crate::reconcile::{
    admission::Permit,
    pass::{PassContext, batch, book_id},
};

/// Removes items in the given order, and deletes the records of items that leave the inventory.
///
/// # Errors
/// Fails if the journal cannot record the removal.
pub(super) fn remove(session: &Session<'_>, removal: &Removal, permit: Permit<'_>) -> Result<Vec<Removed>, String> {
    let writer = permit.writer();
    let mut changes = Changes::default();
    let mut gone: BTreeSet<Managed> = removal.moved.iter().map(managed).collect();
    for item in &removal.forget {
        let item = managed(item);
        forget_one(session, &item, &mut changes);
        gone.insert(item);
    }
    let items: Vec<Managed> = removal.remove.iter().map(managed).collect();
    let mut batches: BTreeMap<&str, BTreeSet<&Managed>> = BTreeMap::new();
    let mut removed = Vec::new();
    for item in &items {
        let done = remove_one(session, &items, item, &mut batches, writer);
        if done.is_ok() {
            forget_one(session, item, &mut changes);
            gone.insert(item.clone());
        }
        let outcome = if done.is_ok() { Outcome::Changed } else { Outcome::Failed };
        let message = Some(done.unwrap_or_else(|message| message));
        let item = ManagedItem { module: item.module.clone(), identity: item.identity.clone() };
        removed.push(Removed { item, outcome, message });
    }
    let machine = session.machine();
    let old: Inventory = machine.record(&session.id).unwrap_or_default();
    let items = old.items.difference(&gone).cloned().collect();
    let (prune, budget) = (session.book.prune, session.book.prune_budget.clone());
    let new = Inventory { items, prune, budget, rollout: old.rollout.clone() };
    // The tasks after the removal of a deleted TaskBook still need its last rollout.
    let ends = session.book.rollout.before.is_empty() && session.book.rollout.after.is_empty();
    if new.items.is_empty() && session.last.is_some() && ends {
        changes.delete::<kinds::Inventory>(&session.id);
    } else if new != old {
        changes.put(&session.id, &new);
    }
    let Some(journal) = &machine.journal else { return Ok(removed) };
    journal.commit(changes).map_err(|error| session.failed(batch::journal_failed(&error)))?;
    Ok(removed)
}

fn managed(item: &ManagedItem) -> Managed {
    Managed { module: item.module.clone(), identity: item.identity.clone() }
}

/// Removes an item. Items of a module with transactions are removed together, because packages may depend on one
/// another.
fn remove_one<'m>(
    session: &Session<'_>,
    all: &'m [Managed],
    item: &'m Managed,
    batches: &mut BTreeMap<&'m str, BTreeSet<&'m Managed>>,
    writer: &FsWriter,
) -> Result<String, String> {
    let (machine, book) = (session.machine(), session.book.id());
    let begin = |task: &str| machine.module_cache.activity.begin(&book, task, machine.clock.monotonic());
    let has_batch = matches!(undo(session, item), Ok(Some(undo)) if undo.batch().is_some());
    let transaction = has_batch.then(|| {
        batches.entry(&item.module).or_insert_with(|| {
            let task = format!("prune {}s", item.module);
            let _work = begin(&task);
            let all: Vec<&Managed> = all.iter().collect();
            remove_transaction(session, &all, &item.module, &task, writer)
        })
    });
    if transaction.is_some_and(|transaction| transaction.contains(item)) {
        return Ok(TAKEN_OUT.to_owned());
    }
    let name = format!("prune {} {}", item.module, item.identity);
    let _work = begin(&name);
    restore(session, item, &name, writer)
}

/// The message for an item that the agent removed with the undo record of the item.
const TAKEN_OUT: &str = "the item was removed, because the agent had added it";

/// Returns the desired state that removes an item, read from the undo record of the item. Returns `None` if the record
/// of the item has no undo.
fn undo(session: &Session<'_>, managed: &Managed) -> Result<Option<Arc<dyn Resource>>, String> {
    let Some(params) = session.machine().applied(managed).and_then(|applied| applied.undo) else { return Ok(None) };
    let said = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>();
    resolve(&managed.module, &params).map(Some).map_err(|problems| said(problems).join("; "))
}

fn context<'t>(session: &'t Session<'_>, task: &'t str) -> Context<'t> {
    let pass = session.pass;
    Context {
        reader: &pass.machine.reader,
        source: None,
        node: &pass.machine.node,
        task,
        timeout: Duration::from_secs(600),
        cancel: pass.cancel,
        cache: &pass.machine.module_cache,
    }
}

/// Removes the items of a module in one transaction, because packages may depend on one another. Returns the removed
/// items.
fn remove_transaction<'m>(
    session: &Session<'_>,
    gone: &[&'m Managed],
    module: &str,
    task: &str,
    writer: &FsWriter,
) -> BTreeSet<&'m Managed> {
    let of_module = gone.iter().copied().filter(|managed| managed.module == module);
    let mut found: Vec<(&Managed, Arc<dyn Resource>)> =
        of_module.filter_map(|managed| Some((managed, undo(session, managed).ok()??))).collect();
    let batch = found.first().and_then(|(_, first)| first.batch());
    found.retain(|(_, undo)| batch.is_some() && undo.batch() == batch);
    if found.len() < 2 {
        return BTreeSet::new();
    }
    let undos: Vec<&dyn Resource> = found.iter().map(|(_, undo)| &**undo).collect();
    match apply_batch(&undos, &context(session, task), writer) {
        Ok(()) => found.iter().map(|(managed, _)| *managed).collect(),
        Err(error) => {
            tracing::info!("the transaction failed; removing the items of {module} one by one: {error}");
            BTreeSet::new()
        }
    }
}

fn restore(session: &Session<'_>, managed: &Managed, task: &str, writer: &FsWriter) -> Result<String, String> {
    let path = managed.identity.as_str();
    if let Some(options) = undo(session, managed)? {
        let report = execute(&*options, &context(session, task), writer, session.pass.cancel);
        let report = report.map_err(|error| error.message)?;
        if !report.ok {
            return Err(report.message.unwrap_or_else(|| "cannot remove the item again".into()));
        }
        return Ok(TAKEN_OUT.into());
    }
    if managed.module != path_module() {
        return Ok("the item is no longer managed".into());
    }
    let failed = |error: std::io::Error| format!("{path}: {error}");
    // Recorded paths contain no links. If a parent folder has become a link, the path now leads to another file.
    let real = writer.reader().resolved(path, true).map_err(failed)?;
    let itself = writer.reader().resolved(path, false).map_err(failed)?;
    let original = |at: &str| session.machine().record::<Original>(&at.to_owned());
    let (path, original) = match original(path) {
        Some(_) if itself != path => {
            return Ok("a parent folder is a link now; the target of the link is not changed".into());
        }
        Some(found) => (path, Some(found)),
        None => match original(&itself) {
            Some(found) => (itself.as_str(), Some(found)),
            None => (real.as_str(), original(&real)),
        },
    };
    let meta = writer.reader().meta(path).map_err(failed)?;
    let directory = meta.is_some_and(|meta| meta.kind == towpath_host::FileKind::Directory);
    match original {
        Some(Original::File { .. } | Original::Link { .. }) if directory => {
            Ok("the path is a directory now, and the directory is kept".into())
        }
        Some(Original::File { content, mode, uid, gid, attributes }) => {
            let journal = session.machine().journal.as_ref().ok_or("there is no journal")?;
            let bytes = journal.original(&content).ok_or_else(|| {
                format!(
                    "cannot restore {path}: the journal no longer contains the original content; \
                    the file stays unchanged"
                )
            })?;
            let access = Access { mode, uid: Some(uid), gid: Some(gid) };
            writer.restore(path, &bytes, access, &attributes).map_err(failed)?;
            Ok("the original file was restored".into())
        }
        Some(Original::Link { target }) => {
            writer.link(path, &target).map_err(failed)?;
            Ok("the original link was restored".into())
        }
        Some(Original::Directory { mode, uid, gid }) => {
            writer.make_directory(path, 0o755).map_err(failed)?;
            writer.set_permissions(path, Access { mode, uid: Some(uid), gid: Some(gid) }).map_err(failed)?;
            Ok("the directory existed before Towpath managed it, and is kept".into())
        }
        Some(Original::Nothing) => {
            if !directory {
                writer.remove(path).map_err(failed)?;
                return Ok("it was removed".into());
            }
            let empty = writer.remove_empty_directory(path).map_err(failed)?;
            Ok(if empty {
                "the empty directory was removed".into()
            } else {
                "the directory is not empty, and is kept".into()
            })
        }
        // An item without an original was in sync from the start, so Towpath never changed this item.
        Some(Original::Part) | None => Ok("the item existed before Towpath managed it, and is kept".into()),
    }
}

fn forget_one(session: &Session<'_>, managed: &Managed, changes: &mut Changes) {
    changes.delete::<kinds::Applied>(managed);
    session.machine().set_applied(managed, None);
    if managed.module == path_module() {
        changes.delete::<kinds::Original>(&managed.identity);
    }
}

/// Returns the deleted TaskBooks whose removal keeps this node out of service. A deleted TaskBook keeps the node out of
/// service if its removal failed or has begun. A TaskBook that keeps the node out of service also keeps its slot.
pub(super) fn out_of_service(pass: &PassContext<'_>) -> BTreeSet<BookId> {
    let is_present = |id: &BookId| pass.view.books.iter().any(|book| book_id(book) == *id);
    let books = pass.machine.records::<BookRecord>().into_iter();
    let gone = books.filter(|(id, book)| !is_present(id) && is_out_of_service(pass, id, book));
    gone.map(|(id, _)| id).collect()
}

fn is_out_of_service(pass: &PassContext<'_>, id: &BookId, book: &BookRecord) -> bool {
    // A started segment takes the node out of service only if tasks run before or after it.
    let has_tasks = || {
        let last = pass.machine.record::<Inventory>(id).and_then(|inventory| inventory.rollout);
        last.is_some_and(|last| !last.before.is_empty() || !last.after.is_empty())
    };
    book.removal_failed || book.segment.is_some() && has_tasks()
}

/// Deletes the inventory of a deleted TaskBook, after all items are removed and the node is in service again. Returns
/// whether the removal has ended.
pub(super) fn forget_gone(pass: &PassContext<'_>, id: &BookId) -> bool {
    if is_out_of_service(pass, id, &pass.machine.book(id)) {
        return false;
    }
    let record = pass.machine.record::<Inventory>(id);
    if let (Some(journal), Some(_)) = (&pass.machine.journal, record.filter(|record| record.items.is_empty())) {
        let mut changes = Changes::default();
        changes.delete::<kinds::Inventory>(id);
        if let Err(error) = journal.commit(changes) {
            tracing::warn!(%error, book = %id, "cannot delete the inventory of a deleted TaskBook; retrying");
        }
    }
    true
}
