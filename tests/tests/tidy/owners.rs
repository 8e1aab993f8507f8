//! A type that is changed through `&mut` has at most ten fields, and at most two files hold the code that changes it.
//!
//! A struct that only one other struct holds counts with the fields of that one, so that dividing a large state into
//! bags of fields changes nothing. A part that guards itself counts as one field: it has its own file, its own code on
//! `&mut`, and no field that other modules reach.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    syntax::facts::{Field, Names},
    syntax::resolve::{Crate, Target},
    tree::Finding,
};

/// The most fields of a struct that is changed through `&mut`.
const FIELDS: usize = 10;
/// The most files that change one type through `&mut`.
const FILES: usize = 2;

/// A type: the file that defines it, and its name.
type Key = (String, String);

#[derive(Default)]
struct Struct<'a> {
    /// The module of the definition, and the fields.
    fields: Option<(&'a Names, &'a [Field])>,
    /// The files with methods and functions on `&mut` of the type.
    files: BTreeSet<&'a str>,
}

/// Returns the types above one of the limits.
pub fn check(crates: &BTreeMap<&str, Crate>) -> Vec<Finding> {
    let mut found: Vec<Finding> = crates.iter().flat_map(|(name, krate)| of_crate(name, krate)).collect();
    // Two types of one name in a crate: the larger figure counts for both.
    found.sort_by(|a, b| (&a.rule, &a.subject, b.figure).cmp(&(&b.rule, &b.subject, a.figure)));
    found.dedup_by(|a, b| (&a.rule, &a.subject) == (&b.rule, &b.subject));
    found
}

fn of_crate(name: &str, krate: &Crate) -> Vec<Finding> {
    let mut structs: BTreeMap<Key, Struct> = BTreeMap::new();
    for (module, file, scope) in krate.modules() {
        for (name, fields) in &scope.structs {
            structs.entry((file.path.clone(), name.clone())).or_default().fields = Some((module, fields));
        }
        for changed in &scope.changes {
            if let Some(Target::Item(path, name)) = krate.resolve(module, changed) {
                structs.entry((path, name)).or_default().files.insert(&file.path);
            }
        }
    }
    let parts = Parts::of(krate, &structs);
    let mut found = Vec::new();
    for (key, record) in &structs {
        let subject = format!("{name}::{}", key.1);
        let files: Vec<&str> = record.files.iter().copied().collect();
        if files.len() > FILES {
            found.push(Finding::new("files-of-type", &subject, files.len(), files.join(", ")));
        }
        let fields = parts.count(key, true, 0);
        if !files.is_empty() && fields > FIELDS {
            let own = record.fields.map_or(0, |(_, fields)| fields.len());
            let all = parts.count(key, false, 0);
            let detail = format!("{own} own fields, {all} with those of all parts; in {}", key.0);
            found.push(Finding::new("fields", &subject, fields, detail));
        }
    }
    found
}

/// The structs that fields hold.
struct Parts {
    /// For each struct its fields, with the struct of the crate that a field holds.
    held: BTreeMap<Key, Vec<Option<Key>>>,
    /// The structs that exactly one other struct holds.
    alone: BTreeSet<Key>,
    /// The structs that guard themselves.
    guarded: BTreeSet<Key>,
}

impl Parts {
    fn of(krate: &Crate, structs: &BTreeMap<Key, Struct>) -> Self {
        let mut held = BTreeMap::new();
        let mut owners: BTreeMap<Key, BTreeSet<&Key>> = BTreeMap::new();
        let mut guarded = BTreeSet::new();
        for (key, record) in structs {
            let Some((module, fields)) = record.fields else { continue };
            let part = |kind: &Names| match krate.resolve(module, kind) {
                Some(Target::Item(path, name)) => Some((path, name))
                    .filter(|part| part != key && structs.get(part).is_some_and(|part| part.fields.is_some())),
                _ => None,
            };
            let parts: Vec<Option<Key>> = fields.iter().map(|field| field.types.iter().find_map(part)).collect();
            for part in parts.iter().flatten() {
                owners.entry(part.clone()).or_default().insert(key);
            }
            held.insert(key.clone(), parts);
            if record.files.contains(key.0.as_str()) && !fields.iter().any(|field| field.visible) {
                guarded.insert(key.clone());
            }
        }
        let alone = owners.into_iter().filter(|(_, owners)| owners.len() == 1).map(|(part, _)| part).collect();
        Self { held, alone, guarded }
    }

