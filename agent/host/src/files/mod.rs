//! Access to the machine's files: reading, writing, and events about changed files. All paths are below a root.

pub mod attributes;
pub mod diff;
mod reader;
pub mod walk;
pub mod watch;
mod writer;
pub mod written;

pub use reader::{FileKind, FileVersion, FsReader, Meta};
pub use writer::{Access, Committed, FsWriter, Host, Part, Staged};
