//! `file`: a file, a directory, a tree of files, or a symbolic link.

mod members;

use std::sync::Arc;

use serde_json::Value;
use towpath_host::{FileKind, Look, Meta, diff, files::Access, keyed_digest, process};
use towpath_proto::v1alpha as pb;
use towpath_render::tree::{self, EntryKind, Tree};

use crate::{
    Change, Checked, Content, Context, Expectation, ModuleError, Step, Verb,
    expectation::Expected,
    resolve::{Problem, managed_path, mode},
};

/// The desired state of a path.
#[derive(Debug, Clone)]
pub struct Options {
    path: String,
    want: Want,
    mode: Option<u32>,
    owner: Option<String>,
    group: Option<String>,
    validate: Option<String>,
    backup: bool,
}

#[derive(Debug, Clone)]
enum Want {
    Content(Arc<[u8]>),
    /// A file with any content.
    Any,
    Source(String),
    Link(String),
    Directory,
    Absent,
}

pub(crate) fn resolve(file: &pb::File, params: &Value) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = file.path.clone().unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let origins: Vec<&str> = ["content", "template", "source", "linkTo"]
        .into_iter()
        .filter(|key| params.get(*key).is_some_and(|value| !value.is_null()))
        .collect();
    if let [first, second, ..] = origins.as_slice() {
        problems
            .push(Problem::new(second, format!("{first} and {second} exclude each other")).hint("keep one of them"));
    }
    let state = file.state.as_deref().unwrap_or("present");
    if let (Some(origin), "directory" | "absent") = (origins.first(), state) {
        problems.push(Problem::new(origin, format!("{origin} does not go with state: {state}")));
    }
    if state == "absent" {
        for (key, given) in [
            ("mode", file.mode.is_some()),
            ("owner", file.owner.is_some()),
            ("group", file.group.is_some()),
            ("validate", file.validate.is_some()),
        ] {
            if given {
                problems.push(Problem::new(key, format!("{key} does not go with state: absent")));
            }
        }
    }
    if file.link_to.is_some() && file.mode.is_some() {
        problems.push(Problem::new("mode", "a link has no mode of its own"));
    }
    if file.validate.as_ref().is_some_and(|line| line.trim().is_empty()) {
        problems.push(Problem::new("validate", "the command is empty"));
    }
    let want = match (state, &file.content, &file.source, &file.link_to) {
        ("absent", ..) => Want::Absent,
        ("directory", ..) => Want::Directory,
        (_, Some(content), _, _) => Want::Content(content.as_bytes().into()),
        (_, _, Some(source), _) => Want::Source(source.clone()),
        (_, _, _, Some(target)) => Want::Link(target.clone()),
        _ => Want::Any,
    };
    let mode = mode("mode", file.mode.as_deref(), &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Options {
        path,
        want,
        mode,
        owner: file.owner.clone(),
        group: file.group.clone(),
        validate: file.validate.clone(),
        backup: file.backup.unwrap_or(false),
    })
}

