//! A pool of connections to peers. The pool opens connections on demand, and keeps the most recently used connections.

use std::{
    collections::BTreeMap,
    fmt,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use towpath_coordination::gossip::{PackRequest, Peers};
use towpath_host::{identity::Credentials, own::files};
use towpath_proto::v1alpha::{self as pb, peer_client::PeerClient};

use super::tls;
use crate::error_chain::error_chain;

/// The maximum number of open connections to peers.
const MAX_CONNECTIONS: usize = 32;
/// The time limit of one query to a peer.
const ANSWER: Duration = Duration::from_secs(10);
/// The time limit for sending a gossip message, which is out of date after this time.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool of connections to peers.
#[derive(Clone)]
pub struct PeerConnections {
    shared: Arc<Shared>,
}

struct Shared {
    runtime: Handle,
    credentials: Arc<Credentials>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The open connections by node and address, each with the number of its most recent use.
    open: BTreeMap<(String, String), (PeerClient<Channel>, u64)>,
    used: u64,
    /// The version of the revocation list when the connections were opened.
    revoked: u64,
    refused: BTreeMap<String, String>,
}

impl fmt::Debug for PeerConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("open", &self.lock().open.len()).finish_non_exhaustive()
    }
}

impl PeerConnections {
    /// Creates an empty pool of connections.
    pub fn new(runtime: Handle, credentials: Arc<Credentials>) -> Self {
        Self { shared: Arc::new(Shared { runtime, credentials, state: Mutex::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &(String, String)) -> Option<PeerClient<Channel>> {
        let mut state = self.lock();
        let version = self.shared.credentials.revoked().version();
        if std::mem::replace(&mut state.revoked, version) != version {
            // New connections check each certificate against the new list.
            state.open.clear();
        }
        state.used += 1;
        let now = state.used;
        let (client, used) = state.open.get_mut(key)?;
        *used = now;
        Some(client.clone())
    }

    fn keep(&self, key: (String, String), client: PeerClient<Channel>) {
        let mut state = self.lock();
        state.used += 1;
        let now = state.used;
        state.open.insert(key, (client, now));
        if state.open.len() > MAX_CONNECTIONS {
            let oldest = state.open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| state.open.remove(&key));
        }
    }

    async fn client(&self, key: &(String, String)) -> Result<PeerClient<Channel>, tonic::transport::Error> {
        if let Some(client) = self.known(key) {
            return Ok(client);
        }
        let present = self.shared.credentials.now();
        let (name, address) = key.clone();
        let revoked = self.shared.credentials.revoked().clone();
        let connector = service_fn(move |_: Uri| {
            let (name, address, present) = (name.clone(), address.clone(), Arc::clone(&present));
            let revoked = revoked.clone();
            async move {
                let cluster = present.subject.cluster.clone();
                let client = Arc::clone(&present.client);
                let stream = tls::dial(&address, &name, client, Some(&cluster)).await?;
                tls::unless_revoked(stream, &revoked).map(TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://peer.invalid").connect_with_connector(connector).await?;
        let client = PeerClient::new(channel);
        self.keep(key.clone(), client.clone());
        Ok(client)
    }

    async fn deliver(&self, key: &(String, String), message: Vec<u8>) -> Result<(), String> {
        let mut client = self.client(key).await.map_err(|error| error_chain(&error))?;
        let sent = client.gossip(pb::GossipMessage { message }).await;
        sent.map(drop).map_err(|status| describe(&status))
    }

    async fn download(&self, key: &(String, String), wanted: &PackRequest, into: &Path) -> Result<(), String> {
        let mut client = self.client(key).await.map_err(|error| error_chain(&error))?;
        let request = pb::FetchPackRequest {
            source: wanted.source.clone(),
            commit: wanted.commit.clone(),
            have: wanted.have.clone(),
        };
        let mut parts = client.fetch_pack(request).await.map_err(|status| describe(&status))?.into_inner();
        let mut file = files::create(into).map_err(|error| format!("{}: {error}", into.display()))?;
        let mut left = wanted.bytes;
        while let Some(part) = parts.message().await.map_err(|status| describe(&status))? {
            let size = u64::try_from(part.data.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(size).ok_or_else(|| format!("the peer sent more than {} bytes", wanted.bytes))?;
            file.write_all(&part.data).map_err(|error| format!("{}: {error}", into.display()))?;
        }
        Ok(())
    }

    /// Waits for an answer of a peer, at most for `time`.
    fn wait<T>(&self, time: Duration, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let answer = self.shared.runtime.block_on(async { tokio::time::timeout(time, answer).await });
        answer.unwrap_or_else(|_| Err(format!("the peer did not answer within {} s", time.as_secs())))
    }

    fn after(&self, key: &(String, String), done: Result<(), String>) {
        let mut state = self.lock();
        match done {
            Ok(()) => drop(state.refused.remove(&key.0)),
            Err(why) => {
                // The next message opens a new connection, with the current certificates.
                state.open.remove(key);
                tracing::debug!(node = key.0, "cannot deliver a message: {why}");
                if is_refusal(&why) {
                    state.refused.insert(key.0.clone(), why);
                } else if !why.is_empty() {
                    state.refused.remove(&key.0);
                }
            }
        }
    }
}

/// Returns the cause of a gRPC status, or the message of a status without a cause.
fn describe(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => error_chain(cause),
        None => status.message().to_owned(),
    }
}

/// Returns true if an error means that a side of the connection rejected the certificate of the other side.
fn is_refusal(why: &str) -> bool {
    let why = why.to_ascii_lowercase();
    why.contains("certificate") || why.contains("received fatal alert") || why.contains("not a node of this cluster")
}

impl Peers for PeerConnections {
    fn send(&self, node: &str, address: &str, message: Vec<u8>) {
        let links = self.clone();
        let key = (node.to_owned(), address.to_owned());
        self.shared.runtime.spawn(async move {
            let done = tokio::time::timeout(SEND_TIMEOUT, links.deliver(&key, message)).await;
            links.after(&key, done.unwrap_or_else(|_| Err("the peer did not answer in time".into())));
        });
    }

    fn refused(&self) -> BTreeMap<String, String> {
        self.lock().refused.clone()
    }

    fn acceptance(&self, node: &str, address: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        let key = (node.to_owned(), address.to_owned());
        self.wait(ANSWER, async {
            let mut client = self.client(&key).await.map_err(|error| error_chain(&error))?;
            let reply = client.get_acceptance(pb::GetAcceptanceRequest {}).await.map_err(|status| describe(&status))?;
            let pb::AcceptanceReply { record, manifest } = reply.into_inner();
            Ok((record, manifest))
        })
    }

    fn fetch_pack(&self, node: &str, address: &str, wanted: &PackRequest, into: &Path) -> Result<(), String> {
        let key = (node.to_owned(), address.to_owned());
        self.wait(wanted.time, self.download(&key, wanted, into))
    }
}
