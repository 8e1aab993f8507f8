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
    let edited = open.edit(&open.shown().replace("hunter2", "hunter3"), "2026-12-01T00:00:00Z", false).unwrap();
    assert_eq!((edited.encrypted, edited.plain), (vec!["db.password".to_owned()], vec![]));
    let differ = lines_that_differ(&text, &edited.text);
    assert_eq!(differ.len(), 3, "{differ:#?}");
    assert_eq!(opened(&edited.text, &identities)["db"]["password"], "hunter3");
    let same = open.edit(&open.shown(), "2026-12-01T00:00:00Z", false).unwrap();
    assert_eq!(same.text, text);
    let more =
        "db:\n  password: hunter2\n  port: 1\n  list: [b, c, d]\n  new: {deep: |-\n    }\nnote_unencrypted: seen\n";
    assert!(open.edit(more, NOW, false).is_err());
    let more = "db:\n  password: hunter2\n  port: 1\n  list: [b, c, d]\n  new: {deep: x}\nnote_unencrypted: seen\nkey: \"a\\nb\"\n";
    let edited = open.edit(more, NOW, false).unwrap();
    assert_eq!(edited.plain, ["note_unencrypted"]);
    assert_eq!(edited.removed, ["db.empty", "db.nothing"]);
    assert_eq!(opened(&edited.text, &identities), edited_value(more).unwrap());
    assert!(edited.text.contains("note_unencrypted: seen\n") && !edited.text.contains("deep: x"));
    for wrong in ["", "- a\n", "sops: {}\n", "a: [\n"] {
        assert!(matches!(open.edit(wrong, NOW, false), Err(SopsError::Edited(_))), "{wrong}");
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
    let kept = |text: &str| text.lines().filter(|line| line.contains("ENC[")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(kept(&text), kept(&new));
    // The old labels are not proved, so no encrypted data key is kept.
    let armors = |text: &str| SopsFile::read(text).unwrap().metadata.age.into_iter().map(|key| key.armor);
    assert!(armors(&text).all(|old| armors(&new).all(|new| new != old)));
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

#[test]
fn value_that_is_not_encrypted_is_found_without_a_key() {
    let (_, recipient) = reader();
    let text = file(&recipient);
    let found = |text: &str| SopsFile::read(text).unwrap().plain_values();
    let readable = vec!["note_unencrypted".to_owned()];
    assert_eq!(found(&text), PlainValues { wrong: vec![], readable: readable.clone() });
    let comment = text.lines().find_map(|line| line.strip_prefix('#')).unwrap();
    for (value, path) in [
        ("hunter2", "token"),
        ("5", "token"),
        ("[a, \"\"]", "token[0]"),
        ("{deep: x, none: null}", "token.deep"),
        ("ENC[AES256_GCM,data:aHVudGVyMg==,iv:AA==,tag:AA==,type:str]", "token"),
        (comment, "token"),
    ] {
        let text = format!("token: {value}\n{text}");
        assert_eq!(found(&text), PlainValues { wrong: vec![path.to_owned()], readable: readable.clone() }, "{value}");
    }
}

#[test]
fn new_readable_value_needs_a_permission() {
    let (identities, recipient) = reader();
    // A committer changed the rule, and the MAC does not notice it.
    for rule in ["encrypted_regex: ^(db|password)$", "unencrypted_regex: ^(token|note_unencrypted)$"] {
        let text = file(&recipient).replace("unencrypted_suffix: _unencrypted", rule);
        let open = SopsFile::read(&text).unwrap().open(&identities).unwrap();
        for line in ["token: hunter9", "token: [hunter9]", "token: {a: hunter9}"] {
            let edited = format!("{}{line}\n", *open.shown());
            let refused = open.edit(&edited, NOW, false).unwrap_err();
            assert!(matches!(&refused, SopsError::Readable(paths) if paths.starts_with("token")), "{refused}");
            assert!(!refused.to_string().contains("hunter9"), "{refused}");
            let written = open.edit(&edited, NOW, true).unwrap();
            assert!(written.encrypted.is_empty() && written.plain[0].starts_with("token"), "{written:?}");
        }
        let edited = open.edit(&open.shown().replace("visible", "seen"), NOW, false).unwrap();
        assert_eq!((edited.encrypted, edited.plain), (vec![], vec!["note_unencrypted".to_owned()]));
    }
    // An empty value and a null are valid under every rule.
    let text = file(&recipient)
        .replace("unencrypted_suffix: _unencrypted", "unencrypted_regex: ^(empty|nothing|note_unencrypted)$");
    let open = SopsFile::read(&text).unwrap().open(&identities).unwrap();
    for (old, new) in [("empty: \"\"", "empty: hunter9"), ("nothing: null", "nothing: hunter9")] {
        let shown = open.shown().replace("empty: ''", "empty: \"\"");
        assert!(shown.contains(old), "{shown}");
        assert!(matches!(open.edit(&shown.replace(old, new), NOW, false), Err(SopsError::Readable(_))), "{old}");
    }
}

#[test]
fn mislabelled_data_key_does_not_survive_a_rewrap() {
    let ((one, for_one), (two, for_two), (other, for_other)) = (reader(), reader(), reader());
    let text = file(&for_one);
    let both = set(&[&for_one, &for_two]);
    let text = SopsFile::read(&text).unwrap().open(&one).unwrap().rewrap(&both, NOW).unwrap();
    // The data key of the second recipient is encrypted to another one, under the old label.
    let open = SopsFile::read(&text).unwrap().open(&one).unwrap();
    let forged = envelope::encrypt(open.key.bytes(), [for_other.age() as _].into_iter()).unwrap();
    let index = open.file.metadata.age.iter().position(|key| key.recipient == for_two.to_string()).unwrap();
    let path = Path::default().key(METADATA).key("age").index(index).key("enc");
    let text = splice::set(&text, 0, &path, &Value::String(forged)).unwrap();
    assert!(!SopsFile::read(&text).unwrap().is_mislabelled(&one));
    assert!(SopsFile::read(&text).unwrap().is_mislabelled(&two));
    assert!(SopsFile::read(&text).unwrap().open(&other).is_ok());
    let new = SopsFile::read(&text).unwrap().open(&one).unwrap().rewrap(&both, NOW).unwrap();
    assert!(SopsFile::read(&new).unwrap().open(&other).is_err());
    assert_eq!(opened(&new, &two), opened(&text, &one));
    // An identity that finds its own label wrong causes a new data key.
    let mut all = Identities::default();
    for made in [crate::NewIdentity::generate().unwrap(), crate::NewIdentity::generate().unwrap()] {
        all.add_file(&made.file("now")).unwrap();
    }
    let own: Vec<Recipient> = all.recipients().iter().map(|text| Recipient::parse(text).unwrap()).collect();
    let wanted = set(&[&own[0], &own[1]]);
    let text = file(&own[0]);
    let text = SopsFile::read(&text).unwrap().open(&all).unwrap().rewrap(&wanted, NOW).unwrap();
    let open = SopsFile::read(&text).unwrap().open(&all).unwrap();
    let forged = envelope::encrypt(open.key.bytes(), [for_other.age() as _].into_iter()).unwrap();
    let path = Path::default().key(METADATA).key("age").index(0).key("enc");
    let text = splice::set(&text, 0, &path, &Value::String(forged)).unwrap();
    let new = SopsFile::read(&text).unwrap().open(&all).unwrap().rewrap(&wanted, NOW).unwrap();
    assert_ne!(SopsFile::read(&new).unwrap().open(&all).unwrap().key.bytes(), open.key.bytes());
}

#[test]
fn comment_of_a_map_without_values_gets_the_new_data_key() {
    let ((one, for_one), (two, for_two)) = (reader(), reader());
    let text = file(&for_one);
    let key = SopsFile::read(&text).unwrap().open(&one).unwrap().key;
    let comment = key.encrypt(&Plaintext::copied(b" was hunter1"), "comment", "off:deep:").unwrap();
    let text = format!("off:\n    deep:\n        #{comment}\n        a: null\n{text}");
    let open = SopsFile::read(&text).unwrap().open(&one).unwrap();
    let new = open.rewrap(&set(&[&for_two]), NOW).unwrap();
    assert!(!new.contains(&comment));
    let new_key = SopsFile::read(&new).unwrap().open(&two).unwrap().key;
    let line = new.lines().nth(2).and_then(|line| Encrypted::read(line.trim().strip_prefix('#')?)).unwrap();
    assert_eq!(new_key.decrypt(&line, "off:deep:").unwrap().text(), Some(" was hunter1"));
}

#[test]
fn encrypted_text_that_would_keep_the_old_data_key_is_refused() {
    let ((one, for_one), (_, for_two)) = (reader(), reader());
    let text = file(&for_one);
    let key = SopsFile::read(&text).unwrap().open(&one).unwrap().key;
    let moved = key.encrypt(&Plaintext::copied(b"x"), "comment", "elsewhere:").unwrap();
    let value = key.encrypt(&Plaintext::copied(b"x"), "str", "db:password:").unwrap();
    for comment in [format!("#{moved}"), format!("# password: {value}"), "#ENC[AES256_GCM,data:AA==".to_owned()] {
        let text = format!("{comment}\n{text}");
        let open = SopsFile::read(&text).unwrap().open(&one).unwrap();
        let refused = open.rewrap(&set(&[&for_two]), NOW).unwrap_err();
        assert_eq!(refused, SopsError::Stray(1), "{comment}");
        assert!(open.rewrap(&set(&[&for_one, &for_two]), NOW).is_ok());
    }
    let harmless = format!("# ENC[this] is described elsewhere\n{text}");
    assert!(SopsFile::read(&harmless).unwrap().open(&one).unwrap().rewrap(&set(&[&for_two]), NOW).is_ok());
}

#[test]
fn file_with_too_many_values_or_comments_is_refused() {
    let (identities, recipient) = reader();
    let text = file(&recipient);
    let many: String = (0..=MAX_VALUES).map(|number| format!("k{number}: \"\"\n")).collect();
    let refused = SopsFile::read(&format!("{many}{text}")).unwrap_err();
    assert!(refused.to_string().contains("at most 10000 are read"), "{refused}");
    let many = "#ENC[AES256_GCM,data:AA==]\n".repeat(10_001);
    let open = SopsFile::read(&format!("{many}{text}")).unwrap().open(&identities).unwrap();
    let refused = open.rewrap(&set(&[&reader().1]), NOW).unwrap_err();
    assert!(matches!(refused, SopsError::TooMany { what: "comments", count: 10_003, .. }), "{refused}");
}
