//! Checks a single path, which must be a file, a link, a directory or absent.

use std::sync::Arc;

use towpath_host::{FileKind, FsReader, Meta, diff, files::Access};
use towpath_render::tree::Tree;

use super::spec::FileSpec;
use crate::{Change, Checked, Content, Context, ModuleError, Step, Verb};

pub(super) fn io(path: &str) -> impl Fn(std::io::Error) -> ModuleError + '_ {
    move |error| ModuleError::io(path, &error)
}

pub(super) fn absent(path: &str, reader: &FsReader) -> Result<Checked, ModuleError> {
    let Some(meta) = reader.meta(path).map_err(io(path))? else { return Ok(Checked::InSync) };
    let diff = match meta.kind {
        FileKind::File if meta.size <= 1 << 20 => reader
            .read(path)
            .ok()
            .flatten()
            .map_or_else(|| format!("remove {path}"), |(bytes, _)| diff::unified(path, &bytes, b"")),
        FileKind::Directory => format!("remove the directory {path} with its content"),
        _ => format!("remove {path}"),
    };
    Ok(Checked::Change(Change { verb: Verb::Remove, diff, steps: vec![Step::Remove { path: path.to_owned() }] }))
}

/// Compares the file at a path with the desired symbolic link. The agent replaces a file at the path only if Towpath
/// created the file.
pub(super) fn link(path: &str, target: &str, reader: &FsReader, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let old = reader.link(path).map_err(io(path))?;
    if old.as_deref() == Some(target) {
        return Ok(Checked::InSync);
    }
    let meta = reader.meta(path).map_err(io(path))?;
    if meta.is_some_and(|meta| meta.kind == FileKind::Directory) {
        return Err(ModuleError::new(format!(
            "cannot create the link {path}: the path is a directory; remove the directory first with `state: absent`"
        )));
    }
    let foreign = |meta: &Meta| meta.kind != FileKind::Link;
    if meta.filter(foreign).is_some() && !context.cache.has_made(&reader.resolved(path, false).map_err(io(path))?) {
        return Err(ModuleError::new(format!(
            "cannot create the link {path}: the path is a file that Towpath did not create; move the file, or \
             first commit `state: absent` for the path, and then the link"
        )));
    }
    if meta.is_none() {
        return Ok(new_link(path, target, parents(path, reader)?));
    }
    let diff = match old {
        Some(old) => format!("{path} -> {old}\nbecomes {path} -> {target}"),
        None => format!("{path} -> {target}"),
    };
    let steps = vec![Step::Link { path: path.to_owned(), target: target.to_owned() }];
    Ok(Checked::Change(Change { verb: Verb::Update, diff, steps }))
}

/// Returns a change that executes `steps`, and then creates a link.
pub(super) fn new_link(path: &str, target: &str, mut steps: Vec<Step>) -> Checked {
    steps.push(Step::Link { path: path.to_owned(), target: target.to_owned() });
    Checked::Change(Change { verb: Verb::Create, diff: format!("{path} -> {target}"), steps })
}

/// Compares the file at a path with the desired directory. A link to a directory is accepted as a directory.
pub(super) fn directory(spec: &FileSpec, path: &str, reader: &FsReader) -> Result<Checked, ModuleError> {
    let (uid, gid) = spec.ids()?;
    let Some(meta) = reader.meta(path).map_err(io(path))? else {
        let access = Access { mode: spec.mode.unwrap_or(0o755), uid, gid };
        return Ok(Checked::Change(Change {
            verb: Verb::Create,
            diff: format!("create the directory {path} with mode {:04o}", access.mode),
            steps: vec![Step::MakeDirectory { path: path.to_owned(), access }],
        }));
    };
    let link = reader.link(path).map_err(io(path))?;
    let found = if link.is_some() { reader.target(path).map_err(io(path))? } else { Some(meta) };
    match (found, link) {
        (Some(meta), _) if meta.kind == FileKind::Directory => Ok(granted(path, meta, spec.mode, uid, gid)),
        (Some(_), None) => Err(ModuleError::new(format!(
            "cannot create the directory {path}: the path is not a directory; remove {path} first with `state: absent`"
        ))),
        (Some(_), Some(target)) => Err(ModuleError::new(format!(
            "cannot create the directory {path}: the path is a link to {target}, which is not a directory; \
             remove the link first with `state: absent`, or change its target"
        ))),
        (None, target) => Err(ModuleError::new(format!(
            "cannot create the directory {path}: the path is a link to {target}, which does not exist; \
             create the target in an earlier task, or remove the link first with `state: absent`",
            target = target.unwrap_or_default()
        ))),
    }
}

