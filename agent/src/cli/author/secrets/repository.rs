//! The Secrets of a working tree, with the recipients that git gives them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::Value;
use towpath_host::{Clock as _, SystemClock, identity::Identity, own::files, process::environment};
use towpath_render::{
    document::{Path as ValuePath, Step},
    objects::{Key, Object, ObjectSet, is_about_values},
    tree,
};
use towpath_secrets::{
    Identities, Plaintext, Recipient, Recipients,
    envelope::{OpenError, ValueName},
    sops::{SopsError, SopsFile},
};
use zeroize::Zeroizing;

use super::{
    paths::regular_file,
    readers::{Readers, readers, recovery, serial_revocations},
};
use crate::{
    cli::{exit::Failure, output, working_tree},
    error_chain::error_chain,
};

/// The byte order mark of a text.
const MARK: &str = "\u{feff}";

/// The name of the source of `--source-dir`.
const FIRST: &str = "first";

/// The working tree to read and change.
#[derive(Debug, Args)]
pub(super) struct Folders {
    /// The working tree of the first source
    #[arg(long, value_name = "DIR", default_value = ".")]
    source_dir: PathBuf,
    /// The working tree of a further source
    #[arg(long = "source", value_name = "NAME=DIR")]
    sources: Vec<String>,
}

/// The private keys that open values.
#[derive(Debug, Args)]
pub(super) struct IdentityFiles {
    /// A file with age identities, or the key file of a node. Default: the file that SOPS_AGE_KEY_FILE names
    #[arg(long = "identity", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl IdentityFiles {
    pub(super) fn read(&self) -> Result<Identities, Failure> {
        let default = environment("SOPS_AGE_KEY_FILE").map(PathBuf::from).filter(|_| self.files.is_empty());
        let mut identities = Identities::default();
        for file in self.files.iter().chain(&default) {
            let text = files::read_text(file).map(Zeroizing::new);
            let text =
                text.map_err(|error| Failure::failed(format!("cannot read the identity {}: {error}", file.display())))?;
            if text.starts_with("-----BEGIN PRIVATE KEY-----") {
                identities.add_node(&Identity::from_pem(&text, file)?);
            } else {
                identities.add_file(&text).map_err(|error| {
                    Failure::invalid(format!("cannot use the identity file {}: {error}", file.display()))
                })?;
            }
        }
        Ok(identities)
    }
}

/// The objects of a working tree.
#[derive(Debug)]
pub(super) struct Repository {
    set: ObjectSet,
    folders: BTreeMap<String, PathBuf>,
    recovery: Vec<Recipient>,
}

/// A Secret, with the recipients that git gives it.
#[derive(Debug)]
pub(super) struct Secret<'a> {
    pub(super) object: &'a Object,
    /// The path of the file that holds the Secret.
    pub(super) file: PathBuf,
    /// The text of the file that holds the Secret, as it was loaded.
    pub(super) text: String,
    /// The path of the file of sops with the values; `None` if the values are in `data`.
    pub(super) sops: Option<PathBuf>,
    pub(super) recipients: Recipients,
    /// The warnings about readers that cannot be recipients.
    pub(super) warnings: Vec<String>,
}

impl Repository {
    /// Loads a working tree. The only errors that are allowed are those that the commands repair: missing values and
    /// values that are not encrypted.
    pub(super) fn load(folders: &Folders) -> Result<Self, Failure> {
        let loaded = working_tree::load_folders(FIRST, &folders.source_dir, &folders.sources)?;
        let errors: Vec<_> = loaded.errors.iter().filter(|problem| !is_about_values(problem)).collect();
        if let Some(first) = errors.first() {
            let more = errors.len().saturating_sub(1);
            let others = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            return Err(Failure::invalid(format!(
                "cannot resolve the readers of Secrets: {}:{}: {}{others}",
                first.file, first.line, first.message
            ))
            .hint("correct the errors that `towpath validate` shows"));
        }
        let further = folders.sources.iter().filter_map(|written| written.split_once('='));
        let further = further.map(|(name, folder)| (name.to_owned(), PathBuf::from(folder)));
        let folders = [(FIRST.to_owned(), folders.source_dir.clone())].into_iter().chain(further).collect();
        let recovery = recovery(&loaded.set)
            .map_err(|(config, error)| Failure::invalid(format!("the Config {}: {error}", config.name)))?;
        Ok(Self { set: loaded.set, folders, recovery })
    }

