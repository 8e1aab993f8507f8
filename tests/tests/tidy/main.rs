//! Tests of the architecture: layers, fences, circles, sizes, owners of state, prose, and the map in ARCHITECTURE.md.
//!
//! Each rule is a function of sources and of the facts that a parser takes from them. `allowed.txt` lists the known
//! violations; it only shrinks. The test prints a table of all figures:
//! `cargo nextest run -E 'binary(tidy)' --no-capture`.

mod allowed;
mod circles;

mod imports;
mod modules;
mod owners;
mod prose;
mod registry;

mod sizes;
mod syntax;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use syntax::{facts, resolve};
use tree::{Finding, Source};

/// The most long lines with an escaped document in tests.
const ESCAPED_DOCUMENTS: usize = 33;
/// The least lines of tests for a thousand lines of code, blank lines and comments aside. The goal is 600.
const TEST_LINES: usize = 570;
/// The most doc comments that begin with a question word, in a thousand.
const QUESTIONS: usize = 10;
/// The most comments with private words.
const PRIVATE_COMMENTS: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns the findings of all rules with a list of known violations.
fn findings(sources: &[Source]) -> Vec<Finding> {
    let facts = facts::extract_all(sources);
    let broken: Vec<String> =
        facts.iter().filter_map(|file| Some(format!("{}: {}", file.path, file.error.as_ref()?))).collect();
    assert!(broken.is_empty(), "cannot parse {}", broken.join("\n"));
    let crates = resolve::crates(&facts);
    let mut found = imports::check(sources, &facts, &crates);
    found.extend(circles::check(&crates));
    found.extend(owners::check(&crates));
    found.extend(sizes::check(sources));
    found.extend(registry::check(sources));
    found.extend(modules::check(sources));
    found.extend(prose::messages(sources, &facts));
    found.extend(prose::test_names(sources).1);
    found
}

/// The rules with a list, and what the figure of one line of the list counts.
const RULES: [(&str, &str); 13] = [
    ("layer", "imports of the same or a higher layer"),
    ("fence", "names that belong to another room"),
    ("pure", "imports of I/O in reconcile/run and reconcile/plan"),
    ("circle", "files of a circle that the file takes items from"),
    ("fields", "fields of a struct with code on &mut, at most 10"),
    ("files-of-type", "files with code on one &mut type, at most 2"),
    ("folder", "files of a folder, at most 10"),
    ("lines", "lines of a file, at most 650"),
    ("name", "files with a name without a meaning"),
    ("registry", "modules that are not listed, parameters without a statement on trust"),
    ("module", "places that know a module, at most 3: its message, its file, the registry"),
    ("message", "private words in messages of a file"),
    ("test-name", "tests of a file with names that are sentences"),
];

