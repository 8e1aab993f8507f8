//! The state machine of a node, and the conditions that `towpath status` shows. The state machine is pure: `step`
//! computes the next state from the current state and an input.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use towpath_coordination::GateReason;
use towpath_host::clock::rfc3339;
use towpath_proto::v1alpha as pb;
use towpath_reconcile::Outcome;
use towpath_state::{Acceptance, Record, kinds};

/// The persistent state of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The revision that the node has accepted.
    pub accepted: Acceptance,
    /// The revision that the node most recently attempted to apply.
    pub attempted: Option<Acceptance>,
    /// True until the first pass of the attempted revision ends. While `attempting` is true, `stalled` and `held`
    /// belong to an earlier revision.
    attempting: bool,
    /// The revision that the node most recently applied in full.
    pub applied: Option<Acceptance>,
    /// The problems that can end without a new commit, by source or subject.
    pub problems: BTreeMap<String, ConditionReason>,
    /// The messages about requests that git servers have not answered yet. Pending requests to git servers end when the
    /// agent stops.
    #[serde(skip)]
    pending: Vec<String>,
    /// The problems that only a new commit can end, by subject.
    pub stalled: BTreeMap<String, ConditionReason>,
    /// The reasons why changes are held, by subject and reason.
    pub held: BTreeMap<String, Hold>,
    /// The TaskBooks that ask for slots, waves or barriers, although the data store is local.
    pub uncoordinated: Vec<String>,
    /// The reason and the status of each condition, with the time of the most recent change.
    since: BTreeMap<String, (String, bool, i64)>,
    /// The time of the most recent tick of the wall clock (`Input::Tick`), in milliseconds since 1970.
    pub tick: i64,
    /// The number of passes that have ended since the clock went back.
    passes_since_jump: u32,
}

impl Record for State {
    type Kind = kinds::NodeState;
}

/// A problem that a condition of the status shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionReason {
    /// The reason of the condition, as one word.
    pub reason: String,
    /// The message of the condition: a sentence with the remedy.
    pub message: String,
}

impl ConditionReason {
    /// Creates a problem with a reason and a message.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// The reason why changes of a TaskBook, or of one of its tasks, are held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// The held TaskBook, as `namespace/name`.
    pub book: String,
    /// The run of the held TaskBook. `run` is empty if the TaskBook has no run.
    pub run: String,
    /// The held TaskBook (`namespace/name`) or task (`namespace/name/task`).
    pub subject: String,
    /// The reason of the hold, as one word.
    pub reason: String,
    /// The message of the hold: the reason to wait, and the event that ends the wait.
    pub opens: String,
    /// The action by which an administrator can end the wait.
    pub action: Option<String>,
    /// True if every node can read the reason of the hold in the data store.
    pub is_shared: bool,
    /// The time at which the hold began, in milliseconds since 1970. A new run resets the start time of the hold.
    pub since: i64,
}

impl Hold {
    /// Returns the message of the hold, with the action of the administrator.
    pub fn message(&self) -> String {
        match &self.action {
            Some(action) => format!("{}: {}. {action}", self.subject, self.opens),
            None => format!("{}: {}", self.subject, self.opens),
        }
    }
}

/// An input of the state machine of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A source failed, or works again (`None`).
    Source(String, Option<ConditionReason>),
    /// A refresh ended before the git servers answered the listed requests. Each request is a message.
    Pending(Vec<String>),
    /// A part of the node failed, or works again (`None`). The parts of the node include the journal, the fleet and the
    /// data store.
    Node(&'static str, Option<ConditionReason>),
    /// The head of a source was rejected, or is valid again (`None`).
    Rejected(String, Option<ConditionReason>),
    /// Local policy rejects the revision that the fleet accepted, or permits the revision again (`None`).
    RejectedLocally(Option<ConditionReason>),
    /// The fleet accepted a revision that only a newer agent can read (P12). `None` means that this agent can read the
    /// accepted revision again.
    TooOld(Option<String>),
    /// A revision was accepted.
    Accepted(Acceptance),
    /// The first pass of the accepted revision began.
    Began,
    /// A pass ended.
    Passed(Passed),
    /// A tick of the wall clock, in milliseconds since 1970.
    Tick(i64),
}

