//! `towpath validate`: reports all mistakes of a state repository, without a node.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use towpath_render::{
    document::{At, Mode, check_message},
    objects::{ObjectSet, UntrustedUse, untrusted_uses},
    problem::{Finding, Problem},
};

use crate::{
    cli::{
        author::secrets,
        exit::{self, Failure},
        output::{self, Output},
        working_tree,
    },
    node::bad_sources,
};

/// Reports all mistakes of a state repository.
#[derive(Debug, Args)]
pub(in crate::cli) struct Validate {
    /// The folders to check; each folder is a working tree of the first source
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// The working tree of an additional source
    #[arg(long = "source", value_name = "NAME=DIR")]
    sources: Vec<String>,
    #[command(flatten)]
    output: Output,
}

impl Validate {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let (mut objects, mut errors, mut warnings, mut notes) = (0, Vec::new(), Vec::new(), Vec::new());
        for folder in &self.folders {
            let loaded = working_tree::load_folders("first", folder, &self.sources)?;
            objects += loaded.set.objects.len();
            let prefix = |problem: Problem| {
                if self.folders.len() > 1 {
                    Problem { file: format!("{}/{}", folder.display(), problem.file), ..problem }
                } else {
                    problem
                }
            };
            let is_valid = loaded.errors.is_empty();
            errors.extend(loaded.errors.into_iter().map(prefix));
            warnings.extend(loaded.warnings.into_iter().map(prefix));
            errors.extend(module_problems(&loaded.set).into_iter().map(prefix));
            errors.extend(bad_sources(&loaded.set).into_iter().map(prefix));
            let (careless, wrong): (Vec<_>, Vec<_>) =
                secrets::problems(&loaded.set, is_valid).into_iter().partition(|problem| problem.warning);
            errors.extend(wrong.into_iter().map(prefix));
            warnings.extend(careless.into_iter().map(prefix));
            notes.extend(untrusted(&loaded.set).into_iter().map(prefix));
            for wanted in loaded.missing_inputs {
                output::progress(&format!(
                    "not checked: the include {}@{}",
                    towpath_git::display_url(&wanted.url),
                    wanted.commit.chars().take(12).collect::<String>()
                ));
            }
        }
        errors.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
        errors.dedup();
        let document = json!({ "objects": objects, "errors": errors, "warnings": warnings, "notes": notes });
        output::print(self.output.output, &document, || text(objects, &errors, &warnings, &notes))?;
        Ok(if errors.is_empty() { 0 } else { exit::INVALID })
    }
}

/// Returns a note for each parameter that contains permitted untrusted data.
fn untrusted(set: &ObjectSet) -> Vec<Problem> {
    let uses = untrusted_uses(set).into_iter().filter(|found| found.allowed);
    let note = |found: UntrustedUse| {
        let message = format!("{} holds untrusted data: {}", found.parameter, found.origin);
        found.place.problem(Finding::new(message), At::Value)
    };
    uses.map(note).collect()
}

/// Checks the parameters that contain no templates, and returns the problems that modules find.
fn module_problems(set: &ObjectSet) -> Vec<Problem> {
    let mut problems = Vec::new();
    for book in set.books.values() {
        let lists = [&book.tasks, &book.handlers, &book.rollout.before, &book.rollout.after];
        for task in lists.into_iter().flatten() {
            let Some(module) = &task.module else { continue };
            let text = module.params.to_string();
            if text.contains("{{") || text.contains("{%") {
                continue;
            }
            // Violations of the schema are reported elsewhere.
            let checked = check_message(module.schema.message, &module.params, Mode::Written);
            if !checked.findings.is_empty() {
                continue;
            }
            let Err(found) = towpath_modules::resolve(module.name, &module.params) else { continue };
            for problem in found {
                let place = task.place.key(module.name);
                let place = if problem.key.is_empty() { place } else { place.key(&problem.key) };
                let finding = Finding { message: problem.message, hint: problem.hint };
                problems.push(place.problem(finding, At::Value));
            }
        }
    }
    problems
}

fn text(objects: usize, errors: &[Problem], warnings: &[Problem], notes: &[Problem]) -> String {
    let mut text = String::new();
    for note in notes {
        text.push_str(&format!("{}:{}:{}: note: {}\n", note.file, note.line, note.column, note.message));
    }
    for problem in errors.iter().chain(warnings) {
        text.push_str(&format!("{problem}\n"));
    }
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    text.push_str(&format!(
        "{}, {}, {}\n",
        plural(objects, "object"),
        plural(errors.len(), "error"),
        plural(warnings.len(), "warning")
    ));
    text
}
