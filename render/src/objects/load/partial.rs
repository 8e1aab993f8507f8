//! Loads all sources, and holds (excludes) invalid objects. Invalid objects of the second and all later sources are
//! held, so that the other objects can still change.
//!
//! The set of held objects depends only on the files of the sources, so all nodes hold the same objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Loaded,
    documents::LeftOut,
    files::{Pinned, SourceTree},
    load_without,
};
use crate::{
    objects::{Budget, Held, HeldKey, Object},
    problem::Problem,
    tree::Tree,
};

/// The maximum number of loads in which the loader holds single objects. If errors remain after the maximum number of
/// loads, each source with an error is held as a whole.
const ROUNDS: usize = 16;

/// Loads all sources in order. Invalid objects of the second and all later sources are held. Objects that depend on a
/// held object are held, too. The loader moves held objects to [`ObjectSet::held`](crate::objects::ObjectSet::held),
/// with their problems. The list of errors does not contain the problems of held objects.
pub fn load_partial(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded {
    load_within(sources, pinned, Budget::default())
}

/// Loads all sources within a budget. If the second or a later source exceeds the budget, the whole source is held.
fn load_within(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>, budget: Budget) -> Loaded {
    let first = sources.first().map(|source| source.name.clone()).unwrap_or_default();
    let mut left_out = LeftOut::default();
    let mut held: BTreeMap<HeldKey, Held> = BTreeMap::new();
    let mut round = 0;
    loop {
        let mut loaded = load_without(sources, pinned, &left_out, budget);
        let fatal = |error: &Problem| error.source == first || !names(sources, error);
        let mut blame = Blame::new(&loaded, round >= ROUNDS);
        let blamed: Vec<(&Problem, Blamed<'_>)> = loaded.errors.iter().map(|error| (error, blame.on(error))).collect();
        let of_first = |(_, blamed): &(&Problem, Blamed<'_>)| match blamed {
            Blamed::Objects(objects) => objects.iter().any(|object| object.place.source() == first),
            Blamed::Source(_) => false,
        };
        let before = left_out.len();
        if !blamed.is_empty()
            && loaded.missing_inputs.is_empty()
            && !loaded.errors.iter().any(fatal)
            && !blamed.iter().any(of_first)
        {
            for (problem, blamed) in blamed {
                hold(&mut left_out, &mut held, problem, blamed);
            }
        }
        if left_out.len() == before {
            loaded.set.held = held;
            return loaded;
        }
        round += 1;
    }
}

/// The objects or the source that the loader holds because of an error.
enum Blamed<'a> {
    Objects(Vec<&'a Object>),
    Source(&'a str),
}

/// Finds the objects that cause the errors of a load.
struct Blame<'a> {
    loaded: &'a Loaded,
    whole: bool,
    /// The objects of each file of each source, in the order of the documents in the file.
    objects: BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a Object>>>,
    /// The sources and included files whose objects were already returned for an error.
    done: BTreeSet<(&'a str, Option<&'a str>)>,
}

impl<'a> Blame<'a> {
    fn new(loaded: &'a Loaded, whole: bool) -> Self {
        let mut objects: BTreeMap<&str, BTreeMap<&str, Vec<&Object>>> = BTreeMap::new();
        // The search is used only if there are errors.
        for object in loaded.set.objects.values().filter(|_| !loaded.errors.is_empty()) {
            let files = objects.entry(object.place.source()).or_default();
            files.entry(object.place.file()).or_default().push(object);
        }
        for file in objects.values_mut().flat_map(BTreeMap::values_mut) {
            file.sort_by_key(|object| object.place.document());
        }
        Self { loaded, whole, objects, done: BTreeSet::new() }
    }

    /// Returns the objects that cause an error. Returns an empty list if the objects were already returned for an
    /// earlier error.
    fn on(&mut self, error: &'a Problem) -> Blamed<'a> {
        let (source, file) = (error.source.as_str(), error.file.as_str());
        if self.whole || self.loaded.beyond.contains(source) {
            return Blamed::Source(source);
        }
        if let Some(object) = self.object_at(error) {
            return Blamed::Objects(vec![object]);
        }
        // Only includes read this file, so the objects that include the file cause the error.
        let includers = self.loaded.included_by.get(&(error.source.clone(), error.file.clone()));
        let mut includers =
            includers.into_iter().flatten().filter_map(|key| self.loaded.set.objects.get(key)).peekable();
        if includers.peek().is_some() {
            let first = self.done.insert((source, Some(file)));
            return Blamed::Objects(if first { includers.collect() } else { Vec::new() });
        }
        // The file contains no object, so all objects of the source are held.
        let Some(files) = self.objects.get(source) else { return Blamed::Source(source) };
        let first = self.done.insert((source, None));
        Blamed::Objects(if first { files.values().flatten().copied().collect() } else { Vec::new() })
    }

    /// Returns the object whose text contains the line of an error.
    fn object_at(&self, error: &Problem) -> Option<&'a Object> {
        let objects = self.objects.get(error.source.as_str())?.get(error.file.as_str())?;
        let after = objects.partition_point(|object| object.place.position().0 <= error.line);
        objects.get(after.checked_sub(1)?).copied()
    }
}

fn hold(left_out: &mut LeftOut, held: &mut BTreeMap<HeldKey, Held>, problem: &Problem, blamed: Blamed<'_>) {
    match blamed {
        Blamed::Source(source) => {
            held.entry((source.to_owned(), None)).or_insert_with(|| Held { object: None, problem: problem.clone() });
            left_out.sources.insert(source.to_owned());
        }
        Blamed::Objects(objects) => {
            for object in objects {
                let key = (object.place.source().to_owned(), object.key.clone());
                left_out.objects.insert(key.clone());
                let why = || Held { object: Some(object.clone()), problem: problem.clone() };
                held.entry((key.0, Some(key.1))).or_insert_with(why);
            }
        }
    }
}

fn names(sources: &[SourceTree], error: &Problem) -> bool {
    sources.iter().any(|source| source.name == error.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn source(name: &str, files: &[(&str, &str)]) -> SourceTree {
        let tree: MemoryTree = files.iter().copied().collect();
        SourceTree { name: name.into(), tree: Arc::new(tree), library: false, globals: false }
    }

    const PLATFORM: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}\nspec: {sources: [tenant]}\n---\nmetadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}\nspec: {nodes: [n1]}\n";

    fn book(name: &str, group: &str, more: &str) -> String {
        format!(
            "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: shop}}\nspec:\n  targets: {{nodeGroups: [{group}]}}\n{more}  tasks:\n    - name: a\n      file: {{path: /{name}, content: a}}\n"
        )
    }

    #[test]
    fn invalid_object_and_its_dependents_are_held() {
        let tenant = format!(
            "{}---\n{}---\n{}",
            book("fits", "web", ""),
            book("misfit", "gone", ""),
            book("needs", "web", "  dependsOn: [misfit]\n")
        );
        let loaded = load_partial(
            &[source("fleet", &[("f.yaml", PLATFORM)]), source("tenant", &[("t.yaml", &tenant)])],
            &BTreeMap::new(),
        );
        assert_eq!(loaded.errors, []);
        let held: Vec<&str> = loaded.set.held.keys().filter_map(|(_, key)| Some(key.as_ref()?.name.as_str())).collect();
        assert_eq!(held, ["misfit", "needs"]);
        assert_eq!(loaded.set.books.keys().collect::<Vec<_>>(), ["shop/fits"]);
        let why = |name: &str| {
            let of_name = |held: &&Held| held.object.as_ref().is_some_and(|object| object.key.name == name);
            loaded.set.held.values().find(of_name).unwrap().problem.message.clone()
        };
        assert!(why("misfit").contains("there is no NodeGroup gone"), "{}", why("misfit"));
        assert!(why("needs").contains("there is no TaskBook"), "{}", why("needs"));
    }

    #[test]
    fn first_source_is_never_held() {
        let mistaken = format!("{PLATFORM}---\n{}", book("own", "gone", ""));
        let loaded = load_partial(&[source("fleet", &[("f.yaml", &mistaken)])], &BTreeMap::new());
        assert!(!loaded.errors.is_empty() && loaded.set.held.is_empty());
    }

    #[test]
    fn unreadable_file_holds_all_objects_of_its_source() {
        let tenant = book("a", "web", "");
        let loaded = load_partial(
            &[
                source("fleet", &[("f.yaml", PLATFORM)]),
                source("tenant", &[("t.yaml", &tenant), ("broken.yaml", "a: [")]),
            ],
            &BTreeMap::new(),
        );
        assert_eq!(loaded.errors, []);
        assert_eq!(loaded.set.held.len(), 2, "the book, and what is no object");
        assert!(loaded.set.books.is_empty());
    }
}
