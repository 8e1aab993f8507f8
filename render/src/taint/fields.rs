//! Finds untrusted values in module parameters that do not allow untrusted values.

use towpath_proto::{ModuleSchema, Untrusted};

use super::{Kind, Marks, Taint};
use crate::document::{Path, Step};

/// Returns true if the schema allows untrusted values at a path in the parameters of a module. The option `untrusted`
/// of each parameter states if the parameter allows untrusted values.
pub(crate) fn may_be_untrusted(module: &ModuleSchema, path: &[Step]) -> bool {
    let Some(Step::Key(key)) = path.first() else { return false };
    match module.message.field(key).and_then(|field| field.untrusted) {
        Some(Untrusted::Allowed) => true,
        Some(Untrusted::Values) => path.len() > 1,
        // The first member is a program. If the whole list is untrusted, its first member is untrusted, too.
        Some(Untrusted::Arguments) => !matches!(path.get(1), None | Some(Step::Index(0))),
        Some(Untrusted::Refused) | None => false,
    }
}

/// Returns the path and the taint of the first untrusted value in a parameter that does not allow untrusted values.
pub(crate) fn refused(module: &ModuleSchema, marks: &Marks) -> Option<(Path, Taint)> {
    untrusted(marks).into_iter().find(|(path, _)| !may_be_untrusted(module, &path.0))
}

/// Returns the paths and the taints of all untrusted parts of a module's parameters.
fn untrusted(marks: &Marks) -> Vec<(Path, Taint)> {
    fn walk(marks: &Marks, path: &Path, found: &mut Vec<(Path, Taint)>) {
        match marks {
            Marks::Clean => {}
            Marks::Whole(taint) if taint.has(Kind::Untrusted) => found.push((path.clone(), taint.clone())),
            Marks::Whole(_) => {}
            Marks::Parts { shape, members } => {
                if shape.has(Kind::Untrusted) {
                    found.push((path.clone(), shape.clone()));
                }
                for (step, marks) in members {
                    let mut below = path.clone();
                    below.0.push(step.clone());
                    walk(marks, &below, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(marks, &Path::default(), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(path: &[Step]) -> Marks {
        let whole = Marks::whole(Taint::new(Kind::Untrusted, "the event"));
        path.iter().rev().fold(whole, |marks, step| Marks::parts(Taint::NONE, [(step.clone(), marks)]))
    }

    fn key(key: &str) -> Step {
        Step::Key(key.into())
    }

    fn refused(module: &str, marks: &Marks) -> Option<(Path, Taint)> {
        super::refused(towpath_proto::module(module).unwrap(), marks)
    }

    /// The parameters that may be untrusted as a whole. A reviewer must check each addition to this list.
    const OPEN: [&str; 18] = [
        "assert.message",
        "assert.that",
        "block.block",
        "command.stdin",
        "custom.params",
        "debug.message",
        "file.content",
        "http.body",
        "http.url",
        "ini.value",
        "json.value",
        "line.line",
        "publish.value",
        "script.args",
        "script.stdin",
        "toml.value",
        "wait.port",
        "yaml.value",
    ];

    #[test]
    fn parameter_that_is_not_open_refuses_untrusted_values() {
        let mut refusing = 0;
        for module in towpath_proto::modules() {
            for parameter in module.message.fields {
                let name = format!("{}.{}", module.key, parameter.name);
                let open = OPEN.contains(&name.as_str());
                assert_eq!(refused(module.key, &marks(&[key(parameter.name)])).is_none(), open, "{name}");
                refusing += usize::from(!open);
            }
        }
        assert!(refusing > 100, "only {refusing}: was the schema walked?");
        for (module, parameter) in [
            ("command", "shell"),
            ("command", "unless"),
            ("script", "onlyIf"),
            ("file", "path"),
            ("file", "validate"),
            ("unit", "content"),
        ] {
            assert!(refused(module, &marks(&[key(parameter)])).is_some(), "{module}.{parameter}");
        }
    }

    #[test]
    fn untrusted_value_is_rejected_as_program_and_accepted_as_argument() {
        assert!(refused("command", &marks(&[key("argv"), Step::Index(0)])).is_some());
        assert!(refused("command", &marks(&[key("argv"), Step::Index(1)])).is_none());
    }

    #[test]
    fn map_with_untrusted_names_is_refused_where_its_values_are_open() {
        for (module, parameter) in [("command", "env"), ("script", "env"), ("http", "headers")] {
            let shape = Marks::parts(Taint::new(Kind::Untrusted, "the event"), [(key("A"), Marks::Clean)]);
            let params = Marks::parts(Taint::NONE, [(key(parameter), shape)]);
            assert!(refused(module, &params).is_some(), "names of {module}.{parameter}");
            assert!(refused(module, &marks(&[key(parameter)])).is_some(), "{module}.{parameter} as a whole");
            assert!(refused(module, &marks(&[key(parameter), key("A")])).is_none(), "a value of {module}.{parameter}");
        }
    }

    #[test]
    fn list_with_an_untrusted_length_is_refused_where_it_is_not_open() {
        let list = Marks::parts(Taint::new(Kind::Untrusted, "the event"), []);
        let params = |name: &str| Marks::parts(Taint::NONE, [(key(name), list.clone())]);
        assert!(refused("package", &params("names")).is_some());
        assert!(refused("script", &params("args")).is_none());
    }
}
