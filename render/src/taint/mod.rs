//! Taints. A taint marks a value that only some fields may use. A taint contains the origins of the value, such as the
//! facts of a node.
//!
//! A value is `untrusted` if another node or the sender of an event chose the value. A value is `secret` if it must not
//! be shown. Every value that is computed from a tainted value has the same taint. Other crates receive a tainted value
//! only in the type [`Tainted`].
//!
//! The output of a template has the taints of all values that the template has read, including values in conditions. A
//! condition that only selects tasks (`when`) or list members (`selectattr`, `rejectattr`) does not taint the
//! selection.

pub(crate) mod fields;
mod marks;
mod value;

use std::{fmt, sync::Arc};

pub use marks::Marks;
pub use value::Tainted;

/// The kind of a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The value must not be shown.
    Secret,
    /// Another node, or the sender of an event, chose the value.
    Untrusted,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret => "secret",
            Self::Untrusted => "untrusted",
        })
    }
}

/// The maximum number of origins that a taint keeps for each kind. The limit is necessary because a value from the
/// facts of all nodes has one origin for each node.
const ORIGINS_KEPT: usize = 4;

/// A set of taints, each with the origins of the tainted value. Copies of a set of taints share memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Taint(Option<Arc<Origins>>);

#[derive(Clone, Default, PartialEq, Eq)]
struct Origins {
    secret: Vec<Arc<str>>,
    untrusted: Vec<Arc<str>>,
}

impl Origins {
    fn of(&self, kind: Kind) -> &[Arc<str>] {
        match kind {
            Kind::Secret => &self.secret,
            Kind::Untrusted => &self.untrusted,
        }
    }

    fn add(&mut self, kind: Kind, origins: &[Arc<str>]) {
        let known = match kind {
            Kind::Secret => &mut self.secret,
            Kind::Untrusted => &mut self.untrusted,
        };
        for origin in origins {
            if known.len() == ORIGINS_KEPT {
                return;
            }
            if !known.contains(origin) {
                known.push(Arc::clone(origin));
            }
        }
    }
}

impl Taint {
    /// The empty set of taints.
    pub const NONE: Self = Self(None);

    /// Creates a taint with one origin, such as `the facts of node db1`.
    pub fn new(kind: Kind, origin: impl Into<Arc<str>>) -> Self {
        let mut origins = Origins::default();
        origins.add(kind, &[origin.into()]);
        Self(Some(Arc::new(origins)))
    }

    /// Returns true if the set contains no taint.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if the set contains a taint of this kind.
    pub fn has(&self, kind: Kind) -> bool {
        !self.origins(kind).is_empty()
    }

    /// Returns the origins of a kind of taint; an empty list if the set does not contain this kind.
    pub fn origins(&self, kind: Kind) -> &[Arc<str>] {
        self.0.as_ref().map_or(&[], |origins| origins.of(kind))
    }

    /// Adds the taints of another set to this set.
    pub fn add(&mut self, other: &Self) {
        let Some(more) = &other.0 else { return };
        let Some(own) = &mut self.0 else {
            self.0 = Some(Arc::clone(more));
            return;
        };
        if Arc::ptr_eq(own, more) || Self::covers(own, more) {
            return;
        }
        let own = Arc::make_mut(own);
        for kind in [Kind::Secret, Kind::Untrusted] {
            own.add(kind, more.of(kind));
        }
    }

    /// Returns the union of this set and another set.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.add(other);
        both
    }

    /// Returns true if `own` already contains all origins in `more`, or has the maximum number of origins.
    fn covers(own: &Origins, more: &Origins) -> bool {
        [Kind::Secret, Kind::Untrusted].into_iter().all(|kind| {
            let known = own.of(kind);
            known.len() == ORIGINS_KEPT || more.of(kind).iter().all(|origin| known.contains(origin))
        })
    }
}

impl fmt::Display for Taint {
    /// Writes each kind of taint with its origins, such as `untrusted: the facts of node db1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for kind in [Kind::Secret, Kind::Untrusted] {
            let origins = self.origins(kind);
            if origins.is_empty() {
                continue;
            }
            let separator = if first { "" } else { "; " };
            write!(f, "{separator}{kind}: {}", origins.join(", "))?;
            first = false;
        }
        Ok(())
    }
}

impl fmt::Debug for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_keeps_both_kinds_and_their_origins() {
        let mut taint = Taint::new(Kind::Secret, "the secret db/password");
        taint.add(&Taint::new(Kind::Untrusted, "the event"));
        taint.add(&Taint::new(Kind::Untrusted, "the event"));
        assert!(taint.has(Kind::Secret) && taint.has(Kind::Untrusted));
        assert_eq!(taint.to_string(), "secret: the secret db/password; untrusted: the event");
        assert!(Taint::NONE.is_none() && !Taint::NONE.has(Kind::Secret));
    }

    #[test]
    fn origins_are_bounded_and_the_kind_stays() {
        let mut taint = Taint::NONE;
        for node in 0..1000 {
            taint.add(&Taint::new(Kind::Untrusted, format!("node {node}")));
        }
        assert_eq!(taint.origins(Kind::Untrusted).len(), ORIGINS_KEPT);
        taint.add(&Taint::new(Kind::Secret, "s"));
        assert!(taint.has(Kind::Secret), "a full list of one kind must not hide the other kind");
    }
}
