//! The prune budget of a TaskBook: the maximum number of items that one pass removes (D33).

use serde_json::Value;

use crate::{objects::ObjectSet, scalars::Count};

/// The prune budget of a TaskBook if no object sets a budget.
const DEFAULT: Count = Count::Percent(20);

/// The TaskBooks that share a prune budget. The budget limits the number of items that all these TaskBooks remove
/// together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PruneScope {
    /// All TaskBooks of the node that have no `pruneBudget`, neither in the TaskBook nor in its Namespace.
    Node,
    /// All TaskBooks of this Namespace that have no `pruneBudget`.
    Namespace(String),
    /// One TaskBook, by its id.
    Book(String),
}

/// The prune budget of a TaskBook, and the object in git that sets the budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneBudget {
    limit: Option<String>,
    scope: PruneScope,
    /// The kind and name of the object in which an administrator can change the budget.
    object: String,
    /// The id of a deleted TaskBook; `None` if the TaskBook still exists.
    deleted: Option<String>,
}

impl Default for PruneBudget {
    fn default() -> Self {
        Self { limit: None, scope: PruneScope::Node, object: "the TaskBook".into(), deleted: None }
    }
}

impl PruneBudget {
    /// Creates the prune budget of a TaskBook from the value of its field `pruneBudget`.
    pub fn limited(limit: &str) -> Self {
        Self { limit: Some(limit.to_owned()), ..Self::default() }
    }

    /// Returns the prune budget of a TaskBook. A limit in the TaskBook has precedence over a limit in its Namespace. A
    /// limit in the Namespace has precedence over a limit in a Config.
    ///
    /// For a deleted TaskBook, the argument `last` is the limit in the newest version of the TaskBook. A limit in the
    /// Namespace or a Config has precedence over `last`, because a commit can still change the Namespace or the Config.
    pub fn of(set: &ObjectSet, namespace: &str, name: &str, last: Option<&str>) -> Self {
        let id = format!("{namespace}/{name}");
        let around = set.namespaces.get(namespace);
        let config = set.configs.iter().find(|(_, config)| config.prune_budget.is_some());
        let of_namespace = around.and_then(|namespace| namespace.prune_budget.clone());
        let outer_scope =
            if of_namespace.is_some() { PruneScope::Namespace(namespace.to_owned()) } else { PruneScope::Node };
        let outer = of_namespace.or_else(|| config.and_then(|(_, config)| config.prune_budget.clone()));
        if let Some(book) = set.books.get(&id) {
            let scope = if book.prune_budget.is_some() { PruneScope::Book(id.clone()) } else { outer_scope };
            let limit = book.prune_budget.clone().or(outer);
            return Self { limit, scope, object: format!("TaskBook {id}"), deleted: None };
        }
        let any_config = config.map(|(name, _)| name).or_else(|| set.configs.keys().next());
        let object = match (around, any_config) {
            (Some(_), _) => format!("Namespace {namespace}"),
            (None, Some(config)) => format!("Config {config}"),
            (None, None) => "a Config of the first source".to_owned(),
        };
        let scope = match (&outer, last) {
            (None, Some(_)) => PruneScope::Book(id.clone()),
            _ => outer_scope,
        };
        Self { limit: outer.or_else(|| last.map(str::to_owned)), scope, object, deleted: Some(id) }
    }

    /// Returns the TaskBooks that share this prune budget.
    pub fn scope(&self) -> &PruneScope {
        &self.scope
    }

    /// Returns the number of items that one pass may remove on a node with `total` managed items.
    pub fn allowed(&self, total: u64) -> u64 {
        let limit = self.limit.as_ref().and_then(|text| Count::read(&Value::String(text.clone())).ok());
        limit.unwrap_or(DEFAULT).at_least_one(total)
    }

