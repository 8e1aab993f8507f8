//! Types that describe installed packages.

use std::collections::BTreeMap;

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) version: String,
    /// The package version without the rpm release number. A task may set the version with or without the release.
    pub(super) plain: Option<String>,
    pub(super) held: bool,
    /// True if the package is fully installed; false if its installation was interrupted.
    pub(super) whole: bool,
    pub(super) arch: Option<String>,
}

/// The installed packages. The map contains each package twice: under its name, and under its name with architecture.
pub(super) type Packages = BTreeMap<String, Installed>;

impl Installed {
    pub(super) fn is(&self, version: &str) -> bool {
        self.version == version || self.plain.as_deref() == Some(version)
    }
}
