//! Tests of the limits of Namespaces and of the budgets of sources. Each test loads all objects of one or more sources.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::tree::MemoryTree;

fn source(name: &str, files: &[(&str, &str)]) -> SourceTree {
    let tree: MemoryTree = files.iter().copied().collect();
    SourceTree { name: name.into(), tree: Arc::new(tree), library: false, globals: false }
}

fn library(name: &str, files: &[(&str, &str)]) -> SourceTree {
    SourceTree { library: true, ..source(name, files) }
}

/// Returns the YAML text of a test fleet: the NodeGroups web and dbs, and a Namespace with the given limits.
fn fleet(limits: &str) -> String {
    let groups = r#"---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}
spec: {nodes: [web1]}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: dbs}
spec: {nodes: [db1]}
---
metadata: {apiVersion: v1alpha, kind: Node, name: web1}
---
metadata: {apiVersion: v1alpha, kind: Node, name: db1}
"#;
    format!("metadata: {{apiVersion: v1alpha, kind: Namespace, name: shop}}\nspec: {limits}\n{groups}")
}

fn object(kind: &str, spec: &str) -> String {
    format!("metadata: {{apiVersion: v1alpha, kind: {kind}, name: a, namespace: shop}}\nspec: {spec}\n")
}

fn errors(limits: &str, object: &str) -> Vec<String> {
    let fleet = fleet(limits);
    let loaded = load(&[source("fleet", &[("fleet.yaml", &fleet), ("object.yaml", object)])], &BTreeMap::new());
    loaded.errors.into_iter().map(|error| error.message).collect()
}

const COMMAND: &str = "[{name: t, command: {argv: [/bin/id]}}]";

#[test]
fn every_kind_keeps_to_the_modules_of_its_namespace() {
    let specs = [
        ("TaskBook", format!("{{targets: {{nodeGroups: [web]}}, tasks: {COMMAND}}}")),
        ("TaskBook", format!("{{targets: {{nodeGroups: [web]}}, handlers: {COMMAND}}}")),
        ("TaskBook", format!("{{targets: {{nodeGroups: [web]}}, rollout: {{before: {COMMAND}}}}}")),
        ("TaskBook", format!("{{targets: {{nodeGroups: [web]}}, rollout: {{after: {COMMAND}}}}}")),
        ("CronJob", format!("{{schedule: '* * * * *', targets: {{nodeGroups: [web]}}, tasks: {COMMAND}}}")),
        ("Trigger", format!("{{match: {{type: x.y}}, run: {{targets: {{nodeGroups: [web]}}, tasks: {COMMAND}}}}}")),
        ("Beacon", "{check: {command: {argv: [/bin/id]}}, condition: 'result.rc == 0', event: {type: x.y}}".to_owned()),
        ("Variables", "{computed: [{name: x, task: {name: t, command: {argv: [/bin/id]}}}]}".to_owned()),
    ];
    for (kind, spec) in specs {
        let found = errors("{modules: {allow: [file, debug]}}", &object(kind, &spec));
        assert!(
            found.iter().any(|error| error.contains("must not use the module command")),
            "{kind} {spec}: {found:?}"
        );
        let found = errors("{modules: {deny: [file]}}", &object(kind, &spec));
        assert!(!found.iter().any(|error| error.contains("must not use")), "{kind} {spec}: {found:?}");
    }
}

#[test]
fn every_kind_keeps_to_the_node_groups_of_its_namespace() {
    let debug = "[{name: t, debug: {message: m}}]";
    for targets in ["{nodeGroups: [dbs]}", "{nodes: [db1]}", "{nodeGroups: [web], nodes: [db1]}"] {
        let specs = [
            ("TaskBook", format!("{{targets: {targets}, tasks: {debug}}}")),
            ("CronJob", format!("{{schedule: '* * * * *', targets: {targets}, tasks: {debug}}}")),
            ("Trigger", format!("{{match: {{type: x.y}}, run: {{targets: {targets}, tasks: {debug}}}}}")),
            (
                "Beacon",
                format!(
                    "{{targets: {targets}, check: {{disk: {{path: /}}}}, condition: 'true', event: {{type: x.y}}}}"
                ),
            ),
            ("Variables", format!("{{targets: {targets}, values: {{a: b}}}}")),
        ];
        for (kind, spec) in specs {
            let found = errors("{nodeGroups: [web]}", &object(kind, &spec));
            assert!(found.iter().any(|error| error.contains("must not target")), "{kind} {targets}: {found:?}");
            let found = errors("{nodeGroups: [web, dbs]}", &object(kind, &spec));
            assert!(!found.iter().any(|error| error.contains("must not target")), "{kind} {targets}: {found:?}");
        }
    }
}

