//! Identifiers of commands, tasks, rendered tasks and managed items in a book run.

use towpath_render::rendering::Item;

/// The number that identifies a command within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// The number that identifies a rendered task within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u64);

/// One of the task lists of a book: `tasks`, `handlers`, `before` or `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// The tasks of the book.
    Tasks,
    /// The handlers of the book.
    Handlers,
    /// The tasks that run before the first change of a segment.
    Before,
    /// The tasks that run after the last change of a segment.
    After,
}

/// The position of a task in a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// The task list of the book that contains the task.
    pub list: List,
    /// The position of the task in its task list.
    pub index: usize,
}

/// A rendered task. If a task has a loop, each loop item is a separate rendered task.
#[derive(Clone, PartialEq)]
pub struct Instance {
    /// The number that identifies the rendered task within its run.
    pub id: InstanceId,
    /// The position of the task in the book.
    pub task: TaskRef,
    /// The item of the loop. `item` is `None` for a task without a loop.
    pub item: Option<Item>,
    /// The name of the task and, for a task with a loop, the loop item.
    pub name: String,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An item can hold a secret, so the debug output omits the item.
        write!(f, "{}#{}", self.name, self.id.0)
    }
}

/// An item that a book manages, identified by its module and its identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Managed {
    /// The module that manages the item.
    pub module: String,
    /// The identity of the item within its module, such as a path.
    pub identity: String,
}
