//! `user` and `group`: accounts of the machine, managed with the system's tools (useradd(8), usermod(8), groupadd(8)).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use towpath_host::process::{self, Invocation};
use towpath_proto::v1alpha as pb;

use crate::{
    Change, Checked, Context, ModuleError, Report, Verb,
    resolve::{Problem, done, one_line},
};

/// An account.
#[derive(Debug, Clone)]
pub enum Options {
    /// A user.
    User(Box<pb::User>),
    /// A group.
    Group(pb::Group),
}

fn named(key: &str, name: Option<&str>, problems: &mut Vec<Problem>) {
    let name = name.unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || name.len() > 32 || !name.chars().all(fine) {
        problems.push(Problem::new(key, format!("{name:?} is no name of an account")));
    }
}

pub(crate) fn resolve_user(user: pb::User) -> Result<Options, Vec<Problem>> {
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
    Ok(Options::User(Box::new(user)))
}

pub(crate) fn resolve_group(group: pb::Group) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    named("name", group.name.as_deref(), &mut problems);
    done(problems)?;
    Ok(Options::Group(group))
}

/// Returns the fields of a line of passwd(5) or group(5). `None` if the name is missing.
fn entry(file: &str, name: &str, context: &Context<'_>) -> Result<Option<Vec<String>>, ModuleError> {
    let bytes = context.look.read(file).map_err(|error| ModuleError::io(file, &error))?;
    let text = bytes.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').map(str::to_owned).collect()))
}

/// Returns the groups that list a user as a member.
fn groups_of(name: &str, context: &Context<'_>) -> Result<BTreeSet<String>, ModuleError> {
    let bytes = context.look.read("/etc/group").map_err(|error| ModuleError::io("/etc/group", &error))?;
    let text = bytes.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lists = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let listed = fields.get(3)?.split(',').any(|member| member == name);
        listed.then(|| fields[0].to_owned())
    };
    Ok(text.lines().filter_map(lists).collect())
}

impl Options {
    pub(crate) fn module(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::User(user) => user.name.as_deref().unwrap_or_default(),
            Self::Group(group) => group.name.as_deref().unwrap_or_default(),
        }
    }

    fn absent(&self) -> bool {
        let state = match self {
            Self::User(user) => &user.state,
            Self::Group(group) => &group.state,
        };
        state.as_deref() == Some("absent")
    }

    fn there(&self, context: &Context<'_>) -> Result<bool, ModuleError> {
        let file = if matches!(self, Self::User(_)) { "/etc/passwd" } else { "/etc/group" };
        Ok(entry(file, self.name(), context)?.is_some())
    }

    /// Returns the command to run, the kind of the change, and its diff. `None` if the account is in sync.
    fn missing(&self, context: &Context<'_>) -> Result<Option<(Vec<String>, Verb, String)>, ModuleError> {
        let name = self.name().to_owned();
        let there = self.there(context)?;
        let kind = self.module();
        if self.absent() {
            let removes =
                || (vec![format!("{kind}del"), name.clone()], Verb::Remove, format!("remove the {kind} {name}\n"));
            return Ok(there.then(removes));
        }
        let (arguments, diff) = match self {
            Self::User(user) => user_arguments(user, context)?,
            Self::Group(group) => {
                let known = entry("/etc/group", &name, context)?.and_then(|fields| fields.get(2)?.parse::<i64>().ok());
                match group.gid.filter(|gid| known != Some(*gid)) {
                    Some(gid) => (vec!["--gid".into(), gid.to_string()], format!("{name}: gid becomes {gid}\n")),
                    None => (Vec::new(), String::new()),
                }
            }
        };
        if there && arguments.is_empty() {
            return Ok(None);
        }
        let mut argv = vec![format!("{kind}{}", if there { "mod" } else { "add" })];
        if !there {
            let system = match self {
                Self::User(user) => user.system,
                Self::Group(group) => group.system,
            };
            argv.extend((system == Some(true)).then(|| "--system".to_owned()));
            if let Self::User(user) = self {
                argv.push(if user.create_home.unwrap_or(user.system != Some(true)) {
                    "--create-home".into()
                } else {
                    "--no-create-home".into()
                });
            }
        }
        argv.extend(arguments);
        argv.push(name.clone());
        let (verb, diff) =
            if there { (Verb::Update, diff) } else { (Verb::Create, format!("make the {kind} {name}\n{diff}")) };
        Ok(Some((argv, verb, diff)))
    }
}

/// Returns the arguments that useradd or usermod needs, and the diff.
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
    // usermod names the flag of the home directory differently.
    if !known.is_empty() {
        arguments.iter_mut().filter(|flag| *flag == "--home-dir").for_each(|flag| *flag = "--home".into());
    }
    Ok((arguments, diff))
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    context.needs_whole_root(options.module())?;
    Ok(match options.missing(context)? {
        Some((_, verb, diff)) => Checked::Change(Change { verb, diff, steps: Vec::new() }),
        None => Checked::InSync,
    })
}

pub(crate) fn run(options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    context.needs_whole_root(options.module())?;
    let Some((argv, ..)) = options.missing(context)? else { return Ok(Report::well()) };
    let tool = argv.first().cloned().unwrap_or_default();
    let invocation = Invocation { argv, timeout: Some(context.timeout), ..Invocation::default() };
    let output = process::run(&invocation, context.cancel).map_err(|error| {
        ModuleError::new(format!("{tool} can't be run: {error} (it comes with the package passwd)"))
    })?;
    if output.rc != 0 {
        let said = output.stderr.trim().replace('\n', "; ");
        let what = format!("{} {}: {tool} ended with status {}: {said}", options.module(), options.name(), output.rc);
        return Err(ModuleError::new(what));
    }
    Ok(Report::well())
}

/// Returns the parameters that remove the account. `None` if it exists already or the task removes it.
pub(crate) fn undo(options: &Options, context: &Context<'_>) -> Option<Value> {
    let new = !options.absent() && !options.there(context).ok()?;
    new.then(|| json!({ "name": options.name(), "state": "absent" }))
}