    /// Returns the number of fields of a struct, with those of its parts; guarded parts count as one on demand.
    fn count(&self, key: &Key, guarded_as_one: bool, depth: usize) -> usize {
        let of_field = |part: &Option<Key>| match part {
            Some(part) if depth < 8 && self.alone.contains(part) => {
                let other_file = part.0 != key.0;
                if guarded_as_one && other_file && self.guarded.contains(part) {
                    return 1;
                }
                self.count(part, guarded_as_one, depth + 1).max(1)
            }
            _ => 1,
        };
        self.held.get(key).map_or(0, |fields| fields.iter().map(of_field).sum())
    }
}

#[cfg(test)]
mod tests {
    use crate::{check_seeded as seeded, seeded_figure as figure};

    fn fields(prefix: &str, number: usize) -> String {
        (0..number).map(|field| format!("{prefix}{field}: u32, ")).collect()
    }

    #[test]
    fn struct_with_eleven_fields_and_code_on_mut_is_red() {
        let record = format!("pub struct A {{ {} }}", fields("a", 11));
        for code in [
            "impl A { fn f(&mut self) {} }",
            "impl A { fn f(self: &mut Self) {} }",
            "impl<T> Iterator for A { fn next(&mut self) -> Option<T> { None } }",
            "fn f(a: &mut A) {}",
            "struct B; impl B { fn f(&self, a: &mut A) {} }",
            "mod inner { fn f(a: &mut super::A) {} }",
            "fn f(a: Option<&mut A>) {}",
        ] {
            let text = format!("{record} {code}");
            assert_eq!(figure("fields", &[("git/src/x.rs", &text)], "towpath_git::A"), Some(11), "{code}");
        }
        for code in [
            "impl A { fn f(&self) {} }",
            "fn f(a: &A, b: &mut String) {}",
            "#[cfg(test)] mod t { fn f(a: &mut super::A) {} }",
        ] {
            assert_eq!(seeded("fields", &[("git/src/x.rs", &format!("{record} {code}"))]), 0, "{code}");
        }
        let few = format!("pub struct A {{ {} }} fn f(a: &mut A) {{}}", fields("a", 10));
        assert_eq!(seeded("fields", &[("git/src/x.rs", &few)]), 0);
    }

    #[test]
    fn struct_that_one_owner_holds_counts_with_it() {
        let code = "impl A { fn f(&mut self) {} }";
        for part in ["B", "Option<B>", "Box<B>", "std::sync::Mutex<B>", "Arc<Mutex<crate::x::B>>"] {
            let text = format!("struct A {{ {} b: {part} }} struct B {{ {} }} {code}", fields("a", 5), fields("b", 6));
            assert_eq!(figure("fields", &[("git/src/x.rs", &text)], "towpath_git::A"), Some(11), "{part}");
        }
        let two = format!(
            "struct A {{ {} b: B }} struct C {{ b: B }} struct B {{ {} }} {code}",
            fields("a", 5),
            fields("b", 6)
        );
        assert_eq!(seeded("fields", &[("git/src/x.rs", &two)]), 0);
    }

    #[test]
    fn part_counts_as_one_field_only_if_it_guards_itself() {
        let owner = format!("use crate::y::B; struct A {{ {} b: B }} fn f(a: &mut A) {{}}", fields("a", 5));
        let part =
            |code: &str, visibility: &str| format!("pub struct B {{ {visibility} c: u32, {} }} {code}", fields("b", 5));
        let own = "impl B { fn f(&mut self) {} }";
        for (text, red) in [(part(own, ""), false), (part("", ""), true), (part(own, "pub(crate)"), true)] {
            let found = seeded("fields", &[("git/src/x.rs", &owner), ("git/src/y.rs", &text)]);
            assert_eq!(found > 0, red, "{text}");
        }
    }

    #[test]
    fn type_changed_in_three_files_is_red() {
        let kind = ("git/src/lib.rs", "pub struct A; impl A { fn f(&mut self) {} }");
        let second = ("git/src/b.rs", "use crate::A; impl A { fn g(&mut self) {} }");
        for third in ["fn h(a: &mut crate::A) {}", "impl Drop for super::A { fn drop(&mut self) {} }"] {
            let files = [kind, second, ("git/src/c.rs", third)];
            assert_eq!(figure("files-of-type", &files, "towpath_git::A"), Some(3), "{third}");
        }
        let reader = ("git/src/c.rs", "fn h(a: &crate::A) {}");
        assert_eq!(seeded("files-of-type", &[kind, second, reader]), 0);
        let choice = ("git/src/lib.rs", "pub enum A { B } impl A { fn f(&mut self) {} }");
        assert_eq!(seeded("files-of-type", &[choice, second, ("git/src/c.rs", "fn h(a: &mut crate::A) {}")]), 1);
    }
}
