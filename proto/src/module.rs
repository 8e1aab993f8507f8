//! Methods that return properties of a module. The properties of a module are protobuf options of the module's message.
//!
//! The agent uses the properties to render tasks, plan changes and remove resources. The protobuf schema is the only
//! list of modules.

use serde_json::Value;

use crate::schema::{Field, Form, ModuleKind, ModuleSchema, Part};

impl ModuleSchema {
    /// Returns the identity of the resource that a task manages. Returns `None` if the module manages no resource, or
    /// if a parameter of the identity is missing.
    pub fn identity(&self, params: &Value) -> Option<String> {
        if self.identity.is_empty() { None } else { join(self.identity, params) }
    }

    /// Returns the names of the parameters from which the identity of the managed resource is computed.
    pub fn identity_fields(&self) -> Vec<&'static str> {
        fn of(parts: &'static [Part]) -> Vec<&'static str> {
            let fields = |part: &'static Part| match part {
                Part::Text(_) => Vec::new(),
                Part::Value { fields, .. } => fields.to_vec(),
                Part::Optional(parts) => of(parts),
            };
            parts.iter().flat_map(fields).collect()
        }
        of(self.identity)
    }

    /// Returns true if the module has the kind `state`, so that the agent keeps a resource in its desired state.
    pub fn is_state(&self) -> bool {
        self.kind == ModuleKind::State
    }

    /// Returns true if the module has the kind `probe`: a task with the module only reads the state of the machine.
    pub fn is_probe(&self) -> bool {
        self.kind == ModuleKind::Probe
    }

    /// Returns the parameters of the module that are expressions. The renderer evaluates the expressions, and renders
    /// all other parameters as templates.
    pub fn expressions(&self) -> impl Iterator<Item = &'static Field> {
        self.message.fields.iter().filter(|field| field.format == Some("expression"))
    }

    /// Returns true if the module reads the files of a git repository at a pinned commit.
    pub fn pins_repository(&self) -> bool {
        self.message.fields.iter().any(|field| field.format == Some("commit"))
    }
}

fn join(parts: &[Part], params: &Value) -> Option<String> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(written) => text.push_str(written),
            Part::Optional(parts) => text.push_str(&join(parts, params).unwrap_or_default()),
            Part::Value { fields, form, otherwise } => {
                let found = fields.iter().find_map(|field| value(params.get(field)?));
                text.push_str(&found.map(|value| form.of(&value)).or_else(|| otherwise.map(str::to_owned))?);
            }
        }
    }
    Some(text)
}

/// Returns the value of a parameter as text. The function joins the strings of a list with commas.
fn value(value: &Value) -> Option<String> {
    let list = |members: &Vec<Value>| members.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    value.as_str().map(str::to_owned).or_else(|| value.as_array().map(list))
}

