//! Records the managed items that each task of a node claims. If two tasks claim the same item, the node rejects both
//! tasks before it applies either task (D14).

use std::{
    borrow::Cow,
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value};
use towpath_proto::ModuleKind;

use super::{Inputs, Item, Rendered, Renderer};
use crate::{
    objects::{
        ObjectSet,
        task::{Book, ModuleUse, Task},
    },
    view::NodeView,
};

/// The name of a managed item: the module of the item, and the identity of the item.
type Name = (Cow<'static, str>, String);

/// The managed items that the tasks of one node claim.
#[derive(Debug, Default)]
pub struct Claims {
    /// The items that several tasks claim, each with the names of these tasks.
    doubled: BTreeMap<Name, BTreeSet<String>>,
    /// The items that tasks have claimed so far, each with the task that first claimed the item.
    taken: Mutex<BTreeMap<Name, Owner>>,
}

/// A task that claims an item. Each member of a loop counts as a separate task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The id of the TaskBook and the id of the task, joined by a slash.
    pub task: String,
    /// The position of the member in the task's loop, counted from 0; `None` for a task without a loop.
    pub item: Option<usize>,
}

impl Claims {
    /// Finds the items that several tasks claim, before any task is applied. If an identity depends on a missing input,
    /// such as a result, [`Claims::take`] checks the task later.
    ///
    /// The function `kept` returns the identities of the items that a module manages with its rendered parameters.
    pub fn ahead(
        set: &ObjectSet,
        view: &NodeView,
        inputs: &Inputs,
        kept: &dyn Fn(&'static str, &Value) -> Vec<String>,
    ) -> Self {
        let books: Vec<Lazy<'_>> = view.books.iter().map(|book| Lazy { book, renderer: OnceCell::new() }).collect();
        let mut uses: Vec<(Name, Use<'_>)> = Vec::new();
        for book in &books {
            for task in &book.book.tasks {
                book.add_uses(task, || Renderer::new(set, view, book.book, inputs).ok(), &mut uses);
            }
        }
        // The sort is stable, so the uses of one item keep the order of the tasks.
        uses.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut doubled: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
        for uses in uses.chunk_by(|(one, _), (other, _)| one == other).filter(|uses| uses.len() > 1) {
            let Some((name, _)) = uses.first() else { continue };
            // Only now are all parameters and the conditions rendered: most items belong to one task.
            let claims = |one: &&Use<'_>| {
                let renderer = one.book.renderer(|| Renderer::new(set, view, one.book.book, inputs).ok())?;
                let item = one.items.as_ref().and_then(|items| items.get(one.index));
                let runs = renderer.condition(one.task, item).ok()?;
                let params = renderer.params(one.task, item).ok()?;
                let (Rendered::Ready(true), Rendered::Ready(params)) = (runs, params) else { return None };
                let module = one.task.module.as_ref()?.name;
                kept(module, params.value()).contains(&name.1).then_some(())
            };
            let claimants: Vec<&Use<'_>> =
                uses.iter().map(|(_, one)| one).filter(|one| claims(one).is_some()).collect();
            if claimants.len() > 1 {
                doubled.insert(name.clone(), claimants.iter().map(|one| one.owner()).collect());
            }
        }
        Self { doubled, taken: Mutex::default() }
    }

    /// Records that a task claims an item. If another task already claims the item, returns the other task. The same
    /// task may claim an item several times.
    pub fn take(&self, module: &str, identity: &str, owner: &Owner, keeps_state: bool) -> Option<String> {
        let name = (Cow::Owned(module.to_owned()), identity.to_owned());
        if let Some(owners) = self.doubled.get(&name).filter(|_| keeps_state) {
            let other = owners.iter().find(|other| **other != owner.task);
            // If one loop claims an item twice, both claims have the same task.
            return Some(other.map_or_else(|| owner.task.clone(), Clone::clone));
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = taken.get(&name).filter(|other| keeps_state && *other != owner) {
            return Some(other.task.clone());
        }
        // An action on an item does not replace the claim of the task that keeps the state of the item.
        taken.entry(name).or_insert_with(|| owner.clone());
        None
    }
}

/// A use of a module in a task. The module may claim an item.
struct Use<'a> {
    book: &'a Lazy<'a>,
    task: &'a Task,
    /// The members of the task's loop; `None` if the task has no loop.
    items: Option<Rc<Vec<Item>>>,
    /// The index of the loop member.
    index: usize,
}

impl Use<'_> {
    fn owner(&self) -> String {
        format!("{}/{}", self.book.book.id(), self.task.id)
    }
}

