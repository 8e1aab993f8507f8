use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    objects::{ObjectSet, SourceTree, load, task::Book},
    taint::{Kind, Taint, Tainted},
    template::MissingInput,
    tree::{self, MemoryTree},
    view::NodeView,
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
        unknown: BTreeSet::new(),
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

fn ready(rendered: Rendered<Tainted<Value>>) -> Value {
    match rendered {
        Rendered::Ready(value) => value.into_value(),
        Rendered::Missing(missing_inputs) => panic!("wants {missing_inputs:?}"),
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
fn missing_result_is_reported_as_a_missing_input() {
    let text = book(
        "    - name: a\n      command: {argv: [id]}\n      register: who\n    - name: b\n      when: steps.who.rc == 0\n      debug: {message: \"{{ steps.who.stdout }}\"}\n",
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    assert_eq!(
        renderer.condition(&book.tasks[1], None).unwrap(),
        Rendered::Missing(vec![MissingInput::Step("who".into())])
    );
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
fn rendered_values_are_checked() {
    let text = book(
        "    - name: a\n      file: {path: /a, content: x, mode: \"{{ vars.port }}\"}\n    - name: b\n      file: {path: /b, state: \"{{ facts.hostname }}\"}\n",
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let (renderer, book) = renderer(&set, &view);
    let error = renderer.params(&book.tasks[0], None).unwrap_err().to_string();
    assert!(error.starts_with("a.yaml:9: the mode is a number"), "{error}");
    assert!(renderer.params(&book.tasks[1], None).unwrap_err().to_string().contains("\"web1\" is not a valid state"));
}

/// Returns the inputs of a rendering, with the facts of two nodes and an event.
fn fleet() -> Inputs {
    let node = |name: &str| json!({"name": name, "labels": {"tier": "front"}, "address": null, "liveness": "alive", "facts": {"hostname": format!("{name}; id")}});
    Inputs { nodes: Arc::new(vec![node("db1"), node("web1")]), event: Some(json!({"data": {"x": "; id"}})), ..inputs() }
}

/// Renders the task `second` after the task `first` has returned `result`.
fn second(first: &str, second: &str, result: Option<Value>) -> Result<Rendered<Tainted<Value>>, RenderError> {
    let text = book(&format!(
        "    - name: first\n      register: first\n      {first}\n    - name: second\n      {}\n",
        second.replace('\n', "\n      ")
    ));
    let (set, view) = fixture(&[("a.yaml", &text), ("tasks/inner.yaml", TASKS)]);
    let book = Arc::clone(&view.books[0]);
    let renderer = Renderer::new(&set, &view, &book, &fleet()).unwrap();
    renderer.params(&book.tasks[0], None).unwrap();
    if let Some(result) = result {
        renderer.register("first", &result);
    }
    let task = &book.tasks[1];
    let item = match renderer.items(task).unwrap() {
        Rendered::Ready(Some(items)) => items.into_iter().next(),
        _ => None,
    };
    renderer.params(task, item.as_ref())
}

const TASKS: &str = "tasks:\n  - name: inner\n    command: {shell: \"echo {{ vars.given }}\"}\n";

/// An expression that reads a fact of another node, but that the check of the text does not detect.
const FACT: &str = "nodes()[0]['fac' ~ 'ts'].hostname";

#[test]
fn untrusted_value_is_refused_when_it_is_rendered() {
    for task in [
        format!("command: {{shell: \"echo {{{{ {FACT} }}}}\"}}"),
        format!("command: {{argv: [id], unless: \"test {{{{ {FACT} | quote }}}}\"}}"),
        format!("command: {{argv: [id], onlyIf: \"{{% for n in [{FACT}] %}}{{{{ n }}}}{{% endfor %}}\"}}"),
        format!(
            "vars: {{h: \"{{{{ {FACT} }}}}\", i: \"x{{{{ vars.h }}}}\"}}\ncommand: {{shell: \"{{{{ vars.i }}}}\"}}"
        ),
        format!("loop: [\"{{{{ {FACT} }}}}\"]\nfile: {{path: \"/x/{{{{ item }}}}\", content: x}}"),
        format!(
            "loop: \"{{{{ {{'a': {FACT}}} | dict2items }}}}\"\nfile: {{path: \"/{{{{ item.value }}}}\", content: x}}"
        ),
        format!("include: {{path: tasks/inner.yaml, vars: {{given: \"{{{{ {FACT} }}}}\"}}}}"),
        format!("file: {{path: /x, template: \"{{{{ {FACT} }}}}\"}}"),
        "command: {shell: \"echo '{{ nodes() | tojson }}'\"}".to_owned(),
        "file: {path: \"/{{ nodes() | map('string') | first | hash }}\", content: x}".to_owned(),
    ] {
        let error = second("command: {argv: [id]}", &task, None).unwrap_err();
        assert!(error.message.contains("the facts of node db1"), "{task}: {}", error.message);
    }
}

#[test]
fn refusal_names_field_expression_and_origin() {
    let task = format!("command: {{argv: [id], creates: \"/x/{{{{ {FACT} }}}}\"}}");
    let message = second("command: {argv: [id]}", &task, None).unwrap_err().message;
    for part in ["command.creates", "['fac' ~ 'ts']", "the facts of node db1", "`argv`, `env`, `stdin`"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn untrusted_value_passes_where_it_is_data() {
    for task in [
        format!(
            "command: {{argv: [echo, \"{{{{ {FACT} }}}}\"], stdin: \"{{{{ {FACT} }}}}\", env: {{A: \"{{{{ {FACT} }}}}\"}}}}"
        ),
        format!("file: {{path: /x, content: \"{{{{ {FACT} }}}}\"}}"),
    ] {
        let Rendered::Ready(params) = second("command: {argv: [id]}", &task, None).unwrap() else { panic!() };
        assert!(params.taint().has(Kind::Untrusted), "{task}");
        assert!(!format!("{params:?}").contains("; id"), "{task}: tainted parameters are not printed");
    }
}

#[test]
fn own_facts_and_node_objects_are_trusted() {
    for task in [
        "command: {shell: \"{{ nodes() | map(attribute='name') | join(' ') }}\"}",
        "command: {shell: \"{{ facts.hostname }} {{ nodes()[1]['fac' ~ 'ts'].hostname }}\"}",
        "loop: \"{{ nodes() | selectattr('facts.hostname', 'ne', 'x') }}\"\nfile: {path: \"/{{ item.name }}/{{ item.labels.tier }}\", content: x}",
    ] {
        let Rendered::Ready(params) = second("command: {argv: [id]}", task, None).unwrap() else { panic!() };
        assert!(params.taint().is_none(), "{task}: {:?}", params.taint());
    }
}

#[test]
fn result_of_an_untrusted_or_elected_task_is_untrusted() {
    let shell = "command: {shell: \"echo {{ steps['fir' ~ 'st'].stdout }}\"}";
    let result = json!({"stdout": "; id", "changed": true, "outcome": "changed"});
    for (first, origin) in [
        (format!("command: {{argv: [echo, \"{{{{ {FACT} }}}}\"]}}"), "the facts of node db1"),
        ("command: {argv: [id]}\n      elect: {count: 1}".to_owned(), "the result of the elected task \"first\""),
    ] {
        let error = second(&first, shell, Some(result.clone())).unwrap_err();
        assert!(error.message.contains(origin), "{first}: {}", error.message);
        for field in ["outcome", "changed"] {
            let own = format!("command: {{shell: \"echo {{{{ steps['fir' ~ 'st'].{field} }}}}\"}}");
            let elected = first.contains("elect");
            assert_eq!(second(&first, &own, Some(result.clone())).is_err(), elected, "{first}: {field}");
        }
    }
    assert!(second("command: {argv: [id]}", shell, Some(result)).is_ok(), "a node's own result is its own");
}

#[test]
fn event_is_untrusted_as_a_whole() {
    let text = format!(
        "{NAMESPACE}metadata: {{apiVersion: v1alpha, kind: TaskBook, name: web, namespace: shop}}\nspec:\n  tasks:\n    - name: a\n      vars: {{e: \"{{{{ [event] | map(attribute='data') | list }}}}\"}}\n      debug: {{message: \"{{{{ vars.e[0].x }}}}\"}}\n"
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let book = Arc::clone(&set.books["shop/web"]);
    let renderer = Renderer::new(&set, &view, &book, &fleet()).unwrap();
    let Rendered::Ready(params) = renderer.params(&book.tasks[0], None).unwrap() else { panic!() };
    assert_eq!(params.taint(), Taint::new(Kind::Untrusted, "the event"));
    assert_eq!(params.into_value(), json!({"message": "; id"}));
}

#[test]
fn computed_value_keeps_the_taint_of_its_inputs() {
    let text = book(
        "    - name: a\n      command: {shell: \"{{ vars.b }}\"}\n    - name: c\n      command: {shell: \"{{ vars.t }}\"}\n",
    ) + &format!(
        "---\nmetadata: {{apiVersion: v1alpha, kind: Variables, name: v, namespace: shop}}\nspec: {{computed: [{{name: a, expression: \"{FACT}\"}}, {{name: b, expression: vars.a ~ 'x'}}, {{name: t, task: {{command: {{argv: [id]}}}}, value: result.stdout}}]}}\n"
    );
    let (set, view) = fixture(&[("a.yaml", &text)]);
    let book = Arc::clone(&view.books[0]);
    let secret = Taint::new(Kind::Secret, "the secret db/password");
    let computed =
        BTreeMap::from([(("shop".to_owned(), "t".to_owned()), Tainted::whole(json!("hunter2"), secret.clone()))]);
    let renderer = Renderer::new(&set, &view, &book, &Inputs { computed, ..fleet() }).unwrap();
    assert!(renderer.params(&book.tasks[0], None).unwrap_err().message.contains("the facts of node db1"));
    let Rendered::Ready(params) = renderer.params(&book.tasks[1], None).unwrap() else { panic!() };
    assert_eq!(params.marks().key("shell").taint(), secret);
}
