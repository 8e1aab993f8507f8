//! Limits of a Namespace: on the nodes that its objects select, and on the modules, commands and sources of its tasks.
//!
//! All code that reads targets or tasks uses the checks of this module, so that the limits apply to every kind of
//! object.

use std::{collections::BTreeSet, iter, sync::Arc};

use serde_json::Value;
use towpath_proto::Type;

use super::{
    Selected,
    load::Loader,
    task::{self, ModuleUse},
};
use crate::{
    document::{At, Place},
    problem::Finding,
    work,
};

/// The nodes that an object selects, limited to the NodeGroups that its Namespace may target.
#[derive(Debug, Clone)]
pub struct Targets {
    /// The written NodeGroups and nodes. `None` selects every node that the Namespace may target.
    written: Option<Arc<Written>>,
    within: Within,
}

/// The NodeGroups and nodes of a `targets` or `readers` field, as written.
#[derive(Debug)]
struct Written {
    groups: Names,
    nodes: Names,
}

/// A list of names in the written order, and as a set.
#[derive(Debug)]
pub(super) struct Names {
    written: Vec<String>,
    set: BTreeSet<String>,
}

impl From<Vec<String>> for Names {
    fn from(written: Vec<String>) -> Self {
        let set = written.iter().cloned().collect();
        Self { written, set }
    }
}

/// The NodeGroups that a Namespace may target, or all of them.
#[derive(Debug, Clone)]
enum Within {
    All,
    Groups(Arc<Names>),
}

/// A field of an object that names nodes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    /// The field `targets`, with the nodes that run tasks.
    Targets,
    /// A field with the nodes that may read a value. The text is the name of the field.
    Readers(&'static str),
}

impl Field {
    fn name(self) -> &'static str {
        match self {
            Self::Targets => "targets",
            Self::Readers(name) => name,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Targets => "target",
            Self::Readers(_) => "share values with",
        }
    }
}

impl Within {
    fn of(loader: &Loader<'_>, namespace: &str) -> Self {
        loader.limits.get(namespace).map_or(Self::All, |groups| Self::Groups(Arc::clone(groups)))
    }
}

impl Targets {
    /// Reads a field that names nodes. Nodes and NodeGroups that the Namespace may not target are reported, and not
    /// selected.
    /// Without the field, every node that the Namespace may target is selected.
    pub(super) fn read(loader: &mut Loader<'_>, place: &Place, spec: &Value, field: Field, namespace: &str) -> Self {
        let within = Within::of(loader, namespace);
        let written = spec.get(field.name()).filter(|written| !written.is_null()).map(|written| {
            let names = |key: &str| {
                let names = task::members(written, key).iter().filter_map(Value::as_str).map(str::to_owned);
                Names::from(names.collect::<Vec<_>>())
            };
            Arc::new(Written { groups: names("nodeGroups"), nodes: names("nodes") })
        });
        if let Within::Groups(_) = within
            && let Some(value) = spec.get(field.name())
        {
            let place = place.key(field.name());
            let lists = ["nodeGroups", "nodes"].map(|key| (place.key(key), value.get(key)));
            for (place, value) in iter::once((place.clone(), Some(value))).chain(lists) {
                if let Some(finding) = value.and_then(Value::as_str).and_then(|text| template(text, namespace)) {
                    loader.problem(&place, At::Value, finding);
                }
            }
        }
        let targets = Self { written, within };
        targets.check(loader, &place.key(field.name()), field, namespace);
        targets
    }

    fn check(&self, loader: &mut Loader<'_>, place: &Place, field: Field, namespace: &str) {
        let Within::Groups(allowed) = &self.within else { return };
        let (shown, verb) = (|| allowed.written.join(", "), field.verb());
        for (index, group) in self.groups().iter().enumerate().filter(|(_, group)| !allowed.set.contains(*group)) {
            let place = place.key("nodeGroups").index(index);
            let finding = match template(group, namespace) {
                Some(finding) => finding,
                None => Finding::new(format!("the namespace {namespace} may not {verb} the NodeGroup {group}"))
                    .hint(format!("the namespace may {verb}: {}", shown())),
            };
            loader.problem(&place, At::Value, finding);
        }
        for (index, node) in self.nodes().iter().enumerate() {
            if self.within.permits(&loader.set.groups_of(node)) {
                continue;
            }
            let place = place.key("nodes").index(index);
            let finding = match template(node, namespace) {
                Some(finding) => finding,
                None => Finding::new(format!("the namespace {namespace} may not {verb} the node {node}"))
                    .hint(format!("the namespace may {verb} members of: {}", shown())),
            };
            loader.problem(&place, At::Value, finding);
        }
    }

