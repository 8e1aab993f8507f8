//! Placeholders for values that differ from run to run, numbered in the order of their first appearance. Equal values
//! keep equal names.

use std::collections::BTreeMap;

use serde_json::Value;

/// Fields of records that depend on the machine, the build or the time.
const FIELDS: [&str; 6] = ["boot", "machineId", "mirrors", "publicKeys", "sign", "version"];

/// A field that is left out: the time that something took.
const LEFT_OUT: &str = "took";

/// Returns a record in which the fields that differ from machine to machine are replaced.
pub fn record(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let field = |(name, value): (&String, &Value)| {
                let differs = FIELDS.contains(&name.as_str()) && !value.is_null();
                let value = if differs { Value::String(format!("<{name}>")) } else { record(value) };
                (name.clone(), value)
            };
            Value::Object(map.iter().filter(|(name, _)| *name != LEFT_OUT).map(field).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(record).collect()),
        other => other.clone(),
    }
}

/// The placeholders of one trace.
#[derive(Debug, Default)]
pub struct Names {
    /// Texts that are replaced literally, such as folders.
    texts: Vec<(String, String)>,
    known: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Names {
    /// Replaces every occurrence of a text.
    pub fn replace(&mut self, text: impl Into<String>, name: &str) {
        self.texts.push((text.into(), name.to_owned()));
    }

    /// Returns a line with placeholders.
    pub fn apply(&mut self, line: &str) -> String {
        self.each_token(line, |names, kind, token| names.name(kind, token))
    }

    /// Returns a line in which all placeholders of a kind are equal, for sorting.
    pub fn blank(&mut self, line: &str) -> String {
        self.each_token(line, |_, kind, _| format!("<{kind}>"))
    }

    fn each_token(&mut self, line: &str, mut name: impl FnMut(&mut Self, &'static str, &str) -> String) -> String {
        let mut line = line.to_owned();
        for (text, name) in &self.texts {
            line = line.replace(text, name);
        }
        let mut out = String::new();
        let mut token = String::new();
        for character in line.chars().chain(['\n']) {
            if character.is_ascii_hexdigit() && !character.is_ascii_uppercase() || character == '-' {
                token.push(character);
                continue;
            }
            // A word that only begins or ends like a digest is not one.
            let inside = character.is_alphanumeric() || out.ends_with(char::is_alphanumeric);
            match kind(&token).filter(|_| !inside) {
                Some(kind) => out.push_str(&name(self, kind, &token)),
                None => out.push_str(&token),
            }
            token.clear();
            out.push(character);
        }
        out.pop();
        out
    }

    fn name(&mut self, kind: &'static str, token: &str) -> String {
        // The first digits of a commit or digest that was seen before.
        let whole = self.known.iter().find(|(known, _)| known.len() > token.len() && known.starts_with(token));
        if let Some((_, name)) = whole.filter(|_| kind == "short") {
            return name.replace('>', "…>");
        }
        if let Some(name) = self.known.get(token) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("<{kind}-{count}>");
        self.known.insert(token.to_owned(), name.clone());
        name
    }
}

/// Returns the kind of value that a token is. `None`: it is the same in each run.
fn kind(token: &str) -> Option<&'static str> {
    let dashes: Vec<usize> = token.split('-').map(str::len).collect();
    match dashes[..] {
        [8, 4, 4, 4, 12] => Some("uuid"),
        [64] => Some("digest"),
        [40] => Some("commit"),
        [32] => Some("id"),
        // The beginning of a commit, or of the digest in the name of a run.
        [12] => Some("short"),
        _ => None,
    }
}

#[test]
fn equal_values_keep_equal_names() {
    let mut names = Names::default();
    names.replace("/tmp/x1", "<folder>");
    let (a, b) = ("a".repeat(64), "b".repeat(40));
    let line = format!("{{\"k\":\"{a}\"}} {b} {a} x{a} {} /tmp/x1/f", &b[..12]);
    assert_eq!(
        names.apply(&line),
        format!("{{\"k\":\"<digest-1>\"}} <commit-1> <digest-1> x{a} <commit-1…> <folder>/f")
    );
    assert_eq!(names.apply("1767614400000 deadbeef n1"), "1767614400000 deadbeef n1");
    let uuid = "0190aaaa-bbbb-7ccc-8ddd-eeeeffff0000";
    assert_eq!(names.apply(&format!("event/{uuid}")), "event/<uuid-1>");
    assert_eq!(names.blank(&a), "<digest>");
}