#[test]
fn known_violations_do_not_grow() {
    let root = root();
    let sources = tree::read(&root);
    let list = root.join("tests/tests/tidy/allowed.txt");
    let mut text = fs::read_to_string(&list).unwrap();
    let found = findings(&sources);
    println!("{:<15} {:>10} {:>8}  each figure counts", "rule", "violations", "largest");
    for (rule, meaning) in RULES {
        let of_rule: Vec<usize> =
            found.iter().filter(|finding| finding.rule == rule).map(|finding| finding.figure).collect();
        println!("{rule:<15} {:>10} {:>8}  {meaning}", of_rule.len(), of_rule.iter().max().unwrap_or(&0));
    }
    let mut rooms: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in found.iter().filter(|finding| finding.rule == "circle") {
        *rooms.entry(finding.subject.rsplit_once('/').map_or("", |(folder, _)| folder)).or_default() += 1;
    }
    let rooms: Vec<String> = rooms.into_iter().map(|(room, files)| format!("{room} {files}")).collect();
    println!("files in circles: {}", rooms.join(", "));
    if env::var_os("TIDY_LOWER").is_some() {
        text = allowed::lowered(&text, &found);
        fs::write(&list, &text).unwrap();
    }
    let wrong = allowed::compare(&found, &allowed::parse(&text));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn figures_stay_within_their_limits() {
    let sources = tree::read(&root());
    let (code, tests) = sizes::code_and_tests(&sources);
    let ratio = tests * 1000 / code;
    println!("{code} lines of code, {tests} lines of tests: 0.{ratio:03} a line (at least 0.{TEST_LINES}; goal 0.600)");
    let escaped = sizes::escaped_documents(&sources);
    println!("{} long lines with an escaped document (at most {ESCAPED_DOCUMENTS})", escaped.len());
    let mut questions = Vec::new();
    for ending in [".rs", ".proto"] {
        let (docs, found) = prose::doc_comments(&sources, ending);
        let share = found.len() * 1000 / docs.max(1);
        println!(
            "{} of {docs} doc comments in {ending} begin with a question word: {}.{} %",
            found.len(),
            share / 10,
            share % 10
        );
        questions.push((docs, found));
    }
    let docs: usize = questions.iter().map(|(docs, _)| docs).sum();
    let questions: Vec<String> = questions.into_iter().flat_map(|(_, found)| found).collect();
    let share = questions.len() * 1000 / docs;
    println!(
        "{}.{} % of all doc comments begin with a question word (below {} %)",
        share / 10,
        share % 10,
        QUESTIONS / 10
    );
    let comments = prose::comments(&sources);
    let private: usize = comments.iter().map(|finding| finding.figure).sum();
    println!("{private} private words in comments (at most {PRIVATE_COMMENTS})");
    println!("{} tests", prose::test_names(&sources).0);
    assert!(ratio >= TEST_LINES, "too few lines of tests: {ratio} for 1,000 lines of code");
    assert!(escaped.len() <= ESCAPED_DOCUMENTS, "write documents in raw strings: {}", escaped.join("\n"));
    assert!(share < QUESTIONS, "doc comments begin with a question word: {}", questions.join("\n"));
    let listed: Vec<String> =
        comments.iter().map(|finding| format!("{}: {}", finding.subject, finding.detail)).collect();
    assert!(private <= PRIVATE_COMMENTS, "{}", listed.join("\n"));
}

fn seeded(files: &[(&str, &str)]) -> Vec<Finding> {
    let mut sources: Vec<Source> =
        files.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect();
    // The modules between the root of a crate and a file.
    for (path, _) in files {
        let Some((_, root)) = resolve::crate_of(path) else { continue };
        let folders = path.match_indices('/').map(|(at, _)| &path[..=at]).filter(|folder| folder.len() >= root.len());
        for folder in folders {
            let module = format!("{folder}{}.rs", if folder == root { "lib" } else { "mod" });
            let other = format!("{}.rs", folder.trim_end_matches('/'));
            if !sources.iter().any(|source| source.path == module || source.path == other) {
                sources.push(Source { path: module, text: String::new() });
            }
        }
    }
    let mut found = findings(&sources);
    found.extend(prose::comments(&sources));
    found
}

/// Returns the number of violations of a rule in some files.
fn check_seeded(rule: &str, files: &[(&str, &str)]) -> usize {
    seeded(files).iter().filter(|finding| finding.rule == rule).count()
}

/// Returns the figure of a rule for a subject in some files.
fn seeded_figure(rule: &str, files: &[(&str, &str)], subject: &str) -> Option<usize> {
    let found = seeded(files).into_iter().find(|finding| finding.rule == rule && finding.subject == subject);
    found.map(|finding| finding.figure)
}

#[test]
fn map_names_every_room_and_no_room_that_is_gone() {
    let root = root();
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let sources = tree::read(&root);
    let code: String = sources.iter().filter(|source| source.is_shipped()).map(|source| source.text.as_str()).collect();
    let wrong = wrong_in_map(&map, &rooms(&root), &code);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns the rooms of the tree: crates, rooms of the agent, and the folders of the top level.
fn rooms(root: &Path) -> BTreeSet<String> {
    let fixed = ["repos-example/", "deploy/", "tests/"].map(str::to_owned);
    let mut rooms: BTreeSet<String> = fixed.into_iter().collect();
    let folders = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    rooms.extend(folders("agent/src").map(|name| format!("agent/src/{name}/")));
    for (parent, prefix) in [(".", ""), ("agent", "agent/")] {
        let is_crate = |name: &String| root.join(parent).join(name).join("Cargo.toml").is_file();
        rooms.extend(
            folders(parent).filter(is_crate).filter(|name| name != "agent").map(|name| format!("{prefix}{name}/")),
        );
    }
    rooms
}

/// Returns the rooms that the map lacks, those that are gone, and the symbols that the code does not hold.
fn wrong_in_map(map: &str, rooms: &BTreeSet<String>, code: &str) -> Vec<String> {
    let table = map.split("## The map").nth(1).unwrap_or_default().split("\n## ").next().unwrap_or_default();
    let named: BTreeSet<String> =
        table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect();
    let mut wrong: Vec<String> =
        named.difference(rooms).map(|room| format!("ARCHITECTURE.md names {room}, which is not there")).collect();
    wrong.extend(rooms.difference(&named).map(|room| format!("ARCHITECTURE.md does not name {room}")));
    let words =
        map.split('`').skip(1).step_by(2).filter(|word| {
            word.chars().next().is_some_and(char::is_uppercase) && word.chars().all(char::is_alphanumeric)
        });
    let gone = words.filter(|word| !code.contains(word));
    wrong.extend(gone.map(|word| format!("ARCHITECTURE.md names {word}, which is not in the code")));
    wrong
}

#[test]
fn map_with_a_missing_a_gone_or_an_unknown_name_is_red() {
    let rooms: BTreeSet<String> = ["git/".to_owned(), "proto/".to_owned()].into();
    let map = |rows: &str| format!("# A\n\n## The map\n\n| room |\n| --- |\n{rows}\n## Layers\n\n| `other/` |\n");
    assert_eq!(wrong_in_map(&map("| `git/` | `Mirror` |\n| `proto/` | x |"), &rooms, "struct Mirror;").len(), 0);
    for rows in ["| `git/` |", "| `git/` |\n| `proto/` |\n| `gone/` |", "| `git/` | `Gone` |\n| `proto/` |"] {
        assert_eq!(wrong_in_map(&map(rows), &rooms, "struct Mirror;").len(), 1, "{rows}");
    }
}

#[test]
fn top_level_is_fixed() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "agent",
        "git",
        "render",
        "proto",
        "repos-example",
        "deploy",
        "tests",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} does not belong to the top level");
    }
}

#[test]
fn main_is_thin() {
    let main = fs::read_to_string(root().join("agent/src/main.rs")).unwrap();
    assert!(main.lines().count() <= 30);
}

/// A patch that no longer applies would be seen in the long run alone.
#[test]
fn seeded_faults_of_the_fuzz_targets_apply() {
    let folder = root().join("tests/fuzz/seeded");
    let patches: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(patches.len(), 6);
    for patch in patches {
        let applied = Command::new("git").current_dir(root()).args(["apply", "--check"]).arg(&patch).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }
}
