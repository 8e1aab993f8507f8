//! Imports go down only, some crates are named in one room only, and the pure rooms import no I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    circles::strong_components,
    syntax::facts::Facts,
    syntax::resolve::{AGENT, CRATES, Crate, Target, crate_of},
    tree::{Finding, Source},
};

/// The layers of the crates, from the lowest. A crate imports crates of lower layers only.
const CRATE_LAYERS: [(&str, u32); 10] = [
    ("towpath_proto", 0),
    ("towpath_host", 1),
    ("towpath_state", 1),
    ("towpath_git", 1),
    ("towpath_render", 1),
    ("towpath_modules", 2),
    ("towpath_coordination", 2),
    ("towpath_secrets", 2),
    ("towpath_reconcile", 3),
    ("towpath_agent", 6),
];

/// The layers of the rooms of the agent. Rooms of one layer may import one another without a circle. `config` resolves
/// what is written to the types of git and render.
const ROOM_LAYERS: [(&str, u32); 10] = [
    ("config", 2),
    ("error_chain", 2),
    ("events", 3),
    ("reconcile", 3),
    ("node", 4),
    ("react", 4),
    ("status", 4),
    ("notify", 4),
    ("serve", 5),
    ("cli", 6),
];

/// Imports within one layer: state reaches files through the ports of host, and the executors run the machine of the
/// crate with their name.
const WITHIN_LAYER: [(&str, &str); 2] = [("towpath_state", "towpath_host"), ("reconcile", "towpath_reconcile")];

/// Names that only some folders may name.
const FENCES: [(&str, &[&str]); 21] = [
    ("gix", &["git/src/"]),
    ("minijinja", &["render/src/"]),
    ("serde_yaml", &["render/src/"]),
    ("tonic", &["agent/src/serve/", "proto/src/"]),
    ("tonic_health", &["agent/src/serve/"]),
    ("tonic_prost", &["proto/src/"]),
    ("tonic_reflection", &["agent/src/serve/"]),
    ("axum", &["agent/src/serve/"]),
    ("redb", &["agent/state/src/"]),
    ("notify", &["agent/host/src/"]),
    ("etcd_client", &["agent/coordination/src/"]),
    ("foca", &["agent/coordination/src/"]),
    ("rcgen", &["agent/host/src/identity/"]),
    ("age", &["agent/secrets/src/"]),
    ("age_core", &["agent/secrets/src/"]),
    ("zbus", &["agent/host/src/"]),
    ("std::fs", &["agent/host/src/", "git/src/"]),
    ("tokio::fs", &["agent/host/src/", "git/src/"]),
    ("std::process::Command", &["agent/host/src/", "git/src/"]),
    ("std::os::unix::process", &["agent/host/src/", "git/src/"]),
    ("tokio::process", &["agent/host/src/", "git/src/"]),
];

/// Words of code that only some files may hold.
const WORDS: [(&str, &[&str]); 3] = [
    // A dry run is an executor of its own, not a flag.
    ("plan: bool", &[]),
    // Records may hold secrets: only tests look at them.
    ("observe_commits(", &["agent/state/src/"]),
    ("unsafe {", &["agent/host/src/memory.rs", "agent/host/src/process/launch.rs"]),
];

/// The folders of pure code, and the names that it does not import.
const PURE: [&str; 4] = ["reconcile/run/", "reconcile/plan/", "reconcile/src/run/", "reconcile/src/plan/"];
const IMPURE: [&str; 8] =
    ["towpath_host", "tokio", "std::fs", "std::time", "std::thread", "std::process", "std::net", "std::env"];

