//! The two traits of a module, and the values that pass between a module and its caller.

use std::{any::Any, collections::BTreeMap, fmt::Debug, sync::Arc};

use serde_json::Value;
use towpath_host::Hand;
use towpath_proto::{ModuleKind, ModuleSchema};

use crate::{
    context::{Context, ModuleError},
    expectation::Expectation,
    params::Problem,
    step::Step,
};

/// A module: its facts, and the way from parameters to a resource.
pub trait Module: Sync {
    /// Returns the facts about the module.
    fn schema(&self) -> &'static ModuleSchema;

    /// Resolves parameters without I/O. The caller has filled their templates and checked them against the schema.
    ///
    /// # Errors
    /// All problems of the parameters.
    fn resolve(&self, params: &Value) -> Resolved;

    /// Applies several resources of this module in one transaction. All have the same [`Resource::batch`].
    ///
    /// # Errors
    /// If one of them cannot be applied; others may have been applied. By default, the module has no transactions.
    fn apply_batch(&self, _resources: &[&dyn Resource], _context: &Context<'_>) -> Result<(), ModuleError> {
        Err(ModuleError::new(format!("{} has no transactions", self.schema().key)))
    }
}

/// The result of [`Module::resolve`].
pub type Resolved = Result<Arc<dyn Resource>, Vec<Problem>>;

/// Returns resolved parameters as a resource.
pub(crate) fn resource<R: Resource>(resolved: Result<R, Vec<Problem>>) -> Resolved {
    resolved.map(|resource| Arc::new(resource) as Arc<dyn Resource>)
}

/// The resolved parameters of one use of a module.
pub trait Resource: Any + Debug + Send + Sync {
    /// Returns the module.
    fn module(&self) -> &'static dyn Module;

    /// Returns the kind of this use.
    fn kind(&self) -> ModuleKind {
        self.module().schema().kind
    }

    /// Returns true for an action that runs once for each definition. Other actions run whenever their conditions ask
    /// for it.
    fn runs_once(&self) -> bool {
        self.kind() == ModuleKind::Action
    }

    /// Compares the machine with the desired state. A probe is always in sync.
    ///
    /// # Errors
    /// If the machine cannot be read, or something of another kind blocks the change.
    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError>;

    /// Runs a probe or an action, or makes a direct change. The caller holds a permit. Changes with steps are applied
    /// by [`crate::apply`].
    ///
    /// # Errors
    /// If it cannot be run. A command that ends with another status than 0 is reported, not an error.
    fn apply(&self, _context: &Context<'_>, _hand: &Hand) -> Result<Report, ModuleError> {
        Err(ModuleError::new(format!("{} is applied by its steps", self.module().schema().key)))
    }

    /// Returns the parameters that undo this use. The caller asks before it applies the use. `None` if nothing has to
    /// be undone.
    fn undo(&self, _context: &Context<'_>) -> Option<Value> {
        None
    }

    /// Returns true if a check runs a command line of the user. A plan does not check such a use.
    fn asks_commands(&self) -> bool {
        false
    }

    /// Returns true if the parameters alone determine the undo, whatever was there before.
    fn undo_is_fixed(&self) -> bool {
        false
    }

    /// Returns the names of the resources of a use that manages several, such as packages.
    fn parts(&self) -> &[String] {
        &[]
    }

    /// Returns a second name of the resource, which another task may use.
    fn other_name(&self, _context: &Context<'_>) -> Option<String> {
        None
    }

    /// Returns the transactions that this use can be part of. `None` if it is applied alone.
    fn batch(&self) -> Option<BatchKey> {
        None
    }

    /// Returns true if a check reads files of the source.
    fn reads_source(&self) -> bool {
        self.module().schema().runs_source
    }

    /// Returns the path that it manages, if it manages a single one.
    fn path(&self) -> Option<&str> {
        None
    }

    /// Returns the managed paths whose changes are watched; for a tree these are all its files.
    fn watched_paths(&self, _context: &Context<'_>) -> Vec<String> {
        self.path().map(str::to_owned).into_iter().collect()
    }

    /// Returns the expected state of each path, for a check without the source. The key is used for digests of content.
    /// `None` if only a full check can decide.
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

    /// Returns true if this use and another one can share a transaction.
    pub fn can_batch_with(&self, other: &Self) -> bool {
        self.batch().is_some_and(|batch| Some(batch) == other.batch())
    }

    /// Returns the resolved parameters as their own type.
    pub(crate) fn downcast<R: Resource>(&self) -> Option<&R> {
        (self as &dyn Any).downcast_ref()
    }
}

/// The transactions that a resource can be part of: all resources with an equal key can share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchKey {
    /// The module.
    pub module: &'static str,
    /// The settings that all resources of a transaction share.
    pub settings: String,
}

/// The result of a check.
#[derive(Debug, Clone)]
pub enum Checked {
    /// The machine has the desired state.
    InSync,
    /// The machine has the desired state. A registered result holds this value as `data`.
    InSyncWithData(Value),
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
    /// The steps, in execution order. They are empty for a change that [`Resource::apply`] makes.
    pub steps: Vec<Step>,
}

impl Change {
    /// Returns a change that [`Resource::apply`] makes.
    pub(crate) fn direct(verb: Verb, diff: impl Into<String>) -> Checked {
        Checked::Change(Self { verb, diff: diff.into(), steps: Vec::new() })
    }
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
    /// True if the module regards the result as a success.
    pub ok: bool,
    /// The fields of `result` beside `changed` and `outcome`.
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
