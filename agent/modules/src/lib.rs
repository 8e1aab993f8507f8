//! Check and apply of one resource each.
//!
//! Parameters are resolved to options without I/O; a check reads the machine and gives the steps that are missing,
//! as data; only [`apply`] carries them out. Does not know about books, journals or other nodes.

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

/// Of which sort a use of a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Checked and put right.
    State,
    /// Changes nothing.
    Probe,
    /// Once per definition.
    Action,
    /// In every pass.
    Always,
}

/// What a module works with.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// The read side of the node's files.
    pub look: &'a Look,
    /// The files of the source that the task belongs to, and the folder in it.
    pub source: Option<(Arc<dyn Tree>, String)>,
    /// The node's name.
    pub node: &'a str,
    /// The task, as it is called in its book.
    pub task: &'a str,
    /// How long the task may take.
    pub timeout: Duration,
    /// Asks it to stop.
    pub cancel: &'a Cancel,
    /// What modules remember from one task to the next.
    pub memory: &'a Memory,
}

/// What modules remember from one task to the next, so that all of a book's need not read the same again.
#[derive(Debug, Default)]
pub struct Memory {
    packages: Database,
    descriptions: custom::Descriptions,
    /// What is being done right now.
    pub progress: Progress,
    origins: Option<Arc<dyn Origins>>,
}

/// Knows which paths Towpath has changed.
pub trait Origins: std::fmt::Debug + Send + Sync {
    /// Whether Towpath has made or changed what is at a path without links.
    fn has_made(&self, path: &str) -> bool;
}

impl Memory {
    /// A memory that knows which paths Towpath has changed.
    pub fn knowing(origins: Arc<dyn Origins>) -> Self {
        Self { origins: Some(origins), ..Self::default() }
    }

    fn has_made(&self, path: &str) -> bool {
        self.origins.as_ref().is_some_and(|origins| origins.has_made(path))
    }
}

impl Context<'_> {
    /// Says how far the task is, for status.
    fn say(&self, far: &str) {
        self.memory.progress.say(self.task, far);
    }

    /// Refuses a root other than `/`: what the module changes belongs to the machine as a whole.
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

/// Why a module failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ModuleError {
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether the disk was full or could not be written.
    pub disk: Option<Disk>,
    /// Whether somebody else changed the thing since it was looked at: another look is due.
    pub moved: bool,
}

/// Why a disk did not take something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// It is full.
    Full,
    /// It can only be read.
    ReadOnly,
}

impl ModuleError {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), disk: None, moved: false }
    }

    /// A failure of the file system at a path.
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

/// What a check found.
#[derive(Debug, Clone)]
pub enum Checked {
    /// Everything is as it should be.
    InSync,
    /// So it is, and a task that registers its result finds this in it, as `data`.
    Known(Value),
    /// Something is missing.
    Change(Change),
    /// It can't be known before something else is applied.
    Unknown(String),
}

/// What is missing, and how it is put right.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it comes to.
    pub verb: Verb,
    /// The change, for people.
    pub diff: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// What a change comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Something new.
    Create,
    /// Something different.
    Update,
    /// Something less.
    Remove,
    /// A command runs.
    Run,
}

impl Verb {
    /// The word that `plan` shows.
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
    /// Makes a directory and its missing parents.
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
        /// Its bytes.
        content: Content,
        /// Its permissions and owner.
        access: Access,
        /// A command that must succeed.
        validate: Option<String>,
        /// Whether the old file is kept beside it.
        backup: bool,
        /// The file that it replaces: the step is refused when another one stands there by then.
        expects: Option<towpath_host::FileVersion>,
    },
    /// Sets permissions and owner.
    Grant {
        /// The path.
        path: String,
        /// The permissions and owner.
        access: Access,
        /// The file that was looked at: the step is refused for another one.
        expects: towpath_host::FileVersion,
    },
    /// Makes a symbolic link.
    Link {
        /// The path.
        path: String,
        /// What it points to.
        target: String,
    },
    /// Removes what is there.
    Remove {
        /// The path.
        path: String,
    },
    /// A step of a member of a tree, below whose folder no link is followed.
    Within {
        /// The folder.
        folder: String,
        /// The step.
        step: Box<Step>,
    },
    /// Has a unit run no more, and start at boot no more.
    StopUnit {
        /// The unit.
        unit: String,
    },
    /// Has systemd read its unit files again, once all files are in their places.
    ReloadUnits,
}

