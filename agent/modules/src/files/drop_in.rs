//! A drop-in file: a file in a folder such as /etc/sudoers.d. A program such as sudo reads all files in the folder.

use serde_json::{Value, json};

use super::file::FileSpec;
use crate::{Checked, Context, ModuleError, Resource as _, params::Problem};

/// A drop-in file. The name of a drop-in file identifies the file in its folder.
#[derive(Debug)]
pub(crate) struct DropInFile {
    name: String,
    absent: bool,
    file: FileSpec,
}

impl DropInFile {
    /// Resolves the parameters of a drop-in file to parameters of the module `file`.
    pub(crate) fn resolve(name: String, params: &Value) -> Result<Self, Vec<Problem>> {
        let absent = params.get("state").and_then(Value::as_str) == Some("absent");
        Ok(Self { name, absent, file: FileSpec::resolve(params)? })
    }

    /// Compares the drop-in file on the node with its desired state.
    pub(crate) fn check(&self, context: &Context<'_>) -> Result<Checked, ModuleError> {
        self.file.check(context)
    }

    /// Returns the path of the file.
    pub(crate) fn path(&self) -> Option<&str> {
        self.file.path()
    }

    /// Returns the parameters that undo the task; `None` if the file already exists, or if the task removes the file.
    pub(crate) fn undo(&self, context: &Context<'_>) -> Option<Value> {
        if self.absent || context.reader.exists(self.file.path()?).ok()? {
            return None;
        }
        Some(json!({ "name": self.name, "state": "absent" }))
    }
}

/// Checks the name of a drop-in file. Only letters, digits, `-` and `_` are allowed, because sudo and apt ignore other
/// file names.
pub(crate) fn file_name(name: Option<&str>, problems: &mut Vec<Problem>) -> String {
    let name = name.unwrap_or_default();
    let fine = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    if name.is_empty() || !name.chars().all(fine) {
        problems.push(
            Problem::new("name", format!("{name:?} is not a valid file name"))
                .hint("use letters, digits, - and _, because files with other names are ignored"),
        );
    }
    name.to_owned()
}
