//! Parses YAML text into documents within limits, and checks the documents against the schema.

mod check;
mod common_mistakes;
mod formats;
mod locate;
mod parse;
mod path;
mod place;
mod plain;
mod typed;

pub use check::{Checked, Mode, Reference, check_message, check_object};
#[cfg(test)]
pub(crate) use parse::parse_value;
pub use parse::{Limits, parse};
pub(crate) use path::Trail;
pub use path::{At, Path, Step};
pub use place::{Document, Place, SourceFile};
pub(crate) use place::{lines, problem_at};
pub use plain::{plain_value, to_yaml};
pub use typed::typed;
