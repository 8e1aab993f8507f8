use super::*;
use crate::{
    Recipient,
    envelope::tests::{reader, set},
};

const NOW: &str = "2026-11-30T12:00:00Z";

/// Returns a file with comments, in the layout of SOPS, that is encrypted to a recipient.
fn file(recipient: &Recipient) -> String {
    let key = DataKey::generate().unwrap();
    let sealed =
        |text: &str, kind: &str, path: &str| key.encrypt(&Plaintext::copied(text.as_bytes()), kind, path).unwrap();
    let armor = envelope::encrypt(key.bytes(), [recipient.age() as _].into_iter()).unwrap();
    let armor: String = armor.lines().map(|line| format!("            {line}\n")).collect();
    let text = format!(
        "#{}\ndb:\n    #{}\n    password: {}\n    port: {}\n    list:\n        - {}\n        - x: {}\n    empty: \"\"\n    nothing: null\nnote_unencrypted: visible\nsops:\n    age:\n        - recipient: {recipient}\n          enc: |\n{armor}    lastmodified: \"x\"\n    mac: x\n    unencrypted_suffix: _unencrypted\n    version: 3.11.0\n",
        sealed(" top", "comment", ":"),
        sealed(" inner", "comment", "db:"),
        sealed("hunter2", "str", "db:password:"),
        sealed("5432", "int", "db:port:"),
        sealed("a", "str", "db:list:"),
        sealed("True", "bool", "db:list:x:"),
    );
    with_mac(&text, &key, NOW).unwrap()
}

fn opened(text: &str, identities: &Identities) -> Value {
    SopsFile::read(text).unwrap().open(identities).unwrap().plain.0.clone()
}

fn lines_that_differ<'a>(old: &'a str, new: &str) -> Vec<&'a str> {
    old.lines().filter(|line| !new.lines().any(|other| other == *line)).collect()
}

#[test]
fn values_keep_their_types() {
    let (identities, recipient) = reader();
    let expected = json!({
        "db": {"password": "hunter2", "port": 5432, "list": ["a", {"x": true}], "empty": "", "nothing": null},
        "note_unencrypted": "visible"
    });
    assert_eq!(opened(&file(&recipient), &identities), expected);
    let open = SopsFile::read(&file(&recipient)).unwrap().open(&identities).unwrap();
    assert!(!format!("{open:?}").contains("hunter2"));
    assert_eq!(open.values()["note_unencrypted"].text(), Some("visible"));
    assert!(matches!(
        SopsFile::read(&file(&recipient)).unwrap().open(&reader().0),
        Err(SopsError::Key(OpenError::NoIdentity))
    ));
}

#[test]
fn edit_changes_only_its_values_and_the_mac() {
    let (identities, recipient) = reader();
    let text = file(&recipient);
    let open = SopsFile::read(&text).unwrap().open(&identities).unwrap();
    let edited = open.edit(&open.shown().replace("hunter2", "hunter3"), "2026-12-01T00:00:00Z").unwrap();
    assert_eq!(edited.changed, ["db.password"]);
    let differ = lines_that_differ(&text, &edited.text);
    assert_eq!(differ.len(), 3, "{differ:#?}");
    assert_eq!(opened(&edited.text, &identities)["db"]["password"], "hunter3");
    let same = open.edit(&open.shown(), "2026-12-01T00:00:00Z").unwrap();
    assert_eq!(same.text, text);
    let more =
        "db:\n  password: hunter2\n  port: 1\n  list: [b, c, d]\n  new: {deep: |-\n    }\nnote_unencrypted: seen\n";
    assert!(open.edit(more, NOW).is_err());
    let more = "db:\n  password: hunter2\n  port: 1\n  list: [b, c, d]\n  new: {deep: x}\nnote_unencrypted: seen\nkey: \"a\\nb\"\n";
    let edited = open.edit(more, NOW).unwrap();
    assert_eq!(edited.removed, ["db.empty", "db.nothing"]);
    assert_eq!(opened(&edited.text, &identities), edited_value(more).unwrap());
    assert!(edited.text.contains("note_unencrypted: seen\n") && !edited.text.contains("deep: x"));
    for wrong in ["", "- a\n", "sops: {}\n", "a: [\n"] {
        assert!(matches!(open.edit(wrong, NOW), Err(SopsError::Edited(_))), "{wrong}");
    }
}

