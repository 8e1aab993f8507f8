//! Files and sockets that the agent and the command `towpath` use themselves. Examples of the agent's own files are the
//! bootstrap file, the credentials, the folder of the demo and the API socket. Modules do not manage the agent's own
//! files, so a change of the agent's own files needs no permit.

pub mod editor;
pub mod files;
pub mod replace;
pub mod socket;
