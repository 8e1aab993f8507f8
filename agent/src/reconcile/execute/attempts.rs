//! Runs a task until it succeeds, up to the attempt limit of the task. The task's expressions decide whether an attempt
//! has succeeded.

use std::{collections::BTreeMap, thread, time::Duration};

use serde_json::Value;
use towpath_modules::{ModuleError, Report};
use towpath_reconcile::{
    Outcome,
    command::{Executed, Finished},
    outcome::result_of,
};
use towpath_render::{
    objects::task::Task,
    rendering::{Item, Rendered},
};

use super::Session;

/// The result of the final attempt of a task.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) outcome: Outcome,
    pub(super) message: Option<String>,
    pub(super) result: Option<Value>,
}

impl Attempted {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, message: Some(message.into()), result: None }
    }

    pub(super) fn finished(self) -> Finished {
        Finished { message: self.message, result: self.result }
    }

    pub(super) fn executed(self) -> Executed {
        Executed::Ran(self.outcome, self.finished())
    }
}

/// Runs a task until it succeeds, up to the attempt limit of the task.
pub(super) fn run_with_retries(
    session: &Session<'_>,
    task: &Task,
    item: Option<&Item>,
    run: impl Fn() -> Result<Report, ModuleError>,
) -> Attempted {
    let (machine, book) = (session.machine(), session.book.id());
    let _work = session
        .shows_activity()
        .then(|| machine.module_cache.activity.begin(&book, &task.id, machine.clock.monotonic()));
    let limit = task.until.as_ref().map_or(1, |until| until.limit);
    let mut last = None;
    for attempt in 1..=limit {
        if attempt > 1 {
            let interval = task.until.as_ref().map(|until| until.interval).unwrap_or_default();
            if !pause(interval, || session.pass.cancel.is_cancelled() || (session.pass.should_preempt)()) {
                break;
            }
        }
        match run() {
            Ok(report) => {
                let (judged, condition_met) = evaluate(session, task, item, report);
                last = Some(judged);
                if condition_met {
                    break;
                }
            }
            Err(error) => last = Some(Attempted::failed(session.failed(error))),
        }
    }
    last.unwrap_or_else(|| Attempted::failed("interrupted before the first attempt of the task"))
}

/// Evaluates the report of a module with the expressions of the task. Returns the result of the task, and whether its
/// `until` condition is met.
fn evaluate(session: &Session<'_>, task: &Task, item: Option<&Item>, report: Report) -> (Attempted, bool) {
    let fields: BTreeMap<String, Value> =
        report.fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let first = result_of(Outcome::Changed, fields.clone());
    let mut problem = None;
    let mut ask = |key: &str, expression: Option<&String>, otherwise: bool| match expression {
        None => otherwise,
        Some(expression) => holds(session, task, item, key, expression, &first).unwrap_or_else(|why| {
            problem = Some(why);
            false
        }),
    };
    let ok = ask("success", task.success.as_ref(), report.ok);
    let changed = ask("changed", task.changed.as_ref(), true);
    let until = ask("until", task.until.as_ref().map(|until| &until.condition), true);
    let condition_met = task.until.is_none() || until;
    let mut message = report.message;
    let mut outcome =
        match (ok && condition_met || task.until.is_some() && condition_met && task.success.is_none(), changed) {
            (false, _) => Outcome::Failed,
            (true, true) => Outcome::Changed,
            (true, false) => Outcome::Unchanged,
        };
    if let (Outcome::Failed, false, Some(until)) = (outcome, condition_met, &task.until) {
        let why = message.map(|message| format!(": {message}")).unwrap_or_default();
        message = Some(format!("the condition `until: {}` is false{why}", until.condition));
    }
    if let Some(problem) = problem {
        (outcome, message) = (Outcome::Failed, Some(problem));
    }
    let result = Some(result_of(outcome, fields));
    (Attempted { outcome, message, result }, condition_met)
}

/// Returns whether an expression of a task is true for the result of the task.
///
/// # Errors
/// Fails if the expression cannot be evaluated.
pub(super) fn holds(
    session: &Session<'_>,
    task: &Task,
    item: Option<&Item>,
    key: &str,
    expression: &str,
    result: &Value,
) -> Result<bool, String> {
    match session.renderer.judge(task, item, key, expression, result) {
        Ok(Rendered::Ready(holds)) => Ok(holds),
        Ok(Rendered::Missing(_)) => Err(format!("{key}: the expression uses a value that is not known yet")),
        Err(error) => Err(error.to_string()),
    }
}

/// Returns an error message if the `success` expression of a task with a desired state is false.
pub(super) fn success_problem(
    session: &Session<'_>,
    task: &Task,
    item: Option<&Item>,
    outcome: Outcome,
) -> Option<String> {
    let expression = task.success.as_ref()?;
    match holds(session, task, item, "success", expression, &result_of(outcome, [])) {
        Ok(true) => None,
        Ok(false) => Some(format!("the condition `success: {expression}` is false")),
        Err(why) => Some(why),
    }
}

/// Waits for `time`. Returns false if `stop` becomes true during the wait.
fn pause(time: Duration, stop: impl Fn() -> bool) -> bool {
    let step = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() {
        if stop() {
            return false;
        }
        let now = left.min(step);
        thread::sleep(now);
        left = left.saturating_sub(now);
    }
    !stop()
}
