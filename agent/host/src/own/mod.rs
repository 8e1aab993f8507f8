//! Files and sockets that the agent and its commands use for themselves: the bootstrap file, credentials, downloads,
//! the folder of the demo, and the socket of the API. Modules do not manage these files, so access to these files needs
//! no permit.

pub mod files;
pub mod socket;
