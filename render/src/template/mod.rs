//! Templates and expressions: minijinja with strict undefined, bounded work, and Towpath's filters.

mod engine;
pub mod filters;
mod guard;
mod scope;
pub mod syntax;
mod tainted;
mod trace;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};

pub use engine::{Engine, TemplateError};
pub(crate) use scope::Unknown;
pub(crate) use scope::facts_value;
pub use scope::{Reads, Scope, Steps, Vars, Want};
pub(crate) use tainted::Slot;

/// The limit of work of one rendering. An instruction costs one unit, and so do 64 bytes of output. This also limits
/// the memory of a rendering, to 256 MiB.
const FUEL: u64 = 4 << 20;

/// Maximum size of the output of one rendering, in bytes.
pub(crate) const OUTPUT: usize = 64 << 20;

/// Creates an environment with Towpath's settings and filters, without a loader.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(filters::write);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_syntax(syntax_config());
    filters::add(&mut environment);
    environment
}

/// Returns the syntax: lines with only a block vanish, and the final newline stays.
pub(crate) fn syntax_config() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    syntax.expect("the default delimiters are valid")
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod taint_tests;
