//! The gRPC server on the Unix socket and over TLS, the client of the command line, and the connections to peers.

mod callers;
mod client;
mod handshakes;
mod peer_connections;
mod server;
mod tls;

pub use client::{CallError, Client, Remote};
pub use peer_connections::PeerConnections;
pub use server::{Endpoints, ServeError, Shared, serve};
