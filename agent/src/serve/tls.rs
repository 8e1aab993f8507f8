//! Mutual TLS 1.3 for connections from and to other machines. Both sides of a connection present a certificate that the
//! cluster's authority has signed. A new connection uses the newest certificates on disk.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use towpath_host::{
    Clock as _, SystemClock,
    identity::{Credentials, Revoked, Role, Subject, serial},
};

use super::handshakes::{Handshakes, Refusals, Summary};

/// The time limit of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The interval at which rejected connections are logged.
const LOG: Duration = Duration::from_secs(10);

/// The subject and the serial number of a caller's certificate.
#[derive(Debug, Clone)]
pub(super) struct Caller(pub(super) Subject, pub(super) Option<String>);

/// A connection with an authenticated peer.
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

/// The state that all connections of the TLS port share.
struct Port {
    handshakes: Mutex<Handshakes<oneshot::Sender<()>>>,
    refusals: Mutex<Refusals>,
}

impl Port {
    fn handshakes(&self) -> MutexGuard<'_, Handshakes<oneshot::Sender<()>>> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, address: SocketAddr, why: &str) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).add(format!("{address}: {why}"));
        self.log();
    }

    fn log(&self) {
        let due = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).due(SystemClock.monotonic());
        if let Some(Summary { count, last }) = due {
            tracing::warn!(count, %last, "rejected connections");
        }
    }
}

/// Returns the stream of authenticated connections. If a handshake fails, the server closes the connection, and other
/// connections continue.
pub(super) fn incoming(listener: TcpListener, credentials: Arc<Credentials>) -> ReceiverStream<io::Result<Secured>> {
    let (known, connections) = mpsc::channel(16);
    let port = Arc::new(Port { handshakes: Mutex::default(), refusals: Mutex::default() });
    tokio::spawn(async move {
        let mut log = tokio::time::interval(LOG);
        while !known.is_closed() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = log.tick() => {
                    port.log();
                    continue;
                }
                () = known.closed() => break,
            };
            let Ok((stream, address)) = accepted else {
                // Probably no file descriptors are free. Other connections may soon release some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (end, ended) = oneshot::channel();
            // Dropping the returned sender ends an older handshake, if a limit of handshakes is reached.
            let (number, _) = port.handshakes().begin(address.ip(), end);
            let (known, credentials, port) = (known.clone(), Arc::clone(&credentials), Arc::clone(&port));
            tokio::spawn(async move {
                let shaken = async {
                    stream.peek(&mut [0]).await?;
                    port.handshakes().heard(number);
                    secure(stream, &credentials).await
                };
                let shaken = tokio::select! {
                    shaken = tokio::time::timeout(HANDSHAKE, shaken) => shaken,
                    _ = ended => return port.refuse(address, "too many concurrent handshakes; the oldest handshake was ended"),
                };
                port.handshakes().end(number);
                match shaken {
                    Ok(Ok(secured)) => drop(known.send(Ok(secured)).await),
                    Ok(Err(error)) => port.refuse(address, &error.to_string()),
                    Err(_) => port.refuse(address, "the peer did not complete the handshake in time"),
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
    let shown = stream.get_ref().1.peer_certificates();
    let caller = subject(shown, &present.subject.cluster)?;
    let serial = shown.and_then(|chain| chain.first()).and_then(|first| serial(first));
    if let Some(why) = credentials.revoked().refuses_use(&caller.name, serial.as_deref(), &caller.keys.sign) {
        return Err(io::Error::other(why));
    }
    Ok(Secured { stream: stream.into(), caller: Caller(caller, serial) })
}

/// Returns the subject of the peer's certificate. The TLS handshake has already verified that the cluster's authority
/// signed the certificate.
fn subject(shown: Option<&[rustls::pki_types::CertificateDer<'_>]>, cluster: &str) -> io::Result<Subject> {
    let subject = shown.and_then(|chain| chain.first()).and_then(|first| Subject::of(first));
    match subject {
        Some(subject) if subject.cluster == cluster => Ok(subject),
        Some(subject) => {
            Err(io::Error::other(format!("the certificate of the peer belongs to the cluster {}", subject.cluster)))
        }
        None => Err(io::Error::other(
            "the certificate of the peer names no role; issue a certificate with `towpath pki issue`",
        )),
    }
}

/// Rejects a connection if the certificate or key of the peer is revoked.
pub(super) fn unless_revoked(stream: TlsStream<TcpStream>, revoked: &Revoked) -> io::Result<TlsStream<TcpStream>> {
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let subject = shown.and_then(|first| Subject::of(first));
    let number = shown.and_then(|first| serial(first));
    match subject.and_then(|subject| revoked.refuses_use(&subject.name, number.as_deref(), &subject.keys.sign)) {
        Some(why) => Err(io::Error::other(why)),
        None => Ok(stream),
    }
}

/// Connects to a node. Rejects a peer that is not a node, or that belongs to another cluster.
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
            return Err(io::Error::other("the peer is not a node of this cluster"));
        }
        Ok(TlsStream::from(stream))
    };
    tokio::time::timeout(HANDSHAKE, connect)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer did not answer in time"))?
}
