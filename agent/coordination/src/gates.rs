//! The gates of a change. A gate is a condition that blocks a change. Each closed gate states its reason, and the event
//! after which the change may continue (P89). [`Gates`] evaluates the gates that a node can check without records of
//! other nodes. Slots, waves and barriers are gates of a rollout, and the module `explain` describes them.

use std::fmt;

use crate::store::StoreError;

/// Defines the reasons for which a gate can be closed, with the name of each reason.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The reason for which a gate is closed. `status` shows the name of the reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum GateReason {
            $($(#[$doc])* $name,)*
        }

        impl GateReason {
            /// All reasons for which a gate can be closed.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Returns the name by which `status` shows the reason.
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
    /// A barrier is closed, because other nodes have not completed the segments before the barrier.
    Barrier,
    /// The rollout is halted, or a removal exceeds the prune budget.
    Budget,
    /// The change waits for another book, for a node, or for the result of a task.
    Dependency,
    /// The data store does not answer.
    StoreUnreachable,
    /// Only a newer agent can read the acceptance record of the fleet.
    AgentTooOld,
}

impl GateReason {
    /// Returns the reason with the name `name`. Returns `Dependency` for a name that this agent does not know.
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
    /// The message about the closed gate: the cause of the wait, and the event after which the change may continue.
    pub opens: String,
    /// The time since which the gate is closed, in milliseconds since 1970. `None` if the time is not known.
    pub since: Option<i64>,
    /// The action by which an administrator opens the gate. `None` if the gate opens without an action.
    pub action: Option<String>,
    /// True if every node can derive the gate from the data store. False if only this node knows the gate.
    pub is_shared: bool,
}

impl Gate {
    /// Creates a gate that only this node knows.
    pub fn new(reason: GateReason, opens: impl Into<String>) -> Self {
        Self { reason, opens: opens.into(), since: None, action: None, is_shared: false }
    }

    /// Creates a gate that every node can derive from the data store.
    pub fn shared(reason: GateReason, opens: impl Into<String>) -> Self {
        Self { is_shared: true, ..Self::new(reason, opens) }
    }

    /// Creates a closed gate from the error of a request to the data store.
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
    /// The suspensions (field `suspend` in git) that apply to the book on this node.
    pub suspended: Vec<Suspension>,
    /// The time of the evaluation. Unit: seconds since 1970.
    pub now: i64,
    /// The dependencies of the book that this node has not applied yet.
    pub dependencies: Vec<String>,
    /// The other closed gates that the caller knows, such as the gate for a data store that does not answer.
    pub found: Vec<Gate>,
}

/// A suspension of a book or of the whole fleet, from the field `suspend` in git.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspension {
    /// The reason for the suspension, as text from git.
    pub reason: String,
    /// The end of the suspension, as text from git.
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
            let opens = format!("waiting for {dependency}; continues when the dependency is applied");
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
