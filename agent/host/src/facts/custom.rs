//! Reads custom facts from facts.d: static JSON and YAML files, and executables that print JSON.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};

use crate::process::{Cancel, Invocation, run};

/// The maximum size of one fact, in bytes.
const LIMIT: usize = 1 << 20;

/// The settings for custom facts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folders that contain custom facts.
    pub facts_d: Vec<PathBuf>,
    /// The time limit of an executable in the folders of custom facts.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { facts_d: vec![PathBuf::from("/etc/towpath/facts.d")], timeout: Duration::from_secs(10) }
    }
}

/// A file in facts.d that the agent cannot read as a custom fact, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomProblem {
    /// The path of the file.
    pub file: String,
    /// The cause of the problem.
    pub message: String,
}

/// Gathers the fact `custom`: a map from the name of each file, without extension, to the value in the file.
///
/// The fact `custom` contains the text of each YAML file; the crate `render` parses the text.
pub(super) fn gather(options: &Options) -> (Map<String, Value>, Vec<CustomProblem>) {
    let mut facts = Map::new();
    let mut problems = Vec::new();
    for folder in &options.facts_d {
        let mut files: Vec<_> =
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let Some(name) = file.file_stem().map(|name| name.to_string_lossy().into_owned()) else { continue };
            if name.starts_with('.') {
                continue;
            }
            match read(&file, options) {
                Ok(Some(value)) => {
                    facts.insert(name, value);
                }
                Ok(None) => {}
                Err(message) => problems.push(CustomProblem { file: file.display().to_string(), message }),
            }
        }
    }
    (facts, problems)
}

fn read(file: &Path, options: &Options) -> Result<Option<Value>, String> {
    let meta = fs::metadata(file).map_err(|error| error.to_string())?;
    if !meta.is_file() {
        return Ok(None);
    }
    let text = if meta.permissions().mode() & 0o111 != 0 {
        let argv = vec![file.display().to_string()];
        let output =
            run(&Invocation { argv, timeout: Some(options.timeout), ..Invocation::default() }, &Cancel::default())
                .map_err(|error| error.to_string())?;
        if output.timed_out {
            return Err(format!("the executable took longer than {} s", options.timeout.as_secs()));
        }
        if output.rc != 0 {
            return Err(format!(
                "the executable ended with status {}: {}",
                output.rc,
                output.stderr.lines().next().unwrap_or_default()
            ));
        }
        output.stdout
    } else {
        fs::read_to_string(file).map_err(|error| error.to_string())?
    };
    if text.len() > LIMIT {
        return Err(format!("the fact has more than {LIMIT} bytes"));
    }
    let yaml = file.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    if yaml {
        // The crate `render` parses the YAML text, because this crate has no YAML parser.
        return Ok(Some(serde_json::json!({ YAML_MARK: text })));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| format!("it is not valid JSON: {error}"))
}

/// The single key of the JSON object for a YAML fact. The value of the key is the YAML text. The crate `render` parses
/// the YAML text.
pub const YAML_MARK: &str = "\u{0}yaml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_of_files_and_executables_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("rack.json", r#"{"row": 3}"#, 0o644);
        write("load.sh", "#!/bin/sh\necho '{\"n\": 1}'\n", 0o755);
        write("slow.sh", "#!/bin/sh\nsleep 30\n", 0o755);
        write("bad.json", "{", 0o644);
        let options = Options { facts_d: vec![folder.path().to_owned()], timeout: Duration::from_millis(300) };
        let (facts, problems) = gather(&options);
        assert_eq!((facts["rack"]["row"].as_u64(), facts["load"]["n"].as_u64()), (Some(3), Some(1)));
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
