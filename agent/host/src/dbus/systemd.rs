//! A client of systemd over D-Bus. The client reads the state of systemd units, and runs jobs on units, such as a
//! restart.

use std::{path::Path, time::Duration};

use thiserror::Error;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use zbus::{Connection, OwnedObjectPath};

/// The time limit for an answer of systemd.
const ANSWER: Duration = Duration::from_secs(20);

/// An error of systemd or of the connection to systemd.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// The error that systemd is not the init system of the machine.
    #[error("systemd does not run on this machine; the module needs systemd")]
    Missing,
    /// The error that the D-Bus connection failed, or that systemd did not answer.
    #[error("cannot query systemd over D-Bus: {0}")]
    Bus(String),
    /// The error that systemd rejected a request.
    #[error("systemd rejected the request for {unit}: {why}")]
    Refused {
        /// The name of the unit.
        unit: String,
        /// The reason that systemd gave.
        why: String,
    },
    /// The error that a systemd job exceeded its time limit.
    #[error("{unit}: the {job} did not finish within {seconds} s; see systemctl status {unit}")]
    TimedOut {
        /// The name of the unit.
        unit: String,
        /// The kind of the job, such as a restart.
        job: &'static str,
        /// The time limit of the job, in seconds.
        seconds: u64,
    },
    /// The error that a systemd job failed.
    #[error("{unit}: the {job} ended with the result {result}; see systemctl status {unit}")]
    Failed {
        /// The name of the unit.
        unit: String,
        /// The kind of the job, such as a restart.
        job: &'static str,
        /// The job result that systemd reported.
        result: String,
    },
}

/// The state of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// The name of the unit. The field `id` is the real name of the unit, even if the caller has used an alias.
    pub id: String,
    /// The load state of the unit: `loaded`, `not-found`, `masked`, `bad-setting` …
    pub load: String,
    /// The active state of the unit: `active`, `inactive`, `failed`, `activating` …
    pub active: String,
    /// The state of the unit file: `enabled`, `disabled`, `static`, `masked` …; empty if the unit has no file.
    pub file: String,
    /// True if the unit file changed after systemd read it.
    pub stale: bool,
}

/// A job for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// A job that starts the unit.
    Start,
    /// A job that stops the unit.
    Stop,
    /// A job that stops the unit, and then starts the unit.
    Restart,
    /// A job that makes the unit reload its settings. If a unit cannot reload its settings, systemd restarts the unit.
    Reload,
}

impl Job {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_or_restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn enable_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<(bool, Vec<(String, String, String)>)>;
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn mask_unit_files(
        &self,
        files: &[&str],
        runtime: bool,
        force: bool,
    ) -> zbus::Result<Vec<(String, String, String)>>;
    fn unmask_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<Vec<(String, String, String)>>;
    fn reload(&self) -> zbus::Result<()>;
    fn subscribe(&self) -> zbus::Result<()>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn unit_file_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn need_daemon_reload(&self) -> zbus::Result<bool>;
}

/// A connection to systemd.
pub struct Systemd {
    runtime: Runtime,
    connection: Connection,
    /// The subscription to systemd's signals about ended jobs. Each connection subscribes to systemd's signals only
    /// once.
    subscribed: tokio::sync::OnceCell<()>,
}

impl std::fmt::Debug for Systemd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Systemd")
    }
}

/// Returns true if the unit is the service of the agent itself.
fn is_own(unit: &str) -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| line.split('/').any(|part| part == unit))
}

fn bus(error: zbus::Error) -> SystemdError {
    SystemdError::Bus(error.to_string())
}

fn silent(time_limit: Duration) -> SystemdError {
    SystemdError::Bus(format!("no answer within {} s", time_limit.as_secs()))
}

/// Connects to the system bus, with a time limit. A hanging bus can accept a connection and never answer.
fn connected<T>(
    runtime: &Runtime,
    time_limit: Duration,
    connection: impl Future<Output = zbus::Result<T>>,
) -> Result<T, SystemdError> {
    let connected = runtime.block_on(async { tokio::time::timeout(time_limit, connection).await });
    connected.map_err(|_| silent(time_limit))?.map_err(bus)
}

