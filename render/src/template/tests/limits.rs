//! Tests of templates that would exhaust the memory, the time or the stack of a node.

use std::{sync::Arc, time::Duration};

use crate::{template::Engine, tree::MemoryTree};

fn render(text: &str) -> Result<usize, String> {
    let engine = Engine::new(Arc::new(MemoryTree::default()), "");
    let rendered = engine.string(text, &minijinja::context! {}).map_err(|error| error.message)?;
    Ok(rendered.value().to_string().len())
}

/// Returns the CPU time of this thread, because other processes do not affect the CPU time.
fn ran() -> Duration {
    let status = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(status.split_whitespace().next().unwrap().parse().unwrap())
}

/// Returns the peak memory use of this process, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

/// Checks that each template fails with at most 600 MiB of memory, and within 30 seconds in a debug build.
#[test]
fn template_that_makes_too_much_is_stopped() {
    for text in [
        "{{ 'x' * 1000000000 }}",
        "x{{ 'x' * 99000000 }}",
        "{% for i in range(100) %}{{ 'x' * 1000000 }}{% endfor %}",
        "{{ [0] * 100000000 }}",
        "{{ ([0] * 90000000) | to_json }}",
        "{{ ([0] * 90000000) | quote }}",
        "{{ ([0] * 90000000) | to_nice_yaml }}",
        "{{ ([0] * 90000000) | hash }}",
        "{{ ([0] * 90000000) | flatten }}",
        "{{ ([0] * 90000000) | zip([1]) }}",
        "{{ range(99999) | union(range(99999)) }}",
        "{{ range(99999) | intersect(range(50000)) }}",
        "{{ ('a' * 2000000) | regex_replace('a', 'b' * 1000) | length }}",
        "{{ ('x' * 30000000) | regex_search('(x{500}){20}y') }}",
        "{{ ('\\\"' * 20000000) | to_json | to_json | length }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ ([0] * 90000000) | string | length }}",
        "{{ ([('x' * 10000000)] * 1000) | string | length }}",
        "{{ ([[('x' * 10000000)] * 1000]) | join | length }}",
        "{{ ([('x' * 10000000)] * 1000) | upper | length }}",
        "{{ ([('x' * 10000000)] * 1000) | tojson | length }}",
        "{{ '%s' | format([('x' * 10000000)] * 1000) | length }}",
        "{% set a %}{{ [('x' * 10000000)] * 1000 }}{% endset %}{{ a | length }}",
        "{% for i in range(90) %}{{ ('p' * 100) | password_hash('sha512', 'salt', rounds=500000) }}{% endfor %}",
        "{{ 'p' | password_hash('sha512', 'salt', rounds=1000000) }}",
        "{{ 'p' | password_hash('sha512', 'salt', rounds=10) }}",
        "{{ ('p' * 2000) | password_hash('sha512', 'salt') }}",
    ] {
        let begun = ran();
        let result = render(text);
        let took = ran() - begun;
        println!("{took:?}: {text}");
        assert!(result.is_err(), "{text} gives {result:?}");
        assert!(took.as_secs() < 30, "{text}: {took:?}");
    }
    assert!(peak() < 600, "{} MiB", peak());
}

/// Renders templates that are nested too deep. The test needs no assertion, because a stack overflow would end the
/// process.
#[test]
fn template_that_nests_too_deep_is_refused() {
    let nested = |statement: &str| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(99999) %}}{{% for j in range(9) %}}{statement}{{% endfor %}}{{% endfor %}}"
        )
    };
    let many = |part: &str| part.repeat(50_000);
    let texts = [
        nested("{% set ns.x = [ns.x] %}"),
        nested("{% set ns.x = [[[[[[[[[[[[[[[[ns.x]]]]]]]]]]]]]]]] %}"),
        nested("{% set ns.x = {'a': ns.x} %}"),
        nested("{% set ns.x = [ns.x + [1]] %}"),
        nested("{%- set ns.x = [ns.x] | list -%}"),
        format!("{{{{ 'a' {} }}}}", many("| upper")),
        format!("{{{{ a{} }}}}", many(".a")),
        format!("{{{{ a{} }}}}", many("[0]")),
        format!("{{{{ 1{} }}}}", many(" + 1")),
        format!("x{{{{ 1{} }}}}", many(" ~ 1")),
        format!("{{{{ {}a }}}}", many("not ")),
        format!("{{{{ {}1 }}}}", many("-")),
        format!("{{{{ {}1{} }}}}", many("["), many("]")),
        format!("{{{{ 1{} }}}}", many(" if 1 else 2")),
        format!("{{% if a %}}{}{{% endif %}}", many("{% elif b %}")),
        many("{% if 1 %}") + &many("{% endif %}"),
        format!("{{{{ '{}1{}' | from_json }}}}", many("["), many("]")),
        format!("{{{{ '{}1{}' | from_yaml }}}}", many("["), many("]")),
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}".to_owned(),
        "{% for x in [[1]] recursive %}{{ loop([[x]]) }}{% endfor %}".to_owned(),
    ];
    // The stack frames of a debug build are several times as large as those of a release build.
    let refused = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        for text in texts {
            let shown: String = text.chars().take(120).collect();
            println!("{shown}");
            assert!(render(&text).is_err(), "{shown}");
            // The check of an object's templates compiles the text, too.
            let _ = crate::template::syntax::template(&text);
            let _ = crate::template::syntax::names_in_template(&text);
        }
    });
    refused.unwrap().join().unwrap();
}