impl Options {
    pub(crate) fn has_source(&self) -> bool {
        matches!(self.want, Want::Source(_))
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn ids(&self) -> Result<(Option<u32>, Option<u32>), ModuleError> {
        ids(self.owner.as_deref(), self.group.as_deref())
    }
}

/// Returns the numeric ids of an owner and a group, if they are given.
pub(crate) fn ids(owner: Option<&str>, group: Option<&str>) -> Result<(Option<u32>, Option<u32>), ModuleError> {
    let missing = |what: &str, name: &str| ModuleError::new(format!("there is no {what} {name:?} on this node"));
    let uid = owner.map(|name| process::user(name).ok_or_else(|| missing("user", name))).transpose()?;
    let gid = group.map(|name| process::group(name).ok_or_else(|| missing("group", name))).transpose()?;
    Ok((uid.map(|ids| ids.0), gid))
}

pub(crate) fn manages(options: &Options, context: &Context<'_>) -> Vec<String> {
    if let (Want::Source(source), Some((tree, folder))) = (&options.want, &context.source)
        && let Ok(path) = tree::join(folder, source)
        && let Ok(Some(entry)) = tree.entry(&path)
        && entry.kind == EntryKind::Folder
    {
        let base = options.path.trim_end_matches('/');
        let files = tree.list(&path).unwrap_or_default().into_iter().filter(|entry| entry.kind != EntryKind::Folder);
        return files
            .map(|entry| {
                format!("{base}/{}", entry.path.strip_prefix(&path).unwrap_or(&entry.path).trim_start_matches('/'))
            })
            .collect();
    }
    if matches!(options.want, Want::Absent) { Vec::new() } else { vec![options.path.trim_end_matches('/').to_owned()] }
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let path = options.path.as_str();
    match &options.want {
        Want::Absent => absent(path, context.look),
        Want::Link(target) => link(path, target, context.look),
        Want::Directory => directory(options, path, context.look),
        Want::Content(bytes) => one_file(options, path, Some(Content::Bytes(Arc::clone(bytes))), context.look, None),
        Want::Any => one_file(options, path, None, context.look, None),
        Want::Source(source) => from_source(options, source, context),
    }
}

/// Returns the state that [`check`] accepts as in sync, as data. `None` if only a full check can decide.
pub(crate) fn expectations(options: &Options, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
    let one = |path: &str, what: Expected, mode: Option<u32>| Expectation {
        path: path.to_owned(),
        plain_below: None,
        what,
        mode,
        owner: options.owner.clone(),
        group: options.group.clone(),
    };
    // The check ignores the owner and mode of a link, and of a missing path.
    let bare = |path: &str, what: Expected| Expectation {
        path: path.to_owned(),
        plain_below: None,
        what,
        mode: None,
        owner: None,
        group: None,
    };
    let content = |bytes: &[u8]| Expected::Content(keyed_digest(key, bytes));
    let path = options.path.as_str();
    let of_entry = |tree: &Arc<dyn Tree>, entry: &tree::Entry, path: &str| -> Option<Expectation> {
        let bytes = tree.read(&entry.path).ok()??;
        match entry.kind {
            EntryKind::File => Some(one(path, content(&bytes), options.mode)),
            EntryKind::Executable => Some(one(path, content(&bytes), options.mode.or(Some(0o755)))),
            EntryKind::Link => Some(bare(path, Expected::Link(String::from_utf8_lossy(&bytes).into_owned()))),
            EntryKind::Folder | EntryKind::Submodule => None,
        }
    };
    match &options.want {
        Want::Absent => Some(vec![bare(path, Expected::Absent)]),
        Want::Link(target) => Some(vec![bare(path, Expected::Link(target.clone()))]),
        Want::Directory => Some(vec![one(path, Expected::Directory, options.mode)]),
        Want::Content(bytes) => Some(vec![one(path, content(bytes), options.mode)]),
        Want::Any => Some(vec![one(path, Expected::Any, options.mode)]),
        Want::Source(source) => {
            let (tree, folder) = context.source.as_ref()?;
            let from = tree::join(folder, source).ok()?;
            let entry = tree.entry(&from).ok()??;
            if entry.kind != EntryKind::Folder {
                return Some(vec![of_entry(tree, &entry, path)?]);
            }
            let base = path.trim_end_matches('/');
            let files = tree.list(&from).ok()?.into_iter().filter(|entry| entry.kind != EntryKind::Folder);
            files
                .map(|entry| {
                    let below = entry.path.strip_prefix(&from).unwrap_or(&entry.path).trim_start_matches('/');
                    let expected = of_entry(tree, &entry, &format!("{base}/{below}"))?;
                    Some(Expectation { plain_below: Some(base.to_owned()), ..expected })
                })
                .collect()
        }
    }
}

fn io(path: &str) -> impl Fn(std::io::Error) -> ModuleError + '_ {
    move |error| ModuleError::io(path, &error)
}

fn absent(path: &str, look: &Look) -> Result<Checked, ModuleError> {
    let Some(meta) = look.meta(path).map_err(io(path))? else { return Ok(Checked::InSync) };
    let diff = match meta.kind {
        FileKind::File if meta.size <= 1 << 20 => look
            .read(path)
            .ok()
            .flatten()
            .map_or_else(|| format!("remove {path}"), |(bytes, _)| diff::unified(path, &bytes, b"")),
        FileKind::Directory => format!("remove the directory {path} and all that is in it"),
        _ => format!("remove {path}"),
    };
    Ok(Checked::Change(Change { verb: Verb::Remove, diff, steps: vec![Step::Remove { path: path.to_owned() }] }))
}

