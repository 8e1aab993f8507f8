//! Hostile YAML: it causes an error, never a panic or unbounded memory.

use std::{fs, process::Command};

use proptest::prelude::*;
use towpath_render::document::{Limits, check_object, parse};
use towpath_tests::{git::FLEET, towpath};

fn read(bytes: &[u8]) -> (usize, Vec<String>) {
    let (documents, problems) = parse("hostile", "hostile.yaml", bytes, Limits::default());
    for document in &documents {
        let _ = check_object(&document.value);
    }
    (documents.len(), problems.into_iter().map(|problem| problem.to_string()).collect())
}

fn refused(bytes: &[u8], why: &str) {
    let (_, problems) = read(bytes);
    assert!(problems.iter().any(|problem| problem.contains(why)), "{why:?} is not said: {problems:?}");
}

#[test]
fn hostile_documents_are_refused() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let before = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(",")));
    }
    refused(bomb.as_bytes(), "use fewer aliases");
    let long = "x".repeat(100_000);
    let strings = format!("a: &a \"{long}\"\nb: [{}]\n", vec!["*a"; 500].join(","));
    refused(strings.as_bytes(), "too many bytes of strings");
    refused(&vec![b'x'; 10 << 20], "at most");
    refused("[".repeat(20_000).as_bytes(), "YAML");
    refused("- ".repeat(20_000).as_bytes(), "YAML");
    refused("[".repeat(2_000_000).as_bytes(), "YAML tokens");
    refused(b"a: 1\na: 2\n", "twice");
    refused(b"a: \xff\xfe\n", "not valid UTF-8");
    refused(b"a: b\0c\n", "NUL");
    refused(b"a: !object x\n", "YAML");
    refused(b"a: 99999999999999999999\n", "64 bits");
    refused(b"a: .inf\n", "infinity");
    refused(b"a: {{ b }}\n", "quote it");
    refused(b"a:\n\t- b\n", "spaces");
}

#[test]
fn paths_that_leave_the_source_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fleet.yaml"), FLEET).unwrap();
    fs::create_dir(folder.path().join("files")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", folder.path().join("files/link")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("linked.yaml")).unwrap();
    let task = |number: usize, parameters: &str| format!("    - name: t{number}\n      {parameters}\n");
    let tasks = [
        "file: {path: /a, source: ../../etc/shadow}",
        "file: {path: /b, template: /etc/shadow}",
        "script: {source: files/../../x}",
        "file: {path: /c/../../etc/passwd, content: x}",
    ];
    let lines: String = tasks.iter().enumerate().map(|(number, parameters)| task(number, parameters)).collect();
    fs::write(folder.path().join("b.yaml"), towpath_tests::git::book("b", &format!("  tasks:\n{lines}"))).unwrap();
    let output = towpath().arg("validate").arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for said in [
        "\"../../etc/shadow\" has \"..\"",
        "is absolute",
        "\"files/../../x\" has \"..\"",
        "\"/c/../../etc/passwd\" has \"..\"",
        "linked.yaml:1:1: an object file is a symbolic link",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("root:"), "a file outside the source was read");
}

#[test]
fn hostile_repository_uses_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fleet.yaml"), FLEET).unwrap();
    for number in 0..2 {
        let line = format!("k{number}: [{}]\n", "{a: b}, ".repeat(100_000));
        fs::write(folder.path().join(format!("big{number}.yaml")), line).unwrap();
    }
    let program = std::env::var("TOWPATH_BIN").unwrap();
    // A limit of the address space: a process that needs more fails.
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v 1500000; exec {program} validate {}", folder.path().display()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }

    #[test]
    fn any_yaml_like_text_is_read_or_refused(text in "[-a-c0-2:{}\\[\\],&*!|>'\"#%@` \n\t.~?]{0,200}") {
        read(text.as_bytes());
    }

    #[test]
    fn any_change_of_a_good_document_is_read_or_refused(at in 0_usize..500, with in "[-a-z:{}\\[\\],&*!'\"\n ]{0,6}", cut in 0_usize..8) {
        let good = towpath_tests::git::book("b", "  vars: {a: [1, x], b: {c: null}}
  tasks:
    - name: t
      when: vars.a == 1
      loop: [1, 2]
      file: {path: \"/x/{{ item }}\", content: |-
          text
        }
      until: {condition: result.rc == 0, interval: 1s}
");
        let mut text: Vec<char> = good.chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, with.chars());
        let tree: towpath_render::tree::MemoryTree = [("fleet.yaml".to_owned(), FLEET.to_owned()), ("b.yaml".to_owned(), text.into_iter().collect())].into_iter().collect();
        let sources = [towpath_render::objects::SourceTree { name: "f".into(), tree: std::sync::Arc::new(tree), library: false, globals: true }];
        let loaded = towpath_render::objects::load(&sources, &std::collections::BTreeMap::new());
        for problem in &loaded.errors {
            prop_assert!(problem.line >= 1 && !problem.message.is_empty());
        }
    }

    #[test]
    fn any_expression_is_read_or_refused(text in "[-a-c0-2+*/.|()\\[\\]{}%'\" ~=<>]{0,60}") {
        let _ = towpath_render::template::syntax::template(&text);
        let _ = towpath_render::template::syntax::expression(&text);
        let _ = towpath_render::template::syntax::names_in_template(&text);
    }
}
