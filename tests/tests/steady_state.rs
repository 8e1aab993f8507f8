//! The steady state: an agent that runs once and finds no changed input loads nothing. Any changed input causes a full
//! pass.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, OnceResult, condition, task},
};

const TASKS: &str = "  tasks:
    - name: conf
      file: {path: /etc/conf, content: \"{{ facts.custom.color }}\\n\", mode: \"0640\", owner: root}
      notify: [reload]
    - name: tree
      file: {path: /srv/tree, source: files/tree}
    - name: link
      file: {path: /srv/link, linkTo: tree/a}
    - name: gone
      file: {path: /etc/gone, state: absent}
    - name: action
      command: {shell: 'echo ran >> \"$TOWPATH_ROOT/log\"'}
  handlers:
    - name: reload
      command: {shell: 'test ! -e \"$TOWPATH_ROOT/broken\" && echo reload >> \"$TOWPATH_ROOT/log\"'}
";

struct Fixture {
    folder: tempfile::TempDir,
    repository: Repository,
    node: Node,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        repository.write("book.yaml", book("b", TASKS));
        repository.write("files/tree/a", "a");
        repository.write("files/tree/deep/b", "b");
        repository.publish("first");
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        let fixture = Self { folder, repository, node };
        fixture.color("blue");
        fixture
    }

    fn color(&self, color: &str) {
        let facts = self.folder.path().join("n1/facts.d");
        fs::create_dir_all(&facts).unwrap();
        fs::write(facts.join("color.yaml"), format!("{color}\n")).unwrap();
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.node.root.join(path.trim_start_matches('/'))
    }

    /// Runs the agent. Returns true if it used the steady-state shortcut, and the result.
    fn once(&self) -> (bool, OnceResult) {
        let once = self.node.once_with(self.node.agent().env("RUST_LOG", "debug"));
        (once.log.contains("nothing has changed since the last pass"), once)
    }

    /// Runs the agent until it reaches the steady state.
    fn reach_steady_state(&self) {
        for _ in 0..4 {
            let (quick, once) = self.once();
            assert_eq!(once.code, 0, "{}", once.log);
            if quick {
                return;
            }
        }
        panic!("the agent does not settle");
    }

    fn after(&self, what: &str, change: impl FnOnce(&Self)) -> OnceResult {
        self.reach_steady_state();
        change(self);
        let (quick, once) = self.once();
        assert!(!quick, "{what} was not seen");
        once
    }
}

#[test]
fn node_in_steady_state_loads_nothing_and_keeps_its_status() {
    let f = Fixture::new();
    assert_eq!(f.node.once().code, 0);
    let (quick, slow) = f.once();
    assert!(!quick);
    f.reach_steady_state();
    let (quick, once) = f.once();
    assert!(quick, "{}", once.log);
    assert_eq!(once.status["taskBooks"], slow.status["taskBooks"]);
    assert_eq!(once.status["commits"], slow.status["commits"]);
    assert_eq!(condition(&once.status, "Ready")["status"], true);
    assert_eq!(f.node.read("/log").unwrap(), "ran\nreload\n");
}

