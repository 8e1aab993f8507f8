//! The types for installed packages.

use std::collections::BTreeMap;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) version: String,
    /// The package version without the release number, which a task may also give as version under rpm.
    pub(super) plain: Option<String>,
    pub(super) held: bool,
    /// True if the installation of the package is complete.
    pub(super) whole: bool,
    pub(super) arch: Option<String>,
}

/// The installed packages, both by name and by name with architecture.
pub(super) type Packages = BTreeMap<String, Installed>;

impl Installed {
    pub(super) fn is(&self, version: &str) -> bool {
        self.version == version || self.plain.as_deref() == Some(version)
    }
}
