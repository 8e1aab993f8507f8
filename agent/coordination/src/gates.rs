//! The gates of a change. One evaluator decides and explains: it names each closed gate, and what opens it (P89).

use std::fmt;

/// A condition that blocks a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The reason as `status` shows it: Window, Suspended, Slot …
    pub reason: &'static str,
    /// The event that opens the gate.
    pub opens: String,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.opens)
    }
}

/// The inputs of the evaluation.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Announced pauses: a reason and an end. Unit: seconds since 1970.
    pub suspended: Vec<(String, i64)>,
    /// The time of the evaluation. Unit: seconds since 1970.
    pub now: i64,
    /// Dependencies that are not yet applied.
    pub dependencies: Vec<String>,
}

/// The proof that all gates are open. Only [`Gates::pass`] creates one.
#[derive(Debug)]
#[must_use = "a permit is there to be used"]
pub struct Permit {
    _private: (),
}

impl Gates {
    /// Returns the permit.
    ///
    /// # Errors
    /// All gates that are closed.
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
