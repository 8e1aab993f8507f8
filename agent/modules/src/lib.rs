//! The modules of tasks. A module checks a resource of the machine, and brings the resource to its desired state.
//!
//! First, a module resolves the parameters of a task to a [`Resource`], without I/O. The check of the resource reads
//! the machine, and returns the needed changes as steps. Only [`apply`] executes steps. The crate `modules` knows
//! nothing about TaskBooks, journals or other nodes.
//!
//! The file `lib.rs` is the registry of modules. A new module needs a file in this crate, a `mod` line for the file,
//! and a line in [`MODULES`]. Other crates read the properties of a module from the options of the module's protobuf
//! message in `proto/`.

mod activity;
pub mod apply;
mod context;
mod expectation;
mod params;
mod resource;
mod step;

mod files {
    pub(crate) mod archive;
    pub(crate) mod download;
    pub(crate) mod drop_in;
    pub(crate) mod file;
    pub(crate) mod git;
}

mod edits {
    pub(crate) mod block;
    pub(crate) mod ini;
    pub(crate) mod json;
    pub(crate) mod line;
    pub(crate) mod lines;
    pub(crate) mod toml;
    pub(crate) mod value;
    pub(crate) mod yaml;
}

mod packages {
    pub(crate) mod package;
    pub(crate) mod repository;
}

mod services {
    pub(crate) mod hostname;
    pub(crate) mod mount;
    pub(crate) mod service;
    pub(crate) mod sysctl;
    pub(crate) mod timezone;
    pub(crate) mod unit;
}

mod accounts {
    pub(crate) mod authorized_key;
    pub(crate) mod group;
    pub(crate) mod sudoers;
    mod tools;
    pub(crate) mod user;
}

mod commands {
    pub(crate) mod command;
    pub(crate) mod custom;
    mod invoked;
    pub(crate) mod publish;
    pub(crate) mod reboot;
    pub(crate) mod script;
}

mod probes {
    pub(crate) mod assert;
    pub(crate) mod debug;
    pub(crate) mod http;
    pub(crate) mod wait;
}

use serde_json::Value;
use towpath_host::FsWriter;
use towpath_proto::{ModuleKind, ModuleMessage as _, v1alpha as pb};

pub use activity::{Activity, ActivityGuard};
pub use context::{Context, Disk, ModuleCache, ModuleError, Origins};
pub use expectation::{Expectation, Inspector};
pub use params::Problem;
pub use resource::{BatchKey, Change, Checked, Module, Report, Resolved, Resource, Verb};
pub use step::{Content, Step};

/// The registry of all modules.
pub static MODULES: &[&dyn Module] = &[
    &files::file::File,
    &files::git::Git,
    &files::archive::Archive,
    &files::download::Download,
    &edits::line::Line,
    &edits::block::Block,
    &edits::ini::Ini,
    &edits::json::Json,
    &edits::yaml::Yaml,
    &edits::toml::Toml,
    &packages::package::Package,
    &packages::repository::PackageRepository,
    &services::service::Service,
    &services::unit::Unit,
    &services::mount::Mount,
    &services::sysctl::Sysctl,
    &services::hostname::Hostname,
    &services::timezone::Timezone,
    &accounts::user::User,
    &accounts::group::Group,
    &accounts::sudoers::Sudoers,
    &accounts::authorized_key::AuthorizedKey,
    &commands::command::Command,
    &commands::script::Script,
    &commands::custom::Custom,
    &commands::reboot::Reboot,
    &commands::publish::Publish,
    &probes::http::Http,
    &probes::wait::Wait,
    &probes::assert::Assert,
    &probes::debug::Debug,
];

/// Resolves the parameters of a module without I/O. The caller must first validate the parameters with the protobuf
/// schema. The command `towpath validate` calls this function only for parameters without templates.
///
/// # Errors
/// Returns an error if a parameter is not valid. The error contains all problems of the parameters.
pub fn resolve(module: &str, params: &Value) -> Resolved {
    match MODULES.iter().find(|known| known.schema().key == module) {
        Some(module) => module.resolve(params),
        None => Err(vec![Problem::new("", format!("there is no module {module}"))]),
    }
}

/// Returns the identities of the resources that a task manages. A probe, an action and a task with invalid parameters
/// have no identities.
pub fn kept_identities(module: &'static str, params: &Value) -> Vec<String> {
    let Ok(resource) = resolve(module, params) else { return Vec::new() };
    if resource.kind() != ModuleKind::State {
        return Vec::new();
    }
    let single = || resource.schema().identity(params).into_iter().collect();
    if resource.parts().is_empty() { single() } else { resource.parts().to_vec() }
}

