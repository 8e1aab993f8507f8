//! Limits the text of templates, so that the template engine cannot overflow the stack of a thread.
//!
//! The engine uses recursion in its parser and its compiler, and when it drops nested values. The text of a template
//! can make the recursion of the engine deep. This module therefore limits the length of operator chains, the number of
//! `elif`, and the depth of values that `set` assigns.

use std::{borrow::Cow, ops::Range};

use minijinja::machinery::{Token, tokenize};

use super::settings::syntax_config;

/// The maximum number of chained operators, filters and attributes in one expression.
///
/// The agent renders on threads with a stack of 2 MiB: the main loop, and one thread for each task of a parallel
/// TaskBook. In the release build, the engine uses at most 0.36 KiB of stack for each chained operator, 1.1 KiB for an
/// `elif`, 2 KiB for a block, and 0.9 KiB for each level of a nested value. The template with the deepest recursion has
/// the longest chain inside 150 nested `elif` blocks, the maximum of the engine. The template with the deepest
/// recursion needs 391 KiB, less than a fifth of the stack.
const CHAIN: usize = 400;

/// The maximum number of `elif` in one `if` statement, including the `if` statements around it.
const ELIFS: usize = 100;

/// The name of a template test. The template test is true if the filter [`PLAIN`] must copy an assigned value. The
/// check calls the template test before the filter, because a test charges no fuel for its argument.
pub(super) const COMPUTED: &str = "computed_of_set";

/// The name of a template filter. The filter copies the parts of an assigned value that the engine has not computed
/// yet.
pub(super) const PLAIN: &str = "plain_of_set";

/// The maximum length of a text that needs no check. A text of this length cannot contain more than [`CHAIN`]
/// operators.
const SHORT: usize = 400;

/// Checks that the text of a template does not exceed the limits on operator chains and `elif`. Inserts a check of the
/// assigned value after each `set`, and returns the new text.
///
/// # Errors
/// Returns an error if the template exceeds a limit.
pub(super) fn template(text: &str) -> Result<Cow<'_, str>, String> {
    if text.len() <= SHORT && !text.contains("set") {
        return Ok(Cow::Borrowed(text));
    }
    check(text, false)
}

/// Checks that the text of an expression does not exceed the limit on operator chains.
///
/// # Errors
/// Returns an error if the expression exceeds a limit.
pub(super) fn expression(text: &str) -> Result<(), String> {
    if text.len() <= SHORT { Ok(()) } else { check(text, true).map(drop) }
}

fn check(text: &str, expression: bool) -> Result<Cow<'_, str>, String> {
    let mut chains = Chains::default();
    let mut elifs = Elifs::default();
    let mut set = Set::default();
    let mut out = String::new();
    let mut copied = 0;
    for token in tokenize(text, expression, syntax_config()) {
        // A text with a syntax error needs no check, because the engine rejects it.
        let Ok((token, span)) = token else { return Ok(Cow::Borrowed(text)) };
        chains
            .next(&token)
            .map_err(|TooLong| format!("an expression chains more than {CHAIN} operators, filters or names"))?;
        if elifs.next(&token) > ELIFS {
            return Err(format!("an `if` has more than {ELIFS} `elif`; use a map, or several `if`"));
        }
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if let Some(checks) = set.next(&token, text, start..end) {
            let Some(before) = text.get(copied..start) else { return Ok(Cow::Borrowed(text)) };
            out.push_str(before);
            out.push_str(&checks);
            copied = start;
        }
    }
    if copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

/// Counts the `elif` of each `if` that has not ended, because the engine nests each `elif` in the previous `elif`.
#[derive(Default)]
struct Elifs {
    open: Vec<usize>,
    total: usize,
    /// True if the next token is the first word of a block, such as `if`.
    first: bool,
}

