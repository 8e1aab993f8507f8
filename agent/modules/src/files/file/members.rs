//! Checks a tree. A tree is a folder of the source that the agent copies to the node. The agent does not remove files
//! in the target folder that the source does not contain.
//!
//! On the node, the agent follows links in the path of the target folder, but not links below the target folder. If
//! another kind of object, such as a folder, is at the path of a file, the agent first removes the object. The agent
//! removes only objects that Towpath has created, and the task fails for any other object.

use std::{collections::BTreeSet, sync::Arc};

use towpath_host::{FileKind, FsReader, files::Access};
use towpath_render::tree::{Entry, EntryKind, Tree};

use super::{
    single::{io, link, new_file, new_link, one_file, refuse_pointer},
    spec::FileSpec,
};
use crate::{Change, Checked, Content, Context, ModuleError, Step, Verb};

pub(super) fn check(
    spec: &FileSpec,
    tree: &Arc<dyn Tree>,
    folder: &str,
    context: &Context<'_>,
) -> Result<Checked, ModuleError> {
    let base = spec.path.trim_end_matches('/');
    let reader = context.reader.plain_below(base);
    let mut members = Members {
        base,
        single: FileSpec { validate: None, ..spec.clone() },
        reader: &reader,
        context,
        there: BTreeSet::new(),
        removed: BTreeSet::new(),
        made: BTreeSet::new(),
        change: Change { verb: Verb::Create, diff: String::new(), steps: Vec::new() },
    };
    for entry in tree.list(folder).map_err(io(folder))? {
        members.take(tree, folder, &entry)?;
    }
    let mut change = members.change;
    if change.steps.is_empty() {
        return Ok(Checked::InSync);
    }
    let within = |step| Step::Within { folder: base.to_owned(), step: Box::new(step) };
    change.steps = change.steps.into_iter().map(within).collect();
    Ok(Checked::Change(change))
}

struct Members<'a> {
    base: &'a str,
    single: FileSpec,
    reader: &'a FsReader,
    context: &'a Context<'a>,
    /// The folders of the tree that already exist on the node.
    there: BTreeSet<String>,
    /// The paths that the change removes, because the node and the tree have different kinds of file at the path.
    removed: BTreeSet<String>,
    /// The folders of the tree that the change creates.
    made: BTreeSet<String>,
    change: Change,
}

