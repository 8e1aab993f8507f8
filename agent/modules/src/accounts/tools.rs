//! Code for the modules `user` and `group`. The code reads passwd(5) and group(5), and calls tools such as useradd(8).

use serde_json::{Value, json};
use towpath_host::process::{self, Invocation};

use crate::{Change, Checked, Context, ModuleError, Report, Verb, params::Problem};

/// Checks the name of a user or group, and adds a problem if the name is missing or not valid.
pub(super) fn named(key: &str, name: Option<&str>, problems: &mut Vec<Problem>) {
    let name = name.unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || name.len() > 32 || !name.chars().all(fine) {
        problems.push(Problem::new(key, format!("{name:?} is not a valid name of an account")));
    }
}

/// Returns the fields of an account's line in passwd(5) or group(5); `None` if the account does not exist.
pub(super) fn entry(file: &str, name: &str, context: &Context<'_>) -> Result<Option<Vec<String>>, ModuleError> {
    let bytes = context.reader.read(file).map_err(|error| ModuleError::io(file, &error))?;
    let text = bytes.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').map(str::to_owned).collect()))
}

/// A call of a system tool, such as `useradd`, that changes an account.
pub(super) struct ToolCall {
    /// The command line of the call.
    pub(super) argv: Vec<String>,
    /// The kind of the change.
    pub(super) verb: Verb,
    /// A text that describes the change for people.
    pub(super) diff: String,
}

/// Returns the call of `userdel` or `groupdel` that removes an account; `None` if the account does not exist.
pub(super) fn removal(module: &str, name: &str, exists: bool) -> Option<ToolCall> {
    exists.then(|| ToolCall {
        argv: vec![format!("{module}del"), name.to_owned()],
        verb: Verb::Remove,
        diff: format!("remove the {module} {name}\n"),
    })
}

/// Returns the result of a check: a change for a tool call, or in sync if `call` is `None`.
pub(super) fn checked(call: Option<ToolCall>) -> Checked {
    call.map_or(Checked::InSync, |call| Change::direct(call.verb, call.diff))
}

/// Runs a tool call, unless `call` is `None`.
pub(super) fn run(
    module: &str,
    name: &str,
    call: Option<ToolCall>,
    context: &Context<'_>,
) -> Result<Report, ModuleError> {
    let Some(ToolCall { argv, .. }) = call else { return Ok(Report::success()) };
    let tool = argv.first().cloned().unwrap_or_default();
    let invocation = Invocation { argv, timeout: Some(context.timeout), ..Invocation::default() };
    let output = process::run(&invocation, context.cancel)
        .map_err(|error| ModuleError::new(format!("cannot run {tool}: {error}; install the package passwd")))?;
    if output.rc != 0 {
        let stderr = output.stderr.trim().replace('\n', "; ");
        let what = format!("{module} {name}: {tool} ended with status {}: {stderr}", output.rc);
        return Err(ModuleError::new(what));
    }
    Ok(Report::success())
}

/// Returns the parameters that undo the task; `None` if the account already exists, or if the task removes the account.
pub(super) fn undo(name: &str, absent: bool, exists: bool) -> Option<Value> {
    (!absent && !exists).then(|| json!({ "name": name, "state": "absent" }))
}
