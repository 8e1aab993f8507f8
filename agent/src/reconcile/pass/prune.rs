//! What a book managed and no longer mentions: removed where the book says so, and what was there before put back.

use std::collections::BTreeSet;

use serde_json::Value;
use towpath_coordination::{Gates, Permit};
use towpath_host::{
    files::Access,
    journal::{AppliedItem, Changes, Inventory, Managed, Original},
};
use towpath_modules::{Checked, apply, resolve};
use towpath_render::{objects::task::Book, words::Count};

use super::{
    Pass, inventories,
    outcome::{BookOutcome, Outcome, TaskOutcome},
};

/// The part of an inventory that may be removed in one pass, in percent, unless the book says more.
const BUDGET: u64 = 20;

/// Remembers what a book manages, though not all of it may be known.
pub(super) fn remember(pass: &Pass<'_>, book: &Book, managed: &BTreeSet<Managed>, changes: &mut Changes) {
    let key = format!("inventory/{}", book.id());
    let old: Inventory = pass.machine.record(&key).unwrap_or_default();
    let mut items = old.items.clone();
    items.extend(managed.iter().cloned());
    let new = Inventory { items, prune: book.prune, budget: book.prune_budget.clone() };
    if new != old {
        changes.put(key, &new);
    }
}

/// Removes what a book no longer mentions, and remembers what it manages.
pub(super) fn mentioned_no_more(
    pass: &Pass<'_>,
    book: &Book,
    managed: &BTreeSet<Managed>,
    permit: &Permit,
    changes: &mut Changes,
) -> Vec<TaskOutcome> {
    let key = format!("inventory/{}", book.id());
    let old: Inventory = pass.machine.record(&key).unwrap_or_default();
    let gone: BTreeSet<Managed> = old.items.difference(managed).cloned().collect();
    let mut kept = managed.clone();
    let mut outcomes = Vec::new();
    if book.prune && !gone.is_empty() {
        let (removed, said) = remove_within_budget(
            pass,
            &book.id(),
            &gone,
            old.items.len(),
            book.prune_budget.as_deref(),
            permit,
            changes,
        );
        kept.extend(gone.difference(&removed).cloned());
        outcomes = said;
    } else if !book.prune {
        forget(pass, &gone, changes);
    }
    let new = Inventory { items: kept, prune: book.prune, budget: book.prune_budget.clone() };
    if new != old {
        changes.put(key, &new);
    }
    outcomes
}

/// Without prune, what is no longer mentioned stays as it is, and is no longer known.
fn forget(pass: &Pass<'_>, gone: &BTreeSet<Managed>, changes: &mut Changes) {
    for managed in gone.iter().filter(|managed| !managed_elsewhere(pass, "", managed)) {
        forget_one(pass, managed, changes);
    }
}

fn forget_one(pass: &Pass<'_>, managed: &Managed, changes: &mut Changes) {
    let key = format!("{}/{}", managed.module, managed.identity);
    changes.delete(format!("applied/{key}"));
    pass.machine.set_applied(&key, None);
    if managed.module == "file" {
        changes.delete(format!("original/{}", managed.identity));
    }
}

/// Whether another book manages a thing too: it was moved from one book to another.
fn managed_elsewhere(pass: &Pass<'_>, book: &str, managed: &Managed) -> bool {
    inventories(pass.machine).iter().any(|(id, inventory)| {
        id != book && inventory.items.contains(managed) && pass.view.books.iter().any(|book| book.id() == *id)
    })
}

/// Removes things, unless they are too many; gives those that are gone, and what there is to say.
fn remove_within_budget(
    pass: &Pass<'_>,
    book: &str,
    gone: &BTreeSet<Managed>,
    all: usize,
    budget: Option<&str>,
    permit: &Permit,
    changes: &mut Changes,
) -> (BTreeSet<Managed>, Vec<TaskOutcome>) {
    let budget =
        budget.and_then(|text| Count::read(&Value::String(text.to_owned())).ok()).unwrap_or(Count::Percent(BUDGET));
    let allowed = budget.at_least_one(all as u64);
    let mine: Vec<&Managed> = gone.iter().filter(|managed| !managed_elsewhere(pass, book, managed)).collect();
    if mine.len() as u64 > allowed {
        let message = format!(
            "{} of {all} managed things would be removed, and at most {allowed} may be in one pass; remove fewer at a time, or set pruneBudget in the book",
            mine.len()
        );
        return (BTreeSet::new(), vec![TaskOutcome::new("prune".into(), "prune", Outcome::Held).say(message)]);
    }
    let mut removed: BTreeSet<Managed> =
        gone.iter().filter(|managed| managed_elsewhere(pass, book, managed)).cloned().collect();
    let mut outcomes = Vec::new();
    // Inner paths go before the directories that hold them.
    for managed in mine.into_iter().rev() {
        let name = format!("prune {} {}", managed.module, managed.identity);
        match remove(pass, managed, permit) {
            Ok(message) => {
                forget_one(pass, managed, changes);
                removed.insert(managed.clone());
                let mut outcome = TaskOutcome::new(name, &managed.module, Outcome::Changed).say(message);
                outcome.action = "remove";
                outcomes.push(outcome);
            }
            Err(message) => outcomes.push(TaskOutcome::new(name, &managed.module, Outcome::Failed).say(message)),
        }
    }
    (removed, outcomes)
}

