//! Tests of taint in filters, statements and operators. If the inputs are tainted, the result must be the same as
//! without a taint, and must have the taint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    document::Step,
    taint::{Kind, Marks, Taint, Tainted},
    template::{Engine, Scope, Slot, TemplateError, Vars, environment::environment},
    tree::MemoryTree,
};

/// Calls of filters, with a tainted value in each position. Each value is tainted as a whole. The value `s` is text,
/// `i` a number, `l` a list of texts, `d` a map and `rows` a list of maps. The value `j` is JSON text, `b` base64 and
/// `ip` an address.
const FILTERS: [(&str, &[&str]); 76] = [
    ("abs", &["vars.i | abs"]),
    ("attr", &["vars.d | attr('a')", "{'abc': 1, 'x': 2} | attr(vars.s)"]),
    ("b64decode", &["vars.b | b64decode"]),
    ("b64encode", &["vars.s | b64encode"]),
    ("basename", &["vars.s | basename"]),
    ("batch", &["vars.l | batch(2)", "[1, 2, 3] | batch(vars.i)", "[1, 2, 3] | batch(2, vars.s)"]),
    ("bool", &["vars.i | bool"]),
    ("capitalize", &["vars.s | capitalize"]),
    ("chain", &["vars.l | chain([1])", "[1] | chain(vars.l)"]),
    (
        "combine",
        &[
            "vars.d | combine({'x': 1})",
            "{'x': 1} | combine(vars.d)",
            "{'x': {}} | combine({'x': vars.d}, recursive=true)",
        ],
    ),
    ("count", &["vars.l | count", "vars.d | count"]),
    ("d", &["nothing | d(vars.s)", "vars.s | d('x')"]),
    ("default", &["nothing | default(vars.s)", "vars.s | default('x')", "'' | default(vars.s, true)"]),
    ("dict2items", &["vars.d | dict2items", "{'a': 1} | dict2items(key_name=vars.s)"]),
    ("dictsort", &["vars.d | dictsort"]),
    ("difference", &["vars.l | difference(['x'])", "['abc', 'x'] | difference(vars.l)"]),
    ("dirname", &["vars.s | dirname"]),
    ("e", &["vars.s | e"]),
    ("escape", &["vars.s | escape"]),
    ("first", &["vars.l | first", "vars.s | first"]),
    ("flatten", &["vars.l | flatten", "[vars.l, [1]] | flatten"]),
    ("float", &["vars.i | float"]),
    ("format", &["'%s' | format(vars.s)", "'%s' | format(vars.l)"]),
    ("from_json", &["vars.j | from_json"]),
    ("from_yaml", &["vars.j | from_yaml"]),
    ("groupby", &["vars.rows | groupby('k')"]),
    ("hash", &["vars.s | hash('sha256')", "vars.l | hash"]),
    ("human_to_bytes", &["vars.i | human_to_bytes"]),
    ("indent", &["vars.s | indent(2)", "'a\\nb' | indent(vars.i)"]),
    ("int", &["vars.i | int"]),
    ("intersect", &["vars.l | intersect(['abc', 'x'])", "['abc'] | intersect(vars.l)"]),
    ("ipaddr", &["vars.ip | ipaddr", "'10.0.0.1' | ipaddr('in', vars.ip)"]),
    ("items", &["vars.d | items"]),
    ("items2dict", &["vars.rows | items2dict(key_name='k', value_name='v')"]),
    ("join", &["vars.l | join(',')", "['a', 'b'] | join(vars.s)", "vars.rows | join(',', 'k')"]),
    ("last", &["vars.l | last"]),
    ("length", &["vars.l | length", "vars.s | length"]),
    ("lines", &["vars.s | lines"]),
    ("list", &["vars.l | list", "vars.d | list", "vars.s | list"]),
    ("lower", &["vars.s | lower"]),
    ("mandatory", &["vars.s | mandatory"]),
    ("map", &["vars.rows | map(attribute='k')", "vars.l | map('upper')", "vars.l | map('replace', 'a', 'b')"]),
    ("max", &["vars.l | max"]),
    ("min", &["vars.l | min"]),
    (
        "password_hash",
        &[
            "vars.s | password_hash('sha512', 'salt', rounds=1000)",
            "'x' | password_hash('sha512', vars.s, rounds=1000)",
        ],
    ),
    ("plain_of_set", &["vars.s | plain_of_set(true)", "vars.d | plain_of_set(false)", "[vars.s] | plain_of_set(true)"]),
    ("pprint", &["vars.d | pprint", "vars.l | pprint"]),
    ("quote", &["vars.s | quote", "vars.l | quote"]),
    ("regex_findall", &["vars.s | regex_findall('.')", "'abc' | regex_findall(vars.s)"]),
    (
        "regex_replace",
        &[
            "vars.s | regex_replace('b', 'x')",
            "'abc' | regex_replace(vars.s, 'x')",
            "'abc' | regex_replace('b', vars.s)",
        ],
    ),
    ("regex_search", &["vars.s | regex_search('b')", "'abc' | regex_search(vars.s)"]),
    ("reject", &["vars.l | reject('eq', 'x')", "[vars.s] | reject('eq', 'x')"]),
    (
        "rejectattr",
        &["vars.rows | rejectattr('k', 'eq', 'x')", "vars.rows | rejectattr('k', 'eq', 'x') | map(attribute='k')"],
    ),
    ("replace", &["vars.s | replace('a', 'x')", "'abc' | replace(vars.s, 'x')", "'abc' | replace('a', vars.s)"]),
    ("reverse", &["vars.l | reverse", "vars.s | reverse"]),
    ("round", &["vars.i | round"]),
    ("safe", &["vars.s | safe"]),
    ("select", &["vars.l | select('ne', 'x')", "vars.l | select"]),
    ("selectattr", &["vars.rows | selectattr('k', 'ne', 'x')", "vars.rows | selectattr('k') | map(attribute='k')"]),
    ("slice", &["vars.l | slice(2)"]),
    ("sort", &["vars.l | sort", "vars.rows | sort(attribute='k')"]),
    ("split", &["vars.s | split('b')", "'xabcx' | split(vars.s)"]),
    ("splitext", &["vars.s | splitext"]),
    ("string", &["vars.i | string", "vars.l | string"]),
    ("sum", &["[vars.i, 1] | sum"]),
    ("ternary", &["true | ternary(vars.s, 'x')", "false | ternary('x', vars.s)", "none | ternary('x', 'y', vars.s)"]),
    ("title", &["vars.s | title"]),
    ("to_duration", &["vars.i | to_duration"]),
    ("to_json", &["vars.d | to_json", "[vars.s] | to_json", "vars.rows | to_nice_json"]),
    ("to_nice_json", &["vars.d | to_nice_json"]),
    ("to_nice_yaml", &["vars.d | to_nice_yaml"]),
    ("to_yaml", &["vars.d | to_yaml", "[vars.d] | to_yaml"]),
    ("tojson", &["vars.d | tojson", "vars.l | tojson"]),
    ("trim", &["vars.s | trim", "'abcx' | trim(vars.s)"]),
    ("union", &["vars.l | union([1])", "[1] | union(vars.l)"]),
    ("unique", &["vars.l | unique", "vars.rows | unique(attribute='k')"]),
];

