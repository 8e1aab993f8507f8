//! The names of things in a run: commands, tasks, rendered tasks and managed items.

use towpath_render::rendering::Item;

/// The number of a command in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// The number of a rendered task in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u64);

/// A list of tasks in a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// The tasks.
    Tasks,
    /// The handlers.
    Handlers,
    /// The tasks before the first change of a segment.
    Before,
    /// The tasks after the last change of a segment.
    After,
}

/// The position of a task in a book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// The list.
    pub list: List,
    /// The position in it.
    pub index: usize,
}

/// A task, or one item of its loop.
#[derive(Clone, PartialEq)]
pub struct Instance {
    /// The number.
    pub id: InstanceId,
    /// The task.
    pub task: TaskRef,
    /// The item of the loop.
    pub item: Option<Item>,
    /// The name of the task, with the item.
    pub name: String,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // An item can hold a secret.
        write!(f, "{}#{}", self.name, self.id.0)
    }
}

/// A managed item: a module and an identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Managed {
    /// The module.
    pub module: String,
    /// The identity.
    pub identity: String,
}
