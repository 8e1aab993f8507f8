//! Commits and commands that would make a secret readable for others, or lose one.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::Stdio,
};

use towpath_tests::{ok, output, towpath};

use super::{Fleet, PLAIN, age, fed, indented, refused, sops};

/// The path of a Secret of the namespace blog, whose reader is the second node.
const BLOG: &str = "secrets/blog.yaml";

impl Fleet {
    /// Writes a Secret of the namespace blog, as a person does who may only change this namespace.
    fn write_blog(&self, values: &str) {
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: NodeGroup, name: blog}}\nspec: {{nodes: [db2]}}\n---\nmetadata: {{apiVersion: v1alpha, kind: Secret, name: copy, namespace: blog}}\nspec:\n  readers: {{nodeGroups: [blog]}}\n{values}"
        );
        self.repository.write(BLOG, text);
    }

    /// Returns true if the second node, which is the reader of the Secret of the namespace blog, opens its values.
    fn opens_for_blog(&self) -> bool {
        let key = self.node_key(1);
        let mut command = self.command(&["edit", "blog/copy", "--identity", key.to_str().unwrap()]);
        output(command.env("EDITOR", "true")).status.success()
    }

    /// Writes keys and serial numbers that are revoked into the Config.
    fn revoke(&self, entry: &str) {
        let objects = self.text("fleet.yaml");
        let objects = objects.replace("{recoveryRecipients", &format!("{{revoked: [\"{entry}\"], recoveryRecipients"));
        self.repository.write("fleet.yaml", objects);
    }
}

#[test]
fn copied_ciphertext_gets_no_new_reader() {
    let fleet = Fleet::new();
    let operator = fleet.recipient();
    let file = fleet.with_sops("backup.json", "{\"password\": \"hunter2\"}");
    let text = fs::read_to_string(&file).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys = document["sops"]["age"].as_array().unwrap();
    let key = keys.iter().find(|key| key["recipient"] == *operator).unwrap();
    // The list claims that another reader was removed.
    let mut forged = document.clone();
    let (blog, other) = (fleet.node_recipient(1), fleet.keygen("other.key"));
    forged["sops"]["age"] = [&operator, &blog, &other]
        .map(|recipient| serde_json::json!({ "recipient": recipient, "enc": key["enc"] }))
        .to_vec()
        .into();
    let data = |armor: &str| format!("  data:\n    key: |\n{}", indented(armor));
    for (values, copied) in [
        (data(&age(&operator, b"hunter2")), None),
        (data(key["enc"].as_str().unwrap()), None),
        ("  sops: files/copy.json\n".to_owned(), Some(text.clone())),
        ("  sops: files/copy.json\n".to_owned(), Some(forged.to_string())),
    ] {
        fleet.write_blog(&values);
        if let Some(copied) = copied {
            fleet.repository.write("files/copy.json", copied);
        }
        let before = (fleet.text(BLOG), fs::read(fleet.repository.work.join("files/copy.json")).ok());
        let found = output(&mut fleet.command(&["rewrap"]));
        let said = String::from_utf8_lossy(&found.stderr).into_owned();
        assert_eq!(found.status.code(), Some(2), "{said}");
        assert!(said.contains("run `towpath secrets rewrap blog/copy`"), "{said}");
        assert!(String::from_utf8_lossy(&found.stdout).contains("of blog/copy is left unchanged"), "{found:?}");
        let after = (fleet.text(BLOG), fs::read(fleet.repository.work.join("files/copy.json")).ok());
        assert_eq!(before, after);
        assert!(!fleet.opens_for_blog(), "{values}");
    }
    // Other values are encrypted again in the same run, and a named Secret is, too.
    fleet.write_blog(&data(&age(&operator, b"own")));
    fleet.repository.write("secrets/db.yaml", super::SECRET);
    fleet.encrypt("password", "hunter2");
    fleet.write_objects(&["db1", "db2"], &operator);
    let found = output(&mut fleet.command(&["rewrap"]));
    assert_eq!(found.status.code(), Some(2), "{found:?}");
    assert!(String::from_utf8_lossy(&found.stdout).contains("password of shop/db is encrypted again"), "{found:?}");
    let (_, said) = fleet.validate();
    assert!(said.contains("then run `towpath secrets rewrap blog/copy`"), "{said}");
    fleet.run(&["rewrap", "blog/copy"]);
    assert!(fleet.opens_for_blog());
    fleet.run(&["rewrap"]);
}

