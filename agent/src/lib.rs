//! The agent: wires sources, rendering, modules and coordination into a daemon and its command line.
//!
//! The modules are layers. Imports point downwards only: cli, serve, reconcile, report, config.

pub mod cli;
pub mod config;
pub mod reconcile;
pub mod report;
pub mod serve;
