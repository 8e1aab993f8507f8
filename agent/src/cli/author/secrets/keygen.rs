//! `towpath secrets keygen`: a new age identity.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use towpath_host::own::files;
use towpath_secrets::NewIdentity;

use super::repository::now;
use crate::cli::{
    exit::Failure,
    output::{self, Output},
};

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// The file for the identity. The file must not exist
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

impl Keygen {
    pub(super) fn run(self) -> Result<u8, Failure> {
        if let Some(repository) = self.repository() {
            return Err(Failure::invalid(format!(
                "cannot write the identity to {}: the folder {} is a git repository, and a commit would publish the private key",
                self.file.display(),
                repository.display()
            ))
            .hint("name a file outside of the repository, such as ~/.config/towpath/operator.key"));
        }
        let made = NewIdentity::generate().map_err(|error| Failure::error(&error))?;
        let text = made.file(&now());
        files::write_private(&self.file, text.as_bytes()).map_err(|error| {
            let failure = Failure::failed(format!("cannot write the identity to {}: {error}", self.file.display()));
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                failure.hint("nothing was overwritten; name another file")
            } else {
                failure
            }
        })?;
        let recipient = made.recipient().to_string();
        let document = json!({ "file": self.file.display().to_string(), "recipient": recipient });
        output::print(self.output.output, &document, || {
            format!(
                "{recipient}\n\n{} is the identity of this recipient. Keep the file secret, and keep a copy offline.\nIn a Config object in git, so that the identity opens every Secret:\n  recoveryRecipients: [{recipient}]\n",
                self.file.display()
            )
        })?;
        Ok(0)
    }
    /// Returns the git repository that contains the file.
    fn repository(&self) -> Option<PathBuf> {
        let folder = match self.file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let folder = files::real_folder(folder).ok()?;
        folder.ancestors().find(|folder| files::exists(&folder.join(".git"))).map(Path::to_owned)
    }
}
