//! A simulated node for tests: it keeps its state in memory, and carries out the commands of a run.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use std::sync::Arc;
use towpath_coordination::{Gate, GateReason};
use towpath_render::{
    objects::{
        SegmentKind, SourceTree, load, segments,
        task::{Book, Drift, Task},
    },
    rendering::Item,
    taint::Marks,
    tree::MemoryTree,
    view::PruneBudget,
};

use crate::{
    command::{
        Admit, Answer, Applied, Call, ChangeSet, Command, ElectionState, Executed, Findings, Finished, Instance,
        InstanceId, Invocation, Items, List, Next, NotReady, Observation, PendingHandler, Rebooted, Removed, Rendered,
        SlotUse, TaskRef,
    },
    outcome::{BookReport, Origin, Outcome, TaskReport},
    plan::{
        assess::{Admission, Check, Checked, LastRun, Preview, RunMode},
        instance::{BatchKey, Facts, ModuleKind},
        removal::{Inventory, Managed},
    },
    record::{BookRecord, Slot},
    run::{BookInputs, BookRun, RolloutPlan, SegmentPlan},
};

/// Parses the `spec` of a TaskBook from YAML.
pub(crate) fn book(spec: &str) -> Arc<Book> {
    let head = "metadata: {apiVersion: v1alpha, kind: Namespace, name: n}\n---\n\
                metadata: {apiVersion: v1alpha, kind: Node, name: a}\n---\n\
                metadata: {apiVersion: v1alpha, kind: TaskBook, name: b, namespace: n}\n\
                spec:\n  targets: {nodes: [a]}\n";
    let text = format!("{head}{}", spec.lines().map(|line| format!("  {line}\n")).collect::<String>());
    let tree: MemoryTree = [("b.yaml", text.as_str())].into_iter().collect();
    let source = SourceTree { name: "s".into(), tree: Arc::new(tree), library: false, globals: true };
    let loaded = load(&[source], &BTreeMap::new());
    assert!(loaded.errors.is_empty(), "{:?}\n{text}", loaded.errors);
    Arc::clone(&loaded.set.books["n/b"])
}

/// A simulated node whose state consists of values in memory.
#[derive(Default)]
pub(super) struct World {
    /// The names of the tasks that differ from the desired state.
    pub(super) differs: BTreeSet<String>,
    /// The names of the tasks that fail when they run or change something.
    pub(super) fails: BTreeSet<String>,
    /// The names of the tasks whose state is unknown.
    pub(super) unknown: BTreeSet<String>,
    /// The names of the tasks whose `when` condition is false.
    pub(super) skips: BTreeSet<String>,
    /// The last runs of tasks, by the name of the task.
    pub(super) last: BTreeMap<String, LastRun>,
    /// The items of loops, by the name of the task.
    pub(super) loops: BTreeMap<String, Vec<&'static str>>,
    /// The registered result that a task needs before it can be rendered, by the name of the task.
    pub(super) needs: BTreeMap<String, String>,
    /// The results that the run has registered.
    pub(super) registered: BTreeMap<String, Value>,
    /// The names of the pending handlers.
    pub(super) pending: Vec<String>,
    /// The kinds of tasks that differ from the kind of their module.
    pub(super) kinds: BTreeMap<String, ModuleKind>,
    /// The closed gate for each admission request, in the order of the requests. An entry is `None` if all gates are
    /// open.
    pub(super) gates: Vec<Option<&'static str>>,
    /// The closed gate for each request to the fleet, by the text of the request.
    pub(super) calls: BTreeMap<String, &'static str>,
    /// The answer to a request for an election.
    pub(super) election: Option<ElectionState>,
    /// The answers to requests for a reboot, in the order of the requests.
    pub(super) reboots: Vec<Rebooted>,
    /// The recorded items of the book. `inventory` is `None` if nothing may be removed.
    pub(super) inventory: Option<Inventory>,
    /// True if the run has ended on all nodes.
    pub(super) ended: bool,
    /// The text of the command after which the run is preempted.
    pub(super) preempt_at: Option<&'static str>,
    /// True if the changes of the active segment are admitted.
    pub(super) admitted: bool,
    /// True if the journal rejects each record.
    pub(super) journal_fails: bool,
    /// True if the executor is a dry run.
    pub(super) dry: bool,
    /// The names of the tasks that a missing input holds.
    pub(super) held: BTreeSet<String>,
    /// The names of the tasks whose own `changed` condition is false.
    pub(super) quiet: BTreeSet<String>,
    /// The names of the tasks whose change does more than write files.
    pub(super) rough: BTreeSet<String>,
    /// The names of the tasks whose check fails.
    pub(super) check_fails: BTreeSet<String>,
    /// The tasks whose changes are not started, and the items whose removal is held.
    pub(super) left: BTreeSet<String>,
    /// The data that the check of a task in sync returns, by the name of the task.
    pub(super) data: BTreeMap<String, Value>,
    /// The results of changes and actions, by the name of the task.
    pub(super) results: BTreeMap<String, Value>,
    /// The answers that replace the usual answers of the executor, by the text of the command.
    pub(super) answers: BTreeMap<String, Observation>,
    /// The name under which a failed change registers a result.
    pub(super) registers_on_failure: Option<&'static str>,
    /// The drift policy of the run. `drift` is `None` for the default policy.
    pub(super) drift: Option<Drift>,
    /// The id of the run. `run_id` is `None` for the usual id.
    pub(super) run_id: Option<&'static str>,
    /// The findings that the last run reported.
    pub(super) findings: Option<Findings>,
    /// The commands that the run has given out, as short texts.
    pub(super) log: Vec<String>,
    /// The record of the book that was persisted last.
    pub(super) record: BookRecord,
    /// The largest number of commands that one step of the run returned.
    pub(super) at_once: usize,
    pub(super) instances: BTreeMap<InstanceId, Arc<Instance>>,
    pub(super) book: Option<Arc<Book>>,
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Returns the slot in the budget of the test book.
pub(super) fn slot() -> Slot {
    Slot { budget: "n/b".into(), partition: String::new() }
}

impl World {
    /// Returns a node on which the named tasks differ from the desired state.
    pub(super) fn differs(names: &[&str]) -> Self {
        Self { differs: set(names), ..Self::default() }
    }

