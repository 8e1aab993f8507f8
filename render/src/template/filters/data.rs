//! Filters that convert data: `to_json`, `from_json`, `to_yaml`, `from_yaml`, `to_nice_json`, `to_nice_yaml`,
//! `b64encode`, `b64decode`, `mandatory`, `ternary` and `bool`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use minijinja::{
    Environment, Error,
    value::{Kwargs, Serde, Value},
};
use serde::Serialize as _;

use super::metered::{self, Bounded, wrong};

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "to_json", |value: &Value| json(value, Style::Line));
    metered::add(environment, "to_nice_json", |value: &Value, options: Kwargs| {
        let indent = options.get::<Option<usize>>("indent")?.unwrap_or(4);
        options.assert_all_used()?;
        json(value, Style::Lines(indent.min(16)))
    });
    metered::add(environment, "to_yaml", yaml);
    metered::add(environment, "to_nice_yaml", yaml);
    metered::add(environment, "from_json", |text: &str| -> Result<Value, Error> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| wrong(format!("from_json: {error}")))?;
        Ok(Value::from(Serde(value)))
    });
    metered::add(environment, "from_yaml", |text: &str| -> Result<Value, Error> {
        let limits = crate::document::Limits::default();
        let (documents, problems) = crate::document::parse("", "from_yaml", text.as_bytes(), limits);
        match (problems.first(), documents.first()) {
            (Some(problem), _) => Err(wrong(format!("from_yaml: line {}: {}", problem.line, problem.message))),
            (None, Some(document)) => Ok(Value::from(Serde(&document.value))),
            (None, None) => Ok(Value::from(())),
        }
    });
    metered::add(environment, "b64encode", |text: &Value| -> Result<String, Error> {
        Ok(BASE64_STANDARD.encode(bytes(text)))
    });
    metered::add(environment, "b64decode", |text: &str| -> Result<String, Error> {
        let decoded = BASE64_STANDARD.decode(text.trim()).map_err(|error| wrong(format!("b64decode: {error}")))?;
        String::from_utf8(decoded).map_err(|_| wrong("b64decode: the bytes are not valid UTF-8"))
    });
    environment.add_filter("mandatory", |value: Value, message: Option<String>| -> Result<Value, Error> {
        if value.is_undefined() {
            return Err(wrong(message.unwrap_or_else(|| "a mandatory value is not defined".into())));
        }
        Ok(value)
    });
    environment.add_filter("ternary", |value: &Value, yes: Value, no: Value, none: Option<Value>| match none {
        Some(none) if value.is_none() => none,
        _ if value.is_true() => yes,
        _ => no,
    });
    environment.add_filter("bool", to_bool);
}

fn to_bool(value: &Value) -> Result<bool, Error> {
    if let Some(text) = value.as_str() {
        return match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "1" | "true" | "y" | "t" => Ok(true),
            "no" | "off" | "0" | "false" | "n" | "f" | "" => Ok(false),
            _ => Err(wrong(format!("bool: {text:?} is neither true nor false"))),
        };
    }
    Ok(value.is_true())
}

pub(super) fn bytes(value: &Value) -> Vec<u8> {
    match value.as_bytes() {
        Some(bytes) => bytes.to_vec(),
        None => value.to_string().into_bytes(),
    }
}

enum Style {
    Line,
    Lines(usize),
}

/// Converts a value to JSON in the style of Python. JSON on one line has the separators `, ` and `: `. JSON on several
/// lines has sorted keys. Each character outside of ASCII is escaped.
fn json(value: &Value, style: Style) -> Result<String, Error> {
    let mut value = serde_json::to_value(value).map_err(|error| wrong(format!("to_json: {error}")))?;
    let mut out = Bounded::default();
    let done = match style {
        Style::Line => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonLine)),
        Style::Lines(indent) => {
            value.sort_all_objects();
            let spaces = " ".repeat(indent);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
    };
    done.map_err(|error| wrong(format!("to_json: {error}")))?;
    Ok(ascii(&out.text()?))
}

fn ascii(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

struct PythonLine;

impl serde_json::ser::Formatter for PythonLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn yaml(value: &Value) -> Result<String, Error> {
    let value = serde_json::to_value(value).map_err(|error| wrong(format!("to_yaml: {error}")))?;
    let mut out = Bounded::default();
    serde_yaml::to_writer(&mut out, &value).map_err(|error| wrong(format!("to_yaml: {error}")))?;
    out.text()
}
