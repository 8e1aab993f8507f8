//! Pruning: items that a book no longer mentions are removed, and their originals restored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use towpath_host::files::Access;
use towpath_modules::{Context, Problem, Resource, apply_batch, path_module, resolve};
use towpath_render::{objects::task::Book, view::PruneBudget};
use towpath_state::{BookId, Changes, HandlerRecord, Inventory, Managed, Original, kinds};

use super::{
    Pass, actions, book_id,
    coordinated::NotBegun,
    framed::framed,
    inventories,
    outcome::{BookOutcome, Origin, Outcome, TaskOutcome},
};

/// Adds managed items to the inventory of a book. Known items stay, as the new list may be incomplete.
pub(super) fn remember(pass: &Pass<'_>, book: &Book, managed: &BTreeSet<Managed>, changes: &mut Changes) {
    let key = book_id(book);
    let old: Inventory = pass.machine.record(&key).unwrap_or_default();
    let mut items = old.items.clone();
    items.extend(managed.iter().cloned());
    let new = Inventory { items, prune: book.prune, budget: book.prune_budget.clone() };
    if new != old {
        changes.put(&key, &new);
    }
}

/// Prunes items that books no longer mention, and items of books that are gone. If the items of any book of this node
/// are unknown, nothing is pruned: an item may have moved to that book.
pub(super) fn all(
    pass: &Pass<'_>,
    managed: &BTreeMap<String, Option<BTreeSet<Managed>>>,
    books: &mut Vec<BookOutcome>,
) {
    let known = managed.iter().map(|(id, managed)| Some((id.as_str(), managed.as_ref()?)));
    // A held object is not removed from git, so nothing is pruned meanwhile.
    let known = known.collect::<Option<BTreeMap<&str, &BTreeSet<Managed>>>>().filter(|_| pass.set.held.is_empty());
    let Some(managed) = known else { return none_now(pass, books) };
    let everything: BTreeSet<&Managed> = managed.values().copied().flatten().collect();
    for book in &pass.view.books {
        let Some(mine) = managed.get(book.id().as_str()) else { continue };
        let outcomes = mentioned_no_more(pass, book, mine, &everything);
        if let Some(ran) = books.iter_mut().find(|ran| ran.namespace == book.namespace && ran.name == book.name) {
            ran.tasks.extend(outcomes);
        }
    }
    books.extend(abandoned_books(pass, &everything));
}

/// Ends failed removals in a pass that cannot prune. The nodes that they kept out of service return. The next attempt
/// may be far off, and a rollout must not wait for it.
fn none_now(pass: &Pass<'_>, books: &mut [BookOutcome]) {
    for book in pass.view.books.iter().filter(|book| !pass.plan && removal_failed(pass, book)) {
        let mut changes = Changes::default();
        let (ended, mut outcomes) = framed(pass, book, false, || ((), false));
        match ended {
            Ok(()) => over(pass, &book_id(book), &mut changes),
            Err(why) => outcomes.push(not_begun(&why)),
        }
        outcomes.extend(commit(pass, changes));
        if let Some(ran) = books.iter_mut().find(|ran| ran.namespace == book.namespace && ran.name == book.name) {
            ran.tasks.extend(outcomes);
        }
    }
}

/// Prunes items that a book no longer mentions.
fn mentioned_no_more(
    pass: &Pass<'_>,
    book: &Arc<Book>,
    managed: &BTreeSet<Managed>,
    everything: &BTreeSet<&Managed>,
) -> Vec<TaskOutcome> {
    let key = book_id(book);
    let old: Inventory = pass.machine.record(&key).unwrap_or_default();
    let gone: BTreeSet<Managed> = old.items.difference(managed).cloned().collect();
    let waits = removal_failed(pass, book);
    if gone.is_empty() && !waits {
        return Vec::new();
    }
    let mut changes = Changes::default();
    let mut kept = managed.clone();
    let mut outcomes = Vec::new();
    let (id, all) = (book.id(), items_of_node(&inventories(pass.machine)));
    let budget = PruneBudget::of(pass.set, &book.namespace, &book.name, None);
    let removal = Removal { book: &id, gone: &gone, everything, all, budget };
    let owed = book.prune && removal.count() > 0;
    if book.prune {
        let mut unfinished = false;
        let (done, around) = if pass.plan || !owed || removal.refused().is_some() {
            (Ok(removal.carry_out(pass, &mut changes)), Vec::new())
        } else {
            framed(pass, book, true, || {
                let done = removal.carry_out(pass, &mut changes);
                let failed = done.1.iter().any(|outcome| outcome.outcome == Outcome::Failed);
                unfinished = failed || waits && done.0.len() < gone.len();
                if unfinished && !waits {
                    // Recorded before the fleet learns of the failure, so that a crash in between does not return the
                    // node to service.
                    let mut mark = Changes::default();
                    mark.set_removal_failed(&key, true);
                    outcomes.extend(commit(pass, mark));
                }
                (done, unfinished)
            })
        };
        outcomes.extend(around);
        if !unfinished && waits && owed && done.is_ok() && removal.refused().is_none() {
            over(pass, &key, &mut changes);
        }
        let (removed, said) = done.unwrap_or_else(|why| (BTreeSet::new(), vec![not_begun(&why)]));
        kept.extend(gone.difference(&removed).cloned());
        outcomes.extend(said);
    } else {
        forget(pass, &gone, everything, &mut changes);
    }
    if pass.plan {
        return outcomes;
    }
    if waits && !owed {
        // Nothing is left to remove. The node ends what the failed removal began, and returns to service.
        let (ended, around) = framed(pass, book, false, || ((), false));
        outcomes.extend(around);
        match ended {
            Ok(()) => over(pass, &key, &mut changes),
            Err(why) => outcomes.push(not_begun(&why)),
        }
    }
    changes.put(&key, &Inventory { items: kept, prune: book.prune, budget: book.prune_budget.clone() });
    outcomes.extend(commit(pass, changes));
    outcomes
}

