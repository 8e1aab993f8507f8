//! The prune budget of deleted TaskBooks.

use std::fs;

use serde_json::json;
use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, OnceResult, condition, task},
};

struct Fixture {
    repository: Repository,
    node: Node,
    _folder: tempfile::TempDir,
}

/// Tasks of the file module, one for each name.
fn files(names: &[&str]) -> String {
    names.iter().map(|name| format!("    - name: {name}\n      file: {{path: /{name}, content: {name}}}\n")).collect()
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        repository.write("fleet.yaml", FLEET);
        Self { repository, node, _folder: folder }
    }

    fn apply(&self, message: &str) -> OnceResult {
        self.repository.publish(message);
        self.node.once()
    }

    fn write_book(&self, name: &str, settings: &str, names: &[&str]) {
        let spec = format!("  prune: true\n{settings}  tasks:\n{}", files(names));
        self.repository.write(&format!("{name}.yaml"), book(name, &spec));
    }

    fn delete(&self, file: &str) {
        fs::remove_file(self.repository.work.join(file)).unwrap();
    }

    /// Sets the spec of the Namespace.
    fn namespace(&self, spec: &str) {
        self.repository.write("fleet.yaml", FLEET.replace("name: app}\n", &format!("name: app}}\nspec: {spec}\n")));
    }

    /// Deletes a book with three of four items of the node, and returns the message about the held removal.
    fn held(&self, settings: &str) -> String {
        self.write_book("stays", "", &["a"]);
        self.write_book("goes", settings, &["b", "c", "d"]);
        assert_eq!(self.apply("both").code, 0);
        self.delete("goes.yaml");
        let once = self.apply("one is deleted");
        assert_eq!(once.code, 4, "{}", once.log);
        assert_eq!(condition(&once.status, "Held")["reason"], json!("Budget"), "{:#}", once.status);
        assert!(["/b", "/c", "/d"].iter().all(|path| self.node.read(path).is_some()));
        task(&once.status, "prune")["message"].as_str().unwrap().to_owned()
    }

    fn is_released(&self, once: &OnceResult) {
        assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
        assert!(["/b", "/c", "/d"].iter().all(|path| self.node.read(path).is_none()));
        assert_eq!(self.node.read("/a").as_deref(), Some("a"));
    }
}

const HELD: &str = "3 of 4 managed items of this node wait for removal, but one pass removes at most 1; \
                    restore the deleted TaskBook app/goes, or set `pruneBudget: 3` in ";

#[test]
fn budget_of_the_namespace_releases_a_deleted_book_over_its_last_budget() {
    let f = Fixture::new();
    assert_eq!(f.held("  pruneBudget: 1\n"), format!("{HELD}Namespace app"));
    f.namespace("{pruneBudget: 2}");
    let once = f.apply("too small");
    assert_eq!(once.code, 4, "{}", once.log);
    assert!(
        task(&once.status, "prune")["message"].to_string().contains("one pass removes at most 2"),
        "{:#}",
        once.status
    );
    f.namespace("{pruneBudget: 3}");
    f.is_released(&f.apply("enough"));
}

#[test]
fn budget_of_a_config_releases_a_deleted_book_without_a_budget() {
    let f = Fixture::new();
    assert_eq!(f.held(""), format!("{HELD}Namespace app"));
    let config = "metadata: {apiVersion: v1alpha, kind: Config, name: cluster}\nspec: {pruneBudget: 75%}\n";
    f.repository.write("config.yaml", config);
    f.is_released(&f.apply("enough"));
}

#[test]
fn budget_of_the_book_has_precedence_over_its_namespace_and_a_config() {
    let f = Fixture::new();
    f.namespace("{pruneBudget: 100%}");
    let config = "metadata: {apiVersion: v1alpha, kind: Config, name: cluster}\nspec: {pruneBudget: 100%}\n";
    f.repository.write("config.yaml", config);
    f.write_book("stays", "  pruneBudget: 1\n", &["a", "b", "c", "d"]);
    assert_eq!(f.apply("all").code, 0);
    f.write_book("stays", "  pruneBudget: 1\n", &["a"]);
    let once = f.apply("one is left");
    assert_eq!(once.code, 4, "{}", once.log);
    let message = task(&once.status, "prune")["message"].as_str().unwrap().to_owned();
    assert!(
        message.ends_with("remove fewer items at a time, or set `pruneBudget: 3` in TaskBook app/stays"),
        "{message}"
    );
    // Without a budget of its own, the book has that of its Namespace.
    f.write_book("stays", "", &["a"]);
    f.is_released(&f.apply("the budget of the Namespace"));
}

/// A folder that is lost in git deletes many books, each with few items.
#[test]
fn removals_of_many_deleted_books_are_held_together() {
    let f = Fixture::new();
    let names = ["b", "c", "d", "e"];
    f.write_book("stays", "", &["a"]);
    names.iter().for_each(|name| f.write_book(name, "", &[name]));
    assert_eq!(f.apply("all").code, 0);
    names.iter().for_each(|name| f.delete(&format!("{name}.yaml")));
    let once = f.apply("four are deleted");
    assert_eq!(once.code, 4, "{}", once.log);
    assert_eq!(condition(&once.status, "Held")["reason"], json!("Budget"), "{:#}", once.status);
    assert!(names.iter().all(|name| f.node.read(&format!("/{name}")).is_some()), "{:#}", once.status);
    let config = "metadata: {apiVersion: v1alpha, kind: Config, name: cluster}\nspec: {pruneBudget: 4}\n";
    f.repository.write("config.yaml", config);
    let once = f.apply("the budget is raised");
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
    assert!(names.iter().all(|name| f.node.read(&format!("/{name}")).is_none()));
}

/// The books under the default budget are held together, and the book with a budget of its own is not.
#[test]
fn book_with_its_own_budget_is_not_held_by_other_removals() {
    let f = Fixture::new();
    f.write_book("stays", "", &["a"]);
    ["b", "c"].iter().for_each(|name| f.write_book(name, "", &[name]));
    f.write_book("own", "  pruneBudget: 100%\n", &["d", "e"]);
    assert_eq!(f.apply("all").code, 0);
    ["b", "c"].iter().for_each(|name| f.delete(&format!("{name}.yaml")));
    f.write_book("own", "  pruneBudget: 100%\n", &["d"]);
    let once = f.apply("three items leave");
    assert_eq!(once.code, 4, "{}", once.log);
    assert!(["/b", "/c", "/d"].iter().all(|path| f.node.read(path).is_some()), "{:#}", once.status);
    assert_eq!(f.node.read("/e"), None, "{:#}", once.status);
}

/// The budget of a Namespace is for all its books together.
#[test]
fn books_of_a_namespace_share_its_budget() {
    let f = Fixture::new();
    f.namespace("{pruneBudget: 2}");
    f.write_book("stays", "", &["a"]);
    ["b", "c", "d"].iter().for_each(|name| f.write_book(name, "", &[name]));
    assert_eq!(f.apply("all").code, 0);
    ["b", "c", "d"].iter().for_each(|name| f.delete(&format!("{name}.yaml")));
    assert_eq!(f.apply("three are deleted").code, 4);
    assert!(["/b", "/c", "/d"].iter().all(|path| f.node.read(path).is_some()));
    f.namespace("{pruneBudget: 3}");
    assert_eq!(f.apply("the budget is raised").code, 0);
    assert!(["/b", "/c", "/d"].iter().all(|path| f.node.read(path).is_none()));
}
