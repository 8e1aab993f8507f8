//! Paths to the files that define their items, through imports and re-exports.

use std::collections::{BTreeMap, HashMap};

use super::facts::{Facts, Names, Scope};

/// The crates and the folders of their sources.
pub const CRATES: [(&str, &str); 9] = [
    ("towpath_proto", "proto/src/"),
    ("towpath_git", "git/src/"),
    ("towpath_render", "render/src/"),
    ("towpath_host", "agent/host/src/"),
    ("towpath_state", "agent/state/src/"),
    ("towpath_modules", "agent/modules/src/"),
    ("towpath_coordination", "agent/coordination/src/"),
    ("towpath_secrets", "agent/secrets/src/"),
    ("towpath_reconcile", "agent/reconcile/src/"),
];

/// The crate of the agent, whose rooms have layers of their own.
pub const AGENT: (&str, &str) = ("towpath_agent", "agent/src/");

/// The thing that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An item: the file that defines it, and its name.
    Item(String, String),
    /// A module: its file.
    Module(String),
    /// Something of another crate, with its whole path.
    Outside(Names),
}

/// The modules of one crate.
pub struct Crate<'a> {
    modules: HashMap<Names, (&'a Facts, &'a Scope)>,
}

/// Returns the name of the crate that a file belongs to.
pub fn crate_of(path: &str) -> Option<(&'static str, &'static str)> {
    CRATES.into_iter().chain([AGENT]).find(|(_, folder)| path.starts_with(folder))
}

/// Returns the crates with their modules.
pub fn crates(facts: &[Facts]) -> BTreeMap<&'static str, Crate<'_>> {
    let mut crates: BTreeMap<&str, Crate> = BTreeMap::new();
    for file in facts.iter().filter(|file| !file.path.ends_with("/main.rs")) {
        let Some((name, folder)) = crate_of(&file.path) else { continue };
        let names = module_of(&file.path, folder);
        let modules = &mut crates.entry(name).or_insert_with(|| Crate { modules: HashMap::new() }).modules;
        for scope in &file.scopes {
            let mut names = names.clone();
            names.extend(scope.inner.iter().cloned());
            modules.insert(names, (file, scope));
        }
    }
    crates
}

fn module_of(path: &str, folder: &str) -> Names {
    let path = path.strip_prefix(folder).unwrap_or(path).trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl<'a> Crate<'a> {
    /// Returns each module with its names, its file and its facts.
    pub fn modules(&self) -> impl Iterator<Item = (&Names, &'a Facts, &'a Scope)> {
        self.modules.iter().map(|(names, (file, scope))| (names, *file, *scope))
    }

    /// Returns the thing that a path in a module leads to, if it is not a local name.
    pub fn resolve(&self, module: &Names, path: &[String]) -> Option<Target> {
        self.follow(module, path, 0)
    }

    fn follow(&self, module: &Names, path: &[String], depth: usize) -> Option<Target> {
        if depth > 16 {
            return None;
        }
        let mut at = module.clone();
        let mut rest = path;
        match path.first().map(String::as_str)? {
            "" => return Some(Target::Outside(path[1..].to_vec())),
            "crate" | "$crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            first => {
                if !self.has(module, first, depth) {
                    // A name without a path is a local one, or of the prelude.
                    return (path.len() > 1).then(|| Target::Outside(path.to_vec()));
                }
            }
        }
        while let Some(name) = rest.first() {
            let mut child = at.clone();
            child.push(name.clone());
            let (_, scope) = self.modules.get(&at)?;
            if self.modules.contains_key(&child) && !(rest.len() == 1 && scope.items.contains(name)) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            return self.member(&at, name, &rest[1..], depth);
        }
        self.modules.get(&at).map(|(file, _)| Target::Module(file.path.clone()))
    }

    fn member(&self, at: &Names, name: &str, rest: &[String], depth: usize) -> Option<Target> {
        let (file, scope) = self.modules.get(at)?;
        if scope.items.contains(name) {
            return Some(Target::Item(file.path.clone(), name.to_owned()));
        }
        if let Some(import) = scope.imports.get(name) {
            let whole: Names = import.iter().chain(rest).cloned().collect();
            // `use name` of another crate leads to itself.
            if whole.first().is_some_and(|first| first == name) && import.len() == 1 {
                return Some(Target::Outside(whole));
            }
            return match self.follow(at, &whole, depth + 1) {
                None => Some(Target::Outside(whole)),
                found => found,
            };
        }
        for glob in &scope.globs {
            if let Some(Target::Module(_)) = self.follow(at, glob, depth + 1) {
                let mut whole: Names = glob.clone();
                whole.push(name.to_owned());
                whole.extend(rest.iter().cloned());
                if let Some(found @ (Target::Item(..) | Target::Module(_))) = self.follow(at, &whole, depth + 1) {
                    return Some(found);
                }
            }
        }
        None
    }

    fn has(&self, module: &Names, name: &str, depth: usize) -> bool {
        let mut child = module.clone();
        child.push(name.to_owned());
        self.modules.contains_key(&child)
            || self.modules.get(module).is_some_and(|(_, scope)| {
                scope.items.contains(name)
                    || scope.imports.contains_key(name)
                    || !scope.globs.is_empty() && self.member(module, name, &[], depth + 1).is_some()
            })
    }
}
