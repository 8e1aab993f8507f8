//! Renders the parameters of each task just before the task runs, with the results of earlier tasks. If an input is
//! missing, the rendering returns [`Rendered::Missing`] instead of an error.

mod claims;
mod coerce;
mod computed;
mod functions;
mod inputs;
mod renderer;
#[cfg(test)]
mod tests;

pub use claims::{Claims, Owner};
pub use computed::{PendingTask, pending_tasks};
pub use inputs::{Inputs, RenderError, Rendered};
pub use renderer::{Item, Renderer};
