//! The gates of a change: closed conditions, each with its reason and the event that opens it (P89). [`Gates`] evaluates
//! those that one node knows alone. Slots, waves and barriers are gates of a rollout, and `explain` describes them.

use std::fmt;

use crate::store::StoreError;

/// Defines the reasons with their names.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The reason of a closed gate. `status` shows its name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum GateReason {
            $($(#[$doc])* $name,)*
        }

        impl GateReason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    /// No maintenance window is open.
    Window,
    /// The book or a group of nodes is suspended.
    Suspended,
    /// No slot is free.
    Slot,
    /// The wave of the node has not opened.
    Wave,
    /// Other nodes have not completed the segments before a barrier.
    Barrier,
    /// The rollout is halted, or a removal exceeds its budget.
    Budget,
    /// Another book, node or result is not ready.
    Dependency,
    /// The data store does not answer.
    StoreUnreachable,
    /// The fleet has accepted a record that only a newer agent can read.
    AgentTooOld,
}

impl GateReason {
    /// Returns the reason with a name. Another agent may have a reason that this one lacks: it counts as a dependency.
    pub fn named(name: &str) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.name() == name).unwrap_or(Self::Dependency)
    }
}

impl fmt::Display for GateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A condition that blocks a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The reason.
    pub reason: GateReason,
    /// The thing that is waited for, and the event that ends the wait.
    pub opens: String,
    /// The time since which the gate is closed, in milliseconds since 1970. `None` if it is not known.
    pub since: Option<i64>,
    /// The action by which an administrator opens the gate. `None` if nothing but time is needed.
    pub action: Option<String>,
    /// True if the data store shows the gate to every node. False if only this node knows it.
    pub is_shared: bool,
}

impl Gate {
    /// Creates a gate that only this node knows.
    pub fn new(reason: GateReason, opens: impl Into<String>) -> Self {
        Self { reason, opens: opens.into(), since: None, action: None, is_shared: false }
    }

    /// Creates a gate that the data store shows to every node.
    pub fn shared(reason: GateReason, opens: impl Into<String>) -> Self {
        Self { is_shared: true, ..Self::new(reason, opens) }
    }

    /// Creates the gate of a data store that does not answer.
    pub fn unreachable(error: &StoreError) -> Self {
        let opens = format!(
            "{error}; rollouts are paused and resume when the data store answers. Content drift is still corrected"
        );
        Self::shared(GateReason::StoreUnreachable, opens)
    }

    /// Sets the time since which the gate is closed.
    #[must_use]
    pub fn since(self, since: Option<i64>) -> Self {
        Self { since, ..self }
    }

    /// Sets the action by which an administrator opens the gate.
    #[must_use]
    pub fn action(self, action: impl Into<String>) -> Self {
        Self { action: Some(action.into()), ..self }
    }

    /// Returns the message for people: what is waited for, and the action.
    pub fn message(&self) -> String {
        match &self.action {
            Some(action) => format!("{}. {action}", self.opens),
            None => self.opens.clone(),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message())
    }
}

/// The inputs of the evaluation.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// Announced pauses.
    pub suspended: Vec<Suspension>,
    /// The time of the evaluation. Unit: seconds since 1970.
    pub now: i64,
    /// Dependencies that are not yet applied.
    pub dependencies: Vec<String>,
    /// Gates that are closed for a reason of their own, such as a data store that does not answer.
    pub closed: Vec<Gate>,
}

/// An announced pause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspension {
    /// The reason as written.
    pub reason: String,
    /// The end as written.
    pub until: String,
    /// The end. Unit: seconds since 1970.
    pub ends: i64,
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
        for pause in self.suspended.iter().filter(|pause| pause.ends > self.now) {
            let opens = format!("suspended ({}); continues at {}", pause.reason, pause.until);
            closed
                .push(Gate::new(GateReason::Suspended, opens).action("Remove `suspend` from git to continue earlier"));
        }
        for dependency in &self.dependencies {
            let opens = format!("waiting for {dependency}; continues when it is applied");
            closed.push(Gate::new(GateReason::Dependency, opens));
        }
        closed.extend(self.closed.iter().cloned());
        if closed.is_empty() { Ok(Permit { _private: () }) } else { Err(closed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_combine() {
        assert!(Gates::default().pass().is_ok());
        let pause = |reason: &str, ends| Suspension { reason: reason.into(), ends, ..Suspension::default() };
        let gates = Gates {
            suspended: vec![pause("audit", 10), pause("over", 3)],
            now: 5,
            dependencies: vec!["a/b".into()],
            closed: vec![Gate::unreachable(&StoreError::LeaseGone)],
        };
        let closed = gates.pass().unwrap_err();
        let reasons: Vec<_> = closed.iter().map(|gate| gate.reason.name()).collect();
        assert_eq!(reasons, ["Suspended", "Dependency", "StoreUnreachable"]);
    }

    #[test]
    fn reason_of_a_newer_agent_is_a_dependency() {
        for reason in GateReason::ALL {
            assert_eq!(GateReason::named(reason.name()), *reason);
        }
        assert_eq!(GateReason::named("Moon"), GateReason::Dependency);
    }
}
