//! Checks the limits of Namespaces. A Namespace limits the nodes that its objects select. A Namespace also limits the
//! modules, commands, sources and repositories that its tasks use.
//!
//! All code that reads targets or tasks calls the checks of this module, so that the limits apply to every kind of
//! object.

mod glob;
mod repository_url;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use towpath_proto::{Type, v1alpha as pb};

pub(super) use self::{glob::below_prefix, repository_url::RepositoryUrl};
use super::{
    Members, SourceTree,
    ledger::Found,
    targets::{Names, Targets},
    task::ModuleUse,
};
use crate::{document::Place, problem::Finding};

/// A field of an object that names nodes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    /// The field `targets`, which names the nodes that run tasks.
    Targets,
    /// A field that lists the nodes with access to a value. The string is the name of the field, such as `readers`.
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

/// The limits of all Namespaces.
pub(super) struct NamespaceLimits<'a> {
    namespaces: &'a BTreeMap<String, pb::Namespace>,
    /// The NodeGroups that each Namespace is allowed to target. The map omits a Namespace that is allowed to target
    /// every NodeGroup.
    groups: BTreeMap<&'a str, Arc<Names>>,
    members: &'a Members,
    sources: &'a [SourceTree],
}

impl<'a> NamespaceLimits<'a> {
    /// Creates the limits of all Namespaces from the Namespace objects, the NodeGroups of nodes, and the sources.
    pub(super) fn new(
        namespaces: &'a BTreeMap<String, pb::Namespace>,
        members: &'a Members,
        sources: &'a [SourceTree],
    ) -> Self {
        let limited = namespaces.iter().filter(|(_, namespace)| !namespace.node_groups.is_empty());
        let groups = limited
            .map(|(name, namespace)| (name.as_str(), Arc::new(Names::from(namespace.node_groups.clone()))))
            .collect();
        Self { namespaces, groups, members, sources }
    }

    /// Reads a field that names nodes. Returns an error for each node or NodeGroup that the Namespace is not allowed to
    /// target. A field selects only nodes that the Namespace may target. If the object omits the field, the object
    /// selects every node that the Namespace may target.
    pub(super) fn targets(
        &self,
        place: &Place,
        spec: &Value,
        field: Field,
        namespace: &str,
    ) -> (Targets, impl Iterator<Item = Found<'_>> + use<'_, 'a>) {
        let limit = self.groups.get(namespace);
        let targets = Targets::read(spec, field.name(), limit.cloned());
        let place = place.key(field.name());
        let found = limit.map(|limit| {
            let templates = template_in_place_of_names(&place, spec.get(field.name()), namespace);
            let refused = self.refused_names(&targets, limit);
            let (namespace, verb) = (namespace.to_owned(), field.verb());
            let refused = refused.into_iter().map(move |Refused { list, index, name }| {
                let place = place.key(list).index(index);
                if let Some(finding) = template(&name, &namespace) {
                    return Found::new(place, finding);
                }
                let (what, members) = if list == "nodes" { ("node", " members of") } else { ("NodeGroup", "") };
                let finding = Finding::new(format!("the namespace {namespace} must not {verb} the {what} {name}"));
                Found::new(place, finding)
                    .hint(move || format!("the namespace may {verb}{members}: {}", limit.written().join(", ")))
            });
            templates.into_iter().chain(refused)
        });
        (targets, found.into_iter().flatten())
    }

    /// Returns the forbidden names in a field: first the forbidden NodeGroups, then the forbidden nodes.
    fn refused_names(&self, targets: &Targets, limit: &Names) -> Vec<Refused> {
        let groups = targets.groups().iter().enumerate().filter(|(_, group)| !limit.contains(group));
        let nodes = targets.nodes().iter().enumerate();
        let nodes = nodes.filter(|(_, node)| !limit.meet(&self.members.groups_of(node)));
        let refused = |list| move |(index, name): (usize, &String)| Refused { list, index, name: name.clone() };
        groups.map(refused("nodeGroups")).chain(nodes.map(refused("nodes"))).collect()
    }

