//! Finds the line and the column of a part of a YAML document.
//!
//! The YAML parser reports a position only with an error. To find the position of a part, the deserializer returns an
//! error when the deserializer reaches the part.

use std::fmt;

use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::path::{At, Path, Step};

/// Returns the line and the column, counted from 1, of the value at the end of a path. If the path does not exist,
/// returns the position of the deepest part of the path that exists.
pub(super) fn position(text: &str, document: usize, path: &Path, at: At) -> (usize, usize) {
    let mut steps = path.0.as_slice();
    loop {
        if let Some(found) = attempt(text, document, steps, at) {
            return found;
        }
        match steps.split_last() {
            Some((_, shorter)) => steps = shorter,
            None => return (1, 1),
        }
    }
}

/// Returns the line and the column, counted from 1, of the root of each document in a text. The result omits documents
/// after a syntax error. The function reads the text twice.
pub(super) fn roots(text: &str) -> Vec<(usize, usize)> {
    let documents = || serde_yaml::Deserializer::from_str(text);
    // After a syntax error the parser repeats the error endlessly, or panics. So each document is first read to its
    // end.
    let is_sound = |document| IgnoredAny::deserialize(document).is_ok();
    documents()
        .zip(documents())
        .map_while(|(whole, document)| is_sound(whole).then(|| arrival(document, &[], At::Value))?)
        .collect()
}

fn attempt(text: &str, document: usize, steps: &[Step], at: At) -> Option<(usize, usize)> {
    arrival(serde_yaml::Deserializer::from_str(text).nth(document)?, steps, at)
}

fn arrival(document: serde_yaml::Deserializer<'_>, steps: &[Step], at: At) -> Option<(usize, usize)> {
    let error = Follow { steps, at }.deserialize(document).err()?;
    let location = error.location()?;
    error.to_string().contains(ARRIVED).then(|| (location.line().max(1), location.column().max(1)))
}

const ARRIVED: &str = "the end of the path";

struct Follow<'a> {
    steps: &'a [Step],
    at: At,
}

impl<'de> DeserializeSeed<'de> for Follow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Follow<'_> {
    fn arrive<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(ARRIVED)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Follow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.arrive()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.arrive()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.arrive()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.arrive()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.arrive()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.arrive()
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.arrive()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.arrive()?;
        if let Some((Step::Index(wanted), rest)) = self.steps.split_first() {
            for _ in 0..*wanted {
                if access.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
            }
            access.next_element_seed(Follow { steps: rest, at: self.at })?;
        }
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.arrive()?;
        let (wanted, rest) = match self.steps.split_first() {
            Some((Step::Key(key), rest)) => (&**key, rest),
            _ => ("", self.steps),
        };
        let last = rest.is_empty();
        loop {
            let seed = FollowKey { wanted: (last && self.at == At::Key).then_some(wanted) };
            let Some(key) = access.next_key_seed(seed)? else { return Ok(()) };
            if key == wanted {
                access.next_value_seed(Follow { steps: rest, at: self.at })?;
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
    }
}

/// A deserializer of map keys. The deserializer returns an error at the key `wanted`, because only an error has a
/// position.
struct FollowKey<'a> {
    wanted: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for FollowKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for FollowKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if self.wanted == Some(key) {
            return Err(E::custom(ARRIVED));
        }
        Ok(key.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, document: usize, path: &[&str], at: At) -> (usize, usize) {
        let steps =
            path.iter().map(|step| step.parse().map_or_else(|_| Step::Key((*step).into()), Step::Index)).collect();
        position(text, document, &Path(steps), at)
    }

    #[test]
    fn keys_and_values_are_located() {
        let text = "a: 1\n---\nb:\n  - c: x\n  - d: {e: 5, f: [1, 2]}\n";
        assert_eq!(at(text, 1, &["b", "1", "d", "f"], At::Key), (5, 15));
        assert_eq!(at(text, 1, &["b", "1", "d", "f", "1"], At::Value), (5, 22));
        assert_eq!(at(text, 1, &["b", "0", "c"], At::Value), (4, 8));
    }

    #[test]
    fn roots_are_where_each_document_is_found_alone() {
        for text in [
            "a: 1\n---\n\n  b: 2\n---\n- x\n",
            "---\n---\n# nothing\n---\n'text'\n...\n---\n  - a\n",
            "&a {x: 1}\n---\nnull\n--- !tag\nb: 1\n---\nc: 1\n",
            "a: 1\n---\nb: [\n---\nc: 1\n",
            "",
            "\u{2028}\n---\na: é\r\r---\rb: 1",
        ] {
            for (document, root) in roots(text).into_iter().enumerate() {
                assert_eq!(root, at(text, document, &[], At::Value), "document {document} of {text:?}");
            }
        }
        assert_eq!(roots("a: 1\n---\n\n  b: 2\n---\n- x\n"), [(1, 1), (4, 3), (6, 1)]);
    }

    #[test]
    fn roots_end_before_a_document_with_a_syntax_error() {
        for broken in [
            "b: {c<<: *unknown}",
            "b: {c: {d<<: *unknown}}}",
            "[*unknown, *unknown]",
            "b: [1, 2",
            "b: {c: 1",
            "b:\n\t- c",
            "b: \"c",
            "? *unknown : 1",
            "- a\n b: c",
            "%TAG\n---\n",
            "&a [*a",
        ] {
            for text in [
                format!("a: 1\n---\n{broken}\n---\nd: 1\n"),
                format!("a: 1\n---\n{broken}\n---\n{broken}\n"),
                format!("a: 1\n---\n{broken}"),
            ] {
                assert_eq!(roots(&text)[..1], [(1, 1)], "{text}");
            }
        }
    }

    #[test]
    fn missing_key_is_located_at_its_parent() {
        assert_eq!(at("a:\n  b: 1\n", 0, &["a", "missing"], At::Value), (2, 3));
    }
}
