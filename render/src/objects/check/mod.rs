//! Checks all objects against one another. Each check returns a list of problems.

mod conflicts;
mod references;
mod rollouts;
mod secrets;
mod task_names;
mod template_names;
mod untrusted;

pub(super) use self::{
    references::{Mention, missing_objects},
    task_names::TaskNames,
    template_names::{BookNames, in_computed_variables, names_of_books},
    untrusted::refused_untrusted_uses,
};
pub use self::{
    secrets::is_about_values,
    template_names::FACTS,
    untrusted::{UntrustedUse, untrusted_uses},
};
use super::{ObjectSet, SourceTree, ledger::Found};

/// Runs all checks of objects against one another, and returns the problems.
pub(super) fn all<'a>(set: &'a ObjectSet, sources: &'a [SourceTree]) -> impl Iterator<Item = Found<'a>> {
    let checks: [fn(&ObjectSet) -> Vec<Found<'_>>; 7] = [
        references::dependency_cycles,
        rollouts::shared_slots,
        references::unmatched_targets,
        conflicts::of_variables,
        conflicts::of_resources,
        rollouts::senseless_settings,
        secrets::origins,
    ];
    let sources = references::refused_sources(set, sources);
    sources.into_iter().chain(checks.into_iter().flat_map(move |check| check(set)))
}
