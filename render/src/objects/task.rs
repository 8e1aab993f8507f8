//! The types of TaskBooks, CronJobs, Triggers, Beacons and their tasks after loading: includes are expanded, scalars
//! are parsed, and names are unique.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use towpath_proto::{ModuleSchema, v1alpha as pb};

use super::targets::Targets;
use crate::{document::Place, scalars::Count};

/// A TaskBook with includes expanded.
#[derive(Debug, Clone)]
pub struct Book {
    /// The namespace of the TaskBook.
    pub namespace: String,
    /// The name of the TaskBook.
    pub name: String,
    /// The nodes that run the TaskBook; `None` if only CronJobs and Triggers run the TaskBook.
    pub targets: Option<Targets>,
    /// The TaskBooks on which the TaskBook depends.
    pub depends_on: Vec<Dependency>,
    /// The rollout settings of the TaskBook.
    pub rollout: Rollout,
    /// True if several tasks of the TaskBook may run at the same time (`order: parallel`). Each task still waits for
    /// the tasks that its field `requires` lists.
    pub parallel: bool,
    /// True if items that the TaskBook no longer mentions are removed from the node.
    pub prune: bool,
    /// The prune budget: the maximum number of items that one pass removes, as a number or a percentage of the managed
    /// items.
    pub prune_budget: Option<String>,
    /// The variables of the TaskBook.
    pub vars: Map<String, Value>,
    /// The list of tasks, with the tasks of included files.
    pub tasks: Vec<Task>,
    /// The handlers of the TaskBook, in the written order.
    pub handlers: Vec<Task>,
    /// The field `suspend` of the TaskBook; `None` if the TaskBook is not suspended.
    pub suspend: Option<pb::Suspend>,
    /// The location of the TaskBook's spec.
    pub place: Place,
}

impl Book {
    /// Returns the id of the TaskBook: `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Returns the ids of the TaskBooks on which the TaskBook depends.
    pub(crate) fn dependencies(&self) -> Vec<String> {
        self.depends_on.iter().map(|dependency| format!("{}/{}", self.namespace, dependency.book)).collect()
    }

    /// Returns true if nodes coordinate the run of the TaskBook, for example with slots.
    pub fn coordinated(&self) -> bool {
        let tasks = || self.tasks.iter().chain(&self.handlers);
        self.rollout.serialize.is_some()
            || !self.rollout.waves.is_empty()
            || self.depends_on.iter().any(|dependency| dependency.fleet)
            || tasks().any(|task| task.sync || task.elect.is_some() || task.serialize.is_some())
    }
}

/// A dependency of a TaskBook on another TaskBook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The name of the other TaskBook, in the same namespace.
    pub book: String,
    /// True if all nodes, and not only this node, must first complete the run of the other TaskBook.
    pub fleet: bool,
}

/// The rollout settings of a TaskBook.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    /// The limit on the number of nodes that the rollout changes at the same time.
    pub serialize: Option<pb::Serialize>,
    /// The waves of the rollout. Each wave includes the nodes of all earlier waves.
    pub waves: Vec<Value>,
    /// The soak time: for this time, a wave must stay complete before the next wave opens.
    pub soak: Duration,
    /// The maximum number of failed nodes; the run is halted if more nodes fail.
    pub max_failures: Option<Count>,
    /// True if failed nodes halt the rollout only after all targets have run (`failAfterAllTargetsRan`).
    pub fail_after_all: bool,
    /// The value of the field `onLostNode`: `hold`, `skip` or `fail`.
    pub on_lost: String,
    /// The tasks that a node runs before its first change in the rollout.
    pub before: Vec<Task>,
    /// The tasks that a node runs after its last handler in the rollout.
    pub after: Vec<Task>,
}

/// A CronJob, a Trigger or a Beacon, with its nodes and its tasks or checks.
#[derive(Debug, Clone)]
pub struct Reaction {
    /// The nodes that run the tasks of the CronJob or Trigger, or the checks of the Beacon.
    pub targets: Targets,
    /// The list of tasks, with the tasks of included files.
    pub tasks: Vec<Task>,
    /// The modules that a Beacon uses as checks, with the locations of the checks.
    pub checks: Vec<(ModuleUse, Place)>,
}