#[test]
fn changed_file_is_refused() {
    let (identities, recipient) = reader();
    let text = file(&recipient);
    let password = text.lines().find(|line| line.contains("password:")).unwrap();
    let token = password.split_once(": ").unwrap().1;
    for (changed, error) in [
        (text.replace("visible", "changed"), SopsError::Mac),
        (text.replace("    password:", "    other:"), SopsError::Value("db.other".into())),
        (text.replace(token, "hunter2"), SopsError::Value("db.password".into())),
        (text.replace(NOW, "2026-11-30T12:00:01Z"), SopsError::Mac),
    ] {
        let found = SopsFile::read(&changed).unwrap().open(&identities);
        assert_eq!(found.unwrap_err(), error);
    }
}

#[test]
fn added_recipient_gets_the_same_data_key() {
    let ((one, for_one), (two, for_two)) = (reader(), reader());
    let text = file(&for_one);
    let wanted = set(&[&for_one, &for_two]);
    assert_eq!(SopsFile::read(&text).unwrap().difference(&wanted), Difference { added: 1, removed: 0 });
    let open = SopsFile::read(&text).unwrap().open(&one).unwrap();
    let new = open.rewrap(&wanted, NOW).unwrap();
    assert_eq!(lines_that_differ(&text, &new), Vec::<&str>::new());
    assert_eq!(opened(&new, &two), opened(&text, &one));
    assert_eq!(SopsFile::read(&new).unwrap().difference(&wanted), Difference { added: 0, removed: 0 });
}

#[test]
fn removed_recipient_means_a_new_data_key_for_values_and_comments() {
    let ((one, for_one), (two, for_two)) = (reader(), reader());
    let text = file(&for_one);
    let open = SopsFile::read(&text).unwrap().open(&one).unwrap();
    let new = open.rewrap(&set(&[&for_two]), "2026-12-01T00:00:00Z").unwrap();
    assert_eq!(opened(&new, &two), open.plain.0);
    assert!(SopsFile::read(&new).unwrap().open(&one).is_err());
    let kept: Vec<&str> = text.lines().filter(|line| line.contains("ENC[") && new.contains(*line)).collect();
    assert_eq!(kept, Vec::<&str>::new(), "these keep the old data key");
    let key = SopsFile::read(&new).unwrap().open(&two).unwrap().key.clone();
    let comments: Vec<Encrypted> =
        new.lines().filter_map(|line| Encrypted::read(line.trim().strip_prefix('#')?)).collect();
    let texts: Vec<Plaintext> =
        comments.iter().zip([":", "db:"]).map(|(comment, path)| key.decrypt(comment, path).unwrap()).collect();
    assert_eq!(texts.iter().map(Plaintext::text).collect::<Vec<_>>(), [Some(" top"), Some(" inner")]);
    // Another kind of key would keep the old data key.
    let other = text.replace("sops:\n", "sops:\n    pgp:\n        - fp: x\n");
    let open = SopsFile::read(&other).unwrap().open(&one).unwrap();
    assert!(matches!(open.rewrap(&set(&[&for_two]), NOW), Err(SopsError::Unsupported(_))));
    assert!(open.rewrap(&set(&[&for_one, &for_two]), NOW).is_ok());
}

#[test]
fn text_of_another_form_is_refused() {
    for text in ["", "a: 1\n", "- a\n", "a: 1\n---\nb: 1\n", "a: [\n", "sops: {}\n", "sops: x\n"] {
        assert!(SopsFile::read(text).is_err(), "{text}");
    }
}
