//! Templates and expressions: the engine minijinja, with errors for undefined names, limits on its work, and Towpath's
//! filters.

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

/// The maximum work of one rendering, in units of fuel. One instruction, or 64 bytes of output, costs one unit.
/// The limit also bounds the memory of a rendering, to 256 MiB.
const FUEL: u64 = 4 << 20;

/// The maximum size of the output of one rendering, in bytes.
pub(crate) const OUTPUT: usize = 64 << 20;

/// Creates a minijinja environment with Towpath's settings and filters. The environment cannot load templates by name.
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

/// Returns the template syntax. A line with only a block produces no line in the output, and the final newline stays.
pub(crate) fn syntax_config() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    syntax.expect("the default delimiters are valid")
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod taint_tests;
