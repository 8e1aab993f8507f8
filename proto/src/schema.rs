//! The static table of messages and fields, made from the `.proto` files by `build.rs`.

/// One message of the schema.
#[derive(Debug)]
pub struct Message {
    /// Its name.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// `global` or `namespaced` where the message is a kind.
    pub scope: Option<&'static str>,
    /// `state`, `probe` or `action` where the message is a module.
    pub module: Option<&'static str>,
    /// A use of the module, as it stands in a task.
    pub example: Option<&'static str>,
    /// Its fields in the order of their numbers.
    pub fields: &'static [Field],
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its name in YAML and JSON.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// One value, a list or a map of which type.
    pub shape: Shape,
    /// The closed set of words, separated by bars.
    pub words: Option<&'static str>,
    /// How a string is read.
    pub format: Option<&'static str>,
    /// Whether it must be written.
    pub required: bool,
    /// The kind of object that it names.
    pub refers: Option<&'static str>,
    /// What holds when it is left out.
    pub otherwise: Option<&'static str>,
    /// Whether it holds a command line that the module runs.
    pub runs_command: bool,
}

/// How many values a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One(Type),
    /// A list.
    List(Type),
    /// A map with string keys.
    Map(Type),
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// true or false.
    Bool,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// A string.
    String,
    /// Bytes; not used in objects.
    Bytes,
    /// Any YAML value.
    Any,
    /// A map of any YAML values.
    AnyMap,
    /// A message, by name.
    Message(&'static str),
}

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

impl Message {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Field {
    /// The words of the closed set, none where any string will do.
    pub fn word_list(&self) -> impl Iterator<Item = &'static str> {
        self.words.into_iter().flat_map(|words| words.split('|'))
    }

    /// The type of the field's values.
    pub fn value_type(&self) -> Type {
        match self.shape {
            Shape::One(inner) | Shape::List(inner) | Shape::Map(inner) => inner,
        }
    }
}

/// The message of this name.
pub fn message(name: &str) -> Option<&'static Message> {
    MESSAGES.binary_search_by(|message| message.name.cmp(name)).ok().map(|at| &MESSAGES[at])
}

/// All kinds of objects.
pub fn kinds() -> impl Iterator<Item = &'static Message> {
    MESSAGES.iter().filter(|message| message.scope.is_some())
}

/// The fields of a task that choose a module, with the module's message.
pub fn modules() -> impl Iterator<Item = (&'static Field, &'static Message)> {
    message("Task").into_iter().flat_map(|task| task.fields).filter_map(|field| match field.shape {
        Shape::One(Type::Message(name)) => {
            message(name).filter(|message| message.module.is_some()).map(|message| (field, message))
        }
        _ => None,
    })
}

/// The word of a set that was probably meant, by edit distance.
pub fn did_you_mean<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).max(1);
    words
        .into_iter()
        .map(|word| (distance(&written.to_lowercase(), &word.to_lowercase()), word))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// The number of insertions, deletions, substitutions and swaps of neighbours between two words
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirteen_kinds() {
        let names: Vec<_> = kinds().map(|kind| kind.name).collect();
        assert_eq!(
            names,
            [
                "Beacon",
                "ClusterVariables",
                "ClusterVariablesBinding",
                "Config",
                "CronJob",
                "Event",
                "Namespace",
                "Node",
                "NodeGroup",
                "Secret",
                "TaskBook",
                "Trigger",
                "Variables"
            ]
        );
    }

    #[test]
    fn every_message_and_field_is_documented() {
        for message in MESSAGES {
            assert!(message.doc.ends_with('.'), "{}: {:?}", message.name, message.doc);
            for field in message.fields {
                assert!(field.doc.ends_with('.'), "{}.{}: {:?}", message.name, field.name, field.doc);
            }
        }
    }

    #[test]
    fn near_words_are_found() {
        assert_eq!(did_you_mean("ownr", ["owner", "group"]), Some("owner"));
        assert_eq!(did_you_mean("tempalte", ["template", "source"]), Some("template"));
        assert_eq!(did_you_mean("quux", ["owner", "group"]), None);
    }
}
