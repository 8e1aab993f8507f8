//! The agent: a daemon and a command line, built from git sources, rendering, modules and coordination.
//!
//! The modules form layers: cli, serve, node, status, reconcile, events, config. Each layer imports only from lower
//! layers.

pub mod cli;
pub mod config;
mod error_chain;
pub mod events;
pub mod node;
pub mod reconcile;
pub mod serve;
pub mod status;