/// Returns a template with a loop. In each round, `statement` makes the assigned value larger, or nests its previous
/// value.
fn grown(first: &str, statement: &str) -> String {
    format!(
        "{{% set ns = namespace(x={first}) %}}{{% for i in range(99999) %}}{statement}{{% endfor %}}{{{{ ns.x | length }}}}"
    )
}

#[test]
fn value_that_grows_by_a_factor_in_a_loop_is_refused() {
    for text in [
        grown("[1]", "{% set ns.x = ns.x + ns.x %}"),
        grown("[1]", "{% set ns.x = ns.x * 3 %}"),
        grown("[1]", "{% set ns.x = [ns.x, ns.x] %}"),
        grown("[1]", "{% set ns.x = [ns.x + [1], ns.x + [1]] %}"),
        grown("[1]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}"),
        grown("'ab'", "{% set ns.x = ns.x ~ ns.x %}"),
        grown("[1]", "{% set y = ns.x + ns.x %}{% set ns.x = y %}"),
        // The lists of earlier iterations stay in memory.
        grown("[0] * 200000", "{% set ns.x = [ns.x + [0], ns.x] %}"),
    ] {
        let begun = ran();
        let result = render(&text);
        let took = ran() - begun;
        println!("{took:?}: {text}");
        assert!(result.is_err(), "{text} gives {result:?}");
        assert!(took.as_secs() < 30, "{text}: {took:?}");
    }
    assert!(peak() < 600, "{} MiB", peak());
}

/// Assigns values whose parts the engine hides. Without a copy or an error, the depth of values with hidden parts could
/// grow without a limit.
#[test]
fn value_with_hidden_parts_is_copied_or_refused() {
    for (statement, expected) in [
        ("{% set ns.x = [ns.x][1:] %}", Ok(1)),
        ("{% set ns.x = {'a': ns.x} | chain({'a': 1}) %}", Ok(1)),
        ("{% set ns.x = [ns.x] | groupby(0) %}", Err(())),
        ("{% set ns.x = {[ns.x]: 1} %}", Err(())),
        ("{% set ns.x = namespace(x=ns.x) %}", Err(())),
        ("{% set ns.x = [namespace(x=ns.x)] %}", Err(())),
        ("{% set a = [namespace(x=ns.x)] + [] %}{% set ns.x = a %}", Err(())),
        ("{% for j in [ns.x] %}{% set ns.x = loop %}{% endfor %}", Err(())),
    ] {
        let text = grown("[1]", statement);
        let result = render(&text);
        assert_eq!(result.as_ref().map(drop).map_err(drop), expected.map(|_: usize| ()), "{text}: {result:?}");
    }
}

