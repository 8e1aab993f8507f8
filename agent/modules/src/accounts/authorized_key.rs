//! The module `authorizedKey` manages a public key with which a user logs in over ssh (sshd(8), AUTHORIZED_KEYS FILE
//! FORMAT).

use serde_json::{Value, json};
use towpath_host::{FsReader, FsWriter, Meta, diff, files::Access, process};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Change, Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, one_line, parse},
    resource::resource,
};

/// The resolved parameters of the module `authorizedKey`: a public key and its user.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizedKeySpec {
    user: String,
    /// The type and the data of the public key, which together identify the key.
    key: String,
    line: String,
    absent: bool,
}

/// The module `authorizedKey`.
#[derive(Debug)]
pub(crate) struct AuthorizedKey;

impl Module for AuthorizedKey {
    fn schema(&self) -> &'static ModuleSchema {
        pb::AuthorizedKey::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for AuthorizedKeySpec {
    fn module(&self) -> &'static dyn Module {
        &AuthorizedKey
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
}

/// The types of public keys that sshd accepts.
const KINDS: [&str; 6] =
    ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519@", "sk-ecdsa-sha2-", "ssh-ed25519-cert"];

pub(crate) fn resolve(key: &pb::AuthorizedKey) -> Result<AuthorizedKeySpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let user = key.user.clone().unwrap_or_default();
    if user.is_empty() || user.contains(['/', ':']) {
        problems.push(Problem::new("user", format!("{user:?} is not a valid name of a user")));
    }
    let text = key.key.as_deref().unwrap_or_default().trim();
    let words: Vec<&str> = text.split_whitespace().collect();
    let (kind, blob) = (words.first().copied().unwrap_or_default(), words.get(1).copied().unwrap_or_default());
    if !is_kind(kind) || blob.is_empty() || text.contains('\n') {
        problems.push(
            Problem::new("key", "the value is not an ssh public key")
                .hint("write the line of the .pub file (kind, key, comment), and write restrictions in options"),
        );
    }
    let options = key.options.as_deref().unwrap_or_default().trim();
    one_line("options", options, &mut problems);
    one_line("key", text, &mut problems);
    if !is_one_word(options) {
        problems.push(
            Problem::new("options", "the options contain an unquoted blank or an unclosed quote")
                .hint("separate the options by commas, and quote values with blanks: from=\"10.0.0.0/8\",no-pty"),
        );
    }
    done(problems)?;
    let line = if options.is_empty() { text.to_owned() } else { format!("{options} {text}") };
    let absent = key.state.as_deref() == Some("absent");
    Ok(AuthorizedKeySpec { user, key: format!("{kind} {blob}"), line, absent })
}

fn is_kind(word: &str) -> bool {
    KINDS.iter().any(|known| word.starts_with(known))
}

/// Returns the type and the data of the public key in a line, as sshd parses the line. Returns `None` if the line
/// contains no key.
fn key_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let first = line.split_whitespace().next()?;
    let key = if is_kind(first) { line } else { &line[options_length(line)..] };
    let mut words = key.split_whitespace();
    let (kind, blob) = (words.next().filter(|kind| is_kind(kind))?, words.next()?);
    Some(format!("{kind} {blob}"))
}

/// Returns the length of the key options at the start of a line. The options end at the first blank that is not in
/// quotes.
fn options_length(line: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return at,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
    }
    line.len()
}

/// Returns true if the options of a key contain no blank outside of quotes, because sshd ends the options at a blank.
fn is_one_word(options: &str) -> bool {
    let quotes = |text: &str| {
        let (mut quoted, mut escaped) = (false, false);
        for c in text.chars() {
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
        }
        quoted
    };
    options_length(options) == options.len() && !quotes(options)
}

