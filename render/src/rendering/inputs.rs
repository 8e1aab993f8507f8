//! The inputs and the results of a rendering.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;
use thiserror::Error;

use crate::{
    document::Place,
    taint::Tainted,
    template::{MissingInput, TemplateError},
};

/// The result of a rendering: the rendered value, or the inputs that are still missing.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered<T> {
    /// The rendered value.
    Ready(T),
    /// The missing inputs of the rendering, such as results of tasks that have not run.
    Missing(Vec<MissingInput>),
}

/// An error because a task or a variable cannot be rendered.
#[derive(Debug, Clone, Error)]
#[error("{}: {message}", place.file_line())]
pub struct RenderError {
    /// The location of the template that failed.
    pub place: Place,
    /// The message, with the cause of the failure.
    pub message: String,
}

impl RenderError {
    /// Creates an error about the template at a location.
    pub(super) fn at(place: &Place, error: TemplateError) -> Self {
        Self { place: place.clone(), message: error.message }
    }
}

/// The inputs of a rendering: facts, nodes, computed variables and the event.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The facts of this node.
    pub facts: Value,
    /// The list of all nodes that the template function `nodes()` returns. The facts of other nodes are untrusted.
    pub nodes: Arc<Vec<Value>>,
    /// The values of variables that a task computes; each key of the map is the namespace and the name of a variable.
    pub computed: BTreeMap<(String, String), Tainted<Value>>,
    /// The computed variables that have no value in a plan, because a plan runs no task. Each entry is the namespace
    /// and the name of a variable.
    pub unknown: BTreeSet<(String, String)>,
    /// The event that triggered the run, if there is one. All values in the event are untrusted.
    pub event: Option<Value>,
}