fn not_begun(why: &NotBegun) -> TaskOutcome {
    TaskOutcome::new("prune".into(), "prune", why.outcome()).say(why.message())
}

/// Returns whether the last removal of an item of this book failed.
pub(super) fn removal_failed(pass: &Pass<'_>, book: &Book) -> bool {
    pass.machine.book(&book_id(book)).removal_failed
}

/// Ends a failed removal that has succeeded or is not requested any more. The node has then completed its book, and
/// reports it soon.
fn over(pass: &Pass<'_>, book: &BookId, changes: &mut Changes) {
    changes.set_removal_failed(book, false);
    if let Some(with) = pass.coordination {
        with.fleet.look_again();
    }
}

fn commit(pass: &Pass<'_>, changes: Changes) -> Option<TaskOutcome> {
    let error = pass.machine.journal.as_ref()?.commit(changes).err()?;
    Some(TaskOutcome::new("journal".into(), "journal", Outcome::Failed).say(error.to_string()))
}

/// Drops items from the records of a book without `prune`. The items themselves stay.
fn forget(pass: &Pass<'_>, gone: &BTreeSet<Managed>, everything: &BTreeSet<&Managed>, changes: &mut Changes) {
    for managed in gone.iter().filter(|managed| !everything.contains(managed)) {
        forget_one(pass, managed, changes);
    }
}

fn forget_one(pass: &Pass<'_>, managed: &Managed, changes: &mut Changes) {
    changes.delete::<kinds::Applied>(managed);
    pass.machine.set_applied(managed, None);
    if managed.module == path_module() {
        changes.delete::<kinds::Original>(&managed.identity);
    }
}

/// Returns the number of items that the books of a node have managed.
fn items_of_node(inventories: &BTreeMap<BookId, Inventory>) -> usize {
    inventories.values().flat_map(|inventory| &inventory.items).collect::<BTreeSet<_>>().len()
}

/// The removals of one pass.
struct Removal<'a> {
    book: &'a str,
    gone: &'a BTreeSet<Managed>,
    /// Items that some book of the node still manages. An item among them was moved from one book to another.
    everything: &'a BTreeSet<&'a Managed>,
    /// Number of managed items of the node.
    all: usize,
    budget: PruneBudget,
}

