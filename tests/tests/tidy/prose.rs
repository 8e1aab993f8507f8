//! The words of comments, messages and names of tests.

use std::collections::BTreeMap;

use crate::{
    syntax::facts::Facts,
    tree::{Finding, Source},
};

/// Words that do not begin a doc comment: its first line says what the thing is.
const QUESTIONS: [&str; 16] = [
    "what",
    "who",
    "whose",
    "whom",
    "whether",
    "where",
    "when",
    "how",
    "why",
    "which",
    "whoever",
    "whatever",
    "whenever",
    "wherever",
    "whichever",
    "nobody",
];

/// Words of one kind that have a plain counterpart. Not among them: "place" for a slot, which needs a reader.
const PRIVATE: [&str; 34] = [
    "anew",
    "let in",
    "lets in",
    "is through",
    "are through",
    "go on",
    "goes on",
    "went on",
    "make way",
    "makes way",
    "put right",
    "puts right",
    "putting right",
    "come of",
    "comes of",
    "stand",
    "stands",
    "tell",
    "tells",
    "say",
    "says",
    "can't be had",
    "cannot be had",
    "behind",
    "is no",
    "are no",
    "does not go well",
    "do not go well",
    "goes well",
    "whoever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
];

/// Words in names of tests that make a sentence of the name.
const IN_NAMES: [&str; 20] = [
    "who",
    "what",
    "whoever",
    "whatever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "anew",
    "stands",
    "tells",
    "says",
    "lets_in",
    "is_through",
    "are_through",
    "goes_on",
    "go_on",
    "makes_way",
    "puts_right",
    "is_no",
];

/// Returns the number of doc comments in files with an ending, and those that begin with a question or relative word.
pub fn doc_comments(sources: &[Source], ending: &str) -> (usize, Vec<String>) {
    let mut number = 0;
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(ending)) {
        let mut before = false;
        for (at, line) in source.text.lines().enumerate() {
            let doc = documentation(source, line);
            if let Some(text) = doc
                && !before
            {
                number += 1;
                let word: String = text.trim_start().chars().take_while(|sign| sign.is_alphabetic()).collect();
                if QUESTIONS.contains(&word.to_lowercase().as_str()) {
                    found.push(format!("{}:{}: {}", source.path, at + 1, text.trim()));
                }
            }
            before = doc.is_some();
        }
    }
    (number, found)
}

/// Returns the text of a line of a doc comment. Comments of the protocol are what `explain` prints.
fn documentation<'a>(source: &Source, line: &'a str) -> Option<&'a str> {
    let line = line.trim_start();
    if source.path.ends_with(".proto") {
        return line.strip_prefix("//");
    }
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).filter(|text| !text.starts_with('/'))
}

/// Returns the private words in messages: in string literals of code, and in the comments of the protocol.
pub fn messages(sources: &[Source], facts: &[Facts]) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in facts {
        let sentences = file.strings.iter().filter(|text| text.trim().contains(' ')).map(String::as_str);
        found.extend(with_words("message", &file.path, sentences));
    }
    for source in sources.iter().filter(|source| source.path.ends_with(".proto")) {
        let comments = source.text.lines().filter_map(|line| documentation(source, line));
        found.extend(with_words("message", &source.path, comments));
    }
    found
}

/// Returns the private words in comments of all files.
pub fn comments(sources: &[Source]) -> Vec<Finding> {
    let files = sources.iter().filter(|source| source.is_rust());
    let of_file = |source: &Source| {
        let comments = source.text.lines().map(str::trim_start).filter(|line| line.starts_with("//"));
        with_words("comment", &source.path, comments)
    };
    files.filter_map(of_file).collect()
}

fn with_words<'a>(rule: &'static str, path: &str, texts: impl Iterator<Item = &'a str>) -> Option<Finding> {
    let mut words: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    for text in texts {
        for word in private_words(text) {
            let entry = words.entry(word).or_insert_with(|| (0, text.to_owned()));
            entry.0 += 1;
        }
    }
    let number = words.values().map(|(number, _)| number).sum();
    let detail: Vec<String> = words.into_iter().map(|(word, (_, text))| format!("{word:?} in {text:?}")).collect();
    (number > 0).then(|| Finding::new(rule, path, number, detail.join("; ")))
}

