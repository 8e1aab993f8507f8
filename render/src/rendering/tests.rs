use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    objects::{SourceTree, load},
    tree::MemoryTree,
};

const NAMESPACE: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}\n---\n";

fn fixture(files: &[(&str, &str)]) -> (ObjectSet, NodeView) {
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    let tree: Arc<dyn tree::Tree> = Arc::new(files.collect::<MemoryTree>());
    let loaded = load(&[SourceTree { name: "fleet".into(), tree, library: false, globals: true }], &BTreeMap::new());
    assert!(
        loaded.errors.is_empty(),
        "{}",
        loaded.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    let view = NodeView::new(&loaded.set, "web1");
    (loaded.set, view)
}

fn inputs() -> Inputs {
    Inputs {
        facts: json!({"hostname": "web1", "cpus": 4}),
        nodes: Arc::new(vec![json!({"name": "web1", "labels": {"tier": "front"}})]),
        computed: BTreeMap::new(),
        event: None,
    }
}

fn book(tasks: &str) -> String {
    format!(
        "{NAMESPACE}metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: shop}}\nspec:\n  targets: {{nodes: [web1]}}\n  vars: {{port: 80, name: \"h-{{{{ facts.hostname }}}}\"}}\n  tasks:\n{tasks}"
    )
}

fn renderer(set: &ObjectSet, view: &NodeView) -> (Renderer, Arc<Book>) {
    let book = Arc::clone(&view.books[0]);
    (Renderer::new(set, view, &book, &inputs()).unwrap(), book)
}

fn ready(rendered: Rendered<Value>) -> Value {
    match rendered {
        Rendered::Ready(value) => value,
        Rendered::Wants(wants) => panic!("wants {wants:?}"),
    }
}

#[test]
fn parameters_are_filled_and_typed() {
    let text = book(
        "    - name: a\n      loop: [x, y]\n      file: {path: \"/srv/{{ item }}\", content: \"{{ vars.port }}\", backup: \"{{ loop.first }}\"}\n    - name: b\n      debug: {message: \"{{ vars.name }} {{ nodes('tier=front') | length }}\"}\n",
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    let Rendered::Ready(Some(items)) = renderer.items(&book.tasks[0]).unwrap() else { panic!() };
    let params = ready(renderer.params(&book.tasks[0], Some(&items[1])).unwrap());
    assert_eq!(params, json!({"path": "/srv/y", "content": "80", "backup": false}));
    assert_eq!(ready(renderer.params(&book.tasks[1], None).unwrap()), json!({"message": "h-web1 1"}));
    assert_eq!(renderer.reads().facts(), ["hostname"]);
}

#[test]
fn a_result_that_is_not_there_is_wanted() {
    let text = book(
        "    - name: a\n      command: {argv: [id]}\n      register: who\n    - name: b\n      when: steps.who.rc == 0\n      debug: {message: \"{{ steps.who.stdout }}\"}\n",
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    assert_eq!(renderer.condition(&book.tasks[1], None).unwrap(), Rendered::Wants(vec![Want::Step("who".into())]));
    renderer.register("who", &json!({"rc": 0, "stdout": "root"}));
    assert_eq!(renderer.condition(&book.tasks[1], None).unwrap(), Rendered::Ready(true));
    assert_eq!(ready(renderer.params(&book.tasks[1], None).unwrap()), json!({"message": "root"}));
}

#[test]
fn includes_have_their_own_folder_vars_and_names() {
    let text = book(
        "    - name: nginx\n      include: {path: lib/tasks/main.yaml, vars: {listen: \"{{ vars.port }}\"}}\n    - name: last\n      debug: {message: \"{{ steps['nginx/made'].changed }}\"}\n",
    );
    let tasks = "tasks:\n  - name: conf\n    file: {path: /etc/conf, template: t.j2}\n    register: made\n    notify: [reload]\n  - name: after\n    when: steps.made.changed\n    debug: {message: x}\nhandlers:\n  - name: reload\n    command: {argv: [\"true\"]}\n";
    let (set, view) =
        fixture(&[("a.yaml", &text), ("lib/tasks/main.yaml", tasks), ("lib/tasks/t.j2", "port {{ vars.listen }}\n")]);
    let (renderer, book) = renderer(&set, &view);
    assert_eq!(book.tasks[0].id, "nginx/conf");
    assert_eq!(book.tasks[0].notify, ["nginx/reload"]);
    assert_eq!(
        ready(renderer.params(&book.tasks[0], None).unwrap()),
        json!({"path": "/etc/conf", "content": "port 80\n"})
    );
    renderer.register("nginx/made", &json!({"changed": true}));
    assert_eq!(renderer.condition(&book.tasks[1], None).unwrap(), Rendered::Ready(true));
}

#[test]
fn computed_values_use_others_in_any_order() {
    let text = book("    - name: a\n      debug: {message: \"{{ vars.a }} {{ vars.b }}\"}\n")
        + "---\nmetadata: {apiVersion: v1alpha, kind: Variables, name: v, namespace: shop}\nspec: {values: {n: 2}, computed: [{name: a, expression: vars.b + 1}, {name: b, expression: vars.n * facts.cpus}]}\n";
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    assert_eq!(ready(renderer.params(&book.tasks[0], None).unwrap()), json!({"message": "9 8"}));
}

#[test]
fn what_a_template_gives_is_checked() {
    let text = book(
        "    - name: a\n      file: {path: /a, content: x, mode: \"{{ vars.port }}\"}\n    - name: b\n      file: {path: /b, state: \"{{ facts.hostname }}\"}\n",
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    let error = renderer.params(&book.tasks[0], None).unwrap_err().to_string();
    assert!(error.starts_with("a.yaml:9: the mode is a number"), "{error}");
    assert!(renderer.params(&book.tasks[1], None).unwrap_err().to_string().contains("\"web1\" is no state"));
}
