//! A client of the PackageKit daemon over D-Bus. A package transaction fails at its deadline, or after some minutes
//! without progress.

use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use zbus::{Connection, OwnedObjectPath};

/// The maximum time that a package transaction may take without progress. The client waits at most half of the task's
/// timeout for progress.
const SILENCE: Duration = Duration::from_secs(300);
/// The maximum time to wait for an answer of PackageKit. The client waits at most a third of the task's timeout for an
/// answer.
const ANSWER: Duration = Duration::from_secs(25);

/// The interval at which the client reads the progress of a package transaction.
const LOOK: Duration = Duration::from_secs(1);

/// Constants from PackageKit's pk-enum.h: the info of an installed package, the exit code of a successful transaction,
/// and the filter for the native architecture.
const INSTALLED: u32 = 1;
const SUCCESS: u32 = 1;
const ARCH: u64 = 1 << 18;
/// The flag that makes a package transaction a dry run (pk-enum.h, `PK_TRANSACTION_FLAG_ENUM_SIMULATE`).
const SIMULATE: u64 = 1 << 2;
/// The numbers with which PackageKit marks a package as removed, obsoleted or downgraded. PackageKit 1.2 and later
/// versions use different numbers, so each list contains both numbers.
const REMOVED: [u32; 4] = [13, 15, 28, 29];
const DOWNGRADED: [u32; 2] = [20, 30];

/// An error of PackageKit.
#[derive(Debug, Error)]
pub enum PackageKitError {
    /// The error that PackageKit is not installed or does not answer. If PackageKit cannot be used, the module
    /// `package` uses apt or dnf.
    #[error("cannot use PackageKit: {0}")]
    Missing(String),
    /// The error that PackageKit made no progress or gave no answer within the given number of seconds.
    #[error("PackageKit hangs: the transaction made no progress for {0} s")]
    Hangs(u64),
    /// The error that a package task exceeded its time limit, in seconds.
    #[error("PackageKit did not finish within {0} s; set a higher timeout of the task")]
    TimedOut(u64),
    /// An error that PackageKit reported.
    #[error("{0}")]
    Failed(String),
}

/// A package in an answer of PackageKit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The package id of PackageKit.
    pub id: String,
    /// The name of the package.
    pub name: String,
    /// The version of the package.
    pub version: String,
    /// The architecture of the package.
    pub arch: String,
    /// True if the package is installed.
    pub installed: bool,
    /// The unwanted effect that the dry run predicts for the package; `None` if the package is only installed or
    /// upgraded.
    pub effect: Option<Effect>,
}

/// An unwanted effect of a package transaction: a removed or downgraded package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The transaction removes the package, or replaces the package by another package.
    Removed,
    /// The transaction installs an older version of the package.
    Downgraded,
}

#[zbus::proxy(
    interface = "org.freedesktop.PackageKit",
    default_service = "org.freedesktop.PackageKit",
    default_path = "/org/freedesktop/PackageKit"
)]
trait Daemon {
    fn create_transaction(&self) -> zbus::Result<OwnedObjectPath>;
    fn suggest_daemon_quit(&self) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.PackageKit.Transaction", default_service = "org.freedesktop.PackageKit")]
trait Transaction {
    fn set_hints(&self, hints: &[&str]) -> zbus::Result<()>;
    fn refresh_cache(&self, force: bool) -> zbus::Result<()>;
    fn resolve(&self, filter: u64, packages: &[&str]) -> zbus::Result<()>;
    fn install_packages(&self, flags: u64, ids: &[&str]) -> zbus::Result<()>;
    fn update_packages(&self, flags: u64, ids: &[&str]) -> zbus::Result<()>;
    fn remove_packages(&self, flags: u64, ids: &[&str], allow_deps: bool, autoremove: bool) -> zbus::Result<()>;
    fn cancel(&self) -> zbus::Result<()>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> zbus::Result<u32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn percentage(&self) -> zbus::Result<u32>;
    #[zbus(signal)]
    fn package(&self, info: u32, package_id: String, summary: String) -> zbus::Result<()>;
    #[zbus(signal)]
    fn item_progress(&self, id: String, status: u32, percentage: u32) -> zbus::Result<()>;
    #[zbus(signal)]
    fn error_code(&self, code: u32, details: String) -> zbus::Result<()>;
    #[zbus(signal)]
    fn finished(&self, exit: u32, runtime: u32) -> zbus::Result<()>;
}

#[derive(Debug, Clone, Copy)]
enum PackageKitCall<'a> {
    Refresh,
    Resolve(&'a [&'a str]),
    Install(u64, &'a [&'a str]),
    Update(u64, &'a [&'a str]),
    Remove(&'a [&'a str]),
}

