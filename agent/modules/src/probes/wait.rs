//! The module `wait` waits until a duration has passed, or until a port, a path or a shared value is available.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    thread,
    time::Duration,
};

use serde_json::Value;
use towpath_host::{Clock as _, SystemClock};
use towpath_proto::{ModuleMessage as _, ModuleSchema, v1alpha as pb};
use towpath_render::scalars;

use crate::{
    Checked, Context, Module, ModuleError, Report, Resolved, Resource,
    params::{Problem, managed_path, parse},
    resource::resource,
};

/// The condition for which the module `wait` waits.
#[derive(Debug, Clone)]
enum WaitSpec {
    /// The wait ends after the given duration.
    For(Duration),
    /// The wait ends when the given port accepts connections.
    Port(String),
    /// The wait ends when the given path exists.
    Path(String),
    /// The wait ends when the given shared value exists.
    Shared(String),
}

/// The module `wait`.
#[derive(Debug)]
pub(crate) struct Wait;

impl Module for Wait {
    fn schema(&self) -> &'static ModuleSchema {
        pb::Wait::module()
    }

    fn resolve(&self, params: &Value) -> Resolved {
        resource(resolve(&parse(params)?))
    }
}

impl Resource for WaitSpec {
    fn module(&self) -> &'static dyn Module {
        &Wait
    }

    fn check(&self, _context: &Context<'_>) -> Result<Checked, ModuleError> {
        Ok(Checked::InSync)
    }

    fn observe(&self, context: &Context<'_>) -> Result<Report, ModuleError> {
        run(self, context)
    }
}

fn resolve(wait: &pb::Wait) -> Result<WaitSpec, Vec<Problem>> {
    let given = [wait.duration.is_some(), wait.port.is_some(), wait.path.is_some(), wait.shared.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(vec![Problem::new("", "wait needs exactly one of: duration, port, path, shared")]);
    }
    if let Some(text) = &wait.duration {
        return match scalars::duration(text) {
            Ok(duration) => Ok(WaitSpec::For(duration)),
            Err(finding) => Err(vec![Problem { key: "duration".into(), message: finding.message, hint: finding.hint }]),
        };
    }
    if let Some(port) = &wait.port {
        let address = if port.contains(':') { port.clone() } else { format!("127.0.0.1:{port}") };
        return Ok(WaitSpec::Port(address));
    }
    if let Some(path) = &wait.path {
        let mut problems = Vec::new();
        managed_path("path", path, &mut problems);
        return if problems.is_empty() { Ok(WaitSpec::Path(path.clone())) } else { Err(problems) };
    }
    Ok(WaitSpec::Shared(wait.shared.clone().unwrap_or_default()))
}

fn run(wait: &WaitSpec, context: &Context<'_>) -> Result<Report, ModuleError> {
    let seconds = context.timeout.as_secs();
    let what = match wait {
        WaitSpec::For(duration) => {
            let step = Duration::from_millis(100);
            let mut left = *duration;
            if left > context.timeout {
                return Err(ModuleError::new(format!(
                    "cannot wait: the duration is longer than the timeout of {seconds} s; raise the timeout of the task"
                )));
            }
            while !left.is_zero() && !context.cancel.is_cancelled() {
                let now = left.min(step);
                thread::sleep(now);
                left -= now;
            }
            return Ok(Report::success());
        }
        WaitSpec::Port(address) => until(context, || {
            let addresses = address.to_socket_addrs().into_iter().flatten();
            addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
        })
        .then_some(())
        .ok_or_else(|| format!("{address} did not accept connections within {seconds} s")),
        WaitSpec::Path(path) => until(context, || context.reader.exists(path).unwrap_or(false))
            .then_some(())
            .ok_or_else(|| format!("{path} did not exist within {seconds} s")),
        WaitSpec::Shared(name) => Err(format!("cannot read the shared value {name}: shared values need etcd")),
    };
    match what {
        Ok(()) => Ok(Report::success()),
        Err(what) => Err(ModuleError::new(what)),
    }
}

fn until(context: &Context<'_>, mut holds: impl FnMut() -> bool) -> bool {
    let begin = SystemClock.monotonic();
    loop {
        if holds() {
            return true;
        }
        if context.cancel.is_cancelled() || begin.elapsed() >= context.timeout {
            return false;
        }
        thread::sleep(Duration::from_millis(100));
    }
}