    pub(super) fn fails(mut self, names: &[&str]) -> Self {
        self.fails = set(names);
        self
    }

    /// Runs a book once without a rollout, and returns its report.
    pub(super) fn run(&mut self, book: &Arc<Book>, mode: RunMode) -> BookReport {
        self.with(book, mode, None)
    }

    /// Runs a book once with a rollout, and returns its report.
    pub(super) fn roll(&mut self, book: &Arc<Book>) -> BookReport {
        let limited = book.rollout.serialize.is_some();
        let segments = segments(book).into_iter();
        let segments =
            segments.map(|of| SegmentPlan { tasks: of.tasks, kind: of.kind, slot: slot(), limited }).collect();
        let mut rollout = RolloutPlan { run: self.run_id.unwrap_or("n/b@1").into(), segments };
        for own in rollout.segments.iter_mut().filter(|segment| segment.kind == SegmentKind::Own) {
            own.slot.budget = "n/b/own".into();
            own.limited = true;
        }
        self.with(book, RunMode::NewRevision, Some(rollout))
    }

    fn with(&mut self, book: &Arc<Book>, mode: RunMode, rollout: Option<RolloutPlan>) -> BookReport {
        self.book = Some(Arc::clone(book));
        self.log.clear();
        self.admitted = false;
        let mut run = BookRun::new(BookInputs {
            book: Arc::clone(book),
            rollout,
            mode,
            drift: self.drift.unwrap_or(Drift::Correct),
            ends_at_failure: !self.dry,
            record: self.record.clone(),
        });
        for _ in 0..10_000 {
            match run.advance() {
                Next::Finished(report) => return report,
                Next::Wait => panic!("the run waits, and no command is open: {:?}", self.log),
                Next::Do(commands) => {
                    self.at_once = self.at_once.max(commands.len());
                    for (id, command) in commands {
                        let before = self.log.len();
                        let seen = self.carry_out(&command);
                        let text = if self.log.len() > before { self.log[before].clone() } else { silent(&command) };
                        let seen = self.answers.get(&text).cloned().unwrap_or(seen);
                        if self.preempt_at.is_some_and(|at| self.log.last().is_some_and(|last| last == at)) {
                            run.preempt();
                        }
                        run.observe(id, seen);
                    }
                }
            }
        }
        panic!("the run does not end: {:?}", &self.log[..20]);
    }