#[test]
fn assigned_value_keeps_its_type_and_content() {
    for (text, expected) in [
        (
            "{% set g = [{'a': 1, 'l': [1] + [2]}] | groupby('a') %}{% for x in g %}{{ x.grouper }}={{ x.list }}{% endfor %}x",
            "1=[{'a': 1, 'l': [1, 2]}]x",
        ),
        ("{% set t = (1, [2] + [3]) %}{{ t }}x", "(1, [2, 3])x"),
        ("{% set ns = namespace(x=[1] + [2]) %}{% set ns.x = ns.x + [3] %}{{ ns.x }}{{ ns.x[2] }}", "[1, 2, 3]3"),
        ("{% set a, b = [1] + [2], [3] %}{{ a }}{{ b }}", "[1, 2][3]"),
        ("{% set a = {'k': [1] + [2], 'n': none} %}{{ a }}x", "{'k': [1, 2], 'n': None}x"),
        ("{%- set a = 'x' -%}\n y{% set b = a %}\nz {{ b }}", "yz x"),
        ("{% set a %}b{% endset %}{% set a | upper %}{{ a }}{% endset %}{{ a }}x", "Bx"),
    ] {
        let engine = Engine::new(Arc::new(MemoryTree::default()), "");
        let rendered = engine.string(text, &minijinja::context! {}).map_err(|error| error.message);
        assert_eq!(rendered.map(|rendered| rendered.value().clone()), Ok(expected.into()), "{text}");
    }
}

#[test]
fn ordinary_templates_are_far_from_the_limits() {
    for text in [
        "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(1500) %}{% set ns.x = ns.x + [{'name': 'n', 'port': i}] %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x='') %}{% for i in range(3000) %}{% set ns.x = ns.x ~ 'line ' ~ i ~ ';' %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x={}) %}{% for i in range(400) %}{% set ns.x = ns.x | combine({i: 'value'}) %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[0] * 5000) %}{% for i in range(1000) %}{% set y = ns.x %}{% endfor %}{{ ns.x | length }}",
        "{{ range(20000) | tojson(indent=2) | length }}",
        "{{ [[[[1]]]] | tojson(indent=2000000000) }}",
        "{% for i in range(20000) %}server {{ i }} 10.0.{{ i // 256 }}.{{ i % 256 }} check inter 5s\n{% endfor %}",
        "{{ range(3000) | union(range(2000, 4000)) | length }}",
        "{{ ('word ' * 20000) | regex_replace('w(or)d', '\\\\1') | length }}",
        "{{ 'p' | password_hash('sha512', 'salt', rounds=100000) }}",
        "{{ 'p' | password_hash('yescrypt', 'saltsalt') }}",
        "{{ 'x' * 30000000 }}",
    ] {
        if let Err(why) = render(text) {
            panic!("{text}: {why}");
        }
    }
}

#[test]
fn count_of_replace_is_that_of_python() {
    let engine = Engine::new(Arc::new(MemoryTree::default()), "");
    for (text, wanted) in [
        ("{{ 'abcb' | replace('b', 'x') }}", "axcx"),
        ("{{ 'abcb' | replace('b', 'x', 1) }}", "axcb"),
        ("{{ 'abcb' | replace('b', 'x', count=1) }}", "axcb"),
        ("{{ 'abcb' | replace('b', 'x', 0) }}", "abcb"),
        ("{{ 'abcb' | replace('b', 'x', -1) }}", "axcx"),
        ("{{ ['ab', 'bb'] | map('replace', 'b', 'x', 1) | join(' ') }}", "ax xb"),
    ] {
        let rendered = engine.string(text, &minijinja::context! {}).unwrap();
        assert_eq!(rendered.value(), wanted, "{text}");
    }
    assert!(render("{{ ('a' * 9000000) | replace('a', 'b' * 1000, 8000000) }}").is_err());
    assert!(peak() < 600, "{} MiB", peak());
}

#[test]
fn patterns_of_a_bounded_length_read_large_texts() {
    for text in [
        "{{ ('abc def ghi jkl mno\\n' * 30000) | regex_replace(' ', '') | length }}",
        "{{ ('x\\n' * 200000) | regex_replace('(?m)^', '  ') | length }}",
        "{{ ('abc def\\n' * 10000) | regex_replace('(\\\\w+)', '<\\\\1>') | length }}",
    ] {
        assert!(render(text).is_ok(), "{text}: {:?}", render(text));
    }
}

#[test]
fn elif_of_separate_ifs_does_not_count_as_a_chain() {
    let one = "{% if false %}a{% elif true %}b{% endif %}";
    assert!(render(&one.repeat(300)).is_ok());
    let inner = "{% elif false %}{{ 'a' if false else 'b' }}".repeat(60);
    let nested = format!("{{% if false %}}{inner}{{% else %}}{{% if false %}}{inner}{{% endif %}}{{% endif %}}");
    assert!(render(&nested).is_err());
}
