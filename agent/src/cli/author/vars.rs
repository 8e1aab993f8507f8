//! `towpath vars`: the variables of a node, and the object that defines each variable.

use clap::Args;
use serde_json::Value;

use crate::cli::{
    exit::Failure,
    output::{self, Output},
    responder::{self, Responder, SourceArgs},
    runtime::block_on,
};

/// Shows the variables of a node, and the object that defines each variable.
#[derive(Debug, Args)]
pub(in crate::cli) struct Vars {
    #[command(flatten)]
    source: SourceArgs,
    /// The node. Default: this node
    #[arg(long)]
    node: Option<String>,
    /// Also show the overridden values, and the reason for each override
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    output: Output,
}

impl Vars {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        let view = block_on(self.view())??;
        output::print(self.output.output, &view, || text(&view))?;
        Ok(0)
    }

    async fn view(&self) -> Result<Value, Failure> {
        let node = self.node.as_deref();
        let subject = node.unwrap_or_default();
        match self.source.responder(node).await? {
            Responder::Agent(client) => responder::parsed(&client.view("vars", subject, self.explain, None).await?),
            Responder::Local(local) => {
                let view = match &local.revision {
                    Some(revision) => local.queries.vars(revision, subject, self.explain),
                    None => local.queries.view("vars", subject, self.explain, None),
                };
                view.map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }
}

fn text(view: &Value) -> String {
    let mut text = String::new();
    let from = |value: &Value| {
        format!("{} at {}:{}", output::short(&value["object"]), output::short(&value["file"]), value["line"])
    };
    for (name, value) in view.as_object().into_iter().flatten() {
        text.push_str(&format!(
            "{name} = {}\n    from {} [{}]\n",
            value["value"],
            from(&value["from"]),
            output::short(&value["from"]["level"])
        ));
        for lost in value["lost"].as_array().into_iter().flatten() {
            text.push_str(&format!(
                "    lost {} from {}: {}\n",
                lost["value"],
                from(&lost["from"]),
                output::short(&lost["why"])
            ));
        }
    }
    if text.is_empty() { "no variables\n".to_owned() } else { text }
}
