//! The machine's files: the read side, the write side, and events of changes. All paths are below a root.

pub mod attributes;
pub mod diff;
mod hand;
mod look;
pub mod walk;
pub mod watch;
pub mod written;

pub use hand::{Access, Hand, Part, Placed, Staged};
pub use look::{FileKind, FileVersion, Look, Meta};
