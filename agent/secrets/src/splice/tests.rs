use serde_json::json;

use super::*;

fn path(text: &str) -> Path {
    let steps = text.split('.').map(|step| step.parse().map_or_else(|_| Step::Key(step.into()), Step::Index));
    Path(steps.collect())
}

const ARMOR: &str = "-----BEGIN-----\nAAAA\nBBBB\n-----END-----\n";

/// A file with comments, several documents and a block scalar.
const FILE: &str = "\
# The database of the shop.
metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}
---
# Passwords; ask Ann before you change one.
metadata:
  kind: Secret   # in git
  name: db

spec:
  readers:
    nodes:
    - db1        # the only one
  data:
    # for the shop
    password: |  # 2026
      -----BEGIN-----
      OLD
      -----END-----

    # for the backup
    token: \"quoted\"   # short
# the end
---
metadata: {kind: Node, name: db1}
";

#[test]
fn replaced_block_keeps_every_other_byte() {
    let edited = set(FILE, 1, &path("spec.data.password"), &json!(ARMOR)).unwrap();
    let old = "      -----BEGIN-----\n      OLD\n      -----END-----\n";
    let new = "      -----BEGIN-----\n      AAAA\n      BBBB\n      -----END-----\n";
    assert_eq!(edited, FILE.replace(old, new));
    assert_eq!(
        set(&edited, 1, &path("spec.data.password"), &json!("-----BEGIN-----\nOLD\n-----END-----\n")),
        Ok(FILE.into())
    );
}

#[test]
fn replaced_scalar_keeps_its_comment_and_its_quotes() {
    let edited = set(FILE, 1, &path("spec.data.token"), &json!("new")).unwrap();
    assert_eq!(edited, FILE.replace("\"quoted\"   # short", "\"new\"   # short"));
    let edited = set(FILE, 1, &path("metadata.name"), &json!(ARMOR)).unwrap();
    let new = "  name: |\n    -----BEGIN-----\n    AAAA\n    BBBB\n    -----END-----\n";
    assert_eq!(edited, FILE.replace("  name: db\n", new));
    assert_eq!(set(&edited, 1, &path("metadata.name"), &json!("db")), Ok(FILE.into()));
    let edited = set(FILE, 1, &path("spec.data.password"), &json!("short")).unwrap();
    let old = "password: |  # 2026\n      -----BEGIN-----\n      OLD\n      -----END-----\n";
    assert_eq!(edited, FILE.replace(old, "password: short  # 2026\n"));
}

#[test]
fn new_key_is_added_after_the_last_key_of_its_map() {
    let edited = set(FILE, 1, &path("spec.data.zone"), &json!("a\nb")).unwrap();
    assert_eq!(edited, FILE.replace("# short\n", "# short\n    zone: |-\n      a\n      b\n"));
    let edited = set(FILE, 1, &path("spec.readers.groups"), &json!("x")).unwrap();
    assert_eq!(edited, FILE.replace("# the only one\n", "# the only one\n    groups: x\n"));
    let edited = set(FILE, 1, &path("spec.more.deep"), &json!("x: y")).unwrap();
    assert_eq!(edited, FILE.replace("# short\n", "# short\n  more:\n    deep: 'x: y'\n"));
}

#[test]
fn removed_key_takes_its_lines_with_it() {
    let edited = remove(FILE, 1, &path("spec.data.token")).unwrap();
    assert_eq!(edited, FILE.replace("    token: \"quoted\"   # short\n", ""));
    let edited = remove(FILE, 1, &path("spec.data.password")).unwrap();
    assert!(!edited.contains("OLD") && edited.contains("# for the backup"), "{edited}");
    assert!(remove(FILE, 1, &path("spec.data.missing")).is_err());
    assert!(remove("a:\n  b: 1\n", 0, &path("a.b")).is_err(), "a map without keys becomes null");
}

#[test]
fn map_in_braces_stays_in_braces() {
    let text = "# c\nspec: {readers: {nodes: [a]}, data: {x: \"1\", 'y': plain }}  # end\nb: 1\n";
    let edited = |key: &str, value: Value| set(text, 0, &path(key), &value).unwrap();
    assert_eq!(edited("spec.data.x", json!("a\nb\n")), text.replace("\"1\"", "\"a\\nb\\n\""));
    assert_eq!(edited("spec.data.y", json!("new")), text.replace("plain", "new"));
    assert_eq!(edited("spec.data.z", json!("new")), text.replace("plain }", "plain, z: \"new\" }"));
    assert_eq!(edited("spec.readers.nodes", json!(["b", "c"])), text.replace("[a]", "[\"b\", \"c\"]"));
    assert_eq!(remove(text, 0, &path("spec.data.x")).unwrap(), text.replace("x: \"1\", ", ""));
    assert_eq!(remove(text, 0, &path("spec.data.y")).unwrap(), text.replace(", 'y': plain }", "}"));
    assert_eq!(remove(text, 0, &path("spec.readers")).unwrap(), text.replace("readers: {nodes: [a]}, ", ""));
    assert_eq!(set("a: {}\n", 0, &path("a.b"), &json!("x")).unwrap(), "a: {b: \"x\"}\n");
}

