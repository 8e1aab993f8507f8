//! The steps of a change, as data. [`crate::apply`] carries them out.

use std::sync::Arc;

use towpath_host::files::Access;
use towpath_render::tree::Tree;

use crate::context::ModuleError;

/// One step of a change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Creates a directory and its missing parents.
    MakeDirectory {
        /// The path.
        path: String,
        /// Its permissions and owner.
        access: Access,
    },
    /// Writes a file.
    Write {
        /// The path.
        path: String,
        /// Its content.
        content: Content,
        /// Its permissions and owner.
        access: Access,
        /// A command that must accept the file.
        validate: Option<String>,
        /// True if the old file is kept beside the new one.
        backup: bool,
        /// The version of the file to replace. The step is rejected if the file has another version by then.
        expects: Option<towpath_host::FileVersion>,
    },
    /// Sets permissions and owner.
    Grant {
        /// The path.
        path: String,
        /// The permissions and owner.
        access: Access,
        /// The version that was checked. The step is rejected for another version.
        expects: towpath_host::FileVersion,
    },
    /// Creates a symbolic link.
    Link {
        /// The path.
        path: String,
        /// The target of the link.
        target: String,
    },
    /// Removes a file, a link, or a directory with all its content.
    Remove {
        /// The path.
        path: String,
    },
    /// A step for a member of a tree. No link below the tree's folder is followed.
    Within {
        /// The folder of the tree.
        folder: String,
        /// The step.
        step: Box<Step>,
    },
    /// Stops a unit and disables it at boot.
    StopUnit {
        /// The unit.
        unit: String,
    },
    /// Reloads the unit files of systemd after all files of the batch are written.
    ReloadUnits,
}

impl Step {
    /// Returns the step itself, without its enclosing tree.
    pub fn inner(&self) -> &Self {
        match self {
            Self::Within { step, .. } => step.inner(),
            step => step,
        }
    }

    /// Returns the path of the step; empty for a step without one.
    pub fn path(&self) -> &str {
        match self {
            Self::StopUnit { .. } | Self::ReloadUnits => "",
            Self::MakeDirectory { path, .. }
            | Self::Write { path, .. }
            | Self::Grant { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path } => path,
            Self::Within { step, .. } => step.path(),
        }
    }
}

/// The content of a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file of the source, read when the step runs.
    Source(Arc<dyn Tree>, String),
}

impl Content {
    /// Returns the bytes.
    ///
    /// # Errors
    /// If the source cannot be read, or does not hold the file.
    pub fn bytes(&self) -> Result<Arc<[u8]>, ModuleError> {
        match self {
            Self::Bytes(bytes) => Ok(Arc::clone(bytes)),
            Self::Source(tree, path) => match tree.read(path) {
                Ok(Some(bytes)) => Ok(bytes.into()),
                Ok(None) => Err(ModuleError::new(format!("there is no {path} in the source"))),
                Err(error) => Err(ModuleError::io(path, &error)),
            },
        }
    }
}
