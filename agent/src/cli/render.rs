//! `towpath render`: the tasks of a TaskBook as this node, or another one, renders them.

use std::path::PathBuf;

use clap::Args;
use towpath_render::document::plain_value;

use super::{
    Format, Output, block_on,
    exit::Failure,
    output,
    worktree::{self, Answer, From},
};
use crate::{config, reconcile::OtherNode};

/// Shows the tasks of a TaskBook as this node, or another one, renders them.
#[derive(Debug, Args)]
pub(super) struct Render {
    #[command(flatten)]
    from: From,
    /// The TaskBook: NAME or NAMESPACE/NAME
    task_book: String,
    /// Render as another node. Requires --facts
    #[arg(long, requires = "facts")]
    node: Option<String>,
    /// The facts of the other node, as `towpath facts` prints them there, in YAML or JSON
    #[arg(long, requires = "node", value_name = "FILE")]
    facts: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Render {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let view = block_on(self.view())??;
        let format = if self.output.output == Format::Text { Format::Yaml } else { self.output.output };
        output::print(format, &view, String::new)?;
        Ok(0)
    }

    async fn view(&self) -> Result<serde_json::Value, Failure> {
        worktree::note_working_tree(self.from.source_dir.as_ref());
        let other = self.other()?;
        match self.from.answer(None).await? {
            Answer::Agent(client) => {
                worktree::parsed(&client.view("render", &self.task_book, false, other.as_ref()).await?)
            }
            Answer::Here(here) => {
                let view = match &here.revision {
                    Some(revision) => here.handle.render(revision, &self.task_book, other.as_ref()),
                    None => here.handle.view("render", &self.task_book, false, other.as_ref()),
                };
                view.map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }

    /// Reads the facts of the other node.
    fn other(&self) -> Result<Option<OtherNode>, Failure> {
        let (Some(name), Some(file)) = (&self.node, &self.facts) else { return Ok(None) };
        let shown = file.display();
        let bytes = config::read(file)?;
        let text = String::from_utf8_lossy(&bytes);
        let facts = plain_value(&text).map_err(|error| Failure::invalid(format!("cannot read {shown}: {error}")))?;
        if !facts.is_object() {
            return Err(Failure::invalid(format!("cannot use {shown}: facts are a map")));
        }
        Ok(Some(OtherNode { name: name.clone(), facts }))
    }
}