#[test]
fn json_file_stays_json() {
    let text = "{\n\t\"a\": \"1\",\n\t\"b\": {\n\t\t\"c\": [\"x\"]\n\t}\n}\n";
    let edited = set(text, 0, &path("a"), &json!("a\nb")).unwrap();
    assert_eq!(edited, text.replace("\"1\"", "\"a\\nb\""));
    let edited = set(text, 0, &path("d"), &json!({"e": "y\n"})).unwrap();
    assert_eq!(edited, text.replace("\t}\n}", "\t},\n\t\"d\": {\"e\": \"y\\n\"}\n}"));
    let edited = set(text, 0, &path("b.c.0"), &json!("y"));
    assert_eq!(edited.unwrap(), text.replace("\"x\"", "\"y\""));
}

#[test]
fn members_of_lists_are_replaced_in_place() {
    let text = "a:\n  - b\n  - |\n    old\n  - x: 1\n    y: 2\n";
    assert_eq!(set(text, 0, &path("a.0"), &json!("c")).unwrap(), text.replace("- b", "- c"));
    assert_eq!(set(text, 0, &path("a.1"), &json!("new\n")).unwrap(), text.replace("old", "new"));
    assert_eq!(set(text, 0, &path("a.2.x"), &json!(5)).unwrap(), text.replace("x: 1", "x: 5"));
    let edited = set(text, 0, &path("a"), &json!([{"r": "k", "e": "1\n2\n"}, "s"])).unwrap();
    assert_eq!(edited, "a:\n  - r: k\n    e: |\n      1\n      2\n  - s\n");
}

#[test]
fn windows_line_breaks_and_byte_order_mark_are_kept() {
    let text = format!("\u{feff}{}", FILE.replace('\n', "\r\n"));
    let edited = set(&text, 1, &path("spec.data.password"), &json!(ARMOR)).unwrap();
    assert_eq!(edited.matches("\r\n").count(), edited.matches('\n').count());
    assert!(edited.starts_with("\u{feff}# The"));
    let back = set(&edited, 1, &path("spec.data.password"), &json!("-----BEGIN-----\nOLD\n-----END-----\n"));
    assert_eq!(back, Ok(text));
}

#[test]
fn file_without_a_last_line_break_is_edited() {
    assert_eq!(set("a: 1", 0, &path("a"), &json!("2")).unwrap(), "a: '2'");
    assert_eq!(set("a: 1", 0, &path("b"), &json!("x\n")).unwrap(), "a: 1\nb: |\n  x\n");
    assert_eq!(set("a:\n  b: |\n    x", 0, &path("a.b"), &json!("y\n")).unwrap(), "a:\n  b: |\n    y\n");
}

#[test]
fn unsupported_layout_is_an_error() {
    for (text, key) in [
        ("a: &x old\nb: *x\n", "a"),
        ("a: !tag old\n", "a"),
        ("a: [1, 2\n", "a"),
        ("a: 1\na: 2\n", "a"),
        ("- a\n- b\n", "a"),
        ("", "a"),
    ] {
        assert!(set(text, 0, &path(key), &json!("new")).is_err(), "{text}");
        assert!(remove(text, 0, &path(key)).is_err(), "{text}");
    }
}

#[test]
fn values_of_every_kind_are_read_back() {
    let values = [
        "",
        " x",
        "x ",
        "\n",
        "\n\nx",
        "x\n\n",
        "yes",
        "1",
        "a: b",
        "#",
        "é\u{7f}",
        "\u{1}",
        "a\tb\nc",
        "'\"\\",
        "- a",
        "\u{85}\nx",
    ];
    for value in values {
        for text in ["a:\n  b: old\n  c: 1\n", "a: {b: old, c: 1}\n", "{\"a\": {\"b\": \"old\", \"c\": 1}}\n"] {
            for key in ["a.b", "a.n"] {
                match set(text, 0, &path(key), &json!(value)) {
                    Ok(edited) => {
                        let read = Parsed::read(&edited).unwrap().documents[0].value.clone();
                        assert_eq!(value_at(&read, &path(key).0), Some(&json!(value)), "{edited}");
                    }
                    Err(_) => assert!(value.chars().any(char::is_control), "{value:?} in {text}"),
                }
            }
        }
    }
}
