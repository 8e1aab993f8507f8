//! Creates the text that `towpath explain KIND[.field…]` prints from the comments of the schema.

use std::fmt::Write as _;

use crate::schema::{Field, Message, Shape, Type, did_you_mean, kinds, message};

/// The error that a path, such as `TaskBook.spec`, contains a word that is not in the schema.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The unknown word of the path.
    pub word: String,
    /// The kind, message or field that does not contain the word.
    pub within: String,
    /// The most similar word, as a suggestion for the user; `None` if the schema has no similar word.
    pub meant: Option<String>,
}

/// Returns the documentation of a kind, a message, or a field such as `TaskBook.spec.tasks.file.mode`.
///
/// # Errors
/// Returns an error if a word of the path is not in the schema.
pub fn explain(path: &str) -> Result<String, UnknownWord> {
    let mut words = path.split('.');
    let first = words.next().unwrap_or_default();
    let mut at = message(first)
        .or_else(|| kinds().find(|kind| kind.name.eq_ignore_ascii_case(first)))
        .ok_or_else(|| unknown(first, "the kinds", kinds().map(|kind| kind.name)))?;
    let mut title = at.name.to_owned();
    let mut field: Option<&'static Field> = None;
    for (position, word) in words.enumerate() {
        if position == 0 && at.scope.is_some() && (word == "spec" || word == "metadata") {
            if word == "metadata" {
                at = message("Metadata").unwrap_or(at);
            }
            title.push('.');
            title.push_str(word);
            continue;
        }
        if let Some(Type::Message(name)) = field.map(Field::value_type) {
            at = message(name).unwrap_or(at);
        } else if field.is_some() {
            return Err(unknown(word, &title, []));
        }
        let found = at.field(word).ok_or_else(|| unknown(word, &title, at.fields.iter().map(|field| field.name)))?;
        field = Some(found);
        title.push('.');
        title.push_str(word);
    }
    Ok(match field {
        None => message_text(&title, at),
        Some(field) => field_text(&title, field),
    })
}

fn unknown(word: &str, within: &str, words: impl IntoIterator<Item = &'static str>) -> UnknownWord {
    UnknownWord {
        word: word.to_owned(),
        within: within.to_owned(),
        meant: did_you_mean(word, words).map(ToOwned::to_owned),
    }
}

fn message_text(title: &str, message: &Message) -> String {
    let mut text = format!("{title}\n\n{}\n", message.doc);
    if let Some(scope) = message.scope {
        let _ = writeln!(text, "\nA {scope} kind: metadata {{apiVersion, kind, name}} and, in spec:");
    }
    if let Some(module) = message.module {
        let _ = writeln!(text, "\nA module of the kind {}. Parameters:", module.kind.as_str());
    }
    text.push_str(&fields_text(message));
    example(&mut text, message);
    text
}

fn example(text: &mut String, message: &Message) {
    if let Some(example) = message.example {
        let _ = writeln!(text, "\nExample:\n  - name: …\n    {example}");
    }
}

fn field_text(title: &str, field: &Field) -> String {
    // The comment of a module's message explains more than the comment of the task's field.
    let doc = message_of(field).filter(|inner| inner.module.is_some()).map_or(field.doc, |inner| inner.doc);
    let mut text = format!("{title}  {}\n\n{doc}\n", type_name(field));
    if let Some(words) = field.words {
        let _ = writeln!(text, "\nOne of: {}.", words.replace('|', ", "));
    }
    if let Some(otherwise) = field.otherwise {
        let _ = writeln!(text, "\nLeft out: {otherwise}.");
    }
    if let Some(kind) = field.refers {
        let _ = writeln!(text, "\nNames a {kind}.");
    }
    if let Some(inner) = message_of(field) {
        text.push('\n');
        text.push_str(&fields_text(inner));
        example(&mut text, inner);
    }
    text
}

fn message_of(field: &Field) -> Option<&'static Message> {
    match field.value_type() {
        Type::Message(name) => message(name),
        _ => None,
    }
}

fn fields_text(message: &Message) -> String {
    let width = message.fields.iter().map(|field| field.name.len()).max().unwrap_or(0);
    let types = message.fields.iter().map(|field| type_name(field).len()).max().unwrap_or(0);
    let mut text = String::new();
    for field in message.fields {
        let required = if field.required { "required. " } else { "" };
        let kind = type_name(field);
        let doc = field.doc.replace('\n', " ");
        let default = match field.otherwise.filter(|_| !doc.contains("Default")) {
            Some(otherwise) => format!(" Default: {otherwise}."),
            None => String::new(),
        };
        let _ = writeln!(text, "  {:width$}  {kind:types$}  {required}{doc}{default}", field.name);
    }
    text
}

/// Returns the type of a field as `towpath explain` prints it.
fn type_name(field: &Field) -> String {
    let inner = match (field.words, field.format, field.value_type()) {
        (Some(words), _, _) if words.len() < 32 => words.to_owned(),
        (_, Some("name" | "identifier" | "path" | "commit" | "uuid" | "line"), _) => "string".to_owned(),
        (_, Some(format), _) => format.to_owned(),
        (_, _, Type::Bool) => "boolean".to_owned(),
        (_, _, Type::Integer) => "integer".to_owned(),
        (_, _, Type::Number) => "number".to_owned(),
        (_, _, Type::String | Type::Bytes) => "string".to_owned(),
        (_, _, Type::Any) => "any".to_owned(),
        (_, _, Type::AnyMap) => "map".to_owned(),
        (_, _, Type::Message(name)) => name.to_owned(),
    };
    match field.shape {
        Shape::One(_) => inner,
        Shape::List(_) => format!("[{inner}]"),
        Shape::Map(_) => format!("{{string: {inner}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_is_explained_with_its_full_documentation() {
        let text = explain("TaskBook.spec.tasks.package").unwrap();
        assert!(text.contains("Adjacent `package` tasks") && text.contains("in a transaction of its own"), "{text}");
    }

    #[test]
    fn explain_follows_a_path_to_a_field() {
        let text = explain("TaskBook.spec.tasks.file.mode").unwrap();
        assert!(text.starts_with("TaskBook.spec.tasks.file.mode  mode"), "{text}");
        assert!(text.contains("quoted octal"));
        assert!(explain("taskbook").unwrap().contains("dependsOn"));
    }

    #[test]
    fn unknown_word_names_the_most_similar_one() {
        let error = explain("TaskBook.spec.task").unwrap_err();
        assert_eq!(error.meant.as_deref(), Some("tasks"));
    }
}
