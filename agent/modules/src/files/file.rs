//! The module `file` manages a file, a directory, a tree of files, or a symbolic link.

mod members;
mod single;
mod spec;

use std::sync::Arc;

use serde_json::Value;
use towpath_host::keyed_digest;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::tree::{self, EntryKind, Tree};

use self::{
    single::{absent, directory, io, link, one_file, refuse_pointer},
    spec::Want,
};
pub(crate) use self::{
    single::{access_diff, parents},
    spec::{FileSpec, ids},
};
use crate::{
    Checked, Content, Context, Expectation, Module, ModuleError, Resolved, Resource,
    expectation::Expected,
    params::{Problem, parse},
    resource::resource,
};

/// The module `file`.
#[derive(Debug)]
pub(crate) struct File;

impl Module for File {
    fn schema(&self) -> &'static ModuleSchema {
        pb::File::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(FileSpec::resolve(params))
    }
}

impl Resource for FileSpec {
    fn module(&self) -> &'static dyn Module {
        &File
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        compare(self, context)
    }

    fn reads_source(&self) -> bool {
        matches!(self.want, Want::Source(_))
    }

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn watched_paths(&self, context: &Context<'_>) -> Vec<String> {
        watched(self, context)
    }

    fn expectations(&self, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
        expected(self, context, key)
    }
}

impl FileSpec {
    /// Resolves the parameters of the module `file`.
    pub(crate) fn resolve(params: &Value) -> Result<Self, Vec<Problem>> {
        spec::resolve(&parse(params)?, params)
    }
}

fn watched(spec: &FileSpec, context: &Context<'_>) -> Vec<String> {
    if let (Want::Source(source), Some((tree, folder))) = (&spec.want, &context.source)
        && let Ok(path) = tree::join(folder, source)
        && let Ok(Some(entry)) = tree.entry(&path)
        && entry.kind == EntryKind::Folder
    {
        let base = spec.path.trim_end_matches('/');
        let files = tree.list(&path).unwrap_or_default().into_iter().filter(|entry| entry.kind != EntryKind::Folder);
        return files
            .map(|entry| {
                format!("{base}/{}", entry.path.strip_prefix(&path).unwrap_or(&entry.path).trim_start_matches('/'))
            })
            .collect();
    }
    if matches!(spec.want, Want::Absent) { Vec::new() } else { vec![spec.path.trim_end_matches('/').to_owned()] }
}

fn compare(spec: &FileSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let path = spec.path.as_str();
    match &spec.want {
        Want::Absent => absent(path, context.reader),
        Want::Link(target) => link(path, target, context.reader, context),
        Want::Directory => directory(spec, path, context.reader),
        Want::Content(bytes) => one_file(spec, path, Some(Content::Bytes(Arc::clone(bytes))), context.reader, None),
        Want::Any => one_file(spec, path, None, context.reader, None),
        Want::Source(source) => from_source(spec, source, context),
    }
}