    /// Returns all Secrets, sorted by name.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Object> {
        self.set.objects.values().filter(|object| object.key.kind == "Secret")
    }

    /// Returns the Secret that is written as `NAMESPACE/NAME`.
    pub(super) fn secret(&self, written: &str) -> Result<Secret<'_>, Failure> {
        let (namespace, name) = written.split_once('/').ok_or_else(|| {
            Failure::invalid(format!("{written:?} does not name a Secret")).hint("write NAMESPACE/NAME")
        })?;
        let found = self.secrets().find(|object| object.key.namespace == namespace && object.key.name == name);
        let object = found.ok_or_else(|| {
            Failure::invalid(format!("the working tree has no Secret {written}"))
                .hint("create the object with its readers first; --source-dir names the working tree")
        })?;
        self.resolve(object)
    }

    /// Resolves the recipients of a Secret: the keys of its readers, and the recovery recipients.
    pub(super) fn resolve<'a>(&'a self, object: &'a Object) -> Result<Secret<'a>, Failure> {
        let secret = secret_name(&object.key);
        let file = self.file(object, object.place.file())?;
        // The loader leaves the byte order mark out.
        let mark = if text_of(&file)?.starts_with(MARK) { MARK } else { "" };
        let text = format!("{mark}{}", object.place.text());
        let sops = object.spec.get("sops").and_then(Value::as_str).map(|path| self.file(object, path)).transpose()?;
        let Readers { recipients, unknown, revoked } =
            readers(&self.set, &self.recovery, &object.key).map_err(Failure::invalid)?;
        let unknown = unknown.iter().map(|node| {
            format!("the node {node} cannot read the Secret {secret} yet: its Node object has no publicKeys; add them, and run `towpath secrets rewrap`")
        });
        let revoked = revoked.iter().map(|node| {
            format!("the node {node} cannot read the Secret {secret}: its key is revoked (`revoked` in a Config); give the node a new identity, or remove it from the readers")
        });
        let warnings = unknown.chain(revoked).collect();
        let recipients = Recipients::new(recipients).ok_or_else(|| {
            Failure::invalid(format!("cannot encrypt values of the Secret {secret}: it has no recipient"))
                .hint("name readers with publicKeys in their Node objects, or recoveryRecipients in a Config object")
        })?;
        Ok(Secret { object, file, text, sops, recipients, warnings })
    }

    /// Returns the full path of a file in the working tree of an object's source. Only a regular file of the working tree
    /// may be read and written, and no link leads to it.
    fn file(&self, object: &Object, path: &str) -> Result<PathBuf, Failure> {
        let refused = |why: &str| {
            Failure::invalid(format!("cannot use the file {path} of the Secret {}: {why}", secret_name(&object.key)))
        };
        let source = object.place.source();
        let (Some(folder), Some(tree)) = (self.folders.get(source), self.set.trees.get(source)) else {
            return Err(refused("it is not in a working tree").hint("run the command in the repository of the file"));
        };
        let path = regular_file(tree.as_ref(), path).map_err(|why| refused(&why))?;
        Ok(folder.join(path))
    }

    /// Returns another Secret that names the same file of sops, if there is one.
    pub(super) fn sharer_of(&self, secret: &Secret<'_>) -> Option<String> {
        sharer(&self.set, secret.object).map(|other| secret_name(&other.key))
    }

    /// Returns true if a certificate is revoked by its serial number.
    pub(super) fn revokes_serials(&self) -> bool {
        !serial_revocations(&self.set).is_empty()
    }

    /// Returns true if git names a recipient that does not depend on the fleet.
    pub(super) fn has_recovery(&self) -> bool {
        !self.recovery.is_empty()
    }
}