    /// Returns the message about a held removal of `count` of `total` items, or `None` if the budget allows the
    /// removal.
    pub fn exceeded(&self, count: u64, total: u64) -> Option<String> {
        let allowed = self.allowed(total);
        let object = &self.object;
        let remedy = match &self.deleted {
            None => format!("remove fewer items at a time, or set `pruneBudget: {count}` in {object}"),
            Some(book) => format!("restore the deleted TaskBook {book}, or set `pruneBudget: {count}` in {object}"),
        };
        (count > allowed).then(|| {
            format!(
                "{count} of {total} managed items of this node wait for removal, but one pass removes at most \
                 {allowed}; {remedy}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        objects::{SourceTree, load},
        tree::MemoryTree,
    };

    /// Loads a TaskBook, a Namespace and Configs with these prune budgets. If an argument is `None`, the loaded sources
    /// omit the object.
    fn set(book: Option<&str>, namespace: Option<&str>, configs: &[(&str, &str)]) -> ObjectSet {
        let budget = |budget: &str| if budget.is_empty() { String::new() } else { format!(", pruneBudget: {budget}") };
        let mut text = String::from("metadata: {apiVersion: v1alpha, kind: Node, name: a}\n");
        let mut add = |kind: &str, name: &str, spec: String| {
            let spec =
                if spec.is_empty() { String::new() } else { format!("spec: {{{}}}\n", spec.trim_start_matches(", ")) };
            text.push_str(&format!("---\nmetadata: {{apiVersion: v1alpha, kind: {kind}, name: {name}}}\n{spec}"));
        };
        if let Some(limit) = namespace {
            add("Namespace", "app", budget(limit));
        }
        if let Some(limit) = book {
            add("TaskBook", "web, namespace: app", format!(", targets: {{nodes: [a]}}, prune: true{}", budget(limit)));
        }
        for (name, limit) in configs {
            add("Config", name, budget(limit));
        }
        let tree: MemoryTree = [("objects.yaml", text.as_str())].into_iter().collect();
        let source = SourceTree { name: "s".into(), tree: Arc::new(tree), library: false, globals: true };
        let loaded = load(&[source], &BTreeMap::new());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        loaded.set
    }

    fn of(set: &ObjectSet, last: Option<&str>) -> PruneBudget {
        PruneBudget::of(set, "app", "web", last)
    }

    #[test]
    fn most_specific_budget_counts() {
        for (book, namespace, configs, allowed) in [
            ("5", "6", &[("fleet", "7")][..], 5),
            ("", "6", &[("fleet", "7")], 6),
            ("", "", &[("fleet", "7")], 7),
            ("", "", &[("fleet", ""), ("more", "8")], 8),
            ("", "", &[], 20),
            ("30%", "6", &[], 30),
            ("", "40%", &[("fleet", "7")], 40),
        ] {
            let set = set(Some(book), Some(namespace), configs);
            assert_eq!(of(&set, Some("99")).allowed(100), allowed, "{book:?} {namespace:?} {configs:?}");
        }
    }

    #[test]
    fn budget_of_a_deleted_book_is_that_of_its_namespace_or_a_config_before_its_last_one() {
        for (namespace, configs, last, allowed) in [
            (Some("6"), &[("fleet", "7")][..], Some("99"), 6),
            (Some(""), &[("fleet", "7")], Some("99"), 7),
            (None, &[("fleet", "7")], Some("1"), 7),
            (Some(""), &[], Some("3"), 3),
            (None, &[], Some("50%"), 50),
            (Some(""), &[("fleet", "")], None, 20),
        ] {
            let set = set(None, namespace, configs);
            assert_eq!(of(&set, last).allowed(100), allowed, "{namespace:?} {configs:?} {last:?}");
        }
    }

    #[test]
    fn held_removal_names_the_field_and_the_object_to_commit() {
        let held = |book, namespace, configs: &[(&str, &str)]| of(&set(book, namespace, configs), None).exceeded(3, 10);
        let text = |remedy: &str| {
            Some(format!(
                "3 of 10 managed items of this node wait for removal, but one pass removes at most 2; {remedy}"
            ))
        };
        assert_eq!(
            held(Some(""), Some(""), &[]),
            text("remove fewer items at a time, or set `pruneBudget: 3` in TaskBook app/web")
        );
        let deleted = "restore the deleted TaskBook app/web, or set `pruneBudget: 3` in ";
        for (namespace, configs, object) in [
            (Some("2"), &[("fleet", "9")][..], "Namespace app"),
            (Some(""), &[], "Namespace app"),
            (None, &[("fleet", ""), ("more", "2")], "Config more"),
            (None, &[("fleet", "")], "Config fleet"),
            (None, &[], "a Config of the first source"),
        ] {
            assert_eq!(held(None, namespace, configs), text(&format!("{deleted}{object}")), "{namespace:?}");
        }
    }

    #[test]
    fn removal_within_the_budget_is_not_held() {
        let set = set(None, Some("3"), &[]);
        assert_eq!(of(&set, Some("1")).exceeded(3, 3), None);
        assert!(of(&set, Some("100%")).exceeded(4, 4).is_some());
    }

    #[test]
    fn scope_is_that_of_the_object_with_the_limit() {
        let scope = |set: &ObjectSet, last| PruneBudget::of(set, "app", "web", last).scope().clone();
        assert_eq!(scope(&set(Some(""), Some(""), &[]), None), PruneScope::Node);
        assert_eq!(scope(&set(Some(""), Some(""), &[("c", "3")]), None), PruneScope::Node);
        assert_eq!(scope(&set(Some(""), Some("3"), &[("c", "3")]), None), PruneScope::Namespace("app".into()));
        assert_eq!(scope(&set(Some("3"), Some("3"), &[]), None), PruneScope::Book("app/web".into()));
        assert_eq!(scope(&set(None, Some(""), &[]), Some("3")), PruneScope::Book("app/web".into()));
        assert_eq!(scope(&set(None, Some("4"), &[]), Some("3")), PruneScope::Namespace("app".into()));
    }
}