impl Removal<'_> {
    /// Returns the number of items to remove, without those that only moved to another book.
    fn count(&self) -> usize {
        self.gone.iter().filter(|managed| !self.everything.contains(managed)).count()
    }

    /// Returns the outcome for too many removals. `None` if they are within the budget.
    fn refused(&self) -> Option<TaskOutcome> {
        let held = self.budget.exceeded(self.count() as u64, self.all as u64)?;
        Some(TaskOutcome::new("prune".into(), "prune", Outcome::Held).say(held))
    }

    /// Removes items, unless there are too many. Returns the removed items and the outcomes.
    fn carry_out(&self, pass: &Pass<'_>, changes: &mut Changes) -> (BTreeSet<Managed>, Vec<TaskOutcome>) {
        if let Some(held) = self.refused() {
            return (BTreeSet::new(), vec![held]);
        }
        let (moved, mine): (Vec<&Managed>, Vec<&Managed>) =
            self.gone.iter().partition(|managed| self.everything.contains(managed));
        let mut removed: BTreeSet<Managed> = moved.into_iter().cloned().collect();
        let mut outcomes = Vec::new();
        // Inner paths are removed before their directories, and running things before their files.
        let mut mine: Vec<&Managed> = mine.into_iter().rev().collect();
        mine.sort_by_key(|managed| removal(&managed.module));
        let mut batches: BTreeMap<&str, BTreeSet<&Managed>> = BTreeMap::new();
        for managed in mine.iter().copied() {
            let name = format!("prune {} {}", managed.module, managed.identity);
            let outcome = |outcome| TaskOutcome {
                action: "remove",
                origin: Origin::Removal,
                ..TaskOutcome::new(name.clone(), &managed.module, outcome)
            };
            if pass.plan {
                outcomes.push(outcome(Outcome::Unchanged));
                continue;
            }
            if interrupts(&managed.module)
                && let Err(gate) = pass.windows.open(pass.machine.clock.wall())
            {
                // A removal that interrupts service waits for a window.
                outcomes.push(outcome(Outcome::Held).say(gate.to_string()));
                continue;
            }
            let begin =
                |task: &str| pass.machine.memory.activity.begin(self.book, task, pass.machine.clock.monotonic());
            let batchable = matches!(undo(pass, managed), Ok(Some(undo)) if undo.batch().is_some());
            let gone = batchable
                && batches
                    .entry(&managed.module)
                    .or_insert_with(|| {
                        let task = format!("prune {}s", managed.module);
                        let _work = begin(&task);
                        remove_together(pass, &mine, &managed.module, &task)
                    })
                    .contains(managed);
            let _work = begin(&name);
            let done = if gone { Ok(TAKEN_OUT.to_owned()) } else { remove(pass, managed, &name) };
            match done {
                Ok(message) => {
                    forget_one(pass, managed, changes);
                    removed.insert(managed.clone());
                    outcomes.push(outcome(Outcome::Changed).say(message));
                }
                Err(message) => outcomes.push(outcome(Outcome::Failed).say(message)),
            }
        }
        (removed, outcomes)
    }
}

/// Returns the place of a module in the order of removal. A module that this agent does not know comes first.
fn removal(module: &str) -> u32 {
    towpath_proto::module(module).map_or(0, |module| module.removal)
}

/// Returns whether a removal may interrupt a service.
fn interrupts(module: &str) -> bool {
    towpath_proto::module(module).is_none_or(|module| module.interrupts)
}

/// The message for an installed item that was uninstalled.
const TAKEN_OUT: &str = "it was taken out again";

/// Returns the parameters that remove an item. `None` if the record has no undo.
fn undo(pass: &Pass<'_>, managed: &Managed) -> Result<Option<Arc<dyn Resource>>, String> {
    let Some(params) = pass.machine.applied(managed).and_then(|applied| applied.undo) else { return Ok(None) };
    let said = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>();
    resolve(&managed.module, &params).map(Some).map_err(|problems| said(problems).join("; "))
}

fn context<'a>(pass: &Pass<'a>, task: &'a str) -> Context<'a> {
    Context {
        look: &pass.machine.look,
        source: None,
        node: &pass.machine.node,
        task,
        timeout: Duration::from_secs(600),
        cancel: pass.cancel,
        cache: &pass.machine.memory,
    }
}