#[test]
fn every_change_ends_the_steady_state() {
    let f = Fixture::new();
    let put_back = |path: &str, text: &str| assert_eq!(f.node.read(path).as_deref(), Some(text), "{path}");
    f.after("a hand edit", |f| fs::write(f.path("/etc/conf"), "edited").unwrap());
    put_back("/etc/conf", "blue\n");
    f.after("an edit in a tree", |f| fs::write(f.path("/srv/tree/deep/b"), "x").unwrap());
    put_back("/srv/tree/deep/b", "b");
    f.after("a removed file", |f| fs::remove_file(f.path("/srv/tree/a")).unwrap());
    put_back("/srv/tree/a", "a");
    f.after("a link elsewhere", |f| {
        fs::remove_file(f.path("/srv/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", f.path("/srv/link")).unwrap();
    });
    assert_eq!(fs::read_link(f.path("/srv/link")).unwrap(), Path::new("tree/a"));
    f.after("a file that must not be", |f| fs::write(f.path("/etc/gone"), "").unwrap());
    assert!(f.node.read("/etc/gone").is_none());
    f.after("another mode", |f| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(f.path("/etc/conf"), fs::Permissions::from_mode(0o600)).unwrap();
    });
    let once = f.after("another fact", |f| f.color("red"));
    put_back("/etc/conf", "red\n");
    assert!(task(&once.status, "conf")["message"].as_str().unwrap().contains("an input has changed"));
    let once = f.after("a commit", |f| {
        f.repository.write("files/tree/a", "new");
        f.repository.publish("next");
    });
    assert_eq!(once.code, 0, "{}", once.log);
    put_back("/srv/tree/a", "new");
    f.after("another setting", |f| {
        let url = format!("url: {}", f.repository.bare.display());
        f.node.configure(&url, "  reconcile: {drift: report}\n");
    });
    f.after("a damaged mirror", |f| {
        let packs = f.node.state.join("mirrors/fleet.git/objects/pack");
        for pack in fs::read_dir(packs).unwrap().flatten() {
            fs::set_permissions(pack.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            fs::write(pack.path(), "").unwrap();
        }
    });
    f.reach_steady_state();
}

#[test]
fn facts_are_gathered_once_a_pass() {
    let f = Fixture::new();
    let log = f.folder.path().join("gathered");
    let script = f.folder.path().join("n1/facts.d/count");
    fs::write(&script, format!("#!/bin/sh\necho x >> {}\necho 1\n", log.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let gathered = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    for pass in 1..=3 {
        let (quick, once) = f.once();
        assert_eq!((once.code, quick), (0, false), "{}", once.log);
        assert_eq!(gathered(), pass, "pass {pass}");
        f.repository.write("book.yaml", book("b", &TASKS.replace("0640", &format!("060{pass}"))));
        f.repository.publish("next");
    }
}

#[test]
fn fact_that_changes_during_a_pass_leads_to_another_pass() {
    for (name, fact) in [("a file", "color.yaml"), ("a file of another kind", "color.json")] {
        let f = Fixture::new();
        let facts = f.folder.path().join("n1/facts.d");
        fs::remove_file(facts.join("color.yaml")).unwrap();
        fs::write(facts.join(fact), "\"blue\"\n").unwrap();
        // The last task changes the fact that the first task was rendered with.
        let tasks = format!(
            "{}\n",
            TASKS.replace(
                "echo ran >> \"$TOWPATH_ROOT/log\"",
                &format!("printf \"\\\"green\\\"\" > {}", facts.join(fact).display())
            )
        );
        f.repository.write("book.yaml", book("b", &tasks));
        f.repository.publish("a task that changes a fact");
        let (_, first) = f.once();
        assert_eq!((first.code, f.node.read("/etc/conf").as_deref()), (0, Some("blue\n")), "{name}: {}", first.log);
        f.reach_steady_state();
        assert_eq!(f.node.read("/etc/conf").as_deref(), Some("green\n"), "{name}");
    }
}

#[test]
fn pending_handler_rules_out_the_steady_state() {
    let f = Fixture::new();
    f.reach_steady_state();
    fs::write(f.path("/broken"), "").unwrap();
    fs::write(f.path("/etc/conf"), "edited").unwrap();
    let (_, once) = f.once();
    assert_eq!(once.code, 3, "{}", once.log);
    assert_eq!(f.node.read("/etc/conf").as_deref(), Some("blue\n"), "the file is as it should be");
    let (quick, once) = f.once();
    assert!(!quick && once.code == 3, "{}", once.log);
    fs::remove_file(f.path("/broken")).unwrap();
    f.reach_steady_state();
    assert_eq!(f.node.read("/log").unwrap().lines().filter(|line| *line == "reload").count(), 2);
}
