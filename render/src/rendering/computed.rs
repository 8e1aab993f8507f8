//! Converts the variables of a node to template values. A static variable keeps its written value, and a computed
//! variable is evaluated.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::inputs::{Inputs, RenderError};
use crate::{
    objects::{ComputedValue, ObjectSet},
    taint::Tainted,
    template::{Engine, MissingInput, ReadTrace, Scope, Slot, Unknown, Vars, syntax::names_in_expression},
    view::{Merged, NodeView, Winner},
};

/// A computed variable with a task, which runs before the TaskBooks of the namespace are rendered.
#[derive(Debug, Clone)]
pub struct PendingTask {
    /// The namespace that uses the variable.
    pub namespace: String,
    /// The definition of the computed variable.
    pub computed: ComputedValue,
}

/// Returns the computed variables for which a node must run a task.
pub fn pending_tasks(set: &ObjectSet, view: &NodeView) -> Vec<PendingTask> {
    let namespaces: BTreeSet<&String> = view.books.iter().map(|book| &book.namespace).collect();
    let mut pending = Vec::new();
    for namespace in namespaces {
        for candidates in view.variables(set, namespace).into_values() {
            if let Some(Winner::Computed(computed)) = candidates.into_iter().next().map(|first| first.value)
                && computed.task.is_some()
            {
                pending.push(PendingTask { namespace: namespace.clone(), computed: *computed });
            }
        }
    }
    pending
}

/// Returns the values of all variables. Computed variables may use each other in any order; a cycle is an error.
pub(super) fn evaluate(
    engine: &Engine,
    merged: &Merged,
    namespace: &str,
    common: &BTreeMap<&'static str, minijinja::Value>,
    inputs: &Inputs,
    reads: &Arc<ReadTrace>,
) -> Result<Vars, RenderError> {
    let mut values = BTreeMap::new();
    let mut unknown = Unknown { names: BTreeSet::new(), reads: Arc::clone(reads) };
    let mut open: BTreeMap<&str, &ComputedValue> = BTreeMap::new();
    for (name, candidates) in merged {
        match candidates.first().map(|first| &first.value) {
            Some(Winner::Static(value)) => {
                values.insert(name.clone(), Slot::new(&Tainted::clean(value.clone())));
            }
            Some(Winner::Computed(computed)) if computed.task.is_some() => {
                // A variable without a computed value is undefined. A task that reads the variable reports the missing
                // value.
                let key = (namespace.to_owned(), name.clone());
                if let Some(value) = inputs.computed.get(&key) {
                    values.insert(name.clone(), Slot::new(value));
                } else if inputs.unknown.contains(&key) {
                    unknown.names.insert(name.clone());
                }
            }
            Some(Winner::Computed(computed)) => {
                open.insert(name, computed);
            }
            None => {}
        }
    }
    while !open.is_empty() {
        let ready: Vec<&str> =
            open.iter().filter(|(_, computed)| !uses_any(computed, &open)).map(|(name, _)| *name).collect();
        if ready.is_empty() {
            let names: Vec<&str> = open.keys().copied().collect();
            let place = open.values().next().map(|computed| computed.place.clone());
            let message = format!("these computed variables use each other in a cycle: {}", names.join(", "));
            return match place {
                Some(place) => Err(RenderError { place, message }),
                None => Ok(Vars::over(None, values).with_unknown(unknown)),
            };
        }
        for name in ready {
            let Some(computed) = open.remove(name) else { continue };
            let vars = Vars::over(None, values.clone()).with_unknown(unknown.clone());
            let scope = Scope::new(common.clone(), Arc::new(vars));
            let expression = computed.expression.as_deref().unwrap_or_default();
            let value = engine.expression(expression, &scope.context());
            if reads.take_missing_inputs().iter().any(|want| matches!(want, MissingInput::Computed(_))) {
                unknown.names.insert(name.to_owned());
                continue;
            }
            let value = value.map_err(|error| RenderError::at(&computed.place.key("expression"), error))?;
            values.insert(name.to_owned(), Slot::new(&value));
        }
    }
    Ok(Vars::over(None, values).with_unknown(unknown))
}

fn uses_any(computed: &ComputedValue, open: &BTreeMap<&str, &ComputedValue>) -> bool {
    let names = names_in_expression(computed.expression.as_deref().unwrap_or_default());
    names
        .iter()
        .filter_map(|name| name.strip_prefix("vars."))
        .any(|name| open.contains_key(name.split('.').next().unwrap_or(name)))
}
