//! The gates of a change. A gate is a condition that blocks a change. A closed gate has a reason, and names the event
//! that opens the gate (P89). [`Gates`] evaluates the gates that a node can check without data of other nodes. Slots,
//! waves and barriers are gates of a rollout, and the module `explain` describes them.

use std::fmt;

use crate::store::StoreError;

/// Defines the reasons of closed gates and their names.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The reason why a gate is closed. `status` shows the name of the reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum GateReason {
            $($(#[$doc])* $name,)*
        }

        impl GateReason {
            /// All reasons why a gate can be closed.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name of the reason, as `status` shows it.
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
    /// The book or the whole fleet is suspended.
    Suspended,
    /// No slot of the budget is free.
    Slot,
    /// The wave of the node has not opened.
    Wave,
    /// Other nodes have not completed the segments before a barrier.
    Barrier,
    /// The rollout is halted, or a removal exceeds the prune budget.
    Budget,
    /// The change waits for another book, node or result that is not ready.
    Dependency,
    /// The data store does not answer.
    StoreUnreachable,
    /// The fleet has accepted a record that only a newer agent can read.
    AgentTooOld,
}

impl GateReason {
    /// Returns the reason with a given name. Returns `Dependency` for a name that this agent does not know.
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
    /// The reason why the gate is closed.
    pub reason: GateReason,
    /// The text that explains what the change waits for, and which event opens the gate.
    pub opens: String,
    /// The time since which the gate is closed, in milliseconds since 1970. `None` if the time is not known.
    pub since: Option<i64>,
    /// The action by which an administrator opens the gate. `None` if the gate opens without an action.
    pub action: Option<String>,
    /// True if the data store shows the gate to every node. False if only this node knows the gate.
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

    /// Creates the gate that is closed because the data store does not answer.
    pub fn unreachable(error: &StoreError) -> Self {
        if let StoreError::LostRaces(_) = error {
            return Self::shared(GateReason::Dependency, error.to_string());
        }
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

    /// Returns the message for people: the text of the gate, and the action if there is one.
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

/// The conditions that one node evaluates before a change.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// The suspensions that apply to the book on this node.
    pub suspended: Vec<Suspension>,
    /// The time of the evaluation. Unit: seconds since 1970.
    pub now: i64,
    /// The dependencies of the book that are not applied yet.
    pub dependencies: Vec<String>,
    /// The gates that the caller has already found closed, for example because the data store does not answer.
    pub found: Vec<Gate>,
}

/// A suspension of a book or of the whole fleet, as git states it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspension {
    /// The reason of the suspension, as git states it.
    pub reason: String,
    /// The end of the suspension, as git states it.
    pub until: String,
    /// The end of the suspension. Unit: seconds since 1970.
    pub ends: i64,
}

impl Gates {
    /// Returns the gates that are closed.
    pub fn closed(&self) -> Vec<Gate> {
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
        closed.extend(self.found.iter().cloned());
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_combine() {
        assert_eq!(Gates::default().closed(), []);
        let pause = |reason: &str, ends| Suspension { reason: reason.into(), ends, ..Suspension::default() };
        let gates = Gates {
            suspended: vec![pause("audit", 10), pause("over", 3)],
            now: 5,
            dependencies: vec!["a/b".into()],
            found: vec![Gate::unreachable(&StoreError::LeaseGone)],
        };
        let closed = gates.closed();
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