fn link(path: &str, target: &str, look: &Look) -> Result<Checked, ModuleError> {
    let old = look.link(path).map_err(io(path))?;
    if old.as_deref() == Some(target) {
        return Ok(Checked::InSync);
    }
    let meta = look.meta(path).map_err(io(path))?;
    if meta.is_some_and(|meta| meta.kind == FileKind::Directory) {
        return Err(ModuleError::new(format!(
            "{path} is a directory, and a link was to be there; remove it first with state: absent"
        )));
    }
    if meta.is_none() {
        return Ok(new_link(path, target, parents(path, look)?));
    }
    let diff = match old {
        Some(old) => format!("{path} -> {old}\nbecomes {path} -> {target}"),
        None => format!("{path} -> {target}"),
    };
    let steps = vec![Step::Link { path: path.to_owned(), target: target.to_owned() }];
    Ok(Checked::Change(Change { verb: Verb::Update, diff, steps }))
}

/// Returns the change that creates a link after the given steps.
fn new_link(path: &str, target: &str, mut steps: Vec<Step>) -> Checked {
    steps.push(Step::Link { path: path.to_owned(), target: target.to_owned() });
    Checked::Change(Change { verb: Verb::Create, diff: format!("{path} -> {target}"), steps })
}

fn directory(options: &Options, path: &str, look: &Look) -> Result<Checked, ModuleError> {
    let (uid, gid) = options.ids()?;
    // A link to a directory counts as a directory, as for programs that open it.
    let meta = look.meta(path).map_err(io(path))?;
    match meta {
        None => {
            let access = Access { mode: options.mode.unwrap_or(0o755), uid, gid };
            Ok(Checked::Change(Change {
                verb: Verb::Create,
                diff: format!("make the directory {path} with mode {:04o}", access.mode),
                steps: vec![Step::MakeDirectory { path: path.to_owned(), access }],
            }))
        }
        Some(meta) if meta.kind == FileKind::Link && look.exists(&format!("{path}/.")).unwrap_or(false) => {
            Ok(Checked::InSync)
        }
        Some(meta) if meta.kind == FileKind::Directory => Ok(granted(path, meta, options.mode, uid, gid)),
        Some(_) => Err(ModuleError::new(format!("{path} is no directory; remove it first with state: absent"))),
    }
}