impl Elifs {
    /// Reads a token, and returns the number of `elif` in all `if` statements that have not ended yet.
    fn next(&mut self, token: &Token<'_>) -> usize {
        if self.first {
            match token {
                Token::Ident("if") => self.open.push(0),
                Token::Ident("elif") => {
                    self.total += 1;
                    if let Some(last) = self.open.last_mut() {
                        *last += 1;
                    }
                }
                Token::Ident("endif") => self.total -= self.open.pop().unwrap_or(0),
                _ => {}
            }
        }
        self.first = matches!(token, Token::BlockStart);
        self.total
    }
}

/// An error because a chain has more than [`CHAIN`] operators, filters or names.
struct TooLong;

/// The lengths of the operator chains in brackets and loops that have not ended. The sum of the lengths is limited,
/// because an inner loop can add levels to a value of an outer loop. A comma ends a chain. Of several operator chains
/// in a bracket, only the length of the longest chain counts.
#[derive(Default)]
struct Chains {
    open: Vec<Chain>,
    /// The number of operators, filters and names in all chains that have not ended.
    total: usize,
    /// The length of the operator chains in each unfinished block that assigns names, such as `for`.
    blocks: Vec<usize>,
    keyword: Keyword,
}

#[derive(Default)]
struct Chain {
    now: usize,
    longest: usize,
}

/// The state of the search for blocks that assign names, such as `for` blocks.
#[derive(Default)]
enum Keyword {
    /// The next token is the first word of a block, such as `for` or `set`.
    Next,
    /// The current block assigns names that are valid until the end of the block, as a `for` block does.
    Binds,
    #[default]
    Other,
}

impl Chains {
    fn next(&mut self, token: &Token<'_>) -> Result<(), TooLong> {
        if let (Keyword::Next, Token::Ident(word)) = (&self.keyword, token) {
            self.keyword = if matches!(*word, "for" | "with") { Keyword::Binds } else { Keyword::Other };
            if matches!(*word, "endfor" | "endwith") {
                self.total -= self.blocks.pop().unwrap_or(0);
            }
        }
        match token {
            Token::BlockStart => self.keyword = Keyword::Next,
            Token::VariableEnd | Token::BlockEnd => {
                let links = self.end();
                if matches!(self.keyword, Keyword::Binds) {
                    self.total += links;
                    self.blocks.push(links);
                }
                self.keyword = Keyword::Other;
            }
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                self.link(1)?;
                self.open.push(Chain::default());
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose if self.open.len() > 1 => {
                let inner = self.open.pop().unwrap_or_default();
                self.total -= inner.now;
                self.link(inner.now.max(inner.longest))?;
            }
            Token::Comma => {
                if let Some(chain) = self.open.last_mut() {
                    self.total -= chain.now;
                    chain.longest = chain.longest.max(chain.now);
                    chain.now = 0;
                }
            }
            Token::Ident("and" | "or" | "not" | "is" | "in" | "if" | "else")
            | Token::Pipe
            | Token::Dot
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::FloorDiv
            | Token::Pow
            | Token::Mod
            | Token::Tilde
            | Token::Eq
            | Token::Ne
            | Token::Gt
            | Token::Gte
            | Token::Lt
            | Token::Lte => self.link(1)?,
            _ => {}
        }
        Ok(())
    }

    fn link(&mut self, links: usize) -> Result<(), TooLong> {
        if self.open.is_empty() {
            self.open.push(Chain::default());
        }
        if let Some(chain) = self.open.last_mut() {
            chain.now += links;
        }
        self.total += links;
        if self.total > CHAIN { Err(TooLong) } else { Ok(()) }
    }

    /// Ends an expression, and returns the length of the longest chain in the expression.
    fn end(&mut self) -> usize {
        let mut longest = 0;
        for chain in self.open.drain(..) {
            self.total -= chain.now;
            longest = longest.max(chain.now).max(chain.longest);
        }
        longest
    }
}

