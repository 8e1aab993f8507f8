//! Items that two tasks manage.

use std::fs;

use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, OnceResult},
};

struct Fixture {
    repository: Repository,
    node: Node,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        Self { repository, node, _folder: folder }
    }

    fn apply(&self) -> OnceResult {
        self.repository.publish("next");
        self.node.once()
    }
}

/// The path is a template. The task `fine` writes a file of its own.
const TEMPLATED: &str = r#"
  vars: {name: same}
  tasks:
    - name: f
      onFailure: continue
      file: {path: "/etc/{{ vars.name }}", content: FROM}
    - {name: fine, file: {path: /etc/FROM, content: x}}
"#;

/// The paths are members of a loop.
const LOOPED: &str = r#"
  tasks:
    - name: f
      onFailure: continue
      loop: [same, FROM]
      file: {path: "/etc/{{ item }}", content: FROM}
"#;

#[test]
fn item_of_two_tasks_is_written_by_neither() {
    for (one, other) in [(TEMPLATED, TEMPLATED), (TEMPLATED, LOOPED), (LOOPED, TEMPLATED)] {
        let f = Fixture::new();
        f.repository.write("z.yaml", book("z", &other.replace("FROM", "z")));
        f.repository.write("b.yaml", book("b", &one.replace("FROM", "b")));
        let once = f.apply();
        assert_eq!(once.code, 3);
        assert_eq!(f.node.read("/etc/same"), None, "{}", once.log);
        assert!(["/etc/b", "/etc/z"].iter().all(|path| f.node.read(path).is_some()), "{}", once.log);
        for other in ["app/b/f", "app/z/f"] {
            assert!(once.log.contains(&format!("managed by {other} too")), "{other}\n{}", once.log);
        }
        // The book that is left writes the item.
        fs::remove_file(f.repository.work.join("z.yaml")).unwrap();
        assert_eq!(f.apply().code, 0);
        assert_eq!(f.node.read("/etc/same").as_deref(), Some("b"));
    }
}