    /// Returns the way in which the targets select a node. The empty name means any node that the Namespace may
    /// target.
    /// `None` if the node is not selected, or if the Namespace may not target it.
    pub fn select(&self, node: &str, groups: &BTreeSet<String>) -> Option<Selected> {
        work::count(1);
        if !node.is_empty() && !self.within.permits(groups) {
            return None;
        }
        let Some(written) = &self.written else { return Some(Selected::Group) };
        if written.nodes.set.contains(node) {
            return Some(Selected::Node);
        }
        meet(&written.groups.set, groups).then_some(Selected::Group)
    }

    /// Returns true if the object names its targets, false if it omits them.
    pub fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Returns the names of the NodeGroups, as written.
    pub fn groups(&self) -> &[String] {
        self.written.as_ref().map(|written| written.groups.written.as_slice()).unwrap_or_default()
    }

    /// Returns the names of the nodes, as written.
    pub fn nodes(&self) -> &[String] {
        self.written.as_ref().map(|written| written.nodes.written.as_slice()).unwrap_or_default()
    }
}

/// Returns the error that a name is a template. Only the node knows its value, so the name cannot be compared with
/// limits.
fn template(name: &str, namespace: &str) -> Option<Finding> {
    (name.contains("{{") || name.contains("{%")).then(|| {
        Finding::new(format!("cannot use the template {name} here: the namespace {namespace} is limited to NodeGroups"))
            .hint("write the names of the NodeGroups or nodes")
    })
}

/// Returns whether two sets have a common member.
fn meet(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    work::count(one.len().min(other.len()).max(1));
    !one.is_disjoint(other)
}

impl Within {
    fn permits(&self, groups: &BTreeSet<String>) -> bool {
        match self {
            Self::All => true,
            Self::Groups(allowed) => meet(&allowed.set, groups),
        }
    }
}

/// Reports a task whose module, command line or reader nodes its Namespace does not allow.
pub(super) fn check_module(loader: &mut Loader<'_>, place: &Place, module: &ModuleUse, namespace: &str) {
    for field in module.schema.message.fields.iter().filter(|field| field.value_type() == Type::Message("Targets")) {
        Targets::read(loader, &place.key(module.name), &module.params, Field::Readers(field.name), namespace);
    }
    let Some(limits) = loader.namespace(namespace).and_then(|namespace| namespace.modules.clone()) else { return };
    let refused = |name: &str| {
        limits.deny.iter().any(|denied| denied == name)
            || !limits.allow.is_empty() && !limits.allow.iter().any(|allowed| allowed == name)
    };
    let hint = "modules.allow and modules.deny of the Namespace list the allowed modules";
    let place = place.key(module.name);
    if refused(module.name) {
        let finding = Finding::new(format!("the namespace {namespace} may not use the module {}", module.name));
        loader.problem(&place, At::Key, finding.hint(hint));
    } else if let Some(command) = towpath_proto::modules().find(|other| other.governs_commands)
        && !module.schema.governs_commands
        && refused(command.key)
    {
        for field in command_lines(module) {
            let finding = Finding::new(format!(
                "the namespace {namespace} may not use the module {}, but {field} of {} runs a command",
                command.key, module.name
            ));
            loader.problem(&place.key(field), At::Key, finding.hint(hint));
        }
    }
}

/// Returns the names of a module's parameters that are set and contain a command line.
fn command_lines(module: &ModuleUse) -> Vec<&'static str> {
    let written = |name: &str| module.params.get(name).is_some_and(|value| !value.is_null());
    module
        .schema
        .message
        .fields
        .iter()
        .filter(|field| field.runs_command && written(field.name))
        .map(|f| f.name)
        .collect()
}