impl Form {
    fn of(self, value: &str) -> String {
        match self {
            Self::Plain => value.to_owned(),
            Self::Path if value.len() > 1 => value.trim_end_matches('/').to_owned(),
            Self::Path => value.to_owned(),
            Self::Unit => unit_name(value),
            Self::DropIn => value.trim_end_matches(".conf").to_owned(),
            Self::SshKey => value.split_whitespace().take(2).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The suffixes of systemd unit names, such as `service` and `timer`.
const UNITS: [&str; 11] =
    ["service", "socket", "timer", "mount", "automount", "swap", "path", "target", "slice", "scope", "device"];

/// Returns the full name of a systemd unit. If the name has no suffix, the function adds `.service`.
pub fn unit_name(name: &str) -> String {
    let whole = name.rsplit_once('.').is_some_and(|(_, kind)| UNITS.contains(&kind));
    if whole { name.to_owned() } else { format!("{name}.service") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        module, modules,
        schema::{Message, Shape, Type, Untrusted},
    };

    fn identity(key: &str, params: Value) -> Option<String> {
        module(key).unwrap().identity(&params)
    }

    #[test]
    fn identity_follows_the_template_of_its_module() {
        for (key, params, expected) in [
            ("file", json!({"path": "/etc/app/"}), "/etc/app"),
            ("file", json!({"path": "/"}), "/"),
            ("mount", json!({"path": "/srv/data/"}), "/srv/data"),
            ("line", json!({"path": "/a", "match": "^x", "line": "x=1"}), "/a: ^x"),
            ("line", json!({"path": "/a", "line": "x=1"}), "/a: x=1"),
            ("block", json!({"path": "/a"}), "/a: block"),
            ("block", json!({"path": "/a", "match": "fleet"}), "/a: fleet"),
            ("package", json!({"name": "nginx"}), "nginx"),
            ("package", json!({"names": ["b", "a"]}), "b,a"),
            ("service", json!({"name": "nginx"}), "nginx.service"),
            ("service", json!({"name": "a.timer"}), "a.timer"),
            ("unit", json!({"name": "a"}), "a.service"),
            ("unit", json!({"name": "a.timer", "dropIn": "more.conf"}), "a.timer more"),
            ("authorizedKey", json!({"user": "ann", "key": "ssh-ed25519  AAAA ann@home"}), "ann: ssh-ed25519 AAAA"),
            ("ini", json!({"path": "/a", "key": "k"}), "/a:  k"),
            ("ini", json!({"path": "/a", "section": "s", "key": "k"}), "/a: s k"),
            ("json", json!({"path": "/a", "key": "k.0"}), "/a: k.0"),
            ("custom", json!({"source": "p.py", "name": "n"}), "p.py: n"),
            ("hostname", json!({"name": "web1"}), "hostname"),
            ("timezone", json!({}), "timezone"),
        ] {
            assert_eq!(identity(key, params.clone()).as_deref(), Some(expected), "{key} {params}");
        }
        let fields = |key: &str| module(key).unwrap().identity_fields();
        assert_eq!((fields("file"), fields("hostname")), (vec!["path"], Vec::new()));
        assert_eq!(fields("package"), ["name", "names"]);
        assert_eq!(identity("file", json!({})), None);
        assert_eq!(identity("line", json!({"path": "/a"})), None);
        assert_eq!(identity("json", json!({"path": "/a"})), None);
        assert_eq!(identity("command", json!({"argv": ["id"]})), None);
    }

    #[test]
    fn every_state_has_an_identity_and_no_other_module_has_one() {
        for module in modules() {
            assert_eq!(module.identity.is_empty(), module.kind != ModuleKind::State, "{}", module.key);
        }
    }

    /// Returns the names of a module's parameters that do not have the option `untrusted`.
    fn undecided(message: &Message) -> Vec<String> {
        let fields = message.fields.iter().filter(|field| field.untrusted.is_none());
        fields.map(|field| format!("{}.{}", message.name, field.name)).collect()
    }

    #[test]
    fn parameter_without_a_trust_option_is_found() {
        let undecided_ones: Vec<String> = modules().flat_map(|module| undecided(module.message)).collect();
        assert!(undecided_ones.is_empty(), "set the option (untrusted) of {undecided_ones:?}");
        // The seeded parameter lacks the option `untrusted`, so the check must find the parameter.
        static PATH: [Field; 1] = [Field {
            name: "path",
            doc: "",
            shape: Shape::One(Type::String),
            words: None,
            format: Some("line"),
            required: true,
            refers: None,
            otherwise: None,
            runs_command: false,
            waits_for_nodes: false,
            untrusted: None,
        }];
        let seeded = Message { name: "Seeded", doc: "", scope: None, module: None, example: None, fields: &PATH };
        assert_eq!(undecided(&seeded), ["Seeded.path"]);
    }

    #[test]
    fn parameter_that_names_a_path_refuses_untrusted_values() {
        let mut paths = 0;
        for module in modules() {
            for field in module.message.fields {
                let path = field.format == Some("path")
                    || ["path", "home", "cwd", "creates", "removes", "linkTo", "caFile", "file"].contains(&field.name);
                if path {
                    paths += 1;
                    assert_eq!(field.untrusted, Some(Untrusted::Refused), "{}.{}", module.key, field.name);
                }
            }
        }
        assert!(paths > 30, "only {paths}: was the schema walked?");
    }

    #[test]
    fn list_option_fits_the_shape_of_its_field() {
        for module in modules() {
            for field in module.message.fields {
                let fits = match field.untrusted {
                    Some(Untrusted::Values) => matches!(field.shape, Shape::Map(_)),
                    Some(Untrusted::Arguments) => matches!(field.shape, Shape::List(_)),
                    Some(Untrusted::Allowed) => !field.runs_command,
                    _ => true,
                };
                assert!(fits, "{}.{}", module.key, field.name);
            }
        }
    }

    #[test]
    fn service_is_removed_before_its_unit_its_files_and_its_package() {
        let order = |key: &str| module(key).unwrap().removal;
        let chain = ["service", "unit", "file", "mount", "package", "packageRepository", "user", "group"];
        assert!(chain.windows(2).all(|pair| order(pair[0]) < order(pair[1])));
        assert_eq!(order("mount"), order("sysctl"));
    }

    #[test]
    fn one_module_governs_the_command_lines_of_all() {
        let governing: Vec<&str> =
            modules().filter(|module| module.governs_commands).map(|module| module.key).collect();
        assert_eq!(governing, ["command"]);
    }

    #[test]
    fn probe_that_only_shows_a_message_is_not_repeatable() {
        for module in modules() {
            let runs = module.kind == ModuleKind::Probe || module.computes;
            assert_eq!(module.repeatable, runs && !module.shows_message, "{}", module.key);
        }
    }

    #[test]
    fn content_of_a_file_does_not_interrupt_service() {
        let quiet: Vec<&str> = modules().filter(|module| !module.interrupts).map(|module| module.key).collect();
        let content = ["file", "line", "block", "sudoers", "authorizedKey", "timezone", "archive", "download", "git"];
        let others = ["ini", "json", "yaml", "toml", "wait", "assert", "debug", "publish"];
        assert!(quiet.iter().all(|key| content.contains(key) || others.contains(key)), "{quiet:?}");
        assert_eq!(quiet.len(), content.len() + others.len(), "{quiet:?}");
    }
}
