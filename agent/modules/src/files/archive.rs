//! The module `archive` unpacks a tar or zip archive to a directory.
//!
//! The agent writes the archive members to disk while it reads the archive, so the unpacked content is never in memory.
//! The agent loads an archive into memory only if the archive is from the source, and only in packed form. The agent
//! rejects an archive member if its path, or the path to which it links, is outside of the target directory.

mod members;

use std::io::{self, Cursor, Read, Write as _};

use serde_json::{Value, json};
use towpath_host::{
    FileKind, FsReader, FsWriter, Meta,
    files::{Access, Staged},
};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::tree;

use self::members::{Budget, Kind, Member, Source};
use super::file;
use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, managed_path, parse},
    resource::resource,
};

/// The resolved parameters of the module `archive`: an archive and its target directory.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveSpec {
    path: String,
    from: From,
    strip: usize,
    owner: Option<String>,
    group: Option<String>,
    absent: bool,
    max_bytes: u64,
}

/// The module `archive`.
#[derive(Debug)]
pub(crate) struct Archive;

impl Module for Archive {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Archive::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for ArchiveSpec {
    fn module(&self) -> &'static dyn Module {
        &Archive
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(self, context)
    }

    fn apply(&self, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
        run(self, context, writer)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self, context)
    }

    fn reads_source(&self) -> bool {
        true
    }
}

/// The default of `maxBytes`: the maximum total size of the unpacked files, in bytes.
const LIMIT: i64 = 1 << 30;

#[derive(Debug, Clone)]
enum From {
    Source(String),
    File(String),
}

impl From {
    fn name(&self) -> &str {
        match self {
            Self::Source(path) | Self::File(path) => path,
        }
    }
}

/// The maximum number of unpacked files that the agent syncs to disk and renames together.
const FILES_AT_ONCE: usize = 64;

/// The maximum number of changed archive members that a diff lists by name.
const MAX_LISTED: usize = 50;

pub(crate) fn resolve(archive: pb::Archive) -> Result<ArchiveSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = archive.path.unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = archive.state.as_deref() == Some("absent");
    let from = match (archive.source, archive.file) {
        (Some(source), None) => From::Source(source),
        (None, Some(file)) => {
            managed_path("file", &file, &mut problems);
            From::File(file)
        }
        (None, None) if absent => From::Source(String::new()),
        _ => {
            let problem = Problem::new("source", "archive needs source or file, and not both");
            problems.push(problem.hint("source is a file of the state repository, and file is a file on the node"));
            From::Source(String::new())
        }
    };
    let strip = usize::try_from(archive.strip.unwrap_or(0)).unwrap_or_else(|_| {
        problems.push(Problem::new("strip", "strip is negative; write a number of folders"));
        0
    });
    let max_bytes = u64::try_from(archive.max_bytes.unwrap_or(LIMIT)).unwrap_or_else(|_| {
        problems.push(Problem::new("maxBytes", "maxBytes is negative; write a number of bytes"));
        0
    });
    done(problems)?;
    Ok(ArchiveSpec { path, from, strip, max_bytes, owner: archive.owner, group: archive.group, absent })
}

/// Opens the archive of a task. Returns `None` if the archive must be a file on the node, but the file does not exist.
fn open(spec: &ArchiveSpec, context: &Context<'_>) -> Result<Option<Box<dyn Source>>, ModuleError> {
    match &spec.from {
        From::File(file) => {
            let found = context.reader.file(file).map_err(|error| ModuleError::io(file, &error))?;
            Ok(found.map(|(file, _)| Box::new(file) as Box<dyn Source>))
        }
        From::Source(source) => {
            let (tree, folder) = context
                .source
                .clone()
                .ok_or_else(|| ModuleError::new("cannot read a file of the source: the task has no source"))?;
            let path = tree::join(&folder, source).map_err(ModuleError::new)?;
            let bytes = tree.read(&path).map_err(|error| ModuleError::io(&path, &error))?;
            let bytes = bytes
                .ok_or_else(|| ModuleError::new(format!("cannot read {path}: the source does not contain the file")))?;
            Ok(Some(Box::new(Cursor::new(bytes))))
        }
    }
}

fn missing(spec: &ArchiveSpec) -> String {
    format!("this node has no file {}; create the file in an earlier task", spec.from.name())
}

