//! All gates of a change, in one evaluator that also explains: which gate, and what would open it.

use std::fmt;

/// One thing that holds a change back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The reason, as status has it: Window, Suspended, Slot …
    pub reason: &'static str,
    /// What would open it.
    pub opens: String,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.opens)
    }
}

/// What is asked of the gates.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Announced pauses: a reason and an end (seconds since 1970).
    pub suspended: Vec<(String, i64)>,
    /// The time (seconds since 1970).
    pub now: i64,
    /// Dependencies that are not done.
    pub dependencies: Vec<String>,
}

/// The right to change. Only the gates give it.
#[derive(Debug)]
#[must_use = "a permit is there to be used"]
pub struct Permit {
    _private: (),
}

impl Gates {
    /// The permit, or the gates that are closed.
    ///
    /// # Errors
    /// All gates that hold the change back.
    pub fn pass(&self) -> Result<Permit, Vec<Gate>> {
        let mut closed: Vec<Gate> = Vec::new();
        for (reason, _) in self.suspended.iter().filter(|(_, until)| *until > self.now) {
            closed.push(Gate { reason: "Suspended", opens: reason.clone() });
        }
        for dependency in &self.dependencies {
            closed.push(Gate { reason: "Dependency", opens: format!("{dependency} must be applied first") });
        }
        if closed.is_empty() { Ok(Permit { _private: () }) } else { Err(closed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_combine() {
        assert!(Gates::default().pass().is_ok());
        let gates = Gates {
            suspended: vec![("audit".into(), 10), ("over".into(), 3)],
            now: 5,
            dependencies: vec!["a/b".into()],
        };
        let closed = gates.pass().unwrap_err();
        assert_eq!(closed.iter().map(|gate| gate.reason).collect::<Vec<_>>(), ["Suspended", "Dependency"]);
    }
}
