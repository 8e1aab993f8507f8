//! Limits of templates that let the engine work within the stack of a thread.
//!
//! The parser and the compiler of the engine recurse, and so does the release of nested values. The text determines
//! their depth, so it is limited here. The limits apply to chains of operators, to nested `elif`, and to the values
//! that `set` assigns.

use std::{borrow::Cow, ops::Range};

use minijinja::machinery::{Token, tokenize};

use super::syntax_config;

/// Maximum number of chained operators, filters and attributes in one expression.
///
/// The agent renders on threads with a stack of 2 MiB: its loop, and one thread for each task of a parallel book. These
/// are the costs in the release build: at most 0.36 KiB for a link of a chain, 1.1 KiB for an `elif`, 2 KiB for a
/// block, 0.9 KiB for a level of a value. The deepest text has the engine's 150 blocks, all `elif`, and the longest
/// chain in them. It takes 391 KiB, less than a fifth of the stack.
const CHAIN: usize = 400;

/// Maximum number of `elif` in all open `if` of a template.
const ELIFS: usize = 100;

/// The test that checks whether [`PLAIN`] is needed for an assigned value. A test costs no fuel for its text or list,
/// and a filter does.
pub(super) const COMPUTED: &str = "computed_of_set";

/// The filter that copies the parts of an assigned value which are computed on demand.
pub(super) const PLAIN: &str = "plain_of_set";

/// Texts up to this length cannot contain a chain that is too long.
const SHORT: usize = 400;

/// Checks a template, and adds a check of depth after each assignment.
///
/// # Errors
/// If a chain is too long.
pub(super) fn template(text: &str) -> Result<Cow<'_, str>, String> {
    if text.len() <= SHORT && !text.contains("set") {
        return Ok(Cow::Borrowed(text));
    }
    check(text, false)
}

/// Checks an expression.
///
/// # Errors
/// If a chain is too long.
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
        // The engine reports this error itself.
        let Ok((token, span)) = token else { return Ok(Cow::Borrowed(text)) };
        chains
            .next(&token)
            .map_err(|TooLong| format!("an expression chains more than {CHAIN} operators, filters or names"))?;
        if elifs.next(&token) > ELIFS {
            return Err(format!("an if has more than {ELIFS} elif; use a map, or several if"));
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

/// The `elif` of the open `if`. Each is nested in the one before it.
#[derive(Default)]
struct Elifs {
    open: Vec<usize>,
    total: usize,
    /// True if the next token is the first word of a block.
    first: bool,
}

impl Elifs {
    /// Returns the number of open `elif` after a token.
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

/// The error for a chain of more than [`CHAIN`] links.
struct TooLong;

/// The lengths of the chains in the open brackets and loops. Their sum is limited, because a value of one loop is
/// nested further in the next. A comma ends a chain. A bracket counts as its longest chain.
#[derive(Default)]
struct Chains {
    open: Vec<Chain>,
    /// The links of the open chains.
    total: usize,
    /// The links of each open block that binds names.
    blocks: Vec<usize>,
    keyword: Keyword,
}

#[derive(Default)]
struct Chain {
    now: usize,
    longest: usize,
}

/// The state at the first word of a block.
#[derive(Default)]
enum Keyword {
    /// The next token is the first word.
    Next,
    /// The block binds names until its end.
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

    /// Ends an expression and returns the links of its longest chain.
    fn end(&mut self) -> usize {
        let mut longest = 0;
        for chain in self.open.drain(..) {
            self.total -= chain.now;
            longest = longest.max(chain.now).max(chain.longest);
        }
        longest
    }
}

/// The state that adds a check of depth after each `set`. `{% set a = b %}` becomes `{% set a = b %}{% if a is
/// computed_of_set(false) %}{% set a = a|plain_of_set(false) %}{% endif %}`.
#[derive(Default)]
enum Set {
    #[default]
    Outside,
    /// At the first word of a block.
    First,
    /// Before the `=`; `joined` is true after a dot.
    Names { names: Vec<Name>, joined: bool },
    /// In the assigned expression.
    Value(Vec<Name>),
    /// In the filters of an assigned block.
    Filters { attribute: bool },
}

/// An assigned name.
struct Name {
    bytes: Range<usize>,
    /// True for an attribute of a namespace.
    attribute: bool,
}

impl Set {
    /// Returns the text that belongs before this token.
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
