//! `towpath secrets rewrap`: all values of a repository, encrypted to the readers of their Secrets.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};
use towpath_render::objects::Object;
use towpath_secrets::{
    Identities,
    envelope::{self, Inspection, OpenError},
    sops::Difference,
    splice,
};

use super::{
    edit::not_opened,
    edits::Edits,
    repository::{Folders, IdentityFiles, Repository, Secret, not_sops, now, read_sops, secret_name, value_path},
};
use crate::cli::{
    exit::{self, Failure},
    output::{self, Output},
};

/// Makes all values of a repository agree with the readers of their Secrets.
///
/// A value with other recipients is encrypted again, under a new data key. Values that agree keep their ciphertext. A
/// former reader still knows the old value: change the value, too.
///
/// A value that the program age encrypted is not bound to its Secret, and neither is a file of sops. A person who may
/// change one Secret can copy them from another. They are encrypted again only if the Secret is named; the command lists
/// the others, and its exit status is 2. Such a value is then bound to its key. A file of sops gets the readers of its
/// Secret; if one was removed, all its values are encrypted again under a new data key.
#[derive(Debug, Args)]
pub(super) struct Rewrap {
    /// The Secrets, as NAMESPACE/NAME. Default: all Secrets with `data` or `sops`
    #[arg(value_name = "SECRET")]
    secrets: Vec<String>,
    #[command(flatten)]
    identities: IdentityFiles,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    output: Output,
}

/// A reason to encrypt a value again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The value is not bound to its name.
    Unbound,
    /// The value has other recipients than its Secret.
    Recipients { added: usize, removed: usize },
    /// The recipients of the value are unknown.
    Unknown,
}

impl Reason {
    fn text(self) -> String {
        match self {
            Self::Unbound => "it was not bound to its key".into(),
            Self::Recipients { added, removed } => format!("recipients: {added} added, {removed} removed"),
            Self::Unknown => "its list of recipients did not match its keys".into(),
        }
    }
}

/// A value or a file of sops, in the output.
#[derive(Debug)]
struct Row {
    secret: String,
    /// The key of a value; `None` for a file of sops.
    key: Option<String>,
    file: PathBuf,
    reason: Reason,
}

impl Row {
    fn value(&self) -> Value {
        let Self { secret, key, file, reason } = self;
        json!({ "secret": secret, "key": key, "file": file.display().to_string(), "reason": reason.text() })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.key.as_deref().unwrap_or("the file");
        write!(f, "{}: {value} of {}", self.file.display(), self.secret)
    }
}