#[test]
fn every_list_of_readers_keeps_to_the_node_groups_of_its_namespace() {
    for readers in ["{nodeGroups: [dbs]}", "{nodes: [db1]}", "{nodeGroups: [web], nodes: [db1]}", "{nodes: [unknown]}"]
    {
        let publish = format!("{{name: p, publish: {{name: v, value: x, readers: {readers}}}}}");
        let book = |spec: &str| format!("{{targets: {{nodeGroups: [web]}}, {spec}}}");
        let specs = [
            ("Secret", format!("{{readers: {readers}, generate: {{a: {{}}}}}}")),
            ("TaskBook", book(&format!("tasks: [{publish}]"))),
            ("TaskBook", book(&format!("tasks: [{{name: t, debug: {{message: m}}}}], handlers: [{publish}]"))),
            (
                "TaskBook",
                book(&format!("rollout: {{after: [{publish}]}}, tasks: [{{name: t, debug: {{message: m}}}}]")),
            ),
            ("CronJob", format!("{{schedule: '* * * * *', tasks: [{publish}]}}")),
            ("Trigger", format!("{{match: {{type: x.y}}, run: {{tasks: [{publish}]}}}}")),
        ];
        for (kind, spec) in specs {
            let refused = |limits: &str| {
                let found = errors(limits, &object(kind, &spec));
                (found.iter().any(|error| error.contains("must not share values with")), found)
            };
            let (is_refused, found) = refused("{nodeGroups: [web]}");
            assert!(is_refused, "{kind} {spec}: {found:?}");
            // A node that git does not name is in no group. A Namespace without limits may still target the node.
            let wide = if readers.contains("unknown") { "{}" } else { "{nodeGroups: [web, dbs]}" };
            let (is_refused, found) = refused(wide);
            assert!(!is_refused, "{kind} {spec}: {found:?}");
        }
    }
}

#[test]
fn template_among_the_readers_is_refused_in_a_limited_namespace() {
    for name in ["\"{{ vars.x }}\"", "\"{% if true %}db1{% endif %}\""] {
        for readers in [
            format!("{{nodes: [{name}]}}"),
            format!("{{nodeGroups: [{name}]}}"),
            format!("{{nodes: {name}}}"),
            format!("{{nodeGroups: {name}}}"),
            name.to_owned(),
        ] {
            let task = format!("{{name: p, publish: {{name: v, value: x, readers: {readers}}}}}");
            let book = object("TaskBook", &format!("{{targets: {{nodeGroups: [web]}}, tasks: [{task}]}}"));
            let refused =
                |limits: &str| errors(limits, &book).iter().any(|error| error.contains("cannot use the template"));
            assert!(refused("{nodeGroups: [web]}"), "{readers}");
            assert!(!refused("{}"), "{readers}");
        }
    }
}

#[test]
fn targets_that_are_left_out_are_the_nodes_of_the_namespace() {
    let debug = "[{name: t, debug: {message: m}}]";
    let specs = [
        ("CronJob", format!("{{schedule: '* * * * *', tasks: {debug}}}")),
        ("Trigger", format!("{{match: {{type: x.y}}, run: {{tasks: {debug}}}}}")),
        ("Beacon", "{check: {disk: {path: /}}, condition: 'true', event: {type: x.y}}".to_owned()),
        ("Variables", "{values: {a: b}}".to_owned()),
    ];
    for (kind, spec) in &specs {
        for (limits, expected) in [
            ("{nodeGroups: [web]}", [true, false, false]),
            ("{nodeGroups: [dbs]}", [false, true, false]),
            ("{nodeGroups: [web, dbs]}", [true, true, false]),
            ("{}", [true, true, true]),
        ] {
            let (fleet, object) = (fleet(limits), object(kind, spec));
            let tree = source("fleet", &[("fleet.yaml", &fleet), ("object.yaml", &object)]);
            let set = load(&[tree], &BTreeMap::new()).set;
            let reaction = set.reactions.values().next().map(|reaction| &reaction.targets);
            let targets = reaction.or(set.variables.first().map(|object| &object.targets)).unwrap();
            let selected = ["web1", "db1", "unknown"].map(|node| targets.select(node, &set.groups_of(node)).is_some());
            assert_eq!(selected, expected, "{kind} under {limits}");
        }
    }
}

