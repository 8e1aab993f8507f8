//! Connects to a remote for a ref advertisement or a fetch. A counter limits the bytes that the remote may send.

use std::{sync::atomic::AtomicBool, time::Duration};

use gix::{
    progress::NestedProgress,
    protocol::transport::client::blocking_io::{Transport, connect, http},
    remote::Direction,
};

use super::{
    counted::{Counted, CountedHttp, Left},
    http::{http_options, is_http},
    refs::{Advertised, Ref},
};
use crate::{Limits, SourceError, repo::BareRepo};

/// The maximum size of a ref advertisement, in bytes.
const ADVERTISEMENT: u64 = 32 << 20;

type Unreachable = Box<dyn std::error::Error + Send + Sync>;

type Connection<'a, 'b, 'c> = gix::remote::Connection<'a, 'b, 'c, Counted>;

/// Connects to the remote of a mirror, and limits the time and the received bytes of the connection.
fn connected<T>(
    repo: &BareRepo,
    spec: &str,
    (time, bytes): (Duration, u64),
    work: impl FnOnce(Connection<'_, '_, '_>) -> Result<T, Unreachable>,
) -> Result<T, SourceError> {
    let options = &repo.options;
    let unreachable = |error: Unreachable| repo.unreachable(error);
    let left = Left::new(bytes);
    let repository = repo.open_limited(options.limits.object)?;
    let remote = repository
        .remote_at(options.url.as_str())
        .and_then(|remote| {
            remote.with_fetch_tags(gix::remote::fetch::Tags::None).with_refspecs([spec], Direction::Fetch)
        })
        .map_err(|error| unreachable(error.into()))?;
    let counted = remote.sanitized_url_and_version(Direction::Fetch).and_then(|(url, version)| {
        if is_http(&options.url) {
            let http = CountedHttp { inner: http::reqwest::Remote::default(), left: left.clone() };
            let inner: Box<dyn Transport + Send> = Box::new(http::Transport::new_http(http, url, version, false));
            return Ok(Counted { inner, left: Left::new(u64::MAX) });
        }
        let ssh = url.scheme == gix::url::Scheme::Ssh;
        let ssh = if ssh { repository.ssh_connect_options()? } else { Default::default() };
        let inner = connect::connect(url, connect::Options { version, ssh, trace: false })?;
        Ok(Counted { inner, left: left.clone() })
    });
    let mut connection = remote.to_connection_with_transport(counted.map_err(|error| unreachable(error.into()))?);
    if is_http(&options.url) {
        connection.set_transport_options(http_options(options, time)?);
    }
    connection.set_credentials(|_| Ok(None));
    work(connection).map_err(
        |error| {
            if left.none() { repo.too_much(format!("{bytes} bytes")) } else { unreachable(error) }
        },
    )
}

/// Requests from a remote the refs that match a refspec. A remote with an old git protocol sends all its refs.
pub(crate) fn advertise(repo: &BareRepo, wanted: &str, time: Duration) -> Result<Advertised, SourceError> {
    connected(repo, wanted, (time, ADVERTISEMENT), |connection| {
        let (map, _) = connection.ref_map(gix::progress::Discard, gix::remote::ref_map::Options::default())?;
        let refs = map.remote_refs.iter().filter_map(|reference| {
            let (name, target, peeled) = reference.unpack();
            let object = target.or(peeled)?.to_owned();
            Some(Ref { name: name.to_string(), object, commit: peeled.map_or(object, ToOwned::to_owned) })
        });
        Ok(Advertised { refs: refs.collect(), empty: map.remote_refs.is_empty() })
    })
}

/// Fetches the refs that match a refspec, and adds the received pack to the mirror.
pub(crate) fn fetch<P>(repo: &BareRepo, spec: &str, progress: P, stop: &AtomicBool) -> Result<(), SourceError>
where
    P: NestedProgress,
    P::SubProgress: 'static,
{
    let Limits { fetch: time, bytes, .. } = repo.options.limits;
    connected(repo, spec, (time, bytes), |connection| {
        let prepared = connection.prepare_fetch(gix::progress::Discard, gix::remote::ref_map::Options::default())?;
        prepared.receive(progress, stop)?;
        Ok(())
    })
}
