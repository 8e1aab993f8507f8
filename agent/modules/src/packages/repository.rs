//! The module `packageRepository` manages a file that adds a package repository to apt or dnf.

use serde_json::{Value, json};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Checked, Context, Module, ModuleError, Resolved, Resource,
    files::drop_in::{DropInFile, file_name},
    params::{Problem, done, one_line, parse},
    resource::resource,
};

/// The resolved parameters of the module `packageRepository`.
#[derive(Debug)]
struct RepositorySpec {
    file: DropInFile,
    /// The base URL of a dnf repository; `None` for an apt repository.
    base_url: Option<String>,
}

/// The module `packageRepository`.
#[derive(Debug)]
pub(crate) struct PackageRepository;

impl Module for PackageRepository {
    fn schema(&self) -> &'static ModuleSchema {
        pb::PackageRepository::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for RepositorySpec {
    fn module(&self) -> &'static dyn Module {
        &PackageRepository
    }

    fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        self.file.check(context)
    }

    fn undo(&self, context: &Context<'_>) -> Option<Value> {
        let mut undo = self.file.undo(context)?;
        if let Some(url) = &self.base_url {
            // `baseUrl` selects the file of dnf instead of the file of apt.
            undo.as_object_mut()?.insert("baseUrl".into(), json!(url));
        }
        Some(undo)
    }

    fn path(&self) -> Option<&str> {
        self.file.path()
    }
}

fn resolve(repository: &pb::PackageRepository) -> Result<RepositorySpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let name = file_name(repository.name.as_deref(), &mut problems);
    let absent = repository.state.as_deref() == Some("absent");
    let apt = repository.base_url.is_none();
    let path =
        if apt { format!("/etc/apt/sources.list.d/{name}.sources") } else { format!("/etc/yum.repos.d/{name}.repo") };
    one_word(repository, &mut problems);
    if let Some(key) = &repository.signed_by {
        signed_by(key, &mut problems);
    }
    if !absent && apt && (repository.uris.is_empty() || repository.suites.is_empty()) {
        problems.push(
            Problem::new("uris", "packageRepository needs uris and suites, or baseUrl")
                .hint("write uris and suites for apt, or baseUrl for dnf"),
        );
    }
    if !apt && (!repository.uris.is_empty() || repository.signed_by.is_some()) {
        problems.push(
            Problem::new("baseUrl", "baseUrl is for dnf, uris and signedBy are for apt")
                .hint("keep the parameters of one tool"),
        );
    }
    if !absent && apt && repository.signed_by.is_none() && repository.trusted != Some(true) {
        problems.push(Problem::new("signedBy", "a repository needs the key that signs its packages").hint(
            "set signedBy to an ASCII-armoured key or the path of a keyring; trusted: true accepts unsigned packages",
        ));
    }
    if !absent && !apt && repository.gpg_key.is_none() && repository.trusted != Some(true) {
        problems.push(
            Problem::new("gpgKey", "a repository needs the key that signs its packages")
                .hint("set gpgKey to the URL of the key; trusted: true accepts unsigned packages"),
        );
    }
    done(problems)?;
    let content = if apt { deb822(repository) } else { repo(repository, &name) };
    let params = if absent {
        json!({ "path": path, "state": "absent" })
    } else {
        json!({ "path": path, "content": content, "mode": "0644" })
    };
    let file = DropInFile::resolve(name, &params)?;
    Ok(RepositorySpec { file, base_url: repository.base_url.clone() })
}

/// Adds a problem for each of the given parameters that is not a single word. In a repository file, a second word or
/// line is a separate setting.
fn one_word(repository: &pb::PackageRepository, problems: &mut Vec<Problem>) {
    let lists = [
        ("uris", &repository.uris),
        ("suites", &repository.suites),
        ("components", &repository.components),
        ("architectures", &repository.architectures),
    ];
    let lists = lists.into_iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
    let single = repository.base_url.iter().map(|url| ("baseUrl", url));
    for (key, value) in lists.chain(single).chain(repository.gpg_key.iter().map(|url| ("gpgKey", url))) {
        let before = problems.len();
        one_line(key, value, problems);
        if problems.len() == before && (value.is_empty() || value.contains(char::is_whitespace)) {
            problems.push(Problem::new(key, format!("{value:?} is not one word")).hint("write values as a list"));
        }
    }
}