/// A connection to PackageKit. The function `report` gets messages about the progress of a package transaction.
pub struct PackageKit<'a> {
    runtime: Runtime,
    connection: Connection,
    report: &'a dyn Fn(&str),
    /// The time limit for all package transactions of the connection together. All transactions must end before the
    /// time `deadline`.
    time: Duration,
    deadline: tokio::time::Instant,
}

impl std::fmt::Debug for PackageKit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackageKit")
    }
}

fn missing(error: impl std::fmt::Display) -> PackageKitError {
    PackageKitError::Missing(error.to_string())
}

impl<'a> PackageKit<'a> {
    /// Connects to PackageKit. All package transactions of the connection must end within `time`.
    ///
    /// # Errors
    /// Returns an error if PackageKit is not installed, or the bus gives no answer.
    pub fn connect(report: &'a dyn Fn(&str), time: Duration) -> Result<Self, PackageKitError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(missing)?;
        let connected = async {
            let connection = Connection::system().await?;
            let bus = zbus::fdo::DBusProxy::new(&connection).await?;
            let there = bus.list_activatable_names().await?;
            let named = there.iter().any(|name| name.as_str() == "org.freedesktop.PackageKit");
            Ok::<_, zbus::Error>(named.then_some(connection))
        };
        let connection = runtime.block_on(async { tokio::time::timeout(ANSWER.min(time / 3), connected).await });
        let connection = connection.map_err(|_| missing("the D-Bus system bus does not answer"))?;
        let connection = connection.map_err(missing)?.ok_or_else(|| missing("it is not installed"))?;
        let deadline = tokio::time::Instant::now() + time;
        Ok(Self { runtime, connection, report, time, deadline })
    }

