//! Sizes of files and folders, names of files, and how much of the code is tests.

use std::collections::BTreeMap;

use crate::{
    syntax::facts::test_files,
    tree::{Finding, Source},
};

/// The most lines of a file.
const LINES: usize = 650;
/// The most files of a folder.
const FILES: usize = 10;
/// Names without a meaning.
const NAMES: [&str; 8] = ["util", "utils", "common", "helper", "helpers", "types", "misc", "shared"];
/// The longest line that may hold an escaped document.
const COLUMNS: usize = 160;

/// Returns files that are too long, folders with too many files, and files with a name without a meaning.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.text.lines().count();
        if lines > LINES {
            found.push(Finding::new("lines", &source.path, lines, "divide the file"));
        }
        let named = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        let nameless = |name: &str| NAMES.contains(&name);
        if nameless(named) || named == "mod" && source.folder().rsplit('/').next().is_some_and(nameless) {
            found.push(Finding::new("name", &source.path, 1, "the name has no meaning"));
        }
        if source.folder() != "tests/tests" {
            *folders.entry(source.folder()).or_default() += 1;
        }
    }
    for (folder, files) in folders.into_iter().filter(|(_, files)| *files > FILES) {
        found.push(Finding::new("folder", folder, files, "divide the folder by subject"));
    }
    found
}

/// Returns the long lines of tests that hold a document with escaped line ends: unreadable, and no diff shows a change.
pub fn escaped_documents(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust() && source.path.starts_with("tests/")) {
        for (number, line) in source.text.lines().enumerate() {
            if line.chars().count() > COLUMNS
                && line.match_indices("\\n").any(|(at, _)| begins_with_key(&line[at + 2..]))
            {
                found.push(format!("{}:{}", source.path, number + 1));
            }
        }
    }
    found
}

fn begins_with_key(text: &str) -> bool {
    let text = text.trim_start();
    let text = text.strip_prefix("- ").unwrap_or(text);
    let end = text.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(text.len());
    end > 0 && text[end..].starts_with(':')
}

/// Returns the number of lines of shipped code and of tests, blank lines and comments aside. Lines of tests are those of
/// test modules, of files that only tests use, and of the tests crate without its benches.
pub fn code_and_tests(sources: &[Source]) -> (usize, usize) {
    let tests = test_files(sources);
    let (mut code, mut test) = (0, 0);
    for source in sources.iter().filter(|source| source.is_rust() && !source.path.starts_with("tests/benches/")) {
        let whole = source.path.starts_with("tests/") || tests.contains(source.path.as_str());
        for (_, line, inside) in source.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            *(if whole || inside { &mut test } else { &mut code }) += 1;
        }
    }
    (code, test)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{check_seeded as seeded, seeded_figure as figure};

    #[test]
    fn long_file_is_red() {
        let text = |lines: usize| "\n".repeat(lines);
        for path in ["agent/src/cli/x.rs", "tests/tests/x.rs", "git/src/tests.rs"] {
            assert_eq!(figure("lines", &[(path, &text(LINES + 1))], path), Some(LINES + 1));
            assert_eq!(seeded("lines", &[(path, &text(LINES))]), 0);
        }
    }

    #[test]
    fn full_folder_is_red() {
        let files = |folder: &str, number: usize| -> Vec<(String, &str)> {
            let file = |file: usize| if file == 0 { "lib".to_owned() } else { format!("f{file}") };
            (0..number).map(|number| (format!("{folder}/{}.rs", file(number)), "")).collect()
        };
        for (folder, number, red) in
            [("git/src", 11, true), ("git/src", 10, false), ("tests/src", 11, true), ("tests/tests", 50, false)]
        {
            let files = files(folder, number);
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            assert_eq!(seeded("folder", &files) > 0, red, "{folder} {number}");
        }
    }

    #[test]
    fn meaningless_name_is_red() {
        for path in ["agent/src/cli/util.rs", "git/src/types.rs", "tests/src/common/mod.rs", "tests/tests/helpers.rs"] {
            assert_eq!(seeded("name", &[(path, "")]), 1, "{path}");
        }
        assert_eq!(seeded("name", &[("agent/src/cli/utility_bill.rs", ""), ("git/src/mod.rs", "")]), 0);
    }

    #[test]
    fn long_line_with_an_escaped_document_is_counted() {
        let long = "x".repeat(COLUMNS);
        for (path, line, red) in [
            ("tests/tests/x.rs", format!("\"{long}kind: A\\nspec: {{}}\""), 1),
            ("tests/src/x.rs", format!("\"{long}:\\n  - name: x\""), 1),
            ("tests/src/x.rs", format!("\"{long}\\nword and: x\""), 0),
            ("tests/src/x.rs", "\"kind: A\\nspec: {{}}\"".to_owned(), 0),
            ("git/src/x.rs", format!("\"{long}kind: A\\nspec: {{}}\""), 0),
        ] {
            let source = Source { path: path.into(), text: line.clone() };
            assert_eq!(escaped_documents(&[source]).len(), red, "{path}: {line}");
        }
    }

    #[test]
    fn lines_of_code_and_tests_are_counted() {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let files = [
            source(
                "git/src/lib.rs",
                "//! Doc.\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(test)]\nmod more;\n",
            ),
            source("git/src/more.rs", "fn c() {}\n"),
            source("tests/tests/x.rs", "fn d() {}\n"),
            source("tests/benches/x.rs", "fn e() {}\n"),
        ];
        assert_eq!(code_and_tests(&files), (1, 8));
    }
}
