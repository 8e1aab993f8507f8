//! Parses YAML text within limits, so that a hostile document causes an error, never a panic or unlimited use of
//! memory.

use std::{cell::RefCell, fmt, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Document, Path, Place, SourceFile, Trail, lines, problem_at};
use crate::problem::{Finding, Problem};

/// The limits on the size of one YAML file and of its content.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The maximum size of a YAML file, in bytes.
    pub bytes: usize,
    /// The maximum number of brackets, commas, colons and dashes in a file. Each bracket, comma, colon and dash can
    /// begin a YAML token, so this maximum also limits the memory of the parser.
    pub indicators: usize,
    /// The maximum number of YAML values in a file, counted after aliases are expanded.
    pub values: usize,
    /// The maximum size of all strings in a file together, in bytes, counted after aliases are expanded.
    pub strings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 << 20, indicators: 1 << 20, values: 1 << 19, strings: 16 << 20 }
    }
}

/// The maximum length of a YAML key in bytes. Each error message about the value of a YAML key contains the key, so a
/// long key costs much memory.
const KEY: usize = 1024;

/// The maximum number of duplicate keys that the loader reports for each document.
const DUPLICATES: usize = 200;

/// The maximum number of bytes that the parser reads again in one file to find the lines of duplicate keys.
const LOCATED: usize = 64 << 20;

/// Returns the documents of a text, without empty documents, and the problems of the text. If the text has a syntax
/// error, the result contains the documents before the error.
pub fn parse(source: &str, path: &str, bytes: &[u8], limits: Limits) -> (Vec<Document>, Vec<Problem>) {
    let text = match text(bytes, limits) {
        Ok(text) => text,
        Err((line, finding)) => {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(64 << 10)]).into_owned();
            let file = SourceFile::new(source, path, shown);
            return (Vec::new(), vec![problem_at(&file, line, 1, finding)]);
        }
    };
    let file = Arc::new(SourceFile::new(source, path, text));
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    let budget = RefCell::new(Budget { values: limits.values, strings: limits.strings });
    for (index, document) in serde_yaml::Deserializer::from_str(file.text()).enumerate() {
        let duplicates = RefCell::new(Vec::new());
        let seed = ValueSeed { budget: &budget, duplicates: &duplicates, trail: &Trail::Root };
        match seed.deserialize(document) {
            Ok(value) => {
                // Locating a key reads the file again. So only the first duplicate keys of a huge file are reported.
                let most = (LOCATED / file.size().max(1)).clamp(1, DUPLICATES);
                for path in duplicates.take().into_iter().take(most) {
                    let place = Place::new(Arc::clone(&file), index, path);
                    let (line, column) = place.locate(super::At::Key);
                    let finding = Finding::new("this key occurs twice").hint("keep one of the two values");
                    problems.push(problem_at(&file, line, column, finding));
                }
                if !value.is_null() {
                    documents.push(Document { file: Arc::clone(&file), index, value });
                }
            }
            Err(error) => {
                let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
                problems.push(problem_at(&file, line.max(1), column.max(1), syntax(&error, file.text(), line)));
                // After a syntax error the parser would return the same error again.
                break;
            }
        }
    }
    (documents, problems)
}

