//! Each module implements the traits [`Module`] and [`Resource`] of this file.

use std::{any::Any, collections::BTreeMap, fmt::Debug, sync::Arc};

use serde_json::Value;
use towpath_host::FsWriter;
use towpath_proto::{ModuleKind, ModuleSchema};

use crate::{
    context::{Context, ModuleError},
    expectation::Expectation,
    params::Problem,
    step::Step,
};

/// A module, such as `file`. A module converts the parameters of a task to a [`Resource`].
pub trait Module: Sync {
    /// Returns the description of the module from the protobuf schema, such as its key and its kind.
    fn schema(&self) -> &'static ModuleSchema;

    /// Resolves the parameters of a task without I/O. The caller must first render the templates in the parameters, and
    /// validate the rendered parameters with the schema.
    ///
    /// # Errors
    /// Returns an error if a parameter is not valid. The error contains all problems of the parameters.
    fn resolve(&self, params: &Value) -> Resolved;

    /// Applies several resources of this module in one transaction. [`Resource::batch`] must return the same key for
    /// all resources.
    ///
    /// # Errors
    /// Returns an error if a resource cannot be applied. After an error, some of the resources may have been applied.
    /// By default, the method returns an error, because most modules have no transactions.
    fn apply_batch(
        &self,
        _resources: &[&dyn Resource],
        _context: &Context<'_>,
        _writer: &FsWriter,
    ) -> Result<(), ModuleError> {
        Err(ModuleError::new(format!("internal error: the module {} has no transactions", self.schema().key)))
    }
}

/// The result of [`Module::resolve`]: a resource, or all problems of the parameters.
pub type Resolved = Result<Arc<dyn Resource>, Vec<Problem>>;

/// Converts the resolved parameters of a module to a resource.
pub(crate) fn resource<R: Resource>(resolved: Result<R, Vec<Problem>>) -> Resolved {
    resolved.map(|resource| Arc::new(resource) as Arc<dyn Resource>)
}

/// The resolved parameters of a task, such as the path and the content of a file.
pub trait Resource: Any + Debug + Send + Sync {
    /// Returns the module of the resource.
    fn module(&self) -> &'static dyn Module;

    /// Returns the kind of the task: state, probe or action.
    fn kind(&self) -> ModuleKind {
        self.module().schema().kind
    }

    /// Returns true if the action runs once, and again only after its definition has changed. Returns false if the
    /// action runs in every pass in which its conditions are true.
    fn runs_once(&self) -> bool {
        self.kind() == ModuleKind::Action
    }

    /// Compares the machine with the desired state of the resource. A probe is always in sync.
    ///
    /// # Errors
    /// Returns an error if the machine cannot be read. Also returns an error if the task is not allowed to replace an
    /// existing object, such as a directory at the path of a file.
    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError>;

