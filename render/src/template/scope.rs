//! The names and values that a template can use, and a record of the inputs that the template reads.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use minijinja::value::{Enumerator, Object, Serde, Value};

use super::tainted::Slot;
use crate::taint::Tainted;

/// An input that a template needs, but that has no value yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MissingInput {
    /// The registered result of a task, by its full name.
    Step(String),
    /// A value of a Secret. The two strings in this variant are the id of the Secret and the key of the value.
    Secret(String, String),
    /// A shared value, by its name.
    Shared(String),
    /// A computed variable that has no value, because its task has not run. A plan runs no task. The string in this
    /// variant is the name of the variable.
    Computed(String),
}

impl fmt::Display for MissingInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(name) => write!(f, "the result of {name}"),
            Self::Secret(name, key) => write!(f, "the secret {name}/{key}"),
            Self::Shared(name) => write!(f, "the shared value {name}"),
            Self::Computed(name) => write!(f, "the computed value {name}"),
        }
    }
}

/// The record of the facts that templates have read, and of the inputs that were missing.
#[derive(Debug, Default)]
pub struct ReadTrace {
    missing_inputs: Mutex<Vec<MissingInput>>,
    facts: Mutex<std::collections::BTreeSet<String>>,
    nodes: AtomicBool,
}

impl ReadTrace {
    /// Returns the missing inputs that templates have requested since the previous call of this method. Empties the
    /// list of missing inputs.
    pub fn take_missing_inputs(&self) -> Vec<MissingInput> {
        std::mem::take(&mut *self.missing_inputs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the names of the top-level facts that templates have read so far.
    pub fn facts(&self) -> Vec<String> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Returns true if a template has called `nodes()`.
    pub fn nodes(&self) -> bool {
        self.nodes.load(Ordering::Relaxed)
    }

    /// Records a missing input, unless the same input is already recorded.
    pub fn want(&self, want: MissingInput) {
        let mut missing_inputs = self.missing_inputs.lock().unwrap_or_else(PoisonError::into_inner);
        if !missing_inputs.contains(&want) {
            missing_inputs.push(want);
        }
    }

    fn fact(&self, name: &str) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if !facts.contains(name) {
            facts.insert(name.to_owned());
        }
    }

    /// Records that a template calls `nodes()`.
    pub fn called_nodes(&self) {
        self.nodes.store(true, Ordering::Relaxed);
    }
}

/// A template value with the facts of a node. The value records each fact that a template reads.
#[derive(Debug)]
struct Facts {
    values: BTreeMap<String, Value>,
    reads: Arc<ReadTrace>,
}

/// Creates a template value with the facts of a node. The value records each fact that a template reads.
pub(crate) fn facts_value(facts: &serde_json::Value, reads: &Arc<ReadTrace>) -> Value {
    let values = facts.as_object().into_iter().flatten().map(|(name, fact)| (name.clone(), Value::from(Serde(fact))));
    Value::from_object(Facts { values: values.collect(), reads: Arc::clone(reads) })
}

impl Object for Facts {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        self.reads.fact(name);
        self.values.get(name).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.values.keys().for_each(|name| self.reads.fact(name));
        Enumerator::Values(self.values.keys().map(|name| Value::from(name.as_str())).collect())
    }
}

/// The registered results of one TaskBook's tasks on one node. If a template reads a result that is not registered yet,
/// the result becomes a missing input.
#[derive(Debug, Default)]
pub struct Steps {
    results: Mutex<BTreeMap<String, Slot>>,
}

impl Steps {
    /// Sets the registered result of a task.
    pub fn set(&self, name: &str, result: &Tainted<serde_json::Value>) {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Slot::new(result));
    }

    fn get(&self, name: &str) -> Option<Value> {
        let slot = self.results.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()?;
        Some(slot.read())
    }
}

/// The registered results under the names that tasks of one include use. These names omit the prefix of the include.
/// For tasks outside of includes, the prefix of result names is empty.
#[derive(Debug)]
struct StepsView {
    steps: Arc<Steps>,
    prefix: String,
    reads: Arc<ReadTrace>,
}

impl Object for StepsView {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let full = format!("{}{name}", self.prefix);
        let found = self.steps.get(&full);
        if found.is_none() {
            self.reads.want(MissingInput::Step(full));
        }
        found
    }
}

