//! Commands that run as another user, and their remaining processes after a timeout.

use std::{fs, time::Duration};

use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, OnceResult, task},
};

struct Fixture {
    folder: tempfile::TempDir,
    repository: Repository,
    node: Node,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        Self { folder, repository, node }
    }

    /// Runs the agent with credentials in its environment.
    fn apply(&self, tasks: &str) -> OnceResult {
        self.repository.write("book.yaml", book("b", &format!("  tasks:\n{tasks}")));
        self.repository.publish("next");
        let mut agent = self.node.agent();
        agent.env("AGENT_TOKEN", "of-the-agent").env("CREDENTIALS_DIRECTORY", "/of-the-agent");
        self.node.once_with(&mut agent)
    }
}

#[test]
fn no_part_of_a_command_gets_the_environment_of_the_agent() {
    let f = Fixture::new();
    f.repository.write("files/show.sh", "#!/bin/sh\nenv; id -un\n");
    f.repository.write(
        "files/custom.sh",
        "#!/bin/sh\ngrep -q describe && { echo '{\"params\": {}}'; exit; }\necho '{\"inSync\": true, \"data\": \"'$(env | grep -c of-the-agent)'\"}'\n",
    );
    let leaks = "env | grep -q of-the-agent";
    let outcome = f.apply(&format!(
        "    - {{name: c, command: {{argv: [env], user: nobody}}, register: c}}\n    \
         - {{name: s, script: {{source: files/show.sh, user: nobody}}, register: s}}\n    \
         - {{name: own, command: {{argv: [env]}}, register: own}}\n    \
         - {{name: unless, command: {{argv: ['true'], unless: '{leaks}', user: nobody}}}}\n    \
         - {{name: only, command: {{argv: ['true'], onlyIf: '{leaks}'}}}}\n    \
         - {{name: custom, custom: {{name: x, source: files/custom.sh}}, register: custom}}\n    \
         - {{name: valid, file: {{path: /v, content: x, validate: '! {leaks} #%s'}}}}\n    \
         - name: output\n      file: {{path: /output, content: \"output:\\n{{{{ steps.c.stdout }}}}{{{{ steps.s.stdout }}}}{{{{ steps.own.stdout }}}}leaks={{{{ steps.custom.data }}}}\\n\"}}\n"
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.log);
    let output = f.node.read("/output").unwrap();
    assert!(!output.contains("of-the-agent") && output.contains("leaks=0"), "{output}");
    assert_eq!(output.matches("USER=nobody\n").count(), 2, "{output}");
    assert_eq!(output.matches("\nnobody\n").count(), 1, "{output}");
    for name in ["TOWPATH_ROOT=", "TOWPATH_NODE=n1\n", "\nPATH=", "\nHOME="] {
        assert_eq!(output.matches(name).count(), 3, "{name}: {output}");
    }
    let of = |name: &str| task(&outcome.status, name)["outcome"].as_str().unwrap().to_owned();
    assert_eq!((of("unless").as_str(), of("only").as_str()), ("changed", "unchanged"));
}

#[test]
fn deadline_ends_all_that_a_task_has_started_in_each_kind_of_command() {
    let f = Fixture::new();
    let path = f.folder.path().display().to_string();
    // Each process writes its file after the pass, if it is still alive then.
    let late = |name: &str| {
        format!("setsid sh -c 'until [ -e {path}/go ]; do sleep 0.05; done; touch {path}/{name}' & sleep 60")
    };
    f.repository.write("files/late.sh", format!("#!/bin/sh\n{}\n", late("script")));
    f.repository.write("files/custom.sh", format!("#!/bin/sh\n{}\n", late("custom")));
    let line =
        |name: &str, module: &str| format!("    - {{name: {name}, onFailure: continue, timeout: 1s, {module}}}\n");
    let tasks = line("command", &format!("command: {{shell: \"{}\"}}", late("command")))
        + &line("script", "script: {source: files/late.sh}")
        + &line("unless", &format!("command: {{argv: ['true'], unless: \"{}\"}}", late("unless")))
        + &line("custom", "custom: {name: x, source: files/custom.sh}");
    let outcome = f.apply(&tasks);
    for name in ["command", "script", "unless", "custom"] {
        assert_eq!(task(&outcome.status, name)["outcome"], "failed", "{}", outcome.log);
    }
    fs::write(f.folder.path().join("go"), "").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let left: Vec<_> = fs::read_dir(f.folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    for name in ["command", "script", "unless", "custom"] {
        assert!(!left.contains(&name.into()), "{name} had a process left: {left:?}");
    }
}
