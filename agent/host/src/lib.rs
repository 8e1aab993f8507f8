//! Access to the machine: files below a root, processes, facts, the clock, HTTP, file events.
//!
//! An [`FsReader`] reads files and cannot change files. The only [`FsWriter`] is lent only to code that holds a permit
//! for a change. This crate does not know tasks, nor the reason for which a caller reads or writes a file.

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
