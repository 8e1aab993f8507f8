//! systemd, over D-Bus: what units are like, and jobs whose end is waited for.

use std::{path::Path, time::Duration};

use thiserror::Error;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use zbus::{Connection, OwnedObjectPath};

/// How long systemd has to say what a unit is like.
const ANSWER: Duration = Duration::from_secs(20);

/// systemd could not do, or be asked, something.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// There is none here.
    #[error("systemd does not run on this machine; the module needs it")]
    Missing,
    /// It can't be asked.
    #[error("systemd can't be asked: {0}")]
    Bus(String),
    /// It refused something.
    #[error("{unit}: {why}")]
    Refused {
        /// The unit.
        unit: String,
        /// What it said.
        why: String,
    },
    /// A job took too long.
    #[error("{unit}: its {job} was not done within {seconds} s; see systemctl status {unit}")]
    TimedOut {
        /// The unit.
        unit: String,
        /// What was asked for.
        job: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A job came to a bad end.
    #[error("{unit}: its {job} ended with {result}")]
    Failed {
        /// The unit.
        unit: String,
        /// What was asked for.
        job: &'static str,
        /// How it ended.
        result: String,
    },
}

/// What a unit is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitState {
    /// Its own name, where it was asked for by an alias.
    pub id: String,
    /// loaded, not-found, masked, bad-setting …
    pub load: String,
    /// active, inactive, failed, activating …
    pub active: String,
    /// enabled, disabled, static, masked …; empty where the unit has no file.
    pub file: String,
    /// Whether its file has changed since systemd read it.
    pub stale: bool,
}

/// What a unit can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Runs.
    Start,
    /// Runs no more.
    Stop,
    /// Stops and starts.
    Restart,
    /// Reads its settings again; where it can't, restarts.
    Reload,
}

impl Job {
    fn word(self) -> &'static str {
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
    /// Whether it tells of the ends of jobs: it may be asked for that once.
    told: tokio::sync::OnceCell<()>,
}

impl std::fmt::Debug for Systemd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Systemd")
    }
}

/// Whether this process runs in a unit.
fn is_own(unit: &str) -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().any(|line| line.split('/').any(|part| part == unit))
}

fn bus(error: zbus::Error) -> SystemdError {
    SystemdError::Bus(error.to_string())
}

impl Systemd {
    /// Connects.
    ///
    /// # Errors
    /// When there is no systemd, or it can't be reached.
    pub fn connect() -> Result<Self, SystemdError> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(SystemdError::Missing);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SystemdError::Bus(error.to_string()))?;
        let connection = runtime.block_on(Connection::system()).map_err(bus)?;
        Ok(Self { runtime, connection, told: tokio::sync::OnceCell::new() })
    }

    fn ask<T>(&self, unit: &str, work: impl Future<Output = zbus::Result<T>>) -> Result<T, SystemdError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(ANSWER, work).await });
        match answer {
            Err(_) => Err(SystemdError::Bus(format!("no answer within {} s", ANSWER.as_secs()))),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(zbus::Error::MethodError(_, why, _))) => {
                Err(SystemdError::Refused { unit: unit.to_owned(), why: why.unwrap_or_else(|| "it refuses".into()) })
            }
            Ok(Err(error)) => Err(bus(error)),
        }
    }

    /// What a unit is like.
    ///
    /// # Errors
    /// When systemd can't be asked.
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

    /// Has a unit do something, and waits until that is done.
    ///
    /// # Errors
    /// When it is refused, fails, or takes longer than it may.
    pub fn run(&self, unit: &str, job: Job, timeout: Duration) -> Result<(), SystemdError> {
        let waiting = async {
            let manager = ManagerProxy::new(&self.connection).await?;
            self.told.get_or_try_init(|| manager.subscribe()).await?;
            // Heard from before the job begins, so that its end is not missed.
            let mut ends = manager.receive_job_removed().await?;
            if job != Job::Stop {
                // One that failed too often would be refused; where nothing failed there is nothing to forget.
                let _ = manager.reset_failed_unit(unit).await;
            }
            let path = match job {
                Job::Start => manager.start_unit(unit, "replace").await?,
                Job::Stop => manager.stop_unit(unit, "replace").await?,
                Job::Restart => manager.restart_unit(unit, "replace").await?,
                Job::Reload => manager.reload_or_restart_unit(unit, "replace").await?,
            };
            if job != Job::Start && is_own(unit) {
                // Its end is the end of this process.
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
        let (unit, job) = (unit.to_owned(), job.word());
        match result {
            Err(_) => Err(SystemdError::TimedOut { unit, job, seconds: timeout.as_secs() }),
            Ok(Err(zbus::Error::MethodError(_, why, _))) => {
                Err(SystemdError::Refused { unit, why: why.unwrap_or_else(|| "it refuses".into()) })
            }
            Ok(Err(error)) => Err(bus(error)),
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(SystemdError::Failed { unit, job, result }),
        }
    }

    /// Has a unit start at boot, or not.
    ///
    /// # Errors
    /// When it is refused.
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

    /// Lets a unit be started by nobody, or again.
    ///
    /// # Errors
    /// When it is refused.
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

    /// Reads all unit files again.
    ///
    /// # Errors
    /// When systemd can't be asked.
    pub fn reload(&self) -> Result<(), SystemdError> {
        self.ask("systemd", async { ManagerProxy::new(&self.connection).await?.reload().await })
    }
}
