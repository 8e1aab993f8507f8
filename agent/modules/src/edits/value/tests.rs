use super::*;
use crate::edits::{ini::Ini, json::Json, toml::Toml, yaml::Yaml};

fn edited(format: &dyn Format, text: &str, key: &str, value: Option<Value>) -> Result<Option<String>, EditError> {
    let way = if format.has_sections() {
        key.split('/').map(|name| Part { name: name.into(), index: None }).collect()
    } else {
        way(key).unwrap()
    };
    super::edited(format, text, &way, value.as_ref())
}

fn becomes(format: &dyn Format, text: &str, key: &str, value: Option<Value>, new: &str) {
    assert_eq!(edited(format, text, key, value.clone()).unwrap().as_deref(), Some(new), "{key}");
    assert_eq!(edited(format, new, key, value).unwrap(), None, "a second edit of {key} changes something");
}

#[test]
fn key_path_has_names_numbers_and_quotes() {
    let names = |key: &str| way(key).unwrap().into_iter().map(|part| (part.name, part.index)).collect::<Vec<_>>();
    assert_eq!(names("a.0.\"b.c\""), [("a".into(), None), ("0".into(), Some(0)), ("b.c".into(), None)]);
    assert_eq!(names("\"0\""), [("0".to_owned(), None)]);
    assert_eq!(names("+1"), [("+1".to_owned(), None)]);
    for wrong in ["", ".", "a.", ".a", "a..b", "a.\"b", "\"a\"b"] {
        assert!(way(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn ini_keeps_comments_order_and_spelling() {
    let text = "; head\ntop=1\n\n[PHP]\n; how much\nmemory_limit = 128M ; enough\nflag\n\n[Date]\ndate.timezone=UTC\n";
    becomes(&Ini, text, "PHP/memory_limit", Some("256M".into()), &text.replace("128M", "256M"));
    becomes(&Ini, text, "Date/date.other", Some("x".into()), &format!("{text}date.other=x\n"));
    becomes(&Ini, text, "top", Some("2".into()), &text.replace("top=1", "top=2"));
    becomes(&Ini, text, "Date/date.timezone", None, &text.replace("date.timezone=UTC\n", ""));
    becomes(&Ini, text, "New/a", Some("b".into()), &format!("{text}\n[New]\na=b\n"));
    becomes(&Ini, "", "New/a", Some("b".into()), "[New]\na = b\n");
    becomes(&Ini, "a = \"x ; y\" ; why\n", "a", Some("\"z\"".into()), "a = \"z\" ; why\n");
    becomes(&Ini, "a = ; why\n", "a", Some("b".into()), "a = b ; why\n");
    becomes(&Ini, "[s]\na =\n", "s/a", Some("b".into()), "[s]\na =b\n");
    for (long, key) in
        [("[s]\na =\n    one\n    two\n", "s/a"), ("[s]\na =\n    one\n", "s/b"), ("[s]\na = x \\\n", "s/a")]
    {
        assert!(
            edited(&Ini, long, key, Some("b".into())).unwrap_err().contains("continues on the next line"),
            "{long}"
        );
    }
    assert!(edited(&Ini, "a=1\r\nb=2\n", "b", Some("3".into())).unwrap_err().contains("mixes LF and CRLF"));
    let dos = text.replace('\n', "\r\n");
    becomes(&Ini, &dos, "PHP/memory_limit", Some("1G".into()), &dos.replace("128M", "1G"));
}

#[test]
fn json_keeps_comments_and_order() {
    let text = "{\n  // first\n  \"b\": 1,\n  \"a\": {\"c\": [1, 2]}, /* why */\n  \"z\": \"x\"\n}\n";
    becomes(&Json, text, "b", Some(json!(2)), &text.replace("\"b\": 1", "\"b\": 2"));
    becomes(&Json, text, "a.c.1", Some(json!(3)), &text.replace("[1, 2]", "[1, 3]"));
    becomes(&Json, text, "z", Some(json!("y")), &text.replace("\"x\"", "\"y\""));
    let new = edited(&Json, text, "n.m", Some(json!({"k": true}))).unwrap().unwrap();
    assert!(new.contains("// first") && new.contains("/* why */") && Json.read(&new).unwrap()["n"]["m"]["k"] == true);
    becomes(&Json, "", "a.b", Some(json!(1)), "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n");
    let gone = edited(&Json, text, "a.c.0", None).unwrap().unwrap();
    assert_eq!(Json.read(&gone).unwrap()["a"]["c"], json!([2]));
    assert!(edited(&Json, "{a: 1}", "a", Some(json!(1))).is_err());
    assert!(edited(&Json, text, "z.q", Some(json!(1))).is_err());
}

#[test]
fn toml_keeps_comments_order_and_line_ends() {
    let text = "# head\n\n# about a\na = 1 # why\n\n[t]\nlist = [1, 2]\n";
    becomes(&Toml, text, "a", Some(json!(2)), &text.replace("a = 1", "a = 2"));
    becomes(&Toml, text, "t.list.0", Some(json!(7)), &text.replace("[1,", "[7,"));
    becomes(&Toml, text, "t.new", Some(json!("x")), &format!("{text}new = \"x\"\n"));
    becomes(&Toml, text, "u.v.w", Some(json!(true)), &format!("{text}\n[u.v]\nw = true\n"));
    let dos = text.replace('\n', "\r\n");
    becomes(&Toml, &dos, "a", Some(json!(2)), &dos.replace("a = 1", "a = 2"));
    let date = "day = 2026-11-26 # when\n";
    becomes(&Toml, date, "day", Some(json!("2027-01-02")), &date.replace("2026-11-26", "2027-01-02"));
    becomes(&Toml, date, "day", Some(json!("never")), "day = \"never\" # when\n");
    let more = "# about the file\n\na = 1\nb = 2\n";
    becomes(&Toml, more, "a", None, "# about the file\n\nb = 2\n");
    assert!(edited(&Toml, "a = ", "a", Some(json!(1))).is_err());
}

#[test]
fn yaml_keeps_comments_and_order() {
    let text = "# head\nnetwork:\n  version: 2 # why\n  ethernets:\n    eth0:\n      dhcp4: false\n      names: [a, b]\nlast: \"x\"\n";
    becomes(&Yaml, text, "network.ethernets.eth0.dhcp4", Some(json!(true)), &text.replace("false", "true"));
    becomes(&Yaml, text, "network.version", Some(json!(3)), &text.replace("2 # why", "3 # why"));
    for (key, value) in [("network.ethernets.eth0.mtu", json!(1500)), ("new.deep", json!("no")), ("last", json!("012"))]
    {
        let new = edited(&Yaml, text, key, Some(value.clone())).unwrap().unwrap();
        assert!(new.starts_with("# head\n") && new.contains("# why"), "{new}");
        assert_eq!(find(&Yaml.read(&new).unwrap(), &way(key).unwrap()), Some(&value), "{new}");
    }
    let gone = edited(&Yaml, text, "network.ethernets.eth0.names.0", None).unwrap().unwrap();
    assert_eq!(Yaml.read(&gone).unwrap()["network"]["ethernets"]["eth0"]["names"], json!(["b"]));
    becomes(&Yaml, "a: 1\nb: 2", "b", None, "a: 1");
    becomes(&Yaml, "", "a", Some(json!(1)), "a: 1\n");
    assert!(edited(&Yaml, "a: [", "a", Some(json!(1))).is_err());
    assert!(edited(&Yaml, "a: 1\n---\nb: 2\n", "a", Some(json!(3))).is_err());
    // An edit is rejected if it also changes another value, here through an alias.
    assert!(edited(&Yaml, "a: &x\n  k: 1\nb: *x\n", "a.k", Some(json!(2))).is_err());
}

#[test]
fn empty_value_is_written_once() {
    let formats: [(&dyn Format, &str); 3] = [(&Json, "{\"a\": 1}\n"), (&Yaml, "a: 1\n"), (&Toml, "a = 1\n")];
    for (form, text) in formats {
        for value in [json!({}), json!([]), json!("")] {
            let new = edited(form, text, "b", Some(value.clone())).unwrap().unwrap();
            assert_eq!(edited(form, &new, "b", Some(value.clone())).unwrap(), None, "{form:?} {value}: {new}");
        }
    }
}

#[test]
fn undo_restores_the_current_value() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.toml"), "a = 1\n").unwrap();
    let reader = towpath_host::FsReader::at(folder.path()).unwrap();
    let (cancel, cache) = (towpath_host::process::Cancel::default(), crate::ModuleCache::default());
    let timeout = std::time::Duration::from_secs(1);
    let context =
        Context { reader: &reader, source: None, node: "n", task: "t", timeout, cancel: &cancel, cache: &cache };
    let undo = |key: &str| {
        let options = resolve(&Toml, &json!({ "path": "/a.toml", "key": key, "value": 5 })).unwrap();
        options.undo(&context).unwrap()
    };
    assert_eq!(undo("a"), json!({ "path": "/a.toml", "key": "a", "value": 1 }));
    assert_eq!(undo("b"), json!({ "path": "/a.toml", "key": "b", "state": "absent" }));
}