/// Compares the members of an archive with the files on disk.
struct Compared<'a> {
    below: Option<&'a FsReader>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Compared<'_> {
    /// Returns a text that describes the needed change of an archive member; `None` if the member is in sync.
    fn differs(&self, member: &mut Member<'_>) -> io::Result<Option<String>> {
        let path = member.path.clone();
        let Some(below) = self.below else { return Ok(Some(format!("new {path}"))) };
        let Some(meta) = below.meta(&path)? else { return Ok(Some(format!("new {path}"))) };
        let same = match &member.kind {
            Kind::Directory if meta.kind == FileKind::Directory => return Ok(None),
            Kind::Link(target) => {
                return Ok((below.link(&path)?.as_ref() != Some(target)).then(|| format!("{path} -> {target}")));
            }
            Kind::File { .. } if meta.kind == FileKind::File => match below.file(&path)? {
                Some((file, _)) => same(&mut *member.content, file)?,
                None => false,
            },
            Kind::Copy(of) if meta.kind == FileKind::File => match (below.file(of)?, below.file(&path)?) {
                (Some((of, _)), Some((file, _))) => same(of, file)?,
                _ => false,
            },
            Kind::Directory | Kind::File { .. } | Kind::Copy(_) => {
                let message =
                    format!("cannot unpack {path}: the path has another type than in the archive; remove {path} first");
                return Err(io::Error::other(message));
            }
        };
        if !same {
            return Ok(Some(format!("{path} has other content")));
        }
        let diff = file::access_diff(&path, meta, self.mode(member, Some(meta)), self.uid, self.gid);
        Ok((!diff.is_empty()).then(|| diff.trim_end().to_owned()))
    }

    fn mode(&self, member: &Member<'_>, old: Option<Meta>) -> Option<u32> {
        match member.kind {
            Kind::File { program } => Some(if program { 0o755 } else { 0o644 }),
            _ => old.map(|meta| meta.mode),
        }
    }
}

/// Returns true if two files have equal contents.
fn same(mut a: impl Read, mut b: impl Read) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    loop {
        let (got, other) = (fill(&mut a, &mut left)?, fill(&mut b, &mut right)?);
        if left[..got] != right[..other] {
            return Ok(false);
        }
        if got == 0 {
            return Ok(true);
        }
    }
}

/// Reads from a file until the buffer is full or the file ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn stopped(context: &Context<'_>) -> io::Result<()> {
    if context.cancel.is_cancelled() {
        return Err(io::Error::other("the task was ended because the agent stops"));
    }
    Ok(())
}

pub(crate) fn check(spec: &ArchiveSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let path = spec.path.as_str();
    let below = context.reader.open_dir(path).map_err(|error| ModuleError::io(path, &error))?;
    if spec.absent {
        let there = context.reader.meta(path).map_err(|error| ModuleError::io(path, &error))?.is_some();
        let diff = format!("remove {path} with its content\n");
        let change = Change { verb: Verb::Remove, diff, steps: Vec::new() };
        return Ok(if there { Checked::Change(change) } else { Checked::InSync });
    }
    let Some(source) = open(spec, context)? else { return Ok(Checked::Unknown(missing(spec))) };
    let (uid, gid) = file::ids(spec.owner.as_deref(), spec.group.as_deref())?;
    let compared = Compared { below: below.as_ref(), uid, gid };
    let (mut diff, mut changes) = (String::new(), 0_usize);
    members::each(source, spec.strip, &Budget::new(spec.max_bytes), &mut |mut member| {
        stopped(context)?;
        if let Some(change) = compared.differs(&mut member)? {
            changes += 1;
            if changes <= MAX_LISTED {
                diff.push_str(&format!("{path}: {change}\n"));
            }
        }
        Ok(())
    })
    .map_err(|error| failed(spec, &error))?;
    if changes == 0 && below.is_some() {
        return Ok(Checked::InSync);
    }
    if changes > MAX_LISTED {
        diff.push_str(&format!("and {} more\n", changes - MAX_LISTED));
    }
    let verb = if below.is_some() { Verb::Update } else { Verb::Create };
    Ok(Checked::Change(Change { verb, diff, steps: Vec::new() }))
}

fn failed(spec: &ArchiveSpec, error: &io::Error) -> ModuleError {
    let ModuleError { disk, .. } = ModuleError::io(&spec.path, error);
    ModuleError { message: format!("{}: {error}", spec.from.name()), disk, conflict: false }
}

