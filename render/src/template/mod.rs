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
pub(crate) use scope::facts_value;
pub use scope::{Reads, Scope, Steps, Vars, Want};
pub(crate) use tainted::Slot;

/// The work that one rendering may take: an instruction is one, and so are 64 bytes that it makes. This also bounds the
/// memory of a rendering, to 256 MiB.
const FUEL: u64 = 4 << 20;

/// The size of what one rendering may give, in bytes.
pub(crate) const OUTPUT: usize = 64 << 20;

/// An environment with Towpath's settings and filters, and no loader.
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

/// Lines that hold only a block vanish; the final newline stays.
pub(crate) fn syntax_config() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    syntax.expect("the default delimiters are valid")
}

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod taint_tests;
