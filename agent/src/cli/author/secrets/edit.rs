//! `towpath secrets edit`: the values of a Secret in an editor.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};
use towpath_host::own::editor::{self, PrivateText};
use towpath_secrets::{Identities, Plaintext, editing, envelope, sops::EditedFile, splice};
use zeroize::Zeroizing;

use super::{
    edits::Edits,
    repository::{Folders, IdentityFiles, Repository, Secret, not_sops, now, read_sops, value_path},
};
use crate::{
    cli::{
        exit::Failure,
        output::{self, Output},
    },
    error_chain::error_chain,
};

/// Edits the values of a Secret in $VISUAL or $EDITOR.
///
/// The decrypted values are in a private file in memory while the editor runs, and are wiped afterwards. A value that did
/// not change keeps its ciphertext.
#[derive(Debug, Args)]
pub(super) struct Edit {
    /// The Secret, as NAMESPACE/NAME
    secret: String,
    /// Allow new values that the rule of a file of sops leaves readable; they are written in plain text
    #[arg(long)]
    allow_plain: bool,
    #[command(flatten)]
    identities: IdentityFiles,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    output: Output,
}

/// The difference between the values before and after an edit.
#[derive(Debug, Default)]
struct Difference {
    set: BTreeMap<String, Plaintext>,
    removed: Vec<String>,
}

/// The changes of one edit, for the output.
#[derive(Debug, Default)]
struct Report {
    file: PathBuf,
    encrypted: Vec<String>,
    /// The keys whose values are written in plain text, because the rule of a file of sops leaves them readable.
    plain: Vec<String>,
    removed: Vec<String>,
}

impl Edit {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let repository = Repository::load(&self.folders)?;
        let secret = repository.secret(&self.secret)?;
        secret.refuse_origins_except(&["data", "sops"])?;
        secret.warn();
        let identities = self.identities.read()?;
        if editor::has_swap() {
            output::progress(
                "warning: this machine has swap space, so the values can reach a disk while the editor runs; turn it off with `swapoff -a`, or encrypt it",
            );
        }
        // A signal that ends this process waits until the edited values are written.
        let edit = || match &secret.sops {
            None => self.edit_data(&secret, &identities),
            Some(file) => self.edit_sops(file, &identities),
        };
        let report = editor::uninterrupted(edit).map_err(|error| Failure::error(&error))??;
        let Report { file, encrypted, plain, removed } = report;
        let document = json!({
            "secret": self.secret, "file": file.display().to_string(), "encrypted": encrypted, "plain": plain, "removed": removed,
        });
        output::print(self.output.output, &document, || {
            let lines = encrypted.iter().map(|key| (key, "encrypted"));
            let lines = lines.chain(plain.iter().map(|key| (key, "written in plain text")));
            let lines = lines.chain(removed.iter().map(|key| (key, "removed")));
            let text: String =
                lines.map(|(key, done)| format!("{}: {key} of {} is {done}\n", file.display(), self.secret)).collect();
            if text.is_empty() { "nothing changed\n".into() } else { text }
        })?;
        Ok(0)
    }

    /// Edits the values in `data`.
    fn edit_data(&self, secret: &Secret<'_>, identities: &Identities) -> Result<Report, Failure> {
        let values = decrypted(secret, identities)?;
        let binary = values.iter().filter(|(_, value)| value.text().is_none());
        let binary =
            binary.map(|(key, value)| format!("{key:?} is binary ({} bytes), and is kept.", value.expose().len()));
        let text = editing::write(&self.comments(binary), &values);
        let edited = self.edited(text, |saved| editing::read(saved).map_err(|error| error.to_string()))?;
        let Difference { set, removed } = difference(&values, edited)?;
        let mut edits = Edits::default();
        let document = secret.object.place.document();
        for (key, value) in &set {
            let armor = secret.seal(key, value)?;
            edits.change(&secret.file, &secret.text, |text| {
                splice::set(text, document, &value_path(key), &Value::String(armor))
            })?;
        }
        for key in &removed {
            edits.change(&secret.file, &secret.text, |text| splice::remove(text, document, &value_path(key)))?;
        }
        edits.write()?;
        Ok(Report { file: secret.file.clone(), encrypted: set.into_keys().collect(), plain: Vec::new(), removed })
    }

    /// Edits the values in a file of sops.
    fn edit_sops(&self, file: &Path, identities: &Identities) -> Result<Report, Failure> {
        let (loaded, sops) = read_sops(file)?;
        let open = sops.open(identities).map_err(|error| not_sops(file, &error))?;
        let mut text = Zeroizing::new(String::with_capacity(open.shown().len().saturating_add(64 << 10)));
        for comment in self.comments(std::iter::once("The comments of the file are kept, and not shown.".into())) {
            text.push_str(&format!("# {comment}\n"));
        }
        text.push_str(&open.shown());
        let edited =
            self.edited(text, |saved| open.edit(saved, &now(), self.allow_plain).map_err(|error| error_chain(&error)))?;
        let mut edits = Edits::default();
        let EditedFile { text, encrypted, plain, removed } = edited;
        edits.change(file, &loaded, |_| Ok::<_, Infallible>(text))?;
        edits.write()?;
        Ok(Report { file: file.to_owned(), encrypted, plain, removed })
    }

    fn comments(&self, further: impl Iterator<Item = String>) -> Vec<String> {
        let comments = [
            format!("The values of the Secret {}. Lines that begin with # are ignored.", self.secret),
            "A changed value is encrypted to the readers of the Secret; a removed key is removed from the file.".into(),
        ];
        comments.into_iter().chain(further).collect()
    }

    /// Runs the editor until its text can be used. An editor that saves the same unusable text twice ends the edit.
    fn edited<T>(&self, text: Zeroizing<String>, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot edit {}: {error}", self.secret));
        let private = PrivateText::new("secret.yaml").map_err(failed)?;
        let (mut text, mut refused) = (text, None);
        loop {
            let saved = private.edit(&text).map_err(failed)?;
            let error = match read(&saved) {
                Ok(edited) => return Ok(edited),
                Err(error) => error,
            };
            let body = without_errors(&saved);
            if refused.as_ref() == Some(&body) {
                return Err(Failure::invalid(format!("cannot use the edited values of {}: {error}", self.secret))
                    .hint("nothing was changed; run the command again"));
            }
            text = Zeroizing::new(format!("{ERROR}{error}\n{}", *body));
            refused = Some(body);
        }
    }
}