/// Further calls of filters with the tainted values of [`FILTERS`].
const MORE_FILTERS: [(&str, &[&str]); 3] = [
    ("upper", &["vars.s | upper"]),
    ("urlencode", &["vars.s | urlencode", "vars.d | urlencode"]),
    ("zip", &["vars.l | zip([1, 2])", "[1, 2] | zip(vars.l)"]),
];

/// Expressions that apply operators and lookups to tainted values.
const EXPRESSIONS: [&str; 24] = [
    "vars.s",
    "vars.d.a",
    "vars.d['a']",
    "vars.l[0]",
    "vars.l[-1]",
    "vars.l[0:1]",
    "vars.s ~ 'x'",
    "'x' ~ vars.l",
    "vars.s + 'x'",
    "vars.l + [1]",
    "[1] + vars.l",
    "vars.s * 2",
    "vars.i + 1",
    "-vars.i",
    "vars.s == 'abc'",
    "vars.i > 1",
    "'abc' in vars.l",
    "'a' in vars.d",
    "'a' if vars.i > 1 else 'b'",
    "{'x': vars.s}",
    "[vars.l, vars.d]",
    "{vars.s: 1}",
    "vars.s is startingwith('a')",
    "not vars.i",
];

/// Templates with statements that read tainted values, and with files that they include.
const TEMPLATES: [&str; 22] = [
    "{% for x in vars.l %}{{ x }}{% endfor %}",
    "{% for k, v in vars.d | items %}{{ k }}{{ v }}{% endfor %}",
    "{% for k in vars.d %}{{ k }}{% endfor %}",
    "{% for r in vars.rows if r.k != 'x' %}{{ r.k }}{% endfor %}",
    "{% for r in vars.rows %}{{ loop.previtem.k if loop.previtem is defined else '' }}{% endfor %}",
    "{% for x in vars.tree recursive %}{{ x.name }}{{ loop(x.below) }}{% endfor %}",
    "{% set x = vars.s %}{{ x }}",
    "{% set x %}{{ vars.s }}{% endset %}{{ x }}",
    "{% set a, b = vars.l %}{{ a }}",
    "{% set ns = namespace(x='') %}{% for x in vars.l %}{% set ns.x = ns.x ~ x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=vars.d) %}{{ ns.x.a }}",
    "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(vars.s) }}",
    "{% macro m() %}<{{ vars.s }}>{% endmacro %}{{ m() }}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}{{ vars.s }}{% endcall %}",
    "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(vars.s) %}{{ y }}{% endcall %}",
    "{% filter upper %}{{ vars.s }}{% endfilter %}",
    "{% with x = vars.s %}{{ x }}{% endwith %}",
    "{% include 'part' %}",
    "{% from 'macros' import m %}{{ m(vars.s) }}",
    "{% import 'macros' as all %}{{ all.m(vars.l) }}",
    "{% extends 'base' %}{% block b %}{{ vars.s }}{% endblock %}",
    "{% if vars.i > 1 %}a{% else %}b{% endif %}",
];

