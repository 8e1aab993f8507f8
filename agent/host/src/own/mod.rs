//! Files and sockets that the agent and its commands use for themselves: the bootstrap file, credentials, downloads,
//! the folder of the demo, and the socket of the API. They are not managed, so access needs no root and no permit.

pub mod editor;
pub mod files;
pub mod socket;