/// The state of the code that adds a check of the assigned value after each `set`. `{% set a = b %}` becomes `{% set a
/// = b %}{% if a is computed_of_set(false) %}{% set a = a|plain_of_set(false) %}{% endif %}`.
#[derive(Default)]
enum Set {
    #[default]
    Outside,
    /// The next token is the first word of a block, such as `for` or `set`.
    First,
    /// The tokens before the `=` are the assigned names. The field `joined` is true if the previous token is a dot.
    Names { names: Vec<Name>, joined: bool },
    /// The tokens belong to the expression that `set` assigns to the names.
    Value(Vec<Name>),
    /// The tokens belong to the filters of a `set` block.
    Filters { attribute: bool },
}

/// A name to which `set` assigns a value.
struct Name {
    bytes: Range<usize>,
    /// True if the name is an attribute of a `namespace`.
    attribute: bool,
}

impl Set {
    /// Reads a token. If the template text needs a check before the token, returns the text of the check.
    fn next(&mut self, token: &Token<'_>, text: &str, bytes: Range<usize>) -> Option<String> {
        match (&mut *self, token) {
            (_, Token::BlockStart) => *self = Self::First,
            (Self::First, Token::Ident("set")) => *self = Self::Names { names: Vec::new(), joined: false },
            (Self::First, _) => *self = Self::Outside,
            (Self::Names { joined, .. }, Token::Dot) => *joined = true,
            (Self::Names { names, joined }, Token::Ident(_)) => match names.last_mut() {
                Some(name) if std::mem::take(joined) => {
                    name.attribute = true;
                    name.bytes.end = bytes.end;
                }
                _ => names.push(Name { bytes, attribute: false }),
            },
            (Self::Names { names, .. }, Token::Pipe) => {
                *self = Self::Filters { attribute: names.iter().any(|name| name.attribute) };
            }
            (Self::Names { names, .. }, Token::Assign) => *self = Self::Value(std::mem::take(names)),
            (Self::Value(names), Token::BlockEnd) => {
                let mut checks = String::new();
                for Name { bytes, attribute } in names {
                    let name = text.get(bytes.clone())?;
                    checks.push_str(&format!(
                        " %}}{{% if {name} is {COMPUTED}({attribute}) %}}{{% set {name} = {name}|{PLAIN}({attribute}) %}}{{% endif "
                    ));
                }
                *self = Self::Outside;
                return Some(checks);
            }
            (Self::Filters { attribute }, Token::BlockEnd) => {
                let check = format!("|{PLAIN}({attribute}) ");
                *self = Self::Outside;
                return Some(check);
            }
            (Self::Names { .. }, Token::BlockEnd) => *self = Self::Outside,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigned_value_is_checked_and_lines_stay() {
        let text = "{% set a = 1 %}\n{%- set ns.x, b = [a,\n 2] -%}{% set b | upper %}x{% endset %}{{ a }}";
        let guarded = template(text).unwrap();
        let check = |name: &str, attribute: bool| {
            format!(
                " %}}{{% if {name} is {COMPUTED}({attribute}) %}}{{% set {name} = {name}|{PLAIN}({attribute}) %}}{{% endif "
            )
        };
        assert_eq!(
            guarded,
            format!(
                "{{% set a = 1 {}%}}\n{{%- set ns.x, b = [a,\n 2] {}{}-%}}{{% set b | upper |{PLAIN}(false) %}}x{{% endset %}}{{{{ a }}}}",
                check("a", false),
                check("ns.x", true),
                check("b", false)
            )
        );
    }

    #[test]
    fn long_list_passes_and_long_chain_is_refused() {
        let list = format!("[{}]", vec!["a.b.c | upper"; 10_000].join(", "));
        assert_eq!(expression(&list), Ok(()));
        for part in ["|upper", ".a", "[0]", "+1", " and a", "|f(1,2)", " if a else b", "()"] {
            assert!(expression(&format!("a{}", part.repeat(1000))).is_err(), "{part}");
        }
        let elifs = format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}x".repeat(1000));
        assert!(template(&elifs).is_err());
    }
}
