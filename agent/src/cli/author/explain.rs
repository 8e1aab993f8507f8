//! `towpath explain`: the documentation of the schema and of the events.

use clap::Args;

use crate::{
    cli::{exit::Failure, output},
    events::EventType,
};

/// Explains a kind, one of its fields, or the events.
#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    /// A kind, a module, a path such as TaskBook.spec.tasks.file.mode or file.mode, `events`, or an event type.
    /// Default: all kinds and modules
    path: Option<String>,
}

impl Explain {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let Some(path) = self.path else {
            let rows: Vec<Vec<String>> = towpath_proto::kinds()
                .map(|kind| {
                    vec![kind.name.to_owned(), kind.scope.unwrap_or_default().to_owned(), kind.doc.replace('\n', " ")]
                })
                .collect();
            output::write(&output::table(&["KIND", "SCOPE", "DESCRIPTION"], &rows))?;
            let modules: Vec<Vec<String>> = towpath_proto::modules()
                .map(|module| {
                    vec![module.key.to_owned(), module.kind.as_str().to_owned(), module.message.doc.replace('\n', " ")]
                })
                .collect();
            output::write(&format!("\n{}", output::table(&["MODULE", "KIND", "DESCRIPTION"], &modules)))?;
            return Ok(0);
        };
        if let Some(text) = event_text(&path) {
            return output::write(&text).map(|()| 0);
        }
        if path.starts_with("events.") {
            return Err(Failure::invalid(format!("there is no event type in {path}"))
                .hint("`towpath explain events` lists the event types"));
        }
        // A path may begin with the name of a module.
        let module = path.split('.').next().unwrap_or_default();
        let path = match towpath_proto::module(module).is_some() {
            true => format!("TaskBook.spec.tasks.{path}"),
            false => path,
        };
        match towpath_proto::explain(&path) {
            Ok(text) => output::write(&text).map(|()| 0),
            Err(unknown) => {
                let failure = Failure::invalid(format!("there is no {:?} in {}", unknown.word, unknown.within));
                Err(match unknown.meant {
                    Some(meant) => failure.hint(format!("did you mean {meant}?")),
                    None => {
                        failure.hint("`towpath explain` lists the kinds, and `towpath explain events` the event types")
                    }
                })
            }
        }
    }
}

/// Returns the description of all event types, of one area (`events.task`), or of one type (`task.failed`). Returns
/// `None` if the path does not name an event type or an area.
fn event_text(path: &str) -> Option<String> {
    if let Some(event_type) = EventType::named(path) {
        let state = if event_type.is_alarm() { "firing when it begins, resolved when it ends" } else { "none" };
        return Some(format!("{}\n\n{}\n\nstate: {state}\n", event_type.name(), event_type.doc()));
    }
    let area = match path.strip_prefix("events") {
        Some("") => String::new(),
        Some(area) => format!("{}.", area.strip_prefix('.')?),
        None => return None,
    };
    let listed: Vec<Vec<String>> = EventType::ALL
        .iter()
        .filter(|event_type| event_type.name().starts_with(&area))
        .map(|event_type| {
            let state = if event_type.is_alarm() { "firing, resolved" } else { "" };
            vec![event_type.name().to_owned(), state.to_owned(), event_type.doc().to_owned()]
        })
        .collect();
    (!listed.is_empty()).then(|| output::table(&["TYPE", "STATE", "DESCRIPTION"], &listed))
}
