//! Output for people: control characters from git and commands do not reach a terminal, and closed streams do not stop
//! the agent.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path, process::Stdio};

use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, task},
    towpath,
};

/// A task whose parameters, output and failure contain control characters: C0, C1 and text direction.
const HOSTILE: &str = r#"  tasks:
    - name: content
      file: {path: /hostile, content: "\e[2J\e]0;B\a\rhidden\u009b31m\u202e\n"}
    - name: output
      command: {argv: [/bin/sh, -c, "printf '\\033]0;C\\007 \\302\\23331m' >&2; exit 3"]}
"#;

/// Returns the first control character that could change a terminal. `None` if there is none.
fn raw(text: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(text).into_owned();
    let layout = |character: char| matches!(character, '\n' | '\t');
    text.chars()
        .find(|&c| !layout(c) && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')))
}

#[test]
fn control_characters_of_a_repository_are_escaped_in_all_output() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("b.yaml", book("b", HOSTILE));
    repository.publish("hostile \u{1b}[31m");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    for format in ["text", "json", "yaml"] {
        let mut plan = towpath();
        plan.args(["plan", "--config"]).arg(&node.config).arg("--source-dir").arg(&repository.work);
        let plan = plan.args(["--output", format]).output().unwrap();
        assert_eq!(raw(&plan.stdout), None, "plan {format}");
        assert!(String::from_utf8_lossy(&plan.stdout).contains("hidden"), "the diff is shown: plan {format}");
    }
    for format in ["text", "json", "yaml"] {
        let once = node.agent().args(["--once", "--output", format]).output().unwrap();
        assert_eq!((raw(&once.stdout), raw(&once.stderr)), (None, None), "agent --once {format}");
    }
    // JSON keeps the value. Only its encoding changes.
    let once = node.once();
    assert!(task(&once.status, "output")["message"].as_str().unwrap().contains("\u{1b}]0;C\u{7}"), "{}", once.status);
}

#[test]
fn names_and_paths_with_control_characters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("fleet.yaml"), FLEET).unwrap();
    let refused = |text: &str, expected: &str| {
        fs::write(folder.path().join("b.yaml"), text).unwrap();
        let output = towpath().arg("validate").arg(folder.path()).args(["--output", "json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert_eq!(raw(&output.stdout), None);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let errors = report["errors"].as_array().unwrap();
        assert!(errors.iter().any(|error| error["message"].as_str().unwrap().contains(expected)), "{report:#}");
    };
    for tasks in [
        r#"  tasks: [{name: "t\e]0;A\a", file: {path: /a, content: b}}]"#,
        r#"  tasks: [{name: t, file: {path: "/mo\e[31mtd", content: b}}]"#,
        r#"  tasks: [{name: t, file: {path: "/a\nb", content: b}}]"#,
        r#"  tasks: [{name: t, line: {path: "/a\u0085", line: b}}]"#,
        r#"  tasks: [{name: t, service: {name: "a\rb", state: started}}]"#,
    ] {
        refused(&book("b", &format!("{tasks}\n")), "has a control character");
    }
    let hidden = Path::new(std::ffi::OsStr::from_bytes(b"d\x1b[2J"));
    fs::create_dir(folder.path().join(hidden)).unwrap();
    fs::write(folder.path().join(hidden).join("x.yaml"), "a: b\n").unwrap();
    refused(&book("b", "  tasks: []\n"), "has a control character");
    let text = towpath().arg("validate").arg(folder.path()).output().unwrap();
    assert_eq!((raw(&text.stdout), raw(&text.stderr)), (None, None));
}

#[test]
fn closed_streams_do_not_end_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("b.yaml", book("b", "  tasks: [{name: t, file: {path: /a, content: one}}]\n"));
    repository.publish("one");
    let node = Node::new(folder.path(), &format!("url: {}\n      interval: 1s", repository.bare.display()));
    let mut command = node.agent();
    command.env("RUST_LOG", "trace");
    let mut agent = towpath_tests::Running::start(&command, Stdio::piped(), Stdio::piped());
    // The readers of the output close at once, so every write fails from here on.
    drop(agent.streams());
    node.wait_for_file("/a", "one");
    repository.write("b.yaml", book("b", "  tasks: [{name: t, file: {path: /a, content: two}}]\n"));
    repository.publish("two");
    node.wait_for_file("/a", "two");
    assert_eq!(agent.ended(), None);
    assert_eq!(agent.terminate(), 0);
}
