//! Communicates with a remote: asks for its refs, and fetches objects.

pub(crate) mod advertisement;
pub(crate) mod connection;
mod counted;
mod http;
pub(crate) mod refs;

pub use refs::version;
