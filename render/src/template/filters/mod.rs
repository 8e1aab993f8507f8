//! The filters beside minijinja's own. They give what Ansible's filters of the same names give; where they
//! differ, tests/tests/filters.rs lists it.

mod addresses;
mod collections;
mod data;
mod hashes;
mod paths;
mod text;

use minijinja::{Environment, Error, ErrorKind};

pub(crate) use text::human_to_bytes;

/// Adds all filters.
pub(super) fn add(environment: &mut Environment<'static>) {
    data::add(environment);
    text::add(environment);
    hashes::add(environment);
    collections::add(environment);
    paths::add(environment);
    addresses::add(environment);
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