#[test]
fn command_lines_of_other_modules_count_as_commands() {
    let book = |task: &str| object("TaskBook", &format!("{{targets: {{nodeGroups: [web]}}, tasks: [{task}]}}"));
    for task in [
        "{name: t, file: {path: /a, content: b, validate: 'true %s'}}",
        "{name: t, line: {path: /a, line: b, validate: 'true %s'}}",
        "{name: t, block: {path: /a, block: b, validate: 'true %s'}}",
        "{name: t, ini: {path: /a, key: b, value: c, validate: 'true %s'}}",
        "{name: t, script: {source: a.sh, unless: 'id'}}",
        "{name: t, script: {source: a.sh, onlyIf: 'id'}}",
    ] {
        for limits in ["{modules: {deny: [command]}}", "{modules: {allow: [file, line, block, ini, script]}}"] {
            let found = errors(limits, &book(task));
            let refused = found.iter().any(|error| error.contains("must not use the module command"));
            // If a module does not have the parameter, loading reports the unknown parameter.
            let unknown = found.iter().any(|error| error.contains("has no \"validate\""));
            assert!(refused || unknown, "{task} under {limits}: {found:?}");
        }
        let found = errors("{modules: {deny: [service]}}", &book(task));
        assert!(!found.iter().any(|error| error.contains("must not use")), "{task}: {found:?}");
    }
}

#[test]
fn include_reads_only_sources_of_its_namespace() {
    let namespaces = r#"metadata: {apiVersion: v1alpha, kind: Namespace, name: a}
---
metadata: {apiVersion: v1alpha, kind: Namespace, name: b}
spec: {sources: [tenant]}
---
metadata: {apiVersion: v1alpha, kind: Node, name: web1}
"#;
    let book = |namespace: &str, source: &str| {
        format!(
            "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: m, namespace: {namespace}}}\nspec: {{targets: \
             {{nodes: [web1]}}, tasks: [{{include: {{source: {source}, path: tasks/t.yaml}}}}]}}\n"
        )
    };
    let tasks = "tasks:\n  - {name: z, debug: {message: m}}\n";
    let through = "tasks:\n  - include: {source: tenant, path: tasks/t.yaml}\n";
    let refused = |fleet_book: &str, tenant_book: &str, shared: &str| {
        let sources = [
            source("fleet", &[("a.yaml", namespaces), ("b.yaml", fleet_book), ("tasks/t.yaml", tasks)]),
            source("tenant", &[("a.yaml", tenant_book), ("tasks/t.yaml", tasks)]),
            library("shared", &[("tasks/t.yaml", shared)]),
        ];
        let errors = load(&sources, &BTreeMap::new()).errors;
        errors.iter().any(|error| error.message.contains("must not include from the source"))
    };
    let none = "# nothing\n";
    assert!(refused(&book("a", "tenant"), &book("b", "shared"), tasks), "another Namespace's source");
    assert!(refused(none, &book("b", "fleet"), tasks), "the first source, by a Namespace with sources of its own");
    assert!(refused(&book("a", "shared"), &book("b", "shared"), through), "through a library");
    assert!(!refused(&book("a", "fleet"), &book("b", "tenant"), tasks), "its own");
    assert!(!refused(&book("a", "shared"), &book("b", "shared"), tasks), "a library");
}

/// Returns files that include one another, so that their expansion has `width` to the power of `depth` tasks.
fn bomb(width: usize, depth: usize) -> Vec<(String, String)> {
    let mut files = vec![("tasks/0.yaml".to_owned(), "tasks:\n  - {name: t, debug: {message: m}}\n".to_owned())];
    for level in 1..depth {
        let mut text = "tasks:\n".to_owned();
        for index in 0..width {
            text.push_str(&format!("  - {{name: n{index}, include: {{path: {}.yaml}}}}\n", level - 1));
        }
        files.push((format!("tasks/{level}.yaml"), text));
    }
    files
}

