//! Access to the machine: files below a root, processes, facts, the clock, HTTP, file events.
//!
//! The read side ([`Look`]) cannot change anything. The write side ([`Hand`]) is lent only to code that holds a permit.
//! This crate does not know about tasks, or why a caller reads or writes a file.

pub mod attributes;
pub mod clock;
pub mod diff;
pub mod facts;
pub mod files;
pub mod http;
pub mod identity;
pub mod lock;
pub mod look;
pub mod memory;
pub mod own;
pub mod packagekit;
pub mod process;
pub mod systemd;
pub mod walk;
pub mod watch;

pub use clock::{Clock, SystemClock, TestClock};
pub use files::Hand;
pub use identity::keyed_digest;
pub use look::{FileKind, FileVersion, Look, Meta};
