//! Code for the modules `command` and `script`. The code checks the conditions of a program, runs the program, and
//! reports the result.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};
use towpath_host::process::{self, Account, Invocation, Output};
use towpath_proto::ModuleKind;

use crate::{Change, Checked, Context, ModuleError, Report, Verb, params::Problem};

/// A program with its arguments and environment, and the conditions on which the program runs.
#[derive(Debug, Clone)]
pub(super) struct Invoked {
    pub(super) argv: Vec<String>,
    /// The path of the script in the source; `None` for the module `command`. For a script, `argv` contains only the
    /// script's arguments.
    pub(super) script: Option<String>,
    pub(super) stdin: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: Option<String>,
    pub(super) creates: Option<String>,
    pub(super) removes: Option<String>,
    pub(super) unless: Option<String>,
    pub(super) only_if: Option<String>,
    pub(super) always: bool,
    pub(super) user: Option<String>,
}

/// Checks the parameters that the modules `command` and `script` share, such as `creates` and `argv`.
pub(super) fn finish(spec: Invoked, mut problems: Vec<Problem>) -> Result<Invoked, Vec<Problem>> {
    if spec.always && spec.is_state() {
        problems.push(
            Problem::new("run", "run: always cannot be combined with creates, removes, unless or onlyIf")
                .hint("remove run: always, or remove these conditions"),
        );
    }
    for (key, path) in [("creates", &spec.creates), ("removes", &spec.removes)] {
        if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            problems.push(Problem::new(key, "the path is not absolute"));
        }
    }
    if spec.argv.iter().any(|text| text.contains('\0')) {
        problems.push(Problem::new("argv", "an argument has a NUL character"));
    }
    if problems.is_empty() { Ok(spec) } else { Err(problems) }
}

impl Invoked {
    fn is_state(&self) -> bool {
        self.creates.is_some() || self.removes.is_some() || self.unless.is_some() || self.only_if.is_some()
    }

    /// Returns the kind of the task. A task with `creates`, `removes`, `unless` or `onlyIf` describes a state, and any
    /// other task is an action.
    pub(super) fn kind(&self) -> ModuleKind {
        match (self.always, self.is_state()) {
            (true, _) => ModuleKind::Always,
            (false, true) => ModuleKind::State,
            (false, false) => ModuleKind::Action,
        }
    }

    /// Returns true if the task sets a command line in `unless` or `onlyIf`.
    pub(super) fn asks_commands(&self) -> bool {
        self.unless.is_some() || self.only_if.is_some()
    }

    /// Returns the command line as a text for people.
    fn display(&self) -> String {
        match (&self.script, self.argv.as_slice()) {
            (Some(script), args) => {
                std::iter::once(script.as_str()).chain(args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
            }
            (None, [_, flag, line]) if flag == "-c" => line.clone(),
            (None, argv) => argv.join(" "),
        }
    }

    /// Returns the invocation of a program, with the environment, user and time limit of the task.
    pub(super) fn invocation(&self, argv: Vec<String>, context: &Context<'_>) -> Result<Invocation, ModuleError> {
        let user = match &self.user {
            Some(name) => Some(account(name)?),
            None => None,
        };
        let mut env = self.env.clone();
        env.insert("TOWPATH_ROOT".into(), context.reader.root().display().to_string());
        env.insert("TOWPATH_NODE".into(), context.node.to_owned());
        Ok(Invocation {
            argv,
            stdin: None,
            env,
            cwd: self.cwd.as_ref().map(PathBuf::from),
            user,
            timeout: Some(context.timeout),
        })
    }

    /// Runs the command line of `unless` or `onlyIf`. Returns true if the command line ends with status 0.
    fn asks(&self, line: &str, context: &Context<'_>) -> Result<bool, ModuleError> {
        let invocation = self.invocation(vec!["/bin/sh".into(), "-c".into(), line.to_owned()], context)?;
        let output = process::run(&invocation, context.cancel)
            .map_err(|error| ModuleError::new(format!("cannot run {line:?}: {error}")))?;
        if output.cancelled {
            return Err(ModuleError::new("the program was ended because the agent stops"));
        }
        if output.timed_out {
            return Err(ModuleError::new(format!("{line:?} took longer than {} s", context.timeout.as_secs())));
        }
        Ok(output.rc == 0)
    }
}

fn account(name: &str) -> Result<Account, ModuleError> {
    let found =
        Account::find(name).map_err(|error| ModuleError::new(format!("cannot look up the user {name:?}: {error}")))?;
    found.ok_or_else(|| ModuleError::new(format!("this node has no user {name:?}; create the user in an earlier task")))
}

/// Checks whether the program must run. A program without conditions must always run, even if the program has run
/// before.
pub(super) fn check(spec: &Invoked, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let there = |path: &String| context.reader.exists(path).map_err(|error| ModuleError::io(path, &error));
    let run = Checked::Change(Change { verb: Verb::Run, diff: spec.display(), steps: Vec::new() });
    let mut needed = true;
    if let Some(path) = &spec.creates {
        needed &= !there(path)?;
    }
    if let Some(path) = &spec.removes {
        needed &= there(path)?;
    }
    if let (true, Some(line)) = (needed, &spec.unless) {
        needed &= !spec.asks(line, context)?;
    }
    if let (true, Some(line)) = (needed, &spec.only_if) {
        needed &= spec.asks(line, context)?;
    }
    Ok(if needed { run } else { Checked::InSync })
}

/// Runs a program, and reports its exit status and output.
pub(super) fn finish_run(
    invocation: &Invocation,
    spec: &Invoked,
    context: &Context<'_>,
) -> Result<Report, ModuleError> {
    let output = process::run(invocation, context.cancel).map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound {
            "; check that the program is installed and that cwd exists"
        } else {
            ""
        };
        ModuleError::new(format!("cannot start {:?}: {error}{hint}", spec.display()))
    })?;
    if output.cancelled {
        return Err(ModuleError::new("the program was ended because the agent stops"));
    }
    if output.timed_out {
        return Err(ModuleError::new(format!(
            "the program took longer than {} s, so the agent ended it; raise the timeout of the task",
            context.timeout.as_secs()
        )));
    }
    Ok(report(output))
}

fn report(output: Output) -> Report {
    let message = (output.rc != 0).then(|| {
        let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        let last: Vec<&str> = said.trim_end().lines().rev().take(5).collect();
        format!("it ended with status {}: {}", output.rc, last.into_iter().rev().collect::<Vec<_>>().join("; "))
    });
    let fields: BTreeMap<&'static str, Value> =
        [("rc", json!(output.rc)), ("stdout", json!(output.stdout)), ("stderr", json!(output.stderr))].into();
    Report { ok: output.rc == 0, fields, message }
}
