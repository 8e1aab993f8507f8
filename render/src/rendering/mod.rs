//! Renders the parameters of tasks as results of earlier tasks become known. A missing input is not an error: the
//! rendering then returns [`Rendered::Missing`].

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