/// The parts of the result of a pass that change the state of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// The worst outcome of all tasks in the pass.
    pub worst: Outcome,
    /// A message that lists the failed tasks. `failed` is `None` if no task failed.
    pub failed: Option<String>,
    /// The holds that the pass found, in the order of the TaskBooks. The state machine sets the start time of each
    /// hold.
    pub held: Vec<Hold>,
    /// The disk problem that the pass found: a full or read-only disk.
    pub disk: Option<ConditionReason>,
    /// True if the pass was preempted.
    pub interrupted: bool,
    /// The TaskBooks that ask for slots, waves or barriers, although the data store is local.
    pub uncoordinated: Vec<String>,
}

/// The key of the hold that affects the whole node: only a newer agent can read the accepted revision.
const TOO_OLD: &str = "agent AgentTooOld";

/// The largest backward step of the clock that the node does not report, in milliseconds.
const JUMP: i64 = 5_000;

/// Returns the state of the node after an input.
#[must_use]
pub fn step(mut state: State, input: Input) -> State {
    match input {
        Input::Source(name, problem) => {
            note(&mut state.problems, &format!("source {name}"), problem);
        }
        Input::Pending(requests) => {
            state.pending = requests.iter().map(|request| towpath_git::without_secrets(request)).collect();
        }
        Input::Node(what, problem) => note(&mut state.problems, &format!("node {what}"), problem),
        Input::RejectedLocally(problem) => note(&mut state.stalled, "node accepted", problem),
        Input::Rejected(name, problem) => {
            note(&mut state.stalled, &format!("source {name}"), problem);
        }
        Input::TooOld(why) => {
            let since = state.held.remove(TOO_OLD).map_or(state.tick, |hold| hold.since);
            if let Some(opens) = why {
                let reason = GateReason::AgentTooOld.name().to_owned();
                let action = Some("Upgrade the agent of this node".to_owned());
                let hold = Hold { subject: "agent".into(), reason, opens, action, since, ..Hold::default() };
                state.held.insert(TOO_OLD.to_owned(), hold);
            }
        }
        Input::Accepted(acceptance) => {
            state.accepted = acceptance;
        }
        Input::Began => {
            state.attempted = Some(Acceptance { at: state.tick, ..state.accepted.clone() });
            state.attempting = true;
        }
        Input::Passed(passed) => state = pass(state, passed),
        Input::Tick(now) => {
            let back = state.tick - now;
            if back > JUMP {
                let message = format!(
                    "the clock went back by {} s; times in the status may overlap, but reconciliation is not affected; check the time service (chronyc tracking, timedatectl)",
                    back / 1000
                );
                state.passes_since_jump = 0;
                note(&mut state.problems, "clock", Some(ConditionReason::new("ClockJumped", message)));
            }
            state.tick = now;
        }
    }
    let now = state.tick;
    for condition in current(&state) {
        let key = condition.r#type.clone();
        let value = (condition.reason.clone(), condition.status);
        let changed = state
            .since
            .get(&key)
            .is_none_or(|(reason, status, since)| (reason.clone(), *status) != value || *since > now);
        if changed {
            state.since.insert(key, (value.0, value.1, now));
        }
    }
    state
}

fn note(map: &mut BTreeMap<String, ConditionReason>, key: &str, problem: Option<ConditionReason>) {
    match problem {
        Some(mut problem) => {
            problem.message = towpath_git::without_secrets(&problem.message);
            map.insert(key.to_owned(), problem);
        }
        None => drop(map.remove(key)),
    }
}

/// Returns the holds of a pass. If the previous pass had the same hold for the same run, the hold keeps its start time.
fn with_start_times(before: &BTreeMap<String, Hold>, held: Vec<Hold>, now: i64) -> BTreeMap<String, Hold> {
    let mut holds: BTreeMap<String, Hold> = BTreeMap::new();
    for hold in held {
        // A TaskBook may be held twice for the same reason, for example by two suspensions.
        let key = |number: usize| format!("{} {} {number}", hold.subject, hold.reason);
        let key = (0..).map(key).find(|key| !holds.contains_key(key)).unwrap_or_default();
        let known = before.get(&key).filter(|known| known.run == hold.run && known.since <= now);
        let since = known.map_or(now, |known| known.since);
        holds.insert(key, Hold { since, ..hold });
    }
    holds
}

