//! The connection to one etcd member. The node connects to the member when a request needs the member, with the current
//! credentials of the node.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use etcd_client as etcd;
use tokio::{sync::watch, time::Instant};
use tonic::transport::Endpoint;
use towpath_host::{Clock as _, SystemClock};

use super::{
    access::{Access, ReadAccess},
    handshake::refusal,
    verdict::{Fault, Kind, Said, Shows, Verdict, judge},
};

/// The time after which a member that has not answered a request counts as failed.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// The timeout for the TCP connection to a member. The timeout is shorter than `SILENCE`, so that the error message
/// names the TCP connection.
const CONNECT: Duration = Duration::from_secs(2);

/// The interval of pings on a connection. etcd rejects clients with a shorter interval (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(5);

/// An open connection to an etcd member.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: etcd::Client,
    pub(super) shows: Shows,
    given_up: Arc<watch::Sender<bool>>,
    /// The credentials that this connection uses.
    access: Arc<Access>,
    /// True if the member has answered a request over this connection.
    proven: Arc<AtomicBool>,
}

impl Connection {
    /// Records that the member has answered a request over this connection.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// Waits until the node gives up this connection.
    pub(super) async fn given_up(&self) {
        // The sender lives as long as this connection, so the wait does not end for another reason.
        let _ = self.given_up.subscribe().wait_for(|given_up| *given_up).await;
    }
}

/// An etcd member, and the node's open connection to the member, if there is one.
pub(super) struct Member {
    pub(super) endpoint: String,
    connection: Mutex<Option<Connection>>,
    /// A lock that permits one attempt to connect at a time. The lock contains the time and the cause of the newest
    /// failed attempt to connect.
    connecting: tokio::sync::Mutex<Option<(Instant, Fault)>>,
}

impl Member {
    pub(super) fn new(endpoint: String) -> Self {
        Self { endpoint, connection: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the open connection to this member, or makes a connection if none is open.
    pub(super) async fn connect(&self, access: &ReadAccess) -> Result<Connection, Fault> {
        if let Some(open) = self.lock().clone() {
            return Ok(open);
        }
        let began = Instant::now();
        let mut last = self.connecting.lock().await;
        if let Some(open) = self.lock().clone() {
            return Ok(open);
        }
        // A request that has waited for another request's connection attempt also fails if that attempt fails.
        if let Some((_, fault)) = last.as_ref().filter(|(failed, _)| *failed >= began) {
            return Err(fault.clone());
        }
        // The attempt runs on a thread of the runtime, because a TLS handshake needs more stack than the caller's
        // thread has.
        let attempt = tokio::time::timeout(SILENCE, dial(self.endpoint.clone(), Arc::clone(access)));
        let made = match tokio::spawn(attempt).await {
            Ok(Ok(made)) => made,
            Ok(Err(_)) => Err(Fault::silent(SILENCE.as_secs(), false)),
            Err(ended) => Err(Fault::unconnected(&Said::of(&ended), Shows::default())),
        };
        match made {
            Ok(connection) => {
                *last = None;
                *self.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(fault) => {
                *last = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    /// Checks whether an etcd member has rejected this node's certificate, if the connection broke before the first
    /// answer. A member that has rejected the certificate has not executed the request.
    pub(super) async fn explain(&self, connection: &Connection, fault: Fault) -> Fault {
        if fault.kind != Kind::Away || connection.proven.load(Ordering::Relaxed) {
            return fault;
        }
        let (endpoint, access) = (self.endpoint.clone(), Arc::clone(&connection.access));
        match tokio::spawn(async move { refusal(&endpoint, &access).await }).await {
            Ok(Some(said)) => Fault::unconnected(&said, connection.shows),
            _ => fault,
        }
    }

    /// Gives up a connection. All streams and requests on the connection end, and the next request connects again.
    pub(super) fn give_up(&self, connection: &Connection) {
        let mut open = self.lock();
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(&open.given_up, &connection.given_up)) {
            *open = None;
        }
        connection.given_up.send_replace(true);
    }
}

async fn dial(endpoint: String, access: ReadAccess) -> Result<Connection, Fault> {
    let unread = |why: String| Fault { kind: Kind::Refused, unknown: false, why };
    let access = access().map_err(unread)?;
    let now = SystemClock.wall() / 1000;
    let shows = Shows {
        certificate: access.identity.is_some(),
        expired: access.valid_until.is_some_and(|until| until < now),
        user: access.user.is_some(),
    };
    let failed = |error: &(dyn std::error::Error + 'static)| Fault::unconnected(&Said::of(error), shows);
    let mut settings = Endpoint::from_shared(endpoint.clone())
        .map_err(|error| failed(&error))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(SILENCE)
        // etcd treats pings on a connection without streams as an attack.
        .keep_alive_while_idle(false);
    if endpoint.starts_with("https://") {
        let mut tls = etcd::TlsOptions::new();
        if let Some(ca) = &access.ca {
            tls = tls.ca_certificate(etcd::Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &access.identity {
            tls = tls.identity(etcd::Identity::from_pem(certificate, key));
        }
        settings = settings.tls_config(tls).map_err(|error| failed(&error))?;
    }
    let channel = settings.connect().await.map_err(|error| failed(&error))?;
    let client = match authenticated(etcd::Channel::Tonic(channel), &endpoint, &access, shows).await {
        Ok(client) => client,
        Err(fault) if fault.kind == Kind::Away => {
            let refused = refusal(&endpoint, &access).await;
            return Err(refused.map_or(fault, |said| Fault::unconnected(&said, shows)));
        }
        Err(fault) => return Err(fault),
    };
    let given_up = Arc::new(watch::Sender::new(false));
    Ok(Connection { client, shows, given_up, access: Arc::new(access), proven: Arc::default() })
}

async fn authenticated(
    channel: etcd::Channel,
    endpoint: &str,
    access: &Access,
    shows: Shows,
) -> Result<etcd::Client, Fault> {
    let plain = etcd::ConnectOptions::new().with_require_leader(true);
    let options = match &access.user {
        Some((user, password)) => plain.clone().with_user(user, password),
        None => plain.clone(),
    };
    match etcd::Client::from_channel(channel.clone(), Some(options)).await.map_err(Said::from) {
        Ok(client) => Ok(client),
        // The node connects without the user, as etcd's own clients do, and uses the user once authentication is
        // enabled.
        Err(said) if said.message.contains("authentication is not enabled") => {
            tracing::warn!(endpoint, "authentication is not enabled in etcd; the user and the password are not used");
            let client = etcd::Client::from_channel(channel, Some(plain)).await;
            client.map_err(|error| Fault::unconnected(&Said::from(error), shows))
        }
        Err(said) => Err(match judge(&said, shows) {
            Verdict::Move(fault) => Fault { unknown: false, ..fault },
            _ => Fault::unconnected(&said, shows),
        }),
    }
}
