//! Files of the program `sops` as Secrets.

use super::*;

#[test]
fn file_of_sops_is_read_and_edited_like_sops_does() {
    let fleet = Fleet::new();
    let operator = fleet.path("operator.key");
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let path = file.to_str().unwrap();
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
    let before = fs::read_to_string(&file).unwrap();
    let shown = fleet.shown_of("shop/backup", Some(&fleet.node_key(0)));
    for line in ["password: hunter2", "  port: 5432", "  ratio: 1.5", "  active: true", "host_unencrypted: visible"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in {shown}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), before, "an edit without a change changes the file");
    let editor = fleet.script("sed -i 's/hunter2/hunter3/; s/port: .*/port: 5433/; /empty:/d; s/^host_.*/host_unencrypted: seen/' \"$1\"\nprintf 'token: |\\n  a\\n  b\\nmore: {x: [1, true], y_unencrypted: open}\\n' >> \"$1\"");
    let said = ok(fleet.command(&["edit", "shop/backup", "--allow-plain"]).env("EDITOR", editor));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("password of shop/backup is encrypted") && said.contains("db.empty of shop/backup is removed"),
        "{said}"
    );
    for key in ["more.y_unencrypted", "host_unencrypted"] {
        assert!(said.contains(&format!("{key} of shop/backup is written in plain text")), "{said}");
    }
    let after = fs::read_to_string(&file).unwrap();
    let kept = |part: &str| before.lines().find(|line| line.contains(part)).unwrap();
    for part in ["ratio: ", "active: ", "key: ENC", "type:comment", "- recipient: "] {
        assert!(after.contains(kept(part)), "{part} changed");
    }
    assert!(!after.contains("hunter3") && after.contains("y_unencrypted: open"), "{after}");
    // sops checks the MAC and shows the comments.
    let decrypted = sops(&operator, &["decrypt", path]);
    for line in [
        "# The backup of the shop.",
        "# rotate it in May",
        "password: hunter3",
        "    port: 5433",
        "    ratio: 1.5",
        "token: |",
        "host_unencrypted: seen",
        "    # inner",
    ] {
        assert!(decrypted.lines().any(|shown| shown.trim_end().ends_with(line)), "{line} in {decrypted}");
    }
    assert_eq!(sops(&operator, &["decrypt", "--extract", "[\"more\"][\"x\"][1]", path]).trim(), "true");
    // sops changes a value, and Towpath reads it.
    sops(&operator, &["set", path, "[\"db\"][\"port\"]", "7"]);
    assert!(fleet.shown_of("shop/backup", None).contains("  port: 7\n"));
    // A file that was changed without sops is refused.
    fs::write(&file, after.replace("host_unencrypted: seen", "host_unencrypted: forged")).unwrap();
    let said = fleet.refused(&["edit", "shop/backup"]);
    assert!(said.contains("the MAC of the file does not match its values"), "{said}");
    let said = refused(fleet.command(&["encrypt", "shop/backup", "key"]).stdin(Stdio::null()));
    assert!(said.contains("come from `sops`") && said.contains("use `towpath secrets edit`"), "{said}");
}

#[test]
fn json_file_of_sops_stays_json() {
    let fleet = Fleet::new();
    let file = fleet
        .with_sops("backup.json", "{\"password\": \"hunter2\", \"db\": {\"port\": 5432, \"hosts\": [\"a\", \"b\"]}}");
    assert!(fleet.shown_of("shop/backup", None).contains("password: hunter2\n"));
    let editor = fleet.script("sed -i 's/hunter2/hunter3/' \"$1\"; printf 'key: |\\n  a\\n  b\\n' >> \"$1\"");
    ok(fleet.command(&["edit", "shop/backup"]).env("EDITOR", editor));
    let text = fs::read_to_string(&file).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let decrypted = sops(&fleet.path("operator.key"), &["decrypt", file.to_str().unwrap()]);
    let decrypted: serde_json::Value = serde_json::from_str(&decrypted).unwrap();
    let expected =
        serde_json::json!({"password": "hunter3", "key": "a\nb\n", "db": {"port": 5432, "hosts": ["a", "b"]}});
    assert_eq!(decrypted, expected);
}