/// Checks the parameter `signedBy`. The value of `signedBy` is either the path of a keyring, or a public key in ASCII
/// armour.
fn signed_by(key: &str, problems: &mut Vec<Problem>) {
    let text = key.trim();
    if !text.starts_with(ARMOUR.0) {
        return one_line("signedBy", text, problems);
    }
    let lines = || text.lines().map(str::trim_end);
    let end = lines().position(|line| line == ARMOUR.1);
    if lines().any(|line| !line.chars().all(|c| c == ' ' || c.is_ascii_graphic()))
        || end.is_none_or(|end| end + 1 != lines().count())
    {
        let problem = Problem::new("signedBy", "the key is not one block in ASCII armour");
        problems.push(problem.hint("write the output of gpg --armor --export KEY, to its last line"));
    }
}

/// The first and the last line of a public key in ASCII armour (RFC 9580, 6.2).
const ARMOUR: (&str, &str) = ("-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----");

/// Returns the text of an apt source file (sources.list(5)).
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
    let key = repository.signed_by.as_deref().map(str::trim);
    if let Some(file) = key.filter(|key| !key.starts_with(ARMOUR.0)) {
        text.push_str(&format!("Signed-By: {file}\n"));
    } else if let Some(key) = key {
        text.push_str("Signed-By:\n");
        for line in key.lines().map(str::trim_end) {
            // An empty line would end the stanza, so it becomes a dot.
            let line = if line.is_empty() { "." } else { line };
            text.push_str(&format!(" {line}\n"));
        }
    }
    text
}

/// Returns the text of a dnf repository file (dnf.conf(5)).
fn repo(repository: &pb::PackageRepository, name: &str) -> String {
    let url = repository.base_url.as_deref().unwrap_or_default();
    let mut text = format!("[{name}]\nname={name}\nbaseurl={url}\nenabled=1\n");
    match &repository.gpg_key {
        Some(key) => text.push_str(&format!("gpgcheck=1\ngpgkey={key}\n")),
        None => text.push_str("gpgcheck=0\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: Value) -> Result<RepositorySpec, Vec<Problem>> {
        let apt = json!({"name": "x", "uris": ["http://deb.example"], "suites": ["stable"], "components": ["main"],
            "signedBy": "/usr/share/keyrings/k.gpg"});
        let dnf = json!({"name": "x", "baseUrl": "http://rpm.example", "gpgKey": "http://rpm.example/k"});
        let mut params = if change.get("baseUrl").or(change.get("gpgKey")).is_some() { dnf } else { apt };
        params.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        resolve(&serde_json::from_value(params).unwrap())
    }

    #[test]
    fn stanza_value_with_a_line_end_is_refused() {
        for end in ["\n", "\r", "\r\n", "\0", "\u{85}", "\u{2028}", "\u{2029}", "\u{b}", "\u{c}"] {
            for (key, list) in [
                ("uris", true),
                ("suites", true),
                ("components", true),
                ("architectures", true),
                ("signedBy", false),
                ("baseUrl", false),
                ("gpgKey", false),
            ] {
                let value = format!("/a{end}Trusted: yes");
                let value = if list { json!([value]) } else { json!(value) };
                let problems = with(json!({ key: value })).expect_err(&format!("{key} with {end:?}"));
                assert_eq!(problems[0].key, key, "{end:?}: {problems:?}");
            }
        }
        // A line end before the path does not make the path a key block.
        assert!(with(json!({"signedBy": "\n/usr/share/keyrings/k.gpg\nTrusted: yes"})).is_err());
    }

    #[test]
    fn signed_by_takes_a_path_a_fingerprint_or_one_block_in_armour() {
        let key = format!("{}\r\n\r\nmDMEZ\r\n=abcd\r\n{}\r\n", ARMOUR.0, ARMOUR.1);
        let text = |key: &str| {
            deb822(&pb::PackageRepository { signed_by: Some(key.into()), ..pb::PackageRepository::default() })
        };
        assert!(with(json!({ "signedBy": key })).is_ok());
        assert!(text(&key).ends_with(&format!("Signed-By:\n {}\n .\n mDMEZ\n =abcd\n {}\n", ARMOUR.0, ARMOUR.1)));
        assert!(with(json!({"signedBy": " /usr/share/keyrings/k.gpg\n"})).is_ok());
        assert!(text(" /k.gpg\n").ends_with("Signed-By: /k.gpg\n"));
        assert!(with(json!({ "signedBy": format!("{key}Trusted: yes\n") })).is_err());
        assert!(with(json!({"signedBy": "/k.gpg\nTrusted: yes"})).is_err());
        assert!(with(json!({"signedBy": "/k.gpg\rTrusted: yes"})).is_err());
        assert!(with(json!({ "signedBy": format!("{}\nmDMEZ\rTrusted: yes\n{}", ARMOUR.0, ARMOUR.1) })).is_err());
        assert!(with(json!({ "signedBy": ARMOUR.0 })).is_err());
    }
}