impl Secret<'_> {
    /// Prints the warnings about readers that cannot be recipients.
    pub(super) fn warn(&self) {
        for warning in &self.warnings {
            output::progress(&format!("warning: {warning}"));
        }
    }

    /// Returns the values of `data`, as written.
    pub(super) fn data(&self) -> BTreeMap<String, String> {
        let data = self.object.spec.get("data").and_then(Value::as_object).into_iter().flatten();
        data.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    /// Refuses a Secret whose values do not come from one of the given fields of its spec.
    pub(super) fn refuse_origins_except(&self, allowed: &[&str]) -> Result<(), Failure> {
        let is_written = |key: &&str| self.object.spec.get(*key).is_some_and(|value| !value.is_null());
        let origins = ["data", "sops", "vault", "file", "generate"].into_iter().filter(is_written);
        let found = origins.into_iter().find(|origin| !allowed.contains(origin));
        found.map_or(Ok(()), |origin| {
            let secret = secret_name(&self.object.key);
            let failure =
                Failure::invalid(format!("the values of the Secret {secret} come from `{origin}`, not from `data`"));
            Err(if origin == "sops" { failure.hint("use `towpath secrets edit`") } else { failure })
        })
    }

    pub(super) fn value_name(&self, key: &str) -> ValueName {
        ValueName::of_secret(&self.object.key.namespace, &self.object.key.name, key)
    }

    /// Encrypts a value to the recipients of the Secret.
    pub(super) fn seal(&self, key: &str, value: &Plaintext) -> Result<String, Failure> {
        let sealed = towpath_secrets::envelope::seal(value, &self.value_name(key), &self.recipients);
        sealed.map_err(|error| Failure::invalid(error.to_string()))
    }
}

/// Returns the name of a Secret for people.
pub(super) fn secret_name(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

/// Returns the path of a value in the document of its Secret.
pub(super) fn value_path(key: &str) -> ValuePath {
    ValuePath([Step::Key("spec".into()), Step::Key("data".into()), Step::Key(key.into())].into())
}

/// Returns the current time in RFC 3339.
pub(super) fn now() -> String {
    let now = chrono::DateTime::from_timestamp_millis(SystemClock.wall()).unwrap_or_default();
    now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// Returns another Secret that names the same file of sops as a Secret.
pub(super) fn sharer<'a>(set: &'a ObjectSet, secret: &Object) -> Option<&'a Object> {
    let named = |object: &Object| {
        let path = object.spec.get("sops").and_then(Value::as_str)?;
        Some((object.place.source().to_owned(), tree::join("", path).ok()?))
    };
    let file = named(secret)?;
    let others = set.objects.values().filter(|other| other.key.kind == "Secret" && other.key != secret.key);
    others.into_iter().find(|other| named(other).as_ref() == Some(&file))
}

fn text_of(file: &Path) -> Result<String, Failure> {
    files::read_text(file).map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))
}

/// Reads a file of sops. Returns its text, too.
pub(super) fn read_sops(file: &Path) -> Result<(String, SopsFile), Failure> {
    let text = text_of(file)?;
    let sops = SopsFile::read(&text).map_err(|error| not_sops(file, &error))?;
    Ok((text, sops))
}

/// Returns the failure for a file of sops that cannot be used.
pub(super) fn not_sops(file: &Path, error: &SopsError) -> Failure {
    let failure = Failure::invalid(format!("cannot use {}: {}", file.display(), error_chain(error)));
    match error {
        SopsError::Key(OpenError::NoIdentity) => {
            failure.hint("name a file with an identity of a recipient: --identity FILE, or SOPS_AGE_KEY_FILE")
        }
        _ => failure,
    }
}
