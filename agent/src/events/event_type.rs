//! The complete list of event types.

/// Declares the event types: documentation, variant and name of each type. `alarm` marks an event type that reports the
/// beginning and the end of a condition.
macro_rules! event_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal $($alarm:ident)?;)+) => {
        /// The type of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl EventType {
            /// All event types, in the order in which `towpath explain events` shows them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name of the type: an area and a short description, such as `task.failed`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Returns the description of the type.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// Returns whether the type is an alarm. An alarm causes an event when its condition begins, and another
            /// event when the condition ends.
            pub fn is_alarm(self) -> bool {
                match self { $(Self::$variant => event_types!(@ $($alarm)?)),+ }
            }
        }
    };
    (@ alarm) => { true };
    (@) => { false };
}

event_types! {
    /// A source cannot be fetched, or its mirror is damaged.
    SourceUnreachable = "source.unreachable" alarm;
    /// The head of a source is not signed as the source requires.
    SourceUnverified = "source.unverified" alarm;
    /// The head of a source does not descend from the accepted commit, or a version tag has moved or gone back.
    SourceRewound = "source.rewound" alarm;
    /// A damaged mirror was fetched again.
    SourceMirrorRebuilt = "source.mirror-rebuilt";
    /// A revision was accepted.
    RevisionAccepted = "revision.accepted";
    /// The head of a source was rejected, because its objects are not valid.
    RevisionRejected = "revision.rejected" alarm;
    /// This node does not adopt the revision that the fleet accepted.
    RevisionRejectedLocally = "revision.rejected-locally" alarm;
    /// An object is not valid together with the other objects, and is held. Nodes keep the last valid version of the
    /// held object.
    RevisionObjectHeld = "revision.object-held" alarm;
    /// A run of a TaskBook has started.
    RunStarted = "run.started";
    /// A run of a TaskBook has ended without a failure.
    RunSucceeded = "run.succeeded";
    /// A run of a TaskBook has failed. The agent retries.
    RunFailed = "run.failed";
    /// A TaskBook was changed or deleted before its run had succeeded.
    RunSuperseded = "run.superseded";
    /// A rollout has started: this node has accepted the revision that contains the rollout.
    RolloutStarted = "rollout.started";
    /// This node has opened a wave of a rollout.
    RolloutWaveOpened = "rollout.wave-opened";
    /// This node has opened a barrier of a rollout, because all nodes have completed the segment before the barrier.
    RolloutBarrierOpened = "rollout.barrier-opened";
    /// This node was elected for a task.
    RolloutElected = "rollout.elected";
    /// A rollout was halted, because more nodes have failed than the rollout permits. This node has recorded the
    /// failure or loss that halted the rollout.
    RolloutHalted = "rollout.halted" alarm;
    /// All nodes have completed a rollout.
    RolloutFinished = "rollout.finished";
    /// A lost node was written off, so that a rollout continues without this node.
    RolloutNodeWrittenOff = "rollout.node-written-off";
    /// A task has changed something.
    TaskChanged = "task.changed";
    /// A task fails.
    TaskFailed = "task.failed" alarm;
    /// A TaskBook or a task is held.
    TaskHeld = "task.held" alarm;
    /// A handler fails.
    TaskHandlerFailed = "task.handler-failed" alarm;
    /// Drift was corrected.
    DriftCorrected = "drift.corrected";
    /// Drift was found, and was only reported because of `drift: report`.
    DriftReported = "drift.reported" alarm;
    /// An item that is no longer in git was removed from the node.
    PruneRemoved = "prune.removed";
    /// A TaskBook has more items to remove than the prune budget allows.
    PruneHeld = "prune.held" alarm;
    /// Another node has joined, or has returned.
    NodeJoined = "node.joined";
    /// Another node has stopped in an orderly way.
    NodeLeft = "node.left";
    /// Another node does not answer any node of the fleet.
    NodeLost = "node.lost" alarm;
    /// The fleet rejects this node: its key is revoked, or is not the key in git.
    NodeRejected = "node.rejected" alarm;
    /// Another machine runs with the key of this node.
    NodeCloned = "node.cloned" alarm;
    /// This node was rebooted.
    NodeRebooted = "node.rebooted";
    /// No other node of the cluster has joined. The name of the cluster may be misspelt.
    NodeNeverJoined = "node.never-joined" alarm;
    /// The agent has started.
    AgentStarted = "agent.started";
    /// The agent was stopped.
    AgentStopped = "agent.stopped";
    /// The agent has started with another version than before.
    AgentUpgraded = "agent.upgraded";
    /// The agent cannot write to a file system, because the file system is full or read-only.
    AgentDiskFull = "agent.disk-full" alarm;
    /// The clock of the node went back.
    AgentClockJumped = "agent.clock-jumped" alarm;
    /// The journal was damaged, and the agent has started a new journal.
    AgentJournalDamaged = "agent.journal-damaged" alarm;
    /// The state directory was deleted or replaced while the agent was running.
    AgentStateLost = "agent.state-lost" alarm;
    /// The data store does not answer.
    StoreUnreachable = "store.unreachable" alarm;
    /// The data store was restored from a backup, and this node has published its claims again.
    StoreRestored = "store.restored" alarm;
    /// A record in the data store is ignored, because its writer had no permission to write this record.
    StoreRecordRejected = "store.record-rejected";
    /// The data store is full.
    StoreFull = "store.full" alarm;
    /// The certificate of this node has less than a third of its lifetime left, or has expired.
    CertificateExpiring = "certificate.expiring" alarm;
    /// The agent uses a new certificate of this node, without a restart.
    CertificateRenewed = "certificate.renewed";
    /// This node, another node or a person has used a revoked certificate or key.
    CertificateRevoked = "certificate.revoked";
}

impl EventType {
    /// Returns the event type with the given name. Returns `None` for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event_type| event_type.name() == name)
    }
}