/// Compares the mode, the owner and the group of a path with the desired state.
pub(super) fn granted(path: &str, meta: Meta, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Checked {
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

/// Describes the needed changes of mode, owner and group in a text for people. Returns an empty text if no change is
/// needed.
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

/// Returns the step that creates the missing parent directories of a path. Returns an empty list of steps if all parent
/// directories exist.
pub(crate) fn parents(path: &str, reader: &FsReader) -> Result<Vec<Step>, ModuleError> {
    let Some((folder, _)) = path.trim_end_matches('/').rsplit_once('/') else { return Ok(Vec::new()) };
    if folder.is_empty() || reader.exists(folder).map_err(io(folder))? {
        return Ok(Vec::new());
    }
    let access = Access { mode: 0o755, uid: None, gid: None };
    Ok(vec![Step::MakeDirectory { path: folder.to_owned(), access }])
}

pub(super) fn one_file(
    spec: &FileSpec,
    path: &str,
    content: Option<Content>,
    reader: &FsReader,
    default_mode: Option<u32>,
) -> Result<Checked, ModuleError> {
    let (uid, gid) = spec.ids()?;
    let read = reader.read(path);
    let old = match read {
        Ok(old) => old,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            return Err(ModuleError::new(format!(
                "cannot write {path}: the path is not a regular file; remove {path} first with `state: absent`"
            )));
        }
        Err(error) => return Err(ModuleError::io(path, &error)),
    };
    let mode = spec.mode.or(default_mode);
    let Some((old_bytes, meta)) = old else {
        let content = content.unwrap_or_else(|| Content::Bytes(Arc::from(Vec::new())));
        return new_file(spec, path, content, default_mode, parents(path, reader)?);
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
        steps: vec![write(spec, path, content, access, Some(meta))],
    }))
}

/// Returns a change that executes `steps`, and then creates a file.
pub(super) fn new_file(
    spec: &FileSpec,
    path: &str,
    content: Content,
    default_mode: Option<u32>,
    mut steps: Vec<Step>,
) -> Result<Checked, ModuleError> {
    let (uid, gid) = spec.ids()?;
    let access = Access { mode: spec.mode.or(default_mode).unwrap_or(0o644), uid, gid };
    let diff = diff::unified(path, b"", &content.bytes()?);
    let diff = if diff.is_empty() { format!("make the empty file {path}") } else { diff };
    steps.push(write(spec, path, content, access, None));
    Ok(Checked::Change(Change { verb: Verb::Create, diff, steps }))
}

pub(super) fn write(spec: &FileSpec, path: &str, content: Content, access: Access, old: Option<Meta>) -> Step {
    Step::Write {
        path: path.to_owned(),
        content,
        access,
        validate: spec.validate.clone(),
        backup: spec.backup,
        expects: old.map(|meta| meta.version),
    }
}

/// Returns an error if the content of a file is in Git LFS, because the git repository contains only a pointer to the
/// content.
pub(super) fn refuse_pointer(tree: &Arc<dyn Tree>, path: &str) -> Result<(), ModuleError> {
    let bytes = tree.read(path).map_err(io(path))?.unwrap_or_default();
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Err(ModuleError::new(format!("cannot read {path}: Git LFS is not supported; commit the file itself")));
    }
    Ok(())
}
