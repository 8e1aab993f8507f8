//! Tests of agent/coordination/PROTOCOL.md and ARCHITECTURE.md: the code cites rules that exist, and the pages name
//! files and tests that exist.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Names that look like a rule: elliptic curves.
const CURVES: [usize; 3] = [256, 384, 521];

/// The folders at which the paths of the page may begin.
const FOLDERS: [&str; 4] = ["agent/coordination/src", "agent/src", "tests/tests", ""];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("agent/coordination/PROTOCOL.md")).unwrap()
}

/// Returns the text of each rule of a page. A rule ends at the next rule or heading.
fn rules(page: &str) -> BTreeMap<usize, String> {
    let mut found: BTreeMap<usize, String> = BTreeMap::new();
    let mut current = None;
    for line in page.lines() {
        let begun = line.strip_prefix("- **P").and_then(|rest| rest.split_once("**"));
        if let Some((number, _)) = begun {
            current = number.parse().ok();
        } else if line.starts_with('#') {
            current = None;
        }
        if let Some(number) = current {
            let text = found.entry(number).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    found
}

/// Returns the numbers of the rules that a comment cites.
fn cited(comment: &str) -> Vec<usize> {
    let words = comment.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter_map(|word| word.strip_prefix('P')?.parse().ok()).filter(|number| !CURVES.contains(number)).collect()
}

/// Returns the Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Returns the wrong references of a rule: files, tests and cases of the model checker that do not exist.
fn wrong_references(rule: &str, model: &str) -> Vec<String> {
    let root = root();
    let read = |path: &str| FOLDERS.iter().find_map(|folder| fs::read_to_string(root.join(folder).join(path)).ok());
    let mut wrong = Vec::new();
    for word in rule.split('`').skip(1).step_by(2).filter(|word| word.contains(".rs")) {
        let (path, name) = word.split_once("::").map_or((word, None), |(path, name)| (path, Some(name)));
        match (read(path), name) {
            (None, _) => wrong.push(format!("{path} does not exist")),
            (Some(text), Some(name)) if !text.contains(&format!("fn {name}(")) => {
                wrong.push(format!("{word}: no such test"))
            }
            _ => {}
        }
    }
    // A line break inside of a name counts as one space.
    let line = rule.split_whitespace().collect::<Vec<_>>().join(" ");
    for rest in line.split("model \"").skip(1) {
        let name = rest.split('"').next().unwrap_or_default();
        if !model.contains(&format!("name: \"{name}\"")) {
            wrong.push(format!("the model checker has no case {name:?}"));
        }
    }
    wrong
}

#[test]
fn rules_are_numbered_without_a_gap() {
    let numbers: Vec<usize> = rules(&page()).into_keys().collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() >= 147, "a rule keeps its number, so none is removed");
}

#[test]
fn code_cites_rules_that_exist() {
    let known = rules(&page());
    let mut files = Vec::new();
    for folder in ["proto", "git", "render", "agent", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    assert!(files.len() > 100, "{} files", files.len());
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.ends_with("tests/tests/protocol.rs")) {
        for (line, text) in fs::read_to_string(file).unwrap().lines().enumerate() {
            let Some((_, comment)) = text.split_once("//") else { continue };
            let missing = cited(comment).into_iter().filter(|number| !known.contains_key(number));
            found.extend(missing.map(|number| format!("{}:{}: P{number}", file.display(), line + 1)));
        }
    }
    assert!(found.is_empty(), "PROTOCOL.md does not have:\n{}", found.join("\n"));
}

#[test]
fn rule_names_files_and_tests_that_exist() {
    let model = fs::read_to_string(root().join("tests/tests/model/main.rs")).unwrap();
    let mut found = Vec::new();
    for (number, rule) in rules(&page()) {
        found.extend(wrong_references(&rule, &model).into_iter().map(|wrong| format!("P{number}: {wrong}")));
        let ends = rule.contains(".rs") || rule.contains("*Not built.*") || rule.contains(".md`");
        if !ends {
            found.push(format!("P{number} names no file"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn architecture_names_files_that_exist() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (text, _) = page.split_once("## Glossary").unwrap();
    let found = wrong_references(text, "");
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(text.matches(".rs`").count() > 30, "the page lost its files");
}

#[test]
fn wrong_reference_is_found() {
    let model = "name: \"dead head\"";
    for rule in ["`none.rs`", "`keys.rs::no_such_test`", "`none/keys.rs::x`", "model \"dead tail\""] {
        assert_eq!(wrong_references(rule, model).len(), 1, "{rule}");
    }
    for rule in
        ["`keys.rs`", "`agent/host/src/lib.rs`", "model \"dead\n  head\"", "`protocol.rs::wrong_reference_is_found`"]
    {
        assert_eq!(wrong_references(rule, model), Vec::<String>::new(), "{rule}");
    }
    assert_eq!(cited(" (P1, P148): see P3 and P-256 or P256, not HTTP2"), [1, 148, 3]);
}
