//! `validate` reports every mistake at its line. One repository of seeded mistakes is a golden file. Each mistake is
//! also planted at random positions of the examples.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use towpath_tests::{long, towpath};

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn seeded_mistakes_are_reported_with_their_hints() {
    let output = towpath().arg("validate").arg(here().join("golden/mistakes")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("hunter2"), "a value that was not encrypted is shown");
    insta::assert_snapshot!("mistakes", text);
    let output =
        towpath().arg("validate").arg(here().join("golden/mistakes")).args(["--output", "json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let errors = document["errors"].as_array().unwrap();
    assert!(errors.len() >= 40, "{}", errors.len());
    let ten = errors
        .iter()
        .filter(|error| error["file"] == "books.yaml" && (5..=30).contains(&error["line"].as_u64().unwrap()))
        .count();
    assert!(ten >= 10, "ten mistakes of one TaskBook are all reported, not {ten}");
}

#[test]
fn missing_rights_of_sources_are_reported() {
    let folder = here().join("golden/mistakes-sources");
    let mut command = towpath();
    command.arg("validate").arg(folder.join("first"));
    for name in ["second", "third"] {
        command.arg("--source").arg(format!("{name}={}", folder.join(name).display()));
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("mistakes-sources", String::from_utf8(output.stdout).unwrap());
}

/// Tasks with one mistake each, and the expected message.
const TASKS: [(&str, &str); 36] = [
    ("file: {path: /p, ownr: root}", "file has no \"ownr\""),
    ("file: {path: /p, mode: 644}", "the mode is a number"),
    ("file: {path: /p, mode: 0644}", "the mode is a number"),
    ("file: {path: /p, mode: \"0999\"}", "is not a mode"),
    ("file: {content: x}", "file needs path"),
    ("file: {path: p, content: x}", "is not absolute"),
    ("file: {path: /p, content: x, linkTo: y}", "exclude each other"),
    ("file: {path: /p, template: ../x}", "has \\\"..\\\"|has \"..\""),
    ("file: {path: /p, source: files/nothing}", "there is no files/nothing"),
    ("file: {path: /p, state: file}", "is not a valid state"),
    ("file: {path: /p, backup: yes}", "must be true or false"),
    ("file: {path: /p, content: 5}", "content must be a string"),
    ("file: {path: /p, content: \"{{ vars.nowhere }}\"}", "is not set"),
    ("file: {path: /p, content: \"{{ undefined_name }}\"}", "is not defined"),
    ("file: {path: /p, content: \"{{ 1 | uper }}\"}", "there is no filter uper"),
    ("file: {path: /p, content: \"{{ 1 + }}\"}", "template: "),
    ("file: {path: /p, content: \"{% if x %}\"}", "template: "),
    ("command: {argv: ls -l}", "argv must be a list"),
    ("command: ls", "command must be a map"),
    ("command: {argv: [id], shell: id}", "exclude each other"),
    ("command: {argv: [id], run: always, creates: /x}", "cannot be combined with creates"),
    ("copy: {dest: /x}", "task has no \"copy\""),
    ("service: {name: x, state: running}", "is not a valid state"),
    ("service: {name: x}", "service needs state"),
    ("package: {state: present}", "write name, or names"),
    ("line: {path: /p, line: x, match: \"(\"}", "not a regular expression"),
    ("http: {url: \"ftp://x\"}", "neither an http nor an https URL"),
    ("wait: {duration: 5s, port: \"80\"}", "exactly one of"),
    ("wait: {duration: \"5\"}", "has no unit"),
    ("assert: {that: [\"{{ true }}\"]}", "an expression must not contain braces"),
    ("debug: {message: \"{{ item }}\"}", "outside a loop"),
    ("debug: {message: \"{{ result.rc }}\"}", "result is defined only"),
    ("debug: {message: \"{{ steps.absent.rc }}\"}", "no task registers absent"),
    ("debug: {message: \"{{ facts.nothing }}\"}", "there is no fact nothing"),
    ("debug: {message: \"{{ event.data }}\"}", "event is defined only"),
    ("include: {source: nowhere, path: x.yaml}", "there is no source \"nowhere\""),
];

/// Keys of a task with a valid module, and the expected message.
const KEYS: [(&str, &str); 11] = [
    ("become: true", "task has no \"become\""),
    ("timeout: 30", "has no unit"),
    ("when: \"{{ true }}\"", "an expression must not contain braces"),
    ("when: a = b", "compare with =="),
    ("notify: [absent]", "there is no handler \"absent\""),
    ("requires: [absent]", "there is no task \"absent\""),
    ("drift: fix", "is not a valid drift"),
    ("onFailure: ignore", "is not a valid onFailure"),
    ("register: 1x", "cannot be used in expressions"),
    ("loop: 5", "loop must be a list"),
    ("file: {path: /p}", "the task has two modules"),
];

/// Documents with one mistake each, and the expected message.
const DOCUMENTS: [(&str, &str); 16] = [
    ("metadata: {apiVersion: v1alpha, kind: Nod, name: x}", "is not a kind"),
    ("apiVersion: v1\nkind: Node\nmetadata: {name: x}", "belongs below metadata"),
    ("metadata: {apiVersion: v1alpha, kind: Node, name: x, namespace: y}", "is global and has no namespace"),
    ("metadata: {apiVersion: v1alpha, kind: Variables, name: x}", "needs a namespace"),
    ("metadata: {apiVersion: v1alpha, kind: Node, name: x, uuid: \"1\"}", "cannot set uuid"),
    (
        "metadata: {apiVersion: v1alpha, kind: NodeGroup, name: x}\nspec: {selector: \"a in b\"}",
        "is not a part of a selector",
    ),
    (
        "metadata: {apiVersion: v1alpha, kind: NodeGroup, name: x}\nspec: {selector: {matchLabels: {}}}",
        "selects everything",
    ),
    ("metadata: {apiVersion: v1alpha, kind: NodeGroup, name: x}", "selects nothing"),
    ("metadata: {apiVersion: v1alpha, kind: Config, name: x}\nspec: {stateDir: /x}", "bootstrap file of a node"),
    ("metadata: {apiVersion: v1alpha, kind: Config, name: x}\nspec: {suspend: {reason: y}}", "suspend needs until"),
    (
        "metadata: {apiVersion: v1alpha, kind: ClusterVariablesBinding, name: x}\nspec: {clusterVariables: [nothing], namespaces: [nowhere]}",
        "there is no Namespace nowhere",
    ),
    ("metadata: {apiVersion: v1alpha, kind: Namespace, name: x}\nspec: {nodeGroups: []}", "is empty"),
    ("metadata: {apiVersion: v1alpha, kind: Event, name: x, namespace: y}", "the fleet creates Events"),
    ("metadata: {apiVersion: v1alpha, kind: Node, name: x}\nspec: {address: !tag y}", "YAML"),
    ("metadata: {apiVersion: v1alpha, kind: Node, name: x}\nspec: {address: a, address: b}", "this key occurs twice"),
    ("metadata: {apiVersion: v1alpha, kind: Node, name: x}\nspec: {address: {{ vars.x }}}", "YAML"),
];

/// A generator of pseudo-random numbers (xorshift64*). The seed reproduces the positions of the mistakes.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

const EXAMPLES: [(&str, &[&str], &str); 3] = [
    ("quickstart", &[], "hello.yaml"),
    ("variables-tour", &[], "tour.yaml"),
    ("two-teams/fleet", &["web=two-teams/web", "library=two-teams/library"], "fleet.yaml"),
];

/// Plants lines into a copy of an example: between two tasks, or as a document after another one. Returns the text and
/// the range of the planted lines.
fn plant(text: &str, planted: &str, task: bool, random: &mut Random) -> (String, std::ops::RangeInclusive<usize>) {
    let lines: Vec<&str> = text.lines().collect();
    let places: Vec<usize> = if task {
        let begin = lines.iter().rposition(|line| *line == "  tasks:").unwrap() + 1;
        let end = lines[begin..]
            .iter()
            .position(|line| line.starts_with("  ") && !line.starts_with("   ") || line.starts_with("---"))
            .map_or(lines.len(), |at| begin + at);
        (begin..=end).filter(|at| *at == end || lines[*at].starts_with("    - name:")).collect()
    } else {
        (0..=lines.len()).filter(|at| *at == lines.len() || lines[*at] == "---").collect()
    };
    let at = places[random.below(places.len())];
    let mut out: Vec<String> = lines[..at].iter().map(ToString::to_string).collect();
    let first = out.len() + 1;
    out.extend(planted.lines().map(str::to_owned));
    let last = out.len();
    out.extend(lines[at..].iter().map(ToString::to_string));
    (out.join("\n") + "\n", first..=last)
}

fn check(example: &(&str, &[&str], &str), planted: &str, task: bool, expected: &str, seed: u64) {
    let repos = here().join("../repos-example");
    let folder = tempfile::tempdir().unwrap();
    let copy =
        |from: &Path, to: &Path| assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
    copy(&repos.join(example.0), &folder.path().join("first"));
    let file = folder.path().join("first").join(example.2);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (text, lines) = plant(&fs::read_to_string(&file).unwrap(), planted, task, &mut random);
    fs::write(&file, &text).unwrap();
    let mut command = towpath();
    command.arg("validate").arg(folder.path().join("first"));
    for source in example.1 {
        let (name, path) = source.split_once('=').unwrap();
        command.arg("--source").arg(format!("{name}={}", repos.join(path).display()));
    }
    let output = command.args(["--output", "json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let found = document["errors"].as_array().unwrap().iter().any(|error| {
        let said = format!("{} {}", error["message"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default());
        let line = error["line"].as_u64().unwrap() as usize;
        error["file"] == example.2
            && lines.contains(&line)
            && expected.split('|').any(|expected| said.contains(expected))
    });
    assert!(
        found,
        "seed {seed}: {expected:?} is not reported for {planted:?} at lines {lines:?} of {}: {:#}\n{text}",
        example.0, document["errors"]
    );
}

#[test]
fn every_mistake_is_found_wherever_it_is_planted() {
    let seeds = if long() { 20 } else { 1 };
    for seed in 1..=seeds {
        for (number, example) in EXAMPLES.iter().enumerate() {
            let seed = seed * 10 + number as u64;
            for (module, expected) in TASKS {
                check(example, &format!("    - name: planted\n      {module}"), true, expected, seed);
            }
            for (key, expected) in KEYS {
                check(
                    example,
                    &format!("    - name: planted\n      {key}\n      command: {{argv: [id]}}"),
                    true,
                    expected,
                    seed,
                );
            }
            for (document, expected) in DOCUMENTS {
                check(example, &format!("---\n{document}\n"), false, expected, seed);
            }
        }
    }
}