    pub(super) fn last(mut self, name: &str, last: LastRun) -> Self {
        self.last.insert(name.into(), last);
        self
    }

    /// Returns a node on which the named tasks have drifted.
    pub(super) fn drifted(names: &[&str]) -> Self {
        names.iter().fold(Self::differs(names), |world, name| world.last(name, applied()))
    }

    pub(super) fn kind(mut self, name: &str, kind: ModuleKind) -> Self {
        self.kinds.insert(name.into(), kind);
        self
    }

    pub(super) fn answer(mut self, text: &str, seen: Observation) -> Self {
        self.answers.insert(text.into(), seen);
        self
    }

    pub(super) fn gate(mut self, call: &str, reason: &'static str) -> Self {
        self.calls.insert(call.into(), reason);
        self
    }

    pub(super) fn gates(mut self, gates: &[Option<&'static str>]) -> Self {
        self.gates = gates.to_vec();
        self
    }

    pub(super) fn pending(mut self, names: &[&str]) -> Self {
        self.pending = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub(super) fn looped(mut self, name: &str, items: &[&'static str]) -> Self {
        self.loops.insert(name.into(), items.to_vec());
        self
    }

    pub(super) fn record(mut self, record: BookRecord) -> Self {
        self.record = record;
        self
    }

    /// Sets the recorded items of the book to files with the given names. All files may be removed.
    pub(super) fn inventory(mut self, names: &[&str]) -> Self {
        self.inventory = Some(inventory(names));
        self
    }

    pub(super) fn preempted_after(mut self, text: &'static str) -> Self {
        self.preempt_at = Some(text);
        self
    }

    pub(super) fn dry(mut self) -> Self {
        self.dry = true;
        self
    }

    fn say(&mut self, text: impl Into<String>) {
        self.log.push(text.into());
    }

    fn task(&self, at: TaskRef) -> &Task {
        let book = self.book.as_ref().unwrap();
        match at.list {
            List::Tasks => &book.tasks[at.index],
            List::Handlers => &book.handlers[at.index],
            List::Before => &book.rollout.before[at.index],
            List::After => &book.rollout.after[at.index],
        }
    }

    pub(super) fn item(&self, name: &str) -> Arc<Instance> {
        Arc::clone(self.instances.values().find(|instance| instance.name == name).unwrap())
    }

    fn name(&self, id: InstanceId) -> String {
        self.instances[&id].name.clone()
    }

    fn missing(&self, at: TaskRef) -> Option<NotReady> {
        if self.held.contains(&self.task(at).id) {
            return Some(NotReady::missing(Outcome::Held, "a secret cannot be read yet"));
        }
        let needed = self.needs.get(&self.task(at).id)?;
        let outcome = if self.dry { Outcome::Unknown } else { Outcome::Failed };
        let message = format!("it needs {needed}");
        (!self.registered.contains_key(needed)).then_some(NotReady::missing(outcome, message))
    }

    fn carry_out(&mut self, command: &Command) -> Observation {
        assert!(self.admitted || !needs_admission(command), "a change without admission: {command:?}");
        let seen = self.observe(command);
        match (command, &seen) {
            (Command::Admit(_), Observation::Answered(Answer::Go)) => self.admitted = true,
            (Command::Coordinate(Call::Enter(_) | Call::Done(_) | Call::Failed { .. } | Call::Leave(_)), _) => {
                self.admitted = false;
            }
            _ => {}
        }
        seen
    }

    fn observe(&mut self, command: &Command) -> Observation {
        match command {
            Command::Items(at) => Observation::Items(self.items(*at)),
            Command::Render(instance) => {
                self.instances.insert(instance.id, Arc::clone(instance));
                Observation::Rendered(self.render(instance))
            }
            Command::Check(id) => Observation::Checked(self.check(*id)),
            Command::Admit(admit) => Observation::Answered(self.admit(*admit)),
            Command::Coordinate(call) => Observation::Answered(self.call(call)),
            Command::Elect(at, done) => {
                let name = self.task(*at).id.clone();
                self.say(format!("elect {name}{}", if *done { " again" } else { "" }));
                Observation::Election(self.election.clone().unwrap_or(ElectionState::Elected))
            }
            Command::PublishResult(result) => {
                let name = self.task(result.task).id.clone();
                self.say(format!("publish {name} {}", result.ok));
                Observation::Answered(Answer::Go)
            }
            Command::Apply(set, _) => Observation::Applied(self.apply(set)),
            Command::Execute(invocation) => Observation::Executed(self.execute(invocation)),
            Command::Reboot(id, admitted) => {
                let name = self.name(*id);
                self.say(format!("reboot {name}{}", if *admitted { " now" } else { "?" }));
                let state = if self.reboots.is_empty() { Rebooted::NotDue } else { self.reboots.remove(0) };
                Observation::Rebooted(state)
            }
            Command::Register(name, value) => {
                self.registered.insert(name.clone(), value.clone());
                Observation::Done
            }
            Command::ListHandlers => {
                let of = |id: &String| {
                    let handlers = &self.book.as_ref().unwrap().handlers;
                    let index = handlers.iter().position(|handler| handler.id == *id);
                    let task = index.map(|index| TaskRef { list: List::Handlers, index });
                    PendingHandler { id: id.clone(), module: "command".into(), task }
                };
                Observation::Handlers(self.pending.iter().map(of).collect())
            }
            Command::ListInventory(interim) => {
                if interim.managed.is_none() {
                    return Observation::Inventory(None);
                }
                Observation::Inventory(self.inventory.clone())
            }
            Command::Remove(removal) => {
                let names =
                    |items: &[Managed]| items.iter().map(|item| item.identity.as_str()).collect::<Vec<_>>().join(" ");
                self.say(format!(
                    "remove [{}] forget [{}] moved [{}]",
                    names(&removal.remove),
                    names(&removal.forget),
                    names(&removal.moved)
                ));
                let of = |item: &Managed| {
                    let failed = self.fails.contains(&item.identity);
                    let outcome = if failed { Outcome::Failed } else { Outcome::Changed };
                    let outcome = if self.left.contains(&item.identity) { Outcome::Held } else { outcome };
                    let outcome = if self.dry { Outcome::Unchanged } else { outcome };
                    Removed { item: item.clone(), outcome, message: None }
                };
                Observation::Removed(removal.remove.iter().map(of).collect())
            }
            Command::Record(findings) => {
                let names: Vec<&str> = findings.managed.iter().map(|item| item.identity.as_str()).collect();
                let names = names.join(" ");
                self.say(format!("record [{names}] observed {}", findings.observed.len()));
                self.findings = Some(findings.clone());
                Observation::Done
            }
            Command::Persist(_) if self.journal_fails => Observation::Failed("the disk is full".into()),
            Command::Persist(record) => {
                self.record = record.clone();
                let state = record.slot.as_ref().map_or("-".to_owned(), |slot| format!("{:?}", slot.state));
                let frame = record.frame.map_or("-".to_owned(), |frame| format!("{frame:?}"));
                self.say(format!(
                    "persist done={} slot={state} frame={frame}{}{}",
                    record.done,
                    if record.completed { " completed" } else { "" },
                    if record.removal_failed { " removal_failed" } else { "" }
                ));
                Observation::Done
            }
        }
    }

    fn items(&self, at: TaskRef) -> Result<Items, NotReady> {
        if let Some(missing) = self.missing(at) {
            return Err(missing);
        }
        let Some(items) = self.loops.get(&self.task(at).id) else { return Ok(Items::Single) };
        let item = |(index, text): (usize, &&str)| Item {
            value: json!(text),
            marks: Marks::default(),
            index,
            length: items.len(),
        };
        Ok(Items::Loop(items.iter().enumerate().map(item).collect()))
    }

    fn render(&self, instance: &Instance) -> Result<Rendered, NotReady> {
        if let Some(missing) = self.missing(instance.task) {
            return Err(missing);
        }
        let task = self.task(instance.task);
        let module = task.module.as_ref().map_or("", |module| module.name);
        let path = path(task, instance);
        let kind = match module {
            "assert" | "debug" | "wait" => ModuleKind::Probe,
            "command" | "script" => ModuleKind::Action,
            "reboot" => ModuleKind::Reboot,
            _ => ModuleKind::State,
        };
        let kind = self.kinds.get(&task.id).copied().unwrap_or(kind);
        let is_state = kind == ModuleKind::State;
        let managed = Managed { module: module.into(), identity: instance.name.clone() };
        let managed = if is_state { vec![managed] } else { Vec::new() };
        if self.skips.contains(&instance.name) {
            return Ok(Rendered::Skipped(Some(managed)));
        }
        let direct = ["package", "service", "user", "group"].contains(&module);
        Ok(Rendered::Ready(Facts {
            kind,
            applies_directly: direct,
            interrupts: module == "unit",
            managed,
            path,
            batch: (module == "package").then(|| BatchKey("packages".into())),
        }))
    }

    fn check(&mut self, id: InstanceId) -> Checked {
        let name = self.name(id);
        self.say(format!("check {name}"));
        let path = path(self.task(self.instances[&id].task), &self.instances[&id]);
        let check = if self.check_fails.contains(&name) {
            Check::Failed("cannot be checked".into())
        } else if self.unknown.contains(&name) {
            Check::Unknown("not known yet".into())
        } else if self.differs.contains(&name) {
            Check::Differs(Preview {
                action: "update",
                diff: "-a\n+b\n".into(),
                plain: !self.rough.contains(&name),
                writes: path.into_iter().collect(),
                quiet: self.quiet.contains(&name),
            })
        } else {
            Check::InSync(self.data.get(&name).cloned())
        };
        Checked { check, last: self.last.get(&name).cloned(), shown: None }
    }

    fn admit(&mut self, admit: Admit) -> Answer {
        let segment = admit.segment.map_or(String::new(), |segment| format!(" {segment}"));
        let using = if matches!(admit.slot, SlotUse::Change(_)) { "change" } else { "correct" };
        let began = if admit.began { " began" } else { "" };
        self.say(format!("admit{segment} {using}{began}"));
        let gate = if self.gates.is_empty() { None } else { self.gates.remove(0) };
        gate.map_or(Answer::Go, |reason| Answer::Hold(Gate::new(GateReason::named(reason), "later")))
    }

    fn call(&mut self, call: &Call) -> Answer {
        let text = match call {
            Call::Enter(segment) => format!("enter {segment}"),
            Call::Done(segment) => format!("done {segment}"),
            Call::Failed { segment, admitted: true, .. } => format!("failed {segment}"),
            Call::Failed { segment, .. } => format!("failed {segment} unadmitted"),
            Call::Leave(segment) => format!("leave {segment}"),
            Call::LeaveOld => "leave old".into(),
            Call::Absent(segment, ..) => format!("absent {segment}"),
            Call::RepeatVotes(count) => format!("repeat {count}"),
            Call::EndRun => "end".into(),
        };
        self.say(text.clone());
        if let Some(reason) = self.calls.get(&text) {
            return Answer::Hold(Gate::new(GateReason::named(reason), "later"));
        }
        if *call == Call::EndRun { Answer::Ended(self.ended) } else { Answer::Go }
    }

    fn apply(&mut self, changes: &ChangeSet) -> Vec<Applied> {
        let names: Vec<String> = changes.instances().iter().map(|id| self.name(*id)).collect();
        let kind = if matches!(changes, ChangeSet::Files(_)) { "files" } else { "direct" };
        self.say(format!("apply {kind} {}", names.join(" ")));
        let mut results = Vec::new();
        for (name, id) in names.iter().zip(changes.instances()) {
            if self.dry {
                results.push(Applied::Planned);
                continue;
            }
            let notified = self.task(self.instances[id].task).notify.clone();
            if self.left.contains(name) {
                results.push(Applied::NotStarted);
                continue;
            }
            if self.fails.contains(name) {
                self.registered.extend(self.registers_on_failure.map(|name| (name.to_owned(), Value::Null)));
                let message = Some("it broke".into());
                results.push(Applied::Failed(Finished { message, result: None }));
                continue;
            }
            for handler in notified.into_iter().filter(|_| !self.quiet.contains(name)) {
                if !self.pending.contains(&handler) {
                    self.pending.push(handler);
                }
            }
            self.differs.remove(name);
            let last = LastRun { same_definition: true, ..LastRun::default() };
            self.last.insert(name.clone(), last);
            let finished = Finished { message: None, result: self.results.get(name).cloned() };
            let quiet = self.quiet.contains(name);
            results.push(if quiet { Applied::Unchanged(finished) } else { Applied::Changed(finished) });
        }
        results
    }

    fn execute(&mut self, invocation: &Invocation) -> Executed {
        let name = match invocation {
            Invocation::Probe(id) | Invocation::Action(id) | Invocation::Rebooted(id) => self.name(*id),
            Invocation::Unconditional(at) => self.task(*at).id.clone(),
            Invocation::Handler(handler) => handler.id.clone(),
        };
        let kind = match invocation {
            Invocation::Probe(_) => "probe",
            Invocation::Action(_) => "action",
            Invocation::Rebooted(_) => "rebooted",
            Invocation::Unconditional(_) => "run",
            Invocation::Handler(_) => "handler",
        };
        self.say(format!("{kind} {name}"));
        if self.dry && kind != "probe" {
            return Executed::Planned;
        }
        let failed = self.fails.contains(&name);
        let outcome = if failed { Outcome::Failed } else { Outcome::Changed };
        let shown = self.results.get(&name).cloned();
        let finished = Finished { message: None, result: shown.clone() };
        if self.left.contains(&name) {
            return Executed::Ran(Outcome::Skipped, finished);
        }
        if let (Invocation::Handler(_), false) = (invocation, failed) {
            self.pending.retain(|id| *id != name);
        }
        if let (Invocation::Action(_), false) = (invocation, failed) {
            let last = LastRun { same_definition: true, finished: true, ..LastRun::default() };
            self.last.insert(name, last);
        }
        let result = json!({ "changed": !failed, "outcome": outcome.as_str() });
        let result = Some(shown.unwrap_or(result));
        Executed::Ran(outcome, Finished { message: failed.then(|| "it broke".into()), result })
    }
}

/// Returns the path that a task manages. Each item of a loop has its own path.
fn path(task: &Task, instance: &Instance) -> Option<String> {
    let path = task.module.as_ref()?.params.get("path")?.as_str()?;
    Some(instance.item.as_ref().map_or_else(|| path.to_owned(), |item| format!("{path}-{}", item.index)))
}

/// Returns the last run of a task that had the same definition.
pub(super) fn applied() -> LastRun {
    LastRun { same_definition: true, ..LastRun::default() }
}

/// Returns the last run of an action that has finished.
pub(super) fn finished() -> LastRun {
    LastRun { same_definition: true, finished: true, ..LastRun::default() }
}

pub(super) fn file(name: &str) -> Managed {
    Managed { module: "file".into(), identity: name.into() }
}

/// Returns an inventory of files that may all be removed.
pub(super) fn inventory(names: &[&str]) -> Inventory {
    let recorded: BTreeSet<Managed> = names.iter().map(|name| file(name)).collect();
    let total = recorded.len() as u64;
    Inventory { recorded, prune: true, budget: PruneBudget::limited("100%"), total, ..Inventory::default() }
}

/// Returns the text of a command that the log of the test omits.
fn silent(command: &Command) -> String {
    match command {
        Command::Items(_) => "items".into(),
        Command::Render(instance) => format!("render {}", instance.name),
        Command::Register(name, _) => format!("register {name}"),
        Command::ListHandlers => "handlers".into(),
        Command::ListInventory(_) => "inventory".into(),
        Command::Persist(_) => "persist".into(),
        _ => String::new(),
    }
}

fn reached(report: &BookReport) -> impl Iterator<Item = &TaskReport> {
    report.tasks.iter().filter(|task| task.origin != Origin::NotRun)
}

/// Returns the messages of a report as one text.
pub(super) fn messages(report: &BookReport) -> String {
    reached(report).filter_map(|task| task.message.as_deref()).collect::<Vec<_>>().join("; ")
}

/// Returns the names and outcomes of a report, without the tasks that were not run.
pub(super) fn outcomes(report: &BookReport) -> Vec<String> {
    reached(report).map(|task| format!("{} {}", task.name, task.outcome.as_str())).collect()
}

/// Returns the reasons of the closed gates.
pub(super) fn reasons(report: &BookReport) -> Vec<&'static str> {
    report.gates.iter().map(|gate| gate.reason.name()).collect()
}

/// Returns true for a command whose change to the node needs admission.
fn needs_admission(command: &Command) -> bool {
    match command {
        Command::Apply(_, admission) => *admission == Admission::SlotAndWindow,
        Command::Execute(invocation) => !matches!(invocation, Invocation::Probe(_) | Invocation::Rebooted(_)),
        Command::Reboot(_, is_admitted) => *is_admitted,
        Command::Remove(removal) => !removal.remove.is_empty(),
        _ => false,
    }
}
