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

/// The result of a rendering: a value, or the missing inputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered<T> {
    /// The rendered value.
    Ready(T),
    /// The inputs that the rendering needs and that are not known yet.
    Missing(Vec<MissingInput>),
}

/// The error that a task or a variable cannot be rendered.
#[derive(Debug, Clone, Error)]
#[error("{}: {message}", place.file_line())]
pub struct RenderError {
    /// The location of the template that failed.
    pub place: Place,
    /// The message, with the cause of the failure.
    pub message: String,
}

impl RenderError {
    /// Creates the error that a template at a location fails.
    pub(super) fn at(place: &Place, error: TemplateError) -> Self {
        Self { place: place.clone(), message: error.message }
    }
}

/// The inputs of a rendering: facts, nodes, computed variables and the event.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The facts of this node.
    pub facts: Value,
    /// All nodes with their labels, as `nodes()` returns them. The facts of other nodes are untrusted.
    pub nodes: Arc<Vec<Value>>,
    /// The values of variables that a task computes, by namespace and name.
    pub computed: BTreeMap<(String, String), Tainted<Value>>,
    /// The computed variables whose values are not known, by namespace and name. A plan runs no task, so it does not
    /// know them.
    pub unknown: BTreeSet<(String, String)>,
    /// The event that triggered the run. The whole event is untrusted.
    pub event: Option<Value>,
}
