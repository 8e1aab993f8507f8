//! Both ends of gRPC: the server on the Unix socket and, with certificates, for other machines; the client of the
//! command line; and what nodes say to one another.

mod callers;
mod client;
mod handshakes;
mod links;
mod server;
mod tls;

pub use client::{CallError, Client, Remote};
pub use links::Links;
pub use server::{Doors, ServeError, Shared, serve};