/// Returns the state that each managed path must have, by the rules of [`compare`]. Returns `None` if a later pass must
/// check the task in full.
fn expected(spec: &FileSpec, context: &Context<'_>, key: &[u8; 32]) -> Option<Vec<Expectation>> {
    let one = |path: &str, what: Expected, mode: Option<u32>| Expectation {
        path: path.to_owned(),
        plain_below: None,
        what,
        mode,
        owner: spec.owner.clone(),
        group: spec.group.clone(),
    };
    // The check ignores the owner and the mode of a link and of a missing path.
    let bare = |path: &str, what: Expected| Expectation {
        path: path.to_owned(),
        plain_below: None,
        what,
        mode: None,
        owner: None,
        group: None,
    };
    let content = |bytes: &[u8]| Expected::Content(keyed_digest(key, bytes));
    let path = spec.path.as_str();
    let of_entry = |tree: &Arc<dyn Tree>, entry: &tree::Entry, path: &str| -> Option<Expectation> {
        let bytes = tree.read(&entry.path).ok()??;
        match entry.kind {
            EntryKind::File => Some(one(path, content(&bytes), spec.mode)),
            EntryKind::Executable => Some(one(path, content(&bytes), spec.mode.or(Some(0o755)))),
            EntryKind::Link => Some(bare(path, Expected::Link(String::from_utf8_lossy(&bytes).into_owned()))),
            EntryKind::Folder | EntryKind::Submodule => None,
        }
    };
    match &spec.want {
        Want::Absent => Some(vec![bare(path, Expected::Absent)]),
        Want::Link(target) => Some(vec![bare(path, Expected::Link(target.clone()))]),
        Want::Directory => Some(vec![one(path, Expected::Directory, spec.mode)]),
        Want::Content(bytes) => Some(vec![one(path, content(bytes), spec.mode)]),
        Want::Any => Some(vec![one(path, Expected::Any, spec.mode)]),
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

fn from_source(spec: &FileSpec, source: &str, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let (tree, folder) = context
        .source
        .clone()
        .ok_or_else(|| ModuleError::new("cannot read a file of the source: the task has no source"))?;
    let path = tree::join(&folder, source).map_err(ModuleError::new)?;
    let entry = tree
        .entry(&path)
        .map_err(io(&path))?
        .ok_or_else(|| ModuleError::new(format!("cannot read {path}: the source does not contain the file")))?;
    match entry.kind {
        EntryKind::File | EntryKind::Executable => {
            refuse_pointer(&tree, &path)?;
            let default = (entry.kind == EntryKind::Executable).then_some(0o755);
            one_file(spec, &spec.path, Some(Content::Source(tree, path)), context.reader, default)
        }
        EntryKind::Folder => members::check(spec, &tree, &path, context),
        EntryKind::Link => {
            let target = tree.read(&path).map_err(io(&path))?.unwrap_or_default();
            link(&spec.path, &String::from_utf8_lossy(&target), context.reader, context)
        }
        EntryKind::Submodule => {
            Err(ModuleError::new(format!("cannot read the git submodule {path}; add its repository as a source")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towpath_host::{FsReader, FsWriter, Host, process::Cancel};
    use towpath_render::tree::MemoryTree;

    use super::*;
    use crate::{apply, resolve as resolve_any};

    /// A test record of the paths that Towpath made.
    #[derive(Debug)]
    struct Made(&'static [&'static str]);

    impl crate::Origins for Made {
        fn has_made(&self, path: &str) -> bool {
            self.0.contains(&path)
        }
    }

    /// A test tree of files, in which the entry `l` is a link.
    struct Links(MemoryTree);

    impl Tree for Links {
        fn list(&self, folder: &str) -> std::io::Result<Vec<tree::Entry>> {
            let kind = |entry: &tree::Entry| if entry.path.ends_with("/l") { EntryKind::Link } else { entry.kind };
            Ok(self.0.list(folder)?.into_iter().map(|entry| tree::Entry { kind: kind(&entry), ..entry }).collect())
        }

        fn read(&self, path: &str) -> std::io::Result<Option<Vec<u8>>> {
            self.0.read(path)
        }

        fn entry(&self, path: &str) -> std::io::Result<Option<tree::Entry>> {
            self.0.entry(path)
        }
    }

    struct Fixture {
        made: &'static [&'static str],
        folder: tempfile::TempDir,
        reader: FsReader,
        writer: FsWriter,
        tree: Arc<dyn Tree>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let (reader, writer) = Host::at(folder.path()).unwrap().split();
        let files = [("files/a", "A"), ("files/sub/b", "B")];
        Fixture { made: &[], folder, reader, writer, tree: Arc::new(files.into_iter().collect::<MemoryTree>()) }
    }

    impl Fixture {
        fn check(&self, params: Value) -> Result<Checked, ModuleError> {
            let options = resolve_any("file", &params).expect("good parameters");
            let cancel = Cancel::default();
            let context = Context {
                reader: &self.reader,
                source: Some((Arc::clone(&self.tree), String::new())),
                node: "n",
                task: "t",
                timeout: std::time::Duration::from_secs(5),
                cancel: &cancel,
                cache: &crate::ModuleCache::knowing(Arc::new(Made(self.made))),
            };
            options.check(&context)
        }

        fn apply(&self, params: Value) -> Result<bool, ModuleError> {
            match self.check(params)? {
                Checked::Change(change) => apply::all(change.steps, &self.writer, &Cancel::default()).map(|()| true),
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
    fn link_replaces_only_a_link_or_a_file_of_towpath() {
        let mut fixture = fixture();
        let at = |fixture: &Fixture, path: &str| fixture.folder.path().join(path);
        std::fs::write(at(&fixture, "passwords"), "secret").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(at(&fixture, "socket")).unwrap();
        for path in ["/passwords", "/socket"] {
            let error = fixture.apply(json!({"path": path, "linkTo": "files/a"})).unwrap_err();
            assert!(error.message.contains("did not create; move the file"), "{error}");
        }
        assert_eq!(fixture.text("passwords"), "secret");
        drop(socket);
        // A link in a tree of the source is rejected for the same reason.
        std::fs::create_dir(at(&fixture, "tree")).unwrap();
        std::fs::write(at(&fixture, "tree/l"), "mine").unwrap();
        fixture.tree = Arc::new(Links([("files/a", "A"), ("files/l", "a")].into_iter().collect()));
        let error = fixture.apply(json!({"path": "/tree", "source": "files"})).unwrap_err();
        assert!(error.message.contains("did not create"), "{error}");
        assert_eq!(fixture.text("tree/l"), "mine");
        // A link to another target is replaced, and so is a file of an earlier commit.
        std::os::unix::fs::symlink("nowhere", at(&fixture, "old")).unwrap();
        assert!(fixture.apply(json!({"path": "/old", "linkTo": "passwords"})).unwrap());
        fixture.made = &["/passwords", "/tree/l"];
        assert!(fixture.apply(json!({"path": "/passwords", "linkTo": "old-passwords"})).unwrap());
        assert_eq!(std::fs::read_link(at(&fixture, "passwords")).unwrap().to_str(), Some("old-passwords"));
        assert!(fixture.apply(json!({"path": "/tree", "source": "files"})).unwrap());
        assert_eq!(fixture.text("tree/l"), "A");
    }

    #[test]
    fn failed_validation_keeps_the_old_file() {
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
    fn path_of_another_kind_is_rejected() {
        let fixture = fixture();
        std::fs::create_dir(fixture.folder.path().join("d")).unwrap();
        assert!(
            fixture.check(json!({"path": "/d", "content": "x"})).unwrap_err().message.contains("not a regular file")
        );
        std::fs::write(fixture.folder.path().join("f"), "").unwrap();
        assert!(
            fixture.check(json!({"path": "/f", "state": "directory"})).unwrap_err().message.contains("not a directory")
        );
    }

    #[test]
    fn directory_at_the_end_of_a_link_gets_mode_and_owner() {
        use std::os::unix::fs::{MetadataExt as _, symlink};
        let fixture = fixture();
        let at = |path: &str| fixture.folder.path().join(path);
        std::fs::create_dir_all(at("data/www")).unwrap();
        for (link, target) in [("relative", "data/www"), ("absolute", "/data/www"), ("chained", "relative")] {
            symlink(target, at(link)).unwrap();
            for (mode, bits, owner) in [("0750", 0o750, "65534"), ("0711", 0o711, "0")] {
                let path = format!("/{link}");
                let params = json!({"path": path, "state": "directory", "mode": mode, "owner": owner, "group": owner});
                assert!(fixture.apply(params.clone()).unwrap(), "{link} {mode}");
                assert!(!fixture.apply(params).unwrap(), "{link} {mode}");
                let found = std::fs::metadata(at("data/www")).unwrap();
                let ids = (found.uid().to_string(), found.gid().to_string());
                assert_eq!((found.mode() & 0o7777, ids), (bits, (owner.to_owned(), owner.to_owned())), "{link}");
                assert!(std::fs::symlink_metadata(at(link)).unwrap().is_symlink());
            }
            assert!(!fixture.apply(json!({"path": format!("/{link}/"), "state": "directory"})).unwrap());
        }
    }

    #[test]
    fn link_without_a_directory_is_named_with_its_target() {
        use std::os::unix::fs::symlink;
        let fixture = fixture();
        let at = |path: &str| fixture.folder.path().join(path);
        std::fs::write(at("file"), "mine").unwrap();
        for (link, target, cause) in [
            ("to-file", "file", "is not a directory"),
            ("dangling", "missing", "which does not exist"),
            ("deep", "/missing/below", "which does not exist"),
        ] {
            symlink(target, at(link)).unwrap();
            let params = json!({"path": format!("/{link}"), "state": "directory", "mode": "0700"});
            let error = fixture.apply(params).unwrap_err().message;
            assert!(error.contains(&format!("/{link}: the path is a link to {target}, ")), "{error}");
            assert!(error.contains(cause) && error.contains("state: absent"), "{error}");
        }
        assert_eq!(fixture.text("file"), "mine");
        assert!(!at("missing").exists());
    }

    #[test]
    fn expected_directory_holds_through_a_link_with_the_mode_of_the_directory() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let fixture = fixture();
        std::fs::create_dir(fixture.folder.path().join("real")).unwrap();
        symlink("real", fixture.folder.path().join("link")).unwrap();
        for (path, found, holds) in [("/link", 0o750, true), ("/link", 0o755, false), ("/real", 0o750, true)] {
            let real = fixture.folder.path().join("real");
            std::fs::set_permissions(real, std::fs::Permissions::from_mode(found)).unwrap();
            let spec = FileSpec::resolve(&json!({"path": path, "state": "directory", "mode": "0750"})).unwrap();
            let cancel = Cancel::default();
            let context = Context {
                reader: &fixture.reader,
                source: None,
                node: "n",
                task: "t",
                timeout: std::time::Duration::from_secs(5),
                cancel: &cancel,
                cache: &crate::ModuleCache::default(),
            };
            let expectations = expected(&spec, &context, &[0; 32]).unwrap();
            let mut inspector = crate::Inspector::new(&fixture.reader, &[0; 32]);
            assert_eq!(expectations.iter().all(|one| inspector.holds(one)), holds, "{path} {found:o}");
        }
    }

    #[test]
    fn step_is_refused_after_a_concurrent_change() {
        let fixture = fixture();
        fixture.apply(json!({"path": "/a", "content": "one"})).unwrap();
        let Checked::Change(change) = fixture.check(json!({"path": "/a", "content": "two"})).unwrap() else { panic!() };
        std::fs::remove_file(fixture.folder.path().join("a")).unwrap();
        std::fs::write(fixture.folder.path().join("a"), "foreign").unwrap();
        assert!(apply::all(change.steps, &fixture.writer, &Cancel::default()).is_err());
        assert_eq!(fixture.text("a"), "foreign");
    }

    #[test]
    fn contradicting_file_parameters_are_rejected() {
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