fn remove(pass: &Pass<'_>, managed: &Managed, permit: &Permit) -> Result<String, String> {
    // The permit is what allows the write side to be lent.
    let _: &Permit = permit;
    let hand = pass.machine.hand();
    let path = managed.identity.as_str();
    if let Some(params) = pass
        .machine
        .applied(&format!("{}/{}", managed.module, managed.identity))
        .and_then(|applied: AppliedItem| applied.undo)
    {
        let options = resolve(&managed.module, &params)
            .map_err(|problems| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; "))?;
        let context = towpath_modules::Context {
            look: &pass.machine.look,
            source: None,
            node: &pass.machine.node,
            timeout: std::time::Duration::from_secs(60),
            cancel: pass.cancel,
        };
        if let Checked::Change(change) = options.check(&context).map_err(|error| error.message)? {
            apply::all(change.steps, &hand, pass.cancel).map_err(|error| error.message)?;
        }
        return Ok("it was taken out again".into());
    }
    if managed.module != "file" {
        return Ok("it is no longer managed".into());
    }
    let failed = |error: std::io::Error| format!("{path}: {error}");
    match pass.machine.record::<Original>(&format!("original/{path}")) {
        Some(Original::File { content, mode, uid, gid }) => {
            let journal = pass.machine.journal.as_ref().ok_or("there is no journal")?;
            let bytes = journal.original(&content).ok_or_else(|| {
                format!("{path}: what was there before can't be found any more; the file stays as it is")
            })?;
            hand.replace(path, &bytes, Access { mode, uid: Some(uid), gid: Some(gid) }).map_err(failed)?;
            Ok("what was there before was put back".into())
        }
        Some(Original::Link { target }) => {
            hand.link(path, &target).map_err(failed)?;
            Ok("the link that was there before was put back".into())
        }
        Some(Original::Directory { mode, uid, gid }) => {
            hand.grant(path, Access { mode, uid: Some(uid), gid: Some(gid) }).map_err(failed)?;
            Ok("the directory was there before, and stays".into())
        }
        Some(Original::Nothing) => {
            let directory = pass
                .machine
                .look
                .meta(path)
                .map_err(failed)?
                .is_some_and(|meta| meta.kind == towpath_host::FileKind::Directory);
            if !directory {
                hand.remove(path).map_err(failed)?;
                return Ok("it was removed".into());
            }
            let empty = hand.remove_empty_directory(path).map_err(failed)?;
            Ok(if empty {
                "the empty directory was removed".into()
            } else {
                "the directory is not empty, and stays".into()
            })
        }
        // Nothing was changed there: it was as it should be when Towpath came.
        Some(Original::Part) | None => Ok("it was there before, and stays".into()),
    }
}

/// Books that this node no longer has: what they managed is removed as they last said.
pub(super) fn abandoned_books(pass: &Pass<'_>) -> Vec<BookOutcome> {
    let mut outcomes = Vec::new();
    let present: BTreeSet<String> = pass.view.books.iter().map(|book| book.id()).collect();
    for (id, inventory) in inventories(pass.machine).into_iter().filter(|(id, _)| !present.contains(id)) {
        let (namespace, name) = id.split_once('/').unwrap_or(("", &id));
        let mut book = BookOutcome {
            namespace: namespace.into(),
            name: name.into(),
            tasks: Vec::new(),
            held: Vec::new(),
            started: pass.machine.clock.wall(),
            took: std::time::Duration::ZERO,
            interrupted: false,
            uncoordinated: false,
        };
        if pass.plan {
            if inventory.prune {
                book.tasks = inventory
                    .items
                    .iter()
                    .map(|managed| TaskOutcome {
                        action: "remove",
                        ..TaskOutcome::new(
                            format!("prune {} {}", managed.module, managed.identity),
                            &managed.module,
                            Outcome::Unchanged,
                        )
                    })
                    .collect();
                outcomes.push(book);
            }
            continue;
        }
        let Ok(permit) = Gates::default().pass() else { continue };
        let mut changes = Changes::default();
        let key = format!("inventory/{id}");
        if inventory.prune {
            let (removed, said) = remove_within_budget(
                pass,
                &id,
                &inventory.items,
                inventory.items.len().max(all_items(pass)),
                inventory.budget.as_deref(),
                &permit,
                &mut changes,
            );
            let left: BTreeSet<Managed> = inventory.items.difference(&removed).cloned().collect();
            if left.is_empty() {
                changes.delete(key);
            } else {
                changes.put(key, &Inventory { items: left, ..inventory });
            }
            book.tasks = said;
        } else {
            forget(pass, &inventory.items, &mut changes);
            changes.delete(key);
        }
        if let Some(Err(error)) = pass.machine.journal.as_ref().map(|journal| journal.commit(changes)) {
            book.tasks.push(TaskOutcome::new("journal".into(), "journal", Outcome::Failed).say(error.to_string()));
        }
        if !book.tasks.is_empty() {
            outcomes.push(book);
        }
    }
    outcomes
}

/// Everything that the node manages: the budget of a book that is gone as a whole is measured against it.
fn all_items(pass: &Pass<'_>) -> usize {
    inventories(pass.machine).values().map(|inventory| inventory.items.len()).sum()
}
