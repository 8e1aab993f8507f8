//! Implements `autoNotify`: if a task changes the unit, the package or the configuration of a service, a handler
//! restarts the service. The loader reads the text of a task to find out if the task affects a service.

use serde_json::{Map, Value, json};
use towpath_proto::{ModuleKind, ModuleSchema, ServiceRole, unit_name};

use crate::{
    objects::{
        ledger::Found,
        spec::{members, text},
        task::{ModuleUse, Task, auto_handler},
    },
    problem::Finding,
};

/// The handlers that `autoNotify` adds to a TaskBook, and the warnings about services.
pub(super) struct Restarts {
    /// The handlers that restart the services. At least one task notifies each restart handler.
    pub(super) handlers: Vec<Task>,
    notices: Vec<Notice>,
}

/// The reason for a warning about a service that a TaskBook starts.
enum Notice {
    /// The task at this position starts services in a loop, which `autoNotify` does not handle.
    Loop(usize),
    /// The TaskBook starts more services than `autoNotify` handles, and the task at this position starts the first
    /// excess service.
    TooMany(usize),
    /// The TaskBook starts a service before a task that affects the service.
    Early {
        /// The position of the task that starts the service.
        starts: usize,
        /// The position of the task that affects the service.
        affects: usize,
    },
}

/// The maximum number of services of a TaskBook that `autoNotify` handles. The number of services is limited because
/// the loader compares each service with each task.
const SERVICES: usize = 100;

/// The maximum number of warnings about one TaskBook.
const NOTICES: usize = 1000;

impl Restarts {
    /// Creates a restart handler for each service that a TaskBook starts. Each task that affects the service notifies
    /// the restart handler. If a task already notifies a handler that restarts the service, the task is not changed.
    pub(super) fn add(tasks: &mut [Task], handlers: &[Task], parallel: bool) -> Self {
        let mut restarts = Self { handlers: Vec::new(), notices: Vec::new() };
        let mut services = 0;
        for at in 0..tasks.len() {
            let Some((service, schema)) = Service::of(&tasks[at]) else { continue };
            if tasks[at].loop_items.is_some() {
                restarts.notice(Notice::Loop(at));
                continue;
            }
            if services == SERVICES {
                restarts.notices.push(Notice::TooMany(at));
                break;
            }
            services += 1;
            let task = &tasks[at];
            let params = json!({ "name": service.name, "state": "restarted" });
            let handler = Task {
                id: auto_handler(&task.id),
                module: Some(ModuleUse { name: schema.key, schema, params }),
                register: None,
                success: None,
                changed: None,
                requires: Vec::new(),
                notify: Vec::new(),
                drift: None,
                sync: false,
                flush_handlers: false,
                serialize: None,
                elect: None,
                ..task.clone()
            };
            let own: Vec<String> =
                handlers.iter().filter(|handler| service.is_restarted_by(handler)).map(|one| one.id.clone()).collect();
            let mut notified = false;
            for (position, other) in tasks.iter_mut().enumerate().filter(|(position, _)| *position != at) {
                if !service.is_concerned_by(other) {
                    continue;
                }
                // A task that already notifies a handler for the restart of the service is not changed.
                if !other.notify.iter().any(|id| own.contains(id)) {
                    other.notify.push(handler.id.clone());
                    notified = true;
                }
                if position > at && !parallel && !other.sync {
                    restarts.notice(Notice::Early { starts: at, affects: position });
                }
            }
            restarts.handlers.extend(notified.then_some(handler));
        }
        restarts
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICES {
            self.notices.push(notice);
        }
    }

    /// Returns the problems of services that the tasks of the TaskBook start.
    pub(super) fn problems<'a>(&'a self, tasks: &'a [Task]) -> impl Iterator<Item = Found<'a>> {
        self.notices.iter().filter_map(move |notice| match *notice {
            Notice::Loop(at) => {
                let finding = Finding::new("autoNotify ignores a service in a loop")
                    .hint("write a task for each service, or notify a handler");
                Some(Found::new(tasks[at].place.key("loop"), finding).warning())
            }
            Notice::TooMany(at) => {
                let finding = Finding::new(format!("autoNotify handles at most {SERVICES} services of a TaskBook"))
                    .hint("divide the TaskBook, or notify handlers without autoNotify");
                Some(Found::new(tasks[at].place.clone(), finding))
            }
            Notice::Early { starts, affects } => {
                let (service, _) = Service::of(&tasks[starts])?;
                let task = &tasks[affects];
                let finding = Finding::new(format!(
                    "the TaskBook starts the service {} before the task {:?}, which affects the service",
                    service.unit, task.id
                ));
                let finding = finding.hint(
                    "move this task before the task that starts the service, so that a new node can start the service",
                );
                Some(Found::new(task.place.clone(), finding).warning())
            }
        })
    }
}

/// A service that a task of the TaskBook starts.
struct Service {
    /// The name of the service, as written in the task. The name may be a template.
    name: String,
    unit: String,
}

impl Service {
    fn of(task: &Task) -> Option<(Self, &'static ModuleSchema)> {
        let module = task.module.as_ref().filter(|module| module.schema.service == Some(ServiceRole::Runs))?;
        let name =
            text(&module.params, "name").filter(|_| text(&module.params, "state").as_deref() == Some("started"))?;
        Some((Self { unit: unit_name(&name), name }, module.schema))
    }

    /// Returns the NAME in the unit name `NAME.service`. The package NAME and the directory `/etc/NAME/` belong to the
    /// service.
    fn short(&self) -> &str {
        self.unit.strip_suffix(".service").unwrap_or(&self.unit)
    }

    fn is_concerned_by(&self, task: &Task) -> bool {
        let Some(module) = &task.module else { return false };
        let name = text(&module.params, "name");
        match module.schema.service {
            Some(ServiceRole::Defines) => name.is_some_and(|name| unit_name(&name) == self.unit),
            Some(ServiceRole::Installs) => {
                let names = members(&module.params, "names").iter().filter_map(Value::as_str);
                names.chain(name.as_deref()).any(|name| name == self.short())
            }
            _ if module.schema.kind == ModuleKind::State => {
                let below = format!("/etc/{}/", self.short());
                let path = text(&module.params, "path").map(|path| format!("{}/", path.trim_end_matches('/')));
                path.is_some_and(|path| path.starts_with(&below))
            }
            _ => false,
        }
    }

    fn is_restarted_by(&self, handler: &Task) -> bool {
        let params: Option<&Map<String, Value>> = handler
            .module
            .as_ref()
            .filter(|module| module.schema.service == Some(ServiceRole::Runs))
            .and_then(|module| module.params.as_object());
        params.is_some_and(|params| {
            let word = |key: &str| params.get(key).and_then(Value::as_str);
            word("name").is_some_and(|name| unit_name(name) == self.unit)
                && matches!(word("state"), Some("restarted" | "reloaded"))
        })
    }
}
