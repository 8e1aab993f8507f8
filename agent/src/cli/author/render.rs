//! `towpath render`: the tasks of a TaskBook, rendered for this node or for another node.

use clap::Args;

use crate::cli::{
    exit::Failure,
    output::{self, Format, Output},
    responder::{self, AsNode, Responder, SourceArgs},
    runtime::block_on,
};

/// Shows the tasks of a TaskBook, rendered for this node or for another node.
#[derive(Debug, Args)]
pub(in crate::cli) struct Render {
    #[command(flatten)]
    source: SourceArgs,
    /// The TaskBook: NAME or NAMESPACE/NAME
    task_book: String,
    #[command(flatten)]
    as_node: AsNode,
    #[command(flatten)]
    output: Output,
}

impl Render {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let view = block_on(self.view())??;
        let format = if self.output.output == Format::Text { Format::Yaml } else { self.output.output };
        output::print(format, &view, String::new)?;
        Ok(0)
    }

    async fn view(&self) -> Result<serde_json::Value, Failure> {
        responder::note_working_tree(self.source.source_dir.as_ref());
        let other = self.as_node.read()?;
        match self.source.responder(None).await? {
            Responder::Agent(client) => {
                responder::parsed(&client.view("render", &self.task_book, false, other.as_ref()).await?)
            }
            Responder::Local(local) => {
                let view = match &local.revision {
                    Some(revision) => local.queries.render(revision, &self.task_book, other.as_ref()),
                    None => local.queries.view("render", &self.task_book, false, other.as_ref()),
                };
                view.map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }
}
