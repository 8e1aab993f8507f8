//! A problem that a check has found, before its line and its hint are known.

use crate::{
    document::{At, Place},
    problem::Finding,
};

/// A problem that a check has found in an object. Its line and its hint are computed only if the problem is shown,
/// because an object can have a problem in each of its values.
pub(in crate::objects) struct Found<'a> {
    pub(super) place: Place,
    pub(super) at: At,
    pub(super) warning: bool,
    pub(super) finding: Finding,
    pub(super) hint: Hint<'a>,
}

/// The hint of a problem, beside the hint of its finding.
pub(super) enum Hint<'a> {
    /// The finding has its hint already, or has none.
    Known,
    /// The hint takes work to compute.
    Computed(Box<dyn FnOnce() -> String + 'a>),
    /// The hint names a second location, as `file:line`.
    Other(Place, Box<dyn FnOnce(&str) -> String + 'a>),
}

impl<'a> Found<'a> {
    /// Creates an error in the value at a location.
    pub(in crate::objects) fn new(place: Place, finding: Finding) -> Self {
        Self { place, at: At::Value, warning: false, finding, hint: Hint::Known }
    }

    /// Returns the same problem in the key at the location.
    #[must_use]
    pub(in crate::objects) fn at_key(self) -> Self {
        Self { at: At::Key, ..self }
    }

    /// Returns the same problem as a warning.
    #[must_use]
    pub(in crate::objects) fn warning(self) -> Self {
        Self { warning: true, ..self }
    }

    /// Adds a hint that is computed only if the problem is shown.
    #[must_use]
    pub(in crate::objects) fn hint(self, hint: impl FnOnce() -> String + 'a) -> Self {
        Self { hint: Hint::Computed(Box::new(hint)), ..self }
    }

    /// Adds a hint that names a second location. The hint gets the location as `file:line`.
    #[must_use]
    pub(in crate::objects) fn hint_at(self, other: &Place, hint: impl FnOnce(&str) -> String + 'a) -> Self {
        Self { hint: Hint::Other(other.clone(), Box::new(hint)), ..self }
    }
}