impl Members<'_> {
    fn take(&mut self, tree: &Arc<dyn Tree>, folder: &str, entry: &Entry) -> Result<(), ModuleError> {
        let below = entry.path.strip_prefix(folder).unwrap_or(&entry.path).trim_start_matches('/');
        let path = format!("{}/{below}", self.base);
        let checked = match entry.kind {
            EntryKind::File | EntryKind::Executable => {
                refuse_pointer(tree, &entry.path)?;
                let default = (entry.kind == EntryKind::Executable).then_some(0o755);
                let content = Content::Source(Arc::clone(tree), entry.path.clone());
                let found = if self.is_new(&path)? {
                    None
                } else {
                    let found = one_file(&self.single, &path, Some(content.clone()), self.reader, default);
                    self.or_removed(&path, "a file", found)?
                };
                found.map_or_else(|| new_file(&self.single, &path, content, default, self.way(&path)), Ok)?
            }
            EntryKind::Link => {
                let target = tree.read(&entry.path).map_err(io(&entry.path))?.unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                let found = if self.is_new(&path)? {
                    None
                } else {
                    let found = link(&path, &target, self.reader, self.context);
                    self.or_removed(&path, "a link", found)?
                };
                found.unwrap_or_else(|| new_link(&path, &target, self.way(&path)))
            }
            EntryKind::Folder => return Ok(()),
            EntryKind::Submodule => {
                return Err(ModuleError::new(format!(
                    "cannot copy the git submodule {}; add its repository as a source",
                    entry.path
                )));
            }
        };
        self.add(checked);
        Ok(())
    }

    fn add(&mut self, checked: Checked) {
        let Checked::Change(change) = checked else { return };
        if change.verb != Verb::Create {
            self.change.verb = change.verb;
        }
        self.change.diff.push_str(&change.diff);
        for step in change.steps {
            if !matches!(&step, Step::MakeDirectory { path, .. } if !self.made.insert(path.clone())) {
                self.change.steps.push(step);
            }
        }
    }

    /// Returns the step that creates the folder of a new file in the tree. Returns an empty list of steps if the folder
    /// exists.
    fn way(&self, path: &str) -> Vec<Step> {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if self.there.contains(folder) {
            return Vec::new();
        }
        let access = Access { mode: 0o755, uid: None, gid: None };
        vec![Step::MakeDirectory { path: folder.to_owned(), access }]
    }

    /// Returns true if the folder of a file in the tree does not exist on the node yet. If a file is at the path of the
    /// folder, the function adds a step that removes the file.
    fn is_new(&mut self, path: &str) -> Result<bool, ModuleError> {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at >= self.base.len()) {
            let folder = &path[..at];
            if self.there.contains(folder) {
                continue;
            }
            if self.removed.contains(folder) {
                return Ok(true);
            }
            // The top folder of the tree may be a link.
            let place = if at == self.base.len() { format!("{folder}/.") } else { folder.to_owned() };
            let Some(meta) = self.reader.meta(&place).map_err(io(folder))? else { return Ok(true) };
            if meta.kind != FileKind::Directory {
                self.remove(folder, "a folder")?;
                return Ok(true);
            }
            self.there.insert(folder.to_owned());
        }
        Ok(false)
    }

    /// Returns the result of the check of one path in the tree. Returns `None` if the node has another kind of file at
    /// the path. In this case, a step removes the file.
    fn or_removed(
        &mut self,
        path: &str,
        wanted: &str,
        found: Result<Checked, ModuleError>,
    ) -> Result<Option<Checked>, ModuleError> {
        let error = match found {
            Ok(found) => return Ok(Some(found)),
            Err(error) => error,
        };
        let kind = self.reader.meta(path).map_err(io(path))?.map(|meta| meta.kind);
        if !matches!(kind, Some(FileKind::Link | FileKind::Directory)) {
            return Err(error);
        }
        self.remove(path, wanted)?;
        Ok(None)
    }

    /// Adds a step that removes the old file or folder at a path. Returns an error if Towpath did not create the old
    /// file or folder.
    fn remove(&mut self, path: &str, wanted: &str) -> Result<(), ModuleError> {
        let target = self.reader.link(path).map_err(io(path))?;
        let found = match (&target, self.is_folder(path)?) {
            (Some(target), _) => format!("a link to {target}"),
            (None, true) => "a folder".to_owned(),
            (None, false) => "a file".to_owned(),
        };
        if let Some(foreign) = self.foreign(path, 0)? {
            return Err(ModuleError::new(format!(
                "cannot create {wanted} at {path}: {found} exists, and Towpath did not create {foreign}; \
                 remove {foreign}, or remove {path} from the source"
            )));
        }
        self.removed.insert(path.to_owned());
        self.change.verb = Verb::Update;
        self.change.diff.push_str(&format!("{path}: {found} becomes {wanted}\n"));
        self.change.steps.push(Step::Remove { path: path.to_owned() });
        Ok(())
    }

    fn is_folder(&self, path: &str) -> Result<bool, ModuleError> {
        Ok(self.reader.meta(path).map_err(io(path))?.is_some_and(|meta| meta.kind == FileKind::Directory))
    }

    /// Searches a path, and all paths below that path. Returns the first path that Towpath did not create.
    fn foreign(&self, path: &str, depth: usize) -> Result<Option<String>, ModuleError> {
        if !self.is_folder(path)? {
            let real = self.reader.resolved(path, false).map_err(io(path))?;
            return Ok((!self.context.cache.has_made(&real)).then(|| path.to_owned()));
        }
        if depth > 64 {
            return Ok(Some(path.to_owned()));
        }
        for name in self.reader.list(path).map_err(io(path))? {
            let foreign = self.foreign(&format!("{path}/{name}"), depth + 1)?;
            if foreign.is_some() {
                return Ok(foreign);
            }
        }
        Ok(None)
    }
}
