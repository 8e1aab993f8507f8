//! The resolved parameters of the module `file`.

use std::sync::Arc;

use serde_json::Value;
use towpath_host::process;
use towpath_proto::v1alpha as pb;

use crate::{
    ModuleError,
    params::{Problem, managed_path, mode},
};

/// The desired state of a path.
#[derive(Debug, Clone)]
pub(crate) struct FileSpec {
    pub(super) path: String,
    pub(super) want: Want,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) validate: Option<String>,
    pub(super) backup: bool,
}

/// The desired content at a path.
#[derive(Debug, Clone)]
pub(super) enum Want {
    Content(Arc<[u8]>),
    /// A file with any content, because the task does not set the content.
    Any,
    Source(String),
    Link(String),
    Directory,
    Absent,
}

/// Resolves the parameters of the module `file`.
pub(super) fn resolve(file: &pb::File, params: &Value) -> Result<FileSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let path = file.path.clone().unwrap_or_default();
    managed_path("path", &path, &mut problems);
    let origins: Vec<&str> = ["content", "template", "source", "linkTo"]
        .into_iter()
        .filter(|key| params.get(*key).is_some_and(|value| !value.is_null()))
        .collect();
    if let [first, second, ..] = origins.as_slice() {
        problems
            .push(Problem::new(second, format!("{first} and {second} exclude each other")).hint("keep one of them"));
    }
    let state = file.state.as_deref().unwrap_or("present");
    if let (Some(origin), "directory" | "absent") = (origins.first(), state) {
        problems.push(Problem::new(origin, format!("`{origin}` cannot be combined with `state: {state}`")));
    }
    if state == "absent" {
        for (key, given) in [
            ("mode", file.mode.is_some()),
            ("owner", file.owner.is_some()),
            ("group", file.group.is_some()),
            ("validate", file.validate.is_some()),
        ] {
            if given {
                problems.push(Problem::new(key, format!("`{key}` cannot be combined with `state: absent`")));
            }
        }
    }
    if file.link_to.is_some() && file.mode.is_some() {
        problems.push(Problem::new("mode", "a link has no mode of its own"));
    }
    if file.validate.as_ref().is_some_and(|line| line.trim().is_empty()) {
        problems.push(Problem::new("validate", "the command is empty"));
    }
    let want = match (state, &file.content, &file.source, &file.link_to) {
        ("absent", ..) => Want::Absent,
        ("directory", ..) => Want::Directory,
        (_, Some(content), _, _) => Want::Content(content.as_bytes().into()),
        (_, _, Some(source), _) => Want::Source(source.clone()),
        (_, _, _, Some(target)) => Want::Link(target.clone()),
        _ => Want::Any,
    };
    let mode = mode("mode", file.mode.as_deref(), &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(FileSpec {
        path,
        want,
        mode,
        owner: file.owner.clone(),
        group: file.group.clone(),
        validate: file.validate.clone(),
        backup: file.backup.unwrap_or(false),
    })
}

impl FileSpec {
    pub(super) fn ids(&self) -> Result<(Option<u32>, Option<u32>), ModuleError> {
        ids(self.owner.as_deref(), self.group.as_deref())
    }
}

/// Returns the user id of the owner and the id of the group. An id is `None` if the task does not set the owner or the
/// group.
pub(crate) fn ids(owner: Option<&str>, group: Option<&str>) -> Result<(Option<u32>, Option<u32>), ModuleError> {
    let missing = |what: &str, name: &str| {
        ModuleError::new(format!("this node has no {what} {name:?}; create the {what} in an earlier task"))
    };
    let uid = owner.map(|name| process::user(name).ok_or_else(|| missing("user", name))).transpose()?;
    let gid = group.map(|name| process::group(name).ok_or_else(|| missing("group", name))).transpose()?;
    Ok((uid.map(|ids| ids.0), gid))
}
