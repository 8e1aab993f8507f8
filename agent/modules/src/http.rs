//! `http`: a probe for GET and HEAD, otherwise an action.

use serde_json::{Value, json};
use towpath_host::http::{Request, send as send_request};
use towpath_proto::v1alpha as pb;

use crate::{Context, ModuleError, Report, resolve::Problem};

/// A request.
#[derive(Debug, Clone)]
pub struct Options {
    request: pb::Http,
}

pub(crate) fn resolve(request: pb::Http) -> Result<Options, Vec<Problem>> {
    let url = request.url.clone().unwrap_or_default();
    let mut problems = Vec::new();
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        problems.push(Problem::new("url", format!("{url:?} is neither an http nor an https URL")));
    }
    if request.body.is_some() && matches!(request.method.as_deref(), None | Some("GET" | "HEAD")) {
        problems.push(Problem::new("body", "a GET or HEAD request has no body").hint("write method: POST"));
    }
    if problems.is_empty() { Ok(Options { request }) } else { Err(problems) }
}

impl Options {
    pub(crate) fn is_probe(&self) -> bool {
        matches!(self.request.method.as_deref(), None | Some("GET" | "HEAD"))
    }
}

pub(crate) fn send(options: &Options, context: &Context<'_>) -> Result<Report, ModuleError> {
    let request = Request {
        url: options.request.url.clone().unwrap_or_default(),
        method: options.request.method.clone().unwrap_or_else(|| "GET".into()),
        body: options.request.body.clone(),
        headers: options.request.headers.clone(),
        ca_file: options.request.ca_file.clone(),
        timeout: context.timeout,
    };
    let response = send_request(&request).map_err(|error| ModuleError::new(error.to_string()))?;
    let ok = (200..400).contains(&response.status);
    let fields = [
        ("status", json!(response.status)),
        ("body", Value::String(response.body)),
        ("headers", json!(response.headers)),
    ];
    Ok(Report {
        ok,
        fields: fields.into(),
        message: (!ok).then(|| format!("the server answered with status {}", response.status)),
    })
}
