//! The gates of a book: suspensions and dependencies.

use towpath_coordination::Gates;
use towpath_render::objects::task::{Book, Dependency};

use super::Pass;

/// Returns the books that must first be completed on all nodes, and are not (P87).
fn runs_to_wait_for(pass: &Pass<'_>, book: &Book) -> Vec<String> {
    let Some(with) = pass.coordination.filter(|_| !pass.plan) else { return Vec::new() };
    let waits = |dependency: &&Dependency| {
        let id = format!("{}/{}", book.namespace, dependency.book);
        let Some(entry) = with.manifest.books.get(&id) else { return false };
        let run = format!("{id}@{}", entry.since);
        !matches!(with.fleet.progress(&id), Ok(Some(opening)) if opening.run == run && opening.done)
    };
    let fleet = book.depends_on.iter().filter(|dependency| dependency.fleet);
    fleet.filter(waits).map(|dependency| format!("{}/{} on all nodes", book.namespace, dependency.book)).collect()
}

/// Returns the gates that must be open before a book begins.
pub(super) fn of(pass: &Pass<'_>, book: &Book, mut dependencies: Vec<String>) -> Gates {
    dependencies.extend(runs_to_wait_for(pass, book));
    let now = pass.machine.clock.wall() / 1000;
    let suspended = book.suspend.iter().chain(&pass.suspended).map(|suspend| {
        let until = suspend.until.clone().unwrap_or_default();
        (
            format!("{} (until {until})", suspend.reason.clone().unwrap_or_default()),
            crate::reconcile::conditions::epoch(&until),
        )
    });
    Gates { suspended: suspended.collect(), now, dependencies }
}
