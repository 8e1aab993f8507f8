//! Books that need one node.

use towpath_state::{ActionRecord, ActionState, BookId, Changes, Intent, Managed, Phase, kinds};

use crate::{book, harness::Trace};

/// Publishes the one book of a trace.
fn publish(trace: &mut Trace, message: &str, spec: &str) {
    trace.publish(message, &[("book.yaml", &book("web", spec))]);
}

#[test]
fn steady_state() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: folder
    file: {path: /etc/app, state: directory}
  - name: conf
    file: {path: /etc/app/conf, content: one, mode: "0640"}
"#;
    publish(&mut trace, "two files", spec);
    trace.once();
    trace.once();
    trace.once();
    trace.restart();
    trace.once();
    publish(&mut trace, "another content", &spec.replace("one", "two"));
    trace.once();
    trace.shows("/etc/app/conf");
    trace.ends("steady_state");
}

#[test]
fn before_after() {
    let mut trace = Trace::new(1);
    let spec = r#"
rollout:
  before:
    - name: drain
      command: {shell: "echo drain; test ! -e $TOWPATH_ROOT/stuck"}
  after:
    - name: undrain
      command: {shell: "echo undrain"}
tasks:
  - name: first
    file: {path: /first, content: one}
  - name: act
    command: {shell: "echo act"}
"#;
    trace.write("n1", "/stuck", "x");
    publish(&mut trace, "work between drain and undrain", spec);
    trace.once();
    trace.delete("n1", "/stuck");
    trace.once();
    trace.once();
    publish(&mut trace, "another content", &spec.replace("one", "two"));
    trace.once();
    trace.ends("before_after");
}

#[test]
fn handlers() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: conf
    file: {path: /etc/conf, content: one}
    notify: [reload]
  - name: more
    file: {path: /etc/more, content: one}
    notify: [second, reload]
  - name: breaks
    command: {shell: "test ! -e $TOWPATH_ROOT/breaks"}
handlers:
  - name: reload
    command: {shell: "echo reload"}
  - name: second
    command: {shell: "test ! -e $TOWPATH_ROOT/refuses"}
"#;
    trace.write("n1", "/breaks", "x");
    trace.write("n1", "/refuses", "x");
    publish(&mut trace, "two files with handlers, and a task that fails before they run", spec);
    trace.once();
    trace.delete("n1", "/breaks");
    trace.once();
    trace.restart();
    trace.delete("n1", "/refuses");
    trace.once();
    trace.once();
    trace.ends("handlers");
}

#[test]
fn flush_handlers() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: conf
    file: {path: /etc/conf, content: one}
    notify: [reload]
  - name: now
    flushHandlers: true
  - name: behind
    command: {shell: "echo behind"}
    notify: [reload]
handlers:
  - name: reload
    command: {shell: "echo reload"}
"#;
    publish(&mut trace, "handlers in the midst of the book", spec);
    trace.once();
    trace.once();
    trace.ends("flush_handlers");
}

#[test]
fn prune() {
    let mut trace = Trace::new(1);
    trace.write("n1", "/etc/was", "before");
    let files = r#"
prune: true
pruneBudget: 100%
tasks:
  - name: stays
    file: {path: /etc/stays, content: x}
"#;
    let more = r#"  - name: was
    file: {path: /etc/was, content: x}
  - name: goes
    file: {path: /etc/goes, content: x}
"#;
    publish(&mut trace, "three files", &format!("{files}{more}"));
    trace.once();
    publish(&mut trace, "one file", files);
    trace.once();
    trace.shows("/etc/was");
    trace.shows("/etc/goes");
    trace.once();
    trace.remove("no book", "book.yaml");
    trace.once();
    trace.shows("/etc/stays");
    trace.once();
    trace.ends("prune");
}

#[test]
fn prune_budget() {
    let mut trace = Trace::new(1);
    let spec = r#"
prune: true
pruneBudget: 1
tasks:
  - name: stays
    file: {path: /stays, content: x}
  - name: goes
    file: {path: /goes, content: x}
  - name: goes too
    file: {path: /goes-too, content: x}
"#;
    publish(&mut trace, "three files", spec);
    trace.once();
    let fewer = &spec[..spec.find("  - name: goes").unwrap()];
    publish(&mut trace, "one file, where one may go", fewer);
    trace.once();
    trace.once();
    publish(&mut trace, "one file, where two may go", &fewer.replace("pruneBudget: 1", "pruneBudget: 2"));
    trace.once();
    trace.ends("prune_budget");
}

