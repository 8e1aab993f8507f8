//! The module `user` manages a user of the machine with useradd(8), usermod(8) and userdel(8).

use std::collections::BTreeSet;

use serde_json::Value;
use towpath_host::FsWriter;
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use super::tools::{ToolCall, checked, entry, named, removal, run, undo};
use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource, Verb,
    params::{Problem, done, one_line, parse},
    resource::resource,
};

/// The resolved parameters of the module `user`.
#[derive(Debug)]
struct UserSpec(pb::User);

/// The module `user`.
#[derive(Debug)]
pub(crate) struct User;

impl Module for User {
    fn schema(&self) -> &'static ModuleSchema {
        pb::User::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for UserSpec {
    fn module(&self) -> &'static dyn Module {
        &User
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        context.needs_whole_root(User.schema().key)?;
        Ok(checked(self.call(context)?))
    }

    fn apply(&self, context: &Context<'_>, _writer: &FsWriter) -> Result<Report, ModuleError> {
        context.needs_whole_root(User.schema().key)?;
        run(User.schema().key, self.name(), self.call(context)?, context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        undo(self.name(), self.is_absent(), self.exists(context).ok()?)
    }
}

fn resolve(user: pb::User) -> Result<UserSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    named("name", user.name.as_deref(), &mut problems);
    for group in user.group.iter().chain(&user.groups) {
        named("groups", Some(group), &mut problems);
    }
    for (key, path) in [("home", &user.home), ("shell", &user.shell)] {
        let Some(path) = path else { continue };
        one_line(key, path, &mut problems);
        if !path.starts_with('/') || path.contains(':') {
            problems.push(Problem::new(key, "the path is not absolute"));
        }
    }
    if let Some(comment) = &user.comment {
        one_line("comment", comment, &mut problems);
        if comment.contains(':') {
            problems.push(Problem::new("comment", "the comment has a colon, which separates the fields of passwd(5)"));
        }
    }
    done(problems)?;
    Ok(UserSpec(user))
}

impl UserSpec {
    fn name(&self) -> &str {
        self.0.name.as_deref().unwrap_or_default()
    }

    fn is_absent(&self) -> bool {
        self.0.state.as_deref() == Some("absent")
    }

    fn exists(&self, context: &Context<'_>) -> Result<bool, ModuleError> {
        Ok(entry("/etc/passwd", self.name(), context)?.is_some())
    }

    /// Returns the call of `useradd`, `usermod` or `userdel` that brings the user to the desired state. Returns `None`
    /// if the user is in sync.
    fn call(&self, context: &Context<'_>) -> Result<Option<ToolCall>, ModuleError> {
        let (name, exists) = (self.name(), self.exists(context)?);
        if self.is_absent() {
            return Ok(removal("user", name, exists));
        }
        let (arguments, diff) = user_arguments(&self.0, context)?;
        if exists && arguments.is_empty() {
            return Ok(None);
        }
        let mut argv = vec![if exists { "usermod" } else { "useradd" }.to_owned()];
        if !exists {
            let system = self.0.system == Some(true);
            argv.extend(system.then(|| "--system".to_owned()));
            let home = self.0.create_home.unwrap_or(!system);
            argv.push(if home { "--create-home".into() } else { "--no-create-home".into() });
        }
        argv.extend(arguments);
        argv.push(name.to_owned());
        Ok(Some(if exists {
            ToolCall { argv, verb: Verb::Update, diff }
        } else {
            ToolCall { argv, verb: Verb::Create, diff: format!("make the user {name}\n{diff}") }
        }))
    }
}

/// Returns the names of the groups that contain a user.
fn groups_of(name: &str, context: &Context<'_>) -> Result<BTreeSet<String>, ModuleError> {
    let bytes = context.reader.read("/etc/group").map_err(|error| ModuleError::io("/etc/group", &error))?;
    let text = bytes.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lists = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let listed = fields.get(3)?.split(',').any(|member| member == name);
        listed.then(|| fields[0].to_owned())
    };
    Ok(text.lines().filter_map(lists).collect())
}

/// Returns the arguments for `useradd` or `usermod`, and a text that describes the change for people.
fn user_arguments(user: &pb::User, context: &Context<'_>) -> Result<(Vec<String>, String), ModuleError> {
    let name = user.name.clone().unwrap_or_default();
    let known = entry("/etc/passwd", &name, context)?.unwrap_or_default();
    let field = |at: usize| known.get(at).map(String::as_str);
    let (mut arguments, mut diff) = (Vec::new(), String::new());
    let mut set = |flag: &str, key: &str, wanted: Option<String>, now: Option<&str>| {
        if let Some(wanted) = wanted.filter(|wanted| Some(wanted.as_str()) != now) {
            diff.push_str(&format!("{name}: {key} becomes {wanted}\n"));
            arguments.extend([flag.to_owned(), wanted]);
        }
    };
    set("--uid", "uid", user.uid.map(|uid| uid.to_string()), field(2));
    set("--comment", "comment", user.comment.clone(), field(4));
    set("--home-dir", "home", user.home.clone(), field(5));
    set("--shell", "shell", user.shell.clone(), field(6));
    if let Some(group) = &user.group {
        let gid = entry("/etc/group", group, context)?.and_then(|fields| fields.get(2).cloned());
        let now = field(3).map(str::to_owned);
        if now.is_none() || gid != now {
            set("--gid", "group", Some(group.clone()), None);
        }
    }
    if !user.groups.is_empty() {
        let wanted: BTreeSet<String> = user.groups.iter().cloned().collect();
        if groups_of(&name, context)? != wanted {
            let list = wanted.into_iter().collect::<Vec<_>>().join(",");
            set("--groups", "groups", Some(list), None);
        }
    }
    // usermod has a different option for the home directory.
    if !known.is_empty() {
        arguments.iter_mut().filter(|flag| *flag == "--home-dir").for_each(|flag| *flag = "--home".into());
    }
    Ok((arguments, diff))
}
