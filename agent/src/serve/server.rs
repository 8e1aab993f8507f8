//! The gRPC services of an agent: on its Unix socket, and over mutual TLS for other machines.

use std::{
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{BroadcastStream, ReceiverStream, UnixListenerStream},
};
use tonic::{
    Request, Response, Status,
    service::{InterceptorLayer, Routes},
};
use towpath_host::{
    identity::{Credentials, Role},
    own,
};
use towpath_proto::v1alpha::{self as pb, events_server::Events, status_server::Status as StatusService};

use super::{
    callers::Callers,
    tls::{self, Caller},
};
use crate::{
    error_chain::error_chain,
    status::{OtherNode, PeerService, Queries},
};

/// The error of an API server that cannot start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The Unix socket cannot be created.
    #[error("cannot create the socket {path}", path = .path.display())]
    Socket {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address for other machines cannot be bound.
    #[error("cannot bind {address}")]
    Address {
        /// The address of the listener.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The gRPC transport failed.
    #[error("cannot serve the API")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors of the API cannot be read.
    #[error("cannot serve the reflection of the API: {0}")]
    Reflection(String),
}

/// The endpoints on which an agent serves its API.
#[derive(Debug)]
pub struct Endpoints {
    /// The path of the Unix socket.
    pub socket: PathBuf,
    /// The listener for other machines. `shared` is `None` if other machines cannot connect.
    pub shared: Option<Shared>,
}

/// The listener for connections from other machines.
#[derive(Debug)]
pub struct Shared {
    listener: std::net::TcpListener,
    credentials: Arc<Credentials>,
}

impl Shared {
    /// Binds the address that other machines connect to.
    ///
    /// # Errors
    /// Fails if the address is in use, or does not belong to this machine.
    pub fn listen(address: SocketAddr, credentials: Arc<Credentials>) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Address { address, source };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, credentials })
    }
}

/// Serves the API until the future `until` is ready.
///
/// # Errors
/// Fails if the socket cannot be created, or if the services fail.
pub async fn serve(
    queries: Queries,
    peers: PeerService,
    endpoints: Endpoints,
    until: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let Endpoints { socket, shared } = endpoints;
    let listener = bind(&socket)?;
    let remote = match shared {
        Some(shared) => {
            let known = peers.clone();
            let routes = routes(&queries, &peers).await?.add_service(peer_service(queries.clone(), peers.clone()));
            let admitted = InterceptorLayer::new(move |request: Request<()>| admit(&known, request));
            let listener = TcpListener::from_std(shared.listener)
                .map_err(|source| ServeError::Socket { path: socket.clone(), source })?;
            let incoming = tls::incoming(listener, shared.credentials);
            let server = tonic::transport::Server::builder()
                // A peer that loses power does not close its connection, so keepalive detects such a peer.
                .http2_keepalive_interval(Some(Duration::from_secs(30)))
                .http2_keepalive_timeout(Some(Duration::from_secs(10)))
                .max_concurrent_streams(Some(STREAMS))
                .layer(admitted)
                .add_routes(routes)
                .serve_with_incoming(incoming);
            Some(tokio::spawn(server))
        }
        None => None,
    };
    let served = tonic::transport::Server::builder()
        .add_routes(routes(&queries, &peers).await?)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), until)
        .await;
    if let Some(remote) = remote {
        // Peers detect by themselves that this node has stopped answering.
        remote.abort();
    }
    let _ = own::socket::remove(&socket);
    Ok(served?)
}

/// Admits a call if the certificate of the caller is not revoked. The accepted revision must name a calling node, and
/// the calling node must use its trusted key. The server checks the name of a node, because a certificate can stay
/// valid after git no longer names the node. The server checks every call, so that a revocation also affects open
/// connections.
fn admit(peers: &PeerService, request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Caller>() {
        Some(caller) => admit_caller(peers, caller).map(|()| request),
        None => Err(Status::unauthenticated("a certificate is required")),
    }
}

fn admit_caller(peers: &PeerService, Caller(caller, serial): &Caller) -> Result<(), Status> {
    if caller.role == Role::Node && peers.names_node(&caller.name) == Some(false) {
        return Err(Status::permission_denied(format!("there is no Node {} in git", caller.name)));
    }
    match peers.refuses(caller, serial.as_deref()) {
        Some(why) => Err(Status::permission_denied(why)),
        None => Ok(()),
    }
}