/// Compares permissions and owner with the desired ones.
fn granted(path: &str, meta: Meta, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Checked {
    let diff = access_diff(path, meta, mode, uid, gid);
    if diff.is_empty() {
        return Checked::InSync;
    }
    let access = Access { mode: mode.unwrap_or(meta.mode), uid, gid };
    Checked::Change(Change {
        verb: Verb::Update,
        diff,
        steps: vec![Step::Grant { path: path.to_owned(), access, expects: meta.version }],
    })
}

/// Returns the change of permissions and owner, for people. Empty if there is none.
pub(crate) fn access_diff(path: &str, meta: Meta, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> String {
    let mut diff = String::new();
    if let Some(mode) = mode.filter(|mode| *mode != meta.mode) {
        diff.push_str(&format!("{path}: mode {:04o} becomes {mode:04o}\n", meta.mode));
    }
    if let Some(uid) = uid.filter(|uid| *uid != meta.uid) {
        diff.push_str(&format!("{path}: owner {} becomes {uid}\n", meta.uid));
    }
    if let Some(gid) = gid.filter(|gid| *gid != meta.gid) {
        diff.push_str(&format!("{path}: group {} becomes {gid}\n", meta.gid));
    }
    diff
}

/// Returns the step that creates the missing directories above a path.
pub(crate) fn parents(path: &str, look: &Look) -> Result<Vec<Step>, ModuleError> {
    let Some((folder, _)) = path.trim_end_matches('/').rsplit_once('/') else { return Ok(Vec::new()) };
    if folder.is_empty() || look.exists(folder).map_err(io(folder))? {
        return Ok(Vec::new());
    }
    let access = Access { mode: 0o755, uid: None, gid: None };
    Ok(vec![Step::MakeDirectory { path: folder.to_owned(), access }])
}

fn one_file(
    options: &Options,
    path: &str,
    content: Option<Content>,
    look: &Look,
    default_mode: Option<u32>,
) -> Result<Checked, ModuleError> {
    let (uid, gid) = options.ids()?;
    let read = look.read(path);
    let old = match read {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            return Err(ModuleError::new(format!(
                "{path} is no file, and a file was to be there; remove it first with state: absent"
            )));
        }
        Err(error) => return Err(ModuleError::io(path, &error)),
    };
    let mode = options.mode.or(default_mode);
    let Some((old_bytes, meta)) = old else {
        let content = content.unwrap_or_else(|| Content::Bytes(Arc::from(Vec::new())));
        return new_file(options, path, content, default_mode, parents(path, look)?);
    };
    let Some(content) = content else { return Ok(granted(path, meta, mode, uid, gid)) };
    let new_bytes = content.bytes()?;
    if *new_bytes == *old_bytes {
        return Ok(granted(path, meta, mode, uid, gid));
    }
    let mut diff = diff::unified(path, &old_bytes, &new_bytes);
    diff.push_str(&access_diff(path, meta, mode, uid, gid));
    let access = Access {
        mode: mode.unwrap_or(meta.mode),
        uid: Some(uid.unwrap_or(meta.uid)),
        gid: Some(gid.unwrap_or(meta.gid)),
    };
    Ok(Checked::Change(Change {
        verb: Verb::Update,
        diff,
        steps: vec![write(options, path, content, access, Some(meta))],
    }))
}

/// Returns the change that creates a file after the given steps.
fn new_file(
    options: &Options,
    path: &str,
    content: Content,
    default_mode: Option<u32>,
    mut steps: Vec<Step>,
) -> Result<Checked, ModuleError> {
    let (uid, gid) = options.ids()?;
    let access = Access { mode: options.mode.or(default_mode).unwrap_or(0o644), uid, gid };
    let diff = diff::unified(path, b"", &content.bytes()?);
    let diff = if diff.is_empty() { format!("make the empty file {path}") } else { diff };
    steps.push(write(options, path, content, access, None));
    Ok(Checked::Change(Change { verb: Verb::Create, diff, steps }))
}

fn write(options: &Options, path: &str, content: Content, access: Access, old: Option<Meta>) -> Step {
    Step::Write {
        path: path.to_owned(),
        content,
        access,
        validate: options.validate.clone(),
        backup: options.backup,
        expects: old.map(|meta| meta.version),
    }
}

fn from_source(options: &Options, source: &str, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let (tree, folder) = context.source.clone().ok_or_else(|| ModuleError::new("the task has no source"))?;
    let path = tree::join(&folder, source).map_err(ModuleError::new)?;
    let entry = tree
        .entry(&path)
        .map_err(io(&path))?
        .ok_or_else(|| ModuleError::new(format!("there is no {path} in the source")))?;
    match entry.kind {
        EntryKind::File | EntryKind::Executable => {
            refuse_pointer(&tree, &path)?;
            let default = (entry.kind == EntryKind::Executable).then_some(0o755);
            one_file(options, &options.path, Some(Content::Source(tree, path)), context.look, default)
        }
        EntryKind::Folder => members::check(options, &tree, &path, context),
        EntryKind::Link => {
            let target = tree.read(&path).map_err(io(&path))?.unwrap_or_default();
            link(&options.path, &String::from_utf8_lossy(&target), context.look)
        }
        EntryKind::Submodule => Err(ModuleError::new(format!(
            "{path} is a git submodule, which is not followed; make the other repository a source"
        ))),
    }
}

/// Rejects the pointer that git holds instead of a file kept in Git LFS.
fn refuse_pointer(tree: &Arc<dyn Tree>, path: &str) -> Result<(), ModuleError> {
    let bytes = tree.read(path).map_err(io(path))?.unwrap_or_default();
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(ModuleError::new(format!(
            "{path} is kept in Git LFS, which is not followed; commit the file itself"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towpath_host::{Hand, process::Cancel};
    use towpath_render::tree::MemoryTree;

    use super::*;
    use crate::{apply, resolve as resolve_any};

    struct Fixture {
        folder: tempfile::TempDir,
        look: Look,
        tree: Arc<dyn Tree>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let look = Look::at(folder.path()).unwrap();
        let files = [("files/a", "A"), ("files/sub/b", "B")];
        Fixture { folder, look, tree: Arc::new(files.into_iter().collect::<MemoryTree>()) }
    }

    impl Fixture {
        fn check(&self, params: Value) -> Result<Checked, ModuleError> {
            let options = resolve_any("file", &params).expect("good parameters");
            let cancel = Cancel::default();
            let context = Context {
                look: &self.look,
                source: Some((Arc::clone(&self.tree), String::new())),
                node: "n",
                task: "t",
                timeout: std::time::Duration::from_secs(5),
                cancel: &cancel,
                memory: &crate::Memory::default(),
            };
            options.check(&context)
        }

        fn apply(&self, params: Value) -> Result<bool, ModuleError> {
            match self.check(params)? {
                Checked::Change(change) => {
                    apply::all(change.steps, &Hand::new(self.look.clone()), &Cancel::default()).map(|()| true)
                }
                _ => Ok(false),
            }
        }

        fn text(&self, path: &str) -> String {
            std::fs::read_to_string(self.folder.path().join(path)).unwrap()
        }
    }

    #[test]
    fn content_is_written_once() {
        let fixture = fixture();
        let params = json!({"path": "/etc/a/b.conf", "content": "x\n", "mode": "0600"});
        assert!(fixture.apply(params.clone()).unwrap());
        assert_eq!(fixture.text("etc/a/b.conf"), "x\n");
        assert!(!fixture.apply(params).unwrap());
        assert!(fixture.apply(json!({"path": "/etc/a/b.conf", "content": "x\n", "mode": "0644"})).unwrap());
        assert!(!fixture.apply(json!({"path": "/etc/a/b.conf", "content": "x\n"})).unwrap());
    }

    #[test]
    fn trees_links_directories_and_removal() {
        let fixture = fixture();
        assert!(fixture.apply(json!({"path": "/srv/tree", "source": "files"})).unwrap());
        assert_eq!(fixture.text("srv/tree/sub/b"), "B");
        assert!(!fixture.apply(json!({"path": "/srv/tree", "source": "files"})).unwrap());
        assert!(fixture.apply(json!({"path": "/srv/link", "linkTo": "tree/a"})).unwrap());
        assert_eq!(fixture.text("srv/link"), "A");
        assert!(fixture.apply(json!({"path": "/srv/dir", "state": "directory", "mode": "0700"})).unwrap());
        assert!(fixture.apply(json!({"path": "/srv/tree", "state": "absent"})).unwrap());
        assert!(!fixture.folder.path().join("srv/tree").exists());
    }

    #[test]
    fn a_failed_validation_leaves_the_old_file() {
        let fixture = fixture();
        fixture.apply(json!({"path": "/a", "content": "good"})).unwrap();
        let before = json!({"path": "/a", "content": "bad", "validate": "grep -q good %s"});
        assert!(fixture.apply(before).unwrap_err().message.contains("validate"));
        assert_eq!(fixture.text("a"), "good");
        let after = json!({"path": "/a", "content": "bad", "validate": "false"});
        assert!(fixture.apply(after).is_err());
        assert_eq!(fixture.text("a"), "good");
        let new = json!({"path": "/new", "content": "bad", "validate": "false"});
        assert!(fixture.apply(new).is_err());
        assert!(!fixture.folder.path().join("new").exists());
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let fixture = fixture();
        std::fs::create_dir(fixture.folder.path().join("d")).unwrap();
        assert!(fixture.check(json!({"path": "/d", "content": "x"})).unwrap_err().message.contains("no file"));
        std::fs::write(fixture.folder.path().join("f"), "").unwrap();
        assert!(
            fixture.check(json!({"path": "/f", "state": "directory"})).unwrap_err().message.contains("no directory")
        );
    }

    #[test]
    fn a_step_is_refused_when_the_world_has_moved() {
        let fixture = fixture();
        fixture.apply(json!({"path": "/a", "content": "one"})).unwrap();
        let Checked::Change(change) = fixture.check(json!({"path": "/a", "content": "two"})).unwrap() else { panic!() };
        std::fs::remove_file(fixture.folder.path().join("a")).unwrap();
        std::fs::write(fixture.folder.path().join("a"), "somebody else's").unwrap();
        assert!(apply::all(change.steps, &Hand::new(fixture.look.clone()), &Cancel::default()).is_err());
        assert_eq!(fixture.text("a"), "somebody else's");
    }

    #[test]
    fn parameters_that_do_not_fit_are_told() {
        for (params, key) in [
            (json!({"path": "etc/a", "content": ""}), "path"),
            (json!({"path": "/etc/../a", "content": ""}), "path"),
            (json!({"path": "/", "state": "absent"}), "path"),
            (json!({"path": "/a", "content": "", "source": "x"}), "source"),
            (json!({"path": "/a", "content": "", "state": "absent"}), "content"),
            (json!({"path": "/a", "linkTo": "b", "mode": "0644"}), "mode"),
        ] {
            let problems = resolve_any("file", &params).unwrap_err();
            assert_eq!(problems[0].key, key, "{params}");
        }
    }
}
