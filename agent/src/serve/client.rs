//! The client of the agent's API, for the command line.

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
use crate::{error_chain::error_chain, status::OtherNode};

/// The error of a failed call to an agent.
#[derive(Debug, Error)]
pub enum CallError {
    /// No agent listens on the socket.
    #[error("no agent answers at {path}", path = .path.display())]
    NoAgent {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The certificate of the caller cannot be used.
    #[error("cannot use the certificate")]
    Credentials(#[from] IdentityError),
    /// The remote agent cannot be reached, or does not belong to the cluster of the caller.
    #[error("cannot reach {address}: {why}")]
    Remote {
        /// The address of the remote agent.
        address: String,
        /// The cause of the error, as text.
        why: String,
    },
    /// The agent rejected or aborted the call.
    #[error("the agent answered: {0}")]
    Refused(String),
}

impl From<tonic::Status> for CallError {
    fn from(status: tonic::Status) -> Self {
        // The cause of a gRPC status is more precise than the message of the status.
        Self::Refused(match std::error::Error::source(&status) {
            Some(cause) => error_chain(cause),
            None => status.message().to_owned(),
        })
    }
}

/// The address of an agent on another machine, with the certificate of the caller.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The address, as HOST:PORT.
    pub address: String,
    /// The files of the caller's certificate, and of the authority that signs the agent's certificate.
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
    /// Fails if no agent listens on the socket.
    pub async fn connect(socket: &Path) -> Result<Self, CallError> {
        let no_agent = |source| CallError::NoAgent { path: socket.to_owned(), source };
        // tonic hides the cause of a failed connection, so the first connection is made here.
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
    /// Fails if no agent answers at the address, or if one side rejects the certificate of the other side.
    pub async fn connect_to(remote: &Remote) -> Result<Self, CallError> {
        let credentials = Credentials::read(remote.tls.clone(), Arc::new(SystemClock))?;
        let failed = |why: String| CallError::Remote { address: remote.address.clone(), why };
        let host = remote.address.rsplit_once(':').map_or(remote.address.as_str(), |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        let present = credentials.now();
        let (address, cluster) = (remote.address.clone(), present.subject.cluster.clone());
        // tonic hides the cause of a failed connection, so the first connection is made here.
        let first = tls::dial(&address, &host, Arc::clone(&present.client), Some(&cluster)).await;
        let mut first = Some(first.map_err(|error| failed(error_chain(&error)))?);
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
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| failed(error_chain(&error)))?;
        Ok(Self { channel })
    }

    fn status_service(&self) -> StatusClient<Channel> {
        StatusClient::new(self.channel.clone()).max_decoding_message_size(256 << 20)
    }

    /// Returns the status of the node.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub async fn status(&self) -> Result<pb::NodeStatus, CallError> {
        Ok(self.status_service().get_status(pb::GetStatusRequest {}).await?.into_inner())
    }

    /// Returns the nodes that the agent knows.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub async fn nodes(&self) -> Result<Vec<pb::NodeSummary>, CallError> {
        Ok(self.status_service().list_nodes(pb::ListNodesRequest {}).await?.into_inner().nodes)
    }

    /// Returns the objects of the revision that the agent has accepted.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub async fn objects(&self) -> Result<Vec<pb::ObjectSummary>, CallError> {
        Ok(self.status_service().list_objects(pb::ListObjectsRequest {}).await?.into_inner().objects)
    }

    /// Returns the recorded runs of the node.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub async fn runs(&self) -> Result<Vec<pb::RunSummary>, CallError> {
        Ok(self.status_service().list_runs(pb::ListRunsRequest {}).await?.into_inner().runs)
    }

    /// Returns the progress of all rollouts.
    ///
    /// # Errors
    /// Fails if the agent or its data store does not answer, or if the agent has no revision.
    pub async fn rollouts(&self) -> Result<Vec<pb::RolloutSummary>, CallError> {
        Ok(self.status_service().list_rollouts(pb::ListRolloutsRequest {}).await?.into_inner().rollouts)
    }

    /// Returns the changes that the accepted revision requires on the node of the agent.
    ///
    /// # Errors
    /// Fails if the agent does not answer, or has no revision.
    pub async fn plan(&self) -> Result<pb::PlanReply, CallError> {
        Ok(self.status_service().get_plan(pb::GetPlanRequest {}).await?.into_inner())
    }

    /// Returns one view as JSON: rendered tasks, variables or facts.
    ///
    /// # Errors
    /// Fails if the agent does not answer, or does not know the requested view.
    pub async fn view(
        &self,
        view: &str,
        subject: &str,
        explain: bool,
        other: Option<&OtherNode>,
    ) -> Result<String, CallError> {
        let request = pb::GetViewRequest {
            view: view.into(),
            subject: subject.into(),
            explain,
            node: other.map(|other| other.name.clone()),
            facts: other.map(|other| other.facts.to_string()),
        };
        Ok(self.status_service().get_view(request).await?.into_inner().json)
    }

    /// Returns the recorded events of the node. With `follow`, the stream also delivers new events.
    ///
    /// # Errors
    /// Fails if the agent does not answer.
    pub async fn events(&self, follow: bool) -> Result<tonic::Streaming<pb::EventRecord>, CallError> {
        Ok(EventsClient::new(self.channel.clone()).watch_events(pb::WatchEventsRequest { follow }).await?.into_inner())
    }
}
