//! Paths prepared by users of the machine, earlier commits and archives: links, ACLs, folders that users can write.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use towpath_tests::{
    git::{FLEET, Repository, book},
    node::{Node, OnceResult, task},
    ok,
};

const USER: u32 = 65534;

struct Fixture {
    repository: Repository,
    node: Node,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        repository.write("fleet.yaml", FLEET);
        let node = Node::new(folder.path(), &format!("url: {}", repository.bare.display()));
        Self { repository, node, _folder: folder }
    }

    /// Publishes tasks, each on a line, and runs the agent.
    fn apply(&self, tasks: &[&str]) -> OnceResult {
        let tasks: String = tasks.iter().map(|task| format!("    - {{onFailure: continue, {task}}}\n")).collect();
        self.repository
            .write("book.yaml", book("b", &format!("  prune: true\n  pruneBudget: 100%\n  tasks:\n{tasks}")));
        self.repository.publish("next");
        self.node.once()
    }

    /// Runs the agent again, and expects no change.
    fn assert_in_sync(&self) {
        let once = self.node.once();
        let tasks = once.status["taskBooks"][0]["tasks"].as_array().unwrap();
        assert!(tasks.iter().all(|task| task["outcome"] == "unchanged"), "{:#}\n{}", once.status, once.log);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.node.root.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn folder(&self, path: &str, uid: u32) {
        fs::create_dir_all(self.path(path)).unwrap();
        lchown(self.path(path), Some(uid), Some(uid)).unwrap();
    }

    fn link(&self, path: &str, target: &str, uid: u32) {
        symlink(target, self.path(path)).unwrap();
        lchown(self.path(path), Some(uid), Some(uid)).unwrap();
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok()
    }
}

fn outcome<'a>(once: &'a OnceResult, name: &str) -> &'a Value {
    &task(&once.status, name)["outcome"]
}