fn pass(mut state: State, passed: Passed) -> State {
    state.attempting &= passed.interrupted;
    note(&mut state.problems, "disk", passed.disk.clone());
    let failed =
        passed.failed.filter(|_| passed.disk.is_none()).map(|message| ConditionReason::new("TaskFailed", message));
    note(&mut state.stalled, "tasks", failed);
    let mut held = with_start_times(&state.held, passed.held, state.tick);
    held.extend(state.held.remove_entry(TOO_OLD));
    if passed.interrupted {
        // The TaskBooks that an interrupted pass did not reach keep their holds.
        for (key, hold) in std::mem::take(&mut state.held) {
            held.entry(key).or_insert(hold);
        }
    }
    state.held = held;
    state.uncoordinated = passed.uncoordinated;
    // The problem of the clock ends after the second pass that follows the jump.
    if state.problems.contains_key("clock") {
        state.passes_since_jump += 1;
        if state.passes_since_jump > 1 {
            note(&mut state.problems, "clock", None);
        }
    }
    let in_full = !passed.interrupted && passed.worst < Outcome::Unknown;
    if in_full && !state.is_at(state.applied.as_ref()) {
        state.applied = Some(Acceptance { at: state.tick, ..state.accepted.clone() });
    }
    state
}

impl State {
    /// Returns whether a revision is the accepted revision. The function also compares the digests, because two
    /// revisions may have the same generation (P26).
    pub fn is_at(&self, other: Option<&Acceptance>) -> bool {
        let same =
            |other: &Acceptance| other.generation == self.accepted.generation && other.digest == self.accepted.digest;
        other.is_some_and(same)
    }

    /// Returns whether the accepted revision is applied in full.
    pub fn is_applied(&self) -> bool {
        self.accepted.generation > 0
            && self.is_at(self.applied.as_ref())
            && !self.stalled.contains_key("tasks")
            && self.held.keys().all(|key| key == TOO_OLD)
    }

    /// Returns the message of the `Ready` condition.
    pub fn summary(&self) -> String {
        current(self).into_iter().next().map(|ready| ready.message).unwrap_or_default()
    }

    /// Returns the status of the node, including its current activity.
    pub fn status(
        &self,
        node: &str,
        cluster: &str,
        task_books: Vec<pb::TaskBookStatus>,
        at_work: Option<String>,
    ) -> pb::NodeStatus {
        let revision = |acceptance: &Acceptance| pb::AppliedRevision {
            generation: acceptance.generation,
            commits: acceptance.commits.clone(),
            at: rfc3339(acceptance.at),
        };
        pb::NodeStatus {
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            generation: self.accepted.generation,
            commits: self.accepted.commits.clone(),
            last_attempted: self.attempted.as_ref().map(revision),
            last_applied: self.applied.as_ref().map(revision),
            conditions: current(self)
                .into_iter()
                .map(|condition| {
                    let changed = self.since.get(&condition.r#type).map_or(self.tick, |(_, _, since)| *since);
                    let held = self.held.values().map(|hold| hold.since).min();
                    let is_held = condition.r#type == "Held" && condition.status;
                    let since = held.filter(|_| is_held).unwrap_or(changed);
                    let message = match &at_work {
                        Some(what) if condition.r#type == "Reconciling" => match condition.reason.as_str() {
                            "Settled" => format!("at work: {what}"),
                            _ => format!("{}; at work: {what}", condition.message),
                        },
                        _ => condition.message,
                    };
                    pb::Condition { since: rfc3339(since), message, ..condition }
                })
                .collect(),
            task_books,
            ..pb::NodeStatus::default()
        }
    }
}

/// Returns the messages of all holds as one text. If the reasons of the holds differ, the returned text names the
/// reasons.
fn all_holds(holds: &BTreeMap<String, Hold>) -> String {
    let mut reasons = holds.values().map(|hold| &hold.reason);
    let first = reasons.next();
    let differ = reasons.any(|reason| Some(reason) != first);
    let message = |hold: &Hold| match differ {
        true => format!("{} {}", hold.reason, hold.message()),
        false => hold.message(),
    };
    holds.values().map(message).collect::<Vec<_>>().join("; ")
}

