//! The module `command` runs a program.

use serde_json::Value;
use towpath_proto::{ModuleKind, ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::invoked::{Invoked, check, finish, finish_run};
use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource,
    params::{Problem, environment, parse},
    resource::resource,
};

/// The resolved parameters of the module `command`.
#[derive(Debug)]
struct CommandSpec(Invoked);

/// The module `command`.
#[derive(Debug)]
pub(crate) struct Command;

impl Module for Command {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Command::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for CommandSpec {
    fn module(&self) -> &'static dyn Module {
        &Command
    }

    fn kind(&self) -> ModuleKind {
        self.0.kind()
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        check(&self.0, context)
    }

    fn asks_commands(&self) -> bool {
        self.0.asks_commands()
    }

    fn observe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        let mut invocation = self.0.invocation(self.0.argv.clone(), context)?;
        invocation.stdin = self.0.stdin.clone().map(String::into_bytes);
        finish_run(&invocation, &self.0, context)
    }
}

fn resolve(command: pb::Command) -> Result<CommandSpec, Vec<Problem>> {
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
    let spec = Invoked {
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
    finish(spec, problems).map(CommandSpec)
}
