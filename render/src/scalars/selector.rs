//! Label selectors with the syntax of Kubernetes: matchLabels and matchExpressions, or one line of text.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::problem::Finding;

/// A label selector: a set of requirements that the labels of a node must all satisfy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Returns true if the labels of a node satisfy all requirements. As in Kubernetes, `!=` and `notin` are true if
    /// the node does not have the label.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Missing(key) => !labels.contains_key(key),
        })
    }

    /// Returns the labels that a node must have, each with the values that the selector allows.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.requirements.iter().filter_map(|requirement| match requirement {
            Requirement::In(key, values) => Some((key.as_str(), values.as_slice())),
            _ => None,
        })
    }

    /// Reads a selector that is written as a map or as a line of text. If the selector is a map, the caller must first
    /// check the map against the schema.
    ///
    /// # Errors
    /// Returns the reason why the selector is invalid.
    pub fn read(value: &Value) -> Result<Self, Finding> {
        match value {
            Value::String(text) => Self::line(text),
            Value::Object(map) => Self::map(map),
            _ => Err(Finding::new("a selector is a map or a string")
                .hint("write {matchLabels: {tier: front}} or \"tier=front\"")),
        }
    }

    fn map(map: &serde_json::Map<String, Value>) -> Result<Self, Finding> {
        let mut requirements = Vec::new();
        if let Some(Value::Object(labels)) = map.get("matchLabels") {
            for (key, value) in labels {
                requirements.push(Requirement::In(key.clone(), vec![word(value)?]));
            }
        }
        if let Some(Value::Array(expressions)) = map.get("matchExpressions") {
            for expression in expressions {
                let key = word(expression.get("key").unwrap_or(&Value::Null))?;
                let values = match expression.get("values") {
                    Some(Value::Array(values)) => values.iter().map(word).collect::<Result<Vec<_>, _>>()?,
                    _ => Vec::new(),
                };
                let operator = expression.get("operator").and_then(Value::as_str).unwrap_or_default();
                let needs_values = matches!(operator, "In" | "NotIn");
                if needs_values == values.is_empty() {
                    let message =
                        format!("the operator {operator} {} values", if needs_values { "needs" } else { "takes no" });
                    return Err(Finding::new(message));
                }
                requirements.push(match operator {
                    "In" => Requirement::In(key, values),
                    "NotIn" => Requirement::NotIn(key, values),
                    "Exists" => Requirement::Exists(key),
                    "DoesNotExist" => Requirement::Missing(key),
                    other => {
                        return Err(Finding::new(format!("{other:?} is not an operator"))
                            .hint("one of: In, NotIn, Exists, DoesNotExist"));
                    }
                });
            }
        }
        if requirements.is_empty() {
            return Err(Finding::new("the selector selects everything")
                .hint("write at least one of matchLabels, matchExpressions"));
        }
        Ok(Self { requirements })
    }

    /// Reads a selector that is written as a line, such as `tier=front,rack in (a, b),!old,env!=test,zone`.
    ///
    /// # Errors
    /// Returns the reason why the line is invalid.
    pub fn line(text: &str) -> Result<Self, Finding> {
        let mut requirements = Vec::new();
        for part in split(text) {
            let part = part.trim();
            let requirement = requirement(part).ok_or_else(|| {
                Finding::new(format!("{part:?} is not a part of a selector"))
                    .hint("write it like tier=front, env!=test, rack in (a, b), zone or !old, separated by commas")
            })?;
            requirements.push(requirement);
        }
        Ok(Self { requirements })
    }
}

/// Splits the line of a selector at the commas outside of parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

fn requirement(part: &str) -> Option<Requirement> {
    let name = |text: &str| {
        let text = text.trim();
        let allowed = |character: char| character.is_alphanumeric() || "-_./".contains(character);
        (!text.is_empty() && text.chars().all(allowed)).then(|| text.to_owned())
    };
    let value = |text: &str| if text.trim().is_empty() { Some(String::new()) } else { name(text) };
    if let Some(key) = part.strip_prefix('!') {
        return Some(Requirement::Missing(name(key)?));
    }
    if let Some((key, one)) = part.split_once("!=") {
        return Some(Requirement::NotIn(name(key)?, vec![value(one)?]));
    }
    if let Some((key, one)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(name(key)?, vec![value(one)?]));
    }
    if let Some(open) = part.find('(') {
        let inner = part[open + 1..].strip_suffix(')')?;
        let values = inner.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let mut words = part[..open].split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Some(Requirement::In(name(key)?, values)),
            (Some(key), Some("notin"), None) => Some(Requirement::NotIn(name(key)?, values)),
            _ => None,
        };
    }
    Some(Requirement::Exists(name(part)?))
}

fn word(value: &Value) -> Result<String, Finding> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(bool) => Ok(bool.to_string()),
        other => Err(Finding::new(format!("{other} is not a label"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn both_forms_agree() {
        let line = Selector::line("tier=front, rack in (a, b), !old, env!=test, zone").unwrap();
        let map = Selector::read(&crate::document::parse_value(
            "matchLabels: {tier: front}\nmatchExpressions:\n  - {key: rack, operator: In, values: [a, b]}\n  - {key: old, operator: DoesNotExist}\n  - {key: env, operator: NotIn, values: [test]}\n  - {key: zone, operator: Exists}\n",
        ))
        .unwrap();
        assert_eq!(line, map);
        assert!(line.matches(&labels(&[("tier", "front"), ("rack", "b"), ("zone", "z")])));
        assert!(!line.matches(&labels(&[("tier", "front"), ("rack", "c"), ("zone", "z")])));
        assert!(!line.matches(&labels(&[("tier", "front"), ("rack", "a"), ("zone", "z"), ("old", "")])));
    }

    #[test]
    fn malformed_selectors_are_rejected() {
        for wrong in ["", "a b", "rack in a", "rack in (a", "=x", "a,,b"] {
            assert!(Selector::line(wrong).is_err(), "{wrong}");
        }
    }
}