/// A TaskBook with its renderer. The renderer is created when a claim first needs the renderer.
struct Lazy<'a> {
    book: &'a Arc<Book>,
    renderer: OnceCell<Option<Renderer>>,
}

impl Lazy<'_> {
    fn renderer(&self, make: impl FnOnce() -> Option<Renderer>) -> Option<&Renderer> {
        self.renderer.get_or_init(make).as_ref()
    }

    /// Adds the items that a task may claim, for each member of the task's loop. To save work, the function renders
    /// only the parameters that identify the item.
    fn add_uses<'a>(
        &'a self,
        task: &'a Task,
        make: impl FnOnce() -> Option<Renderer>,
        uses: &mut Vec<(Name, Use<'a>)>,
    ) {
        // An elected task runs on some nodes only, and which ones is not known here.
        let module = task.module.as_ref().filter(|module| module.schema.kind == ModuleKind::State);
        let Some(module) = module.filter(|_| task.elect.is_none()) else { return };
        let mut add = |params: &Value, items: Option<&Rc<Vec<Item>>>, index| {
            let of = || Use { book: self, task, items: items.cloned(), index };
            uses.extend(
                identities(module, params).into_iter().map(|identity| ((Cow::Borrowed(module.name), identity), of())),
            );
        };
        let params = identity_params(module);
        if task.loop_items.is_none() && !super::coerce::has_template(&params) {
            return add(&params, None, 0);
        }
        let Some(renderer) = self.renderer(make) else { return };
        let Ok(Rendered::Ready(items)) = renderer.items(task) else { return };
        let Some(items) = items.map(Rc::new) else {
            if let Ok(Rendered::Ready(params)) = renderer.identity_params(task, &params, None) {
                add(&params, None, 0);
            }
            return;
        };
        for (index, item) in items.iter().enumerate() {
            if let Ok(Rendered::Ready(params)) = renderer.identity_params(task, &params, Some(item)) {
                add(&params, Some(&items), index);
            }
        }
    }
}

/// Returns the parameters of a module that identify the managed item, such as `path`.
fn identity_params(module: &ModuleUse) -> Value {
    let params = module.schema.identity_fields().into_iter();
    Value::Object(params.filter_map(|field| Some((field.to_owned(), module.params.get(field)?.clone()))).collect())
}