#[test]
fn file_of_sops_of_two_secrets_is_refused() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let before = fs::read_to_string(&file).unwrap();
    for path in ["files/backup.yaml", "./files/backup.yaml", "files//backup.yaml"] {
        fleet.write_blog(&format!("  sops: {path}\n"));
        for arguments in [&["rewrap"][..], &["rewrap", "blog/copy"]] {
            let said = fleet.refused(arguments);
            assert!(said.contains("names the file, too"), "{path}: {said}");
        }
        let (code, said) = fleet.validate();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("the Secret shop/backup names the file, too"), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn links_are_not_followed_to_a_file_of_sops() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let (outside, folder) = (fleet.path("outside.yaml"), fleet.path("outside"));
    fs::create_dir(&folder).unwrap();
    fs::copy(&file, &outside).unwrap();
    fs::copy(&file, folder.join("backup.yaml")).unwrap();
    let work = &fleet.repository.work;
    symlink(&outside, work.join("files/link.yaml")).unwrap();
    symlink("backup.yaml", work.join("files/inner.yaml")).unwrap();
    symlink(&folder, work.join("files/linked")).unwrap();
    let before = fs::read_to_string(&outside).unwrap();
    fleet.write_objects(&["db1", "db2"], &fleet.recipient());
    for (path, link) in [
        ("files/link.yaml", "files/link.yaml"),
        ("files/inner.yaml", "files/inner.yaml"),
        ("files/linked/backup.yaml", "files/linked"),
    ] {
        fleet.repository.write(
            "secrets/db.yaml",
            format!("metadata: {{apiVersion: v1alpha, kind: Secret, name: backup, namespace: shop}}\nspec: {{readers: {{nodeGroups: [db]}}, sops: {path}}}\n"),
        );
        let message = format!("{link} is a link, and links are not followed");
        let editor = fleet.script("sed -i 's/hunter2/hunter3/' \"$1\"");
        let said = refused(fleet.command(&["edit", "shop/backup"]).env("EDITOR", editor));
        assert!(said.contains(&message), "{path}: {said}");
        let said = fleet.refused(&["rewrap", "shop/backup"]);
        assert!(said.contains(&message), "{path}: {said}");
        let (code, said) = fleet.validate();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&message), "{path}: {said}");
    }
    for file in [&outside, &folder.join("backup.yaml"), &file] {
        assert_eq!(fs::read_to_string(file).unwrap(), before);
    }
}

#[test]
fn revoked_key_does_not_become_a_recipient() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    let [sign, _] = fleet.nodes[0].keys().texts();
    fleet.revoke("3f:0a:91");
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: a certificate that is revoked by its serial number"), "{said}");
    fleet.revoke(&sign);
    fleet.write_objects(&["db1", "db2"], &fleet.recipient());
    fleet.revoke(&format!("{sign}="));
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the value of password is encrypted to the revoked key of the node db1"), "{said}");
    let found = ok(&mut fleet.command(&["rewrap"]));
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(said.contains("warning: the node db1 cannot read the Secret shop/db: its key is revoked"), "{said}");
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("warning: the node db1 cannot read the Secret: its key is revoked"), "{said}");
    let (one, two) = (fleet.node_key(0), fleet.node_key(1));
    let said = fleet.refused(&["edit", "shop/db", "--identity", one.to_str().unwrap()]);
    assert!(said.contains("none of the identities is a recipient"), "{said}");
    assert_eq!(fleet.shown(Some(&two)), "\"password\": \"hunter2\"\n");
    fleet.with_sops("backup.yaml", PLAIN);
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the file files/backup.yaml is encrypted to the revoked key of the node db1"), "{said}");
}

