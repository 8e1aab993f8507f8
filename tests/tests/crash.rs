//! kill -9 at instants spread over the whole length of a run. No file is torn or lost, and only the interrupted action
//! runs twice.

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use towpath_agent::status::conditions::State;
use towpath_state::{Acceptance, Intent, Journal, Phase};
use towpath_tests::{
    Running,
    git::{FLEET, Repository, book},
    long,
    node::{Node, task},
};

const FILES: usize = 200;
const GROUPS: usize = 5;
const PHASES: [&str; 6] = ["Render", "Write", "Sync", "Rename", "Action", "Handler"];

/// Returns a book of files in consecutive groups, with an action and a handler that all files notify. A group is large
/// enough for kills to meet each of its phases. The loop in the first file makes rendering take a part of the run that
/// kills can meet.
fn run_book(number: usize) -> String {
    let mut tasks = String::new();
    for file in 0..FILES {
        let work = if file == 0 { "{% for _ in range(9000) %}{% endfor %}" } else { "" };
        tasks.push_str(&format!(
            "    - name: file {file}\n      file: {{path: /srv/f{file}, content: \"{work}{{{{ 'run {number} file {file} ' * 400 }}}}\"}}\n      notify: [handle]\n"
        ));
        if (file + 1) % (FILES / GROUPS) == 0 {
            tasks.push_str(&format!("    - name: group {file}\n      debug: {{message: done}}\n"));
        }
    }
    tasks.push_str(&format!(
        "    - name: action\n      command: {{shell: 'echo {number} >> \"$TOWPATH_ROOT/action.log\"; sleep 0.04'}}\n"
    ));
    let handlers = format!(
        "  handlers:\n    - name: handle\n      command: {{shell: 'echo {number} >> \"$TOWPATH_ROOT/handler.log\"; sleep 0.04'}}\n"
    );
    book("run", &format!("  tasks:\n{tasks}{handlers}"))
}

/// The kills that met the run.
#[derive(Debug, Default)]
struct Met {
    /// The share of the run at which each phase was met.
    shares: BTreeMap<String, Vec<f64>>,
}

impl Met {
    fn inside(&self) -> usize {
        self.shares.values().map(Vec::len).sum()
    }

    fn count(&self, phase: &str) -> usize {
        self.shares.get(phase).map_or(0, Vec::len)
    }

    /// Returns whether the kills met the run often enough, and each phase.
    fn suffices(&self, kills: usize) -> bool {
        self.inside() * 4 >= kills * 3 && PHASES.iter().all(|phase| self.count(phase) >= 5.min(kills / 40))
    }

    /// Returns the share of the run for a further kill: near a meeting of the phase that was met least, or of the phase
    /// after it.
    fn aim(&self, kill: usize) -> f64 {
        let Some(rarest) = (0..PHASES.len()).min_by_key(|at| self.count(PHASES[*at])) else { return 0.5 };
        let near = PHASES[rarest..].iter().find_map(|phase| self.shares.get(*phase));
        let Some(near) = near.filter(|near| !near.is_empty()) else { return 0.5 };
        let offset = ((kill % 9) as f64 - 4.0) / 200.0;
        (near[kill % near.len()] + offset).clamp(0.0, 1.0)
    }
}

fn content(number: usize, file: usize) -> String {
    format!("run {number} file {file} ").repeat(400)
}

fn lines_of(node: &Node, log: &str, number: usize) -> usize {
    let text = node.read(log).unwrap_or_default();
    text.lines().filter(|line| *line == number.to_string()).count()
}

/// Returns the phase in the journal, and true if a run is in progress.
fn journaled(node: &Node) -> (Phase, bool) {
    let (journal, damaged) = Journal::open(&node.state).unwrap();
    assert!(damaged.is_none(), "the journal is damaged: {damaged:?}");
    let intent: Option<Intent> = journal.get(&()).unwrap();
    let State { attempted, applied, .. } = journal.get(&()).unwrap().unwrap_or_default();
    let generation = |revision: Option<Acceptance>| revision.map_or(0, |revision| revision.generation);
    // A run is in progress from its attempt until it is applied.
    (intent.map_or(Phase::Idle, |intent| intent.phase), generation(attempted) > generation(applied))
}