impl Systemd {
    /// Connects to systemd.
    ///
    /// # Errors
    /// Returns an error if systemd is not running, or the connection fails.
    pub fn connect() -> Result<Self, SystemdError> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(SystemdError::Missing);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SystemdError::Bus(error.to_string()))?;
        let connection = connected(&runtime, ANSWER, Connection::system())?;
        Ok(Self { runtime, connection, subscribed: tokio::sync::OnceCell::new() })
    }

    fn ask<T>(&self, unit: &str, work: impl Future<Output = zbus::Result<T>>) -> Result<T, SystemdError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, work).await });
        match answer {
            Err(_) => Err(silent(ANSWER)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(zbus::Error::MethodError(_, why, _))) => {
                Err(SystemdError::Refused { unit: unit.to_owned(), why: why.unwrap_or_else(|| "no reason".into()) })
            }
            Ok(Err(error)) => Err(bus(error)),
        }
    }

    /// Returns the state of a unit.
    ///
    /// # Errors
    /// Returns an error if systemd does not answer, or rejects the request.
    pub fn state(&self, unit: &str) -> Result<UnitState, SystemdError> {
        self.ask(unit, async {
            let manager = ManagerProxy::new(&self.connection).await?;
            let path = manager.load_unit(unit).await?;
            let proxy = UnitProxy::builder(&self.connection)
                .path(path)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            Ok(UnitState {
                id: proxy.id().await?,
                load: proxy.load_state().await?,
                active: proxy.active_state().await?,
                file: proxy.unit_file_state().await?,
                stale: proxy.need_daemon_reload().await?,
            })
        })
    }

    /// Runs a job on a unit, and waits until the job has ended.
    ///
    /// # Errors
    /// Returns an error if systemd rejects the job, the job fails, or the job exceeds the timeout.
    pub fn run(&self, unit: &str, job: Job, timeout: Duration) -> Result<(), SystemdError> {
        let waiting = async {
            let manager = ManagerProxy::new(&self.connection).await?;
            self.subscribed.get_or_try_init(|| manager.subscribe()).await?;
            // The subscription begins before the job, so that the end of the job is not missed.
            let mut ends = manager.receive_job_removed().await?;
            if job != Job::Stop {
                // systemd rejects the start of a unit that failed too often, so the counter of failures is reset. For a
                // unit without failures, the reset fails, and the error is ignored.
                let _ = manager.reset_failed_unit(unit).await;
            }
            let path = match job {
                Job::Start => manager.start_unit(unit, "replace").await?,
                Job::Stop => manager.stop_unit(unit, "replace").await?,
                Job::Restart => manager.restart_unit(unit, "replace").await?,
                Job::Reload => manager.reload_or_restart_unit(unit, "replace").await?,
            };
            if job != Job::Start && is_own(unit) {
                // The job ends this process too, so the agent cannot wait for the result of the job.
                return Ok("done".to_owned());
            }
            while let Some(end) = ends.next().await {
                let end = end.args()?;
                if end.job == path {
                    return Ok(end.result.clone());
                }
            }
            Ok("disconnected".to_owned())
        };
        let result = self.runtime.block_on(async { tokio::time::timeout(timeout, waiting).await });
        let (unit, job) = (unit.to_owned(), job.as_str());
        match result {
            Err(_) => Err(SystemdError::TimedOut { unit, job, seconds: timeout.as_secs() }),
            Ok(Err(zbus::Error::MethodError(_, why, _))) => {
                Err(SystemdError::Refused { unit, why: why.unwrap_or_else(|| "no reason".into()) })
            }
            Ok(Err(error)) => Err(bus(error)),
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(SystemdError::Failed { unit, job, result }),
        }
    }

    /// Enables or disables the start of a unit at boot.
    ///
    /// # Errors
    /// Returns an error if systemd rejects the request.
    pub fn enable(&self, unit: &str, enabled: bool) -> Result<(), SystemdError> {
        self.ask(unit, async {
            let manager = ManagerProxy::new(&self.connection).await?;
            if enabled {
                manager.enable_unit_files(&[unit], false, false).await?;
            } else {
                manager.disable_unit_files(&[unit], false).await?;
            }
            manager.reload().await
        })
    }

    /// Masks or unmasks a unit. A masked unit cannot be started.
    ///
    /// # Errors
    /// Returns an error if systemd rejects the request.
    pub fn mask(&self, unit: &str, masked: bool) -> Result<(), SystemdError> {
        self.ask(unit, async {
            let manager = ManagerProxy::new(&self.connection).await?;
            if masked {
                manager.mask_unit_files(&[unit], false, false).await?;
            } else {
                manager.unmask_unit_files(&[unit], false).await?;
            }
            manager.reload().await
        })
    }

    /// Makes systemd reload all unit files.
    ///
    /// # Errors
    /// Returns an error if systemd gives no answer.
    pub fn reload(&self) -> Result<(), SystemdError> {
        self.ask("systemd", async { ManagerProxy::new(&self.connection).await?.reload().await })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn bus_that_accepts_connections_and_does_not_answer_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("bus");
        let _listener = UnixListener::bind(&socket).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = format!("unix:path={}", socket.display());
        let connection = async { zbus::connection::Builder::address(address.as_str()).build().await };
        let connected = connected(&runtime, Duration::from_secs(1), connection);
        assert!(matches!(&connected, Err(SystemdError::Bus(why)) if why == "no answer within 1 s"), "{connected:?}");
    }
}
