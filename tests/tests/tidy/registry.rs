//! A module is listed in the registry, and each of its parameters states whether it may hold untrusted values.

use crate::tree::{Finding, Source};

/// The folder of the modules.
const FOLDER: &str = "agent/modules/src/";
/// The option of a parameter that states its trust.
const TRUST: &str = "(untrusted)";

/// Returns modules without a line in the registry, and parameters without a statement on trust.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut found = unlisted(sources);
    for source in sources.iter().filter(|source| source.path.ends_with(".proto") && source.text.contains(TRUST)) {
        found.extend(without_trust(source));
    }
    found
}

/// Returns the types with `impl Module` that the list `MODULES` does not hold.
fn unlisted(sources: &[Source]) -> Vec<Finding> {
    let modules: Vec<&Source> = sources.iter().filter(|source| source.path.starts_with(FOLDER)).collect();
    let list: String = modules
        .iter()
        .filter_map(|source| source.text.split_once("MODULES: &[&dyn Module]")?.1.split_once("];"))
        .map(|(list, _)| list)
        .collect();
    let listed = |name: &str| list.split(|sign: char| !sign.is_alphanumeric() && sign != '_').any(|word| word == name);
    let mut found = Vec::new();
    for source in modules {
        for (_, line) in source.code() {
            let Some((_, kind)) = line.split_once("impl Module for ") else { continue };
            let name = kind.split(|sign: char| !sign.is_alphanumeric() && sign != '_').next().unwrap_or_default();
            // A module in a macro or of a function is listed by its file.
            let file = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
            if !listed(name) && !listed(file) {
                found.push(Finding::new("registry", &source.path, 1, format!("MODULES does not list {name}")));
            }
        }
    }
    found
}

/// Returns the parameters of modules that do not state their trust.
fn without_trust(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for message in source.text.split("\nmessage ").skip(1) {
        let body = message.split_once("\n}").map_or(message, |(body, _)| body);
        let name = body.split_whitespace().next().unwrap_or_default();
        if !body.contains("option (module)") {
            continue;
        }
        let text: Vec<&str> = body.lines().skip(1).map(str::trim).filter(|line| !line.starts_with("//")).collect();
        for statement in text.join(" ").split(';').map(str::trim) {
            let is_field =
                statement.contains(" = ") && !statement.starts_with("option ") && !statement.starts_with("reserved");
            if is_field && !statement.contains(TRUST) {
                let field = statement.split(" = ").next().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
                let detail = "the parameter does not state whether it may hold untrusted values";
                found.push(Finding::new("registry", format!("{name}.{field} {}", source.path), 1, detail));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::check_seeded as seeded;

    #[test]
    fn module_without_a_registry_line_is_red() {
        let module = ("agent/modules/src/files/line.rs", "pub struct Line;\nimpl Module for Line {}\n");
        for (list, red) in [("&File, &Line", 0), ("&files::line::Line,", 0), ("&File, &Lines", 1), ("", 1)] {
            let text = format!("pub static MODULES: &[&dyn Module] = &[{list}];\n");
            assert_eq!(seeded("registry", &[module, ("agent/modules/src/lib.rs", &text)]), red, "{list}");
        }
        assert_eq!(seeded("registry", &[module]), 1);
    }

    #[test]
    fn parameter_without_a_statement_on_trust_is_red() {
        let proto = |field: &str| {
            format!(
                "message Line {{\n  option (module) = {{kind: \"state\"}};\n  // The path.\n  optional string path = 1{field};\n}}\n\
                message Until {{\n  optional string x = 1;\n}}\nmessage More {{\n  optional string y = 1 [(untrusted) = \"allowed\"];\n}}\n"
            )
        };
        for (field, red) in [
            (" [(untrusted) = \"refused\"]", 0),
            (" [(format) = \"path\",\n    (untrusted) = \"refused\"]", 0),
            ("", 1),
        ] {
            let text = format!("syntax = \"proto3\";\n{}", proto(field));
            assert_eq!(seeded("registry", &[("proto/towpath/modules.proto", &text)]), red, "{field}");
        }
    }
}
