//! Effects of a TaskBook on a machine, seen from outside. Each test checks one promise of the language.

use std::{fs, path::Path};

use serde_json::json;
use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{BusyMount, Node, condition, task},
    ok, towpath,
};

struct Fixture {
    _folder: tempfile::TempDir,
    repository: Repository,
    node: Node,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        Self { _folder: folder, repository, node }
    }

    /// Publishes a book with these lines below `spec`, and runs the agent.
    fn apply(&self, spec: &str) -> towpath_tests::node::OnceResult {
        self.repository.write("book.yaml", book("b", spec));
        self.repository.publish("next");
        self.node.once()
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.node.root.join(path.trim_start_matches('/'))
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn prune_removes_files_and_restores_originals() {
    let f = Fixture::new();
    write(&f.path("/etc/was"), "before\n");
    write(&f.path("/etc/lines"), "first\n");
    let files = |which: &[&str]| {
        which
            .iter()
            .map(|name| format!("    - name: {name}\n      file: {{path: /etc/{name}, content: managed}}\n"))
            .collect::<String>()
    };
    let line = "    - name: line\n      line: {path: /etc/lines, line: ours}\n    - name: theirs\n      line: {path: /etc/lines, line: first}\n";
    let first =
        f.apply(&format!("  prune: true\n  pruneBudget: 100%\n  tasks:\n{}{line}", files(&["was", "new", "stays"])));
    assert_eq!(first.code, 0, "{}", first.log);
    assert_eq!(f.node.read("/etc/was").unwrap(), "managed");
    let second = f.apply(&format!("  prune: true\n  pruneBudget: 100%\n  tasks:\n{}", files(&["stays"])));
    assert_eq!(second.code, 0, "{}", second.log);
    assert_eq!(f.node.read("/etc/was").unwrap(), "before\n");
    assert!(f.node.read("/etc/new").is_none());
    assert_eq!(f.node.read("/etc/lines").unwrap(), "first\n", "our line goes, theirs stays");
    assert_eq!(f.node.read("/etc/stays").unwrap(), "managed");
    // A removed book removes its managed files.
    fs::remove_file(f.repository.work.join("book.yaml")).unwrap();
    f.repository.write(
        "other.yaml",
        book("other", "  tasks:\n    - name: other\n      file: {path: /etc/other, content: x}\n"),
    );
    f.repository.publish("without the book");
    assert_eq!(f.node.once().code, 0);
    assert!(f.node.read("/etc/stays").is_none());
}

#[test]
fn tasks_after_a_failed_batch_do_not_run() {
    let f = Fixture::new();
    let once = f.apply("  tasks:\n    - {name: good, file: {path: /good, content: x}}\n    - {name: bad, file: {path: /bad, content: x, validate: \"false %s\"}}\n    - {name: after, requires: [good], file: {path: /after, content: x}}\n");
    assert_eq!(once.code, 3, "{:#}", once.status);
    assert!(f.node.read("/good").is_some() && f.node.read("/bad").is_none());
    assert!(f.node.read("/after").is_none(), "it ran after a failed task");
}

/// Applies a book that prunes, and that logs when the node leaves and rejoins service.
fn framed(f: &Fixture, tasks: &str) -> towpath_tests::node::OnceResult {
    f.apply(&format!(
        "  prune: true\n  pruneBudget: 100%\n  rollout:\n    before:\n      - name: out\n        command: {{shell: 'echo out >> \"$TOWPATH_ROOT/log\"'}}\n    after:\n      - name: in\n        command: {{shell: 'echo in >> \"$TOWPATH_ROOT/log\"'}}\n  tasks:\n    - {{name: stays, file: {{path: /stays, content: x}}}}\n{tasks}"
    ))
}

const GOES: &str = "    - {name: goes, file: {path: /goes, content: x}}\n";

#[test]
fn failed_removal_keeps_the_node_out_until_it_succeeds_or_is_not_needed() {
    let f = Fixture::new();
    let log = || f.node.read("/log").unwrap_or_default();
    for way in ["it can be", "it need not"] {
        framed(&f, GOES);
        let _ = fs::remove_file(f.path("/log"));
        let kept = BusyMount::new(&f.path("/goes"));
        let once = framed(&f, "");
        assert_eq!((once.code, log().as_str()), (3, "out\n"), "{:#}", once.status);
        assert_eq!(f.node.once().code, 3);
        assert_eq!(log(), "out\n", "it came back");
        if way == "it can be" {
            drop(kept);
            assert_eq!(f.node.once().code, 0);
            assert!(f.node.read("/goes").is_none());
        } else {
            assert_eq!(framed(&f, GOES).code, 0);
        }
        assert_eq!(log(), "out\nin\n", "{way}");
        assert_eq!(f.node.once().code, 0);
        assert_eq!(log(), "out\nin\n", "{way}");
    }
}

#[test]
fn removal_that_cannot_be_tried_does_not_keep_the_node_out() {
    let f = Fixture::new();
    let log = || f.node.read("/log").unwrap_or_default();
    framed(&f, GOES);
    let _ = fs::remove_file(f.path("/log"));
    let kept = BusyMount::new(&f.path("/goes"));
    assert_eq!((framed(&f, "").code, log().as_str()), (3, "out\n"));
    // Book z fails, so its managed files are unknown. Nothing is removed meanwhile.
    f.repository.write("z.yaml", book("z", "  tasks:\n    - {name: z, command: {argv: [\"false\"]}}\n"));
    assert_eq!((framed(&f, "").code, log().as_str()), (3, "out\nin\n"));
    assert_eq!((f.node.once().code, log().as_str()), (3, "out\nin\n"));
    drop(kept);
    f.repository.write("z.yaml", book("z", ""));
    assert_eq!((framed(&f, "").code, log().as_str()), (0, "out\nin\nout\nin\n"));
    assert!(f.node.read("/goes").is_none());
}

#[test]
fn removals_above_the_budget_are_held() {
    let f = Fixture::new();
    let files = |count: usize| {
        (0..count)
            .map(|number| format!("    - name: f{number}\n      file: {{path: /etc/f{number}, content: x}}\n"))
            .collect::<String>()
    };
    f.apply(&format!("  prune: true\n  tasks:\n{}", files(20)));
    let once = f.apply(&format!("  prune: true\n  tasks:\n{}", files(10)));
    assert_eq!(
        (once.code, condition(&once.status, "Held")["reason"].as_str().unwrap()),
        (4, "Budget"),
        "{:#}",
        once.status
    );
    assert!(f.node.read("/etc/f19").is_some());
    let once = f.apply(&format!("  prune: true\n  tasks:\n{}", files(17)));
    assert_eq!(once.code, 0, "{:#}", once.status);
    assert!(f.node.read("/etc/f19").is_none() && f.node.read("/etc/f16").is_some());
}

#[test]
fn file_that_moves_to_another_book_stays() {
    let f = Fixture::new();
    let file = "  prune: true\n  tasks:\n    - name: moved\n      file: {path: /etc/moved, content: x}\n";
    f.repository.write("z.yaml", book("z", "  prune: true\n  tasks:\n    - name: other\n      debug: {message: x}\n"));
    f.apply(file);
    f.repository.write("z.yaml", book("z", file));
    let once = f.apply("  prune: true\n  tasks:\n    - name: other\n      debug: {message: x}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(f.node.read("/etc/moved").unwrap(), "x");
    assert_eq!(task(&once.status, "moved")["outcome"], "unchanged");
}

#[test]
fn handlers_survive_a_failed_task_and_run_once() {
    let f = Fixture::new();
    let spec = |fails: &str| {
        format!(
            "  tasks:\n    - name: conf\n      file: {{path: /etc/conf, content: x}}\n      notify: [reload, second]\n    - name: breaks\n      command: {{argv: [{fails}]}}\n  handlers:\n    - name: second\n      command: {{shell: 'echo second >> \"$TOWPATH_ROOT/log\"'}}\n    - name: reload\n      command: {{shell: 'echo reload >> \"$TOWPATH_ROOT/log\"'}}\n"
        )
    };
    assert_eq!(f.apply(&spec("\"false\"")).code, 3);
    assert!(f.node.read("/log").is_none());
    assert_eq!(f.apply(&spec("\"true\"")).code, 0);
    assert_eq!(f.node.read("/log").unwrap(), "second\nreload\n", "once each, in the order of handlers");
    f.node.once();
    fs::write(f.path("/etc/conf"), "drift").unwrap();
    f.node.once();
    assert_eq!(f.node.read("/log").unwrap(), "second\nreload\nsecond\nreload\n", "also by a corrected drift");
}

#[test]
fn command_after_a_failed_batch_does_not_run() {
    let f = Fixture::new();
    let once = f.apply("  tasks:\n    - name: site\n      file: {path: /etc/site, content: bad, validate: \"grep -q good %s\"}\n    - name: migrate\n      command: {shell: 'touch \"$TOWPATH_ROOT/migrated\"'}\n");
    assert_eq!(once.code, 3);
    assert!(f.node.read("/migrated").is_none());
}

#[test]
fn adjacent_tasks_on_one_file_see_each_other() {
    let f = Fixture::new();
    write(&f.path("/etc/sysctl.conf"), "a=1\n");
    let once = f.apply("  tasks:\n    - name: lines\n      loop: [b=2, c=3]\n      line: {path: /etc/sysctl.conf, line: \"{{ item }}\"}\n    - name: block\n      block: {path: /etc/sysctl.conf, block: \"x\\ny\\n\", match: mine}\n    - name: replaced\n      line: {path: /etc/sysctl.conf, match: ^a=, line: a=9}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(
        f.node.read("/etc/sysctl.conf").unwrap(),
        "a=9\nb=2\nc=3\n# BEGIN towpath mine\nx\ny\n# END towpath mine\n"
    );
}

#[test]
fn drift_is_corrected_reported_or_ignored() {
    let f = Fixture::new();
    let files = ["correct", "report", "ignore"]
        .map(|policy| {
            format!("    - name: {policy}\n      file: {{path: /etc/{policy}, content: ours}}\n      drift: {policy}\n")
        })
        .concat();
    f.apply(&format!("  tasks:\n{files}"));
    for policy in ["correct", "report", "ignore"] {
        fs::write(f.path(&format!("/etc/{policy}")), "theirs").unwrap();
    }
    let once = f.node.once();
    assert_eq!(f.node.read("/etc/correct").unwrap(), "ours");
    assert_eq!(f.node.read("/etc/report").unwrap(), "theirs");
    assert!(task(&once.status, "report")["message"].as_str().unwrap().contains("drift: report"));
    assert_eq!(task(&once.status, "ignore")["message"], json!(null));
    // A change by a commit is applied under every drift policy.
    let once = f.apply(&format!("  tasks:\n{}", files.replace("ours", "newer")));
    assert_eq!(once.code, 0);
    assert_eq!(f.node.read("/etc/report").unwrap(), "newer");
}

#[test]
fn actions_run_once_per_definition() {
    let f = Fixture::new();
    let action = |text: &str| {
        format!(
            "  tasks:\n    - name: act\n      command: {{shell: 'echo {text} >> \"$TOWPATH_ROOT/log\"; echo said {text}'}}\n      register: said\n    - name: show\n      file: {{path: /said, content: \"{{{{ steps.said.stdout }}}}\"}}\n"
        )
    };
    f.apply(&action("one"));
    f.node.once();
    assert_eq!(f.node.read("/log").unwrap(), "one\n");
    assert_eq!(
        f.node.read("/said").unwrap(),
        "said one\n",
        "an action that did not run again registers its last result"
    );
    f.apply(&action("two"));
    assert_eq!(f.node.read("/log").unwrap(), "one\ntwo\n");
    let same = action("two");
    f.apply(&format!("{same}    - name: more\n      debug: {{message: x}}\n"));
    assert_eq!(f.node.read("/log").unwrap(), "one\ntwo\n", "a change elsewhere runs nothing again");
    // The bytes of a script are part of its definition. Guards turn a command into a state task.
    f.repository.write("files/s.sh", "#!/bin/sh\necho script $1 >> \"$TOWPATH_ROOT/script\"\n");
    let script = "  tasks:\n    - name: script\n      script: {source: files/s.sh, args: [x]}\n    - name: guarded\n      command: {shell: 'touch \"$TOWPATH_ROOT/made\"; echo g >> \"$TOWPATH_ROOT/guard\"', creates: /made}\n    - name: always\n      command: {shell: 'echo a >> \"$TOWPATH_ROOT/always\"', run: always}\n";
    f.apply(script);
    f.node.once();
    f.repository.write("files/s.sh", "#!/bin/sh\necho other $1 >> \"$TOWPATH_ROOT/script\"\n");
    f.apply(script);
    assert_eq!(f.node.read("/script").unwrap(), "script x\nother x\n");
    assert_eq!(f.node.read("/guard").unwrap(), "g\n");
    assert_eq!(f.node.read("/always").unwrap(), "a\na\na\n");
    fs::remove_file(f.path("/made")).unwrap();
    f.node.once();
    assert_eq!(f.node.read("/guard").unwrap(), "g\ng\n");
}

#[test]
fn tasks_before_and_after_surround_a_change() {
    let f = Fixture::new();
    let spec = |content: &str, drain: &str| {
        format!(
            "  rollout:\n    before:\n      - name: drain\n        command: {{shell: 'echo drain >> \"$TOWPATH_ROOT/log\"; {drain}'}}\n    after:\n      - name: undrain\n        command: {{shell: 'echo undrain >> \"$TOWPATH_ROOT/log\"'}}\n  tasks:\n    - name: conf\n      file: {{path: /etc/conf, content: {content}}}\n      notify: [reload]\n  handlers:\n    - name: reload\n      command: {{shell: 'echo reload >> \"$TOWPATH_ROOT/log\"'}}\n"
        )
    };
    f.apply(&spec("one", "true"));
    assert_eq!(f.node.read("/log").unwrap(), "drain\nreload\nundrain\n");
    f.node.once();
    assert_eq!(f.node.read("/log").unwrap(), "drain\nreload\nundrain\n", "nothing to change, nothing to frame");
    let once = f.apply(&spec("two", "false"));
    assert_eq!(f.node.read("/etc/conf").unwrap(), "one", "a node that was not drained is not changed: {}", once.log);
    let _ = f.node.once();
    assert_eq!(f.node.read("/etc/conf").unwrap(), "one", "and not in the next pass either");
    f.apply(&spec("two", "true"));
    assert_eq!(f.node.read("/etc/conf").unwrap(), "two");
    assert!(f.node.read("/log").unwrap().ends_with("drain\nreload\nundrain\n"));
}

#[test]
fn until_success_changed_and_failure() {
    let f = Fixture::new();
    let once = f.apply(
        "  tasks:
    - name: third time
      command: {shell: 'echo x >> \"$TOWPATH_ROOT/tries\"; wc -l < \"$TOWPATH_ROOT/tries\"'}
      until: {condition: \"result.stdout | trim | int >= 3\", interval: 10ms, limit: 5}
    - name: grep
      command: {argv: [grep, -q, nothing, /etc/hostname]}
      success: result.rc in [0, 1]
      changed: \"false\"
      notify: [never]
    - name: never holds
      command: {argv: [\"true\"]}
      until: {condition: result.rc == 7, interval: 1ms, limit: 2}
      onFailure: continue
    - name: needs it
      requires: [never holds]
      file: {path: /needs, content: x}
    - name: needs that
      requires: [needs it]
      file: {path: /needs2, content: x}
    - name: goes on
      file: {path: /goes, content: x}
  handlers:
    - name: never
      command: {shell: 'touch \"$TOWPATH_ROOT/never\"'}
",
    );
    assert_eq!(once.code, 3, "{}", once.log);
    assert_eq!(f.node.read("/tries").unwrap().lines().count(), 3);
    assert_eq!(task(&once.status, "grep")["outcome"], "unchanged");
    assert!(task(&once.status, "never holds")["message"].as_str().unwrap().contains("is false"));
    assert_eq!(task(&once.status, "needs it")["outcome"], "skipped");
    assert_eq!(task(&once.status, "needs that")["outcome"], "skipped");
    assert!(f.node.read("/goes").is_some() && f.node.read("/needs").is_none() && f.node.read("/never").is_none());
}

#[test]
fn file_task_may_define_its_success() {
    let f = Fixture::new();
    let once = f.apply(
        "  tasks:
    - name: must be new
      file: {path: /conf, content: x}
      success: result.changed
    - name: next
      file: {path: /next, content: x}
",
    );
    assert_eq!(once.code, 0, "{}", once.log);
    let once = f.node.once();
    assert_eq!(once.code, 3);
    assert!(task(&once.status, "must be new")["message"].as_str().unwrap().contains("result.changed` is false"));
}

#[test]
fn unchecked_file_of_a_killed_agent_is_checked_by_the_next_agent() {
    let f = Fixture::new();
    write(&f.path("/etc/site"), "good\n");
    let marker = f.node.folder.join("marker");
    let check = format!("test ! -e {0} && touch {0} && sleep 60", marker.display());
    f.repository.write(
        "book.yaml",
        book("b", &format!("  tasks:\n    - name: site\n      file: {{path: /etc/site, content: \"bad\\n\", validate: '{check}'}}\n")),
    );
    f.repository.publish("bad");
    let mut agent = towpath_tests::Running::start(
        f.node.agent().arg("--once"),
        std::process::Stdio::null(),
        std::process::Stdio::null(),
    );
    towpath_tests::wait_until(std::time::Duration::from_secs(20), || marker.exists(), || "no check".into());
    assert_eq!(f.node.read("/etc/site").unwrap(), "bad\n", "it is checked in its place");
    agent.kill();
    let once = f.node.once();
    assert_eq!(once.code, 3, "{}", once.log);
    assert!(once.log.contains("restoring an invalid file"), "{}", once.log);
    assert_eq!(f.node.read("/etc/site").unwrap(), "good\n");
}

#[test]
fn pending_script_survives_its_revision() {
    let f = Fixture::new();
    f.repository.write(
        "files/restart.sh",
        "#!/bin/sh\ntest ! -e $TOWPATH_ROOT/hold || exit 1\necho done > $TOWPATH_ROOT/restarted\n",
    );
    write(&f.path("/hold"), "");
    let once = f.apply("  tasks:\n    - name: conf\n      file: {path: /etc/conf, content: x}\n      notify: [restart]\n  handlers:\n    - name: restart\n      script: {source: files/restart.sh}\n");
    assert_eq!(once.code, 3, "{}", once.log);
    f.repository.git(&["rm", "-q", "files/restart.sh"]);
    fs::remove_file(f.path("/hold")).unwrap();
    let once = f.apply("  tasks:\n    - name: conf\n      file: {path: /etc/conf, content: x}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(f.node.read("/restarted").unwrap(), "done\n");
}

#[test]
fn loops_register_all_results() {
    let f = Fixture::new();
    let once = f.apply("  tasks:\n    - name: each\n      loop: [a, b]\n      command: {argv: [echo, \"{{ item }}{{ loop.index }}\"]}\n      register: each\n    - name: show\n      file: {path: /each, content: \"{{ steps.each.results | map(attribute='stdout') | map('trim') | join(',') }}\"}\n    - name: none\n      when: \"false\"\n      debug: {message: x}\n      register: none\n    - name: skipped\n      assert: {that: [\"steps.none.outcome == 'skipped'\"]}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(f.node.read("/each").unwrap(), "a1,b2");
    assert_eq!(task(&once.status, "each [a]")["outcome"], "changed");
    assert_eq!(f.node.once().code, 0);
    assert_eq!(f.node.read("/each").unwrap(), "a1,b2", "the results are those of the last run");
}

#[test]
fn parallel_books_respect_requires() {
    let f = Fixture::new();
    let once = f.apply("  order: parallel\n  tasks:\n    - name: last\n      requires: [first]\n      command: {shell: 'cat \"$TOWPATH_ROOT/first\"'}\n    - name: first\n      command: {shell: 'echo x > \"$TOWPATH_ROOT/first\"'}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    // A file that is written in a batch exists before the tasks that require it.
    let reads = |name: &str| {
        format!("    - name: {name}\n      requires: [file]\n      command: {{shell: 'cat \"$TOWPATH_ROOT/file\"'}}\n")
    };
    let file = "    - {name: file, file: {path: /file, content: x}}\n";
    let once = f.apply(&format!("  order: parallel\n  tasks:\n{}{}{file}", reads("one"), reads("two")));
    assert_eq!(once.code, 0, "{:#}\n{}", once.status, once.log);
}

#[test]
fn tasks_of_a_parallel_book_run_at_once() {
    let f = Fixture::new();
    // Each task waits for the file of the other, so they finish only if they run at the same time.
    let meets = |own: &str, other: &str| {
        format!(
            "    - name: {own}\n      timeout: 20s\n      command: {{shell: 'touch \"$TOWPATH_ROOT/{own}\"; until [ -e \"$TOWPATH_ROOT/{other}\" ]; do sleep 0.05; done'}}\n      register: {own}\n"
        )
    };
    let once = f.apply(&format!(
        "  order: parallel\n  tasks:\n{}{}    - name: file\n      file: {{path: /file, content: x}}\n",
        meets("a", "b"),
        meets("b", "a")
    ));
    assert_eq!(once.code, 0, "{}", once.log);
    assert!(f.node.read("/file").is_some());
    assert_eq!(f.node.once().code, 0);
}

#[test]
fn book_is_held_until_its_dependency_is_applied() {
    let f = Fixture::new();
    f.repository.write("z.yaml", book("z", "  tasks:\n    - name: z\n      command: {argv: [\"false\"]}\n"));
    let once = f.apply("  dependsOn: [z]\n  tasks:\n    - name: b\n      file: {path: /b, content: x}\n");
    assert_eq!((once.code, condition(&once.status, "Held")["reason"].as_str().unwrap()), (3, "Dependency"));
    assert!(f.node.read("/b").is_none());
}

#[test]
fn pauses_hold_until_they_end() {
    let f = Fixture::new();
    let tasks = "  tasks:\n    - name: b\n      file: {path: /b, content: x}\n";
    let once = f.apply(&format!("  suspend: {{reason: audit, until: \"2090-01-01T00:00:00Z\"}}\n{tasks}"));
    assert_eq!((once.code, condition(&once.status, "Held")["reason"].as_str().unwrap()), (4, "Suspended"));
    assert!(condition(&once.status, "Held")["message"].as_str().unwrap().contains("audit"));
    let once = f.apply(&format!("  suspend: {{reason: audit, until: \"2020-01-01T00:00:00Z\"}}\n{tasks}"));
    assert_eq!(once.code, 0);
}

#[test]
fn changes_wait_for_their_maintenance_window_and_drift_does_not() {
    let f = Fixture::new();
    let tasks = |content: &str| format!("  tasks:\n    - name: b\n      file: {{path: /b, content: {content}}}\n");
    let window = |from: &str, to: &str| {
        let zone = "Asia/Kathmandu";
        f.repository.write(
            "config.yaml",
            format!("metadata: {{apiVersion: v1alpha, kind: Config, name: fleet}}\nspec:\n  maintenanceWindows: [{{from: \"{from}\", to: \"{to}\", timeZone: {zone}}}]\n"),
        );
    };
    // The time of day in the zone, so many hours from now.
    let later = |hours: u64| {
        let output = ok(std::process::Command::new("date")
            .env("TZ", "Asia/Kathmandu")
            .arg("-d")
            .arg(format!("{hours} hours"))
            .arg("+%H:%M"));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    window(&later(3), &later(5));
    let once = f.apply(&tasks("one"));
    assert_eq!((once.code, condition(&once.status, "Held")["reason"].as_str().unwrap()), (4, "Window"), "{}", once.log);
    assert!(condition(&once.status, "Held")["message"].as_str().unwrap().contains("the next one opens at"));
    assert!(f.node.read("/b").is_none());
    window(&later(23), &later(1));
    assert_eq!(f.apply(&tasks("one")).code, 0);
    window(&later(3), &later(5));
    assert_eq!(f.apply(&tasks("one")).code, 0, "nothing is to be changed");
    fs::write(f.path("/b"), "drift").unwrap();
    assert_eq!(f.node.once().code, 0);
    assert_eq!(f.node.read("/b").unwrap(), "one", "drift of content waits for nothing");
    window(&later(3), &later(5));
    f.repository.write("config.yaml", "metadata: {apiVersion: v1alpha, kind: Config, name: fleet}\nspec:\n  maintenanceWindows: [{from: \"01:00\", to: \"02:00\", timeZone: Europe/Berln}]\n");
    let once = f.apply(&tasks("two"));
    assert!(once.code == 2 && once.log.contains("did you mean Europe/Berlin?"), "{}", once.log);
}

#[test]
fn plan_lists_changes_without_making_them() {
    let f = Fixture::new();
    f.apply("  prune: true\n  tasks:\n    - name: f\n      file: {path: /etc/f, content: \"one\\n\"}\n    - name: gone\n      file: {path: /etc/gone, content: x}\n");
    f.repository.write("book.yaml", book("b", "  prune: true\n  tasks:\n    - name: f\n      file: {path: /etc/f, content: \"two\\n\"}\n    - name: act\n      command: {argv: [touch, /tmp/never-made-by-towpath]}\n      register: act\n    - name: later\n      when: steps.act.rc == 0\n      debug: {message: x}\n"));
    let plan = |arguments: &[&str]| {
        let output = towpath()
            .arg("plan")
            .arg("--config")
            .arg(&f.node.config)
            .args(arguments)
            .args(["--output", "json"])
            .output()
            .unwrap();
        (output.status.code().unwrap(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default())
    };
    let work = f.repository.work.display().to_string();
    let (code, planned) = plan(&["--source-dir", &work, "--exit-code"]);
    assert_eq!(code, 5, "{planned:#}");
    let action = |name: &str| {
        planned["tasks"].as_array().unwrap().iter().find(|task| task["name"] == name).unwrap()["action"].clone()
    };
    assert_eq!([action("f"), action("act"), action("later")], [json!("update"), json!("run"), json!("unknown")]);
    assert!(planned["tasks"][0]["diff"].as_str().unwrap().contains("-one\n+two"));
    assert_eq!(f.node.read("/etc/f").unwrap(), "one\n");
    // A plan of the accepted revision has no change. The agent and the command return the same plan.
    let (code, alone) = plan(&["--exit-code"]);
    assert_eq!(code, 0, "{alone:#}");
    let _agent = f.node.start();
    f.node.wait_for(f.node.status()["commits"]["fleet"].as_str().unwrap());
    assert_eq!(plan(&[]).1, alone);
    fs::write(f.path("/etc/gone"), "drift").unwrap();
}

#[test]
fn root_contains_all_managed_paths() {
    let f = Fixture::new();
    let outside = f.node.folder.join("outside");
    write(&outside.join("secret"), "keep");
    std::os::unix::fs::symlink(&outside, f.path("/out")).unwrap();
    let once = f.apply("  tasks:\n    - name: escape\n      file: {path: /out/secret, content: gone}\n");
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "keep", "{}", once.log);
}

#[test]
fn own_facts_and_computed_values() {
    let f = Fixture::new();
    let facts = f.node.folder.join("facts.d");
    write(&facts.join("rack.yaml"), "row: 3\n");
    write(&facts.join("load.sh"), "#!/bin/sh\necho '{\"n\": 4}'\n");
    ok(std::process::Command::new("chmod").arg("+x").arg(facts.join("load.sh")));
    f.repository.write("vars.yaml", "metadata: {apiVersion: v1alpha, kind: Variables, name: v, namespace: app}\nspec:\n  values: {base: 10}\n  computed:\n    - {name: sum, expression: vars.base + facts.custom.rack.row}\n    - {name: said, task: {name: say, command: {argv: [echo, hi]}}, value: result.stdout | trim}\n");
    let once = f.apply("  tasks:\n    - name: f\n      file: {path: /f, content: \"{{ vars.sum }} {{ vars.said }} {{ facts.custom.load.n }}\"}\n");
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!(f.node.read("/f").unwrap(), "13 hi 4");
}

#[test]
fn link_of_a_user_leads_no_key_out_of_the_home() {
    const OLD: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOld old";
    let f = Fixture::new();
    write(&f.path("/etc/passwd"), "web:x:0:0::/home/web:/bin/sh\n");
    write(&f.path("/home/web/.ssh/authorized_keys"), &format!("{OLD}\n"));
    write(&f.path("/etc/keys/authorized_keys"), "");
    let spec = "  tasks:\n    - name: it\n      authorizedKey: {user: web, key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINew new}\n";
    let first = f.apply(spec);
    assert_eq!(first.code, 0, "{}", first.log);
    let keys = f.node.read("/home/web/.ssh/authorized_keys").unwrap();
    assert_eq!(keys, format!("{OLD}\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINew new\n"));
    // Users may put a link into their home at any time.
    fs::remove_dir_all(f.path("/home/web/.ssh")).unwrap();
    std::os::unix::fs::symlink("../../etc/keys", f.path("/home/web/.ssh")).unwrap();
    let second = f.apply(spec);
    assert_eq!(f.node.read("/etc/keys/authorized_keys").unwrap(), "", "{}", second.log);
    assert_ne!(second.code, 0, "{}", second.log);
}

#[test]
fn removal_stops_at_a_mounted_file_system() {
    let f = Fixture::new();
    let inner = f.path("/data/inner");
    fs::create_dir_all(&inner).unwrap();
    ok(std::process::Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&inner));
    fs::write(inner.join("kept"), "x").unwrap();
    let once = f.apply("  tasks:\n    - name: gone\n      file: {path: /data, state: absent}\n");
    let message = task(&once.status, "gone")["message"].as_str().unwrap_or_default().to_owned();
    let kept = fs::read_to_string(inner.join("kept"));
    ok(std::process::Command::new("umount").arg(&inner));
    assert!(message.contains("a file system is mounted at inner"), "{message}");
    assert_eq!(kept.unwrap(), "x");
    assert_eq!(f.node.once().code, 0);
    assert!(!f.path("/data").exists());
}
