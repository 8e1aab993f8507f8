//! The gRPC server on the Unix socket and over TLS, the client of the command line, and the connections to peers.

mod callers;
mod client;
mod handshakes;
mod links;
mod server;
mod tls;

pub use client::{CallError, Client, Remote};
pub use links::PeerConnections;
pub use server::{Endpoints, ServeError, Shared, serve};
