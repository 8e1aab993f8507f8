//! The command line's end of the API.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use towpath_host::{
    SystemClock,
    identity::{Credentials, IdentityError, TlsFiles},
};
use towpath_proto::v1alpha::{self as pb, events_client::EventsClient, status_client::StatusClient};

use super::tls;
use crate::report::chain;

/// A call that got no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("no agent answers at {path}", path = .path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The own certificate can't be used.
    #[error("the certificate can't be used")]
    Credentials(#[from] IdentityError),
    /// Nobody there, or nobody who is who it should be.
    #[error("{address} can't be asked: {why}")]
    Remote {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// The agent refused, or broke off.
    #[error("the agent answered: {0}")]
    Refused(String),
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        // What went wrong below gRPC says more than gRPC makes of it.
        Self::Refused(match std::error::Error::source(&status) {
            Some(cause) => chain(cause),
            None => status.message().to_owned(),
        })
    }
}

/// An agent on another machine.
#[derive(Debug, Clone)]
pub struct Remote {
    /// HOST:PORT.
    pub address: String,
    /// The own certificate, and the authority that the agent is known by.
    pub tls: TlsFiles,
}

/// A connection to an agent.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the socket of an agent.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, CallError> {
        let no_agent = |source| CallError::NoAgent { path: socket.to_owned(), source };
        // A first try tells why it fails; tonic would not.
        UnixStream::connect(socket).await.map_err(no_agent)?;
        let path = socket.to_owned();
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://agent.invalid");
        let channel =
            endpoint.connect_with_connector(connector).await.map_err(|error| CallError::Refused(error.to_string()))?;
        Ok(Self { channel })
    }

    /// Connects to an agent on another machine.
    ///
    /// # Errors
    /// When nobody answers there, or one of the two sides is not who it should be.
    pub async fn connect_to(remote: &Remote) -> Result<Self, CallError> {
        let credentials = Credentials::read(remote.tls.clone(), Arc::new(SystemClock))?;
        let failed = |why: String| CallError::Remote { address: remote.address.clone(), why };
        let host = remote.address.rsplit_once(':').map_or(remote.address.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        let present = credentials.now();
        let (address, cluster) = (remote.address.clone(), present.subject.cluster.clone());
        // A first try tells why it fails; tonic would not.
        let first = tls::dial(&address, &host, Arc::clone(&present.client), Some(&cluster)).await;
        let mut first = Some(first.map_err(|error| failed(chain(&error)))?);
        let connector = service_fn(move |_: Uri| {
            let (address, host, cluster) = (address.clone(), host.clone(), cluster.clone());
            let (present, first) = (Arc::clone(&present), first.take());
            async move {
                let stream = match first {
                    Some(stream) => stream,
                    None => tls::dial(&address, &host, Arc::clone(&present.client), Some(&cluster)).await?,
                };
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://agent.invalid");
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| failed(chain(&error)))?;
        Ok(Self { channel })
    }

    fn status_service(&self) -> StatusClient<Channel> {
        StatusClient::new(self.channel.clone()).max_decoding_message_size(256 << 20)
    }

    /// The status of the node.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn status(&self) -> Result<pb::NodeStatus, CallError> {
        Ok(self.status_service().get_status(pb::GetStatusRequest {}).await?.into_inner())
    }

    /// The nodes that it knows.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn nodes(&self) -> Result<Vec<pb::NodeSummary>, CallError> {
        Ok(self.status_service().list_nodes(pb::ListNodesRequest {}).await?.into_inner().nodes)
    }

    /// The objects of its revision.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn objects(&self) -> Result<Vec<pb::ObjectSummary>, CallError> {
        Ok(self.status_service().list_objects(pb::ListObjectsRequest {}).await?.into_inner().objects)
    }

    /// Its runs.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn runs(&self) -> Result<Vec<pb::RunSummary>, CallError> {
        Ok(self.status_service().list_runs(pb::ListRunsRequest {}).await?.into_inner().runs)
    }

    /// How rollouts stand.
    ///
    /// # Errors
    /// When the agent does not answer, or the data store does not.
    pub async fn rollouts(&self) -> Result<Vec<pb::RolloutSummary>, CallError> {
        Ok(self.status_service().list_rollouts(pb::ListRolloutsRequest {}).await?.into_inner().rollouts)
    }

    /// What it would change.
    ///
    /// # Errors
    /// When the agent does not answer, or has no revision.
    pub async fn plan(&self) -> Result<pb::PlanReply, CallError> {
        Ok(self.status_service().get_plan(pb::GetPlanRequest {}).await?.into_inner())
    }

    /// A view, as JSON.
    ///
    /// # Errors
    /// When the agent does not answer, or has no such view.
    pub async fn view(&self, view: &str, subject: &str, explain: bool) -> Result<String, CallError> {
        let request = pb::GetViewRequest { view: view.into(), subject: subject.into(), explain };
        Ok(self.status_service().get_view(request).await?.into_inner().json)
    }

    /// Its events.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn events(&self, follow: bool) -> Result<tonic::Streaming<pb::EventRecord>, CallError> {
        Ok(EventsClient::new(self.channel.clone()).watch_events(pb::WatchEventsRequest { follow }).await?.into_inner())
    }
}
