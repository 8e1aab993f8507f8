//! Towpath's own template filters. Each filter returns the same result as the Ansible filter with the same name. The
//! file `tests/tests/filters.rs` lists the differences to the Ansible filters.

mod addresses;
mod collections;
mod data;
mod hashes;
pub(super) mod metered;
mod of_engine;
mod paths;
mod selection;
mod text;

use minijinja::{Environment, Error, Output, State, value::Value};

pub(crate) use text::human_to_bytes;

/// The names of Towpath's own filters.
pub(super) const OWN: [&str; 31] = [
    "to_json",
    "to_nice_json",
    "to_yaml",
    "to_nice_yaml",
    "from_json",
    "from_yaml",
    "b64encode",
    "b64decode",
    "regex_replace",
    "regex_search",
    "regex_findall",
    "hash",
    "password_hash",
    "combine",
    "dict2items",
    "items2dict",
    "mandatory",
    "ternary",
    "bool",
    "quote",
    "basename",
    "dirname",
    "splitext",
    "union",
    "intersect",
    "difference",
    "flatten",
    "zip",
    "ipaddr",
    "human_to_bytes",
    "to_duration",
];

/// The names of the most used filters of the engine minijinja. If a template uses an unknown filter, the error message
/// proposes a similar name from this list.
pub(super) const COMMON: [&str; 24] = [
    "upper",
    "lower",
    "default",
    "join",
    "trim",
    "replace",
    "length",
    "first",
    "last",
    "sort",
    "unique",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "int",
    "float",
    "string",
    "list",
    "items",
    "indent",
    "title",
    "round",
];

/// Adds all template filters to an environment of the engine.
pub(super) fn add(environment: &mut Environment<'static>) {
    data::add(environment);
    text::add(environment);
    hashes::add(environment);
    collections::add(environment);
    paths::add(environment);
    addresses::add(environment);
    of_engine::add(environment);
    selection::add(environment);
}

/// Writes a value to the output of a template. The fuel for a list or map is charged before the conversion to text.
pub(super) fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    metered::charge_text(state, "output", value)?;
    minijinja::escape_formatter(out, state, value)
}