#[test]
fn failure_and_retry() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: first
    command: {shell: "echo first"}
  - name: fragile
    command: {shell: "echo works; test -e $TOWPATH_ROOT/ready"}
    register: fragile
  - name: behind
    file: {path: /behind, content: "{{ steps.fragile.stdout }}"}
"#;
    publish(&mut trace, "a task that fails until something is there", spec);
    trace.once();
    trace.once();
    trace.restart();
    trace.write("n1", "/ready", "x");
    trace.once();
    trace.once();
    trace.shows("/behind");
    trace.ends("failure_and_retry");
}

#[test]
fn failure_that_does_not_stop() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: tried
    command: {shell: "echo again >> $TOWPATH_ROOT/tries; test $(wc -l < $TOWPATH_ROOT/tries) -ge 2"}
    until: {condition: result.rc == 0, interval: 10ms, limit: 3}
  - name: breaks
    command: {shell: "echo no >&2; exit 3"}
    onFailure: continue
  - name: judged
    command: {shell: "exit 4"}
    success: result.rc == 4
    changed: "false"
  - name: checks
    assert: {that: ["1 == 2"]}
  - name: behind
    file: {path: /behind, content: x}
"#;
    publish(&mut trace, "retries, a failure that continues, and one that stops", spec);
    trace.once();
    trace.once();
    trace.ends("failure_that_does_not_stop");
}

#[test]
fn cut_off() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: act
    command: {shell: "echo act"}
  - name: conf
    file: {path: /conf, content: one}
"#;
    publish(&mut trace, "an action and a file", spec);
    trace.once();
    let key = BookId::new("app", "web").task("act");
    trace.between("the agent is cut off while the action runs", |journal| {
        let record: ActionRecord = journal.get(&key).unwrap().unwrap();
        let mut changes = Changes::default();
        changes.put(&key, &ActionRecord { state: ActionState::Begun, finished: None, ..record });
        changes.set(&Intent { phase: Phase::Action, book: "app/web".into(), paths: Vec::new() });
        changes.delete::<kinds::SteadyState>(&());
        journal.commit(changes).unwrap();
    });
    trace.once();
    trace.between("the agent is cut off while a file is written", |journal| {
        let mut changes = Changes::default();
        changes.set(&Intent { phase: Phase::Write, book: "app/web".into(), paths: vec!["/conf".into()] });
        changes.delete::<kinds::Applied>(&Managed { module: "file".into(), identity: "/conf".into() });
        changes.delete::<kinds::SteadyState>(&());
        journal.commit(changes).unwrap();
    });
    trace.once();
    trace.ends("cut_off");
}

#[test]
fn parallel() {
    let mut trace = Trace::new(1);
    let spec = r#"
order: parallel
tasks:
  - name: last
    requires: [left, right]
    command: {shell: "cat $TOWPATH_ROOT/left $TOWPATH_ROOT/right"}
    register: last
  - name: left
    command: {shell: "echo left > $TOWPATH_ROOT/left"}
    notify: [reload]
  - name: right
    command: {shell: "echo right > $TOWPATH_ROOT/right"}
  - name: conf
    file: {path: /conf, content: x}
handlers:
  - name: reload
    command: {shell: "echo reload"}
"#;
    publish(&mut trace, "tasks at once", spec);
    trace.once();
    trace.once();
    trace.ends("parallel");
}

/// A window of an hour that begins at one o'clock in the afternoon.
const WINDOW: &str = r#"
metadata:
  apiVersion: v1alpha
  kind: Config
  name: fleet
spec:
  maintenanceWindows:
    - {from: "13:00", to: "14:00", timeZone: UTC}
"#;

#[test]
fn window() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: conf
    file: {path: /conf, content: one}
  - name: act
    command: {shell: "echo act"}
"#;
    trace.publish("a book and a closed window", &[("config.yaml", WINDOW), ("book.yaml", &book("web", spec))]);
    trace.once();
    trace.once();
    trace.wait(3600);
    trace.once();
    trace.wait(3600);
    trace.write("n1", "/conf", "drift");
    trace.once();
    publish(&mut trace, "another command, behind the window", &spec.replace("echo act", "echo again"));
    trace.once();
    trace.ends("window");
}