const TENANT: &str = r#"metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}
spec: {sources: [tenant]}
---
metadata: {apiVersion: v1alpha, kind: Namespace, name: platform}
---
metadata: {apiVersion: v1alpha, kind: Node, name: web1}
---
metadata: {apiVersion: v1alpha, kind: TaskBook, name: base, namespace: platform}
spec: {targets: {nodes: [web1]}, tasks: [{name: t, debug: {message: m}}]}
"#;

fn with_bomb(depth: usize) -> [SourceTree; 2] {
    let mut files = bomb(10, depth);
    let include = format!("{{targets: {{nodes: [web1]}}, tasks: [{{include: {{path: tasks/{}.yaml}}}}]}}", depth - 1);
    files.push(("a.yaml".into(), object("TaskBook", &include)));
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    [source("fleet", &[("a.yaml", TENANT)]), source("tenant", &files)]
}

#[test]
fn source_beyond_its_budget_is_held_and_the_others_continue() {
    let loaded = load_partial(&with_bomb(8), &BTreeMap::new());
    assert_eq!(loaded.errors, []);
    assert_eq!(loaded.set.books.keys().collect::<Vec<_>>(), ["platform/base"]);
    let held = &loaded.set.held[&("tenant".to_owned(), None)];
    assert!(held.problem.message.contains("more than 50000 tasks after includes"), "{}", held.problem.message);
    // The same commit in the first source is an error, because objects of the first source are not held.
    let [_, tenant] = with_bomb(8);
    let loaded = load_partial(&[tenant], &BTreeMap::new());
    assert!(loaded.errors.iter().any(|error| error.message.contains("tasks after includes")));
}

#[test]
fn large_values_of_included_files_are_charged_each_time() {
    let large = format!("tasks:\n  - {{name: t, debug: {{message: {}}}}}\n", "m".repeat(1 << 20));
    let includes: String =
        (0..70).map(|index| format!("    - {{name: n{index}, include: {{path: tasks/l.yaml}}}}\n")).collect();
    let book = format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: a, namespace: shop}}\nspec:\n  targets: {{nodes: \
         [web1]}}\n  tasks:\n{includes}"
    );
    let sources =
        [source("fleet", &[("a.yaml", TENANT)]), source("tenant", &[("a.yaml", &book), ("tasks/l.yaml", &large)])];
    let loaded = load_partial(&sources, &BTreeMap::new());
    assert!(loaded.set.held[&("tenant".to_owned(), None)].problem.message.contains("bytes"));
    assert_eq!(loaded.set.books.len(), 1);
}

#[test]
fn object_that_includes_a_broken_file_of_a_library_is_held() {
    let include = "{targets: {nodes: [web1]}, tasks: [{include: {source: shared, path: tasks/t.yaml}}]}";
    let mine = object("TaskBook", include);
    for broken in ["tasks: [", "tasks:\n  - {name: t, debug: {mesage: m}}\n", "tasks:\n  - {name: t, nothing: {}}\n"] {
        let sources = [
            source("fleet", &[("a.yaml", TENANT)]),
            source("tenant", &[("a.yaml", &mine)]),
            library("shared", &[("tasks/t.yaml", broken)]),
        ];
        let loaded = load_partial(&sources, &BTreeMap::new());
        assert_eq!(loaded.errors, [], "{broken}");
        let held: Vec<_> = loaded.set.held.keys().map(|(_, key)| key.as_ref().map(|key| key.name.as_str())).collect();
        assert_eq!(held, [Some("a")], "{broken}");
        assert_eq!(loaded.set.books.keys().collect::<Vec<_>>(), ["platform/base"], "{broken}");
    }
}

