//! What no longer fits is held: an earlier source goes on although objects of a later one do not go with it any more.
//!
//! The outcome depends on the trees alone, so all nodes hold the same.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Key, Object, ObjectSet,
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

/// Loads all sources, in order. Objects of later sources than the first that have mistakes, or that need an object that is
/// held, are held: they are in [`ObjectSet::held`] and nowhere else, and their mistakes are no errors.
pub fn load_holding(sources: &[SourceTree], pinned: &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded {
    let first = sources.first().map(|source| source.name.clone()).unwrap_or_default();
    let mut left_out = LeftOut::default();
    let mut held: BTreeMap<HeldKey, Held> = BTreeMap::new();
    loop {
        let mut loaded = load_without(sources, pinned, &left_out);
        if loaded.errors.is_empty()
            || !loaded.wants.is_empty()
            || loaded.errors.iter().any(|error| error.source == first || !names(sources, error))
        {
            loaded.set.held = held;
            return loaded;
        }
        for error in &loaded.errors {
            let blamed: Vec<Object> = match behind(&loaded.set, error) {
                Some(object) => vec![object.clone()],
                // A file that is no object's: what the source says can't be told apart.
                None => of_source(&loaded.set, &error.source).cloned().collect(),
            };
            let why = |object: Option<Object>| Held { object, problem: error.clone() };
            if blamed.is_empty() {
                left_out.sources.insert(error.source.clone());
                held.entry((error.source.clone(), None)).or_insert_with(|| why(None));
            }
            for object in blamed {
                let key = (error.source.clone(), object.key.clone());
                held.entry((key.0.clone(), Some(key.1.clone()))).or_insert_with(|| why(Some(object)));
                left_out.objects.insert(key);
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

/// The object in whose lines a mistake stands.
fn behind<'a>(set: &'a ObjectSet, error: &'a Problem) -> Option<&'a Object> {
    let begins = |object: &&Object| object.place.position().0;
    of_source(set, &error.source)
        .filter(|object| object.place.file() == error.file)
        .filter(|object| begins(object) <= error.line)
        .max_by_key(begins)
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
