//! `towpath secrets encrypt`: one value, from stdin or a file.

use std::{
    io::{IsTerminal as _, Read as _},
    path::PathBuf,
};

use clap::Args;
use serde_json::{Value, json};
use towpath_host::own::files;
use towpath_secrets::{Plaintext, envelope::MAX_VALUE, splice};
use zeroize::Zeroizing;

use super::{
    edits::{Edits, changed},
    repository::{Folders, Repository, Secret, value_path},
};
use crate::cli::{
    exit::Failure,
    output::{self, Output},
};

/// The number of times that the command writes its value again after another process has changed the file.
const TRIES: usize = 100;

/// Encrypts one value of a Secret to its readers.
///
/// The value is read from stdin, or from a file. It is never an argument, because other users see arguments. All bytes
/// belong to the value, also a newline at the end.
#[derive(Debug, Args)]
pub(super) struct Encrypt {
    /// The Secret, as NAMESPACE/NAME
    secret: String,
    /// The key of the value in the Secret
    key: String,
    /// The file with the value. Default: stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    folders: Folders,
    #[command(flatten)]
    output: Output,
}

impl Encrypt {
    pub(super) fn run(self) -> Result<u8, Failure> {
        // A wrong name is reported before the value is read.
        self.secret(&Repository::load(&self.folders)?)?.warn();
        let value = self.value()?;
        let mut tries = 0_usize;
        let (file, recipients, has_recovery) = loop {
            let repository = Repository::load(&self.folders)?;
            let secret = self.secret(&repository)?;
            let armor = secret.seal(&self.key, &value)?;
            let mut edits = Edits::default();
            edits.change(&secret.file, &secret.text, |text| {
                splice::set(text, secret.object.place.document(), &value_path(&self.key), &Value::String(armor))
            })?;
            match edits.try_write()? {
                None => {
                    let recipients: Vec<String> = secret.recipients.iter().map(ToString::to_string).collect();
                    break (secret.file.clone(), recipients, repository.has_recovery());
                }
                // The value replaces no value that this command has shown, so it also belongs into the changed text.
                Some(_) if tries < TRIES => tries = tries.saturating_add(1),
                Some(file) => return Err(changed(&file)),
            }
        };
        if !has_recovery {
            output::progress(
                "warning: only nodes can decrypt the value; list the recipient of an offline identity in recoveryRecipients of a Config object",
            );
        }
        let document = json!({ "secret": self.secret, "key": self.key, "file": file.display().to_string(), "recipients": recipients });
        output::print(self.output.output, &document, || {
            let number = recipients.len();
            let plural = if number == 1 { "" } else { "s" };
            format!("{}: {} of {} is encrypted to {number} recipient{plural}\n", file.display(), self.key, self.secret)
        })?;
        Ok(0)
    }

    fn secret<'a>(&self, repository: &'a Repository) -> Result<Secret<'a>, Failure> {
        let secret = repository.secret(&self.secret)?;
        secret.refuse_origins_except(&["data"])?;
        Ok(secret)
    }

    fn value(&self) -> Result<Plaintext, Failure> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_VALUE.saturating_add(1)));
        match &self.file {
            Some(file) => {
                let read = files::read_at_most(file, MAX_VALUE).map(Zeroizing::new);
                *bytes = std::mem::take(
                    &mut *read.map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.display())))?,
                );
            }
            None => {
                let stdin = std::io::stdin().lock();
                if stdin.is_terminal() {
                    return Err(Failure::invalid("the value is read from stdin, and stdin is a terminal")
                        .hint("pipe the value in, name a file with --file, or type it in `towpath secrets edit`"));
                }
                let limit = u64::try_from(MAX_VALUE).unwrap_or(u64::MAX).saturating_add(1);
                stdin.take(limit).read_to_end(&mut bytes).map_err(|error| Failure::error(&error))?;
                if bytes.strip_suffix(b"\n").is_some_and(|line| !line.contains(&b'\n')) {
                    output::progress(
                        "note: the newline at the end belongs to the value; `printf %s` pipes a text without one",
                    );
                }
            }
        }
        if bytes.is_empty() {
            return Err(Failure::invalid("the value is empty"));
        }
        Ok(bytes.into())
    }
}
