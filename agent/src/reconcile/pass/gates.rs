//! The gates of a TaskBook: suspensions and dependencies.

use towpath_coordination::{Gate, GateReason, Gates, Suspension};
use towpath_render::objects::task::Book;

use super::Pass;

/// Returns a closed gate for each dependency that is not yet completed on all nodes (P87).
fn runs_to_wait_for(pass: &Pass<'_>, book: &Book) -> Vec<Gate> {
    let Some(with) = pass.coordination else { return Vec::new() };
    let mut closed = Vec::new();
    for dependency in book.depends_on.iter().filter(|dependency| dependency.fleet) {
        let id = format!("{}/{}", book.namespace, dependency.book);
        let Some(entry) = with.manifest.books.get(&id) else { continue };
        match with.fleet.progress(&id) {
            Ok(Some(progress)) if progress.run == format!("{id}@{}", entry.since) && progress.done => {}
            Ok(_) => closed.push(Gate::new(
                GateReason::Dependency,
                format!("waiting for book {id} on all nodes; continues when its rollout is done"),
            )),
            Err(error) => {
                with.fleet.look_soon();
                closed.push(Gate::unreachable(&error));
                break;
            }
        }
    }
    closed
}

/// Returns the gates that must be open before a TaskBook starts.
pub(in crate::reconcile) fn of(pass: &Pass<'_>, book: &Book, dependencies: Vec<String>) -> Gates {
    let now = pass.machine.clock.wall() / 1000;
    let suspended = book.suspend.iter().chain(&pass.suspended).map(|suspend| {
        let until = suspend.until.clone().unwrap_or_default();
        let ends = epoch(&until);
        Suspension { reason: suspend.reason.clone().unwrap_or_default(), until, ends }
    });
    Gates { suspended: suspended.collect(), now, dependencies, closed: runs_to_wait_for(pass, book) }
}

/// Parses an RFC 3339 time into Unix seconds. An unreadable time counts as the far future, so that a suspension does
/// not end early.
fn epoch(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(i64::MAX, |time| time.timestamp())
}
