//! Wrappers of `gix` transports that count the bytes from a remote, and fail at a limit.

use std::{
    any::Any,
    borrow::Cow,
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gix::{
    bstr::BStr,
    protocol::transport::{
        Protocol, Service,
        client::{
            self, MessageKind, TransportWithoutIO, WriteMode,
            blocking_io::{
                ExtendedBufRead, HandleProgress, ReadlineBufRead, RequestWriter, SetServiceResponse, Transport,
                http::{GetResponse, Http, PostBodyDataKind, PostResponse, reqwest::Remote},
            },
        },
        packetline::PacketLineRef,
    },
};

/// The number of bytes that a remote may still send. All parts of a connection share the counter.
#[derive(Debug, Clone)]
pub(crate) struct Left(Arc<AtomicU64>);

impl Left {
    /// Creates a counter with the number of bytes that the remote may send.
    pub(crate) fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Returns true if the remote has sent as many bytes as the limit allows.
    pub(crate) fn none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn take(&self, bytes: usize) -> io::Result<()> {
        let before = self.0.load(Ordering::Relaxed);
        let after = before.saturating_sub(bytes as u64);
        self.0.store(after, Ordering::Relaxed);
        if after == 0 && bytes > 0 { Err(io::Error::other("the remote sends too many bytes")) } else { Ok(()) }
    }
}

/// A `gix` transport that counts the received bytes, and fails if they exceed the limit.
pub(crate) struct Counted {
    pub(crate) inner: Box<dyn Transport + Send>,
    pub(crate) left: Left,
}

impl TransportWithoutIO for Counted {
    fn to_url(&self) -> Cow<'_, BStr> {
        self.inner.to_url()
    }

    fn supported_protocol_versions(&self) -> &[Protocol] {
        self.inner.supported_protocol_versions()
    }

    fn connection_persists_across_multiple_requests(&self) -> bool {
        self.inner.connection_persists_across_multiple_requests()
    }

    fn configure(&mut self, config: &dyn Any) -> gix::Result {
        self.inner.configure(config)
    }
}

impl Transport for Counted {
    fn handshake<'a>(
        &mut self,
        service: Service,
        extra_parameters: &'a [(&'a str, Option<&'a str>)],
    ) -> Result<SetServiceResponse<'_>, client::Error> {
        let left = self.left.clone();
        let mut response = self.inner.handshake(service, extra_parameters)?;
        response.refs = response.refs.map(|inner| Box::new(CountedRead { inner, left }) as Box<dyn ReadlineBufRead>);
        Ok(response)
    }

    fn request(
        &mut self,
        write_mode: WriteMode,
        on_into_read: MessageKind,
        trace: bool,
    ) -> Result<RequestWriter<'_>, client::Error> {
        let left = self.left.clone();
        let (writer, inner) = self.inner.request(write_mode, on_into_read, trace)?.into_parts();
        let reader = Box::new(CountedRead { inner, left });
        Ok(RequestWriter::new_from_bufread(writer, reader, write_mode, on_into_read, trace))
    }
}

/// A reader that counts the bytes from a remote, and fails if they exceed the limit.
pub(crate) struct CountedRead<R> {
    inner: R,
    left: Left,
}

impl<R: Read> Read for CountedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left.take(read)?;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for CountedRead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left.none() {
            return Err(io::Error::other("the remote sends too many bytes"));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.left.take(amount);
        self.inner.consume(amount);
    }
}

impl<R: ReadlineBufRead> ReadlineBufRead for CountedRead<R> {
    fn readline(&mut self) -> Option<io::Result<gix::Result<PacketLineRef<'_>>>> {
        let line = self.inner.readline();
        let bytes = match &line {
            Some(Ok(Ok(line))) => line.as_slice().map_or(4, |line| line.len().saturating_add(4)),
            _ => 0,
        };
        match self.left.take(bytes) {
            Ok(()) => line,
            Err(error) => Some(Err(error)),
        }
    }

    fn readline_str(&mut self, line: &mut String) -> io::Result<usize> {
        let read = self.inner.readline_str(line)?;
        self.left.take(read)?;
        Ok(read)
    }
}

impl<'a, R: ExtendedBufRead<'a>> ExtendedBufRead<'a> for CountedRead<R> {
    fn set_progress_handler(&mut self, handle_progress: Option<HandleProgress<'a>>) {
        self.inner.set_progress_handler(handle_progress);
    }

    fn peek_data_line(&mut self) -> Option<io::Result<Result<&[u8], client::Error>>> {
        self.inner.peek_data_line()
    }

    fn reset(&mut self, version: Protocol) {
        self.inner.reset(version);
    }

    fn stopped_at(&self) -> Option<MessageKind> {
        self.inner.stopped_at()
    }
}

/// An HTTP client that counts all bytes of responses. This HTTP client is necessary because `gix` itself reads the
/// capabilities of a server without a limit.
pub(crate) struct CountedHttp {
    pub(crate) inner: Remote,
    pub(crate) left: Left,
}

impl CountedHttp {
    fn read<R>(&self, inner: R) -> CountedRead<R> {
        CountedRead { inner, left: self.left.clone() }
    }
}

impl Http for CountedHttp {
    type Headers = CountedRead<<Remote as Http>::Headers>;
    type ResponseBody = CountedRead<<Remote as Http>::ResponseBody>;
    type PostBody = <Remote as Http>::PostBody;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let GetResponse { headers, body } = self.inner.get(url, base_url, headers)?;
        Ok(GetResponse { headers: self.read(headers), body: self.read(body) })
    }

    fn post(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let PostResponse { post_body, headers, body } = self.inner.post(url, base_url, headers, body)?;
        Ok(PostResponse { post_body, headers: self.read(headers), body: self.read(body) })
    }

    fn configure(&mut self, config: &dyn Any) -> gix::Result {
        self.inner.configure(config)
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.inner.redirected_base_url()
    }
}
