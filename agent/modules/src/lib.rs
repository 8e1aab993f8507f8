//! Checks and applies one resource at a time.
//!
//! The parameters of a task are resolved to options without I/O. A check reads the machine and returns the missing
//! steps as data. Only [`apply`] executes these steps. The crate does not know books, journals or other nodes.

mod account;
pub mod apply;
mod archive;
mod authorized_key;
mod block;
mod checkout;
mod command;
mod config;
mod custom;
mod download;
mod edit;
mod expectation;
mod file;
mod http;
mod line;
mod mount;
mod naming;
mod package;
mod probe;
mod progress;
mod reboot;
mod resolve;
mod service;
mod sysctl;
mod text;
mod unit;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use thiserror::Error;
use towpath_host::{Look, files::Access, process::Cancel};
use towpath_render::tree::Tree;

pub use expectation::{Expectation, Inspector};
pub use package::Database;
pub use progress::{Progress, Work};
pub use resolve::{Options, Problem, resolve};

/// The kind of a module use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A desired state. It is checked, and drift is corrected.
    State,
    /// A question to the machine, which changes nothing.
    Probe,
    /// An action. It runs once for each definition, except a reboot on demand (see [`Options::once`]).
    Action,
    /// An action that runs in every pass.
    Always,
}

/// The inputs of a module.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Read access to the node's files.
    pub look: &'a Look,
    /// The files of the task's source, and the task's folder in it.
    pub source: Option<(Arc<dyn Tree>, String)>,
    /// The node's name.
    pub node: &'a str,
    /// The name of the task in its book.
    pub task: &'a str,
    /// The time limit of the task.
    pub timeout: Duration,
    /// The signal that asks the task to stop.
    pub cancel: &'a Cancel,
    /// The caches that modules share from one task to the next.
    pub memory: &'a Memory,
}

/// The caches that modules share between tasks, so that the tasks of a book read the same data once.
#[derive(Debug, Default)]
pub struct Memory {
    packages: Database,
    descriptions: custom::Descriptions,
    /// The changes in progress.
    pub progress: Progress,
    origins: Option<Arc<dyn Origins>>,
}

/// A source of the paths that Towpath has changed.
pub trait Origins: std::fmt::Debug + Send + Sync {
    /// Returns true if Towpath has created or changed the file at a path. The path contains no links.
    fn has_made(&self, path: &str) -> bool;
}

impl Memory {
    /// Creates empty caches that know which paths Towpath has changed.
    pub fn knowing(origins: Arc<dyn Origins>) -> Self {
        Self { origins: Some(origins), ..Self::default() }
    }

    fn has_made(&self, path: &str) -> bool {
        self.origins.as_ref().is_some_and(|origins| origins.has_made(path))
    }
}

impl Context<'_> {
    /// Records the progress of the task, for status.
    fn say(&self, far: &str) {
        self.memory.progress.say(self.task, far);
    }

    /// Rejects a root other than `/`, because the module changes the machine as a whole.
    fn needs_whole_root(&self, module: &str) -> Result<(), ModuleError> {
        if self.look.root() == std::path::Path::new("/") {
            return Ok(());
        }
        Err(ModuleError::new(format!(
            "{module} changes the machine itself, and root is {}; it needs root: /",
            self.look.root().display()
        )))
    }
}

/// The failure of a module.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ModuleError {
    /// The cause and its remedy.
    pub message: String,
    /// The problem of the disk, if the disk caused the failure.
    pub disk: Option<Disk>,
    /// True if the resource changed after it was read. The caller checks it again at once.
    pub moved: bool,
}

/// The reason why the disk rejected a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// The disk or the quota is full.
    Full,
    /// The file system or the directory is not writable.
    ReadOnly,
}

impl ModuleError {
    /// Creates a failure with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), disk: None, moved: false }
    }

    /// Creates a failure of the file system at a path.
    pub fn io(path: &str, error: &std::io::Error) -> Self {
        let (message, disk) = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                (format!("{path}: the disk is full; make room, and the agent goes on by itself"), Some(Disk::Full))
            }
            std::io::ErrorKind::ReadOnlyFilesystem => (
                format!("{path}: the file system is mounted read-only; remount it, and the agent goes on by itself"),
                Some(Disk::ReadOnly),
            ),
            std::io::ErrorKind::PermissionDenied => (
                format!("{path}: {error}; the directory may be read-only or immutable (see lsattr)"),
                Some(Disk::ReadOnly),
            ),
            _ => (format!("{path}: {error}"), None),
        };
        Self { message, disk, moved: false }
    }
}

/// The result of a check.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The machine has the desired state.
    InSync,
    /// The machine has the desired state. A registered result holds this value as `data`.
    Known(Value),
    /// The machine differs from the desired state.
    Change(Change),
    /// The state is unknown until an earlier task has been applied.
    Unknown(String),
}