#[test]
fn suspend_and_dependency() {
    let mut trace = Trace::new(1);
    let first = r#"
suspend: {reason: audit, until: "2026-01-05T13:00:00Z"}
tasks:
  - name: conf
    file: {path: /conf, content: one}
"#;
    let second = r#"
dependsOn: [first]
tasks:
  - name: behind
    file: {path: /behind, content: one}
"#;
    let files = [("first.yaml", book("first", first)), ("second.yaml", book("second", second))];
    trace
        .publish("a book that waits for a suspended one", &files.each_ref().map(|(path, text)| (*path, text.as_str())));
    trace.once();
    trace.wait(3600);
    trace.once();
    trace.once();
    trace.ends("suspend_and_dependency");
}

#[test]
fn drift_of_content() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: corrected
    file: {path: /corrected, content: x}
  - name: reported
    file: {path: /reported, content: x}
    drift: report
  - name: ignored
    file: {path: /ignored, content: x}
    drift: ignore
  - name: line
    line: {path: /lines, line: one}
    notify: [reload]
handlers:
  - name: reload
    command: {shell: "echo reload"}
"#;
    publish(&mut trace, "files with each policy of drift", spec);
    trace.once();
    trace.once();
    for path in ["/corrected", "/reported", "/ignored", "/lines"] {
        trace.write("n1", path, "drift\n");
    }
    trace.once();
    trace.once();
    publish(&mut trace, "a new commit", &spec.replace("content: x", "content: y"));
    trace.once();
    trace.ends("drift_of_content");
}

/// A test reaches no systemd, so a command with its own check replaces a service.
#[test]
fn drift_of_a_check() {
    let mut trace = Trace::new(1);
    let spec = r#"
rollout: {serialize: {count: 1}}
tasks:
  - name: service
    command:
      shell: "touch $TOWPATH_ROOT/running"
      unless: "test -e $TOWPATH_ROOT/running"
    notify: [announce]
handlers:
  - name: announce
    command: {shell: "echo it runs"}
"#;
    publish(&mut trace, "a service that is started where it does not run", spec);
    trace.once();
    trace.once();
    trace.shows("/running");
    trace.delete("n1", "/running");
    trace.once();
    trace.once();
    trace.ends("drift_of_a_check");
}

#[test]
fn include() {
    let mut trace = Trace::new(1);
    let spec = r#"
vars: {greeting: hello}
tasks:
  - name: ours
    file: {path: /ours, content: "{{ vars.greeting }}"}
  - name: site
    include: {path: tasks/site.yaml, vars: {site: shop}}
"#;
    let tasks = r#"
tasks:
  - name: conf
    file: {path: "/etc/{{ vars.site }}", content: "{{ vars.greeting }} {{ vars.site }}"}
    notify: [reload]
handlers:
  - name: reload
    command: {shell: "echo reload {{ vars.site }}"}
"#;
    trace.publish("an include", &[("book.yaml", &book("web", spec)), ("tasks/site.yaml", tasks)]);
    trace.once();
    trace.once();
    trace.publish("the included tasks change", &[("tasks/site.yaml", &tasks.replace("content: \"", "content: \"oh "))]);
    trace.once();
    trace.shows("/etc/shop");
    trace.ends("include");
}

#[test]
fn loop_with_register() {
    let mut trace = Trace::new(1);
    let spec = r#"
tasks:
  - name: each
    loop: [a, b, c]
    when: item != "b"
    command: {argv: [echo, "{{ item }}{{ loop.index }}"]}
    register: each
  - name: show
    file: {path: /each, content: "{{ steps.each.results | map(attribute='outcome') | join(',') }}"}
  - name: files
    loop: [one, two]
    file: {path: "/files/{{ item }}", content: "{{ item }}"}
    register: files
  - name: later
    when: steps.files.changed
    command: {shell: "echo changed"}
"#;
    publish(&mut trace, "loops", spec);
    trace.once();
    trace.once();
    publish(&mut trace, "one item less, one more", &spec.replace("[a, b, c]", "[a, c, d]"));
    trace.once();
    trace.shows("/each");
    trace.ends("loop_with_register");
}
