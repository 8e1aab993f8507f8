//! The steps of a change to the machine. [`crate::apply`] executes the steps.

use std::sync::Arc;

use towpath_host::files::Access;
use towpath_render::tree::Tree;

use crate::context::ModuleError;

/// One step of a change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Creates a directory and its missing parents.
    MakeDirectory {
        /// The path of the directory.
        path: String,
        /// The permissions and the owner of the directory.
        access: Access,
    },
    /// Writes a file.
    Write {
        /// The path of the file.
        path: String,
        /// The content of the file.
        content: Content,
        /// The permissions and the owner of the file.
        access: Access,
        /// The `validate` command, which must succeed; `None` for no check of the file.
        validate: Option<String>,
        /// True if the agent keeps the old file as `PATH.towpath-backup`.
        backup: bool,
        /// The version of the old file when the agent checked the file. The step fails if the old file no longer has
        /// this version.
        expects: Option<towpath_host::FileVersion>,
    },
    /// Sets the permissions and the owner of a path.
    Grant {
        /// The path that gets the permissions and the owner.
        path: String,
        /// The mode, the owner and the group to set.
        access: Access,
        /// The version of the file when the agent checked the file. The step fails if the file no longer has this
        /// version.
        expects: towpath_host::FileVersion,
    },
    /// Creates a symbolic link.
    Link {
        /// The path of the link.
        path: String,
        /// The target of the link.
        target: String,
    },
    /// Removes a file, a link, or a directory with all its content.
    Remove {
        /// The path to remove.
        path: String,
    },
    /// Executes another step on a path below the target folder of a copied folder (a tree). The inner step does not
    /// follow links below the target folder.
    Within {
        /// The folder of the tree.
        folder: String,
        /// The inner step, for a path below the target folder.
        step: Box<Step>,
    },
    /// Stops a unit, and disables the start of the unit at boot.
    StopUnit {
        /// The name of the unit.
        unit: String,
    },
    /// Makes systemd reload its unit files, after all files of the batch are written.
    ReloadUnits,
}

impl Step {
    /// Returns the inner step of a [`Step::Within`]. Returns the step itself if the step is not a [`Step::Within`].
    pub fn inner(&self) -> &Self {
        match self {
            Self::Within { step, .. } => step.inner(),
            step => step,
        }
    }

    /// Returns the path of the step. Returns an empty path for a step that reloads or stops a unit.
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

/// The content of a file to write.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file of the source. The agent reads the content only when the agent executes the step.
    Source(Arc<dyn Tree>, String),
}

impl Content {
    /// Returns the bytes to write to the file.
    ///
    /// # Errors
    /// Returns an error if the source cannot be read, or does not contain the file.
    pub fn bytes(&self) -> Result<Arc<[u8]>, ModuleError> {
        match self {
            Self::Bytes(bytes) => Ok(Arc::clone(bytes)),
            Self::Source(tree, path) => match tree.read(path) {
                Ok(Some(bytes)) => Ok(bytes.into()),
                Ok(None) => Err(ModuleError::new(format!("cannot read {path}: the source does not contain the file"))),
                Err(error) => Err(ModuleError::io(path, &error)),
            },
        }
    }
}