/// Returns all conditions of the status, including the conditions that are false.
fn current(state: &State) -> Vec<pb::Condition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| pb::Condition {
        r#type: kind.into(),
        status,
        reason: reason.into(),
        message,
        since: String::new(),
    };
    let all = |problems: &BTreeMap<String, ConditionReason>| {
        problems.values().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let applied = state.is_applied();
    let ready = applied
        && state
            .problems
            .values()
            .all(|problem| problem.reason == "SourceUnreachable" || problem.reason == "ClockJumped");
    let ready_message = match (applied, state.accepted.generation) {
        (true, generation) => format!("generation {generation} is applied"),
        (false, 0) => "no revision has been accepted yet".into(),
        (false, generation) => format!("generation {generation} is not applied in full"),
    };
    let mut conditions = vec![condition("Ready", ready, if ready { "Applied" } else { "NotApplied" }, ready_message)];
    // A full disk also causes errors of sources, so the problem of the disk is shown first.
    let rank = |problem: &&ConditionReason| {
        ["DiskFull", "ReadOnly", "MirrorCorrupt", "SourceUnreachable", "ClockJumped"]
            .iter()
            .position(|reason| *reason == problem.reason)
    };
    match state.problems.values().min_by_key(rank) {
        Some(problem) => conditions.push(condition("Reconciling", true, &problem.reason, all(&state.problems))),
        None if !state.pending.is_empty() => {
            let message = format!("{}; the request continues", state.pending.join("; "));
            conditions.push(condition("Reconciling", true, "Progressing", message));
        }
        None if state.attempting || !applied && state.stalled.is_empty() && state.held.is_empty() => conditions
            .push(condition("Reconciling", true, "Progressing", "the accepted revision is being applied".into())),
        None => conditions.push(condition("Reconciling", false, "Settled", "nothing is going on".into())),
    }
    match state.stalled.values().next() {
        Some(stall) => conditions.push(condition("Stalled", true, &stall.reason, all(&state.stalled))),
        None => conditions.push(condition("Stalled", false, "None", "nothing needs a commit".into())),
    }
    match state.held.values().next() {
        Some(hold) => conditions.push(condition("Held", true, &hold.reason, all_holds(&state.held))),
        None if !state.uncoordinated.is_empty() => {
            let message = format!(
                "{} asked for slots, waves or barriers, but `dataStore` is `local`: this node does not wait for other nodes",
                state.uncoordinated.join(", ")
            );
            conditions.push(condition("Held", false, "Uncoordinated", message));
        }
        None => conditions.push(condition("Held", false, "None", "nothing is held back".into())),
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(state: &State) -> Vec<(String, bool, String)> {
        current(state).into_iter().map(|condition| (condition.r#type, condition.status, condition.reason)).collect()
    }

    fn passed(worst: Outcome) -> Passed {
        Passed {
            worst,
            failed: (worst == Outcome::Failed).then(|| "it failed".into()),
            held: Vec::new(),
            disk: None,
            interrupted: false,
            uncoordinated: Vec::new(),
        }
    }

    fn hold(book: &str, reason: &str, opens: &str) -> Hold {
        let (book, subject) = (book.to_owned(), book.to_owned());
        Hold { book, subject, reason: reason.into(), opens: opens.into(), ..Hold::default() }
    }

    fn held(holds: Vec<Hold>) -> Input {
        Input::Passed(Passed { held: holds, ..passed(Outcome::Held) })
    }

    fn held_message(state: &State) -> String {
        state.status("n", "c", Vec::new(), None).conditions.pop().unwrap().message
    }

    fn held_since(state: &State) -> String {
        state.status("n", "c", Vec::new(), None).conditions.pop().unwrap().since
    }

    #[test]
    fn pending_request_shows_as_progress_and_ends_with_the_next_refresh() {
        let applied = run(vec![Input::Tick(1), accepted(1), Input::Began, Input::Passed(passed(Outcome::Changed))]);
        let pending = step(applied.clone(), Input::Pending(vec!["git.example has not answered since noon".into()]));
        assert_eq!(reasons(&pending)[0], ("Ready".into(), true, "Applied".into()));
        assert_eq!(reasons(&pending)[1], ("Reconciling".into(), true, "Progressing".into()));
        assert_eq!(reasons(&step(pending, Input::Pending(Vec::new()))), reasons(&applied));
    }

    #[test]
    fn held_condition_keeps_every_reason_and_message() {
        let holds =
            vec![hold("a/b", "Suspended", "one"), hold("a/b", "Suspended", "two"), hold("a/c", "Suspended", "x")];
        let state = run(vec![accepted(1), Input::Began, held(holds)]);
        let all_of = |message: &str, texts: &[&str]| texts.iter().all(|text| message.contains(text));
        let message = held_message(&state);
        assert!(all_of(&message, &["a/b: one", "a/b: two", "a/c: x"]) && !message.contains("Suspended"), "{message}");
        let slot = Hold { action: Some("Act".into()), ..hold("a/d", "Slot", "three") };
        let state = run(vec![accepted(1), Input::Began, held(vec![hold("a/b", "Window", "one"), slot])]);
        let message = held_message(&state);
        assert!(all_of(&message, &["Window a/b: one", "Slot a/d: three. Act"]), "{message}");
    }

    #[test]
    fn held_condition_is_not_older_than_the_run() {
        let of_run = |run: &str| Hold { run: run.into(), ..hold("a/b", "Slot", "x") };
        let state = run(vec![Input::Tick(1_000), accepted(1), held(vec![of_run("a/b@1")]), Input::Tick(9_000)]);
        let state = step(state, held(vec![of_run("a/b@1")]));
        assert_eq!(held_since(&state), rfc3339(1_000), "the same hold");
        let state = step(state, held(vec![of_run("a/b@2")]));
        assert_eq!(held_since(&state), rfc3339(9_000), "the hold of the next run");
    }

    fn run(inputs: Vec<Input>) -> State {
        run_on(State::default(), inputs)
    }

    fn accepted(generation: u64) -> Input {
        Input::Accepted(Acceptance { generation, ..Acceptance::default() })
    }

    #[test]
    fn applied_revision_makes_the_node_ready() {
        let state = run(vec![Input::Tick(1), accepted(1), Input::Began]);
        assert_eq!(reasons(&state)[1], ("Reconciling".into(), true, "Progressing".into()));
        let state = step(state, Input::Passed(passed(Outcome::Changed)));
        assert_eq!(reasons(&state)[0], ("Ready".into(), true, "Applied".into()));
        assert_eq!(state.applied.unwrap().generation, 1);
    }

    #[test]
    fn message_shows_progress_and_activity() {
        let message = |state: &State, at_work: Option<&str>| {
            let status = state.status("n", "c", Vec::new(), at_work.map(str::to_owned));
            status.conditions[1].message.clone()
        };
        let state = run(vec![Input::Tick(1), accepted(1), Input::Began]);
        assert_eq!(message(&state, None), "the accepted revision is being applied");
        assert_eq!(message(&state, Some("a/b")), "the accepted revision is being applied; at work: a/b");
        let state = step(state, Input::Passed(passed(Outcome::Changed)));
        assert_eq!(message(&state, Some("a/b")), "at work: a/b");
    }

    #[test]
    fn failed_task_stalls_the_node_until_it_succeeds() {
        let state = run(vec![accepted(1), Input::Began, Input::Passed(passed(Outcome::Failed))]);
        assert_eq!(reasons(&state)[2], ("Stalled".into(), true, "TaskFailed".into()));
        assert!(state.applied.is_none());
        let state = step(state, Input::Passed(passed(Outcome::Unchanged)));
        assert!(state.is_applied());
    }

    #[test]
    fn revision_after_a_failed_or_held_one_is_progressing_until_its_pass_ends() {
        let held = Passed { held: vec![hold("a/b", "Window", "it is closed")], ..passed(Outcome::Held) };
        for earlier in [passed(Outcome::Failed), held] {
            let state = run(vec![accepted(1), Input::Began, Input::Passed(earlier.clone())]);
            assert_eq!(reasons(&state)[1].2, "Settled");
            let state = run_on(state, vec![accepted(2), Input::Began]);
            assert_eq!(reasons(&state)[1], ("Reconciling".into(), true, "Progressing".into()));
            let state = run_on(state, vec![Input::Passed(Passed { interrupted: true, ..earlier.clone() })]);
            assert_eq!(reasons(&state)[1].2, "Progressing", "interrupted");
            let state = run_on(state, vec![Input::Passed(earlier)]);
            assert_eq!(reasons(&state)[1].2, "Settled");
        }
    }

    #[test]
    fn unreachable_source_keeps_the_node_ready() {
        let problem = ConditionReason::new("SourceUnreachable", "gone");
        let state = run(vec![
            accepted(1),
            Input::Passed(passed(Outcome::Unchanged)),
            Input::Source("fleet".into(), Some(problem)),
        ]);
        assert_eq!(
            reasons(&state)[..2],
            [("Ready".into(), true, "Applied".into()), ("Reconciling".into(), true, "SourceUnreachable".into())]
        );
    }

    #[test]
    fn clock_that_goes_back_is_shown_for_two_passes() {
        let state = run(vec![Input::Tick(1_000_000), accepted(1), Input::Tick(900_000)]);
        assert_eq!(reasons(&state)[1].2, "ClockJumped");
        let state = run_on(
            state,
            vec![
                Input::Passed(passed(Outcome::Unchanged)),
                Input::Tick(901_000),
                Input::Passed(passed(Outcome::Unchanged)),
            ],
        );
        assert_eq!(reasons(&state)[1].2, "Settled");
    }

    fn run_on(state: State, inputs: Vec<Input>) -> State {
        inputs.into_iter().fold(state, step)
    }
}
