//! The keys of records, and their text in the journal.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key of a record. The text is the part of the journal's key after the prefix of the kind.
pub trait Key: Sized {
    /// Returns the text.
    fn text(&self) -> String;

    /// Reads the text. `None` if it is not a key of this type.
    fn parse(text: &str) -> Option<Self>;
}

/// The key of a kind with one record.
impl Key for () {
    fn text(&self) -> String {
        String::new()
    }

    fn parse(text: &str) -> Option<Self> {
        text.is_empty().then_some(())
    }
}

/// A name or a path.
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
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl BookId {
    /// Creates an id.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Returns the key of a task, handler or action of the book.
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

/// A task, handler or action of a book: `NAMESPACE/NAME/TASK`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The book.
    pub book: BookId,
    /// The task. An action of a loop has its item after the name.
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

/// A run of a book, by its start. Keys are in the order of time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// The start, in milliseconds since 1970.
    pub started: i64,
    /// The book.
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

/// One object that a book manages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Managed {
    /// The module.
    pub module: String,
    /// The identity of the object within its module.
    pub identity: String,
}

/// The text is `MODULE/IDENTITY`.
impl Key for Managed {
    fn text(&self) -> String {
        format!("{}/{}", self.module, self.identity)
    }

    fn parse(text: &str) -> Option<Self> {
        let (module, identity) = text.split_once('/')?;
        Some(Self { module: module.to_owned(), identity: identity.to_owned() })
    }
}
