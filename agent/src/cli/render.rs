//! `towpath render`: the tasks of a TaskBook, rendered for this node or for another node.

use clap::Args;

use super::{
    Format, Output, block_on,
    exit::Failure,
    output,
    worktree::{self, Answer, AsNode, From},
};

/// Shows the tasks of a TaskBook, rendered for this node or for another node.
#[derive(Debug, Args)]
pub(super) struct Render {
    #[command(flatten)]
    from: From,
    /// The TaskBook: NAME or NAMESPACE/NAME
    task_book: String,
    #[command(flatten)]
    as_node: AsNode,
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
        let other = self.as_node.read()?;
        match self.from.answer(None).await? {
            Answer::Agent(client) => {
                worktree::parsed(&client.view("render", &self.task_book, false, other.as_ref()).await?)
            }
            Answer::Here(here) => {
                let view = match &here.revision {
                    Some(revision) => here.queries.render(revision, &self.task_book, other.as_ref()),
                    None => here.queries.view("render", &self.task_book, false, other.as_ref()),
                };
                view.map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }
}
