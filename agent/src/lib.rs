//! The agent: wires sources, rendering, modules and coordination into a daemon and its command line.
//!
//! The modules are layers. Imports point downwards only: cli, serve, reconcile, events, config.

pub mod cli;
pub mod config;
mod error_chain;
pub mod events;
pub mod reconcile;
pub mod serve;
