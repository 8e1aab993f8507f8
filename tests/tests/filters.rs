//! Every filter, compared with ansible-core for the same input. [`DIFFERENCES`] lists the intended differences and
//! their reasons.

use std::{collections::BTreeMap, process::Command};

use serde_json::{Value, json};
use towpath_render::{template::Engine, tree::MemoryTree};
use towpath_tests::ok;

/// Expressions that both engines evaluate. The results are compared as JSON.
const CASES: [&str; 63] = [
    "{'b': 1, 'a': [1, 'x', none, true, 1.5]} | to_json",
    "'ä\\n\"' | to_json",
    "[] | to_json",
    "{'b': {'z': 1, 'y': []}, 'a': {}} | to_nice_json",
    "{'b': 1} | to_nice_json(indent=2)",
    "'{\"a\": [1, 2.5, null]}' | from_json",
    "'a: 1\\nb: [x, y]\\n' | from_yaml",
    "'' | from_yaml",
    "'häagen' | b64encode",
    "'aMOkYWdlbg==' | b64decode",
    "'foobar' | regex_replace('^f(o+)(.*)$', '\\\\2-\\\\1')",
    "'foobar' | regex_replace('(?P<x>o+)', '<\\\\g<x>>')",
    "'Foo foo' | regex_replace('foo', 'x', ignorecase=true)",
    "'a\\nb' | regex_replace('^', '> ', multiline=true)",
    "'aaa' | regex_replace('a', '$1')",
    "'server1.example.org' | regex_search('[0-9]+')",
    "'server1/db2' | regex_search('server([0-9]+)/db([0-9]+)', '\\\\1', '\\\\2')",
    "'x' | regex_search('y')",
    "'a1b22' | regex_findall('[0-9]+')",
    "'a1b22' | regex_findall('([a-z])([0-9]+)')",
    "'test' | hash('sha256')",
    "'test' | hash('sha1')",
    "'test' | hash('md5')",
    "'test' | hash",
    "'test' | hash('sha512')",
    "'secret' | password_hash('sha512', 'saltsalt', rounds=10000)",
    "{'a': 1, 'b': {'x': 1}} | combine({'b': {'y': 2}, 'c': 3})",
    "{'a': 1, 'b': {'x': 1, 'z': 0}} | combine({'b': {'x': 2}}, recursive=true)",
    "{'a': 1} | combine({'b': 2}, {'a': 3})",
    "{'a': 1, 'b': [2]} | dict2items",
    "{'a': 1} | dict2items(key_name='k', value_name='v')",
    "[{'key': 'a', 'value': 1}, {'key': 'b', 'value': 2}] | items2dict",
    "[{'k': 'a', 'v': 1}] | items2dict(key_name='k', value_name='v')",
    "5 | mandatory",
    "true | ternary('yes', 'no')",
    "false | ternary('yes', 'no')",
    "none | ternary('yes', 'no', 'nothing')",
    "none | ternary('yes', 'no')",
    "'yes' | bool",
    "'off' | bool",
    "'True' | bool",
    "1 | bool",
    "0 | bool",
    "\"it's a 'test'\" | quote",
    "'plain-word_1' | quote",
    "'' | quote",
    "'/etc/nginx/nginx.conf' | basename",
    "'/etc/nginx/' | basename",
    "'/etc/nginx/nginx.conf' | dirname",
    "'nginx.conf' | dirname",
    "'/x' | dirname",
    "'/etc/nginx.conf.d/site.tar.gz' | splitext",
    "'/etc/.hidden' | splitext",
    "[1, 2, 2, 3] | union([3, 4])",
    "[1, 2, 2, 3] | intersect([2, 3, 5])",
    "[1, 2, 2, 3] | difference([3])",
    "[1, [2, [3, [4]]], none] | flatten",
    "[1, [2, [3, [4]]]] | flatten(levels=1)",
    "[1, 2, 3] | zip(['a', 'b']) | list",
    "[1, 2] | zip(['a', 'b'], [true, false]) | list",
    "'10M' | human_to_bytes",
    "'1.5 GB' | human_to_bytes",
    "'512' | human_to_bytes",
];

/// The differences with their reasons. Each entry is checked, so a difference that has disappeared must be removed.
const DIFFERENCES: [(&str, &str); 4] = [
    ("{'b': 1, 'a': {'x': [1]}} | to_yaml", "the same data, but keys in their own order, and always in block style"),
    ("{'b': 1, 'a': {'x': [1]}} | to_nice_yaml", "the same data, but keys in their own order, and indented by two"),
    ("'maybe' | bool", "an error, where older versions of Ansible give false"),
    ("'test' | regex_search('(?<=t)e')", "an error: there is no look-around in the regular expressions of Rust"),
];

/// ansible-core has no ipaddr, so Python's ipaddress module is the reference.
const ADDRESSES: [(&str, &str); 7] = [
    ("'10.1.2.3/24' | ipaddr('address')", "str(ipaddress.ip_interface('10.1.2.3/24').ip)"),
    ("'10.1.2.3/24' | ipaddr('network')", "str(ipaddress.ip_interface('10.1.2.3/24').network.network_address)"),
    ("'10.1.2.3/20' | ipaddr('netmask')", "str(ipaddress.ip_interface('10.1.2.3/20').netmask)"),
    ("'10.1.2.3/20' | ipaddr('prefix')", "ipaddress.ip_interface('10.1.2.3/20').network.prefixlen"),
    ("'10.1.2.3/20' | ipaddr('broadcast')", "str(ipaddress.ip_interface('10.1.2.3/20').network.broadcast_address)"),
    ("'2001:db8::1/64' | ipaddr('network')", "str(ipaddress.ip_interface('2001:db8::1/64').network.network_address)"),
    (
        "'10.1.2.3' | ipaddr('in', '10.0.0.0/8')",
        "ipaddress.ip_address('10.1.2.3') in ipaddress.ip_network('10.0.0.0/8')",
    ),
];

