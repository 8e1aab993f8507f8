//! Records the taint of each part of a value.

use std::collections::BTreeMap;

use super::Taint;
use crate::document::Step;

/// The taints of a value and of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Marks {
    /// The value has no taint.
    #[default]
    Clean,
    /// The value and all its parts have the taint in this variant.
    Whole(Taint),
    /// The value is a list or map whose parts have different taints. Parts that `members` does not list have no taint.
    Parts {
        /// The taint of the map keys, and of the length of the list or map.
        shape: Taint,
        /// The taints of the members. In `members`, each `Step` is the map key or the list index of a member.
        members: BTreeMap<Step, Marks>,
    },
}

impl Marks {
    /// Creates the taints of a value whose parts all have the same taint.
    pub fn whole(taint: Taint) -> Self {
        if taint.is_none() { Self::Clean } else { Self::Whole(taint) }
    }

    /// Creates the taints of a list or map from the taints of its members. Returns [`Marks::Clean`] if no part has a
    /// taint.
    pub fn parts(shape: Taint, members: impl IntoIterator<Item = (Step, Self)>) -> Self {
        let members: BTreeMap<Step, Self> = members.into_iter().filter(|(_, marks)| !marks.is_clean()).collect();
        if shape.is_none() && members.is_empty() { Self::Clean } else { Self::Parts { shape, members } }
    }

    /// Returns true if no part of the value has a taint.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Clean)
    }

    /// Returns the taints of a member of the value.
    pub fn member(&self, step: &Step) -> Self {
        match self {
            Self::Clean => Self::Clean,
            Self::Whole(taint) => Self::Whole(taint.clone()),
            Self::Parts { members, .. } => members.get(step).cloned().unwrap_or_default(),
        }
    }

    /// Returns the taints of the value of a key in a map.
    pub fn key(&self, key: &str) -> Self {
        self.member(&Step::Key(key.into()))
    }

    /// Returns the taints of one part of the value, which a path selects.
    pub fn at(&self, path: &[Step]) -> Self {
        path.iter().fold(self.clone(), |marks, step| marks.member(step))
    }

    /// Replaces the taints of the value of one map key, and returns the changed taints of the map.
    #[must_use]
    pub fn with_key(self, key: &str, marks: Self) -> Self {
        let (shape, mut members) = match self {
            Self::Clean => (Taint::NONE, BTreeMap::new()),
            // A value with one taint for all parts also gives this taint to its new part.
            Self::Whole(taint) => return Self::Whole(taint.and(&marks.taint())),
            Self::Parts { shape, members } => (shape, members),
        };
        members.insert(Step::Key(key.into()), marks);
        Self::parts(shape, members)
    }

    /// Returns the union of the taints of all parts of the value.
    pub fn taint(&self) -> Taint {
        match self {
            Self::Clean => Taint::NONE,
            Self::Whole(taint) => taint.clone(),
            Self::Parts { shape, members } => {
                let mut all = shape.clone();
                members.values().for_each(|marks| all.add(&marks.taint()));
                all
            }
        }
    }
}