/// The difference between the machine and the desired state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of the change.
    pub verb: Verb,
    /// The change, for people.
    pub diff: String,
    /// The steps, in execution order. They are empty for a change that [`Options::run`] applies.
    pub steps: Vec<Step>,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Something is created.
    Create,
    /// Something is changed.
    Update,
    /// Something is removed.
    Remove,
    /// A command runs.
    Run,
}

impl Verb {
    /// Returns the word that `plan` shows.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Run => "run",
        }
    }
}

/// One step of a change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Creates a directory and its missing parents.
    MakeDirectory {
        /// The path.
        path: String,
        /// Its permissions and owner.
        access: Access,
    },
    /// Writes a file.
    Write {
        /// The path.
        path: String,
        /// Its content.
        content: Content,
        /// Its permissions and owner.
        access: Access,
        /// A command that must accept the file.
        validate: Option<String>,
        /// True if the old file is kept beside the new one.
        backup: bool,
        /// The version of the file to replace. The step is rejected if the file has another version by then.
        expects: Option<towpath_host::FileVersion>,
    },
    /// Sets permissions and owner.
    Grant {
        /// The path.
        path: String,
        /// The permissions and owner.
        access: Access,
        /// The version that was checked. The step is rejected for another version.
        expects: towpath_host::FileVersion,
    },
    /// Creates a symbolic link.
    Link {
        /// The path.
        path: String,
        /// The target of the link.
        target: String,
    },
    /// Removes a file, a link, or a directory with all its content.
    Remove {
        /// The path.
        path: String,
    },
    /// A step for a member of a tree. No link below the tree's folder is followed.
    Within {
        /// The folder of the tree.
        folder: String,
        /// The step.
        step: Box<Step>,
    },
    /// Stops a unit and disables it at boot.
    StopUnit {
        /// The unit.
        unit: String,
    },
    /// Reloads the unit files of systemd after all files of the batch are written.
    ReloadUnits,
}

impl Step {
    /// Returns the step itself, without its enclosing tree.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Within { step, .. } => step.inner(),
            step => step,
        }
    }

    /// Returns the path of the step; empty for a step without one.
    pub fn path(&self) -> &str {
        match self {
            Self::StopUnit { .. } | Self::ReloadUnits => "",
            Self::MakeDirectory { path, .. }
            | Self::Write { path, .. }
            | Self::Grant { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path } => path,
            Self::Within { step, .. } => step.path(),
        }
    }
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file of the source, read when the step runs.
    Source(Arc<dyn Tree>, String),
}

impl Content {
    /// Returns the bytes.
    ///
    /// # Errors
    /// If the source cannot be read, or does not hold the file.
    pub fn bytes(&self) -> Result<Arc<[u8]>, ModuleError> {
        match self {
            Self::Bytes(bytes) => Ok(Arc::clone(bytes)),
            Self::Source(tree, path) => match tree.read(path) {
                Ok(Some(bytes)) => Ok(bytes.into()),
                Ok(None) => Err(ModuleError::new(format!("there is no {path} in the source"))),
                Err(error) => Err(ModuleError::io(path, &error)),
            },
        }
    }
}

/// The report of a probe or an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// True if the module regards the result as a success.
    pub ok: bool,
    /// The fields of `result` beside `changed` and `outcome`.
    pub fields: BTreeMap<&'static str, Value>,
    /// A sentence for status.
    pub message: Option<String>,
}

impl Report {
    /// Returns a successful report without fields.
    fn well() -> Self {
        Self { ok: true, fields: BTreeMap::new(), message: None }
    }
}

impl Options {
    /// Returns the kind of this use.
    pub fn sort(&self) -> Sort {
        match self {
            Self::File(_) | Self::Line(_) | Self::Block(_) | Self::Unit(_) | Self::Package(_) | Self::Account(_) => {
                Sort::State
            }
            Self::Config(_) | Self::AuthorizedKey(_) | Self::Hostname(_) | Self::Timezone(_) => Sort::State,
            Self::Git(_) | Self::Edit(_) | Self::Archive(_) | Self::Download(_) => Sort::State,
            Self::Sysctl(_) | Self::Mount(_) | Self::Custom(_) => Sort::State,
            Self::Service(options) => {
                if options.is_action() {
                    Sort::Action
                } else {
                    Sort::State
                }
            }
            Self::Wait(_) | Self::Assert(_) | Self::Debug(_) => Sort::Probe,
            Self::Http(options) => {
                if options.is_probe() {
                    Sort::Probe
                } else {
                    Sort::Action
                }
            }
            Self::Command(options) => options.sort(),
            Self::Reboot(_) => Sort::Action,
            Self::Elsewhere(_) => Sort::State,
        }
    }

