//! Loads the files of all sources into an [`ObjectSet`]. The loader checks each document against the schema, and then
//! all objects against one another. The loader reports all errors, not only the first error.

mod documents;
mod expand;
mod files;
mod globals;
#[cfg(test)]
mod linear_tests;
mod namespaced;
mod notify;
mod partial;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    documents::{LeftOut, Written},
    expand::{Expanded, Expansion},
    globals::Globals,
    namespaced::Namespaced,
};
pub use self::{
    files::{Pinned, SourceTree},
    partial::load_partial,
};
use super::{
    Budget, Key, Object, ObjectSet,
    check::{self, BookNames},
    ledger::Ledger,
    limits::NamespaceLimits,
};
use crate::{problem::Problem, tree::Tree};

/// The result of a load: the objects, and the problems that the loader has found.
#[derive(Debug)]
pub struct Loaded {
    /// The loaded objects, which the caller may use only if `errors` is empty.
    pub set: ObjectSet,
    /// The errors, in the order of the files.
    pub errors: Vec<Problem>,
    /// The warnings, in the order of the files.
    pub warnings: Vec<Problem>,
    /// The repositories of includes whose files the caller has not supplied yet. The caller must fetch the missing
    /// repositories, and load again.
    pub missing_inputs: BTreeSet<Pinned>,
    /// The names of the sources that exceed their budget.
    beyond: BTreeSet<String>,
    /// The objects that include a file, by the source and the path of the file.
    included_by: BTreeMap<(String, String), BTreeSet<Key>>,
}

/// Loads all sources, in order. The first source may always define objects of global kinds.
pub fn load(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded {
    load_without(sources, pinned, &LeftOut::default(), Budget::default())
}

/// Loads all sources, without the objects and sources in `left_out`.
fn load_without(
    sources: &[SourceTree],
    pinned: &BTreeMap<Pinned, Arc<dyn Tree>>,
    left_out: &LeftOut,
    budget: Budget,
) -> Loaded {
    let (Written { objects, mentions }, mut ledger) = documents::read(sources, left_out, Ledger::new(budget));
    let (globals, found) = Globals::read(&objects);
    ledger.report_all(found);
    ledger.report_all(check::missing_objects(&objects, &mentions));
    let limits = NamespaceLimits::new(&globals.namespaces, &globals.members, sources);
    let expansion = Expansion::new(sources, pinned, &limits, ledger);
    let (namespaced, Expanded { mut ledger, trees, missing_inputs, included_by }) =
        Namespaced::read(&objects, expansion);
    let set = assemble(objects, globals, namespaced, trees);
    ledger.report_all(check::all(&set, sources));
    ledger.report_all(check::names_of_books(&set).iter().flat_map(BookNames::problems));
    ledger.report_all(check::in_computed_variables(&set));
    ledger.report_all(check::refused_untrusted_uses(&set));
    let (problems, beyond) = ledger.close(sources, &set.objects);
    let (warnings, errors) = problems.into_iter().partition(|problem| problem.warning);
    Loaded { set, errors, warnings, missing_inputs, beyond, included_by }
}

/// Creates the [`ObjectSet`] from the objects of all kinds.
fn assemble(
    objects: BTreeMap<Key, Object>,
    globals: Globals,
    namespaced: Namespaced,
    trees: BTreeMap<String, Arc<dyn Tree>>,
) -> ObjectSet {
    let Globals { namespaces, nodes, groups, members, configs, bindings } = globals;
    let Namespaced { books, reactions, readers, variables } = namespaced;
    ObjectSet {
        objects,
        books,
        groups,
        nodes,
        namespaces,
        configs,
        reactions,
        readers,
        variables,
        bindings,
        members,
        held: BTreeMap::new(),
        trees,
    }
}
