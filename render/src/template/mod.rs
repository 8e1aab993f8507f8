//! Templates and expressions: the engine minijinja, with errors for undefined names, limits on its work, and Towpath's
//! filters.

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
