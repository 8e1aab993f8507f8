//! The type [`Tainted`], which holds a value together with its taints.

use std::fmt;

use serde_json::Value;

use super::{Marks, Taint};

/// A value with the taints of its parts. The `Debug` output never shows a tainted value, so that logs and panics
/// contain no secrets.
#[derive(Clone, PartialEq, Default)]
pub struct Tainted<T> {
    value: T,
    marks: Marks,
}

impl<T> Tainted<T> {
    /// Creates a value with the given taints.
    pub fn new(value: T, marks: Marks) -> Self {
        Self { value, marks }
    }

    /// Creates a value without a taint.
    pub fn clean(value: T) -> Self {
        Self { value, marks: Marks::Clean }
    }

    /// Creates a value whose parts all have the same taint.
    pub fn whole(value: T, taint: Taint) -> Self {
        Self { value, marks: Marks::whole(taint) }
    }

    /// Returns the value. If the caller computes a value from the returned value, the caller must add the taint to the
    /// computed value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the value without its taints. Only a module may call this function, after a check that the module
    /// parameter allows the taints.
    pub fn into_value(self) -> T {
        self.value
    }

    /// Returns the taints of the value's parts.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Returns the union of the taints of all parts of the value.
    pub fn taint(&self) -> Taint {
        self.marks.taint()
    }

    /// Returns the value and the taints of its parts.
    pub fn split(self) -> (T, Marks) {
        (self.value, self.marks)
    }
}

impl Tainted<Value> {
    /// Returns the value of a key with its taints, or `null` if the key does not exist.
    pub fn key(&self, key: &str) -> Self {
        Self { value: self.value.get(key).cloned().unwrap_or_default(), marks: self.marks.key(key) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Tainted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.marks {
            Marks::Clean => self.value.fmt(f),
            marks => write!(f, "<{}>", marks.taint()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{document::Step, taint::Kind};

    #[test]
    fn debug_output_of_a_tainted_value_hides_it() {
        let secret = Tainted::whole(json!("hunter2"), Taint::new(Kind::Secret, "the secret db/password"));
        let part = Marks::parts(Taint::NONE, [(Step::Key("p".into()), secret.marks().clone())]);
        let map = Tainted::new(json!({"p": "hunter2", "n": 1}), part);
        for printed in [format!("{secret:?}"), format!("{map:?}"), format!("{:#?}", Some(&map))] {
            assert!(!printed.contains("hunter2") && printed.contains("the secret db/password"), "{printed}");
        }
        assert_eq!(format!("{:?}", Tainted::clean(json!(1))), "Number(1)");
    }
}
