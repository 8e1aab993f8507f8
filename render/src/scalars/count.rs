//! A count of nodes in an object, written as a number or a percentage.

use serde_json::Value;

use super::digits;
use crate::problem::Finding;

/// A count of nodes, as a number or as a percentage of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A fixed number of nodes.
    Nodes(u64),
    /// A percentage of nodes.
    Percent(u64),
}

impl Count {
    /// Reads a count of nodes, such as `3`, `"3"` or `25%`.
    ///
    /// # Errors
    /// Returns the reason why the value is invalid.
    pub fn read(value: &Value) -> Result<Self, Finding> {
        let wrong = |shown: &str| {
            Finding::new(format!("{shown} is not a count"))
                .hint("write a number of nodes like 3, or a percentage like 25%")
        };
        match value {
            Value::Number(number) => number.as_u64().map(Self::Nodes).ok_or_else(|| wrong(&number.to_string())),
            Value::String(text) => match text.strip_suffix('%') {
                Some(percent) => {
                    let percent: u64 = digits(percent.trim()).ok_or_else(|| wrong(text))?;
                    if percent > 100 {
                        return Err(Finding::new(format!("{text} is more than 100%")).hint("write at most 100%"));
                    }
                    Ok(Self::Percent(percent))
                }
                None => digits(text).map(Self::Nodes).ok_or_else(|| wrong(text)),
            },
            other => Err(wrong(&other.to_string())),
        }
    }

    /// Converts the count to a number of nodes. If the count is a percentage, the argument `of` is 100 %. A percentage
    /// is rounded down, but results in at least one node.
    pub fn at_least_one(self, of: u64) -> u64 {
        match self {
            Self::Nodes(nodes) => nodes,
            Self::Percent(percent) => (of * percent / 100).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_percentages_are_parsed() {
        assert_eq!(Count::read(&Value::from(3)).unwrap(), Count::Nodes(3));
        assert_eq!(Count::read(&Value::from("25%")).unwrap(), Count::Percent(25));
        assert_eq!(Count::Percent(25).at_least_one(3), 1);
        assert!(Count::read(&Value::from("120%")).is_err());
        assert!(Count::read(&Value::from(-1)).is_err());
        for wrong in ["many", "+3", "+25%", "", "%", "3 "] {
            assert!(Count::read(&Value::from(wrong)).is_err(), "{wrong:?}");
        }
    }
}