/// The begin of the line that shows an error in the edited text.
const ERROR: &str = "# ERROR: ";

/// Returns a text without the lines that show an error.
fn without_errors(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.split_inclusive('\n').filter(|line| !line.starts_with(ERROR)).collect())
}

/// Decrypts the values of a Secret. A value that is not encrypted is returned as it is written.
fn decrypted(secret: &Secret<'_>, identities: &Identities) -> Result<BTreeMap<String, Plaintext>, Failure> {
    let mut values = BTreeMap::new();
    for (key, armor) in secret.data() {
        let name = secret.value_name(&key);
        let opened = envelope::open(&armor, &name, identities).map_err(|error| not_opened(&name, &error))?;
        values.insert(key, opened.value);
    }
    Ok(values)
}

/// Returns the failure for a value that does not open.
pub(super) fn not_opened(name: &envelope::ValueName, error: &envelope::OpenError) -> Failure {
    let failure = Failure::invalid(format!("cannot decrypt {name}: {error}"));
    match error {
        envelope::OpenError::NoIdentity => {
            failure.hint("name a file with an identity of a recipient: --identity FILE, or SOPS_AGE_KEY_FILE")
        }
        envelope::OpenError::Elsewhere { .. } => {
            failure.hint("encrypt the value for this key with `towpath secrets encrypt`")
        }
        envelope::OpenError::NotAge(_) => failure
            .hint("encrypt the value with `towpath secrets encrypt`, and replace it: it is in the history of git"),
        _ => failure,
    }
}

/// Compares the values before and after an edit. Binary values are not in the edited text, and are kept.
fn difference(before: &BTreeMap<String, Plaintext>, after: BTreeMap<String, Plaintext>) -> Result<Difference, Failure> {
    let is_kept = |(key, value): &(&String, &Plaintext)| value.text().is_none() && !after.contains_key(*key);
    let has_binary = before.iter().any(|entry| is_kept(&entry));
    if after.is_empty() && !has_binary {
        return Err(Failure::invalid("a Secret needs at least one value")
            .hint("nothing was changed; delete the Secret object to remove all values"));
    }
    let removed = before.iter().filter(|(key, value)| value.text().is_some() && !after.contains_key(*key));
    let removed = removed.map(|(key, _)| key.clone()).collect();
    let is_changed = |key: &String, value: &Plaintext| before.get(key).is_none_or(|before| !before.is(value));
    let set = after.into_iter().filter(|(key, value)| is_changed(key, value)).collect();
    Ok(Difference { set, removed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[(&str, &[u8])]) -> BTreeMap<String, Plaintext> {
        list.iter().map(|(key, value)| ((*key).to_owned(), Plaintext::copied(value))).collect()
    }

    #[test]
    fn only_changed_values_are_in_the_difference() {
        let before = values(&[("a", b"1"), ("b", b"2"), ("c", b"3"), ("binary", &[0xff])]);
        let found = difference(&before, values(&[("a", b"1"), ("b", b"new"), ("d", b"4")])).unwrap();
        assert_eq!(found.set.keys().collect::<Vec<_>>(), ["b", "d"]);
        assert_eq!(found.removed, ["c"]);
        assert!(difference(&values(&[("a", b"1")]), BTreeMap::new()).is_err());
        assert!(difference(&values(&[("a", &[0xff])]), BTreeMap::new()).unwrap().removed.is_empty());
    }
}