/// The stream of results of a streaming call.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns a stream of results. Before each item, the stream checks the caller, and ends if the caller is no longer
/// admitted.
fn while_admitted<T: Send + 'static>(
    peers: PeerService,
    caller: Option<Caller>,
    items: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Answers<T> {
    let items = items.map(move |item| match &caller {
        Some(caller) => admit_caller(&peers, caller).and(item),
        // Callers on the Unix socket have no certificate.
        None => item,
    });
    let mut ended = false;
    Box::pin(items.take_while(move |item| !std::mem::replace(&mut ended, item.is_err())))
}

fn bind(socket: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Socket { path: socket.to_owned(), source };
    own::socket::bind(socket).and_then(UnixListener::from_std).map_err(failed)
}

/// Returns the read-only services for all admitted callers.
async fn routes(queries: &Queries, peers: &PeerService) -> Result<Routes, ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<pb::status_server::StatusServer<Api>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(towpath_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
    let api = Api::new(queries.clone(), peers.clone());
    Ok(Routes::new(health_service)
        .add_service(reflection().build_v1().map_err(failed)?)
        // Tools from before 2023 use the v1alpha name of the reflection service.
        .add_service(reflection().build_v1alpha().map_err(failed)?)
        .add_service(pb::status_server::StatusServer::new(api.clone()))
        .add_service(pb::events_server::EventsServer::new(api)))
}

/// Returns the service that only other nodes may call.
fn peer_service(queries: Queries, peers: PeerService) -> pb::peer_server::PeerServer<Api> {
    pb::peer_server::PeerServer::new(Api::new(queries, peers))
        .max_decoding_message_size(towpath_coordination::gossip::core::LARGEST)
}

#[tonic::async_trait]
impl pb::peer_server::Peer for Api {
    async fn gossip(&self, request: Request<pb::GossipMessage>) -> Result<Response<pb::GossipReply>, Status> {
        let caller = node_that_asks(&request)?;
        let message = request.into_inner().message;
        self.peers.gossip(&caller, message).map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(Response::new(pb::GossipReply {}))
    }

    async fn get_acceptance(
        &self,
        request: Request<pb::GetAcceptanceRequest>,
    ) -> Result<Response<pb::AcceptanceReply>, Status> {
        node_that_asks(&request)?;
        let reply = self.peers.acceptance().map_err(|error| Status::not_found(error.to_string()))?;
        Ok(Response::new(reply))
    }

    type FetchPackStream = Answers<pb::PackPart>;

    async fn fetch_pack(
        &self,
        request: Request<pb::FetchPackRequest>,
    ) -> Result<Response<Self::FetchPackStream>, Status> {
        node_that_asks(&request)?;
        let caller = request.extensions().get::<Caller>().cloned();
        let pb::FetchPackRequest { source, commit, have } = request.into_inner();
        let mirror = self.peers.mirror(&source, &commit).map_err(|error| Status::not_found(error.to_string()))?;
        let permit = Arc::clone(&self.packs).try_acquire_owned();
        let permit = permit.map_err(|_| {
            Status::resource_exhausted(
                "this node is busy with packs for other nodes; request the pack from another node",
            )
        })?;
        let (parts, stream) = tokio::sync::mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut out = BufWriter::with_capacity(PART, Parts(parts.clone()));
            let written = mirror.write_pack(&commit, have.as_deref(), &mut out);
            let flushed = out.flush();
            if let Err(error) = written {
                let _ = parts.blocking_send(Err(Status::internal(error_chain(&error))));
            } else if let Err(error) = flushed {
                tracing::debug!(%error, "a node closed the connection before its pack was written");
            }
        });
        Ok(Response::new(while_admitted(self.peers.clone(), caller, ReceiverStream::new(stream))))
    }
}

/// Returns the name of the calling node. Fails if the caller is not a node.
fn node_that_asks<T>(request: &Request<T>) -> Result<String, Status> {
    match request.extensions().get::<Caller>() {
        Some(Caller(caller, _)) if caller.role == Role::Node => Ok(caller.name.clone()),
        Some(Caller(caller, _)) => Err(Status::permission_denied(format!(
            "{} is a {}, and only nodes may call the service `Peer`",
            caller.name,
            caller.role.name()
        ))),
        None => Err(Status::unauthenticated("a certificate is required")),
    }
}

/// The maximum number of concurrent calls on one connection.
const STREAMS: u32 = 64;

/// The maximum number of git packs that are written concurrently.
const PACKS: usize = 2;
/// The size of one part of a git pack, in bytes.
const PART: usize = 64 << 10;