/// Returns the home directory of a user; `None` if the user or the directory is missing. The user can create links and
/// files in the home directory at any time, so the agent does not trust the directory.
fn home(user: &str, context: &Context<'_>) -> Result<Option<String>, ModuleError> {
    let io = |error: std::io::Error| ModuleError::io("/etc/passwd", &error);
    let bytes = context.reader.read("/etc/passwd").map_err(io)?.map(|(bytes, _)| bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let line = text.lines().find(|line| line.split(':').next() == Some(user));
    let Some(home) = line.and_then(|line| line.split(':').nth(5)).filter(|home| home.starts_with('/')) else {
        return Ok(None);
    };
    if home.trim_matches('/').is_empty() {
        return Err(ModuleError::new(format!(
            "cannot manage the keys of user {user}: the home directory is /; set another home directory"
        )));
    }
    let home = home.trim_end_matches('/');
    let there = context.reader.exists(home).map_err(|error| ModuleError::io(home, &error))?;
    Ok(there.then(|| home.to_owned()))
}

/// Returns the path of the `authorized_keys` file in a home directory.
fn keys(home: &str) -> String {
    format!("{home}/.ssh/authorized_keys")
}

/// The old and the new content of an `authorized_keys` file.
struct Edit {
    old: Vec<u8>,
    new: Vec<u8>,
    meta: Option<Meta>,
}

/// Returns the change that brings the `authorized_keys` file to the desired state; `None` if the file is in sync.
fn edit(spec: &AuthorizedKeySpec, home: &str, reader: &FsReader) -> Result<Option<Edit>, ModuleError> {
    let path = keys(home);
    let real = |path: &str| reader.resolved(path, true).map_err(|error| ModuleError::io(path, &error));
    let (end, folder) = (real(&path)?, real(home)?);
    if !end.starts_with(&format!("{folder}/")) {
        let message = format!("cannot edit {path}: a link leads out of the home directory, to {end}; remove the link");
        return Err(ModuleError::new(message));
    }
    let read = reader.read(&path).map_err(|error| ModuleError::io(&path, &error))?;
    // The new file belongs to the user and contains all lines of the old file. If the old file were a hard link to
    // another user's file, the new file would disclose its content.
    let owner = process::user(&spec.user).map(|ids| ids.0);
    if let Some((_, meta)) = read.as_ref().filter(|(_, meta)| meta.names > 1 && Some(meta.uid) != owner) {
        return Err(ModuleError::new(format!(
            "cannot edit {path}: the path is a hard link to a file of uid {}; remove the hard link",
            meta.uid
        )));
    }
    let (old, meta) = read.map_or((Vec::new(), None), |(bytes, meta)| (bytes, Some(meta)));
    let text = String::from_utf8_lossy(&old).into_owned();
    // A line that is a comment does not authorize its key, so the line stays.
    let authorizes = |line: &&str| key_of(line).as_deref() == Some(spec.key.as_str());
    let kept = |line: &&str| !authorizes(line) || !spec.absent && *line == spec.line;
    let mut lines: Vec<&str> = text.lines().filter(kept).collect();
    let there = text.lines().filter(authorizes).count();
    let right = if spec.absent { there == 0 } else { there == 1 && lines.contains(&spec.line.as_str()) };
    if right {
        return Ok(None);
    }
    lines.retain(|line| *line != spec.line);
    if !spec.absent {
        lines.push(&spec.line);
    }
    let mut new = lines.join("\n");
    if !new.is_empty() {
        new.push('\n');
    }
    Ok(Some(Edit { old, new: new.into_bytes(), meta }))
}

pub(crate) fn check(spec: &AuthorizedKeySpec, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let Some(home) = home(&spec.user, context)? else {
        // A missing user has no keys to remove. A missing user may still be created by an earlier task.
        let why =
            format!("this node has no user {:?} with a home directory; create the user in an earlier task", spec.user);
        return Ok(if spec.absent { Checked::InSync } else { Checked::Unknown(why) });
    };
    let Some(edit) = edit(spec, &home, context.reader)? else { return Ok(Checked::InSync) };
    let diff = diff::unified(&format!("authorized_keys of {}", spec.user), &edit.old, &edit.new);
    let verb = if spec.absent { Verb::Remove } else { Verb::Update };
    Ok(Checked::Change(Change { verb, diff, steps: Vec::new() }))
}

pub(crate) fn run(spec: &AuthorizedKeySpec, context: &Context<'_>, writer: &FsWriter) -> Result<Report, ModuleError> {
    let Some(home) = home(&spec.user, context)? else {
        return Err(ModuleError::new(format!("this node has no user {:?} with a home", spec.user)));
    };
    let Some(edit) = edit(spec, &home, context.reader)? else { return Ok(Report::success()) };
    let io = |error: std::io::Error| ModuleError::io(&format!("authorized_keys of {}", spec.user), &error);
    let ids = process::user(&spec.user);
    let (uid, gid) = (ids.map(|ids| ids.0), ids.map(|ids| ids.1));
    let folder = format!("{home}/.ssh");
    if !writer.make_directory(&folder, 0o700).map_err(io)?.is_empty() {
        writer.set_permissions(&folder, Access { mode: 0o700, uid, gid }).map_err(io)?;
    }
    let mode = edit.meta.map_or(0o600, |meta| meta.mode);
    writer.replace(&keys(&home), &edit.new, Access { mode, uid, gid }).map_err(io)?;
    Ok(Report::success())
}

/// Returns the parameters that undo the task; `None` if the key is already authorized, or if the task removes the key.
pub(crate) fn undo(spec: &AuthorizedKeySpec, context: &Context<'_>) -> Option<Value> {
    let there = home(&spec.user, context).ok()?.and_then(|home| context.reader.read(&keys(&home)).ok()?).is_some_and(
        |(bytes, _)| {
            String::from_utf8_lossy(&bytes).lines().any(|line| key_of(line).as_deref() == Some(spec.key.as_str()))
        },
    );
    let new = !spec.absent && !there;
    new.then(|| json!({ "user": spec.user, "key": spec.key, "state": "absent" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_or_key_that_would_write_another_key_are_refused() {
        let of = |options: &str, comment: &str| {
            let key = Some(format!("ssh-ed25519 AAAA {comment}"));
            let options = Some(options.to_owned());
            resolve(&pb::AuthorizedKey { user: Some("ada".into()), key, options, ..pb::AuthorizedKey::default() })
        };
        for options in ["", "no-pty", "from=\"10.0.0.0/8\",command=\"echo \\\"a b\\\"\"", "environment=\"A=b c\""] {
            assert!(of(options, "ann").is_ok(), "{options}");
        }
        for options in ["ssh-ed25519 BBBB", "no-pty ssh-ed25519 BBBB", "command=\"x", "a\rb", "a\nb", "a\u{85}b"] {
            assert_eq!(of(options, "ann").unwrap_err()[0].key, "options", "{options}");
        }
        for comment in ["a\rssh-ed25519 BBBB", "a\nssh-ed25519 BBBB", "a\0"] {
            assert_eq!(of("", comment).unwrap_err()[0].key, "key", "{comment}");
        }
    }

    fn of(key: &str, state: &str) -> AuthorizedKeySpec {
        let state = Some(state.to_owned());
        resolve(&pb::AuthorizedKey { user: Some("ada".into()), key: Some(key.into()), state, options: None }).unwrap()
    }

    /// Returns the new content of an `authorized_keys` file; `None` if the file needs no change.
    fn edited(spec: &AuthorizedKeySpec, old: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("home/ada/.ssh")).unwrap();
        std::fs::write(folder.path().join("home/ada/.ssh/authorized_keys"), old).unwrap();
        let edit = edit(spec, "/home/ada", &FsReader::at(folder.path()).unwrap()).unwrap();
        edit.map(|edit| String::from_utf8(edit.new).unwrap())
    }

    #[test]
    fn key_in_a_comment_or_in_another_key_is_not_authorized() {
        let (key, present) = ("ssh-ed25519 AAAA ann", of("ssh-ed25519 AAAA ann", "present"));
        for other in [
            "#ssh-ed25519 AAAA ann",
            "  # off: ssh-ed25519 AAAA ann",
            "ssh-ed25519 AAAABBBB bob",
            "command=\"echo ssh-ed25519 AAAA\" ssh-rsa CCCC bob",
            "ssh-rsa CCCC ssh-ed25519 AAAA",
            "sk-ssh-ed25519@openssh.com AAAA ann",
        ] {
            let old = format!("{other}\n");
            assert_eq!(edited(&present, &old), Some(format!("{other}\n{key}\n")), "{other}");
            assert_eq!(edited(&of(key, "absent"), &old), None, "{other}");
        }
    }

    #[test]
    fn key_with_other_options_or_blanks_is_replaced_and_removed() {
        let (key, present) = ("ssh-ed25519 AAAA ann", of("ssh-ed25519 AAAA ann", "present"));
        assert_eq!(edited(&present, "ssh-ed25519 AAAA ann\n"), None);
        for same in [
            "no-pty,command=\"echo \\\"a b\\\"\" ssh-ed25519 AAAA other",
            "  ssh-ed25519\tAAAA",
            "from=\"10.0.0.0/8\"  ssh-ed25519  AAAA  ann",
        ] {
            let old = format!("# a\n{same}\n");
            assert_eq!(edited(&present, &old), Some(format!("# a\n{key}\n")), "{same}");
            assert_eq!(edited(&of(key, "absent"), &old), Some("# a\n".to_owned()), "{same}");
        }
    }
}