    /// Refreshes the package lists.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn refresh(&self) -> Result<(), PackageKitError> {
        self.transaction(PackageKitCall::Refresh).map(drop)
    }

    /// Returns the packages with the given names, in all available versions.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<Found>, PackageKitError> {
        self.transaction(PackageKitCall::Resolve(names))
    }

    /// Simulates the installation of the given packages, and returns all packages that the installation changes.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn simulate_install(&self, ids: &[&str]) -> Result<Vec<Found>, PackageKitError> {
        self.transaction(PackageKitCall::Install(SIMULATE, ids))
    }

    /// Simulates the upgrade of the given packages, and returns all packages that the upgrade changes.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn simulate_update(&self, ids: &[&str]) -> Result<Vec<Found>, PackageKitError> {
        self.transaction(PackageKitCall::Update(SIMULATE, ids))
    }

    /// Installs packages.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn install(&self, ids: &[&str]) -> Result<(), PackageKitError> {
        self.transaction(PackageKitCall::Install(0, ids)).map(drop)
    }

    /// Updates installed packages.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn update(&self, ids: &[&str]) -> Result<(), PackageKitError> {
        self.transaction(PackageKitCall::Update(0, ids)).map(drop)
    }

    /// Removes packages. The removal fails if another installed package depends on one of the packages.
    ///
    /// # Errors
    /// Returns an error if the transaction fails.
    pub fn remove(&self, ids: &[&str]) -> Result<(), PackageKitError> {
        self.transaction(PackageKitCall::Remove(ids)).map(drop)
    }

    /// Asks the PackageKit daemon to exit, because an idle daemon keeps its memory.
    pub fn quit(&self) {
        let quit = async { DaemonProxy::new(&self.connection).await?.suggest_daemon_quit().await };
        // A failure is harmless: the daemon then only keeps its memory.
        let _ = self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), quit).await });
    }

    fn transaction(&self, call: PackageKitCall<'_>) -> Result<Vec<Found>, PackageKitError> {
        self.runtime.block_on(async {
            match tokio::time::timeout_at(self.deadline, self.carry_out(call)).await {
                Ok(done) => done,
                Err(_) => Err(PackageKitError::TimedOut(self.time.as_secs())),
            }
        })
    }

    async fn carry_out(&self, call: PackageKitCall<'_>) -> Result<Vec<Found>, PackageKitError> {
        // The call uses the unique bus name of the daemon. With the well-known name, the bus would start another daemon
        // after a crash.
        let begun = async {
            let path = DaemonProxy::new(&self.connection).await?.create_transaction().await?;
            let bus = zbus::fdo::DBusProxy::new(&self.connection).await?;
            let daemon = bus.get_name_owner(zbus::names::BusName::try_from("org.freedesktop.PackageKit")?).await?;
            let transaction = TransactionProxy::builder(&self.connection)
                .destination(daemon.clone())
                .path(path)
                .cache_properties(zbus::proxy::CacheProperties::No)
                .build()
                .await?;
            Ok::<_, zbus::Error>((transaction, daemon))
        };
        // Only a third of the time is used, so that another backend has enough time left.
        let time_limit = ANSWER.min(self.time / 3);
        let (transaction, daemon) = tokio::time::timeout(time_limit, begun)
            .await
            .map_err(|_| missing("it does not answer"))?
            .map_err(missing)?;
        let mut packages = transaction.receive_package().await.map_err(missing)?;
        let mut progress = transaction.receive_item_progress().await.map_err(missing)?;
        let mut errors = transaction.receive_error_code().await.map_err(missing)?;
        let mut ends = transaction.receive_finished().await.map_err(missing)?;
        let call = async {
            transaction.set_hints(&["interactive=false", "background=false"]).await?;
            match call {
                PackageKitCall::Refresh => transaction.refresh_cache(true).await,
                PackageKitCall::Resolve(names) => transaction.resolve(ARCH, names).await,
                PackageKitCall::Install(flags, ids) => transaction.install_packages(flags, ids).await,
                PackageKitCall::Update(flags, ids) => transaction.update_packages(flags, ids).await,
                // Packages that depend on the named packages are not removed: the task must name them.
                PackageKitCall::Remove(ids) => transaction.remove_packages(0, ids, false, false).await,
            }
        };
        let called = tokio::time::timeout(time_limit, call).await;
        called
            .map_err(|_| PackageKitError::Hangs(time_limit.as_secs()))?
            .map_err(|error| PackageKitError::Failed(error.to_string()))?;
        let (mut seen, mut wrong) = (Vec::new(), None);
        let mut heard = (tokio::time::Instant::now(), None);
        let mut answered = tokio::time::Instant::now();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gone = std::pin::pin!(self.gone(daemon));
        loop {
            tokio::select! {
                biased;
                Some(signal) = packages.next() => {
                    heard.0 = tokio::time::Instant::now();
                    if let Ok(signal) = signal.args() {
                        seen.extend(found(signal.info, &signal.package_id));
                    }
                }
                Some(_) = progress.next() => heard.0 = tokio::time::Instant::now(),
                Some(signal) = errors.next() => {
                    if let Ok(signal) = signal.args() {
                        wrong = Some(signal.details.trim().to_owned());
                    }
                }
                Some(signal) = ends.next() => {
                    let exit = signal.args().map_or(0, |signal| signal.exit);
                    if exit == SUCCESS && wrong.is_none() {
                        return Ok(seen);
                    }
                    let why = wrong.unwrap_or_else(|| format!("the transaction ended with {exit}"));
                    return Err(PackageKitError::Failed(why));
                }
                _ = looks.tick() => {
                    // PackageKit sends status and percentage only on request.
                    let asked = async { Ok::<_, zbus::Error>((transaction.status().await?, transaction.percentage().await?)) };
                    let now = tokio::time::timeout(Duration::from_secs(5), asked).await.ok().and_then(Result::ok);
                    if now.is_some() {
                        answered = tokio::time::Instant::now();
                    }
                    if now.is_some() && now != heard.1 {
                        now.and_then(|(status, percentage)| at(status, percentage)).iter().for_each(|at| (self.report)(at));
                        heard = (tokio::time::Instant::now(), now);
                    }
                    let silence = SILENCE.min(self.time / 2);
                    let silent = heard.0.elapsed() >= silence;
                    if silent || answered.elapsed() >= time_limit {
                        let _ = tokio::time::timeout(Duration::from_secs(2), transaction.cancel()).await;
                        return Err(PackageKitError::Hangs(if silent { silence } else { time_limit }.as_secs()));
                    }
                }
                () = &mut gone => return Err(PackageKitError::Failed("PackageKit ended during the transaction".into())),
            }
        }
    }

    /// Waits until the PackageKit daemon has exited.
    async fn gone(&self, daemon: zbus::names::OwnedUniqueName) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let there = async {
                let bus = zbus::fdo::DBusProxy::new(&self.connection).await?;
                Ok::<_, zbus::Error>(bus.name_has_owner(daemon.clone().into()).await?)
            };
            if !there.await.unwrap_or(true) {
                return;
            }
        }
    }
}

