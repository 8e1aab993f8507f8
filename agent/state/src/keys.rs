//! The types of record keys. The journal stores each key as text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The key of a record. In the journal, the prefix of the record's kind precedes the text of the key.
pub trait Key: Sized {
    /// Returns the key as text.
    fn text(&self) -> String;

    /// Parses a key from its text; `None` if the text is not a key of this type.
    fn parse(text: &str) -> Option<Self>;
}

/// The empty key of a kind that has only one record.
impl Key for () {
    fn text(&self) -> String {
        String::new()
    }

    fn parse(text: &str) -> Option<Self> {
        text.is_empty().then_some(())
    }
}

/// A record key that is a plain text, such as a name or a path.
impl Key for String {
    fn text(&self) -> String {
        self.clone()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// The id of a TaskBook: `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BookId {
    /// The namespace of the TaskBook.
    pub namespace: String,
    /// The name of the TaskBook.
    pub name: String,
}

impl BookId {
    /// Creates the id of a TaskBook.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Returns the id of a task, handler or action of the TaskBook.
    pub fn task(&self, task: impl Into<String>) -> TaskId {
        TaskId { book: self.clone(), task: task.into() }
    }
}

impl fmt::Display for BookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Key for BookId {
    fn text(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self::new(namespace, name))
    }
}

/// The id of a task, handler or action of a TaskBook: `NAMESPACE/NAME/TASK`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The id of the TaskBook.
    pub book: BookId,
    /// The name of the task. In the id of an action in a loop, the loop item follows the task name.
    pub task: String,
}

impl Key for TaskId {
    fn text(&self) -> String {
        format!("{}/{}", self.book, self.task)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (namespace, name, task) = (parts.next()?, parts.next()?, parts.next()?);
        Some(BookId::new(namespace, name).task(task))
    }
}

/// The id of a run of a TaskBook. A later run has a greater run id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// The start of the run, in milliseconds since 1970.
    pub started: i64,
    /// The id of the TaskBook that ran.
    pub book: BookId,
}

impl Key for RunId {
    fn text(&self) -> String {
        format!("{:020}/{}", self.started, self.book)
    }

    fn parse(text: &str) -> Option<Self> {
        let (started, book) = text.split_once('/')?;
        Some(Self { started: started.parse().ok()?, book: BookId::parse(book)? })
    }
}

/// An object that a TaskBook manages, such as a file or a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Managed {
    /// The module that manages the object.
    pub module: String,
    /// The text that identifies the object among the objects of its module, such as a path.
    pub identity: String,
}

/// In the journal, the key of a managed object is the text `MODULE/IDENTITY`.
impl Key for Managed {
    fn text(&self) -> String {
        format!("{}/{}", self.module, self.identity)
    }

    fn parse(text: &str) -> Option<Self> {
        let (module, identity) = text.split_once('/')?;
        Some(Self { module: module.to_owned(), identity: identity.to_owned() })
    }
}
