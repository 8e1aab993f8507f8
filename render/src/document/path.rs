//! Paths from the root of a YAML document to one of its parts.

use std::{fmt, sync::Arc};

/// One step of a path in a document: from a map to a value, or from a list to a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The step from a map to the value of the given key. Copies of a path share the memory of the key.
    Key(Arc<str>),
    /// The step from a list to the member at the given index. The first member of a list has the index 0.
    Index(usize),
}

/// A path from the root of a document to one of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Returns a path that continues this path to the value of a key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.into()));
        Self(steps)
    }

    /// Returns a path that continues this path to a member of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The path of the value that a check visits in a document. To save time, the check allocates a [`Path`] only for an
/// error.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trail<'a> {
    Root,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    pub(crate) fn path(&self) -> Path {
        let mut steps = Vec::new();
        let mut at = self;
        loop {
            match at {
                Trail::Root => break,
                Trail::Key(parent, key) => {
                    steps.push(Step::Key((*key).into()));
                    at = parent;
                }
                Trail::Index(parent, index) => {
                    steps.push(Step::Index(*index));
                    at = parent;
                }
            }
        }
        steps.reverse();
        Path(steps)
    }
}

/// The part of a map entry that an error message marks: the key or the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The error message marks the key of the map entry.
    Key,
    /// The error message marks the value of the map entry.
    Value,
}
