//! Commands that set up a machine or a fleet: the agent, certificates, a demo, completions and the manual page.

pub(super) mod agent;
pub(super) mod completions;
mod data_store;
pub(super) mod demo;
pub(super) mod man;
pub(super) mod pki;