fn message(once: &OnceResult, name: &str) -> String {
    task(&once.status, name)["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn links_of_a_user_lead_no_module_to_foreign_files() {
    let f = Fixture::new();
    f.write("/secret/key", "secret\n");
    f.write("/etc/passwd", "u:x:65534:65534::/home/u:/bin/sh\n");
    f.folder("/secret/sub", 0);
    fs::set_permissions(f.path("/secret"), fs::Permissions::from_mode(0o700)).unwrap();
    f.folder("/home/u", USER);
    f.folder("/home/u/own", USER);
    f.link("/home/u/.ssh", "/secret", USER);
    f.link("/home/u/key", "../../secret/key", USER);
    f.link("/home/u/mode", "/secret/key", USER);
    f.link("/home/u/way", "own", USER);
    f.link("/home/u/elsewhere", "../../secret", USER);
    fs::write(f._folder.path().join("a"), "member").unwrap();
    let archive = f.repository.work.join("a.tar");
    ok(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(f._folder.path()).arg("a"));
    f.repository.write("tree/new", "x");
    let once = f.apply(&[
        "name: file, file: {path: /home/u/.ssh/new, content: x}",
        "name: shown, file: {path: /home/u/key, content: x, backup: true}",
        "name: line, line: {path: /home/u/key, line: x}",
        "name: ini, ini: {path: /home/u/.ssh/key, key: a, value: b}",
        "name: mode, file: {path: /home/u/mode, mode: \"0666\"}",
        "name: gone, file: {path: /home/u/.ssh/old, state: absent}",
        "name: tree, file: {path: /home/u/.ssh, source: tree}",
        "name: archive, archive: {path: /home/u/.ssh, source: a.tar}",
        "name: creates, command: {argv: [\"true\"], creates: /home/u/.ssh/key}",
        "name: key, authorizedKey: {user: u, key: \"ssh-ed25519 AAAA k\"}",
        // A working directory is a path of the machine, and not below the configured root.
        &format!("name: cwd, command: {{argv: [touch, here], cwd: {}}}", f.path("/home/u/elsewhere").display()),
        &format!("name: below, command: {{argv: [touch, here], cwd: {}/sub}}", f.path("/home/u/elsewhere").display()),
        &format!(
            "name: as root, command: {{argv: [touch, here], user: root, cwd: {}}}",
            f.path("/home/u/elsewhere").display()
        ),
        &format!("name: own cwd, command: {{argv: [touch, here], cwd: {}}}", f.path("/home/u/way").display()),
        "name: fine, file: {path: /home/u/way/new, content: \"fine\\n\", owner: \"65534\"}",
    ]);
    for name in
        ["file", "shown", "line", "ini", "mode", "gone", "tree", "archive", "creates", "key", "cwd", "below", "as root"]
    {
        assert_eq!(outcome(&once, name), &json!("failed"), "{name}\n{}", once.log);
        let said = message(&once, name);
        assert!(
            ["/.ssh", "/key", "/mode", "/elsewhere"].iter().any(|link| said.contains(&format!("/home/u{link}"))),
            "{name}: {said}"
        );
    }
    for name in ["own cwd", "fine"] {
        assert_eq!(outcome(&once, name), &json!("changed"), "{}", once.log);
    }
    assert!(f.text("/home/u/own/here").is_some() && f.text("/secret/here").is_none());
    assert_eq!(f.text("/home/u/own/new").as_deref(), Some("fine\n"));
    assert_eq!(f.text("/secret/key").as_deref(), Some("secret\n"));
    assert_eq!(fs::metadata(f.path("/secret/key")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(f.path("/secret")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(f.path("/secret/sub")).unwrap().count(), 0);
    assert!(!once.log.contains("secret\\n") && !once.status.to_string().contains("-secret"), "{}", once.log);
}

#[test]
fn hard_link_of_a_user_to_a_foreign_file_changes_and_shows_nothing() {
    let f = Fixture::new();
    f.write("/etc/shadow", "root:hash\n");
    fs::set_permissions(f.path("/etc/shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    f.write("/etc/passwd", "u:x:65534:65534::/home/u:/bin/sh\n");
    f.folder("/home/u/.ssh", USER);
    lchown(f.path("/home/u"), Some(USER), Some(USER)).unwrap();
    for name in ["mode", ".ssh/authorized_keys", "replaced"] {
        fs::hard_link(f.path("/etc/shadow"), f.path("/home/u").join(name)).unwrap();
    }
    let once = f.apply(&[
        "name: mode, file: {path: /home/u/mode, mode: \"0644\", owner: \"65534\"}",
        "name: key, authorizedKey: {user: \"u\", key: \"ssh-ed25519 AAAA k\"}",
        "name: replaced, file: {path: /home/u/replaced, content: new, owner: \"65534\"}",
    ]);
    assert_eq!(outcome(&once, "mode"), &json!("failed"), "{}", once.log);
    assert_eq!(outcome(&once, "key"), &json!("failed"), "{}", once.log);
    assert_eq!(outcome(&once, "replaced"), &json!("changed"), "{}", once.log);
    let shadow = fs::metadata(f.path("/etc/shadow")).unwrap();
    assert_eq!((shadow.uid(), shadow.mode() & 0o777), (0, 0o600));
    assert_eq!(f.text("/etc/shadow").as_deref(), Some("root:hash\n"));
    assert_eq!(f.text("/home/u/replaced").as_deref(), Some("new"));
}

fn directory(name: &str, path: &str, owner: u32) -> String {
    format!("name: {name}, file: {{path: {path}, state: directory, mode: \"0711\", owner: \"{owner}\"}}")
}

#[test]
fn link_of_a_user_to_a_foreign_directory_and_a_dangling_link_are_rejected_as_directories() {
    let f = Fixture::new();
    f.folder("/secret", 0);
    fs::set_permissions(f.path("/secret"), fs::Permissions::from_mode(0o700)).unwrap();
    f.folder("/home/u", USER);
    f.folder("/var", 0);
    f.link("/var/dangling", "/data/missing", 0);
    f.link("/home/u/evil", "/secret", USER);
    let once = f.apply(&[&directory("dangling", "/var/dangling", 65533), &directory("evil", "/home/u/evil", 65533)]);
    for (name, link) in [("dangling", "/var/dangling"), ("evil", "/home/u/evil")] {
        assert_eq!(outcome(&once, name), &json!("failed"), "{}", once.log);
        assert!(message(&once, name).contains(link), "{}", message(&once, name));
    }
    let secret = fs::metadata(f.path("/secret")).unwrap();
    assert_eq!((secret.uid(), secret.mode() & 0o777), (0, 0o700));
    assert!(!f.path("/data/missing").exists());
}

#[test]
fn directory_that_a_link_leads_to_is_managed_and_given_back() {
    let f = Fixture::new();
    f.folder("/data/www", 0);
    fs::set_permissions(f.path("/data/www"), fs::Permissions::from_mode(0o755)).unwrap();
    f.folder("/home/u", USER);
    f.folder("/home/u/own", USER);
    f.folder("/var", 0);
    f.link("/var/www", "/data/www", 0);
    f.link("/home/u/web", "own", USER);
    let (www, own) = (directory("www", "/var/www", 65533), directory("own", "/home/u/web", USER));
    let other = "name: other, file: {path: /other, content: x}";
    let once = f.apply(&[&www, &own, other]);
    let access = |path: &str| {
        let found = fs::metadata(f.path(path)).unwrap();
        (found.uid(), found.mode() & 0o777)
    };
    for (name, path, owner) in [("www", "/data/www", 65533), ("own", "/home/u/own", USER)] {
        assert_eq!(outcome(&once, name), &json!("changed"), "{}", once.log);
        assert_eq!(access(path), (owner, 0o711), "{path}");
    }
    // Drift of both directories is corrected.
    for path in ["/data/www", "/home/u/own"] {
        fs::set_permissions(f.path(path), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let once = f.apply(&[&www, &own, other]);
    assert_eq!((outcome(&once, "www"), outcome(&once, "own")), (&json!("changed"), &json!("changed")), "{}", once.log);
    f.assert_in_sync();

    // A task that is removed gives back the mode and owner, and the link stays.
    let once = f.apply(&[other]);
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!((access("/data/www"), access("/home/u/own")), ((0, 0o755), (USER, 0o755)));
    assert_eq!(fs::read_link(f.path("/var/www")).unwrap(), Path::new("/data/www"));
}

#[test]
fn members_of_a_tree_change_their_kind_and_no_link_is_followed() {
    let f = Fixture::new();
    f.write("/etc/conf", "mine\n");
    f.write("/mnt/conf", "mine\n");
    f.folder("/srv/real", 0);
    f.link("/srv/tree", "real", 0);
    let work = f.repository.work.join("files");
    let tree = "name: tree, file: {path: /srv/tree, source: files}";
    fs::create_dir_all(work.join("folder")).unwrap();
    fs::write(work.join("folder/conf"), "theirs\n").unwrap();
    fs::write(work.join("plain"), "file").unwrap();
    symlink("../../etc", work.join("way")).unwrap();
    symlink("/etc/conf", work.join("end")).unwrap();
    let once = f.apply(&[tree]);
    assert_eq!(outcome(&once, "tree"), &json!("changed"), "{}", once.log);
    assert_eq!(fs::read_link(f.path("/srv/real/way")).unwrap(), Path::new("../../etc"));
    f.assert_in_sync();

    // Each member becomes another kind of file.
    for name in ["folder/conf", "plain", "way", "end"] {
        fs::remove_file(work.join(name)).unwrap();
    }
    fs::remove_dir(work.join("folder")).unwrap();
    symlink("../../etc", work.join("folder")).unwrap();
    for name in ["plain", "way"] {
        fs::create_dir_all(work.join(name)).unwrap();
        fs::write(work.join(name).join("conf"), "theirs\n").unwrap();
    }
    fs::write(work.join("end"), "file").unwrap();
    let once = f.apply(&[tree]);
    assert_eq!(outcome(&once, "tree"), &json!("changed"), "{}", once.log);
    f.assert_in_sync();
    assert_eq!(fs::read_link(f.path("/srv/real/folder")).unwrap(), Path::new("../../etc"));
    assert_eq!(f.text("/srv/real/plain/conf").as_deref(), Some("theirs\n"));
    assert_eq!(f.text("/srv/real/way/conf").as_deref(), Some("theirs\n"));
    assert!(fs::symlink_metadata(f.path("/srv/real/end")).unwrap().is_file());

    // A link that Towpath did not make stays, and is named.
    f.link("/srv/real/fresh", "/mnt", 0);
    fs::create_dir(work.join("fresh")).unwrap();
    fs::write(work.join("fresh/conf"), "theirs\n").unwrap();
    let once = f.apply(&[tree]);
    assert_eq!(outcome(&once, "tree"), &json!("failed"), "{}", once.log);
    assert!(message(&once, "tree").contains("/srv/tree/fresh"), "{}", message(&once, "tree"));

    // Pruning does not follow a link either.
    let once = f.apply(&["name: other, file: {path: /other, content: x}"]);
    assert_eq!(once.code, 0, "{}", once.log);
    for path in ["/etc/conf", "/mnt/conf"] {
        assert_eq!(f.text(path).as_deref(), Some("mine\n"), "{path}\n{}", once.log);
    }
}

#[test]
fn replaced_file_keeps_acl_and_attributes_and_loses_capabilities() {
    let f = Fixture::new();
    let facl = |path: &str| {
        let output = ok(Command::new("getfacl").args(["-cpE", "-n"]).arg(f.path(path)));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let attribute = |path: &str, name: &str| {
        let output = Command::new("getfattr").args(["--only-values", "-n", name]).arg(f.path(path)).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    f.folder("/acl", 0);
    for name in ["line", "block", "a.ini", "a.json", "a.yaml", "a.toml", "file", "backup", "bad"] {
        f.write(&format!("/acl/{name}"), if name == "a.json" { "{}\n" } else { "" });
        let path = f.path(&format!("/acl/{name}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        ok(Command::new("setfacl").args(["-m", "u:1:r"]).arg(&path));
        ok(Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(&path));
    }
    // The kernel drops capabilities on a write. The value is cap_net_raw=ep as setcap writes it.
    ok(Command::new("setfattr")
        .args(["-n", "security.capability", "-v", "0x0100000200200000000000000000000000000000"])
        .arg(f.path("/acl/file")));
    let before = facl("/acl/line");
    f.folder("/default", 0);
    f.write("/default/plain", "old");
    ok(Command::new("setfacl").args(["-d", "-m", "u:1:rw"]).arg(f.path("/default")));
    let tasks = [
        "name: line, line: {path: /acl/line, line: new}",
        "name: block, block: {path: /acl/block, block: new}",
        "name: ini, ini: {path: /acl/a.ini, key: a, value: b}",
        "name: json, json: {path: /acl/a.json, key: a, value: b}",
        "name: yaml, yaml: {path: /acl/a.yaml, key: a, value: b}",
        "name: toml, toml: {path: /acl/a.toml, key: a, value: b}",
        "name: file, file: {path: /acl/file, content: new}",
        "name: backup, file: {path: /acl/backup, content: new, backup: true}",
        "name: bad, file: {path: /acl/bad, content: new, validate: \"false\"}",
        "name: plain, file: {path: /default/plain, content: new}",
        "name: new, file: {path: /default/new, content: new}",
    ];
    let once = f.apply(&tasks);
    for name in
        ["line", "block", "a.ini", "a.json", "a.yaml", "a.toml", "file", "backup", "backup.towpath-backup", "bad"]
    {
        assert_eq!(facl(&format!("/acl/{name}")), before, "{name}\n{}", once.log);
        assert_eq!(attribute(&format!("/acl/{name}"), "user.note"), "kept", "{name}");
    }
    assert_eq!(attribute("/acl/file", "security.capability"), "");
    assert!(!facl("/default/plain").contains("user:1:"), "{}", facl("/default/plain"));
    assert!(facl("/default/new").contains("user:1:r"), "{}", facl("/default/new"));

    // The file is restored with them, even if it was removed meanwhile.
    fs::remove_file(f.path("/acl/file")).unwrap();
    let once = f.apply(&tasks[..1]);
    assert_eq!(once.code, 0, "{}", once.log);
    assert_eq!((f.text("/acl/file").as_deref(), facl("/acl/file")), (Some(""), before), "{}", once.log);
    assert_eq!(attribute("/acl/file", "user.note"), "kept");
}

#[test]
fn validate_judges_the_bytes_that_are_put_in_place() {
    let f = Fixture::new();
    f.folder("/home/u", USER);
    f.write("/etc/app.conf", "old\n");
    // The validator itself swaps every temporary file, as a user of the folder could.
    let swap = f.path("/swap");
    let home = f.path("/home/u");
    let script = format!(
        "#!/bin/sh\nfor f in '{0}'/.towpath-*; do [ -f \"$f\" ] && mv \"$f\" \"$(mktemp -u '{0}/awayXXXXXX')\" && echo evil > \"$f\"; done\n\
         grep -q good \"$1\"\n",
        home.display()
    );
    fs::write(&swap, script).unwrap();
    fs::set_permissions(&swap, fs::Permissions::from_mode(0o755)).unwrap();
    let task = |name: &str, path: &str, content: &str| {
        format!("name: {name}, file: {{path: {path}, content: \"{content}\\n\", validate: \"{} %s\"}}", swap.display())
    };
    let once = f.apply(&[
        &task("good", "/home/u/good", "good"),
        &task("bad", "/home/u/bad", "bad"),
        &task("private", "/etc/app.conf", "good"),
        "name: named, file: {path: /etc/named.conf, content: x, validate: \"case %s in */etc/.towpath-*) ;; *) exit 1;; esac\"}",
    ]);
    assert_eq!(outcome(&once, "bad"), &json!("failed"), "{}", once.log);
    assert!(f.text("/home/u/bad").is_none());
    assert_eq!(f.text("/home/u/good").as_deref(), Some("good\n"), "{}", once.log);
    assert_eq!(f.text("/etc/app.conf").as_deref(), Some("good\n"), "{}", once.log);
    assert_eq!(outcome(&once, "named"), &json!("changed"), "{}", message(&once, "named"));
    let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".place")), "{left:?}");
}
