//! A value together with its taints.

use std::fmt;

use serde_json::Value;

use super::{Marks, Taint};

/// A value and the taints of its parts. It never prints a tainted value, so that logs and panics do not show secrets.
#[derive(Clone, PartialEq, Default)]
pub struct Tainted<T> {
    value: T,
    marks: Marks,
}

impl<T> Tainted<T> {
    /// A value with its marks.
    pub fn new(value: T, marks: Marks) -> Self {
        Self { value, marks }
    }

    /// A value without taint.
    pub fn clean(value: T) -> Self {
        Self { value, marks: Marks::Clean }
    }

    /// A value with one taint for all its parts.
    pub fn whole(value: T, taint: Taint) -> Self {
        Self { value, marks: Marks::whole(taint) }
    }

    /// The value. Its reader must keep the taint with everything that it makes from the value.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value without its taint, for modules, which receive what the fields' rules have accepted.
    pub fn into_value(self) -> T {
        self.value
    }

    /// The taints of the parts.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The taints of all parts together.
    pub fn taint(&self) -> Taint {
        self.marks.taint()
    }

    /// The value and its marks.
    pub fn split(self) -> (T, Marks) {
        (self.value, self.marks)
    }
}

impl Tainted<Value> {
    /// The value of a key with its marks; `null` if there is none.
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
