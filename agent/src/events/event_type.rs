//! The closed list of event types.

/// Declares the event types: the documentation, the name, and `alarm` for a condition that begins and ends.
macro_rules! event_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal $($alarm:ident)?;)+) => {
        /// The type of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventType {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl EventType {
            /// All types, in the order in which `towpath explain events` shows them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the name: the area and the happening.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Returns the description.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }

            /// Returns whether the type has a state: one event when the condition begins, and one when it ends.
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
    /// The revision that the fleet accepted is not followed by this node.
    RevisionRejectedLocally = "revision.rejected-locally" alarm;
    /// An object is not valid beside the other objects, and is held: its last version stays on the nodes.
    RevisionObjectHeld = "revision.object-held" alarm;
    /// A book run has begun.
    RunStarted = "run.started";
    /// A book run has ended without a failure.
    RunSucceeded = "run.succeeded";
    /// A book run has failed. The agent tries again.
    RunFailed = "run.failed";
    /// A book has changed before its run had succeeded.
    RunSuperseded = "run.superseded";
    /// A rollout has begun: this node has accepted the revision that contains it.
    RolloutStarted = "rollout.started";
    /// A wave of a rollout was opened by this node.
    RolloutWaveOpened = "rollout.wave-opened";
    /// A barrier of a rollout was opened by this node, as all nodes have completed the segment before it.
    RolloutBarrierOpened = "rollout.barrier-opened";
    /// This node was elected for a task.
    RolloutElected = "rollout.elected";
    /// A failure or a loss that this node has recorded has halted a rollout: more nodes have failed than it permits.
    RolloutHalted = "rollout.halted" alarm;
    /// All nodes have completed a rollout.
    RolloutFinished = "rollout.finished";
    /// A lost node was written off, so that a rollout continues without it.
    RolloutNodeWrittenOff = "rollout.node-written-off";
    /// A task has changed something.
    TaskChanged = "task.changed";
    /// A task fails.
    TaskFailed = "task.failed" alarm;
    /// A book or a task is held.
    TaskHeld = "task.held" alarm;
    /// A handler fails.
    TaskHandlerFailed = "task.handler-failed" alarm;
    /// Drift was corrected.
    DriftCorrected = "drift.corrected";
    /// Drift was found and is left, as `drift: report` asks.
    DriftReported = "drift.reported" alarm;
    /// An item that is no longer in git was removed from the node.
    PruneRemoved = "prune.removed";
    /// More items would be removed than the prune budget allows.
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
    /// This node was booted again.
    NodeRebooted = "node.rebooted";
    /// No other node with the cluster name of this node has joined.
    NodeNeverJoined = "node.never-joined" alarm;
    /// The agent has started.
    AgentStarted = "agent.started";
    /// The agent was stopped.
    AgentStopped = "agent.stopped";
    /// The agent has started with another version.
    AgentUpgraded = "agent.upgraded";
    /// A file system is full or read-only, and the agent cannot write to it.
    AgentDiskFull = "agent.disk-full" alarm;
    /// The clock of the node went back.
    AgentClockJumped = "agent.clock-jumped" alarm;
    /// The journal was damaged, and a new one was begun.
    AgentJournalDamaged = "agent.journal-damaged" alarm;
    /// The state directory was deleted or replaced below the running agent.
    AgentStateLost = "agent.state-lost" alarm;
    /// The data store does not answer.
    StoreUnreachable = "store.unreachable" alarm;
    /// The data store was restored from a backup, and this node has published its claims again.
    StoreRestored = "store.restored" alarm;
    /// A record in the data store is ignored, because its writer had no right to write it.
    StoreRecordRejected = "store.record-rejected";
    /// The data store is full.
    StoreFull = "store.full" alarm;
}

impl EventType {
    /// Returns the type with a name. `None` for a name that is not in the list.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event_type| event_type.name() == name)
    }
}