/// Returns the identities that a module claims with its parameters. If a parameter is a list of names, each name is a
/// separate identity.
fn identities(module: &ModuleUse, params: &Value) -> Vec<String> {
    let lists = params.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_array()?)));
    let mut single = Vec::new();
    for (key, members) in lists {
        single.extend(members.iter().filter_map(|member| {
            let one: Map<String, Value> = [(key.clone(), member.clone())].into_iter().collect();
            module.schema.identity(&Value::Object(one))
        }));
    }
    if single.is_empty() { module.schema.identity(params).into_iter().collect() } else { single }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        objects::{SourceTree, load},
        tree::MemoryTree,
    };

    fn owner(task: &str) -> Owner {
        Owner { task: task.to_owned(), item: None }
    }

    /// Creates two TaskBooks with the given tasks in YAML, and returns the items that several tasks claim.
    fn doubled(first: &str, second: &str) -> Vec<String> {
        let mut text = String::from(
            "metadata: {apiVersion: v1alpha, kind: Namespace, name: n}\n---\n\
             metadata: {apiVersion: v1alpha, kind: Node, name: a}\n",
        );
        for (name, tasks) in [("b", first), ("c", second)] {
            let tasks: String = tasks.lines().map(|task| format!("    - {{{task}}}\n")).collect();
            text.push_str(&format!(
                "---\nmetadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: n}}\n\
                 spec:\n  targets: {{nodes: [a]}}\n  vars: {{f: same}}\n  tasks:\n{tasks}"
            ));
        }
        let tree: MemoryTree = [("b.yaml", text.as_str())].into_iter().collect();
        let source = SourceTree { name: "s".into(), tree: Arc::new(tree), library: false, globals: true };
        let loaded = load(&[source], &BTreeMap::new());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        let view = NodeView::new(&loaded.set, "a");
        let inputs = Inputs {
            facts: json!({"hostname": "a"}),
            nodes: Arc::default(),
            computed: BTreeMap::new(),
            unknown: BTreeSet::new(),
            event: None,
        };
        // A restarted service is an action, which does not keep a state.
        let kept = |module: &str, params: &Value| match (module, params["state"].as_str(), params["names"].as_array()) {
            ("service", Some("restarted"), _) => Vec::new(),
            (_, _, Some(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => towpath_proto::module(module).and_then(|module| module.identity(params)).into_iter().collect(),
        };
        let claims = Claims::ahead(&loaded.set, &view, &inputs, &kept);
        let shown = |((module, identity), owners): (&Name, &BTreeSet<String>)| {
            format!("{module} {identity}: {}", owners.iter().cloned().collect::<Vec<_>>().join(" "))
        };
        claims.doubled.iter().map(shown).collect()
    }

    #[test]
    fn item_of_two_tasks_is_found_before_either_runs() {
        let literal = "name: t, file: {path: /etc/same, content: x}";
        for other in [
            "name: u, file: {path: \"/etc/{{ vars.f }}\", content: x}",
            "name: u, file: {path: \"/etc/{{ vars.f }}/\", state: directory}",
            "name: u, loop: [other, same], file: {path: \"/etc/{{ item }}\", content: x}",
            "name: u, when: \"facts.hostname == 'a'\", file: {path: /etc/same, content: x}",
            "name: u, vars: {p: /etc/same}, file: {path: \"{{ vars.p }}\", content: x}",
        ] {
            assert_eq!(doubled(literal, other), ["file /etc/same: n/b/t n/c/u"], "{other}");
            assert_eq!(doubled(other, literal), ["file /etc/same: n/b/u n/c/t"], "{other}");
        }
    }

    #[test]
    fn list_of_names_claims_each_of_them() {
        assert_eq!(
            doubled("name: t, package: {names: [a, b]}", "name: u, loop: [b, c], package: {name: \"{{ item }}\"}"),
            ["package b: n/b/t n/c/u"]
        );
    }

    #[test]
    fn item_that_a_loop_names_twice_is_found() {
        let twice = "name: t, loop: [same, same], file: {path: \"/{{ item }}\", content: x}";
        assert_eq!(doubled(twice, "name: u, debug: {message: x}"), ["file /same: n/b/t"]);
    }

    #[test]
    fn tasks_that_do_not_run_or_keep_no_state_claim_nothing() {
        let first = "name: t, service: {name: \"{{ vars.f }}\", state: started}";
        for other in [
            "name: u, when: \"facts.hostname == 'b'\", service: {name: same, state: started}",
            "name: u, when: \"facts.hostname == 'a'\", service: {name: same, state: restarted}",
            "name: u, elect: {count: 1}, when: \"facts.hostname == 'a'\", service: {name: same}",
            "name: u, service: {name: other}",
        ] {
            assert_eq!(doubled(first, other), Vec::<String>::new(), "{other}");
        }
    }

    #[test]
    fn item_that_depends_on_a_result_is_rejected_when_it_is_known() {
        let first = "name: t, file: {path: /same, content: x}";
        let second = "name: r, register: r, command: {argv: [id]}\n\
                      name: u, file: {path: \"/{{ steps.r.stdout }}\", content: x}";
        assert_eq!(doubled(first, second), Vec::<String>::new());
        let claims = Claims::default();
        assert_eq!(claims.take("file", "/same", &owner("n/b/t"), true), None);
        assert_eq!(claims.take("file", "/same", &owner("n/b/t"), true), None, "the same task");
        assert_eq!(claims.take("file", "/same", &owner("n/c/u"), true).as_deref(), Some("n/b/t"));
        let item = Owner { item: Some(1), ..owner("n/b/t") };
        assert_eq!(claims.take("file", "/same", &item, true).as_deref(), Some("n/b/t"), "another item of the loop");
    }

    #[test]
    fn action_does_not_take_the_item_of_a_task_that_keeps_its_state() {
        let claims = Claims::default();
        // A dry run of the TaskBook claims the same items before the run does.
        for _ in ["preview", "run"] {
            assert_eq!(claims.take("service", "x", &owner("n/b/started"), true), None);
            assert_eq!(claims.take("service", "x", &owner("n/b/restarted"), false), None);
        }
    }

    #[test]
    fn both_tasks_are_rejected_and_name_each_other() {
        let owners = ["n/b/t".to_owned(), "n/c/u".to_owned()].into();
        let doubled = [(("file".into(), "/same".to_owned()), owners)].into();
        let claims = Claims { doubled, taken: Mutex::default() };
        assert_eq!(claims.take("file", "/same", &owner("n/b/t"), true).as_deref(), Some("n/c/u"));
        assert_eq!(claims.take("file", "/same", &owner("n/c/u"), true).as_deref(), Some("n/b/t"));
        assert_eq!(claims.take("line", "/same", &owner("n/b/t"), true), None);
    }
}
