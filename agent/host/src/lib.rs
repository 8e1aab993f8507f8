//! Ports to the machine: files below a root, processes, facts, the journal, the clock, HTTP, file events.
//!
//! The read side ([`Look`]) can't change anything; the write side ([`Hand`]) is lent only to those who hold a
//! permit. Does not know what a task is, nor why something is read or written.

pub mod attributes;
pub mod clock;
pub mod diff;
pub mod facts;
pub mod files;
pub mod http;
pub mod identity;
pub mod journal;
pub mod lock;
pub mod look;
pub mod memory;
pub mod packagekit;
pub mod process;
pub mod systemd;
pub mod walk;
pub mod watch;

pub use clock::{Clock, SystemClock, TestClock};
pub use files::Hand;
pub use look::{FileKind, FileVersion, Look, Meta};