impl Rewrap {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let repository = Repository::load(&self.folders)?;
        let identities = self.identities.read()?;
        let is_named = !self.secrets.is_empty();
        let mut edits = Edits::default();
        let (mut rows, mut left, mut kept) = (Vec::new(), Vec::new(), 0_usize);
        for secret in self.chosen(&repository)? {
            secret.warn();
            if let Some(file) = &secret.sops {
                if let Some(other) = repository.sharer_of(&secret) {
                    return Err(shared(&secret, file, &other));
                }
                let (text, sops) = read_sops(file)?;
                let Difference { added, removed } = sops.difference(&secret.recipients);
                let reason = match (added, removed) {
                    (0, 0) if sops.is_mislabelled(&identities) => Some(Reason::Unknown),
                    (0, 0) => None,
                    _ => Some(Reason::Recipients { added, removed }),
                };
                let secret_row =
                    |reason| Row { secret: secret_name(&secret.object.key), key: None, file: file.clone(), reason };
                // The list of recipients in the file is not authenticated, so that also a removal could add a reader.
                match reason.map(secret_row) {
                    None => kept = kept.saturating_add(1),
                    Some(row) if is_named => {
                        let new = sops.open(&identities).and_then(|open| open.rewrap(&secret.recipients, &now()));
                        let new = new.map_err(|error| not_sops(file, &error))?;
                        edits.change(file, &text, |_| Ok::<_, Infallible>(new))?;
                        rows.push(row);
                    }
                    Some(row) => left.push(row),
                }
            }
            for (key, armor) in secret.data() {
                let Some(reason) = reason(&secret, &key, &armor)? else {
                    kept = kept.saturating_add(1);
                    continue;
                };
                let is_done = (is_named || reason != Reason::Unbound)
                    && rewrap(&secret, &key, &armor, &identities, is_named, &mut edits)?;
                let row =
                    Row { secret: secret_name(&secret.object.key), key: Some(key), file: secret.file.clone(), reason };
                if is_done { rows.push(row) } else { left.push(row) }
            }
        }
        edits.write()?;
        if rows.iter().any(|row| matches!(row.reason, Reason::Recipients { removed: 1.., .. })) {
            output::progress("warning: removed recipients still know the old values; change the values, too");
        }
        if repository.revokes_serials() {
            output::progress(
                "note: git does not know the key of a certificate that is revoked by its serial number; add the key (ed25519:…) to `revoked`, so that its node is not a recipient",
            );
        }
        let values = |rows: &[Row]| rows.iter().map(Row::value).collect::<Vec<_>>();
        let document = json!({ "rewrapped": values(&rows), "left": values(&left), "unchanged": kept });
        output::print(self.output.output, &document, || {
            let mut text = String::new();
            for row in &rows {
                text.push_str(&format!("{row} is encrypted again: {}\n", row.reason.text()));
            }
            for row in &left {
                let why = if row.key.is_some() {
                    "it is not bound to its key"
                } else {
                    "files of sops are not bound to a Secret"
                };
                text.push_str(&format!("{row} is left unchanged: {why}\n"));
            }
            text.push_str(&format!("{} encrypted again, {kept} unchanged\n", rows.len()));
            text
        })?;
        let names: BTreeSet<&str> = left.iter().map(|row| row.secret.as_str()).collect();
        if names.is_empty() {
            return Ok(0);
        }
        for name in names {
            output::progress(&format!(
                "cannot encrypt unbound values of the Secret {name} to its readers: they may be copied from another Secret"
            ));
            output::progress(&format!(
                "  hint: make sure that they belong to {name}, then run `towpath secrets rewrap {name}`"
            ));
        }
        Ok(exit::INVALID)
    }

    fn chosen<'a>(&self, repository: &'a Repository) -> Result<Vec<Secret<'a>>, Failure> {
        if !self.secrets.is_empty() {
            let chosen = self.secrets.iter().map(|written| {
                let secret = repository.secret(written)?;
                secret.refuse_origins_except(&["data", "sops"]).map(|()| secret)
            });
            return chosen.collect();
        }
        let has_data = |object: &&Object| {
            let is_written = |key: &str| object.spec.get(key).is_some_and(|value| !value.is_null());
            is_written("data") || is_written("sops")
        };
        repository.secrets().filter(has_data).map(|object| repository.resolve(object)).collect()
    }
}

/// Returns the reason to encrypt a value again; `None` if the value agrees with its Secret.
fn reason(secret: &Secret<'_>, key: &str, armor: &str) -> Result<Option<Reason>, Failure> {
    let name = secret.value_name(key);
    match envelope::inspect(armor).map_err(|error| not_opened(&name, &error))? {
        Inspection::Unbound => Ok(Some(Reason::Unbound)),
        Inspection::Bound { belongs, .. } if belongs != name => {
            Err(not_opened(&name, &OpenError::Elsewhere { belongs }))
        }
        Inspection::Bound { recipients: None, .. } => Ok(Some(Reason::Unknown)),
        Inspection::Bound { recipients: Some(found), .. } => {
            let wanted = secret.recipients.fingerprints();
            let (added, removed) = (wanted.difference(&found).count(), found.difference(&wanted).count());
            Ok((added > 0 || removed > 0).then_some(Reason::Recipients { added, removed }))
        }
    }
}

/// Encrypts a value again. Returns false, without a change, if the value turns out to be unbound and its Secret is not
/// named.
fn rewrap(
    secret: &Secret<'_>,
    key: &str,
    armor: &str,
    identities: &Identities,
    is_named: bool,
    edits: &mut Edits,
) -> Result<bool, Failure> {
    let name = secret.value_name(key);
    let opened = envelope::open(armor, &name, identities).map_err(|error| not_opened(&name, &error))?;
    if !opened.is_bound && !is_named {
        return Ok(false);
    }
    let armor = secret.seal(key, &opened.value)?;
    let document = secret.object.place.document();
    edits.change(&secret.file, &secret.text, |text| {
        splice::set(text, document, &value_path(key), &Value::String(armor))
    })?;
    Ok(true)
}

/// Returns the failure for a file of sops that two Secrets name.
fn shared(secret: &Secret<'_>, file: &Path, other: &str) -> Failure {
    let name = secret_name(&secret.object.key);
    Failure::invalid(format!("cannot encrypt {} to the readers of {name}: {other} names the file, too", file.display()))
        .hint("give each Secret its own file")
}