/// The variables of one level. A variable of a higher level hides the variable with the same name in a lower level.
#[derive(Debug, Default)]
pub struct Vars {
    own: BTreeMap<String, Slot>,
    unknown: Option<Unknown>,
    below: Option<Arc<Vars>>,
}

/// The variables whose values are unknown in a plan. If a template reads a variable that has no value yet, the variable
/// becomes a missing input.
#[derive(Debug, Clone)]
pub(crate) struct Unknown {
    /// The names of the variables.
    pub(crate) names: std::collections::BTreeSet<String>,
    /// The record of missing inputs.
    pub(crate) reads: Arc<ReadTrace>,
}

impl Vars {
    /// Creates a level of variables. A variable of the new level hides the variable with the same name in a lower
    /// level.
    pub(crate) fn over(below: Option<Arc<Vars>>, own: BTreeMap<String, Slot>) -> Self {
        Self { own, unknown: None, below }
    }

    /// Adds variables that have no value yet to this level, and returns the level.
    pub(crate) fn with_unknown(self, unknown: Unknown) -> Self {
        Self { unknown: Some(unknown), ..self }
    }

    fn find(&self, name: &str) -> Option<Value> {
        match self.own.get(name) {
            Some(slot) => Some(slot.read()),
            None if self.unknown.as_ref().is_some_and(|unknown| unknown.names.contains(name)) => {
                self.unknown.as_ref()?.reads.want(MissingInput::Computed(name.to_owned()));
                None
            }
            None => self.below.as_ref()?.find(name),
        }
    }

    fn names(&self, names: &mut std::collections::BTreeSet<String>) {
        names.extend(self.own.keys().cloned());
        if let Some(below) = &self.below {
            below.names(names);
        }
    }
}

impl Object for Vars {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.find(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.find(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let mut names = std::collections::BTreeSet::new();
        self.names(&mut names);
        Enumerator::Values(names.into_iter().map(Value::from).collect())
    }
}

/// The scope of a template: the names that the template can use.
#[derive(Clone)]
pub struct Scope {
    common: Arc<BTreeMap<&'static str, Value>>,
    vars: Arc<Vars>,
    own: Vec<(&'static str, Slot)>,
}

impl Scope {
    /// Creates the scope that all tasks of a TaskBook share.
    pub fn new(common: BTreeMap<&'static str, Value>, vars: Arc<Vars>) -> Self {
        Self { common: Arc::new(common), vars, own: Vec::new() }
    }

    /// Returns a copy of this scope with one more level of variables.
    #[must_use]
    pub(crate) fn with_vars(&self, own: BTreeMap<String, Slot>) -> Self {
        let vars = Arc::new(Vars::over(Some(Arc::clone(&self.vars)), own));
        Self { vars, ..self.clone() }
    }

    /// Returns a copy of this scope with one more variable, which has no value yet.
    #[must_use]
    pub(crate) fn with_unknown(&self, name: &str, reads: &Arc<ReadTrace>) -> Self {
        let unknown = Unknown { names: [name.to_owned()].into(), reads: Arc::clone(reads) };
        let vars = Vars::over(Some(Arc::clone(&self.vars)), BTreeMap::new()).with_unknown(unknown);
        Self { vars: Arc::new(vars), ..self.clone() }
    }

    /// Returns a copy of this scope with one more name, such as `item`.
    #[must_use]
    pub(crate) fn with(&self, name: &'static str, value: Slot) -> Self {
        let mut scope = self.clone();
        scope.own.retain(|(known, _)| *known != name);
        scope.own.push((name, value));
        scope
    }

    /// Returns a copy of this scope with the registered results under the name `steps`. Templates of an include can
    /// omit `prefix` in the names of results.
    #[must_use]
    pub fn with_steps(&self, steps: &Arc<Steps>, prefix: &str, reads: &Arc<ReadTrace>) -> Self {
        let view = StepsView { steps: Arc::clone(steps), prefix: prefix.to_owned(), reads: Arc::clone(reads) };
        self.with("steps", Slot::clean(Value::from_object(view)))
    }

    /// Returns the scope as a template value, for the engine.
    pub fn context(&self) -> Value {
        Value::from_object(self.clone())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

impl Object for Scope {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        if name == "vars" {
            return Some(Value::from_dyn_object(Arc::clone(&self.vars)));
        }
        match self.own.iter().find(|(known, _)| *known == name) {
            Some((_, slot)) => Some(slot.read()),
            None => self.common.get(name).cloned(),
        }
    }
}
