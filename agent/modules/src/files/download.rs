//! The module `download` fetches a file over https, and verifies its SHA-256 digest.
//!
//! After an interrupted download, the next attempt requests only the missing bytes (RFC 9110, Range Requests). If the
//! digest of a downloaded file is wrong, the agent does not rename the file to its path.

use std::io::{Read, Seek as _, Write as _};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use towpath_host::{
    FileKind, FsWriter, Meta,
    files::{Access, Part},
    http::{self, Fetch},
};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::file;
use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, managed_path, mode, parse},
    resource::resource,
};

/// The default of `maxBytes`: the maximum size of a downloaded file, in bytes.
const LIMIT: u64 = 10 << 30;

/// The resolved parameters of the module `download`: a path, a URL and a digest.
#[derive(Debug, Clone)]
pub(crate) struct DownloadSpec {
    path: String,
    url: String,
    digest: String,
    download: Box<pb::Download>,
    mode: Option<u32>,
    absent: bool,
}

/// The module `download`.
#[derive(Debug)]
pub(crate) struct Download;

impl Module for Download {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Download::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for DownloadSpec {
    fn module(&self) -> &'static dyn Module {
        &Download
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

    fn path(&self) -> Option<&str> {
        Some(&self.path)
    }
}

pub(crate) fn resolve(download: pb::Download) -> Result<DownloadSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = download.path.clone().unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let absent = download.state.as_deref() == Some("absent");
    let url = download.url.clone().unwrap_or_default();
    let digest = download.sha256.clone().unwrap_or_default().to_ascii_lowercase();
    if !absent {
        if !url.starts_with("https://") {
            let problem = Problem::new("url", format!("{:?} is not an https URL", display_url(&url)));
            problems.push(problem.hint("write an https URL, because plain http can be tampered with"));
        }
        if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
            let problem =
                Problem::new("sha256", "download needs the SHA-256 digest of the file: 64 hexadecimal digits");
            problems.push(problem.hint("run sha256sum FILE to get the digest"));
        }
    }
    let mode = mode("mode", download.mode.as_deref(), &mut problems);
    done(problems)?;
    Ok(DownloadSpec { path, url, digest, download: Box::new(download), mode, absent })
}

impl DownloadSpec {
    fn access(&self, old: Option<Meta>) -> Result<Access, ModuleError> {
        let (uid, gid) = file::ids(self.download.owner.as_deref(), self.download.group.as_deref())?;
        let mode = self.mode.or(old.map(|meta| meta.mode)).unwrap_or(0o644);
        Ok(Access { mode, uid: uid.or(old.map(|meta| meta.uid)), gid: gid.or(old.map(|meta| meta.gid)) })
    }
}

/// Reads a file to its end, and returns the SHA-256 digest of the bytes. Returns an error if the agent stops.
fn digest(mut from: impl Read, context: &Context<'_>) -> std::io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        if context.cancel.is_cancelled() {
            return Err(std::io::Error::other("the task was ended because the agent stops"));
        }
        match from.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The state of the downloaded file at its path. The path has no file, a file with a wrong digest, or a file with the
/// right digest.
enum Found {
    Nothing,
    Other(Meta),
    Right(Meta, String),
}

fn reader(spec: &DownloadSpec, context: &Context<'_>) -> Result<Found, ModuleError> {
    let path = spec.path.as_str();
    let io = |error: std::io::Error| ModuleError::io(path, &error);
    let Some(meta) = context.reader.meta(path).map_err(io)? else { return Ok(Found::Nothing) };
    if matches!(meta.kind, FileKind::Directory | FileKind::Other) {
        return Err(ModuleError::new(format!(
            "cannot write {path}: the path exists, but is not a regular file; remove {path} first"
        )));
    }
    let Some((found, meta)) = context.reader.file(path).map_err(io)? else { return Ok(Found::Nothing) };
    if digest(found, context).map_err(io)? != spec.digest {
        return Ok(Found::Other(meta));
    }
    let (uid, gid) = file::ids(spec.download.owner.as_deref(), spec.download.group.as_deref())?;
    Ok(Found::Right(meta, file::access_diff(path, meta, spec.mode, uid, gid)))
}

pub(crate) fn check(spec: &DownloadSpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let change = |verb, diff| Ok(Checked::Change(Change { verb, diff, steps: Vec::new() }));
    let path = &spec.path;
    if spec.absent {
        let there = context.reader.meta(path).map_err(|error| ModuleError::io(path, &error))?.is_some();
        return if there { change(Verb::Remove, format!("remove {path}\n")) } else { Ok(Checked::InSync) };
    }
    let comes = format!("download {path} from {}, digest {}\n", display_url(&spec.url), spec.digest);
    match reader(spec, context)? {
        Found::Nothing => change(Verb::Create, comes),
        Found::Other(_) => change(Verb::Update, comes),
        Found::Right(_, diff) if !diff.is_empty() => change(Verb::Update, diff),
        Found::Right(..) => Ok(Checked::InSync),
    }
}

/// Returns a URL for messages. The function removes the user, the password and the query from a URL, because these
/// parts may be secret.
fn display_url(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => plain.to_owned(),
    }
}