    /// Runs an action, or makes a direct change. Only code that holds a permit for changes has the writer.
    /// [`crate::apply`] executes changes that have steps.
    ///
    /// # Errors
    /// Returns an error if the resource cannot be applied. If a command ends with a status other than 0, the method
    /// returns no error, but a report with the status.
    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        self.observe(context)
    }

    /// Runs a probe, or a task that computes the value of a variable. A probe needs no permit.
    ///
    /// # Errors
    /// Returns an error if the probe fails, or if the module does not implement this method.
    fn observe(&self, _context: &Context<'_>) -> Result<Report, ModuleError> {
        let module = self.module().schema().key;
        Err(ModuleError::new(format!("internal error: the module {module} applies its changes as steps")))
    }

    /// Returns the parameters that undo the task; `None` if the task needs no undo. The caller must call this method
    /// before the caller applies the task.
    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        None
    }

    /// Returns true if the check of the task runs a command line, such as `unless`. A plan runs no commands, so a plan
    /// skips a check that runs a command line.
    fn asks_commands(&self) -> bool {
        false
    }

    /// Returns true if [`Resource::undo`] depends only on the parameters. Returns false if the undo depends on the
    /// state of the machine.
    fn undo_is_fixed(&self) -> bool {
        false
    }

    /// Returns the names of all resources of a task that manages several resources, such as packages.
    fn parts(&self) -> &[String] {
        &[]
    }

    /// Returns a second name of the task's resource, such as the alias of a unit. A task in another TaskBook may name
    /// the same resource by the second name.
    fn other_name(&self, _context: &Context<'_>) -> Option<String> {
        None
    }

    /// Returns a key, so that the agent can apply tasks with equal keys in one transaction; `None` if the agent applies
    /// the task alone.
    fn batch(&self) -> Option<BatchKey> {
        None
    }

    /// Returns true if the check of the task reads files of the source.
    fn reads_source(&self) -> bool {
        self.module().schema().runs_source
    }

    /// Returns the path that the task manages; `None` if the task manages no path or several paths.
    fn path(&self) -> Option<&str> {
        None
    }

    /// Returns the managed paths of the task. The agent watches the paths for changes. The paths of a task that copies
    /// a folder are the paths of all files in the folder.
    fn watched_paths(&self, _context: &Context<'_>) -> Vec<String> {
        self.path().map(str::to_owned).into_iter().collect()
    }

    /// Returns the state that each managed path must have, so that a later pass can check the paths without the source.
    /// Returns `None` if a later pass must check the task in full. The states contain keyed hashes of the file
    /// contents. The method computes the hashes with `key`.
    fn expectations(&self, _context: &Context<'_>, _key: &[u8; 32]) -> Option<Vec<Expectation>> {
        None
    }
}

impl dyn Resource {
    /// Returns the description of the module from the protobuf schema, such as its key and its kind.
    pub fn schema(&self) -> &'static ModuleSchema {
        self.module().schema()
    }

    /// Returns the name of the module.
    pub fn name(&self) -> &'static str {
        self.schema().key
    }

    /// Returns true if two resources can be applied in one transaction.
    pub fn can_batch_with(&self, other: &Self) -> bool {
        self.batch().is_some_and(|batch| Some(batch) == other.batch())
    }

    /// Converts the resource to the type `R`; `None` if the resource has another type.
    pub(crate) fn downcast<R: Resource>(&self) -> Option<&R> {
        (self as &dyn Any).downcast_ref()
    }
}

/// The key of a transaction. Resources with equal keys can be applied in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchKey {
    /// The name of the module.
    pub module: &'static str,
    /// The settings that all resources of the transaction share.
    pub settings: String,
}

/// The result of a check.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The resource has its desired state.
    InSync,
    /// The resource has its desired state. The value in the variant becomes the field `data` in the registered result
    /// of the task.
    InSyncWithData(Value),
    /// The resource does not have its desired state.
    Change(Change),
    /// The state of the resource is unknown until the agent has applied an earlier task. The value is the reason.
    Unknown(String),
}

/// The change that brings a resource to its desired state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of the change.
    pub verb: Verb,
    /// A text that describes the change for people, such as a diff.
    pub diff: String,
    /// The steps of the change, in the order of execution. A direct change has no steps, because [`Resource::apply`]
    /// makes the change.
    pub steps: Vec<Step>,
}

impl Change {
    /// Creates a direct change: a change without steps, which [`Resource::apply`] makes.
    pub(crate) fn direct(verb: Verb, diff: impl Into<String>) -> Checked {
        Checked::Change(Self { verb, diff: diff.into(), steps: Vec::new() })
    }
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// The change creates an object.
    Create,
    /// The change updates an object.
    Update,
    /// The change removes an object.
    Remove,
    /// The change runs a command.
    Run,
}

impl Verb {
    /// Returns the word that `towpath plan` prints for this kind of change.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
            Self::Run => "run",
        }
    }
}

/// The report of a probe or an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// True if the probe or the action was successful, in the judgment of the module.
    pub ok: bool,
    /// The fields that the module adds to the registered result of the task. The agent itself adds the fields `changed`
    /// and `outcome`.
    pub fields: BTreeMap<&'static str, Value>,
    /// A message that `towpath status` shows; `None` for no message.
    pub message: Option<String>,
}

impl Report {
    /// Creates the report of a successful probe or action, without fields and without a message.
    pub fn success() -> Self {
        Self { ok: true, fields: BTreeMap::new(), message: None }
    }
}
