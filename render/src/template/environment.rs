//! Creates the environment of the template engine, with Towpath's settings and filters.

use minijinja::{AutoEscape, Environment, UndefinedBehavior};

use super::{assigned, filters, settings::syntax_config};

/// The maximum fuel of one rendering. Fuel is the engine's measure of work. One instruction, or 64 bytes of output,
/// costs one unit of fuel. The maximum amount of fuel also limits the memory of a rendering to 256 MiB.
const FUEL: u64 = 4 << 20;

/// Creates a minijinja environment with Towpath's settings and filters. The environment cannot load templates by name.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(filters::write);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_syntax(syntax_config());
    filters::add(&mut environment);
    assigned::add(&mut environment);
    environment
}