/// A task of a TaskBook or an included file.
#[derive(Debug, Clone)]
pub struct Task {
    /// The id of the task, `[include/]name`, which is unique in the task's list.
    pub id: String,
    /// The module of the task; `None` for a task with only `sync` or `flushHandlers`.
    pub module: Option<ModuleUse>,
    /// The conditions of the task. The task runs only if all its `when` conditions are true.
    pub when: Vec<Condition>,
    /// The list of the task's loop, or a template for the list. The task runs once for each member of the list.
    pub loop_items: Option<Value>,
    /// The variables of the task.
    pub vars: Map<String, Value>,
    /// The name under which the task registers its result.
    pub register: Option<String>,
    /// The expression that decides whether the task has succeeded.
    pub success: Option<String>,
    /// The expression that decides whether the task has changed something.
    pub changed: Option<String>,
    /// The settings with which the agent repeats the task; `None` for a task that runs once.
    pub until: Option<Until>,
    /// True if the TaskBook continues after a failure of the task.
    pub continue_on_failure: bool,
    /// The time limit of one attempt of the task.
    pub timeout: Duration,
    /// The ids of the tasks that must succeed before the task runs.
    pub requires: Vec<String>,
    /// The ids of the handlers that run if the task changes something.
    pub notify: Vec<String>,
    /// The drift policy of the task: correct, report or ignore drift; `None` if the drift policy of the Config applies.
    pub drift: Option<Drift>,
    /// True if each node waits before the task until all nodes have completed the earlier tasks.
    pub sync: bool,
    /// True if the node runs the notified handlers of earlier tasks before this task.
    pub flush_handlers: bool,
    /// The limit on the number of nodes that run the task at the same time.
    pub serialize: Option<pb::Serialize>,
    /// The field `elect` of the task; `None` if all nodes run the task.
    pub elect: Option<pb::Elect>,
    /// The include or the TaskBook that contains the task.
    pub within: Arc<IncludeContext>,
    /// The location of the task.
    pub place: Place,
}

/// Returns the id of the handler that `autoNotify` adds for the service of a task.
pub fn auto_handler(task: &str) -> String {
    format!("restart {task} (autoNotify)")
}

/// A module with the parameters that a task sets.
#[derive(Debug, Clone)]
pub struct ModuleUse {
    /// The name of the module, such as `file`. The task uses the name of the module as a key.
    pub name: &'static str,
    /// The schema of the module.
    pub schema: &'static ModuleSchema,
    /// The parameters as written, before templates are rendered.
    pub params: Value,
}

impl ModuleUse {
    /// Returns the modules in a map with names of modules as keys, such as a task or the `check` of a Beacon.
    pub(super) fn all_in(value: &Value) -> impl Iterator<Item = Self> {
        towpath_proto::modules().filter_map(|schema| {
            let params = value.get(schema.key).filter(|params| !params.is_null())?;
            Some(Self { name: schema.key, schema, params: params.clone() })
        })
    }
}

/// A `when` condition of a task, with the include that contains the condition.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The expression of the condition.
    pub expression: String,
    /// The include or TaskBook that contains the condition.
    pub within: Arc<IncludeContext>,
}

/// The settings with which the agent repeats a task until a condition is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Until {
    /// The condition: the agent repeats the task until the condition is true.
    pub condition: String,
    /// The pause between two attempts.
    pub interval: Duration,
    /// The maximum number of attempts.
    pub limit: u64,
}

/// The drift policy: the agent corrects, reports or ignores drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// The agent corrects the drift.
    #[default]
    Correct,
    /// The agent reports the drift, but does not correct the drift.
    Report,
    /// The agent ignores the drift.
    Ignore,
}

impl Drift {
    /// Converts the word `correct`, `report` or `ignore` to a drift policy.
    pub fn read(word: &str) -> Self {
        match word {
            "report" => Self::Report,
            "ignore" => Self::Ignore,
            _ => Self::Correct,
        }
    }
}

/// The TaskBook or include that contains a task, with a folder for the task's files and a prefix for the task's names.
#[derive(Debug, Default)]
pub struct IncludeContext {
    /// The name of the source that contains the templates and scripts of the tasks.
    pub source: String,
    /// The folder in the source to which the paths in the tasks are relative.
    pub folder: String,
    /// The prefix of the names of tasks, results and handlers: empty for a TaskBook, or `NAME/` for an include.
    pub prefix: String,
    /// The variables of the include.
    pub vars: Map<String, Value>,
    /// The include or the TaskBook that contains this include; `None` for a TaskBook.
    pub outer: Option<Arc<IncludeContext>>,
}

impl IncludeContext {
    /// Returns the context for the tasks that an object contains directly, not through an include.
    pub(super) fn of_source(source: &str) -> Arc<Self> {
        Arc::new(Self { source: source.to_owned(), ..Self::default() })
    }
}
