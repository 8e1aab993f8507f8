//! Checks the syntax of templates and expressions. The module also finds the names that templates and expressions use.

use std::{cell::RefCell, collections::BTreeSet};

use minijinja::{
    Environment, ErrorKind,
    machinery::{Token, tokenize},
};

pub(crate) use super::settings::syntax_config;
use super::{environment::environment, filters, guard};
use crate::problem::Finding;

/// The top-level names that templates and expressions can use.
pub const NAMES: [&str; 12] =
    ["node", "vars", "facts", "steps", "item", "loop", "event", "nodes", "secret", "shared", "result", "self"];

thread_local! {
    static PARSER: RefCell<Environment<'static>> = RefCell::new(environment());
}

/// Checks that the syntax of a template is valid, and that all its filters exist.
///
/// # Errors
/// Returns the first error in the template.
pub fn template(text: &str) -> Result<(), Finding> {
    guard::template(text).map_err(Finding::new)?;
    PARSER.with_borrow(|parser| {
        let compiled = match whole_expression(text) {
            Some(inner) => parser.compile_expression(inner).map(drop),
            None => parser.template_from_str(text).map(drop),
        };
        compiled.map_err(|error| finding(&error))?;
        unknown_filter(parser, text, false).map_or(Ok(()), Err)
    })
}

/// Returns the error for the first unknown filter in a text. The engine itself reports an unknown filter only during
/// rendering.
fn unknown_filter(parser: &Environment<'_>, text: &str, in_expression: bool) -> Option<Finding> {
    let mut behind_pipe = false;
    for token in tokenize(text, in_expression, syntax_config()) {
        let Ok((token, _)) = token else { return None };
        if let (true, Token::Ident(name)) = (behind_pipe, &token) {
            let probe = parser.compile_expression(&format!("1|{name}")).and_then(|probe| probe.eval(()));
            if probe.is_err_and(|error| error.kind() == ErrorKind::UnknownFilter) {
                let finding = Finding::new(format!("there is no filter {name}"));
                let known = filters::OWN.iter().chain(&filters::COMMON).copied();
                return Some(match towpath_proto::did_you_mean(name, known) {
                    Some(meant) => finding.hint(format!("did you mean {meant}?")),
                    None => finding.hint("the README lists the filters beside those of Jinja"),
                });
            }
        }
        behind_pipe = matches!(token, Token::Pipe);
    }
    None
}

/// Returns the literal template names in the `include`, `import`, `from` and `extends` statements of a template.
pub(super) fn template_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut first, mut reads) = (false, false);
    for token in tokenize(text, false, syntax_config()) {
        let Ok((token, _)) = token else { break };
        match token {
            Token::BlockStart => (first, reads) = (true, false),
            Token::BlockEnd => (first, reads) = (false, false),
            Token::Ident(word) if first => {
                (first, reads) = (false, matches!(word, "include" | "import" | "from" | "extends"));
            }
            Token::Str(name) if reads => names.push(name.to_owned()),
            Token::String(name) if reads => names.push(name.into()),
            _ => first = false,
        }
    }
    names
}

/// Checks that the syntax of an expression without braces is valid, and that all its filters exist.
///
/// # Errors
/// Returns the first error in the expression.
pub fn expression(text: &str) -> Result<(), Finding> {
    if text.contains("{{") || text.contains("{%") {
        return Err(Finding::new("an expression must not contain braces")
            .hint(format!("write it bare: {}", text.replace("{{", "").replace("}}", "").trim())));
    }
    if text.trim().is_empty() {
        return Err(Finding::new("the expression is empty").hint("leave it out"));
    }
    guard::expression(text).map_err(Finding::new)?;
    PARSER.with_borrow(|parser| {
        parser.compile_expression(text).map(drop).map_err(|error| {
            let finding = finding(&error);
            let bytes = text.as_bytes();
            let assignment = bytes
                .windows(3)
                .any(|part| part[1] == b'=' && part[0] != b'=' && part[2] != b'=' && !b"!<>".contains(&part[0]));
            if text.contains("&&") || text.contains("||") {
                finding.hint("write and, or, not")
            } else if assignment {
                finding.hint("compare with ==")
            } else {
                finding
            }
        })?;
        unknown_filter(parser, text, true).map_or(Ok(()), Err)
    })
}

/// Returns the expression in a string of the form `{{ expression }}`; `None` for any other string.
pub fn whole_expression(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("{{")?.strip_suffix("}}")?;
    if inner.starts_with(['-', '+']) || inner.ends_with(['-', '+']) {
        return None;
    }
    (!inner.contains("}}") && !inner.contains("{{") && !inner.contains("{%")).then_some(inner)
}

/// Returns the names that a template uses but does not define, such as `vars.port`, `facts.os.name` or `item`.
pub fn names_in_template(text: &str) -> BTreeSet<String> {
    if guard::template(text).is_err() {
        return BTreeSet::new();
    }
    if let Some(inner) = whole_expression(text) {
        return names_in_expression(inner);
    }
    PARSER.with_borrow(|parser| match parser.template_from_str(text) {
        Ok(template) => template.undeclared_variables(true).into_iter().collect(),
        Err(_) => BTreeSet::new(),
    })
}

/// Returns the names that an expression uses but does not define, such as `vars.port`.
pub fn names_in_expression(text: &str) -> BTreeSet<String> {
    if guard::expression(text).is_err() {
        return BTreeSet::new();
    }
    PARSER.with_borrow(|parser| match parser.compile_expression(text) {
        Ok(expression) => expression.undeclared_variables(true).into_iter().collect(),
        Err(_) => BTreeSet::new(),
    })
}

fn finding(error: &minijinja::Error) -> Finding {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line =
        error.line().filter(|line| *line > 1).map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    let finding = Finding::new(format!("template: {detail}{line}"));
    match () {
        () if detail.contains("end of input") || detail.contains("unexpected end") => {
            finding.hint("a quotation mark, a bracket or a block is not closed")
        }
        _ => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_names() {
        let names =
            names_in_template("{{ vars.port }} {% for x in facts.addresses %}{{ x }}{% endfor %} {{ item | upper }}");
        assert!(
            names.contains("vars.port") && names.contains("facts.addresses") && names.contains("item"),
            "{names:?}"
        );
        assert!(!names.contains("x"));
    }

    #[test]
    fn whole_expressions_are_distinguished_from_templates() {
        assert_eq!(whole_expression("{{ vars.a }}").map(str::trim), Some("vars.a"));
        assert_eq!(whole_expression("{{ a }} {{ b }}"), None);
        assert_eq!(whole_expression("x{{ a }}"), None);
        assert_eq!(whole_expression("{{ a }}\n"), None, "final newlines stay");
    }

    #[test]
    fn braces_in_expressions_are_refused() {
        assert_eq!(expression("{{ vars.a }}").unwrap_err().hint.unwrap(), "write it bare: vars.a");
        assert!(expression("facts.os.family == 'debian' and not vars.x").is_ok());
        assert_eq!(expression("a && b").unwrap_err().hint.unwrap(), "write and, or, not");
    }
}