#[test]
fn long_chain_of_held_objects_ends_with_the_source_held_whole() {
    let mut text = String::new();
    for index in 0..40 {
        let before = if index == 0 { "gone".to_owned() } else { format!("b{}", index - 1) };
        text.push_str(&format!(
            "---\nmetadata: {{apiVersion: v1alpha, kind: TaskBook, name: b{index}, namespace: shop}}\nspec: {{targets: \
             {{nodes: [web1]}}, dependsOn: [{before}], tasks: [{{name: t, debug: {{message: m}}}}]}}\n"
        ));
    }
    let loaded = load_partial(
        &[source("fleet", &[("a.yaml", TENANT)]), source("tenant", &[("a.yaml", &text)])],
        &BTreeMap::new(),
    );
    assert_eq!(loaded.errors, []);
    assert!(loaded.set.held.contains_key(&("tenant".to_owned(), None)));
    assert_eq!(loaded.set.books.len(), 1);
}

#[test]
fn problems_of_one_file_are_bounded_and_the_rest_is_counted() {
    let mut text = String::new();
    for index in 0..60 {
        text.push_str(&format!(
            "---\nmetadata: {{apiVersion: v1alpha, kind: NodeGroup, name: g{index}}}\nspec: {{node: [a]}}\n"
        ));
    }
    let budget = Budget { problems: 5, ..Budget::default() };
    let sources = [source("fleet", &[("a.yaml", &text)])];
    let loaded = load_without(&sources, &BTreeMap::new(), &LeftOut::default(), budget);
    assert_eq!(loaded.errors.len(), 6);
    assert!(loaded.errors.iter().any(|error| error.message.contains("are not shown")));
}

#[test]
fn one_resource_of_many_books_is_a_conflict_only_on_a_common_node() {
    let book = |name: &str, node: &str| {
        format!(
            "---\nmetadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: platform}}\nspec: {{targets: \
             {{nodes: [{node}]}}, tasks: [{{name: t, file: {{path: /motd, content: m}}}}]}}\n"
        )
    };
    let conflicts = |books: &str| {
        let text = format!("{TENANT}{books}");
        let loaded = load(&[source("fleet", &[("a.yaml", &text)])], &BTreeMap::new());
        loaded.errors.iter().filter(|error| error.message.contains("two tasks on one node")).count()
    };
    let apart: String = (0..300).map(|index| book(&format!("b{index}"), &format!("n{index}"))).collect();
    assert_eq!(conflicts(&apart), 0);
    assert_eq!(conflicts(&format!("{apart}{}", book("c", "n7"))), 1);
}

#[test]
fn long_key_is_an_error_and_costs_no_memory_for_its_paths() {
    let values = "'{{a}}', ".repeat(1000);
    let object = format!(
        "metadata: {{apiVersion: v1alpha, kind: Variables, name: a, namespace: shop}}\nspec:\n  variables:\n    ? {}\n    : [{values}]\n",
        "k".repeat(2000)
    );
    let found = errors("{}", &object);
    assert!(found.iter().any(|error| error.contains("a key has 2000 bytes")), "{found:?}");
}

#[test]
fn auto_notify_handles_a_limited_number_of_services() {
    let tasks = |number: usize| -> String {
        (0..number).map(|at| format!("{{name: t{at}, service: {{name: s{at}, state: started}}}}, ")).collect()
    };
    let book = |number| format!("{{targets: {{nodeGroups: [web]}}, autoNotify: true, tasks: [{}]}}", tasks(number));
    assert_eq!(errors("{}", &object("TaskBook", &book(100))), [""; 0]);
    let found = errors("{}", &object("TaskBook", &book(101)));
    assert_eq!(found, ["autoNotify handles at most 100 services of a TaskBook"]);
}

#[test]
fn handlers_of_a_file_that_a_list_of_handlers_includes_are_kept() {
    let fleet = fleet("{}");
    let spec = "{targets: {nodeGroups: [web]}, tasks: [{name: t, debug: {message: x}}], handlers: [{name: i, include: {path: tasks/handlers.yaml}}]}";
    let handlers = "tasks: []\nhandlers: [{name: inner, debug: {message: y}}]\n";
    let files =
        [("fleet.yaml", &*fleet), ("object.yaml", &*object("TaskBook", spec)), ("tasks/handlers.yaml", handlers)];
    let loaded = load(&[source("fleet", &files)], &BTreeMap::new());
    let messages: Vec<String> = loaded.errors.iter().map(|error| error.message.clone()).collect();
    assert_eq!(messages, [""; 0]);
    let books: Vec<_> = loaded.set.books.values().collect();
    assert_eq!(books[0].handlers.len(), 1, "{:?}", books[0].handlers);
}