#[test]
fn edit_that_another_command_has_overtaken_is_refused() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    let program = towpath().get_program().to_string_lossy().into_owned();
    let editor = fleet.script(&format!(
        "printf other | {program} secrets encrypt shop/db password --source-dir {}\nsed -i 's/hunter2/hunter3/' \"$1\"",
        fleet.repository.work.display()
    ));
    let found = output(fleet.command(&["edit", "shop/db"]).env("EDITOR", editor));
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("the file changed during the edit") && said.contains("repeat the edit"), "{said}");
    assert_eq!(fleet.shown(None), "\"password\": \"other\"\n");
    // The same with a file of sops, which an edit writes as a whole.
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let sops_program = std::env::var("TOWPATH_SOPS").unwrap();
    let editor = fleet.script(&format!(
        "{sops_program} set {} '[\"db\"][\"port\"]' 7\nsed -i 's/hunter2/hunter3/' \"$1\"",
        file.display()
    ));
    let found = output(fleet.command(&["edit", "shop/backup"]).env("EDITOR", editor));
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("the file changed during the edit"), "{said}");
    let decrypted = sops(&fleet.path("operator.key"), &["decrypt", file.to_str().unwrap()]);
    assert!(decrypted.contains("port: 7\n") && decrypted.contains("hunter2"), "{decrypted}");
}

#[test]
fn parallel_encrypts_lose_no_value() {
    let fleet = Fleet::new();
    let run = |key: String| {
        let found = fed(&mut fleet.command(&["encrypt", "shop/db", &key]), b"hunter2");
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    };
    let run = &run;
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || run(format!("key{number}")));
        }
    });
    let shown: String = (0..8).map(|number| format!("\"key{number}\": \"hunter2\"\n")).collect();
    assert_eq!(fleet.shown(None), shown);
}

#[test]
fn private_key_in_a_repository_is_refused() {
    let fleet = Fleet::new();
    let work = &fleet.repository.work;
    for path in ["own.key", "secrets/own.key", "secrets/../own.key"] {
        let said = refused(towpath().args(["secrets", "keygen"]).arg(work.join(path)));
        assert!(said.contains("is a git repository") && said.contains("~/.config/towpath/"), "{said}");
        let said = refused(towpath().current_dir(work).args(["secrets", "keygen", path]));
        assert!(said.contains("is a git repository"), "{said}");
        assert!(!work.join(path).exists());
    }
    // A link into the repository.
    symlink(work.join("secrets"), fleet.path("link")).unwrap();
    refused(towpath().args(["secrets", "keygen"]).arg(fleet.path("link/own.key")));
    fleet.encrypt("password", "hunter2");
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
    fs::copy(fleet.path("operator.key"), work.join("files.txt")).unwrap();
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("files.txt:3:1: the file contains a private key of age"), "{said}");
    assert!(!said.contains("AGE-SECRET-KEY-1"), "{said}");
}

#[test]
fn path_that_is_not_utf8_is_printed() {
    let fleet = Fleet::new();
    let odd = fleet.path("").join(OsStr::from_bytes(b"odd\xff"));
    symlink(&fleet.repository.work, &odd).unwrap();
    let printed = |found: std::process::Output| {
        let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
        assert!(found.to_string().contains("odd\u{fffd}"), "{found}");
    };
    let run = |arguments: &[&str]| {
        let mut command = towpath();
        command.arg("secrets").args(arguments).args(["-o", "json", "--source-dir"]).arg(&odd);
        command.env("SOPS_AGE_KEY_FILE", fleet.path("operator.key"));
        command
    };
    printed(fed(&mut run(&["encrypt", "shop/db", "password"]), b"hunter2"));
    let editor = fleet.script("sed -i 's/hunter2/hunter3/' \"$1\"");
    printed(ok(run(&["edit", "shop/db"]).env("EDITOR", editor)));
    fleet.write_objects(&["db1", "db2"], &fleet.recipient());
    printed(ok(&mut run(&["rewrap"])));
    let key = fleet.path("").join(OsStr::from_bytes(b"odd\xff.key"));
    printed(ok(towpath().args(["secrets", "keygen", "-o", "json"]).arg(key)));
}

#[test]
fn file_with_a_long_value_is_refused() {
    let fleet = Fleet::new();
    let run = |file: &Path| {
        let file = file.to_str().unwrap();
        output(fleet.command(&["encrypt", "shop/db", "key", "--file", file]).stdin(Stdio::null()))
    };
    let file = fleet.path("value");
    for (size, code) in [((512 << 10) + 1, Some(1)), (512 << 10, Some(0))] {
        fs::write(&file, vec![b'x'; size]).unwrap();
        let found = run(&file);
        assert_eq!(found.status.code(), code, "{found:?}");
    }
    // A file without an end.
    let found = run(Path::new("/dev/zero"));
    assert!(String::from_utf8_lossy(&found.stderr).contains("it has more than 524288 bytes"), "{found:?}");
}