/// A writer that sends its bytes as parts of a git pack.
struct Parts(tokio::sync::mpsc::Sender<Result<pb::PackPart, Status>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = pb::PackPart { data: bytes.to_vec() };
        self.0.blocking_send(Ok(part)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The gRPC services of one node.
#[derive(Debug, Clone)]
struct Api {
    queries: Queries,
    peers: PeerService,
    packs: Arc<Semaphore>,
    callers: Callers,
}

impl Api {
    fn new(queries: Queries, peers: PeerService) -> Self {
        Self { queries, peers, packs: Arc::new(Semaphore::new(PACKS)), callers: Callers::default() }
    }

    /// Runs blocking work in a separate thread, so that the work does not block the async runtime.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(Queries) -> T + Send + 'static) -> Result<T, Status> {
        let queries = self.queries.clone();
        tokio::task::spawn_blocking(move || work(queries)).await.map_err(|error| Status::internal(error.to_string()))
    }
}

#[tonic::async_trait]
impl StatusService for Api {
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::NodeStatus>, Status> {
        Ok(Response::new(self.queries.status()))
    }

    async fn list_nodes(&self, _: Request<pb::ListNodesRequest>) -> Result<Response<pb::ListNodesReply>, Status> {
        let nodes = self.blocking(|queries| queries.nodes()).await?;
        Ok(Response::new(pb::ListNodesReply { nodes }))
    }

    async fn list_objects(&self, _: Request<pb::ListObjectsRequest>) -> Result<Response<pb::ListObjectsReply>, Status> {
        let objects = self.blocking(|queries| queries.objects()).await?;
        Ok(Response::new(pb::ListObjectsReply { objects }))
    }

    async fn list_runs(&self, _: Request<pb::ListRunsRequest>) -> Result<Response<pb::ListRunsReply>, Status> {
        let runs = self.blocking(|queries| queries.runs()).await?;
        Ok(Response::new(pb::ListRunsReply { runs }))
    }

    async fn list_rollouts(
        &self,
        _: Request<pb::ListRolloutsRequest>,
    ) -> Result<Response<pb::ListRolloutsReply>, Status> {
        let rollouts = self.blocking(|queries| queries.rollouts()).await?;
        let rollouts = rollouts.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(pb::ListRolloutsReply { rollouts }))
    }

    async fn get_plan(&self, request: Request<pb::GetPlanRequest>) -> Result<Response<pb::PlanReply>, Status> {
        // The caller keeps its turn until the plan is made, even if the caller no longer waits for the answer.
        let turn = self.callers.turn(&request).await?;
        let plan = self.blocking(move |queries| (queries.plan(), turn).0).await?;
        plan.map(Response::new).map_err(|error| Status::failed_precondition(error.to_string()))
    }

    async fn get_view(&self, request: Request<pb::GetViewRequest>) -> Result<Response<pb::ViewReply>, Status> {
        let turn = self.callers.turn(&request).await?;
        let request = request.into_inner();
        let other = match (&request.node, &request.facts) {
            (Some(node), Some(facts)) => {
                Some(OtherNode::read(node, facts).map_err(|error| Status::invalid_argument(error.to_string()))?)
            }
            (None, None) => None,
            _ => return Err(Status::invalid_argument("node and facts must be given together")),
        };
        let view = move |queries: Queries| {
            (queries.view(&request.view, &request.subject, request.explain, other.as_ref()), turn).0
        };
        let view = self.blocking(view).await?;
        let view = view.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(pb::ViewReply { json: view.to_string() }))
    }
}

#[tonic::async_trait]
impl Events for Api {
    type WatchEventsStream = Answers<pb::EventRecord>;

    async fn watch_events(
        &self,
        request: Request<pb::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        // The stream is opened before the recorded events are read, so that no event is lost in between.
        let live = self.queries.events().follow();
        let kept = self.blocking(|queries| queries.events().recorded()).await?;
        let last = kept.last().map(|event| event.uuid.clone()).unwrap_or_default();
        let kept = tokio_stream::iter(kept.into_iter().map(Ok));
        if !request.into_inner().follow {
            return Ok(Response::new(Box::pin(kept)));
        }
        let live = BroadcastStream::new(live).filter_map(move |event| match event {
            Ok(event) if event.uuid > last => Some(Ok(event)),
            Ok(_) => None,
            Err(_) => Some(Err(Status::data_loss(
                "events were lost because the client read them too slowly; run the command again",
            ))),
        });
        Ok(Response::new(while_admitted(self.peers.clone(), caller, kept.chain(live))))
    }
}
