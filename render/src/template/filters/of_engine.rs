//! Replaces the filters of the engine that convert lists and maps to text. The replacing filters charge fuel before the
//! conversion to text.

use std::borrow::Cow;

use minijinja::{
    Environment, Error, State, filters,
    functions::Function,
    value::{FunctionArgs, FunctionResult, Kwargs, Rest, StringInput, Value, ValueOrKwargs, from_args},
};

use super::metered::{charge, charge_text, weigh};

/// The maximum indentation of the JSON output of a filter, in spaces.
const WIDEST: usize = 16;

/// Adds a filter of the engine that converts its first argument to text. The added filter charges fuel before the
/// conversion to text.
macro_rules! add_text {
    ($environment:expr, $name:literal, |$state:ident, $value:ident $(, $argument:ident: $kind:ty)*| $call:expr) => {
        $environment.add_filter($name, |$state: &mut State<'_, '_>, $value: &Value $(, $argument: $kind)*| {
            charge_text($state, $name, $value)?;
            let result: Result<_, Error> = $call;
            result
        })
    };
}

pub(super) fn add(environment: &mut Environment<'static>) {
    add_text!(environment, "string", |state, value| filters::string(state, value));
    add_text!(environment, "upper", |state, value| Ok(filters::upper(StringInput::new(state, value)?)));
    add_text!(environment, "lower", |state, value| Ok(filters::lower(StringInput::new(state, value)?)));
    add_text!(environment, "capitalize", |state, value| Ok(filters::capitalize(StringInput::new(state, value)?)));
    add_text!(environment, "trim", |state, value, chars: Option<Cow<'_, str>>| {
        Ok(filters::trim(StringInput::new(state, value)?, chars))
    });
    add_text!(environment, "lines", |_state, value| filters::lines(value));
    add_text!(environment, "urlencode", |_state, value| filters::urlencode(value));
    add_text!(environment, "escape", |state, value| filters::escape(state, value));
    add_text!(environment, "e", |state, value| filters::escape(state, value));
    add_text!(environment, "pprint", |state, value| {
        charge(state, weigh(state, "pprint", value)?.indented(4))?;
        Ok(filters::pprint(value))
    });
    environment.add_filter(
        "join",
        |state: &mut State<'_, '_>, value: &Value, with: Option<&Value>, attribute: Option<&str>, options: Kwargs| {
            charge_text(state, "join", value)?;
            with.map_or(Ok(()), |with| charge_text(state, "join", with))?;
            let with = with.map(|with| StringInput::new(state, with)).transpose()?;
            filters::join(state, value, with, attribute, options)
        },
    );
    environment.add_filter("tojson", tojson);
    add_all(environment, "title", filters::title);
    environment.add_filter("replace", replace);
    add_all(environment, "split", filters::split);
    add_all(environment, "safe", filters::safe);
    add_all(environment, "format", filters::format);
}

/// Adds a filter of the engine that converts all its arguments to text. The added filter charges fuel before the
/// conversion to text.
fn add_all<F, Rv, Args>(environment: &mut Environment<'static>, name: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let own = Value::from_function(filter);
    environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        for argument in &arguments {
            charge_text(state, name, argument)?;
        }
        own.call(state, &arguments)
    });
}

/// Replaces a text in a string, at most `count` times if `count` is given. The `replace` filter that the engine exports
/// has no argument `count`.
fn replace(
    state: &mut State<'_, '_>,
    value: &Value,
    from: &Value,
    to: &Value,
    more: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let more = more.into_values();
    let (count, options): (Option<i64>, Kwargs) = from_args(&more)?;
    for argument in [value, from, to] {
        charge_text(state, "replace", argument)?;
    }
    let count = match count {
        Some(count) => Some(count),
        None => options.get::<Option<i64>>("count")?,
    };
    options.assert_all_used()?;
    // A negative count replaces all occurrences, as in Python.
    let Some(count) = count.and_then(|count| usize::try_from(count).ok()) else {
        let [value, from, to] = [value, from, to].map(|argument| StringInput::new(state, argument));
        return filters::replace(state, value?, from?, to?);
    };
    let [value, from, to] = [value, from, to].map(ToString::to_string);
    let found = value.matches(&from).take(count).count();
    charge(state, found.saturating_mul(to.len()).saturating_add(value.len()))?;
    Ok(Value::from(value.replacen(&from, &to, count)))
}

fn tojson(state: &State<'_, '_>, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let weight = weigh(state, "tojson", value)?;
    let indent = match indent {
        Some(width) if width.as_usize().is_some_and(|width| width > WIDEST) => Some(Value::from(WIDEST)),
        other => other,
    };
    charge(state, weight.indented(indent.as_ref().and_then(Value::as_usize).unwrap_or(2)))?;
    filters::tojson(value, indent, options)
}
