//! The settings of the template engine: the size limit of the output, and the syntax.

use minijinja::syntax::SyntaxConfig;

/// The maximum size of the output of one rendering, in bytes.
pub(super) const OUTPUT: usize = 64 << 20;

/// Returns the template syntax. A line that contains only a block, such as `{% if … %}`, produces no line in the
/// output. The final newline of a template is kept.
pub(crate) fn syntax_config() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    syntax.expect("the default delimiters are valid")
}
