//! Sources as syntax: the facts of each file, and the files that its paths lead to.

pub mod facts;
pub mod resolve;