/// Applies several resources in one transaction. [`Resource::batch`] must return the same key for all resources, and
/// the caller must hold a permit for changes.
///
/// # Errors
/// Returns an error if a resource cannot be applied. After an error, some of the resources may have been applied.
pub fn apply_batch(resources: &[&dyn Resource], context: &Context<'_>, writer: &FsWriter) -> Result<(), ModuleError> {
    match resources.first() {
        Some(first) => first.module().apply_batch(resources, context, writer),
        None => Ok(()),
    }
}

/// Returns the key of the module `file`, which is the word `file` in a task. In the journal, every managed path has the
/// module key `file`, even a path of the module `git`.
pub fn path_module() -> &'static str {
    pb::File::module().key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the differences between a registry and the modules of the schema.
    fn differences(registry: &[&dyn Module], schema: &[&str]) -> Vec<String> {
        let registered: Vec<&str> = registry.iter().map(|module| module.schema().key).collect();
        let count = |list: &[&str], key: &str| list.iter().filter(|listed| **listed == key).count();
        let missing = schema.iter().filter(|key| count(&registered, key) == 0);
        let missing = missing.map(|key| format!("{key} has no line in MODULES"));
        let wrong = registered.iter().filter(|key| count(schema, key) != 1 || count(&registered, key) != 1);
        missing.chain(wrong.map(|key| format!("{key} is not one module of the schema"))).collect()
    }

    #[test]
    fn registry_and_schema_list_the_same_modules() {
        let schema: Vec<&str> = towpath_proto::modules().map(|module| module.key).collect();
        assert_eq!(differences(MODULES, &schema), Vec::<String>::new());
        assert_eq!(schema.len(), MODULES.len());
        // The test checks a missing line, an extra line, and a message without a module.
        assert_eq!(differences(&MODULES[1..], &schema), ["file has no line in MODULES"]);
        let twice: Vec<&dyn Module> = MODULES.iter().copied().chain([MODULES[0]]).collect();
        assert!(!differences(&twice, &schema).is_empty());
        assert!(!differences(MODULES, &schema[1..]).is_empty());
    }

    #[test]
    fn resolved_use_belongs_to_the_module_of_its_key() {
        for module in towpath_proto::modules() {
            let example = module.message.example.unwrap_or_default();
            assert!(example.starts_with(&format!("{}: ", module.key)), "{example}");
        }
        for (key, params) in [
            ("file", serde_json::json!({"path": "/a", "content": "x"})),
            ("git", serde_json::json!({"path": "/a"})),
            ("ini", serde_json::json!({"path": "/a", "key": "k", "value": "v"})),
            ("toml", serde_json::json!({"path": "/a", "key": "k", "value": 1})),
            ("script", serde_json::json!({"source": "a.sh"})),
            ("command", serde_json::json!({"argv": ["id"]})),
            ("sudoers", serde_json::json!({"name": "web", "content": ""})),
            ("publish", serde_json::json!({"name": "a", "value": "b"})),
        ] {
            assert_eq!(resolve(key, &params).unwrap().name(), key);
        }
        assert!(resolve("nothing", &Value::Null).is_err());
    }

    #[test]
    fn kind_of_a_use_follows_its_parameters() {
        use serde_json::json;
        use towpath_proto::ModuleKind;
        for (key, params, kind, once) in [
            ("file", json!({"path": "/a"}), ModuleKind::State, false),
            ("service", json!({"name": "a", "state": "started"}), ModuleKind::State, false),
            ("service", json!({"name": "a", "state": "restarted"}), ModuleKind::Action, true),
            ("http", json!({"url": "http://a"}), ModuleKind::Probe, false),
            ("http", json!({"url": "http://a", "method": "POST"}), ModuleKind::Action, true),
            ("command", json!({"argv": ["id"]}), ModuleKind::Action, true),
            ("command", json!({"argv": ["id"], "creates": "/a"}), ModuleKind::State, false),
            ("command", json!({"argv": ["id"], "run": "always"}), ModuleKind::Always, false),
            ("reboot", json!({"when": "required"}), ModuleKind::Action, false),
            ("reboot", json!({"when": "always"}), ModuleKind::Action, true),
        ] {
            let resource = resolve(key, &params).unwrap();
            assert_eq!((resource.kind(), resource.runs_once()), (kind, once), "{key} {params}");
        }
    }
}
