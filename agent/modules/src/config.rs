//! Modules that are one file with a form and a place of its own: `sudoers`, `packageRepository`.

use serde_json::{Value, json};
use towpath_proto::v1alpha as pb;

use crate::{
    Checked, Context, ModuleError, file,
    resolve::{Problem, done},
};

/// The file of such a module.
#[derive(Debug, Clone)]
pub struct Options {
    module: &'static str,
    name: String,
    absent: bool,
    file: file::Options,
}

fn build(module: &'static str, name: String, params: &Value) -> Result<Options, Vec<Problem>> {
    let file: pb::File =
        serde_json::from_value(params.clone()).map_err(|error| vec![Problem::new("", error.to_string())])?;
    let absent = file.state.as_deref() == Some("absent");
    Ok(Options { module, name, absent, file: file::resolve(&file, params)? })
}

/// A name that is the name of a file too: one that sudo and apt do not pass over.
fn file_name(name: Option<&str>, problems: &mut Vec<Problem>) -> String {
    let name = name.unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || !name.chars().all(fine) {
        problems.push(
            Problem::new("name", format!("{name:?} can't be the name of the file"))
                .hint("use letters, digits, - and _: files with other names are passed over"),
        );
    }
    name.to_owned()
}

pub(crate) fn sudoers(sudoers: &pb::Sudoers) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = file_name(sudoers.name.as_deref(), &mut problems);
    let path = format!("/etc/sudoers.d/{name}");
    let absent = sudoers.state.as_deref() == Some("absent");
    if sudoers.content.is_none() && !absent {
        problems.push(Problem::new("content", "sudoers needs content or template"));
    }
    done(problems)?;
    let params = if absent {
        json!({ "path": path, "state": "absent" })
    } else {
        // A file that sudo can't read locks everybody out: it is asked before.
        json!({ "path": path, "content": sudoers.content, "mode": "0440", "validate": "visudo -cqf %s" })
    };
    build("sudoers", name, &params)
}

pub(crate) fn repository(repository: &pb::PackageRepository) -> Result<Options, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = file_name(repository.name.as_deref(), &mut problems);
    let absent = repository.state.as_deref() == Some("absent");
    let apt = repository.base_url.is_none();
    let path =
        if apt { format!("/etc/apt/sources.list.d/{name}.sources") } else { format!("/etc/yum.repos.d/{name}.repo") };
    let lines = repository.uris.iter().chain(&repository.suites).chain(&repository.components);
    let mut lines = lines.chain(&repository.architectures).chain(&repository.base_url).chain(&repository.gpg_key);
    if lines.any(|text| text.contains(char::is_whitespace)) {
        problems.push(Problem::new("", "a URI, suite, component or architecture has a blank in it"));
    }
    if !absent && apt && (repository.uris.is_empty() || repository.suites.is_empty()) {
        problems.push(
            Problem::new("uris", "packageRepository needs uris and suites, or baseUrl")
                .hint("the former for apt, the latter for dnf"),
        );
    }
    if !apt && (!repository.uris.is_empty() || repository.signed_by.is_some()) {
        problems
            .push(Problem::new("baseUrl", "baseUrl is for dnf, uris and signedBy are for apt").hint("keep one kind"));
    }
    if !absent && apt && repository.signed_by.is_none() && repository.trusted != Some(true) {
        problems.push(
            Problem::new("signedBy", "a repository needs the key that its packages are signed with").hint(
                "give signedBy, the key in ASCII armour or the path of a keyring; or say trusted: true and mean it",
            ),
        );
    }
    if !absent && !apt && repository.gpg_key.is_none() && repository.trusted != Some(true) {
        problems.push(
            Problem::new("gpgKey", "a repository needs the key that its packages are signed with")
                .hint("give gpgKey, its URL; or say trusted: true and mean it"),
        );
    }
    done(problems)?;
    let content = if apt { deb822(repository) } else { repo(repository, &name) };
    let params = if absent {
        json!({ "path": path, "state": "absent" })
    } else {
        json!({ "path": path, "content": content, "mode": "0644" })
    };
    build("packageRepository", name, &params)
}

/// A source of apt, as sources.list(5) has it.
fn deb822(repository: &pb::PackageRepository) -> String {
    let mut text = String::from("Types: deb\n");
    let mut field = |name: &str, values: &[String]| {
        if !values.is_empty() {
            text.push_str(&format!("{name}: {}\n", values.join(" ")));
        }
    };
    field("URIs", &repository.uris);
    field("Suites", &repository.suites);
    field("Components", &repository.components);
    field("Architectures", &repository.architectures);
    if repository.trusted == Some(true) {
        text.push_str("Trusted: yes\n");
    }
    if let Some(file) = repository.signed_by.as_ref().filter(|key| key.starts_with('/')) {
        text.push_str(&format!("Signed-By: {}\n", file.trim()));
    } else if let Some(key) = &repository.signed_by {
        text.push_str("Signed-By:\n");
        for line in key.trim().lines() {
            // An empty line would end the stanza.
            let line = if line.trim().is_empty() { "." } else { line };
            text.push_str(&format!(" {line}\n"));
        }
    }
    text
}

/// A repository of dnf, as dnf.conf(5) has it.
fn repo(repository: &pb::PackageRepository, name: &str) -> String {
    let url = repository.base_url.as_deref().unwrap_or_default();
    let mut text = format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n");
    match &repository.gpg_key {
        Some(key) => text.push_str(&format!("gpgcheck=1\ngpgkey={key}\n")),
        None => text.push_str("gpgcheck=0\n"),
    }
    text
}

impl Options {
    pub(crate) fn module(&self) -> &'static str {
        self.module
    }

    /// The file.
    pub fn path(&self) -> &str {
        self.file.path()
    }
}

pub(crate) fn check(options: &Options, context: &Context<'_>) -> Result<Checked, ModuleError> {
    file::check(&options.file, context)
}

/// The parameters that take the file away again, where it is not there yet.
pub(crate) fn undo(options: &Options, params: &Value, context: &Context<'_>) -> Option<Value> {
    if options.absent || context.look.exists(options.path()).ok()? {
        return None;
    }
    let mut undo = json!({ "name": options.name, "state": "absent" });
    if let Some(url) = params.get("baseUrl") {
        // It says which kind of file it is.
        undo.as_object_mut()?.insert("baseUrl".into(), url.clone());
    }
    Some(undo)
}
