//! The type of a problem. The loader computes the line and the hint of a problem only if the problem is shown.

use crate::{
    document::{At, Place},
    problem::Finding,
};

/// A problem that a check has found in an object. An object can have a problem in each of its values, so the line and
/// the hint are computed only for the problems that are shown.
pub(in crate::objects) struct Found<'a> {
    pub(super) place: Place,
    pub(super) at: At,
    pub(super) warning: bool,
    pub(super) finding: Finding,
    pub(super) hint: Hint<'a>,
}

/// The hint of a problem: already computed, or computed on demand.
pub(super) enum Hint<'a> {
    /// The finding already contains the hint, or the problem has no hint.
    Known,
    /// The hint is computed only if the problem is shown, because the computation takes long.
    Computed(Box<dyn FnOnce() -> String + 'a>),
    /// The hint names another location, as `file:line`.
    Other(Place, Box<dyn FnOnce(&str) -> String + 'a>),
}

impl<'a> Found<'a> {
    /// Creates an error that marks the value at a location.
    pub(in crate::objects) fn new(place: Place, finding: Finding) -> Self {
        Self { place, at: At::Value, warning: false, finding, hint: Hint::Known }
    }

    /// Makes the error message mark the key of a map entry instead of the value.
    #[must_use]
    pub(in crate::objects) fn at_key(self) -> Self {
        Self { at: At::Key, ..self }
    }

    /// Changes the problem from an error to a warning.
    #[must_use]
    pub(in crate::objects) fn warning(self) -> Self {
        Self { warning: true, ..self }
    }

    /// Adds a hint that is computed only if the problem is shown.
    #[must_use]
    pub(in crate::objects) fn hint(self, hint: impl FnOnce() -> String + 'a) -> Self {
        Self { hint: Hint::Computed(Box::new(hint)), ..self }
    }

    /// Adds a hint that names another location. The function `hint` gets the other location as `file:line`, and returns
    /// the hint.
    #[must_use]
    pub(in crate::objects) fn hint_at(self, other: &Place, hint: impl FnOnce(&str) -> String + 'a) -> Self {
        Self { hint: Hint::Other(other.clone(), Box::new(hint)), ..self }
    }
}
