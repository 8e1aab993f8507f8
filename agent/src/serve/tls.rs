//! Mutual TLS: who connects to this node, and connecting to others. TLS 1.3, both sides show a certificate of the
//! cluster's authority; what was renewed on disk holds from the next connection on.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use towpath_host::identity::{Credentials, Role, Subject};

/// How long the two sides have to agree on who they are.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many may be at it at once.
const AT_ONCE: usize = 128;

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Subject);

/// A connection whose other side is known.
#[derive(Debug)]
pub(super) struct Secured {
    stream: TlsStream<TcpStream>,
    caller: Caller,
}

impl Connected for Secured {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The connections that come in. One that does not show who it is is closed, and is nobody else's trouble.
pub(super) fn incoming(listener: TcpListener, credentials: Arc<Credentials>) -> ReceiverStream<io::Result<Secured>> {
    let (known, connections) = mpsc::channel(16);
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    tokio::spawn(async move {
        while !known.is_closed() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = known.closed() => break,
            };
            let Ok((stream, address)) = accepted else {
                // Out of file descriptors, most likely: others may give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { break };
            let (known, credentials) = (known.clone(), Arc::clone(&credentials));
            tokio::spawn(async move {
                let _permit = permit;
                match tokio::time::timeout(HANDSHAKE, secure(stream, &credentials)).await {
                    Ok(Ok(secured)) => drop(known.send(Ok(secured)).await),
                    Ok(Err(error)) => tracing::warn!(%address, "a connection was refused: {error}"),
                    Err(_) => tracing::warn!(%address, "a connection was closed: it did not show who it is in time"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn secure(stream: TcpStream, credentials: &Credentials) -> io::Result<Secured> {
    stream.set_nodelay(true)?;
    let present = credentials.now();
    let stream = TlsAcceptor::from(Arc::clone(&present.server)).accept(stream).await?;
    let caller = subject(stream.get_ref().1.peer_certificates(), &present.subject.cluster)?;
    Ok(Secured { stream: stream.into(), caller: Caller(caller) })
}

/// Whose certificate the other side has shown; that its authority made it was seen to by the handshake.
fn subject(shown: Option<&[rustls::pki_types::CertificateDer<'_>]>, cluster: &str) -> io::Result<Subject> {
    let subject = shown.and_then(|chain| chain.first()).and_then(|first| Subject::of(first));
    match subject {
        Some(subject) if subject.cluster == cluster => Ok(subject),
        Some(subject) => Err(io::Error::other(format!("its certificate is of the cluster {}", subject.cluster))),
        None => Err(io::Error::other("its certificate names no role (towpath pki issue makes one that does)")),
    }
}

/// Connects to a node.
pub(super) async fn dial(
    address: &str,
    name: &str,
    client: Arc<rustls::ClientConfig>,
    cluster: Option<&str>,
) -> io::Result<TlsStream<TcpStream>> {
    let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(client).connect(server, stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let other = shown.and_then(|chain| chain.first()).and_then(|first| Subject::of(first));
        let known = other.as_ref().is_some_and(|other| other.role == Role::Node);
        if !known || cluster.is_some_and(|cluster| other.is_some_and(|other| other.cluster != cluster)) {
            return Err(io::Error::other("whoever answers there is no node of this cluster"));
        }
        Ok(TlsStream::from(stream))
    };
    tokio::time::timeout(HANDSHAKE, connect)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nobody answered in time"))?
}