impl Step {
    /// The step itself, of one within a tree.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Within { step, .. } => step.inner(),
            step => step,
        }
    }

    /// The path that the step is about; empty where it is about none.
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

/// The bytes of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In the source: read when it is written.
    Source(Arc<dyn Tree>, String),
}

impl Content {
    /// The bytes.
    ///
    /// # Errors
    /// When the source can't be read.
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

/// What a probe or an action gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Whether it went well by the module's own measure.
    pub ok: bool,
    /// What `result` holds beside `changed` and `outcome`.
    pub fields: BTreeMap<&'static str, Value>,
    /// One sentence for status.
    pub message: Option<String>,
}

impl Report {
    /// It went well, and there is nothing to say.
    fn well() -> Self {
        Self { ok: true, fields: BTreeMap::new(), message: None }
    }
}

impl Options {
    /// Of which sort this use is.
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

    /// Another name of what it manages, which a second task may use.
    pub fn other_name(&self, context: &Context<'_>) -> Option<String> {
        match self {
            Self::Service(options) => Some(options.meant(context)),
            _ => None,
        }
    }

    /// Whether applying it interrupts what runs on the node: not the mere content of files.
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

    /// Whether an action is done once for each definition, and not whenever its conditions ask for it.
    pub fn once(&self) -> bool {
        match self {
            Self::Reboot(options) => options.always(),
            other => other.sort() == Sort::Action,
        }
    }

    /// Whether it is put right by running something, not by steps that wait for a batch of files.
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

    /// The parameters that would take away again what this is about to bring, asked before it does; None where there is
    /// nothing to take away.
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

    /// What it manages one by one, where one use of it manages several things.
    pub fn parts(&self) -> &[String] {
        match self {
            Self::Package(options) => options.names(),
            _ => &[],
        }
    }

    /// Whether it is better carried out as one with another use that comes right behind it.
    pub fn goes_with(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Package(one), Self::Package(other)) if one.goes_with(other))
    }

    /// Carries out several uses that go with one another, as one. Lend it only to who holds a permit.
    ///
    /// # Errors
    /// When it can't be done for all of them; it may have been done for some.
    pub fn together(uses: &[&Self], context: &Context<'_>) -> Result<(), ModuleError> {
        let packages = uses.iter().filter_map(|one| match one {
            Self::Package(options) => Some(options),
            _ => None,
        });
        package::together(&packages.collect::<Vec<_>>(), context)
    }

    /// Whether what undoes it follows from what is written alone, not from what was there before it came first.
    pub fn is_part_of_file(&self) -> bool {
        matches!(self, Self::Line(_) | Self::Block(_))
    }

    /// Whether a check reads files of the source.
    pub fn reads_source(&self) -> bool {
        match self {
            Self::File(options) | Self::Git(options) => options.has_source(),
            Self::Archive(_) | Self::Custom(_) => true,
            _ => false,
        }
    }

    /// The path that it is about, where it is about one.
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

    /// The paths that it manages: of a tree every file.
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

    /// What the machine is like where nothing is missing; None where only the whole check can tell. Digests of
    /// content are made with the key.
    pub fn expectations(&self, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
        match self {
            Self::File(options) | Self::Git(options) => file::expectations(options, context, key),
            _ => None,
        }
    }

    /// What is missing.
    ///
    /// # Errors
    /// When the machine can't be read, or something is in the way.
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

    /// Asks a probe.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn probe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        match self {
            Self::Http(options) => http::send(options, context),
            Self::Wait(options) => probe::wait(options, context),
            Self::Assert(options) => Ok(probe::assertion(options)),
            Self::Debug(options) => Ok(probe::debug(options)),
            other => Err(ModuleError::new(format!("{} is no probe", other.name()))),
        }
    }

    /// Runs an action. Lend it only to who holds a permit.
    ///
    /// # Errors
    /// When it can't be run.
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

    /// The module's name.
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
