//! The examples are valid, their plans are as expected, they apply, and a second run changes nothing.

use std::{fs, path::PathBuf};

use serde_json::Value;
use towpath_tests::{git::Repository, node::Node, towpath};

struct Example {
    name: &'static str,
    folder: &'static str,
    sources: &'static [(&'static str, &'static str)],
    nodes: &'static [&'static str],
    /// True if it needs a machine of its own. Then single_server.rs applies it.
    machine: bool,
}

const EXAMPLES: [Example; 6] = [
    Example { name: "quickstart", folder: "quickstart", sources: &[], nodes: &["web1", "web3"], machine: false },
    Example { name: "fleet", folder: "fleet", sources: &[], nodes: &["lb1", "web1"], machine: false },
    Example {
        name: "variables-tour",
        folder: "variables-tour",
        sources: &[],
        nodes: &["web1", "web2"],
        machine: false,
    },
    Example { name: "custom-modules", folder: "custom-modules", sources: &[], nodes: &["web1"], machine: false },
    Example { name: "single-server", folder: "single-server", sources: &[], nodes: &[], machine: true },
    Example {
        name: "two-teams",
        folder: "two-teams/fleet",
        sources: &[("web", "two-teams/web"), ("library", "two-teams/library")],
        nodes: &["web1", "db1"],
        machine: false,
    },
];

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../repos-example")
}

impl Example {
    fn source_arguments(&self) -> Vec<String> {
        self.sources
            .iter()
            .flat_map(|(name, folder)| ["--source".to_owned(), format!("{name}={}", examples().join(folder).display())])
            .collect()
    }
}

#[test]
fn examples_have_no_problems() {
    for example in &EXAMPLES {
        let output = towpath()
            .arg("validate")
            .arg(examples().join(example.folder))
            .args(example.source_arguments())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}: {text}", example.name);
        assert!(text.ends_with(" 0 errors, 0 warnings\n"), "{}: {text}", example.name);
    }
    let listed: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
    for entry in fs::read_dir(examples()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(listed.contains(&name.as_str()), "the example {name} is not tested");
    }
}

fn plan(example: &Example, node: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.yaml");
    let text = format!(
        "metadata: {{apiVersion: v1alpha, kind: Config}}\nspec:\n  node: {node}\n  root: {}\n  stateDir: {}\n  sources: [{{name: fleet, url: /nowhere}}]\n",
        folder.path().join("root").display(),
        folder.path().join("state").display()
    );
    fs::create_dir_all(folder.path().join("root")).unwrap();
    fs::write(&config, text).unwrap();
    let output = towpath()
        .arg("plan")
        .arg("--config")
        .arg(&config)
        .arg("--source-dir")
        .arg(examples().join(example.folder))
        .args(example.source_arguments())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_have_the_expected_plans() {
    for example in &EXAMPLES {
        for node in example.nodes {
            insta::assert_snapshot!(format!("plan-{}-{node}", example.name), plan(example, node));
        }
    }
}

#[test]
fn variables_show_their_origin() {
    let tour = &EXAMPLES[2];
    let output = towpath()
        .args(["vars", "--node", "web2", "--explain", "--config", "/nonexistent", "--source-dir"])
        .arg(examples().join(tour.folder))
        .output()
        .unwrap();
    insta::assert_snapshot!("vars-variables-tour-web2", String::from_utf8(output.stdout).unwrap());
}

#[test]
fn examples_apply_and_stay_in_sync() {
    for example in EXAMPLES.iter().filter(|example| !example.machine) {
        let folder = tempfile::tempdir().unwrap();
        let publish = |name: &str, source: &str| {
            let repository = Repository::new(folder.path(), name);
            let copied = std::process::Command::new("cp")
                .arg("-r")
                .arg(examples().join(source).join("."))
                .arg(&repository.work)
                .status()
                .unwrap();
            assert!(copied.success());
            repository
        };
        let fleet = publish("fleet", example.folder);
        for (name, source) in example.sources {
            let repository = publish(name, source);
            repository.publish("example");
            // The forge in the URLs of the example does not exist here.
            let config = fleet.work.join("fleet.yaml");
            let text = fs::read_to_string(&config)
                .unwrap()
                .replace(&format!("https://git.example.org/{name}.git"), &repository.bare.display().to_string());
            fs::write(config, text).unwrap();
        }
        let commit = fleet.publish("example");
        let node = Node::new(folder.path(), &format!("url: {}", fleet.bare.display()));
        let text = fs::read_to_string(&node.config).unwrap().replace("node: n1", "node: web1");
        fs::write(&node.config, text).unwrap();
        let once = node.once();
        assert_eq!(once.code, 0, "{}: {}", example.name, once.log);
        assert_eq!(once.status["commits"]["fleet"], commit);
        assert_eq!(once.status["commits"].as_object().unwrap().len(), 1 + example.sources.len());
        let again = node.once();
        let outcomes: Vec<&Value> =
            again.status["taskBooks"].as_array().unwrap().iter().map(|book| &book["outcome"]).collect();
        assert!(
            !outcomes.is_empty() && outcomes.iter().all(|outcome| *outcome == "unchanged"),
            "{}: {outcomes:?}",
            example.name
        );
    }
}
