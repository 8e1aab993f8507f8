//! Communication with a remote: its refs, and the transfer of objects.

pub(crate) mod advertisement;
pub(crate) mod connection;
mod counted;
mod http;
pub(crate) mod refs;

pub use refs::version;
