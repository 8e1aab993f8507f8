//! A module is known in three places: its message, its own file and the registry.

use std::collections::BTreeSet;

use crate::{
    syntax::facts,
    tree::{Finding, Source},
};

/// The folder of the modules.
const FOLDER: &str = "agent/modules/src/";
/// The file of the registry.
const REGISTRY: &str = "agent/modules/src/lib.rs";
/// The most places that know a module.
const MOST: usize = 3;

/// A module of the schema.
struct Module {
    /// The name of its message, such as `AuthorizedKey`.
    message: String,
    /// Its key in a task, such as `authorizedKey`.
    key: String,
}

/// Returns the modules that more than three places know. Hints for the readers of error messages do not count.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let tests = facts::test_files(sources);
    let shipped: Vec<&Source> =
        sources.iter().filter(|source| source.is_shipped() && !tests.contains(source.path.as_str())).collect();
    let mut found = Vec::new();
    for protocol in sources.iter().filter(|source| source.path.ends_with(".proto")) {
        for module in modules(protocol) {
            let mut places = BTreeSet::from([protocol.path.clone(), REGISTRY.to_owned()]);
            places.extend(shipped.iter().filter(|source| knows(source, &module)).map(|source| place(&source.path)));
            if places.len() > MOST {
                let detail =
                    format!("these know the module: {}", places.iter().cloned().collect::<Vec<_>>().join(", "));
                found.push(Finding::new("module", module.key, places.len(), detail));
            }
        }
    }
    found
}

/// Returns the modules of a protocol definition: the fields of a task whose messages have the option.
fn modules(protocol: &Source) -> Vec<Module> {
    let bodies: Vec<&str> = protocol.text.split("\nmessage ").skip(1).collect();
    let name = |body: &&str| body.split_whitespace().next().unwrap_or_default().to_owned();
    let is_module = |body: &&&str| body.split("\n}").next().unwrap_or_default().contains("option (module)");
    let marked: BTreeSet<String> = bodies.iter().filter(is_module).map(name).collect();
    let task = bodies.iter().find(|body| name(body) == "Task").copied().unwrap_or_default();
    let fields = task.split("\n}").next().unwrap_or_default().lines();
    fields
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word == "optional");
            let message = words.next().filter(|message| marked.contains(*message))?.to_owned();
            Some(Module { message, key: camel_case(words.next()?) })
        })
        .collect()
}

/// Returns the name of a field as it is in a task.
fn camel_case(name: &str) -> String {
    let mut text = String::new();
    let mut upper = false;
    for sign in name.chars() {
        match (sign, upper) {
            ('_', _) => {}
            (sign, true) => text.extend(sign.to_uppercase()),
            (sign, false) => text.push(sign),
        }
        upper = sign == '_';
    }
    text
}

/// Returns whether the code of a file names the type of the module's message, or compares the name of a module with
/// the module's key.
fn knows(source: &Source, module: &Module) -> bool {
    let types = [format!("pb::{}", module.message), format!("v1alpha::{}", module.message)];
    let key = format!("\"{}\"", module.key);
    let is_word = |text: &str, word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let next = text[at + word.len()..].chars().next();
            !next.is_some_and(|sign| sign.is_alphanumeric() || sign == '_')
        })
    };
    let compares = |line: &str| {
        let of_module = line.contains("module");
        of_module
            && line.contains(&key)
            && ["==", "!=", "matches!", "=>", "contains(", " | "].iter().any(|sign| line.contains(sign))
    };
    source.code().any(|(_, line)| types.iter().any(|name| is_word(line, name)) || compares(line))
}

/// Returns the place that a file belongs to. The parts of a module in a folder of its own are one place.
fn place(path: &str) -> String {
    let Some(below) = path.strip_prefix(FOLDER) else { return path.to_owned() };
    let parts: Vec<&str> = below.trim_end_matches(".rs").splitn(3, '/').collect();
    match parts.as_slice() {
        [group, module, ..] => format!("{FOLDER}{group}/{module}.rs"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::check_seeded as seeded;

    const PROTO: &str = r#"syntax = "proto3";
message Task {
  // A key.
  optional AuthorizedKey authorized_key = 1;
  optional Until until = 2;
}

message AuthorizedKey {
  option (module) = {kind: "state"};
}

message Until {
}
"#;

    fn red(files: &[(&str, &str)]) -> usize {
        let own = "pub struct AuthorizedKey;\npub fn of(_: pb::AuthorizedKey) {}\n";
        let always = [
            ("proto/towpath/v1alpha/modules.proto", PROTO),
            ("agent/modules/src/accounts/authorized_key.rs", own),
            ("agent/modules/src/accounts/authorized_key/options.rs", own),
        ];
        seeded("module", &[&always, files].concat())
    }

    #[test]
    fn module_that_a_fourth_file_knows_is_red() {
        assert_eq!(red(&[]), 0);
        for code in [
            "fn a(name: &str) -> bool {\n    module_of(name) == \"authorizedKey\"\n}\n",
            "fn a(module: &str) -> bool {\n    matches!(module, \"user\" | \"authorizedKey\")\n}\n",
            "fn a(_: &pb::AuthorizedKey) {}\n",
            "use towpath_proto::v1alpha::AuthorizedKey;\n",
        ] {
            assert_eq!(red(&[("agent/src/reconcile/order.rs", code)]), 1, "{code}");
            assert_eq!(red(&[("render/src/objects/order.rs", code)]), 1, "{code}");
        }
    }

    #[test]
    fn other_uses_of_the_same_word_are_green() {
        for code in [
            "fn a(_: &pb::AuthorizedKeys) {}\n",
            "fn a(_: &pb::Until) {}\n",
            "// module == \"authorizedKey\"\nfn a() {}\n",
            "fn a(field: &str) -> bool {\n    field == \"authorizedKey\"\n}\n",
            "#[cfg(test)]\nmod tests {\n    fn a(module: &str) -> bool {\n        module == \"authorizedKey\"\n    }\n}\n",
        ] {
            assert_eq!(red(&[("agent/src/reconcile/order.rs", code)]), 0, "{code}");
        }
    }
}