const FILES: [(&str, &str); 3] = [
    ("part", "{{ vars.s }}"),
    ("macros", "{% macro m(x) %}{{ x }}{% endmacro %}"),
    ("base", "<{% block b %}{% endblock %}>"),
];

fn values() -> BTreeMap<String, Value> {
    let values = json!({
        "s": "abc",
        "i": 2,
        "l": ["abc", "b"],
        "d": {"a": "x", "b": 1},
        "rows": [{"k": "a", "v": "one"}, {"k": "b", "v": "two"}],
        "tree": [{"name": "a", "below": [{"name": "b", "below": []}]}],
        "j": "{\"a\": [1]}",
        "b": "YWJj",
        "ip": "10.0.0.0/8",
    });
    values.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn scope(marks: &Marks) -> minijinja::Value {
    let vars = values().into_iter().map(|(name, value)| (name, Slot::new(&Tainted::new(value, marks.clone()))));
    Scope::new(BTreeMap::new(), Arc::new(Vars::over(None, vars.collect()))).context()
}

fn engine() -> Engine {
    Engine::new(Arc::new(FILES.iter().copied().collect::<MemoryTree>()), "")
}

/// Calls `evaluate` with clean values and with tainted values. Returns a message if the results differ or if a taint is
/// missing.
fn fault(kind: Kind, evaluate: impl Fn(&minijinja::Value) -> Result<Tainted<Value>, TemplateError>) -> Option<String> {
    let clean = match evaluate(&scope(&Marks::Clean)) {
        Ok(clean) => clean,
        Err(error) => return Some(format!("fails: {error}")),
    };
    let tainted = match evaluate(&scope(&Marks::whole(Taint::new(kind, "the origin")))) {
        Ok(tainted) => tainted,
        Err(error) => return Some(format!("fails for tainted values: {error}")),
    };
    if !clean.marks().is_clean() {
        return Some("clean values are tainted".into());
    }
    if clean.value() != tainted.value() {
        return Some(format!("gives {} for tainted values, {} for clean ones", tainted.value(), clean.value()));
    }
    (tainted.taint().origins(kind) != [Arc::from("the origin")]).then(|| format!("loses the taint {kind}"))
}

fn faults<'a>(
    all: impl IntoIterator<Item = &'a str>,
    evaluate: impl Fn(&Engine, &str, &minijinja::Value) -> Result<Tainted<Value>, TemplateError>,
) -> Vec<String> {
    let engine = engine();
    let mut faults = Vec::new();
    for text in all {
        for kind in [Kind::Untrusted, Kind::Secret] {
            faults.extend(fault(kind, |scope| evaluate(&engine, text, scope)).map(|why| format!("{text}: {why}")));
        }
    }
    faults
}