#[test]
fn rewrap_of_a_file_of_sops_follows_the_readers() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let path = file.to_str().unwrap();
    let (operator, one, two) = (fleet.path("operator.key"), fleet.node_key(0), fleet.node_key(1));
    let plain = sops(&operator, &["decrypt", path]);
    let before = fs::read_to_string(&file).unwrap();
    assert!(fleet.run(&["rewrap"]).ends_with("0 encrypted again, 1 unchanged\n"));
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    fleet.write_objects(&["db1", "db2"], &fleet.recipient());
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("is not encrypted to the readers of the Secret (1 missing, 0 of others)"), "{said}");
    assert!(
        fleet
            .run(&["rewrap", "shop/backup"])
            .contains("the file of shop/backup is encrypted again: recipients: 1 added, 0 removed")
    );
    let added = fs::read_to_string(&file).unwrap();
    let without_keys = |text: &str| {
        let (values, rest) = text.split_once("    age:\n").unwrap();
        (values.to_owned(), rest.split_once("    lastmodified:").unwrap().1.to_owned())
    };
    assert_eq!(without_keys(&before), without_keys(&added), "an added recipient changes only the data keys");
    assert_eq!(fleet.shown_of("shop/backup", Some(&two)), fleet.shown_of("shop/backup", Some(&one)));
    // A reader leaves: no ciphertext of the old data key is left.
    fleet.write_objects(&["db2"], &fleet.recipient());
    fleet.run(&["rewrap", "shop/backup"]);
    let removed = fs::read_to_string(&file).unwrap();
    let old: Vec<&str> = added.lines().filter(|line| line.contains("ENC[") && removed.contains(line)).collect();
    assert!(old.is_empty(), "{old:?}");
    assert_eq!(sops(&operator, &["decrypt", path]), plain);
    let said = fleet.refused(&["edit", "shop/backup", "--identity", one.to_str().unwrap()]);
    assert!(said.contains("none of the identities is a recipient"), "{said}");
    assert_eq!(fleet.validate().0, Some(0), "{}", fleet.validate().1);
}

#[test]
fn plain_text_in_a_file_of_sops_is_refused_without_a_key() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let text = fs::read_to_string(&file).unwrap();
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(0), "{said}");
    let warning = "warning: the rule of the file files/backup.yaml leaves values in plain text: host_unencrypted, size_unencrypted";
    assert!(said.contains(warning), "{said}");
    fs::write(&file, format!("token: hunter9\nmore: [{{a: hunter9}}]\n{text}")).unwrap();
    let (code, said) = fleet.validate();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("has values that are not encrypted: token, more[0].a"), "{said}");
    assert!(!said.contains("hunter9"), "{said}");
}

#[test]
fn text_between_the_lines_of_an_envelope_is_refused() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    let armor = fleet.armor("secrets/db.yaml", "password");
    let text = fleet.text("secrets/db.yaml");
    let large = format!("{BEGIN}\n{}\n", "hunter9 ".repeat(1 << 18));
    for wrong in [format!("{BEGIN}\nhunter9\n"), format!("{BEGIN}\naHVudGVyOQotLS0gaHVudGVyOQ==\n{END}\n"), large] {
        fleet.repository.write("secrets/db.yaml", text.replace(&indented(&armor), &indented(&wrong)));
        let (code, said) = fleet.validate();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("the value of password cannot be used") && !said.contains("hunter9"), "{said}");
    }
}