/// Returns the modules of a map whose keys are names of modules, such as the `check` of a Beacon.
pub(super) fn modules_in(value: &Value) -> Vec<ModuleUse> {
    towpath_proto::modules()
        .filter_map(|schema| {
            let params = value.get(schema.key).filter(|params| !params.is_null())?;
            Some(ModuleUse { name: schema.key, schema, params: params.clone() })
        })
        .collect()
}

/// Returns whether tasks of a Namespace may read the files of a source. The tasks may read libraries and the sources
/// that the Namespace names. If the Namespace names no source, its tasks may read the first source.
pub(super) fn may_read(loader: &Loader<'_>, namespace: &str, source: &str) -> bool {
    let Some(limits) = loader.namespace(namespace) else { return true };
    let first = || loader.source_names().first().is_some_and(|first| first == source);
    loader.is_library(source)
        || if limits.sources.is_empty() { first() } else { limits.sources.iter().any(|name| name == source) }
}

/// Returns whether a path is equal to a prefix or below it. Whole components are compared.
/// In a component of the prefix, `*` matches any characters of that component.
pub(super) fn below_prefix(prefix: &str, path: &str) -> bool {
    let plain = |component: &str| !matches!(component, "" | "." | "..");
    let components = |text: &str| -> Vec<String> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() { Vec::new() } else { text.split('/').map(str::to_owned).collect() }
    };
    let (prefix_parts, parts) = (components(prefix), components(path));
    prefix.starts_with('/') == path.starts_with('/')
        && parts.iter().all(|part| plain(part) && !part.contains('%') && !part.contains('\\'))
        && prefix_parts.iter().all(|part| plain(part))
        && prefix_parts.len() <= parts.len()
        && prefix_parts.iter().zip(&parts).all(|(glob, part)| super::book::glob_matches(glob, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_line_of_a_module_is_marked_in_the_schema() {
        let named = ["argv", "shell", "validate", "unless", "onlyIf"];
        // The login shell of a user is a setting, not a command that the module runs.
        let exceptions = ["user.shell"];
        for module in towpath_proto::modules() {
            for parameter in module.message.fields {
                let name = format!("{}.{}", module.key, parameter.name);
                let expected = named.contains(&parameter.name) && !exceptions.contains(&name.as_str());
                assert_eq!(parameter.runs_command, expected, "{name}");
            }
        }
    }

    #[test]
    fn target_outside_of_the_node_groups_of_its_namespace_is_not_selected() {
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let within = Within::Groups(Arc::new(Names::from(vec!["web".to_owned()])));
        let groups_written = Names::from(vec!["web".into(), "dbs".into()]);
        let written = Written { groups: groups_written, nodes: Names::from(vec!["n1".to_owned()]) };
        let targets = Targets { written: Some(Arc::new(written)), within };
        for (node, of, selected) in [
            ("n1", &["dbs"][..], None),
            ("n2", &["dbs"], None),
            ("n1", &[], None),
            ("n1", &["web"], Some(Selected::Node)),
            ("n2", &["dbs", "web"], Some(Selected::Group)),
        ] {
            assert_eq!(targets.select(node, &groups(of)), selected, "{node} of {of:?}");
        }
    }

    #[test]
    fn prefix_compares_whole_components() {
        for (prefix, path, allowed) in [
            ("secret/data/app", "secret/data/app", true),
            ("secret/data/app", "secret/data/app/db", true),
            ("secret/data/app/", "secret/data/app/db", true),
            ("secret/data/app", "secret/data/apple", false),
            ("secret/data/app", "secret/data", false),
            ("secret/data/app", "secret/data/app/../other", false),
            ("secret/data/app", "secret/data/app/%2e%2e/other", false),
            ("secret/data/app", "secret/data/app//db", false),
            ("secret/data/*/db", "secret/data/app/db/x", true),
            ("secret/data/*", "secret/data", false),
            ("secret/data/a*", "secret/data/app/db", true),
            ("secret/data/a*b", "secret/data/a/b", false),
            ("/etc/app", "/etc/app/key", true),
            ("/etc/app", "etc/app/key", false),
            ("/etc/app", "/etc/app-two/key", false),
            ("/", "/etc/app", true),
            ("", "secret/x", true),
            ("/etc/../root", "/etc/../root/x", false),
        ] {
            assert_eq!(below_prefix(prefix, path), allowed, "{path} below {prefix}");
        }
    }
}