pub(crate) fn run(spec: &DownloadSpec, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
    // A download replaces the target of a link at the path. A removal removes the link itself.
    let path = spec.path.as_str();
    let io = |error: std::io::Error| ModuleError::io(path, &error);
    if spec.absent {
        let meta = context.reader.meta(&spec.path).map_err(io)?;
        if meta.is_some_and(|meta| meta.kind == FileKind::Directory) {
            return Err(ModuleError::new(format!("cannot remove {path}: the path is a directory, not a file")));
        }
        writer.remove(&spec.path).and_then(|()| writer.drop_part(path)).map_err(io)?;
        return Ok(Report::success());
    }
    let old = match reader(spec, context)? {
        Found::Right(meta, _) => {
            writer.set_permissions(path, spec.access(Some(meta))?).map_err(io)?;
            return Ok(Report::success());
        }
        Found::Other(meta) => Some(meta),
        Found::Nothing => None,
    };
    if let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
        writer.make_directory(folder, 0o755).map_err(io)?;
    }
    let access = spec.access(old)?;
    let mut part = writer.part(path).map_err(io)?;
    let begun = part.file.metadata().map_err(io)?.len();
    let mut got = fetch(spec, context, writer, (path, &mut part), begun)?;
    if got != spec.digest && begun > 0 {
        // The partial file on disk may belong to another file, so the transfer starts again.
        part.clear().map_err(io)?;
        got = fetch(spec, context, writer, (path, &mut part), 0)?;
    }
    if got != spec.digest {
        writer.drop_part(path).map_err(io)?;
        let from = display_url(&spec.url);
        return Err(ModuleError::new(format!(
            "cannot write {path}: the file from {from} has the digest {got}, but `sha256` is {}",
            spec.digest
        )));
    }
    part.finish(access).and_then(|staged| writer.commit_all(vec![staged])).map_err(io)?;
    Ok(Report::success())
}

/// Downloads a file, except its first `from` bytes. Returns the digest of the whole file.
fn fetch(
    spec: &DownloadSpec,
    context: &Context<'_>,
    writer: &FsWriter,
    (path, part): (&str, &mut Part),
    from: u64,
) -> Result<String, ModuleError> {
    let io = |error: std::io::Error| ModuleError::io(path, &error);
    let whole = |part: &mut Part| {
        part.file.rewind().map_err(io)?;
        digest(&part.file, context).map_err(io)
    };
    // The transfer may be complete, so that only the rename is missing.
    if from > 0 {
        let digest = whole(part)?;
        if digest == spec.digest {
            return Ok(digest);
        }
    }
    let request = Fetch {
        url: &spec.url,
        headers: &spec.download.headers,
        ca_file: spec.download.ca_file.as_deref(),
        timeout: context.timeout,
        from,
    };
    let shown = display_url(&spec.url);
    let broken = |why: String| {
        ModuleError::new(format!("cannot fetch {shown} to {path}: {why}; the next attempt resumes the transfer"))
    };
    let mut fetched = http::fetch(&request).map_err(|error| broken(error.to_string()))?;
    if !fetched.resumes {
        part.clear().map_err(io)?;
    }
    let mut buffer = vec![0; 64 << 10];
    let limit = spec.download.max_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(LIMIT);
    let mut size = if fetched.resumes { from } else { 0 };
    let all = fetched.length().map(|rest| rest.saturating_add(size));
    loop {
        if size > limit || all.is_some_and(|all| all > limit) {
            writer.drop_part(path).map_err(io)?;
            let message = format!(
                "cannot write {path}: the file from {shown} has more than {limit} bytes; raise the parameter `maxBytes`"
            );
            return Err(ModuleError::new(message));
        }
        let mib = |bytes: u64| bytes >> 20;
        let of = all.map(|all| format!(" of {}", mib(all))).unwrap_or_default();
        context.report_progress(&format!("fetched {}{of} MiB", mib(size)));
        if context.cancel.is_cancelled() {
            return Err(broken("the agent stops".into()));
        }
        match fetched.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                part.file.write_all(&buffer[..read]).map_err(io)?;
                size += read as u64;
            }
            Err(error) => return Err(broken(format!("the transfer was interrupted: {error}"))),
        }
    }
    whole(part)
}

/// Returns the parameters that undo the task; `None` if the file already exists, or if the task removes the file.
pub(crate) fn undo(spec: &DownloadSpec, context: &Context<'_>) -> Option<Value> {
    let new = !spec.absent && !context.reader.exists(&spec.path).ok()?;
    new.then(|| json!({ "path": spec.path, "state": "absent" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_displayed_without_credentials() {
        assert_eq!(display_url("https://me:word@host/a/b.tgz?token=x"), "https://host/a/b.tgz");
        assert_eq!(display_url("https://host"), "https://host/");
    }

    #[test]
    fn https_and_a_digest_are_needed() {
        let of = |url: &str, sha256: &str| {
            let (url, sha256) = (Some(url.into()), Some(sha256.into()));
            resolve(pb::Download { path: Some("/a".into()), url, sha256, ..pb::Download::default() })
        };
        assert!(of("https://host/a", &"0".repeat(64)).is_ok());
        assert_eq!(of("http://host/a", &"0".repeat(64)).unwrap_err()[0].key, "url");
        assert_eq!(of("https://host/a", "abc").unwrap_err()[0].key, "sha256");
    }
}