/// Returns the violations of all three rules.
pub fn check(sources: &[Source], facts: &[Facts], crates: &BTreeMap<&str, Crate>) -> Vec<Finding> {
    let mut found = manifests(sources);
    found.extend(words(sources));
    found.extend(unknown_rooms(facts));
    let mut imports: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, krate) in crates {
        for (module, file, scope) in krate.modules() {
            let paths = scope.paths.iter().chain(&scope.globs);
            for target in paths.filter_map(|path| krate.resolve(module, path)) {
                match target {
                    Target::Outside(names) => {
                        found.extend(upward(name, &file.path, &names));
                        for fence in fenced(&file.path, &names) {
                            imports.entry(fence).or_default().insert(names.join("::"));
                        }
                    }
                    Target::Item(other, item) => {
                        found.extend(between_rooms(&file.path, &other, &item, &mut rooms));
                    }
                    Target::Module(other) => found.extend(between_rooms(&file.path, &other, "", &mut rooms)),
                }
            }
        }
    }
    for ((rule, subject), names) in imports {
        let rule = if rule == "pure" { "pure" } else { "fence" };
        found.push(Finding::new(rule, subject, names.len(), names.into_iter().collect::<Vec<_>>().join(", ")));
    }
    for component in strong_components(&rooms).into_iter().filter(|component| component.len() > 1) {
        let names: Vec<&str> = component.into_iter().collect();
        found.push(Finding::new("layer", names.join(" "), names.len(), "rooms of agent/src that import one another"));
    }
    found.sort_by(|a, b| (&a.rule, &a.subject).cmp(&(&b.rule, &b.subject)));
    found.dedup_by(|a, b| (&a.rule, &a.subject) == (&b.rule, &b.subject));
    found
}

