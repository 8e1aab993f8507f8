//! Access to the machine: files, processes, facts, clocks, HTTP requests and file events.
//!
//! An [`FsReader`] only reads files. The [`FsWriter`] changes files. Only code that holds a permit for changes gets the
//! [`FsWriter`]. The crate `host` does not know tasks or TaskBooks.

pub mod clock;
mod dbus;
pub mod facts;
pub mod files;
pub mod http;
pub mod identity;
pub mod kernel;
pub mod lock;
pub mod memory;
pub mod own;
pub mod process;

pub use clock::{Clock, SystemClock, TestClock};
pub use dbus::{packagekit, systemd};
pub use files::{FileKind, FileVersion, FsReader, FsWriter, Host, Meta, attributes, diff, walk, watch};
pub use identity::keyed_digest;