/// Returns the private words that a text holds.
fn private_words(text: &str) -> Vec<&'static str> {
    let text = format!(" {} ", text.to_lowercase());
    let bounded = |at: usize, word: &str| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let inside = |sign: Option<char>| sign.is_some_and(|sign| sign.is_alphanumeric() || "_-`/{".contains(sign));
        !inside(before) && !inside(after)
    };
    // "there is no file" and "is no longer a node" are plain, "is no file" is not.
    let counted = |at: usize, word: &str| {
        let longer = text[at + word.len()..].trim_start().starts_with("longer");
        !word.ends_with(" no") || !longer && !text[..at].trim_end().ends_with("there")
    };
    PRIVATE
        .into_iter()
        .filter(|word| text.match_indices(word).any(|(at, _)| bounded(at, word) && counted(at, word)))
        .collect()
}

/// Returns the number of tests, and a finding for each file with names that are sentences.
pub fn test_names(sources: &[Source]) -> (usize, Vec<Finding>) {
    let mut number = 0;
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let mut marked = false;
        let mut names = Vec::new();
        for line in source.text.lines().map(str::trim) {
            if line == "#[test]" || line.starts_with("#[tokio::test") {
                marked = true;
            } else if marked && !line.starts_with("#[") && !line.starts_with("//") {
                marked = false;
                let Some((_, name)) = line.split_once("fn ") else { continue };
                let name = name.split(['(', '<']).next().unwrap_or_default();
                number += 1;
                let padded = format!("_{name}_");
                if IN_NAMES.iter().any(|word| padded.contains(&format!("_{word}_"))) {
                    names.push(name.to_owned());
                }
            }
        }
        if !names.is_empty() {
            found.push(Finding::new("test-name", &source.path, names.len(), names.join(", ")));
        }
    }
    (number, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_seeded as seeded;

    #[test]
    fn doc_comment_with_a_question_word_is_counted() {
        let text = "//! Whether a\n//! What b\nfn x() {}\n/// A slot.\n/// Who holds it.\nfn y() {}\n    /// Whose slot\n    // Where\n";
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let (number, found) = doc_comments(&[source("git/src/x.rs", text)], ".rs");
        assert_eq!((number, found.len()), (3, 2), "{found:?}");
        let (number, found) =
            doc_comments(&[source("proto/x.proto", "// Which node.\nstring node = 1;\n// The node.\n")], ".proto");
        assert_eq!((number, found.len()), (2, 1), "{found:?}");
    }

    #[test]
    fn private_word_in_a_message_is_red() {
        for code in [
            "const A: &str = \"nobody is let in before all nodes have said anew what they hold\";",
            "fn f() { format!(\"the run goes on at {}\", 1) }",
            "fn f() { g(|x| info!(node, \"it stands\\n here\")) }",
            "#[error(\"cannot go on: {0}\")] struct E;",
            "#[arg(help = \"Tells the state\")] struct E;",
            "fn f() { bail(\"is no node\") }",
        ] {
            assert_eq!(seeded("message", &[("agent/src/cli/x.rs", code)]), 1, "{code}");
        }
        assert_eq!(seeded("message", &[("proto/towpath/x.proto", "// Who lets in a node.\n")]), 1);
        for code in [
            "const A: &str = \"anew\"; // the node goes on",
            "fn f() { bail(\"is no longer a node\") }",
            "fn f() { bail(\"there is no node {name}\") }",
            "fn f() { bail(\"the standard says-so understands\") }",
            "#[test] fn f() { bail(\"it goes on\") }",
            "#[cfg(test)]\nmod tests {\n    fn f() { bail(\"it goes on\") }\n}",
            "/// It goes on.\nfn f() {}",
        ] {
            assert_eq!(seeded("message", &[("agent/src/cli/x.rs", code)]), 0, "{code}");
        }
    }

    #[test]
    fn private_word_in_a_comment_is_red() {
        for text in ["/// The run goes on.", "    // Nobody does.", "//! Written anew, twice."] {
            assert_eq!(seeded("comment", &[("tests/tests/x.rs", text)]), 1, "{text}");
        }
        assert_eq!(seeded("comment", &[("tests/tests/x.rs", "let x = \"goes on\";")]), 0);
    }

    #[test]
    fn test_name_that_is_a_sentence_is_red() {
        for name in
            ["who_holds_a_slot_is_shown", "nobody_is_let_in", "a_run_goes_on_after_a_crash", "status_tells_the_reason"]
        {
            for mark in ["#[test]", "#[tokio::test(start_paused = true)]\n    async", "#[test]\n    #[ignore]"] {
                let text = format!("mod tests {{\n    {mark}\n    fn {name}() {{\n    }}\n}}\n")
                    .replace("async\n    fn", "async fn");
                assert_eq!(seeded("test-name", &[("git/src/x.rs", &text)]), 1, "{text}");
            }
        }
        assert_eq!(seeded("test-name", &[("git/src/x.rs", "#[test]\nfn whole_file_is_read() {}\nfn who() {}")]), 0);
    }
}