pub(crate) fn run(spec: &ArchiveSpec, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
    let path = spec.path.as_str();
    let io = |error: io::Error| ModuleError::io(path, &error);
    if spec.absent {
        writer.remove(path).map_err(io)?;
        return Ok(Report::success());
    }
    let source = open(spec, context)?.ok_or_else(|| ModuleError::new(missing(spec)))?;
    let (uid, gid) = file::ids(spec.owner.as_deref(), spec.group.as_deref())?;
    writer.make_directory(path, 0o755).map_err(io)?;
    let inside = writer.open_dir(path).map_err(io)?.ok_or_else(|| {
        ModuleError::new(format!(
            "cannot unpack to {path}: the path is not a directory; remove the file first, or unpack to another path"
        ))
    })?;
    let unpacking = Unpacking { writer: &inside, compared: Compared { below: Some(inside.reader()), uid, gid } };
    let mut waiting = Vec::new();
    let budget = Budget::new(spec.max_bytes);
    members::each(source, spec.strip, &budget, &mut |member| {
        stopped(context)?;
        unpacking.take(member, &budget, &mut waiting)
    })
    .and_then(|()| unpacking.writer.commit_all(std::mem::take(&mut waiting)))
    .map_err(|error| {
        waiting.drain(..).for_each(|staged| unpacking.writer.discard(staged));
        failed(spec, &error)
    })?;
    Ok(Report::success())
}

struct Unpacking<'a> {
    writer: &'a FsWriter,
    compared: Compared<'a>,
}

impl Unpacking<'_> {
    fn take(&self, mut member: Member<'_>, budget: &Budget, waiting: &mut Vec<Staged>) -> io::Result<()> {
        let path = member.path.clone();
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        match member.kind.clone() {
            Kind::Directory => {
                self.make(&path)?;
                return Ok(());
            }
            Kind::Link(target) => {
                self.refuse_links_above(&path)?;
                if self.compared.differs(&mut member)?.is_some() {
                    self.make(folder)?;
                    self.writer.link(&path, &target)?;
                }
                return Ok(());
            }
            // The file to copy may still wait to be renamed in this batch.
            Kind::Copy(_) => self.writer.commit_all(std::mem::take(waiting))?,
            Kind::File { .. } => {}
        }
        self.make(folder)?;
        let old = self.writer.reader().meta(&path)?;
        if old.is_some_and(|meta| meta.kind == FileKind::Directory) {
            return Err(io::Error::other(format!(
                "cannot unpack {path}: the path must be a file, but is a directory; remove the directory first"
            )));
        }
        // The content is written to a temporary file, which replaces the old file after the batch was synced.
        let mut part = self.writer.part(&path)?;
        part.clear()?;
        let of = match &member.kind {
            Kind::Copy(of) => self.writer.reader().file(of)?,
            _ => None,
        };
        let access = match of {
            Some((mut file, meta)) => {
                budget.spend(meta.size)?;
                io::copy(&mut file, &mut part.file)?;
                Access { mode: meta.mode, uid: self.compared.uid, gid: self.compared.gid }
            }
            None if matches!(member.kind, Kind::Copy(_)) => {
                return Err(io::Error::other(format!(
                    "cannot unpack {path}: the member is a hard link to a file that is not in the archive"
                )));
            }
            None => {
                io::copy(&mut member.content, &mut part.file)?;
                let mode = self.compared.mode(&member, old).unwrap_or(0o644);
                Access { mode, uid: self.compared.uid, gid: self.compared.gid }
            }
        };
        part.file.flush()?;
        waiting.push(part.finish(access)?);
        if waiting.len() >= FILES_AT_ONCE {
            self.writer.commit_all(std::mem::take(waiting))?;
        }
        Ok(())
    }

    /// Returns an error if an archive member is a link below another link, because the two links together can lead to a
    /// third file.
    fn refuse_links_above(&self, path: &str) -> io::Result<()> {
        for (at, _) in path.match_indices('/') {
            if self.writer.reader().link(&path[..at])?.is_some() {
                return Err(io::Error::other(format!("the link {path:?} is below another link")));
            }
        }
        Ok(())
    }

    fn make(&self, folder: &str) -> io::Result<()> {
        for made in self.writer.make_directory(folder, 0o755)? {
            self.writer
                .set_permissions(&made, Access { mode: 0o755, uid: self.compared.uid, gid: self.compared.gid })?;
        }
        Ok(())
    }
}

/// Returns the parameters that undo the task; `None` if the directory already exists, or if the task removes the
/// directory.
pub(crate) fn undo(spec: &ArchiveSpec, context: &Context<'_>) -> Option<Value> {
    let new = !spec.absent && !context.reader.exists(&spec.path).ok()?;
    new.then(|| json!({ "path": spec.path, "state": "absent" }))
}
