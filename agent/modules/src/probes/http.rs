//! The module `http` sends an HTTP request. A GET or HEAD request is a probe, and any other request is an action.

use serde_json::{Value, json};
use towpath_host::http::{Request, send as send_request};
use towpath_proto::{ModuleKind, ModuleMessage as _, ModuleSchema, v1alpha as pb};

use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource,
    params::{Problem, parse},
    resource::resource,
};

/// The resolved parameters of the module `http`.
#[derive(Debug, Clone)]
struct HttpSpec {
    request: pb::Http,
}

/// The module `http`.
#[derive(Debug)]
pub(crate) struct Http;

impl Module for Http {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Http::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(parse(params)?))
    }
}

impl Resource for HttpSpec {
    fn module(&self) -> &'static dyn Module {
        &Http
    }

    fn kind(&self) -> ModuleKind {
        if self.is_probe() { ModuleKind::Probe } else { ModuleKind::Action }
    }

    fn check(&self, _context: &Context<'_>) -> Result<Checked, ModuleError> {
        Ok(Checked::InSync)
    }

    fn observe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        send(self, context)
    }
}

fn resolve(request: pb::Http) -> Result<HttpSpec, Vec<Problem>> {
    let url = request.url.clone().unwrap_or_default();
    let mut problems = Vec::new();
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        problems.push(Problem::new("url", format!("{url:?} is neither an http nor an https URL")));
    }
    if request.body.is_some() && matches!(request.method.as_deref(), None | Some("GET" | "HEAD")) {
        problems.push(Problem::new("body", "a GET or HEAD request has no body").hint("write method: POST"));
    }
    if problems.is_empty() { Ok(HttpSpec { request }) } else { Err(problems) }
}

impl HttpSpec {
    fn is_probe(&self) -> bool {
        matches!(self.request.method.as_deref(), None | Some("GET" | "HEAD"))
    }
}

fn send(spec: &HttpSpec, context: &Context<'_>) -> Result<Report, ModuleError> {
    let request = Request {
        url: spec.request.url.clone().unwrap_or_default(),
        method: spec.request.method.clone().unwrap_or_else(|| "GET".into()),
        body: spec.request.body.clone(),
        headers: spec.request.headers.clone(),
        ca_file: spec.request.ca_file.clone(),
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
