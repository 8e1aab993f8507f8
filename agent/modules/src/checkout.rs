//! `git`: the files of a repository at one commit. The repository is fetched with the commit that names it, as for an
//! include. Its files form a tree like the ones of the state repository.

use serde_json::{Value, json};

use crate::{
    file,
    resolve::{Problem, managed_path},
};

/// The message for a repository that was not fetched.
pub(crate) const UNKNOWN: &str =
    "the agent fetches the repository; what is planned from a working tree lacks its files";

pub(crate) fn resolve(params: &Value) -> Result<file::Options, Vec<Problem>> {
    let text = |key: &str| params.get(key).and_then(Value::as_str);
    let mut problems = Vec::new();
    managed_path("path", text("path").unwrap_or_default(), &mut problems);
    crate::resolve::done(problems)?;
    let mut file = json!({ "path": text("path"), "source": text("folder").unwrap_or(".") });
    if let Some(file) = file.as_object_mut() {
        for key in ["mode", "owner", "group"] {
            file.extend(text(key).map(|value| (key.to_owned(), json!(value))));
        }
    }
    let parsed = serde_json::from_value(file.clone()).map_err(|error| vec![Problem::new("", error.to_string())])?;
    file::resolve(&parsed, &file)
}
