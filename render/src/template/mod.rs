//! Renders templates and expressions with the engine minijinja. Undefined names are errors, the work of a rendering is
//! limited, and Towpath adds its own filters.

mod assigned;
mod engine;
mod environment;
pub mod filters;
mod guard;
mod scope;
mod settings;
pub mod syntax;
mod tainted;
#[cfg(test)]
mod tests;
mod trace;

pub use engine::{Engine, TemplateError};
pub use scope::{MissingInput, ReadTrace, Scope, Steps, Vars};
pub(crate) use scope::{Unknown, facts_value};
pub(crate) use tainted::Slot;