fn layer_of(list: &[(&'static str, u32)], name: &str) -> Option<u32> {
    list.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

fn room_of(path: &str) -> Option<&str> {
    let below = path.strip_prefix(AGENT.1)?;
    Some(below.split_once('/').map_or(below, |(room, _)| room).trim_end_matches(".rs"))
}

/// Returns the finding for an import of another crate of the workspace that is not of a lower layer.
fn upward(krate: &str, path: &str, names: &[String]) -> Option<Finding> {
    let other = layer_of(&CRATE_LAYERS, names.first()?)?;
    let room = room_of(path).and_then(|room| Some((room, layer_of(&ROOM_LAYERS, room)?)));
    let (own_name, own) = room.or_else(|| Some((krate, layer_of(&CRATE_LAYERS, krate)?)))?;
    let through_host = WITHIN_LAYER.contains(&(own_name, names[0].as_str()));
    (other >= own && !through_host).then(|| {
        let detail = format!("{own_name} is of layer {own}, {} of layer {other}", names.join("::"));
        Finding::new("layer", format!("{} {path}", names[0]), 1, detail)
    })
}

fn between_rooms<'a>(
    path: &str,
    other: &str,
    item: &str,
    rooms: &mut BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> Option<Finding> {
    let (room, target) = (room_of(path)?, room_of(other)?);
    let known = |name: &str| ROOM_LAYERS.into_iter().find(|(known, _)| *known == name);
    let ((room, own), (target, layer)) = (known(room)?, known(target)?);
    if room == target {
        return None;
    }
    if own == layer {
        rooms.entry(room).or_default().insert(target);
        rooms.entry(target).or_default();
    }
    (layer > own).then(|| {
        let detail = format!("{room} is of layer {own}, {target} of layer {layer}: it names {item} of {other}");
        Finding::new("layer", format!("{target} {path}"), 1, detail)
    })
}

/// Returns the fences that a file breaks by naming a path.
fn fenced(path: &str, names: &[String]) -> Vec<(String, String)> {
    let begins = |fence: &str| {
        let mut parts = fence.split("::");
        let mut at = names.iter();
        parts.all(|part| at.next().is_some_and(|name| name == part))
    };
    let fences = FENCES
        .iter()
        .filter(|(fence, rooms)| begins(fence) && !rooms.iter().any(|room| path.starts_with(room)))
        .map(|(fence, _)| ("fence".to_owned(), format!("{fence} {path}")));
    let pure = PURE
        .iter()
        .any(|folder| path.contains(folder) || path.ends_with(&format!("{}.rs", folder.trim_end_matches('/'))));
    let impure = IMPURE
        .iter()
        .filter(|impure| pure && begins(impure))
        .map(|impure| ("pure".to_owned(), format!("{impure} {path}")));
    fences.chain(impure).collect()
}

fn words(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_shipped()) {
        for (word, places) in WORDS {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            let lines: Vec<String> = source
                .code()
                .filter(|(_, line)| line.contains(word))
                .map(|(number, _)| format!("line {number}"))
                .collect();
            if !lines.is_empty() {
                found.push(Finding::new("fence", format!("{word} {}", source.path), lines.len(), lines.join(", ")));
            }
        }
    }
    found
}

/// A room without a layer would import and be imported freely.
fn unknown_rooms(facts: &[Facts]) -> Vec<Finding> {
    let rooms = facts.iter().filter_map(|file| room_of(&file.path)).filter(|room| !["main", "lib"].contains(room));
    let rooms: BTreeSet<&str> = rooms.filter(|room| layer_of(&ROOM_LAYERS, room).is_none()).collect();
    let found = rooms.into_iter().map(|room| {
        Finding::new("layer", format!("agent/src/{room}"), 1, "the room has no layer; add it to ROOM_LAYERS")
    });
    found
        .chain(facts.iter().filter(|file| crate_of(&file.path).is_none()).map(|file| {
            Finding::new("layer", file.path.clone(), 1, "the crate has no layer; add it to CRATES and CRATE_LAYERS")
        }))
        .collect()
}

/// A crate's manifest names crates of lower layers only, dependencies of its tests aside.
fn manifests(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, folder) in CRATES {
        let manifest = folder.replace("src/", "Cargo.toml");
        let Some(source) = sources.iter().find(|source| source.path == manifest) else { continue };
        let mut section = "";
        for line in source.text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_");
            if section == "[dependencies]" {
                found.extend(upward(name, &manifest, &[dependency]));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::check_seeded as seeded;

    #[test]
    fn import_of_a_higher_layer_is_red() {
        for (path, text) in [
            ("agent/src/config/x.rs", "use crate::reconcile::Node;"),
            ("agent/src/events/x.rs", "fn f() { crate::cli::main(); }"),
            ("agent/src/reconcile/x.rs", "use crate::{config::Settings, serve::{Client}};"),
            ("agent/src/reconcile/x.rs", "fn f() { g!(a, super::super::serve::x(1)) }"),
            ("agent/src/serve/x.rs", "pub use crate::cli::main;"),
            ("agent/src/serve/x.rs", "use crate::cli; fn f() { cli::main() }"),
            ("agent/modules/src/x.rs", "use towpath_coordination::Store;"),
            ("agent/modules/src/x.rs", "use towpath_agent::cli;"),
            ("agent/host/src/x.rs", "use towpath_render as pages;"),
            ("agent/src/config/x.rs", "use towpath_coordination::Store;"),
        ] {
            let rooms = [
                ("agent/src/cli/mod.rs", "pub fn main() {}"),
                ("agent/src/serve/mod.rs", "pub struct Client; pub fn x() {}"),
            ];
            let other = [("agent/src/reconcile/mod.rs", "pub struct Node;"), (path, text)];
            assert!(seeded("layer", &[&rooms[..], &other[..]].concat()) > 0, "{path}: {text}");
        }
        assert!(
            seeded("layer", &[("agent/host/Cargo.toml", "[dependencies]\ntowpath-modules.workspace = true\n")]) > 0
        );
        assert!(seeded("layer", &[("agent/src/kitchen/x.rs", "")]) > 0);
        assert!(seeded("layer", &[("agent/kitchen/src/x.rs", "")]) > 0);
    }

    #[test]
    fn rooms_of_one_layer_in_a_circle_are_red() {
        let there = ("agent/src/node/mod.rs", "use crate::status::B; pub struct A;");
        let back = ("agent/src/status/mod.rs", "use crate::node::A; pub struct B;");
        assert_eq!(seeded("layer", &[there, back]), 1);
        assert_eq!(seeded("layer", &[there, ("agent/src/status/mod.rs", "pub struct B;")]), 0);
    }

    #[test]
    fn import_of_a_lower_layer_or_in_tests_is_green() {
        for (path, text) in [
            ("agent/src/cli/x.rs", "use towpath_git::Mirror;"),
            ("agent/src/config/x.rs", "use towpath_git::Options;"),
            ("agent/modules/src/x.rs", "#[cfg(test)] mod tests { use towpath_coordination::Store; }"),
            ("agent/modules/src/x.rs", "#[test] fn f() { towpath_coordination::x() }"),
        ] {
            assert_eq!(seeded("layer", &[(path, text)]), 0, "{path}: {text}");
        }
    }

    #[test]
    fn fenced_name_is_red_outside_its_room() {
        for (path, text) in [
            ("render/src/x.rs", "use gix::Repository;"),
            ("agent/src/cli/x.rs", "use minijinja::Environment;"),
            ("agent/src/cli/x.rs", "fn f() { serde_yaml::from_str(x) }"),
            ("agent/modules/src/x.rs", "use tonic::Status;"),
            ("agent/src/cli/x.rs", "use axum as web;"),
            ("agent/src/cli/x.rs", "use redb::Database;"),
            ("agent/src/cli/x.rs", "use notify::INotifyWatcher;"),
            ("agent/src/cli/x.rs", "fn f() { journal.observe_commits(|_| {}); }"),
            ("agent/src/cli/x.rs", "use etcd_client::Client;"),
            ("render/src/x.rs", "use std::fs;"),
            ("render/src/x.rs", "use std::{\n    fs::File,\n    io,\n};"),
            ("render/src/x.rs", "use std::fs::*;"),
            ("render/src/x.rs", "fn f() { write!(x, std::fs::read(y)) }"),
            ("agent/modules/src/x.rs", "fn f() { std::process::Command::new(\"x\") }"),
            ("agent/src/cli/x.rs", "use std::process; fn f() { process::Command::new(\"x\") }"),
            ("agent/src/cli/x.rs", "fn f() { tokio::process::Command::new(\"x\") }"),
            ("agent/modules/src/x.rs", "fn f() {\n    unsafe { g() }\n}"),
            ("agent/src/reconcile/x.rs", "struct A {\n    pub(crate) plan: bool,\n}"),
            ("agent/modules/src/x.rs", "use foca::Foca;"),
            ("agent/modules/src/x.rs", "use rcgen::Certificate;"),
            ("agent/modules/src/x.rs", "fn f(bus: &zbus::Connection) {}"),
        ] {
            assert!(seeded("fence", &[(path, text)]) > 0, "{path}: {text}");
        }
        for (path, text) in [
            ("git/src/x.rs", "use gix::Repository; use std::fs;"),
            ("agent/src/cli/x.rs", "#[cfg(test)] mod tests { use std::fs; }"),
            ("agent/src/cli/x.rs", "// std::fs\nfn f() { std::process::exit(1) }"),
        ] {
            assert_eq!(seeded("fence", &[(path, text)]), 0, "{path}: {text}");
        }
    }

    #[test]
    fn import_of_io_in_a_pure_room_is_red() {
        for text in [
            "use towpath_host::files::FsWriter;",
            "use tokio::sync::watch;",
            "use std::{fs, io};",
            "fn f() { std::time::Instant::now() }",
            "fn f(x: super::super::port::Clock) {}",
        ] {
            for path in ["agent/src/reconcile/run/x.rs", "agent/src/reconcile/plan/x.rs", "agent/src/reconcile/run.rs"]
            {
                let port = ("agent/src/port.rs", "");
                let through = ("agent/src/reconcile/port.rs", "pub use towpath_host::clock::Clock;");
                let text = text.replace("super::super::port", "crate::reconcile::port");
                assert!(seeded("pure", &[port, through, (path, &text)]) > 0, "{path}: {text}");
            }
        }
        assert_eq!(seeded("pure", &[("agent/src/reconcile/execute/x.rs", "use tokio::sync::watch;")]), 0);
    }
}
