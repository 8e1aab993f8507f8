//! The traits [`Module`] and [`Resource`], which each module implements, and the values that a module exchanges with
//! its caller.

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

/// A module, such as `file`: its facts, and the conversion of task parameters to a [`Resource`].
pub trait Module: Sync {
    /// Returns the facts about the module.
    fn schema(&self) -> &'static ModuleSchema;

    /// Resolves the parameters of a task without I/O. The caller must first render the templates in the parameters, and
    /// check the rendered parameters against the schema.
    ///
    /// # Errors
    /// Returns an error if a parameter is not valid. The error contains all problems.
    fn resolve(&self, params: &Value) -> Resolved;

    /// Applies several resources of this module in one transaction. All resources must have the same
    /// [`Resource::batch`].
    ///
    /// # Errors
    /// Returns an error if one of the resources cannot be applied. The other resources may have been applied. By
    /// default, a module has no transactions.
    fn apply_batch(
        &self,
        _resources: &[&dyn Resource],
        _context: &Context<'_>,
        _writer: &FsWriter,
    ) -> Result<(), ModuleError> {
        Err(ModuleError::new(format!("internal error: the module {} has no transactions", self.schema().key)))
    }
}

/// The result of [`Module::resolve`].
pub type Resolved = Result<Arc<dyn Resource>, Vec<Problem>>;

/// Converts resolved parameters to a resource.
pub(crate) fn resource<R: Resource>(resolved: Result<R, Vec<Problem>>) -> Resolved {
    resolved.map(|resource| Arc::new(resource) as Arc<dyn Resource>)
}

/// The resolved parameters of one task with a module, such as the path and the content of a file.
pub trait Resource: Any + Debug + Send + Sync {
    /// Returns the module of the resource.
    fn module(&self) -> &'static dyn Module;

    /// Returns the kind of a task with this resource: state, probe or action.
    fn kind(&self) -> ModuleKind {
        self.module().schema().kind
    }

    /// Returns true for an action that runs once, and again only if its definition changes. Other actions run whenever
    /// their conditions are true.
    fn runs_once(&self) -> bool {
        self.kind() == ModuleKind::Action
    }

    /// Compares the machine with the desired state of the resource. A probe is always in sync.
    ///
    /// # Errors
    /// Returns an error if the machine cannot be read, or if an object of another kind blocks the change.
    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError>;

    /// Runs an action, or makes a direct change. The writer proves that the caller holds a permit for the change. Only
    /// [`crate::apply`] executes changes that have steps.
    ///
    /// # Errors
    /// Returns an error if the resource cannot be applied. An exit status other than 0 is part of the report, and not
    /// an error.
    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        self.observe(context)
    }

    /// Runs a probe, or computes a value. A probe needs no permit.
    ///
    /// # Errors
    /// Returns an error if the probe fails, or if the module is not a probe and computes no value.
    fn observe(&self, _context: &Context<'_>) -> Result<Report, ModuleError> {
        let module = self.module().schema().key;
        Err(ModuleError::new(format!("internal error: the module {module} applies its changes as steps")))
    }

    /// Returns the module parameters that undo the task; `None` if nothing has to be undone. The caller must call this
    /// method before the task is applied.
    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        None
    }

    /// Returns true if the check of the task runs a command line, such as `unless`. A plan runs no commands, so a plan
    /// omits a check that runs a command line.
    fn asks_commands(&self) -> bool {
        false
    }

    /// Returns true if the result of [`Resource::undo`] depends only on the parameters, and not on the state of the
    /// machine.
    fn undo_is_fixed(&self) -> bool {
        false
    }

    /// Returns the names of all managed resources, if one task manages several resources such as packages.
    fn parts(&self) -> &[String] {
        &[]
    }

    /// Returns a second name of the resource, such as an alias of a unit, under which another task may manage the
    /// resource.
    fn other_name(&self, _context: &Context<'_>) -> Option<String> {
        None
    }

    /// Returns the key of the transactions that this task can join; `None` if the task is applied alone.
    fn batch(&self) -> Option<BatchKey> {
        None
    }

    /// Returns true if the check of the task reads files of the source.
    fn reads_source(&self) -> bool {
        self.module().schema().runs_source
    }

    /// Returns the path that the task manages; `None` if the task manages several paths, or no path.
    fn path(&self) -> Option<&str> {
        None
    }

    /// Returns the managed paths that the agent watches for changes. For a tree, the paths are all files of the tree.
    fn watched_paths(&self, _context: &Context<'_>) -> Vec<String> {
        self.path().map(str::to_owned).into_iter().collect()
    }

    /// Returns the expected state of each managed path, for a check without the source; `None` if only a full check can
    /// decide. The key is for the keyed hashes of file contents.
    fn expectations(&self, _context: &Context<'_>, _key: &[u8; 32]) -> Option<Vec<Expectation>> {
        None
    }
}

impl dyn Resource {
    /// Returns the facts about the module.
    pub fn schema(&self) -> &'static ModuleSchema {
        self.module().schema()
    }

    /// Returns the name of the module.
    pub fn name(&self) -> &'static str {
        self.schema().key
    }

    /// Returns true if this resource and another resource can be part of one transaction.
    pub fn can_batch_with(&self, other: &Self) -> bool {
        self.batch().is_some_and(|batch| Some(batch) == other.batch())
    }

    /// Returns the resource as the parameter type of a module; `None` if the resource has another type.
    pub(crate) fn downcast<R: Resource>(&self) -> Option<&R> {
        (self as &dyn Any).downcast_ref()
    }
}

/// The key of a transaction. Resources with equal keys can be part of one transaction.
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
    /// The machine has the desired state.
    InSync,
    /// The machine has the desired state. The registered result of the task contains the value as `data`.
    InSyncWithData(Value),
    /// The machine differs from the desired state.
    Change(Change),
    /// The state is unknown until an earlier task has been applied. The value is the reason.
    Unknown(String),
}

/// The difference between the machine and the desired state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of the change.
    pub verb: Verb,
    /// A description of the change for people.
    pub diff: String,
    /// The steps of the change, in execution order; empty for a direct change, which [`Resource::apply`] makes.
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
    /// Returns the name of the kind of change, as in the output of `towpath plan`.
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
    /// True if the probe or action has succeeded, by the rules of its module.
    pub ok: bool,
    /// The fields of the task's registered result, in addition to `changed` and `outcome`.
    pub fields: BTreeMap<&'static str, Value>,
    /// A sentence for status.
    pub message: Option<String>,
}

impl Report {
    /// Creates the report of a success, without fields.
    pub fn success() -> Self {
        Self { ok: true, fields: BTreeMap::new(), message: None }
    }
}
