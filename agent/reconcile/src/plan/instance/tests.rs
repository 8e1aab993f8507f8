use serde_json::json;
use towpath_render::taint::Marks;

use super::*;
use crate::run::testing::book;

fn shown(value: Value) -> String {
    let book = book("tasks:\n  - {name: a, debug: {message: x}}\n");
    name(&book.tasks[0], Some(&Item { value, marks: Marks::default(), index: 0, length: 1 }))
}

#[test]
fn task_without_a_loop_has_its_own_name() {
    let book = book("tasks:\n  - {name: a, debug: {message: x}}\n");
    assert_eq!(name(&book.tasks[0], None), "a");
}

#[test]
fn item_that_is_a_text_is_shown_without_quotes() {
    assert_eq!(shown(json!("one")), "a [one]");
}

#[test]
fn item_that_is_a_map_is_shown_by_its_name_key_or_path() {
    assert_eq!(shown(json!({"name": "n", "path": "/p"})), "a [n]");
    assert_eq!(shown(json!({"key": "k", "value": 1})), "a [k]");
    assert_eq!(shown(json!({"path": "/p"})), "a [/p]");
}

#[test]
fn item_without_a_name_is_shown_as_json() {
    assert_eq!(shown(json!({"name": 1})), r#"a [{"name":1}]"#);
    assert_eq!(shown(json!(7)), "a [7]");
}

#[test]
fn item_that_is_long_is_cut() {
    assert_eq!(shown(json!("ä".repeat(100))).chars().count(), "a []".len() + 80);
}

#[test]
fn module_of_a_task_without_one_is_sync() {
    let book = book("tasks:\n  - {name: a, debug: {message: x}}\n  - {name: s, sync: true}\n");
    assert_eq!((module(&book.tasks[0]), module(&book.tasks[1])), ("debug", "sync"));
}
