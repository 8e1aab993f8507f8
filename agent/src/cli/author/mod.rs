//! Commands for authors of a state repository.

pub(super) mod explain;
pub(super) mod plan;
pub(super) mod render;
pub(super) mod schema;
pub(super) mod secrets;
pub(super) mod validate;
pub(super) mod vars;
