//! Hints for common mistakes, such as field names from other tools.

use serde_json::Value;

/// Returns the hint for an unknown key at the top level of a document.
pub(super) fn top_level(key: &str) -> String {
    match key {
        "apiVersion" | "kind" | "name" | "namespace" | "labels" | "annotations" => {
            format!("{key} belongs below metadata")
        }
        "hosts" | "tasks" | "handlers" | "vars" | "roles" => {
            "this looks like an Ansible play: tasks belong in the spec of a TaskBook, and targets select its nodes"
                .into()
        }
        "data" | "stringData" => "values belong in spec".into(),
        "status" => "status is not written in git: use `towpath status`".into(),
        _ => "an object has metadata and spec".into(),
    }
}

/// Returns the hint for an unknown key in a document, or `None` if the mistake is not common.
pub(super) fn unknown_key(message: &str, key: &str) -> Option<String> {
    let hint = match (message, key) {
        ("Task", "become" | "become_user" | "sudo") => "the agent runs as root; command and script take user",
        ("Task", "with_items" | "with_list" | "with_dict" | "with_fileglob" | "foreach") => {
            "use loop, with item in the parameters"
        }
        ("Task", "ignore_errors" | "ignoreErrors") => "use onFailure: continue",
        ("Task", "failed_when") => "use success, the condition of a successful task",
        ("Task", "changed_when") => "use changed",
        ("Task", "retries" | "delay") => "use until: {condition, interval, limit}",
        ("Task", "run_once") => "use elect: {count: 1}",
        ("Task", "delegate_to") => "a task runs on its own node; let that node's TaskBook do it",
        ("Task", "tags") => "there are no tags: TaskBooks and when select what runs",
        ("Task", "if" | "only_if" | "onlyIf") => "use when",
        ("Task", "depends_on" | "dependsOn" | "require" | "needs") => "use requires, with task names",
        ("Task", "copy") => "use file with source or content",
        ("Task", "template") => "use file with template",
        ("Task", "lineinfile") => "use line",
        ("Task", "blockinfile") => "use block",
        ("Task", "apt" | "yum" | "dnf" | "pkg" | "zypper" | "packages") => "use package",
        ("Task", "systemd" | "systemd_service" | "systemctl") => "use service",
        ("Task", "shell" | "cmd" | "exec" | "run") => "use command with shell, or better with argv",
        ("Task", "uri" | "get_url") => "use http",
        ("Task", "wait_for" | "pause") => "use wait",
        ("Task", "include_tasks" | "import_tasks" | "import_role" | "include_role") => "use include: {source, path}",
        ("Task", "meta") => "use flushHandlers: true",
        ("Task", "id" | "title") => "use name",
        ("File" | "Line" | "Block", "dest" | "dst") => "use path",
        ("File", "src") => "use source for a file of the source, template for a template, linkTo for a link",
        ("File" | "Line" | "Block" | "Package" | "Service", "ensure") => "use state",
        ("File", "permissions" | "perms" | "perm" | "chmod") => "use mode",
        ("File", "user") => "use owner",
        ("File", "target" | "link") => "use linkTo",
        ("File", "recurse" | "recursive") => "source with a directory copies the tree; set modes on single files",
        ("File", "contents" | "text") => "use content",
        ("File", "force") => "a file that is in the way is an error: remove it with state: absent first",
        ("Line", "regexp" | "regex") => "use match",
        ("Line", "insertafter") => "use after",
        ("Line", "insertbefore") => "use before",
        ("Command" | "Script", "chdir" | "workdir") => "use cwd",
        ("Command" | "Script", "environment") => "use env",
        ("Command", "cmd" | "command") => "use argv, a list, or shell, a line",
        ("Service", "enable") => "use enabled",
        ("Package", "pkg") => "use name",
        ("TaskBook", "hosts" | "nodes" | "nodeGroups" | "selector") => "use targets: {nodeGroups: […]}",
        ("TaskBook", "serial" | "serialize" | "waves" | "maxFailures" | "soak") => "this belongs below rollout",
        ("TaskBook", "variables") => "use vars",
        ("Variables" | "ClusterVariables", "vars" | "variables" | "data") => "use values",
        ("Metadata", "kind_" | "type") => "use kind",
        ("GitSource", "repo" | "repository") => "use url",
        ("GitSource", "ref" | "revision") => "use branch, tag or commit",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the hint for a word that a field does not allow, or `None` if the mistake is not common.
pub(super) fn word_hint(message: &str, field: &str, word: &str) -> Option<String> {
    let hint = match (message, field, word) {
        ("Service", "state", "running" | "start" | "active" | "up") => "did you mean started?",
        ("Service", "state", "dead" | "stop" | "inactive" | "down") => "did you mean stopped?",
        ("Service", "state", "enabled" | "disabled") => "write enabled: true or enabled: false beside state",
        ("Package", "state", "installed" | "install") => "did you mean present?",
        ("Package", "state", "removed" | "remove" | "purged" | "uninstalled") => "did you mean absent?",
        ("File", "state", "file" | "touch" | "exists") => "did you mean present?",
        ("File", "state", "link" | "symlink") => "a link is written with linkTo",
        ("File", "state", "dir") => "did you mean directory?",
        ("Metadata", "apiVersion", _) => "write v1alpha",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns the hint for a value that is not a map although the field requires a map, or `None` if the mistake is not
/// common.
pub(super) fn instead_of_a_map(message: &str, value: &Value) -> Option<String> {
    match (message, value) {
        ("Command", Value::String(line)) => Some(format!("write {{shell: {line:?}}} or {{argv: […]}}")),
        ("Command", Value::Array(_)) => Some("write {argv: […]}".into()),
        ("Debug", Value::String(text)) => Some(format!("write {{message: {text:?}}}")),
        ("Package" | "Service", Value::String(name)) => Some(format!("write {{name: {name:?}}}")),
        ("File", Value::String(path)) => Some(format!("write {{path: {path:?}, …}}")),
        ("Targets", _) => Some("write {nodeGroups: […]} or {nodes: […]}".into()),
        ("Include", Value::String(path)) => Some(format!("write {{path: {path:?}}}")),
        ("Serialize", _) => Some("write {count: 1}".into()),
        _ => None,
    }
}

/// Returns the hint for a value that is not a list although the field requires a list.
pub(super) fn instead_of_a_list(message: &str, field: &str, value: &Value) -> String {
    match (message, field, value) {
        ("Command", "argv", Value::String(_)) => "write each argument as a member, or use shell for a line".into(),
        (_, _, Value::String(text)) => format!("write [{text}]"),
        (_, "tasks" | "handlers", Value::Object(_)) => "begin each task with \"- name:\"".into(),
        _ => "write [ … ], or lines that begin with \"- \"".into(),
    }
}
