//! The sources that the loader reads, and the rules for the names, sizes and contents of their files.

use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{
    document::{Limits, SourceFile, lines, problem_at},
    problem::{Finding, Problem},
    tree::{Entry, EntryKind, Tree},
};

/// A source to load: its files, and the kinds of objects that the source may define.
#[derive(Debug, Clone)]
pub struct SourceTree {
    /// The name of the source.
    pub name: String,
    /// The files of the source.
    pub tree: Arc<dyn Tree>,
    /// True if the source is a library: a source without objects, with files for includes and templates.
    pub library: bool,
    /// True if the source may define objects of global kinds, such as Namespaces. The first source may always define
    /// objects of global kinds.
    pub globals: bool,
}

/// The URL of a git repository and the id of a commit, both from an include or a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pinned {
    /// The URL of the repository.
    pub url: String,
    /// The full id of the commit.
    pub commit: String,
}

/// The patterns in the file `.towpathignore` of a source, which exclude files from loading.
pub(super) struct Ignored(Gitignore);

impl Ignored {
    /// Reads the file `.towpathignore` of a source. Returns an error for each invalid pattern.
    pub(super) fn read(source: &SourceTree) -> (Self, Vec<Problem>) {
        let mut builder = GitignoreBuilder::new("");
        let mut problems = Vec::new();
        if let Ok(Some(bytes)) = source.tree.read(".towpathignore") {
            for (number, line) in lines(&String::from_utf8_lossy(&bytes)).enumerate() {
                if let Err(error) = builder.add_line(None, line) {
                    let file = SourceFile::new(source.name.as_str(), ".towpathignore", String::from_utf8_lossy(&bytes));
                    problems.push(problem_at(&file, number + 1, 1, Finding::new(error.to_string())));
                }
            }
        }
        (Self(builder.build().unwrap_or_else(|_| Gitignore::empty())), problems)
    }

    /// Returns true if a pattern excludes a file.
    pub(super) fn covers(&self, path: &str) -> bool {
        self.0.matched_path_or_any_parents(path, false).is_ignore()
    }
}

/// Returns true if the path of a file shows that the file may contain objects.
pub(super) fn has_objects(path: &str) -> bool {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let special = |folder: &str| matches!(folder, "files" | "templates" | "tasks") || folder.starts_with('.');
    (name.ends_with(".yaml") || name.ends_with(".yml")) && !name.starts_with('.') && !folders.split('/').any(special)
}

/// Returns the forbidden files and links of a source, each with the reason.
pub(super) fn refused(entries: &[Entry]) -> impl Iterator<Item = (&Entry, Finding)> {
    entries.iter().flat_map(|entry| {
        let control = entry.path.contains(|character: char| character.is_control()).then(|| {
            Finding::new(format!("the path {:?} has a control character", entry.path)).hint("rename the file")
        });
        let submodule = (entry.kind == EntryKind::Submodule).then(|| {
            Finding::new("git submodules are not followed").hint("make the other repository a source of its own")
        });
        control.into_iter().chain(submodule).map(move |finding| (entry, finding))
    })
}

/// Reads a file that contains objects. A link, a file above the size limit, or a Git LFS pointer is an error.
pub(super) fn read(source: &SourceTree, entry: &Entry, limits: Limits) -> Result<Vec<u8>, Finding> {
    if entry.kind == EntryKind::Link {
        return Err(Finding::new("an object file is a symbolic link")
            .hint("replace the link by a file: links in a source are not followed"));
    }
    if let Some(size) = entry.size.filter(|size| *size > limits.bytes as u64) {
        let message = format!("the file has {size} bytes, and at most {} are read", limits.bytes);
        return Err(Finding::new(message).hint("split it, or keep large content below a folder named files"));
    }
    let bytes = match source.tree.read(&entry.path) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error) => return Err(Finding::new(format!("cannot read the file: {error}"))),
    };
    large_file_pointer(&bytes).map_or(Ok(bytes), Err)
}

/// Returns the error for a file that is a Git LFS pointer, or `None` for any other file.
fn large_file_pointer(bytes: &[u8]) -> Option<Finding> {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/").then(|| {
        Finding::new("the file is kept in Git LFS, which is not followed")
            .hint("commit the file itself, or let a task fetch it")
    })
}