    /// Returns a second name of the managed resource, which another task may use.
    pub fn other_name(&self, context: &Context<'_>) -> Option<String> {
        match self {
            Self::Service(options) => Some(options.meant(context)),
            _ => None,
        }
    }

    /// Returns true if applying it may interrupt running services. Returns false for `file`, `line`, `block`, `git`,
    /// the edit modules, `wait`, `assert` and `debug`.
    pub fn interrupts(&self) -> bool {
        !matches!(
            self,
            Self::File(_)
                | Self::Line(_)
                | Self::Block(_)
                | Self::Edit(_)
                | Self::Git(_)
                | Self::Wait(_)
                | Self::Assert(_)
                | Self::Debug(_)
        )
    }

    /// Returns true for an action that runs once for each definition. Other actions run whenever their conditions ask
    /// for it.
    pub fn once(&self) -> bool {
        match self {
            Self::Reboot(options) => options.always(),
            other => other.sort() == Sort::Action,
        }
    }

    /// Returns true if it is applied by a tool or daemon. Other uses are applied by steps, which are batched.
    pub fn is_effect(&self) -> bool {
        matches!(
            self,
            Self::Command(_)
                | Self::Service(_)
                | Self::Package(_)
                | Self::Account(_)
                | Self::AuthorizedKey(_)
                | Self::Hostname(_)
                | Self::Sysctl(_)
                | Self::Mount(_)
                | Self::Archive(_)
                | Self::Download(_)
                | Self::Custom(_)
        )
    }

    /// Returns the parameters that undo this use. The caller asks before it applies the use. `None` if nothing has to
    /// be undone.
    pub fn undo(&self, params: &Value, context: &Context<'_>) -> Option<Value> {
        match self {
            Self::Service(options) => service::undo(options, context),
            Self::Unit(options) => unit::undo(options, params, context),
            Self::Package(options) => package::undo(options, context),
            Self::Account(options) => account::undo(options, context),
            Self::Config(options) => config::undo(options, params, context),
            Self::AuthorizedKey(options) => authorized_key::undo(options, context),
            Self::Hostname(_) => naming::undo_hostname(context),
            Self::Timezone(_) => naming::undo_timezone(context),
            Self::Line(_) | Self::Block(_) => text::undo(self.name(), params),
            Self::Edit(options) => options.undo(context),
            Self::Sysctl(options) => sysctl::undo(options, context),
            Self::Mount(options) => mount::undo(options, context),
            Self::Archive(options) => archive::undo(options, context),
            Self::Download(options) => download::undo(options, context),
            _ => None,
        }
    }

    /// Returns the names of the resources of a use that manages several, such as packages.
    pub fn parts(&self) -> &[String] {
        match self {
            Self::Package(options) => options.names(),
            _ => &[],
        }
    }

