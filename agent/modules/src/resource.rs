//! The two traits that each module implements, and the values that a module exchanges with its caller.

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

/// A module of tasks: it provides the facts about the module, and converts task parameters to a resource.
pub trait Module: Sync {
    /// Returns the facts about the module.
    fn schema(&self) -> &'static ModuleSchema;

    /// Resolves the parameters of a task without I/O. The caller must first render the templates in the parameters, and
    /// check the result against the schema.
    ///
    /// # Errors
    /// If a parameter is not valid. The error contains all problems.
    fn resolve(&self, params: &Value) -> Resolved;

    /// Applies several resources of this module in one transaction. All resources have the same [`Resource::batch`].
    ///
    /// # Errors
    /// If one of the resources cannot be applied. Others may have been applied. By default, a module has no
    /// transactions.
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

/// The resolved parameters of one use of a module.
pub trait Resource: Any + Debug + Send + Sync {
    /// Returns the module of the resource.
    fn module(&self) -> &'static dyn Module;

    /// Returns the kind of this use of the module.
    fn kind(&self) -> ModuleKind {
        self.module().schema().kind
    }

    /// Returns true for an action that runs once for each definition. Other actions run when their conditions require
    /// it.
    fn runs_once(&self) -> bool {
        self.kind() == ModuleKind::Action
    }

    /// Compares the machine with the desired state. A probe is always in sync.
    ///
    /// # Errors
    /// If the machine cannot be read, or if an object of another kind blocks the change.
    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError>;

    /// Runs an action, or makes a direct change. Only code with a permit has a writer, also for changes that write no
    /// file. Changes with steps are applied by [`crate::apply`] instead.
    ///
    /// # Errors
    /// If the resource cannot be applied. A command that ends with a status other than 0 is not an error but part of
    /// the report.
    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        self.observe(context)
    }

    /// Runs a probe, or computes a value. No permit is needed.
    ///
    /// # Errors
    /// If the machine cannot be asked, or if the module neither probes nor computes.
    fn observe(&self, _context: &Context<'_>) -> Result<Report, ModuleError> {
        let module = self.module().schema().key;
        Err(ModuleError::new(format!("internal error: the module {module} applies its changes as steps")))
    }

    /// Returns the parameters that undo this use of the module. The caller asks for the parameters before the use is
    /// applied. `None` if nothing has to be undone.
    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        None
    }

    /// Returns true if a check runs a command line of the user. A plan does not check such a use.
    fn asks_commands(&self) -> bool {
        false
    }

    /// Returns true if the undo depends only on the parameters, and not on the state of the machine.
    fn undo_is_fixed(&self) -> bool {
        false
    }

    /// Returns the names of all resources, if one use manages several resources such as packages.
    fn parts(&self) -> &[String] {
        &[]
    }

    /// Returns a second name of the resource, which another task may use.
    fn other_name(&self, _context: &Context<'_>) -> Option<String> {
        None
    }

    /// Returns the key of the transactions that this use can join; `None` if the use is applied alone.
    fn batch(&self) -> Option<BatchKey> {
        None
    }

    /// Returns true if a check reads files of the source.
    fn reads_source(&self) -> bool {
        self.module().schema().runs_source
    }

    /// Returns the path that this use manages; `None` if the use manages several paths, or no path.
    fn path(&self) -> Option<&str> {
        None
    }

    /// Returns the managed paths that the agent watches for changes. For a tree, these are all its files.
    fn watched_paths(&self, _context: &Context<'_>) -> Vec<String> {
        self.path().map(str::to_owned).into_iter().collect()
    }

    /// Returns the expected state of each path, for a check without the source. The key is used for the digests of
    /// content. `None` if only a full check can decide.
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

    /// Returns true if this use and another use can be part of one transaction.
    pub fn can_batch_with(&self, other: &Self) -> bool {
        self.batch().is_some_and(|batch| Some(batch) == other.batch())
    }

    /// Returns the resolved parameters as the given type; `None` if the parameters have another type.
    pub(crate) fn downcast<R: Resource>(&self) -> Option<&R> {
        (self as &dyn Any).downcast_ref()
    }
}

/// The key of a transaction. All resources with an equal key can be part of one transaction.
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
    /// The machine has the desired state. A registered result contains this value as `data`.
    InSyncWithData(Value),
    /// The machine differs from the desired state.
    Change(Change),
    /// The state is unknown until an earlier task has been applied, for this reason.
    Unknown(String),
}

/// The difference between the machine and the desired state.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of the change.
    pub verb: Verb,
    /// A readable description of the change.
    pub diff: String,
    /// The steps of the change, in execution order; empty for a change that [`Resource::apply`] makes.
    pub steps: Vec<Step>,
}

impl Change {
    /// Returns a change that [`Resource::apply`] makes, without steps.
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
    /// Returns the name of the kind in the output of `plan`.
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
    /// True if the module considers the result a success.
    pub ok: bool,
    /// The fields of the registered result, in addition to `changed` and `outcome`.
    pub fields: BTreeMap<&'static str, Value>,
    /// A sentence for status.
    pub message: Option<String>,
}

impl Report {
    /// Returns a successful report without fields.
    pub fn success() -> Self {
        Self { ok: true, fields: BTreeMap::new(), message: None }
    }
}
