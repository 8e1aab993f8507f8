//! `towpath secrets edit`: the values of a Secret in an editor.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use towpath_host::own::editor::{self, PrivateText};
use towpath_secrets::{
    Identities, Plaintext,
    editing::{self, EditError},
    envelope, splice,
};

use super::repository::{Edits, Folders, IdentityFiles, Repository, Secret, value_path};
use crate::cli::{
    exit::Failure,
    output::{self, Output},
};

/// Edits the values of a Secret in $VISUAL or $EDITOR.
///
/// The decrypted values are in a private file in memory while the editor runs, and are wiped afterwards. A value that did
/// not change keeps its ciphertext.
#[derive(Debug, Args)]
pub(super) struct Edit {
    /// The Secret, as NAMESPACE/NAME
    secret: String,
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

impl Edit {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let repository = Repository::load(&self.folders)?;
        let secret = repository.secret(&self.secret)?;
        secret.refuse_other_origins()?;
        let values = decrypted(&secret, &self.identities.read()?)?;
        let edited = editor::uninterrupted(|| self.edit(&values)).map_err(|error| Failure::error(&error))??;
        let difference = difference(&values, edited)?;
        let mut edits = Edits::default();
        let document = secret.object.place.document();
        for (key, value) in &difference.set {
            let armor = secret.seal(key, value)?;
            edits.change(&secret.file, |text| splice::set(text, document, &value_path(key), &Value::String(armor)))?;
        }
        for key in &difference.removed {
            edits.change(&secret.file, |text| splice::remove(text, document, &value_path(key)))?;
        }
        edits.write()?;
        let set: Vec<&String> = difference.set.keys().collect();
        let report =
            json!({ "secret": self.secret, "file": secret.file, "encrypted": set, "removed": difference.removed });
        output::print(self.output.output, &report, || {
            let mut text = String::new();
            for key in &set {
                text.push_str(&format!("{}: {key} of {} is encrypted\n", secret.file.display(), self.secret));
            }
            for key in &difference.removed {
                text.push_str(&format!("{}: {key} of {} is removed\n", secret.file.display(), self.secret));
            }
            if text.is_empty() { "nothing changed\n".into() } else { text }
        })?;
        Ok(0)
    }

    /// Runs the editor until the text is valid. An editor that saves an invalid text twice without a change ends the edit.
    fn edit(&self, values: &BTreeMap<String, Plaintext>) -> Result<BTreeMap<String, Plaintext>, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot edit {}: {error}", self.secret));
        let private = PrivateText::new("secret.yaml").map_err(failed)?;
        let mut comments = vec![
            format!("The values of the Secret {}. Lines that begin with # are ignored.", self.secret),
            "A changed value is encrypted to the readers of the Secret; a removed key is removed from the file.".into(),
        ];
        let binary = values.iter().filter(|(_, value)| value.text().is_none());
        comments.extend(
            binary.map(|(key, value)| format!("{key:?} is binary ({} bytes), and is kept.", value.expose().len())),
        );
        let mut text = editing::write(&comments, values);
        let mut refused: Option<(String, EditError)> = None;
        loop {
            let saved = private.edit(&text).map_err(failed)?;
            let error = match editing::read(&saved) {
                Ok(edited) => return Ok(edited),
                Err(error) => error,
            };
            let body = without_errors(&saved);
            if refused.as_ref().is_some_and(|(before, _)| *before == body) {
                return Err(Failure::invalid(format!("cannot use the edited values of {}: {error}", self.secret))
                    .hint("nothing was changed; run the command again"));
            }
            text = zeroize::Zeroizing::new(format!("{ERROR}{error}\n{body}"));
            refused = Some((body, error));
        }
    }
}

/// The begin of the line that shows an error in the edited text.
const ERROR: &str = "# ERROR: ";

fn without_errors(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with(ERROR)).collect()
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