    /// Returns true if this use and the next one can share a transaction.
    pub fn goes_with(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Package(one), Self::Package(other)) if one.goes_with(other))
    }

    /// Applies several uses in one transaction. The caller must hold an admission permit.
    ///
    /// # Errors
    /// If one of them cannot be applied; others may have been applied.
    pub fn together(uses: &[&Self], context: &Context<'_>) -> Result<(), ModuleError> {
        let packages = uses.iter().filter_map(|one| match one {
            Self::Package(options) => Some(options),
            _ => None,
        });
        package::together(&packages.collect::<Vec<_>>(), context)
    }

    /// Returns true if its parameters alone determine the undo, whatever was there before.
    pub fn is_part_of_file(&self) -> bool {
        matches!(self, Self::Line(_) | Self::Block(_))
    }

    /// Returns true if a check reads files of the source.
    pub fn reads_source(&self) -> bool {
        match self {
            Self::File(options) | Self::Git(options) => options.has_source(),
            Self::Archive(_) | Self::Custom(_) => true,
            _ => false,
        }
    }

    /// Returns the path that it manages, if it manages a single one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::File(options) | Self::Git(options) => Some(options.path()),
            Self::Edit(options) => Some(options.path()),
            Self::Download(options) => Some(options.path()),
            Self::Line(options) => Some(options.path()),
            Self::Block(options) => Some(options.path()),
            Self::Unit(options) => Some(options.path()),
            Self::Config(options) => Some(options.path()),
            Self::Timezone(options) => Some(options.path()),
            _ => None,
        }
    }

    /// Returns the paths that it manages; for a tree these are all its files.
    pub fn manages(&self, context: &Context<'_>) -> Vec<String> {
        match self {
            Self::File(options) | Self::Git(options) => file::manages(options, context),
            Self::Edit(options) => vec![options.path().to_owned()],
            Self::Download(options) => vec![options.path().to_owned()],
            Self::Line(options) => vec![options.path().to_owned()],
            Self::Block(options) => vec![options.path().to_owned()],
            Self::Unit(options) => vec![options.path().to_owned()],
            Self::Config(options) => vec![options.path().to_owned()],
            _ => Vec::new(),
        }
    }

    /// Returns the expected state of each path, for a check without the source. The key is used for digests of content.
    /// `None` if only a full check can decide.
    pub fn expectations(&self, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
        match self {
            Self::File(options) | Self::Git(options) => file::expectations(options, context, key),
            _ => None,
        }
    }

    /// Compares the machine with the desired state.
    ///
    /// # Errors
    /// If the machine cannot be read, or something of another kind blocks the change.
    pub fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        match self {
            Self::Git(_) if context.source.is_none() => Ok(Checked::Unknown(checkout::UNKNOWN.into())),
            Self::File(options) | Self::Git(options) => file::check(options, context),
            Self::Edit(options) => options.check(context),
            Self::Sysctl(options) => sysctl::check(options, context),
            Self::Mount(options) => mount::check(options, context),
            Self::Archive(options) => archive::check(options, context),
            Self::Download(options) => download::check(options, context),
            Self::Custom(options) => custom::check(options, context),
            Self::Line(options) => line::check(options, context),
            Self::Block(options) => block::check(options, context),
            Self::Command(options) => command::check(options, context),
            Self::Service(options) => service::check(options, context),
            Self::Unit(options) => unit::check(options, context),
            Self::Package(options) => package::check(options, context),
            Self::Account(options) => account::check(options, context),
            Self::Config(options) => config::check(options, context),
            Self::AuthorizedKey(options) => authorized_key::check(options, context),
            Self::Hostname(options) => naming::check_hostname(options, context),
            Self::Timezone(options) => naming::check_timezone(options, context),
            Self::Reboot(options) => reboot::check(options, context),
            Self::Http(_) | Self::Wait(_) | Self::Assert(_) | Self::Debug(_) => Ok(Checked::InSync),
            Self::Elsewhere(name) => {
                Err(ModuleError::new(format!("the module {name} is not part of this version of the agent")))
            }
        }
    }

    /// Runs a probe.
    ///
    /// # Errors
    /// If the probe cannot run, or this use is not a probe.
    pub fn probe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        match self {
            Self::Http(options) => http::send(options, context),
            Self::Wait(options) => probe::wait(options, context),
            Self::Assert(options) => Ok(probe::assertion(options)),
            Self::Debug(options) => Ok(probe::debug(options)),
            other => Err(ModuleError::new(format!("{} is no probe", other.name()))),
        }
    }

    /// Runs an action, or applies a state that has no steps. The caller must hold an admission permit.
    ///
    /// # Errors
    /// If it cannot be run. A command that ends with another status than 0 is reported, not an error.
    pub fn run(&self, context: &Context<'_>, hand: &towpath_host::Hand) -> Result<Report, ModuleError> {
        match self {
            Self::Command(options) => command::run(options, context),
            Self::Http(options) => http::send(options, context),
            Self::Service(options) => service::run(options, context),
            Self::Package(options) => package::run(options, context),
            Self::Account(options) => account::run(options, context),
            Self::AuthorizedKey(options) => authorized_key::run(options, context, hand),
            Self::Hostname(options) => naming::set_hostname(options, context, hand),
            Self::Sysctl(options) => sysctl::run(options, context, hand),
            Self::Mount(options) => mount::run(options, context, hand),
            Self::Archive(options) => archive::run(options, context, hand),
            Self::Download(options) => download::run(options, context, hand),
            Self::Custom(options) => custom::run(options, context),
            Self::Reboot(_) => reboot::run(context),
            other => Err(ModuleError::new(format!("{} is no action", other.name()))),
        }
    }

    /// Returns the name of the module.
    pub fn name(&self) -> &str {
        match self {
            Self::File(_) => "file",
            Self::Line(_) => "line",
            Self::Block(_) => "block",
            Self::Command(options) => {
                if options.script.is_some() {
                    "script"
                } else {
                    "command"
                }
            }
            Self::Service(_) => "service",
            Self::Unit(_) => "unit",
            Self::Package(_) => "package",
            Self::Account(options) => options.module(),
            Self::Config(options) => options.module(),
            Self::AuthorizedKey(_) => "authorizedKey",
            Self::Hostname(_) => "hostname",
            Self::Timezone(_) => "timezone",
            Self::Git(_) => "git",
            Self::Edit(options) => options.module(),
            Self::Sysctl(_) => "sysctl",
            Self::Mount(_) => "mount",
            Self::Archive(_) => "archive",
            Self::Download(_) => "download",
            Self::Custom(_) => "custom",
            Self::Reboot(_) => "reboot",
            Self::Http(_) => "http",
            Self::Wait(_) => "wait",
            Self::Assert(_) => "assert",
            Self::Debug(_) => "debug",
            Self::Elsewhere(name) => name,
        }
    }
}