fn python(script: &str, input: &Value) -> Value {
    let python = std::env::var("TOWPATH_ANSIBLE_PYTHON").expect(
        "TOWPATH_ANSIBLE_PYTHON is not set: run the tests with .ci/test, which installs ansible-core from PyPI",
    );
    let output =
        ok(Command::new(python).arg("-c").arg(script).arg(input.to_string()).env("ANSIBLE_LOCALHOST_WARNING", "False"));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A script that evaluates expressions with Ansible's templar. An error becomes {"error": …}.
const ANSIBLE: &str = r#"
import json, sys
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
try:
    from ansible.plugins.loader import init_plugin_loader
    init_plugin_loader()
except ImportError:
    pass
try:
    from ansible.template import trust_as_template
except ImportError:
    trust_as_template = lambda text: text
out = []
for case in json.loads(sys.argv[1]):
    try:
        templar = Templar(loader=DataLoader(), variables={})
        # As JSON, so that types survive; a string that looks like data stays a string.
        text = templar.template(trust_as_template("{{ {'v': (" + case + ")} | to_json }}"))
        value = json.loads(text) if isinstance(text, str) else text
        out.append(value["v"])
    except Exception as error:
        out.append({"error": str(error).splitlines()[0][:200]})
print(json.dumps(out))
"#;

/// Removes escapes: Ansible keeps backslashes in template strings, but Jinja reads them as escapes.
fn for_ansible(case: &str) -> String {
    case.replace("\\n", "\n").replace("\\\\", "\\")
}

fn ours(expression: &str) -> Value {
    let engine = Engine::new(std::sync::Arc::new(MemoryTree::default()), "");
    let scope = towpath_render::template::Scope::new(BTreeMap::new(), std::sync::Arc::default()).context();
    match engine.expression(expression, &scope) {
        Ok(value) => value.into_value(),
        Err(error) => json!({ "error": error.message }),
    }
}

#[test]
fn filters_match_ansible() {
    let cases: Vec<String> = CASES.iter().map(|case| for_ansible(case)).collect();
    let theirs = python(ANSIBLE, &json!(cases));
    let mut wrong = Vec::new();
    for (case, theirs) in CASES.iter().zip(theirs.as_array().unwrap()) {
        let ours = ours(case);
        if ours != *theirs {
            wrong.push(format!("{case}\n    ours:   {ours}\n    theirs: {theirs}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn listed_differences_from_ansible_exist() {
    let cases: Vec<&str> = DIFFERENCES.iter().map(|(case, _)| *case).collect();
    let theirs = python(ANSIBLE, &json!(cases));
    for ((case, why), theirs) in DIFFERENCES.iter().zip(theirs.as_array().unwrap()) {
        let ours = ours(case);
        if case.contains("yaml") {
            assert_ne!(ours, *theirs, "{case}: {why}");
            let data = |text: &Value| {
                python("import json, sys, yaml; print(json.dumps(yaml.safe_load(json.loads(sys.argv[1]))))", text)
            };
            assert_eq!(data(&ours), data(theirs), "{case}: not even the same data");
        } else {
            assert!(ours["error"].is_string(), "{case}: {why}: {ours}");
        }
    }
}

#[test]
fn addresses_match_those_of_python() {
    let expressions: Vec<&str> = ADDRESSES.iter().map(|(_, python)| *python).collect();
    let theirs = python(
        "import json, sys, ipaddress; print(json.dumps([eval(e) for e in json.loads(sys.argv[1])]))",
        &json!(expressions),
    );
    for ((case, _), theirs) in ADDRESSES.iter().zip(theirs.as_array().unwrap()) {
        assert_eq!(ours(case), *theirs, "{case}");
    }
}

#[test]
fn filters_of_towpath_alone_have_defined_results() {
    assert_eq!(ours("5400 | to_duration"), "1h30m");
    assert!(ours("'x' | password_hash('sha512')")["error"].as_str().unwrap().contains("give a salt"));
    assert!(ours("'x' | password_hash('bcrypt', 'salt')")["error"].as_str().unwrap().contains("use sha512"));
    assert!(ours("nothing.at.all | mandatory")["error"].is_string());
}

/// Ansible has no yescrypt, so the C library that checks passwords on the machine is the reference.
#[test]
fn yescrypt_hash_is_accepted_by_the_c_library() {
    let hash = ours("'geheim' | password_hash('yescrypt', 'saltsalt')").as_str().unwrap().to_owned();
    assert!(hash.starts_with("$y$j9T$"), "{hash}");
    let crypt = |password: &str| {
        let output = towpath_tests::ok(std::process::Command::new("perl").args([
            "-e",
            "print crypt($ARGV[0], $ARGV[1])",
            password,
            &hash,
        ]));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(crypt("geheim"), hash);
    assert_ne!(crypt("Geheim"), hash);
}
