//! The protobuf schema of Towpath. The schema defines objects, tasks, modules, events and services.
//!
//! The build script generates a static table of all messages. The static table is the input for the checks of YAML
//! documents, for the JSON Schema and for `towpath explain`. The crate contains only the schema. Other crates parse
//! YAML documents and implement the modules.

mod explain;
mod json_schema;
mod module;
pub mod plain;
mod schema;

pub use explain::{UnknownWord, explain};
pub use json_schema::json_schema;
pub use module::unit_name;
pub use schema::{
    Field, Message, ModuleKind, ModuleMessage, ModuleSchema, ServiceRole, Shape, Type, Untrusted, did_you_mean, kinds,
    message, module, modules,
};

/// The generated messages and services of the protobuf package `towpath.v1alpha`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, reason = "generated")]
#[allow(clippy::all, reason = "generated; which lints fire depends on the generator's version")]
#[allow(clippy::allow_attributes, reason = "the line above")]
pub mod v1alpha {
    tonic::include_proto!("towpath.v1alpha");
}

/// The encoded protobuf descriptors of the package [`v1alpha`], which gRPC reflection returns to clients.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The version of the schema that this crate reads and writes.
pub const API_VERSION: &str = "v1alpha";