/// Removes the items of a module in one transaction, as packages may depend on one another. Returns the removed items.
fn remove_together<'m>(pass: &Pass<'_>, gone: &[&'m Managed], module: &str, task: &str) -> BTreeSet<&'m Managed> {
    let of_module = gone.iter().copied().filter(|managed| managed.module == module);
    let mut found: Vec<(&Managed, Arc<dyn Resource>)> =
        of_module.filter_map(|managed| Some((managed, undo(pass, managed).ok()??))).collect();
    let batch = found.first().and_then(|(_, first)| first.batch());
    found.retain(|(_, undo)| batch.is_some() && undo.batch() == batch);
    if found.len() < 2 {
        return BTreeSet::new();
    }
    let undos: Vec<&dyn Resource> = found.iter().map(|(_, undo)| &**undo).collect();
    match apply_batch(&undos, &context(pass, task)) {
        Ok(()) => found.iter().map(|(managed, _)| *managed).collect(),
        Err(error) => {
            tracing::info!("items of {module} are removed one by one: {error}");
            BTreeSet::new()
        }
    }
}

fn remove(pass: &Pass<'_>, managed: &Managed, task: &str) -> Result<String, String> {
    let hand = pass.machine.hand();
    let path = managed.identity.as_str();
    if let Some(options) = undo(pass, managed)? {
        let report = actions::execute(&*options, &context(pass, task), &hand, pass.cancel);
        let report = report.map_err(|error| error.message)?;
        if !report.ok {
            return Err(report.message.unwrap_or_else(|| "it can't be taken out again".into()));
        }
        return Ok(TAKEN_OUT.into());
    }
    if managed.module != path_module() {
        return Ok("it is no longer managed".into());
    }
    let failed = |error: std::io::Error| format!("{path}: {error}");
    // Records have paths without links. If a folder above has become a link since, the path now leads to another file.
    let real = hand.look().resolved(path, true).map_err(failed)?;
    let itself = hand.look().resolved(path, false).map_err(failed)?;
    let original = |at: &str| pass.machine.record::<Original>(&at.to_owned());
    let (path, original) = match original(path) {
        Some(_) if itself != path => return Ok("a folder above it is a link now; what it leads to stays".into()),
        Some(found) => (path, Some(found)),
        None => match original(&itself) {
            Some(found) => (itself.as_str(), Some(found)),
            None => (real.as_str(), original(&real)),
        },
    };
    let meta = hand.look().meta(path).map_err(failed)?;
    let directory = meta.is_some_and(|meta| meta.kind == towpath_host::FileKind::Directory);
    match original {
        Some(Original::File { .. } | Original::Link { .. }) if directory => {
            Ok("a directory is there now, and stays".into())
        }
        Some(Original::File { content, mode, uid, gid, attributes }) => {
            let journal = pass.machine.journal.as_ref().ok_or("there is no journal")?;
            let bytes = journal.original(&content).ok_or_else(|| {
                format!("{path}: what was there before can't be found any more; the file stays as it is")
            })?;
            let access = Access { mode, uid: Some(uid), gid: Some(gid) };
            hand.restore(path, &bytes, access, &attributes).map_err(failed)?;
            Ok("what was there before was put back".into())
        }
        Some(Original::Link { target }) => {
            hand.link(path, &target).map_err(failed)?;
            Ok("the link that was there before was put back".into())
        }
        Some(Original::Directory { mode, uid, gid }) => {
            hand.make_directory(path, 0o755).map_err(failed)?;
            hand.grant(path, Access { mode, uid: Some(uid), gid: Some(gid) }).map_err(failed)?;
            Ok("the directory was there before, and stays".into())
        }
        Some(Original::Nothing) => {
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
        // Towpath never changed this item: it was in sync from the start.
        Some(Original::Part) | None => Ok("it was there before, and stays".into()),
    }
}

/// Prunes the items of books that this node no longer has, by their last settings.
fn abandoned_books(pass: &Pass<'_>, everything: &BTreeSet<&Managed>) -> Vec<BookOutcome> {
    let mut outcomes = Vec::new();
    let present: BTreeSet<BookId> = pass.view.books.iter().map(|book| book_id(book)).collect();
    let mut inventories = inventories(pass.machine);
    // A book without items may have left a pending handler.
    for (handler, _) in pass.machine.records::<HandlerRecord>() {
        inventories.entry(handler.book).or_default();
    }
    let all = items_of_node(&inventories);
    for (id, inventory) in inventories.into_iter().filter(|(id, _)| !present.contains(id)) {
        let mut book = BookOutcome {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            tasks: Vec::new(),
            held: Vec::new(),
            started: pass.machine.clock.wall(),
            took: Duration::ZERO,
            interrupted: false,
            uncoordinated: false,
        };
        let mut changes = Changes::default();
        if !pass.plan {
            book.tasks.extend(actions::left_handlers(pass, &id, &mut changes));
        }
        if inventory.prune {
            let budget = PruneBudget::of(pass.set, &id.namespace, &id.name, inventory.budget.as_deref());
            let name = id.to_string();
            let removal = Removal { book: &name, gone: &inventory.items, everything, all, budget };
            let (removed, said) = removal.carry_out(pass, &mut changes);
            let left: BTreeSet<Managed> = inventory.items.difference(&removed).cloned().collect();
            if left.is_empty() {
                changes.set_removal_failed(&id, false);
                changes.delete::<kinds::Inventory>(&id);
            } else {
                changes.put(&id, &Inventory { items: left, ..inventory });
            }
            book.tasks.extend(said);
        } else {
            forget(pass, &inventory.items, everything, &mut changes);
            changes.set_removal_failed(&id, false);
            changes.delete::<kinds::Inventory>(&id);
        }
        if !pass.plan {
            book.tasks.extend(commit(pass, changes));
        }
        if !book.tasks.is_empty() {
            outcomes.push(book);
        }
    }
    outcomes
}