/// Describes the progress of a package transaction in a short text for people, such as "downloading, 40 %". If
/// PackageKit does not know the progress, PackageKit reports the percentage 101.
///
/// Returns `None` if the status has no text for people.
fn at(status: u32, percentage: u32) -> Option<String> {
    let what = match status {
        1 | 30 => "waiting for another transaction or the lock",
        2 | 3 | 4 | 13 | 27 => "computing the required packages",
        6 => "removing",
        7 | 20..=25 => "refreshing the package lists",
        8 => "downloading",
        9 => "installing",
        10 => "updating",
        11 => "cleaning up",
        14 => "checking signatures",
        15 | 16 => "installing the files",
        _ => return None,
    };
    let far = if (1..=100).contains(&percentage) { format!(", {percentage} %") } else { String::new() };
    Some(format!("{what}{far}"))
}

/// Parses a package id of PackageKit, in the form `name;version;arch;data`.
fn found(info: u32, id: &str) -> Option<Found> {
    let mut parts = id.split(';');
    let (name, version, arch) = (parts.next()?, parts.next()?, parts.next()?);
    let data = parts.next().unwrap_or_default();
    let installed = info == INSTALLED || data.starts_with("installed");
    let effect = match info {
        info if REMOVED.contains(&info) => Some(Effect::Removed),
        info if DOWNGRADED.contains(&info) => Some(Effect::Downgraded),
        _ => None,
    };
    let [name, version, arch] = [name, version, arch].map(str::to_owned);
    Some(Found { id: id.to_owned(), name, version, arch, installed, effect })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_described_in_words() {
        assert_eq!(at(9, 45).unwrap(), "installing, 45 %");
        assert_eq!(at(8, 101).unwrap(), "downloading");
        assert_eq!(at(0, 50), None);
    }

    #[test]
    fn package_ids_are_split() {
        let nginx = found(2, "nginx;1.22.1-9;amd64;installed:debian").unwrap();
        assert_eq!((nginx.name.as_str(), nginx.version.as_str(), nginx.installed), ("nginx", "1.22.1-9", true));
        assert!(!found(2, "nginx;1.22.1-9;amd64;debian").unwrap().installed);
        assert!(found(1, "nonsense").is_none());
    }
}
