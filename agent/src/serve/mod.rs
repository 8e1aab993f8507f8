//! Both ends of gRPC: the server on the Unix socket, and the client of the command line.

mod client;
mod server;

pub use client::{CallError, Client};
pub use server::{ServeError, serve};
