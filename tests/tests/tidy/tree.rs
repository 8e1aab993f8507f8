//! The files that the rules look at, and what is a test among their lines.

use std::{fs, path::Path};

/// A file of the project: its path below the root, and its text.
#[derive(Debug, Clone)]
pub struct Source {
    /// The path below the root, with slashes.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// A violation of a rule, or a figure that a rule limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name in `allowed.txt`.
    pub rule: &'static str,
    /// A file, folder or type.
    pub subject: String,
    /// The measured size of the violation: a number of fields, files, lines or words.
    pub figure: usize,
    /// The reason, for the reader of a red test.
    pub detail: String,
}

impl Finding {
    /// A violation of the given size.
    pub fn new(rule: &'static str, subject: impl Into<String>, figure: usize, detail: impl Into<String>) -> Self {
        Self { rule, subject: subject.into(), figure, detail: detail.into() }
    }
}

/// The folders with sources.
const FOLDERS: [&str; 5] = ["proto", "git", "render", "agent", "tests"];

/// Returns all sources, protocol definitions and manifests below a root, in the order of their paths.
pub fn read(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(root, &root.join(folder), &mut found);
    }
    for file in ["ARCHITECTURE.md", "Cargo.toml"] {
        found.push(Source { path: file.into(), text: fs::read_to_string(root.join(file)).unwrap() });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(root, &path, found);
            }
        } else if name.ends_with(".rs") || name.ends_with(".proto") || name == "Cargo.toml" {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source { path: path.strip_prefix(root).unwrap().display().to_string(), text });
        }
    }
}

impl Source {
    /// Returns whether the file holds Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Returns whether the file is a source of a crate that is shipped.
    pub fn is_shipped(&self) -> bool {
        self.is_rust() && self.path.contains("src/") && !self.path.starts_with("tests/")
    }

    /// Returns the folder of the file.
    pub fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Returns the lines with their numbers, and whether each belongs to a test module of the file.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut end: Option<String> = None;
        let mut test = false;
        self.text.lines().enumerate().map(move |(number, line)| {
            let indent = &line[..line.len() - line.trim_start().len()];
            let mut inside = test || end.is_some();
            if let Some(wanted) = &end {
                if line == wanted {
                    end = None;
                }
            } else if line.trim() == "#[cfg(test)]" {
                test = true;
                inside = true;
            } else if test && !line.trim_start().starts_with("#[") {
                test = false;
                if !line.trim_end().ends_with(['}', ';', ',']) {
                    end = Some(format!("{indent}}}"));
                }
            }
            (number + 1, line, inside)
        })
    }

    /// Returns the lines of code that are not comments and not in a test module.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .filter(|(_, line, test)| !test && !line.trim_start().starts_with("//"))
            .map(|(number, line, _)| (number, line))
    }

    /// Returns the modules in other files that this file declares for tests alone.
    pub fn test_modules(&self) -> Vec<String> {
        let declared = self.lines().filter(|(_, line, test)| *test && line.ends_with(';') && !line.starts_with(' '));
        declared.filter_map(|(_, line, _)| Some(line.split_once("mod ")?.1.trim_end_matches(';').to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_test_module_are_distinguished() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n";
        let source = Source { path: "git/src/x.rs".into(), text: text.into() };
        let kept: Vec<usize> = source.lines().filter(|(_, _, test)| !test).map(|(number, ..)| number).collect();
        assert_eq!(kept, [1, 7, 10]);
        assert_eq!(source.test_modules(), ["d"]);
    }
}