#[test]
fn new_value_that_a_rule_leaves_readable_needs_a_permission() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", "password: hunter2\n");
    let text = fs::read_to_string(&file).unwrap();
    let rule = "unencrypted_suffix: _unencrypted";
    assert!(text.contains(rule), "{text}");
    let editor = fleet.script("grep -q token \"$1\" || printf 'token: hunter9\\n' >> \"$1\"");
    // The MAC does not cover the rule.
    let smuggled = text.replace(rule, "encrypted_regex: ^password$");
    fs::write(&file, &smuggled).unwrap();
    let said = refused(fleet.command(&["edit", "shop/backup"]).env("EDITOR", &editor));
    assert!(said.contains("leave token") && said.contains("--allow-plain") && !said.contains("hunter9"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), smuggled);
    let said = ok(fleet.command(&["edit", "shop/backup", "--allow-plain", "-o", "json"]).env("EDITOR", &editor));
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["encrypted"], &said["plain"]), (&serde_json::json!([]), &serde_json::json!(["token"])));
    // The program sops refuses two rules, too.
    fs::write(&file, text.replace(rule, &format!("{rule}\n    encrypted_regex: ^password$"))).unwrap();
    let said = refused(fleet.command(&["edit", "shop/backup"]).env("EDITOR", &editor));
    assert!(said.contains("sops allows only one of them"), "{said}");
    assert_eq!(fleet.validate().0, Some(2));
    let output = output(&mut sops_command(&fleet.path("operator.key"), &["decrypt", file.to_str().unwrap()]));
    assert!(!output.status.success(), "{output:?}");
    // Without a rule, the suffix of sops counts.
    fs::write(&file, text.replace(&format!("    {rule}\n"), "")).unwrap();
    ok(fleet.command(&["edit", "shop/backup"]).env("EDITOR", &editor));
    assert!(!fs::read_to_string(&file).unwrap().contains("hunter9"));
    assert!(sops(&fleet.path("operator.key"), &["decrypt", file.to_str().unwrap()]).contains("token: hunter9"));
}

#[test]
fn signals_while_the_editor_runs_do_not_lose_the_edit() {
    let fleet = Fleet::new();
    fleet.encrypt("password", "hunter2");
    let edit = |signal: &str, value: &str| {
        let editor = fleet.script(&format!(
            "{signal}\ngrep '^Max core' /proc/self/limits > {}\nprintf '\"password\": \"{value}\"\\n' > \"$1\"",
            fleet.path("limits").display()
        ));
        // A process group of its own, as a terminal gives it.
        output(fleet.command(&["edit", "shop/db"]).env("EDITOR", editor).process_group(0))
    };
    let done = edit("trap : INT QUIT; kill -INT 0; kill -QUIT 0", "hunter3");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fleet.shown(None), "\"password\": \"hunter3\"\n");
    // The end by a service manager waits until the edited values are written.
    let done = edit("kill -TERM \"$(cut -d' ' -f4 /proc/$PPID/stat)\"", "hunter4");
    assert_eq!(done.status.signal(), Some(15), "{done:?}");
    assert_eq!(fleet.shown(None), "\"password\": \"hunter4\"\n");
    let limits = fs::read_to_string(fleet.path("limits")).unwrap();
    assert_eq!(limits.split_whitespace().nth(4), Some("1"), "{limits}");
}

#[test]
fn file_of_sops_without_a_usable_recipient_is_refused() {
    let fleet = Fleet::new();
    let file = fleet.with_sops("backup.yaml", PLAIN);
    let text = fs::read_to_string(&file).unwrap();
    let from = text.find("    age:\n").unwrap();
    let to = text.find("    lastmodified:").unwrap();
    let replaced = |keys: &str| format!("{}{keys}{}", &text[..from], &text[to..]);
    for (changed, message) in [
        (replaced("    kms:\n        - arn: x\n"), "the file has no age recipient (it has: kms)"),
        (text.replace("recipient: age1", "recipient: age1pq1"), "post-quantum"),
        (PLAIN.to_owned(), "is not encrypted with sops"),
        (replaced("    shamir_threshold: 2\n"), "Shamir"),
    ] {
        fs::write(&file, changed).unwrap();
        for command in ["edit", "rewrap"] {
            let said = fleet.refused(&[command, "shop/backup"]);
            assert!(said.contains(message), "{command}: {said}");
        }
        let (code, said) = fleet.validate();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(message), "{said}");
    }
}
