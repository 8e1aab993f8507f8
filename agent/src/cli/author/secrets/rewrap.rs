//! `towpath secrets rewrap`: all values of a repository, encrypted to the readers of their Secrets.

use std::{convert::Infallible, path::Path};

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
    repository::{
        Edits, Folders, IdentityFiles, Repository, Secret, not_sops, now, read_sops, secret_name, value_path,
    },
};
use crate::cli::{
    exit::Failure,
    output::{self, Output},
};

/// Makes all values of a repository agree with the readers of their Secrets.
///
/// A value with other recipients is encrypted again, under a new data key. So is a value that the program age encrypted;
/// it is then bound to its key. Other values keep their ciphertext. A file of sops gets the same recipients; if one was
/// removed, all its values are encrypted again under a new data key. A former reader still knows the old value: change the
/// value, too. The data key of a file of sops is encrypted again to all recipients, because its list of recipients is not
/// proved.
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

impl Rewrap {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let repository = Repository::load(&self.folders)?;
        let identities = self.identities.read()?;
        let mut edits = Edits::default();
        let (mut rows, mut kept) = (Vec::new(), 0_usize);
        for secret in self.chosen(&repository)? {
            if let Some(file) = &secret.sops {
                match rewrap_sops(&secret, file, &identities, &mut edits)? {
                    None => kept = kept.saturating_add(1),
                    Some(reason) => rows.push((secret_name(&secret.object.key), None, file.clone(), reason)),
                }
            }
            for (key, armor) in secret.data() {
                match reason(&secret, &key, &armor)? {
                    None => kept = kept.saturating_add(1),
                    Some(reason) => {
                        rewrap(&secret, &key, &armor, &identities, &mut edits)?;
                        rows.push((secret_name(&secret.object.key), Some(key), secret.file.clone(), reason));
                    }
                }
            }
        }
        edits.write()?;
        let left = rows.iter().any(|row| matches!(row.3, Reason::Recipients { removed: 1.., .. }));
        if left {
            output::progress("warning: removed recipients still know the old values; change the values, too");
        }
        let values: Vec<Value> = rows
            .iter()
            .map(|(secret, key, file, reason)| json!({ "secret": secret, "key": key, "file": file, "reason": reason.text() }))
            .collect();
        output::print(self.output.output, &json!({ "rewrapped": values, "unchanged": kept }), || {
            let mut text = String::new();
            for (secret, key, file, reason) in &rows {
                let value = key.as_deref().unwrap_or("the file");
                text.push_str(&format!(
                    "{}: {value} of {secret} is encrypted again: {}\n",
                    file.display(),
                    reason.text()
                ));
            }
            text.push_str(&format!("{} encrypted again, {kept} unchanged\n", rows.len()));
            text
        })?;
        Ok(0)
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

fn rewrap(
    secret: &Secret<'_>,
    key: &str,
    armor: &str,
    identities: &Identities,
    edits: &mut Edits,
) -> Result<(), Failure> {
    let name = secret.value_name(key);
    let opened = envelope::open(armor, &name, identities).map_err(|error| not_opened(&name, &error))?;
    let armor = secret.seal(key, &opened.value)?;
    let document = secret.object.place.document();
    edits.change(&secret.file, |text| splice::set(text, document, &value_path(key), &Value::String(armor)))
}

/// Encrypts a file of sops to the readers of its Secret. Returns `None` if the file agrees with its Secret.
fn rewrap_sops(
    secret: &Secret<'_>,
    file: &Path,
    identities: &Identities,
    edits: &mut Edits,
) -> Result<Option<Reason>, Failure> {
    let sops = read_sops(file)?;
    let Difference { added, removed } = sops.difference(&secret.recipients);
    let reason = match (added, removed) {
        (0, 0) if sops.is_mislabelled(identities) => Reason::Unknown,
        (0, 0) => return Ok(None),
        _ => Reason::Recipients { added, removed },
    };
    let text = sops.open(identities).and_then(|open| open.rewrap(&secret.recipients, &now()));
    let text = text.map_err(|error| not_sops(file, &error))?;
    edits.change(file, |_| Ok::<_, Infallible>(text))?;
    Ok(Some(reason))
}
