//! `authorizedKey`: a key that opens a user's account over ssh (sshd(8), AUTHORIZED_KEYS FILE FORMAT).

use std::sync::Arc;

use serde_json::{Value, json};
use towpath_host::{diff, files::Access, process};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Content, Context, ModuleError, Step, Verb,
    resolve::{Problem, done},
};

/// A key and whose account it opens.
#[derive(Debug, Clone)]
pub struct Options {
    user: String,
    /// Kind and key: what tells it from others.
    key: String,
    line: String,
    absent: bool,
}

/// The kinds of keys that sshd takes.
const KINDS: [&str; 6] =
    ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519@", "sk-ecdsa-sha2-", "ssh-ed25519-cert"];

pub(crate) fn resolve(key: &pb::AuthorizedKey) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let user = key.user.clone().unwrap_or_default();
    if user.is_empty() || user.contains(['/', ':']) {
        problems.push(Problem::new("user", format!("{user:?} is no name of a user")));
    }
    let text = key.key.as_deref().unwrap_or_default().trim();
    let words: Vec<&str> = text.split_whitespace().collect();
    let (kind, blob) = (words.first().copied().unwrap_or_default(), words.get(1).copied().unwrap_or_default());
    if !KINDS.iter().any(|known| kind.starts_with(known)) || blob.is_empty() || text.contains('\n') {
        problems.push(
            Problem::new("key", "it is no public key of ssh")
                .hint("write the line of the .pub file: kind, key, comment; restrictions stand in options"),
        );
    }
    let options = key.options.as_deref().unwrap_or_default().trim();
    if options.contains('\n') {
        problems.push(Problem::new("options", "the options have a line break"));
    }
    done(problems)?;
    let line = if options.is_empty() { text.to_owned() } else { format!("{options} {text}") };
    let absent = key.state.as_deref() == Some("absent");
    Ok(Options { user, key: format!("{kind} {blob}"), line, absent })
}

/// The home of a user below the root: what the machine's own user database says of the host is not asked.
fn home(user: &str, context: &Context<'_>) -> Result<String, ModuleError> {
    let io = |error: std::io::Error| ModuleError::io("/etc/passwd", &error);
    let bytes = context.look.read("/etc/passwd").map_err(io)?.map(|(bytes, _)| bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let line = text.lines().find(|line| line.split(':').next() == Some(user));
    let home = line.and_then(|line| line.split(':').nth(5)).filter(|home| home.starts_with('/'));
    home.map(str::to_owned).ok_or_else(|| {
        ModuleError::new(format!(
            "there is no user {user:?} on this node with a home; make it with user before this task"
        ))
    })
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let folder = format!("{}/.ssh", home(&options.user, context)?.trim_end_matches('/'));
    let path = format!("{folder}/authorized_keys");
    let io = |error: std::io::Error| ModuleError::io(&path, &error);
    let old = context.look.read(&path).map_err(io)?;
    let (bytes, meta) = old.map_or((Vec::new(), None), |(bytes, meta)| (bytes, Some(meta)));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let same = |line: &str| line.contains(&options.key);
    let mut lines: Vec<&str> =
        text.lines().filter(|line| !same(line) || !options.absent && *line == options.line).collect();
    lines.dedup();
    if !options.absent && !lines.contains(&options.line.as_str()) {
        lines.push(&options.line);
    }
    let mut wanted = lines.join("\n");
    if !wanted.is_empty() {
        wanted.push('\n');
    }
    if wanted == text {
        return Ok(Checked::InSync);
    }
    let ids = process::user(&options.user);
    let (uid, gid) = (ids.map(|ids| ids.0), ids.map(|ids| ids.1));
    let access = match meta {
        Some(meta) => Access { mode: meta.mode, uid: Some(meta.uid), gid: Some(meta.gid) },
        None => Access { mode: 0o600, uid, gid },
    };
    let mut steps = Vec::new();
    if !context.look.exists(&folder).map_err(io)? {
        steps.push(Step::MakeDirectory { path: folder, access: Access { mode: 0o700, uid, gid } });
    }
    let diff = diff::unified(&path, &bytes, wanted.as_bytes());
    steps.push(Step::Write {
        path,
        content: Content::Bytes(Arc::from(wanted.into_bytes())),
        access,
        validate: None,
        backup: false,
        expects: meta.map(|meta| meta.version),
    });
    let verb = if options.absent { Verb::Remove } else { Verb::Update };
    Ok(Checked::Change(Change { verb, diff, steps }))
}

/// The parameters that take the key away again.
pub(crate) fn undo(options: &Options) -> Option<Value> {
    (!options.absent).then(|| json!({ "user": options.user, "key": options.key, "state": "absent" }))
}
