//! What no longer fits is held: an earlier source goes on although objects of a later one do not go with it any more.
//!
//! The outcome depends on the trees alone, so all nodes hold the same.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Key, Object, ObjectSet,
    budget::Budget,
    load::{LeftOut, Loaded, Pinned, SourceTree, load_without},
};
use crate::{problem::Problem, tree::Tree};

/// Something that does not fit: an object of a source, or, without a key, all that the source says.
pub type HeldKey = (String, Option<Key>);

/// Something that does not fit.
#[derive(Debug, Clone)]
pub struct Held {
    /// The object, as it was written; none where it is not one object that does not fit.
    pub object: Option<Object>,
    /// Why it does not fit.
    pub problem: Problem,
}

/// How often the sources are loaded again without what did not fit. Beyond it every source with an error is held whole.
const ROUNDS: usize = 16;

/// Loads all sources, in order. Objects of later sources than the first that have mistakes, or that need an object that is
/// held, are held: they are in [`ObjectSet::held`] and nowhere else, and their mistakes are no errors.
pub fn load_holding(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded {
    load_within(sources, pinned, Budget::default())
}

/// The same within a budget. A later source that is beyond it is held whole.
fn load_within(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>, budget: Budget) -> Loaded {
    let first = sources.first().map(|source| source.name.clone()).unwrap_or_default();
    let mut left_out = LeftOut::default();
    let mut held: BTreeMap<HeldKey, Held> = BTreeMap::new();
    let mut round = 0;
    loop {
        let mut loaded = load_without(sources, pinned, &left_out, budget);
        let fatal = |error: &Problem| error.source == first || !names(sources, error);
        let blamed: Vec<(&Problem, Blamed)> =
            loaded.errors.iter().map(|error| (error, blame(&loaded, error, round >= ROUNDS))).collect();
        let of_first = |(_, blamed): &(&Problem, Blamed)| match blamed {
            Blamed::Objects(objects) => objects.iter().any(|object| object.place.source() == first),
            Blamed::Source(_) => false,
        };
        let before = left_out.len();
        if !blamed.is_empty()
            && loaded.wants.is_empty()
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

/// The part of a source that a mistake is blamed on.
enum Blamed {
    Objects(Vec<Object>),
    Source(String),
}

fn blame(loaded: &Loaded, error: &Problem, whole: bool) -> Blamed {
    if whole || loaded.beyond.contains(&error.source) {
        return Blamed::Source(error.source.clone());
    }
    if let Some(object) = behind(&loaded.set, error) {
        return Blamed::Objects(vec![object.clone()]);
    }
    // A file that is read by includes alone: the objects that include it do not fit.
    let file = (error.source.clone(), error.file.clone());
    let includers: Vec<Object> = loaded
        .included_by
        .get(&file)
        .into_iter()
        .flatten()
        .filter_map(|key| loaded.set.objects.get(key))
        .cloned()
        .collect();
    if !includers.is_empty() {
        return Blamed::Objects(includers);
    }
    // A file of no object: which objects are meant cannot be known.
    let objects: Vec<Object> = of_source(&loaded.set, &error.source).cloned().collect();
    if objects.is_empty() { Blamed::Source(error.source.clone()) } else { Blamed::Objects(objects) }
}

fn hold(left_out: &mut LeftOut, held: &mut BTreeMap<HeldKey, Held>, problem: &Problem, blamed: Blamed) {
    match blamed {
        Blamed::Source(source) => {
            held.entry((source.clone(), None)).or_insert_with(|| Held { object: None, problem: problem.clone() });
            left_out.sources.insert(source);
        }
        Blamed::Objects(objects) => {
            for object in objects {
                let key = (object.place.source().to_owned(), object.key.clone());
                left_out.objects.insert(key.clone());
                let why = Held { object: Some(object), problem: problem.clone() };
                held.entry((key.0, Some(key.1))).or_insert(why);
            }
        }
    }
}

fn names(sources: &[SourceTree], error: &Problem) -> bool {
    sources.iter().any(|source| source.name == error.source)
}

fn of_source<'a>(set: &'a ObjectSet, source: &'a str) -> impl Iterator<Item = &'a Object> {
    set.objects.values().filter(move |object| object.place.source() == source)
}

/// The object in whose lines a mistake is. Objects of a file begin in the order of its documents, so a few places are
/// enough to find it.
fn behind<'a>(set: &'a ObjectSet, error: &'a Problem) -> Option<&'a Object> {
    let mut objects: Vec<&Object> =
        of_source(set, &error.source).filter(|object| object.place.file() == error.file).collect();
    objects.sort_by_key(|object| object.place.document());
    let after = objects.partition_point(|object| object.place.position().0 <= error.line);
    objects.get(after.checked_sub(1)?).copied()
}

/// What one set holds and another does not.
pub fn newly_held<'a>(set: &'a ObjectSet, before: &ObjectSet) -> Vec<&'a Held> {
    set.held.iter().filter(|(key, _)| !before.held.contains_key(key)).map(|(_, held)| held).collect()
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
    fn what_does_not_fit_is_held_and_what_needs_it_too() {
        let tenant = format!(
            "{}---\n{}---\n{}",
            book("fits", "web", ""),
            book("misfit", "gone", ""),
            book("needs", "web", "  dependsOn: [misfit]\n")
        );
        let loaded = load_holding(
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
    fn the_first_source_is_never_held() {
        let mistaken = format!("{PLATFORM}---\n{}", book("own", "gone", ""));
        let loaded = load_holding(&[source("fleet", &[("f.yaml", &mistaken)])], &BTreeMap::new());
        assert!(!loaded.errors.is_empty() && loaded.set.held.is_empty());
    }

    #[test]
    fn a_file_that_is_no_objects_holds_all_of_its_source() {
        let tenant = book("a", "web", "");
        let loaded = load_holding(
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
