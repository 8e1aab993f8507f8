//! The Secrets of a working tree, with the recipients that git gives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::Value;
use towpath_host::{Clock as _, SystemClock, identity::Identity, own::files, process::environment};
use towpath_render::{
    document::{Path as ValuePath, Step},
    objects::{Key, Object, ObjectSet, is_about_values},
};
use towpath_secrets::{
    Identities, Plaintext, Recipient, RecipientError, Recipients,
    envelope::{OpenError, ValueName},
    sops::{SopsError, SopsFile},
};
use zeroize::Zeroizing;

use crate::{
    cli::{exit::Failure, output, working_tree},
    error_chain::error_chain,
};

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
    /// The path of the file of sops with the values; `None` if the values are in `data`.
    pub(super) sops: Option<PathBuf>,
    pub(super) recipients: Recipients,
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
        let folder = self.folders.get(object.place.source()).cloned().unwrap_or_default();
        let sops = object.spec.get("sops").and_then(Value::as_str).map(|path| folder.join(path));
        let (recipients, unknown) = recipients(&self.set, &self.recovery, &object.key).map_err(Failure::invalid)?;
        for node in &unknown {
            output::progress(&format!(
                "warning: the node {node} cannot read the Secret {secret} yet: its Node object has no publicKeys; add them, and run `towpath secrets rewrap`"
            ));
        }
        let recipients = Recipients::new(recipients).ok_or_else(|| {
            Failure::invalid(format!("cannot encrypt values of the Secret {secret}: it has no recipient"))
                .hint("name readers with publicKeys in their Node objects, or recoveryRecipients in a Config object")
        })?;
        Ok(Secret { object, file: folder.join(object.place.file()), sops, recipients })
    }

    /// Returns true if git names a recipient that does not depend on the fleet.
    pub(super) fn has_recovery(&self) -> bool {
        !self.recovery.is_empty()
    }
}

/// Returns the recovery recipients of all Config objects.
///
/// # Errors
/// When a recipient is not usable. The error names the Config.
pub(super) fn recovery(set: &ObjectSet) -> Result<Vec<Recipient>, (Key, RecipientError)> {
    let configs = set.objects.keys().filter(|key| key.kind == "Config");
    let written = configs.filter_map(|key| Some((key, set.configs.get(&key.name)?)));
    let written = written.flat_map(|(key, config)| config.recovery_recipients.iter().map(move |text| (key, text)));
    written.map(|(key, text)| Recipient::parse(text).map_err(|error| (key.clone(), error))).collect()
}

/// Returns the recipients of a Secret, which are its readers and the recovery recipients, and the readers without public
/// keys.
///
/// # Errors
/// When the public keys of a reader are not usable.
pub(super) fn recipients(
    set: &ObjectSet,
    recovery: &[Recipient],
    secret: &Key,
) -> Result<(Vec<Recipient>, Vec<String>), String> {
    let (mut recipients, mut unknown) = (recovery.to_vec(), Vec::new());
    for node in set.readers_of(secret) {
        let keys = set.nodes.get(&node).map(|node| node.public_keys.as_slice()).unwrap_or_default();
        match Recipient::of_node(keys) {
            Ok(Some(recipient)) => recipients.push(recipient),
            Ok(None) => unknown.push(node),
            Err(error) => return Err(format!("publicKeys of the node {node}: {error}")),
        }
    }
    Ok((recipients, unknown))
}

impl Secret<'_> {
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

/// Reads a file of sops.
pub(super) fn read_sops(file: &Path) -> Result<SopsFile, Failure> {
    let text =
        files::read_text(file).map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?;
    SopsFile::read(&text).map_err(|error| not_sops(file, &error))
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

/// The edited texts of files. They are written together, after all edits succeeded.
#[derive(Debug, Default)]
pub(super) struct Edits {
    texts: BTreeMap<PathBuf, String>,
    changed: BTreeSet<PathBuf>,
}

impl Edits {
    /// Changes the text of a file. `edit` gets the text with the changes so far.
    pub(super) fn change<E: std::fmt::Display>(
        &mut self,
        file: &Path,
        edit: impl FnOnce(&str) -> Result<String, E>,
    ) -> Result<(), Failure> {
        let text = match self.texts.remove(file) {
            Some(text) => text,
            None => files::read_text(file)
                .map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?,
        };
        let edited = edit(&text).map_err(|error| Failure::invalid(format!("{}: {error}", file.display())))?;
        if edited != text {
            self.changed.insert(file.to_owned());
        }
        self.texts.insert(file.to_owned(), edited);
        Ok(())
    }

    /// Writes the changed files.
    pub(super) fn write(self) -> Result<(), Failure> {
        for (file, text) in self.texts.iter().filter(|(file, _)| self.changed.contains(*file)) {
            files::replace_text(file, text)
                .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
        }
        Ok(())
    }
}
