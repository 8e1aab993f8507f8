//! `command` and `script`: a program that a task runs.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};
use towpath_host::process::{self, Account, Invocation, Output};
use towpath_proto::v1alpha as pb;
use towpath_render::tree;

use crate::{
    Change, Checked, Context, ModuleError, Report, Sort, Verb,
    resolve::{Problem, environment},
};

/// A command and its conditions.
#[derive(Debug, Clone)]
pub struct Options {
    argv: Vec<String>,
    /// The script of the source, which runs with `argv` as its arguments.
    pub(crate) script: Option<String>,
    stdin: Option<String>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    unless: Option<String>,
    only_if: Option<String>,
    always: bool,
    user: Option<String>,
}

pub(crate) fn resolve(command: pb::Command) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let argv = match (command.argv.is_empty(), command.shell) {
        (false, None) => command.argv,
        (true, Some(line)) => vec!["/bin/sh".into(), "-c".into(), line],
        (false, Some(_)) => {
            problems.push(Problem::new("shell", "argv and shell exclude each other").hint("keep one of them"));
            Vec::new()
        }
        (true, None) => {
            problems.push(Problem::new("", "command needs argv or shell"));
            Vec::new()
        }
    };
    if argv.first().is_some_and(String::is_empty) {
        problems.push(Problem::new("argv", "the program's name is empty"));
    }
    if argv.len() == 1 && argv[0].contains(' ') && !argv[0].starts_with('/') {
        problems.push(
            Problem::new("argv", format!("{:?} is one word", argv[0]))
                .hint("write each argument as a member, or use shell"),
        );
    }
    let env = environment(command.env, &mut problems);
    let options = Options {
        argv,
        script: None,
        stdin: command.stdin,
        env,
        cwd: command.cwd,
        creates: command.creates,
        removes: command.removes,
        unless: command.unless,
        only_if: command.only_if,
        always: command.run.as_deref() == Some("always"),
        user: command.user,
    };
    finish(options, problems)
}

pub(crate) fn resolve_script(script: pb::Script) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let env = environment(script.env, &mut problems);
    let options = Options {
        argv: script.args,
        script: script.source,
        stdin: script.stdin,
        env,
        cwd: script.cwd,
        creates: script.creates,
        removes: script.removes,
        unless: script.unless,
        only_if: script.only_if,
        always: script.run.as_deref() == Some("always"),
        user: script.user,
    };
    finish(options, problems)
}

fn finish(options: Options, mut problems: Vec<Problem>) -> Result<Options, Vec<Problem>> {
    if options.always && options.is_state() {
        problems.push(
            Problem::new("run", "run: always does not go with creates, removes, unless or onlyIf")
                .hint("they say already when it runs"),
        );
    }
    for (key, path) in [("creates", &options.creates), ("removes", &options.removes)] {
        if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            problems.push(Problem::new(key, "the path is not absolute"));
        }
    }
    if options.argv.iter().any(|text| text.contains('\0')) {
        problems.push(Problem::new("argv", "an argument has a NUL character"));
    }
    if problems.is_empty() { Ok(options) } else { Err(problems) }
}

impl Options {
    fn is_state(&self) -> bool {
        self.creates.is_some() || self.removes.is_some() || self.unless.is_some() || self.only_if.is_some()
    }

    pub(crate) fn sort(&self) -> Sort {
        match (self.always, self.is_state()) {
            (true, _) => Sort::Always,
            (false, true) => Sort::State,
            (false, false) => Sort::Action,
        }
    }

    fn shown(&self) -> String {
        match (&self.script, self.argv.as_slice()) {
            (Some(script), args) => {
                std::iter::once(script.as_str()).chain(args.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
            }
            (None, [_, flag, line]) if flag == "-c" => line.clone(),
            (None, argv) => argv.join(" "),
        }
    }

    fn invocation(&self, argv: Vec<String>, context: &Context<'_>) -> Result<Invocation, ModuleError> {
        let user = match &self.user {
            Some(name) => Some(account(name)?),
            None => None,
        };
        let mut env = self.env.clone();
        env.insert("TOWPATH_ROOT".into(), context.look.root().display().to_string());
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

    /// Runs a condition: `unless` or `onlyIf`. Returns true if it ends with status 0.
    fn asks(&self, line: &str, context: &Context<'_>) -> Result<bool, ModuleError> {
        let invocation = self.invocation(vec!["/bin/sh".into(), "-c".into(), line.to_owned()], context)?;
        let output = process::run(&invocation, context.cancel)
            .map_err(|error| ModuleError::new(format!("{line:?} can't be run: {error}")))?;
        if output.cancelled {
            return Err(ModuleError::new("it was cut off because the agent stops"));
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
    found.ok_or_else(|| {
        ModuleError::new(format!("there is no user {name:?} on this node; add a task with the module user before it"))
    })
}

/// Checks the conditions of the command. An action without conditions always needs to run here; the caller knows if it
/// ran before.
pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    let there = |path: &String| context.look.exists(path).map_err(|error| ModuleError::io(path, &error));
    let run = Checked::Change(Change { verb: Verb::Run, diff: options.shown(), steps: Vec::new() });
    let mut needed = true;
    if let Some(path) = &options.creates {
        needed &= !there(path)?;
    }
    if let Some(path) = &options.removes {
        needed &= there(path)?;
    }
    if let (true, Some(line)) = (needed, &options.unless) {
        needed &= !options.asks(line, context)?;
    }
    if let (true, Some(line)) = (needed, &options.only_if) {
        needed &= options.asks(line, context)?;
    }
    Ok(if needed { run } else { Checked::InSync })
}

pub(crate) fn run(options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    let argv = match &options.script {
        // The script runs from a temporary file, which is removed after the run.
        Some(script) => return run_script(options, script, context),
        None => options.argv.clone(),
    };
    let mut invocation = options.invocation(argv, context)?;
    invocation.stdin = options.stdin.clone().map(String::into_bytes);
    finish_run(&invocation, options, context)
}

fn run_script(options: &Options, script: &str, context: &Context<'_>) -> Result<Report, ModuleError> {
    let (tree, folder) = context.source.clone().ok_or_else(|| ModuleError::new("the task has no source"))?;
    let path = tree::join(&folder, script).map_err(ModuleError::new)?;
    let bytes = tree
        .read(&path)
        .map_err(|error| ModuleError::io(&path, &error))?
        .ok_or_else(|| ModuleError::new(format!("there is no {path} in the source")))?;
    let file = process::ScriptFile::new(&bytes).map_err(|error| ModuleError::io(&path, &error))?;
    let mut argv = vec![file.path().display().to_string()];
    argv.extend(options.argv.iter().cloned());
    let mut invocation = options.invocation(argv, context)?;
    file.give_to(invocation.user.as_ref()).map_err(|error| ModuleError::io(&path, &error))?;
    invocation.stdin = options.stdin.clone().map(String::into_bytes);
    finish_run(&invocation, options, context)
}

fn finish_run(invocation: &Invocation, options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    let output = process::run(invocation, context.cancel).map_err(|error| {
        let hint =
            if error.kind() == std::io::ErrorKind::NotFound { " (is it installed, and does cwd exist?)" } else { "" };
        ModuleError::new(format!("{:?} can't be started: {error}{hint}", options.shown()))
    })?;
    if output.cancelled {
        return Err(ModuleError::new("it was cut off because the agent stops"));
    }
    if output.timed_out {
        return Err(ModuleError::new(format!(
            "it took longer than {} s and was ended; timeout sets more",
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
