//! `towpath explain`: the documentation of the schema.

use clap::Args;

use super::{exit::Failure, output};

/// Explains a kind, or one of its fields.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// A kind, a module, or a path such as TaskBook.spec.tasks.file.mode or file.mode. Default: all kinds and modules
    path: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let Some(path) = self.path else {
            let rows: Vec<Vec<String>> = towpath_proto::kinds()
                .map(|kind| {
                    vec![kind.name.to_owned(), kind.scope.unwrap_or_default().to_owned(), kind.doc.replace('\n', " ")]
                })
                .collect();
            output::write(&output::table(&["KIND", "SCOPE", "DESCRIPTION"], &rows))?;
            let modules: Vec<Vec<String>> = towpath_proto::modules()
                .map(|(field, message)| {
                    vec![
                        field.name.to_owned(),
                        message.module.unwrap_or_default().to_owned(),
                        message.doc.replace('\n', " "),
                    ]
                })
                .collect();
            output::write(&format!("\n{}", output::table(&["MODULE", "KIND", "DESCRIPTION"], &modules)))?;
            return Ok(0);
        };
        // A path may begin with the name of a module.
        let module = path.split('.').next().unwrap_or_default();
        let path = match towpath_proto::modules().any(|(field, _)| field.name == module) {
            true => format!("TaskBook.spec.tasks.{path}"),
            false => path,
        };
        match towpath_proto::explain(&path) {
            Ok(text) => output::write(&text).map(|()| 0),
            Err(unknown) => {
                let failure = Failure::invalid(format!("there is no {:?} in {}", unknown.word, unknown.within));
                Err(match unknown.meant {
                    Some(meant) => failure.hint(format!("did you mean {meant}?")),
                    None => failure.hint("`towpath explain` lists the kinds"),
                })
            }
        }
    }
}