/// Returns the bytes of a file as text, if the bytes are valid UTF-8 and within the size limits.
fn text(bytes: &[u8], limits: Limits) -> Result<&str, (usize, Finding)> {
    if bytes.len() > limits.bytes {
        let message = format!("the file has {} bytes, and at most {} are read", bytes.len(), limits.bytes);
        return Err((1, Finding::new(message).hint("split it, or keep large content below a folder named files")));
    }
    let line_of = |at: usize| lines(&String::from_utf8_lossy(&bytes[..at])).count();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err((line_of(at), Finding::new("the file has a NUL character").hint("YAML is text: remove it")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let finding = Finding::new("the file is not valid UTF-8").hint("save the file with the encoding UTF-8");
        (line_of(error.valid_up_to()), finding)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let indicators = text.bytes().filter(|byte| b"[]{},:-?&*".contains(byte)).count();
    if indicators > limits.indicators {
        let message = format!("the file has more than {} YAML tokens", limits.indicators);
        return Err((1, Finding::new(message).hint("split it, or keep large content below a folder named files")));
    }
    Ok(text)
}

fn syntax(error: &serde_yaml::Error, text: &str, line: usize) -> Finding {
    let shown = error.to_string();
    let message = shown.split(" at line ").next().unwrap_or(&shown).trim_start_matches(": ").to_owned();
    let source = lines(text).nth(line.saturating_sub(1)).unwrap_or_default();
    let finding = Finding::new(format!("YAML: {message}"));
    if source.starts_with('\t') || message.contains("cannot start any token") && source.contains('\t') {
        finding.hint("YAML is indented with spaces, never with tabs")
    } else if source.contains("{{") {
        finding.hint("quote it: a value that begins with {{ is read as a YAML map")
    } else if message.contains("tag") {
        finding.hint("write the value without !tag")
    } else if message.contains("recursion limit") {
        finding.hint("nest less deeply: at most 128 levels are read")
    } else if message.contains("repetition limit") || message.contains("too many") {
        finding.hint("use fewer aliases: they make the file too large")
    } else if message.contains("mapping values are not allowed") {
        finding.hint("quote values that hold \": \", and check the indentation of the line before")
    } else {
        finding
    }
}

struct Budget {
    values: usize,
    strings: usize,
}

struct ValueSeed<'a> {
    budget: &'a RefCell<Budget>,
    duplicates: &'a RefCell<Vec<Path>>,
    trail: &'a Trail<'a>,
}

impl ValueSeed<'_> {
    fn spend<E: serde::de::Error>(&self, bytes: usize) -> Result<(), E> {
        let mut budget = self.budget.borrow_mut();
        budget.values = budget.values.checked_sub(1).ok_or_else(|| E::custom("the file has too many values"))?;
        budget.strings =
            budget.strings.checked_sub(bytes).ok_or_else(|| E::custom("the file has too many bytes of strings"))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        i64::try_from(value).map(Value::from).map_err(|_| E::custom("the number is larger than 9223372036854775807"))
    }

    fn visit_i128<E: serde::de::Error>(self, _: i128) -> Result<Value, E> {
        Err(E::custom("the number does not fit into 64 bits"))
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Value, E> {
        Err(E::custom("the number does not fit into 64 bits"))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("infinity and NaN are not values here"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut list = Vec::new();
        loop {
            let trail = Trail::Index(self.trail, list.len());
            let seed = ValueSeed { budget: self.budget, duplicates: self.duplicates, trail: &trail };
            match access.next_element_seed(seed)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<Key>()? {
            self.spend(key.0.len())?;
            let trail = Trail::Key(self.trail, &key.0);
            let seed = ValueSeed { budget: self.budget, duplicates: self.duplicates, trail: &trail };
            let value = access.next_value_seed(seed)?;
            if map.contains_key(&key.0) {
                let mut duplicates = self.duplicates.borrow_mut();
                if duplicates.len() < DUPLICATES {
                    duplicates.push(trail.path());
                }
            } else {
                map.insert(key.0, value);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("YAML tags are not used here"))
    }
}

/// The key of a map entry as a string. If the key is a number or another scalar, the parser converts the key to a
/// string.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string as key (an unquoted {{ is read as a map: quote it)")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Key, E> {
        if key.len() > KEY {
            return Err(E::custom(format!("a key has {} bytes, and at most {KEY} are allowed", key.len())));
        }
        Ok(Key(key.to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<Key, E> {
        Ok(Key(key.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<Key, E> {
        Ok(Key(key.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<Key, E> {
        Ok(Key(key.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<Key, E> {
        Ok(Key(key.to_string()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Key, A::Error> {
        Err(A::Error::custom("expected a string, found a map"))
    }
}

/// Parses YAML text without a check against the schema, for tests of this crate.
#[cfg(test)]
pub(crate) fn parse_value(text: &str) -> Value {
    serde::Deserialize::deserialize(serde_yaml::Deserializer::from_str(text)).expect("valid YAML in a test")
}
