//! Tests of the architecture: layers inside agent/src, fences, the map in ARCHITECTURE.md.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The folders of agent/src, lowest layer first. A folder may import only lower layers.
const LAYERS: [(&str, u32); 5] = [("config", 2), ("report", 3), ("reconcile", 4), ("serve", 5), ("cli", 6)];

/// Words that may occur only in some folders, and these folders.
const FENCES: [(&str, &[&str]); 15] = [
    ("gix::", &["git/src"]),
    ("minijinja", &["render/src"]),
    ("serde_yaml", &["render/src"]),
    ("tonic::", &["agent/src/serve", "proto/src", "agent/coordination/src/store/etcd"]),
    ("redb::", &["agent/host/src"]),
    ("inotify::", &["agent/host/src"]),
    ("etcd_client", &["agent/coordination/src"]),
    ("foca::", &["agent/coordination/src"]),
    ("rcgen::", &["agent/host/src/identity"]),
    ("zbus::", &["agent/host/src"]),
    // Records may hold secrets: only tests look at them.
    ("observe_commits(", &["agent/host/src/journal"]),
    ("unsafe {", &["agent/host/src/memory.rs", "agent/host/src/process/launch.rs"]),
    // The demo shows folders, reconcile reads a working tree, serve owns its socket, and config its file.
    (
        "std::fs",
        &[
            "agent/host/src",
            "git/src",
            "agent/src/cli/demo.rs",
            "agent/src/reconcile/trees.rs",
            "agent/src/reconcile/node.rs",
            "agent/src/serve/server.rs",
            "agent/src/config",
        ],
    ),
    ("std::process::Command", &["agent/host/src", "git/src"]),
    ("Command::new(", &["agent/host/src", "git/src"]),
];

/// The maximum number of lines of a file.
const LINES_OF_FILE: usize = 650;

#[derive(Debug)]
struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["proto/src", "git/src", "render/src", "agent"] {
        collect(root, &root.join(folder), &mut found);
    }
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "tests" && name != "target") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests inside files have no fences.
            let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            let path = path.strip_prefix(root).unwrap().display().to_string();
            if !path.ends_with("tests.rs") {
                found.push(Source { path, text });
            }
        }
    }
}

fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Returns all violations.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let layers: BTreeMap<&str, u32> = LAYERS.into_iter().collect();
    for source in sources {
        let room = source.path.strip_prefix("agent/src/").and_then(|path| path.split('/').next());
        if let Some(own) = room.and_then(|room| layers.get(room)) {
            for (line, text) in code(&source.text) {
                for (other, layer) in &layers {
                    let imports = text.contains(&format!("crate::{other}::"))
                        || text.trim() == format!("{other}::{{")
                        || text.trim_start().starts_with(&format!("{other}::{{")) && !text.contains("super");
                    if imports && layer >= own && room != Some(other) {
                        found.push(format!("{}:{}: {} may not import {other}", source.path, line + 1, room.unwrap()));
                    }
                }
            }
        }
        for (word, allowed) in FENCES {
            if allowed.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for (line, text) in code(&source.text) {
                if text.contains(word) {
                    found.push(format!("{}:{}: {word} may not be named here", source.path, line + 1));
                }
            }
        }
        let lines = source.text.lines().count();
        if lines > LINES_OF_FILE {
            found.push(format!("{}: {lines} lines; divide it", source.path));
        }
        let name = source.path.rsplit('/').next().unwrap();
        if ["util.rs", "utils.rs", "common.rs", "helpers.rs", "types.rs", "misc.rs"].contains(&name) {
            found.push(format!("{}: the name says nothing", source.path));
        }
    }
    found
}

#[test]
fn layers_and_fences_hold() {
    let found = violations(&sources(&root()));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_seeded_violation_is_seen() {
    let source = |path: &str, text: &str| vec![Source { path: path.into(), text: text.into() }];
    for (path, text) in [
        ("agent/src/config/x.rs", "use crate::reconcile::Node;"),
        ("agent/src/report/x.rs", "use crate::cli::main;"),
        ("agent/src/reconcile/x.rs", "use crate::serve::Client;"),
        ("agent/src/serve/x.rs", "use crate::cli::main;"),
        ("render/src/x.rs", "use gix::Repository;"),
        ("agent/src/x.rs", "use minijinja::Environment;"),
        ("agent/src/x.rs", "serde_yaml::from_str(x)"),
        ("agent/modules/src/x.rs", "use tonic::Status;"),
        ("agent/src/x.rs", "use redb::Database;"),
        ("agent/src/x.rs", "use inotify::Inotify;"),
        ("agent/src/x.rs", "journal.observe_commits(|_| {});"),
        ("agent/src/x.rs", "use etcd_client::Client;"),
        ("render/src/x.rs", "use std::fs;"),
        ("agent/modules/src/x.rs", "std::process::Command::new(\"x\")"),
        ("agent/src/cli/x.rs", "Command::new(\"x\")"),
        ("agent/src/cli/util.rs", ""),
    ] {
        assert!(!violations(&source(path, text)).is_empty(), "{path}: {text}");
    }
    let long = "\n".repeat(LINES_OF_FILE + 2);
    assert!(!violations(&source("agent/src/x.rs", &long)).is_empty());
}

#[test]
fn the_map_names_every_room_and_nothing_else() {
    let root = root();
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let table = map.split("## The map").nth(1).unwrap().split("\n## ").next().unwrap();
    let rooms: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    for room in &rooms {
        assert!(root.join(room).is_dir(), "ARCHITECTURE.md names {room}, which is not there");
    }
    for folder in [
        "proto",
        "git",
        "render",
        "agent/host",
        "agent/modules",
        "agent/coordination",
        "repos-example",
        "deploy",
        "tests",
    ] {
        assert!(rooms.contains(&format!("{folder}/").as_str()), "ARCHITECTURE.md does not name {folder}/");
    }
    for entry in fs::read_dir(root.join("agent/src")).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        let name = format!("agent/src/{}/", entry.file_name().to_string_lossy());
        assert!(rooms.contains(&name.as_str()), "ARCHITECTURE.md does not name {name}");
    }
    // The symbols that the map names must exist in the code.
    let code: String = sources(&root).into_iter().map(|source| source.text).collect();
    let words =
        map.split('`').skip(1).step_by(2).filter(|word| {
            word.chars().next().is_some_and(char::is_uppercase) && word.chars().all(char::is_alphanumeric)
        });
    for word in words {
        assert!(code.contains(word), "ARCHITECTURE.md names {word}, which is not in the code");
    }
}

#[test]
fn the_top_level_is_fixed() {
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
