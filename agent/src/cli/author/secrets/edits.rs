//! The edited texts of files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use towpath_host::own::replace::{ReplaceError, Replacement, replace_texts};

use crate::{cli::exit::Failure, error_chain::error_chain};

/// The edited texts of files. They are written together, after all edits succeeded.
#[derive(Debug, Default)]
pub(super) struct Edits {
    texts: BTreeMap<PathBuf, Replacement>,
}

impl Edits {
    /// Changes the text of a file, which was `loaded` before. `edit` gets the text with the changes so far.
    pub(super) fn change<E: std::fmt::Display>(
        &mut self,
        file: &Path,
        loaded: &str,
        edit: impl FnOnce(&str) -> Result<String, E>,
    ) -> Result<(), Failure> {
        let text = self.texts.entry(file.to_owned()).or_insert_with(|| Replacement {
            file: file.to_owned(),
            old: loaded.to_owned(),
            new: loaded.to_owned(),
        });
        if text.old != loaded {
            return Err(changed(file));
        }
        text.new = edit(&text.new).map_err(|error| Failure::invalid(format!("{}: {error}", file.display())))?;
        Ok(())
    }

    /// Writes the changed files.
    pub(super) fn write(self) -> Result<(), Failure> {
        match self.try_write()? {
            None => Ok(()),
            Some(file) => Err(changed(&file)),
        }
    }

    /// Writes the changed files. Returns a file that another process has changed; then nothing is written.
    pub(super) fn try_write(self) -> Result<Option<PathBuf>, Failure> {
        let changed: Vec<Replacement> = self.texts.into_values().filter(|text| text.old != text.new).collect();
        match replace_texts(&changed) {
            Ok(()) => Ok(None),
            Err(ReplaceError::Changed(file)) => Ok(Some(file)),
            Err(error) => Err(Failure::failed(error_chain(&error))),
        }
    }
}

/// Returns the failure for a file that another process has changed.
pub(super) fn changed(file: &Path) -> Failure {
    Failure::failed(format!("cannot write {}: the file changed during the edit", file.display()))
        .hint("nothing was written; run the command again, and repeat the edit on the new text")
}