/// Returns the start of the last run according to the journal.
fn began(node: &Node) -> SystemTime {
    let (journal, _) = Journal::open(&node.state).unwrap();
    let State { attempted, .. } = journal.get(&()).unwrap().unwrap();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(attempted.unwrap().at).unwrap())
}

#[test]
fn killed_agent_loses_and_truncates_no_file() {
    let kills = if long() { 1000 } else { 120 };
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path(), "fleet");
    repository.write("fleet.yaml", FLEET);
    repository.write("run.yaml", run_book(0));
    repository.publish("run 0");
    let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
    let first = node.once();
    assert_eq!(first.code, 0, "{}", first.log);
    // The length of a run, and the start of its changes. The load of the machine may change, so this is measured
    // several times.
    let measure = |first: usize| {
        let mut measured = Vec::new();
        for number in first..first + 3 {
            repository.write("run.yaml", run_book(number));
            repository.publish("measured");
            let (begin, wall) = (Instant::now(), SystemTime::now());
            let once = node.once();
            assert_eq!(once.code, 0, "{}", once.log);
            measured.push((begin.elapsed(), began(&node).duration_since(wall).unwrap_or_default()));
        }
        let length = measured.iter().map(|(length, _)| *length).min().unwrap();
        (length, measured.iter().map(|(_, beginning)| *beginning).min().unwrap())
    };
    let (mut length, mut beginning) = measure(1);
    let mut before = 3;
    let mut met = Met::default();
    let mut twice = 0;
    let mut kill = 0;
    // If the kills met the run or a phase too rarely, further kills follow at other instants.
    while kill < kills || !met.suffices(kills) && kill < 3 * kills {
        let number = kill + 10;
        if kill > 0 && kill % 50 == 0 {
            let first = 1_000_000 + 3 * kill;
            (length, beginning) = measure(first);
            before = first + 2;
        }
        repository.write("run.yaml", run_book(number));
        repository.publish("next");
        let share = if kill < kills { (kill as f64 + 0.5) / kills as f64 } else { met.aim(kill) };
        kill += 1;
        let instant = beginning + (length - beginning).mul_f64(share);
        let mut agent = Running::start(node.agent().arg("--once"), Stdio::null(), Stdio::null());
        let begin = Instant::now();
        while begin.elapsed() < instant {
            std::thread::sleep(Duration::from_micros(200));
        }
        let ended = agent.ended().is_some();
        agent.kill();
        let (phase, running) = journaled(&node);
        if !ended && running {
            met.shares.entry(format!("{phase:?}")).or_default().push(share);
        }
        for file in 0..FILES {
            let found = node.read(&format!("/srv/f{file}")).unwrap();
            assert!(
                found == content(number, file) || found == content(before, file),
                "f{file} is torn after a kill in {phase:?}"
            );
        }
        let once = node.once();
        assert_eq!(once.code, 0, "after a kill in {phase:?}: {}", once.log);
        for file in 0..FILES {
            assert_eq!(
                node.read(&format!("/srv/f{file}")).unwrap(),
                content(number, file),
                "after a kill in {phase:?}"
            );
        }
        let ran = lines_of(&node, "/action.log", number);
        if ran > 1 {
            assert_eq!((ran, phase), (2, Phase::Action), "the action ran {ran} times");
            let message = task(&once.status, "action")["message"].as_str().unwrap_or_default().to_owned();
            assert!(message.contains("interrupted once"), "status does not say so: {message}");
            twice += 1;
        } else {
            assert_eq!(ran, 1, "after a kill in {phase:?}");
        }
        assert!(lines_of(&node, "/handler.log", number) >= 1, "the handler was lost by a kill in {phase:?}");
        let left: Vec<_> = fs::read_dir(node.root.join("srv"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{left:?} was left after a kill in {phase:?}");
        before = number;
    }
    let phases: BTreeMap<&String, usize> = met.shares.iter().map(|(phase, shares)| (phase, shares.len())).collect();
    let inside = met.inside();
    println!(
        "a run begins after {beginning:?} and ends after {length:?}; {inside} of {kill} kills fell inside it: {phases:?}; the action ran twice {twice} times"
    );
    assert!(met.suffices(kills), "too few of {kill} kills fell inside the run, or in some phase: {inside}, {phases:?}");
}