    /// Returns an error for each module, command line and `readers` node of a task that the Namespace forbids.
    pub(super) fn refused_uses<'m>(
        &'m self,
        place: &Place,
        module: &'m ModuleUse,
        namespace: &'m str,
    ) -> impl Iterator<Item = Found<'m>> + use<'m, 'a> {
        let place = place.key(module.name);
        let modules = self.refused_modules(&place, module, namespace);
        let fields = module.schema.message.fields.iter();
        let readers = fields
            .filter(|field| field.value_type() == Type::Message("Targets"))
            .flat_map(move |field| self.targets(&place, &module.params, Field::Readers(field.name), namespace).1);
        readers.chain(modules)
    }

    fn refused_modules(&self, place: &Place, module: &ModuleUse, namespace: &str) -> Vec<Found<'static>> {
        let Some(limits) = self.namespaces.get(namespace).and_then(|namespace| namespace.modules.as_ref()) else {
            return Vec::new();
        };
        let refused = |name: &str| {
            limits.deny.iter().any(|denied| denied == name)
                || !limits.allow.is_empty() && !limits.allow.iter().any(|allowed| allowed == name)
        };
        let hint = "modules.allow and modules.deny of the Namespace list the allowed modules";
        if refused(module.name) {
            let finding = Finding::new(format!("the namespace {namespace} must not use the module {}", module.name));
            return vec![Found::new(place.clone(), finding.hint(hint)).at_key()];
        }
        let command = towpath_proto::modules().find(|other| other.governs_commands);
        let Some(command) = command.filter(|command| !module.schema.governs_commands && refused(command.key)) else {
            return Vec::new();
        };
        let found = command_lines(module).map(|field| {
            let finding = Finding::new(format!(
                "the namespace {namespace} must not use the module {}, so {field} of {} must not run a command",
                command.key, module.name
            ));
            Found::new(place.key(field), finding.hint(hint)).at_key()
        });
        found.collect()
    }

    /// Returns true if tasks of a Namespace may read the files of a source. The tasks may read libraries and the
    /// sources that the Namespace names. If the Namespace names no source, its tasks may read libraries and the first
    /// source.
    pub(super) fn may_read(&self, namespace: &str, source: &str) -> bool {
        let Some(limits) = self.namespaces.get(namespace) else { return true };
        let first = || self.sources.first().is_some_and(|first| first.name == source);
        self.sources.iter().any(|library| library.name == source && library.library)
            || if limits.sources.is_empty() { first() } else { limits.sources.iter().any(|name| name == source) }
    }

    /// Returns true if tasks of a Namespace may use the files of a git repository that is not a source.
    pub(super) fn may_include(&self, namespace: &str, url: &RepositoryUrl) -> bool {
        let includes = self.namespaces.get(namespace).and_then(|namespace| namespace.includes.as_ref());
        let mut patterns = includes.into_iter().flat_map(|includes| &includes.allow);
        patterns.any(|pattern| RepositoryUrl::pattern(pattern).is_ok_and(|pattern| pattern.allows(url)))
    }
}

/// The name of a NodeGroup or node that an object selects, although the Namespace of the object forbids the name.
struct Refused {
    /// The key of the list: `nodeGroups` or `nodes`.
    list: &'static str,
    /// The position of the name in the list, counted from 0.
    index: usize,
    name: String,
}

/// Returns an error if a field such as `targets` is a template, or contains a template instead of a list.
fn template_in_place_of_names(place: &Place, field: Option<&Value>, namespace: &str) -> Vec<Found<'static>> {
    let lists = ["nodeGroups", "nodes"].map(|key| (place.key(key), field.and_then(|field| field.get(key))));
    let values = std::iter::once((place.clone(), field)).chain(lists);
    let found = values.filter_map(|(place, value)| {
        let finding = value.and_then(Value::as_str).and_then(|text| template(text, namespace))?;
        Some(Found::new(place, finding))
    });
    found.collect()
}

/// Returns the error for a template that is used instead of the name of a node or NodeGroup. The loader does not know
/// the value of a template, so the loader cannot compare the value with the limits of the Namespace.
fn template(name: &str, namespace: &str) -> Option<Finding> {
    (name.contains("{{") || name.contains("{%")).then(|| {
        Finding::new(format!("cannot use the template {name} here: the namespace {namespace} is limited to NodeGroups"))
            .hint("write the names of the NodeGroups or nodes")
    })
}

/// Returns the parameters of a task that contain a command line.
fn command_lines(module: &ModuleUse) -> impl Iterator<Item = &'static str> {
    let written = |name: &str| module.params.get(name).is_some_and(|value| !value.is_null());
    let fields = module.schema.message.fields.iter();
    fields.filter(move |field| field.runs_command && written(field.name)).map(|field| field.name)
}

#[cfg(test)]
mod tests {
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
}
