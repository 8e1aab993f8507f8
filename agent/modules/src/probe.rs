//! `wait`, `assert` and `debug`.

use std::{
    collections::BTreeMap,
    net::{TcpStream, ToSocketAddrs as _},
    thread,
    time::Duration,
};

use towpath_host::{Clock as _, SystemClock};
use towpath_proto::v1alpha as pb;
use towpath_render::words;

use crate::{Context, ModuleError, Report, resolve::Problem};

/// The condition that a wait ends with.
#[derive(Debug, Clone)]
pub enum Wait {
    /// A duration has passed.
    For(Duration),
    /// A port accepts connections.
    Port(String),
    /// A path exists.
    Path(String),
    /// A shared value exists.
    Shared(String),
}

pub(crate) fn resolve_wait(wait: &pb::Wait) -> Result<Wait, Vec<Problem>> {
    let given = [wait.duration.is_some(), wait.port.is_some(), wait.path.is_some(), wait.shared.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(vec![Problem::new("", "wait needs exactly one of: duration, port, path, shared")]);
    }
    if let Some(text) = &wait.duration {
        return match words::duration(text) {
            Ok(duration) => Ok(Wait::For(duration)),
            Err(finding) => Err(vec![Problem { key: "duration".into(), message: finding.message, hint: finding.hint }]),
        };
    }
    if let Some(port) = &wait.port {
        let address = if port.contains(':') { port.clone() } else { format!("127.0.0.1:{port}") };
        return Ok(Wait::Port(address));
    }
    if let Some(path) = &wait.path {
        let mut problems = Vec::new();
        crate::resolve::managed_path("path", path, &mut problems);
        return if problems.is_empty() { Ok(Wait::Path(path.clone())) } else { Err(problems) };
    }
    Ok(Wait::Shared(wait.shared.clone().unwrap_or_default()))
}

pub(crate) fn wait(wait: &Wait, context: &Context<'_>) -> Result<Report, ModuleError> {
    let what = match wait {
        Wait::For(duration) => {
            let step = Duration::from_millis(100);
            let mut left = *duration;
            if left > context.timeout {
                return Err(ModuleError::new(format!(
                    "the wait is longer than the task's timeout of {} s",
                    context.timeout.as_secs()
                )));
            }
            while !left.is_zero() && !context.cancel.is_cancelled() {
                let now = left.min(step);
                thread::sleep(now);
                left -= now;
            }
            return Ok(nothing());
        }
        Wait::Port(address) => until(context, || {
            let addresses = address.to_socket_addrs().into_iter().flatten();
            addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
        })
        .then_some(())
        .ok_or_else(|| format!("nothing took connections at {address}")),
        Wait::Path(path) => until(context, || context.look.exists(path).unwrap_or(false))
            .then_some(())
            .ok_or_else(|| format!("{path} was not there")),
        Wait::Shared(name) => Err(format!("the shared value {name} can't be read: shared values need etcd")),
    };
    match what {
        Ok(()) => Ok(nothing()),
        Err(what) => Err(ModuleError::new(format!("{what} within {} s", context.timeout.as_secs()))),
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

/// Reports an assertion. The renderer has evaluated the expressions, and `that` holds the ones that failed.
pub(crate) fn assertion(assert: &pb::Assert) -> Report {
    let message = assert.message.clone();
    let failed = assert.that.join("; ");
    let ok = assert.that.is_empty();
    let said = match message {
        Some(message) if !ok => Some(format!("{message} ({failed} does not hold)")),
        None if !ok => Some(format!("{failed} does not hold")),
        _ => None,
    };
    Report { ok, fields: BTreeMap::new(), message: said }
}

pub(crate) fn debug(debug: &pb::Debug) -> Report {
    Report { ok: true, fields: BTreeMap::new(), message: debug.message.clone() }
}

fn nothing() -> Report {
    Report { ok: true, fields: BTreeMap::new(), message: None }
}