#[test]
fn filter_keeps_the_taint_of_each_argument() {
    let rows = FILTERS.iter().chain(&MORE_FILTERS);
    let faults = faults(rows.flat_map(|(_, expressions)| expressions.iter().copied()), |engine, text, scope| {
        engine.expression(text, scope)
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_filter_has_a_row() {
    let shown = format!("{:?}", environment());
    let (_, filters) = shown.split_once("filters: ").unwrap();
    let (filters, _) = filters.split_once(", templates").unwrap();
    let known: BTreeSet<&str> = filters.split('"').skip(1).step_by(2).collect();
    let rows: BTreeSet<&str> = FILTERS.iter().chain(&MORE_FILTERS).map(|(name, _)| *name).collect();
    let missing: Vec<_> = known.difference(&rows).filter(|name| !name.ends_with(')')).collect();
    assert!(missing.is_empty(), "these filters have no row: {missing:?}");
    assert_eq!(rows.difference(&known).collect::<Vec<_>>(), [&""; 0], "rows of filters that are gone");
}

#[test]
fn operator_keeps_the_taint_of_each_operand() {
    let faults = faults(EXPRESSIONS, |engine, text, scope| engine.expression(text, scope));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn statement_keeps_the_taint_of_its_inputs() {
    let faults = faults(TEMPLATES, |engine, text, scope| engine.string(&format!("{text}."), scope));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Returns a scope that contains a list of nodes with untrusted facts.
fn nodes() -> minijinja::Value {
    let untrusted = |name: &str| Marks::whole(Taint::new(Kind::Untrusted, format!("the facts of {name}")));
    let node = |name: &str| Marks::parts(Taint::NONE, [(Step::Key("facts".into()), untrusted(name))]);
    let nodes = json!([
        {"name": "a", "labels": {"x": "1"}, "facts": {"os": "debian", "more": {"z": [1]}}},
        {"name": "b", "labels": {"x": "2"}, "facts": {"os": "fedora", "more": {"z": [2]}}},
        {"name": "c", "labels": {"x": "3"}, "facts": null},
    ]);
    let marks = Marks::parts(Taint::NONE, [(Step::Index(0), node("a")), (Step::Index(1), node("b"))]);
    let vars = BTreeMap::from([("nodes".to_owned(), Slot::new(&Tainted::new(nodes, marks)))]);
    Scope::new(BTreeMap::new(), Arc::new(Vars::over(None, vars))).context()
}

#[test]
fn part_that_is_not_read_does_not_taint() {
    for text in [
        "{{ vars.nodes | map(attribute='name') | join(',') }} ",
        "{% for n in vars.nodes %}{{ n.name }}{{ n.labels.x }}{% endfor %}",
        "{{ vars.nodes | selectattr('facts.os', 'defined') | selectattr('facts.os', 'eq', 'debian') | map(attribute='name') | join }} ",
        "{{ vars.nodes | selectattr('facts') | map(attribute='name') | join }} ",
        "{{ vars.nodes | rejectattr('facts') | map(attribute='name') | join }} ",
        "{{ vars.nodes | length }} ",
        "{% for n in vars.nodes if n.facts %}{{ n.name }}{% endfor %}",
    ] {
        let rendered = engine().string(text, &nodes()).unwrap();
        assert!(rendered.marks().is_clean(), "{text}: {:?}", rendered.taint());
    }
}

#[test]
fn part_that_is_read_taints_with_its_own_origin() {
    for text in [
        "{{ vars.nodes[0].facts.os }} ",
        "{{ vars.nodes[0].facts.more.z[0] }} ",
        "{{ vars.nodes[0].facts | to_json }} ",
        "{{ vars.nodes[0] | to_json }} ",
        "{{ vars.nodes[0] }} ",
        "{{ vars.nodes[0].facts | length }} ",
        "{% for k in vars.nodes[0].facts %}{{ k }}{% endfor %}",
    ] {
        let rendered = engine().string(text, &nodes()).unwrap();
        assert_eq!(rendered.taint(), Taint::new(Kind::Untrusted, "the facts of a"), "{text}");
    }
}

#[test]
fn value_that_is_passed_on_keeps_the_marks_of_its_parts() {
    for text in [
        "vars.nodes",
        "vars.nodes | list",
        "vars.nodes | selectattr('name', 'in', ['a', 'b'])",
        "[vars.nodes[0]]",
        "vars.nodes | selectattr('facts') | sort(attribute='name')",
    ] {
        let rendered = engine().expression(text, &nodes()).unwrap();
        let first = rendered.marks().member(&Step::Index(0));
        assert_eq!(first.key("facts").taint(), Taint::new(Kind::Untrusted, "the facts of a"), "{text}");
        assert!(first.key("name").is_clean(), "{text}: {:?}", rendered.marks());
    }
}

#[test]
fn computed_template_name_must_not_come_from_untrusted_values() {
    let untrusted = scope(&Marks::whole(Taint::new(Kind::Untrusted, "the event")));
    for text in [
        "{% include vars.s %}",
        "{% include [vars.s, 'part'] %}",
        "{% include vars.s ignore missing %}",
        "{% import 'mac' ~ vars.s as m %}",
        "{% extends vars.s %}",
        "{% set x = vars.s %}{% include x %}",
    ] {
        let error = engine().string(text, &untrusted).unwrap_err().message;
        assert!(error.contains("the event"), "{text}: {error}");
    }
    let text = "{{ vars.s }}{% include 'part' %}";
    assert!(engine().string(text, &untrusted).is_ok(), "a name that is written out is no choice of others");
    assert!(engine().string("{% set p = 'pa' %}{% include p ~ 'rt' %}", &untrusted).is_ok());
}

#[test]
fn error_of_a_template_that_read_a_secret_is_withheld() {
    let secret = scope(&Marks::whole(Taint::new(Kind::Secret, "the secret db/password")));
    for text in [
        "{{ vars.s | bool }}",
        "{{ vars.s | from_json }}",
        "x{{ vars.s | human_to_bytes }}",
        "{{ vars.rows | selectattr('k', 'nope') }}",
    ] {
        let error = engine().string(text, &secret).unwrap_err().message;
        assert!(!error.contains("abc") && error.contains("the secret db/password"), "{text}: {error}");
    }
}

#[test]
fn debug_function_does_not_print_tainted_values() {
    let secret = scope(&Marks::whole(Taint::new(Kind::Secret, "s")));
    for text in ["{{ debug() }}", "{% set x = vars.d %}{{ debug() }}", "{{ debug(vars) }}", "{{ debug(vars.d) }}"] {
        let printed = engine().string(text, &secret).unwrap();
        let hidden = !printed.value().to_string().contains("abc") && !printed.value().to_string().contains("\"x\"");
        assert!(hidden || printed.taint().has(Kind::Secret), "{text}: {}", printed.value());
    }
}
