//! Classification: the meaning of a member's answer, or of its failure to answer, for a request. Pure functions.

use std::error::Error;

use etcd_client as etcd;

use crate::store::StoreError;

/// The message with which etcd rejects a key that the user may not use.
const PERMISSION_DENIED: &str = "etcdserver: permission denied";

/// An error of a member, or of the connection to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// The status code of gRPC. `None` for an error of the connection.
    pub(super) code: Option<i32>,
    /// The message.
    pub(super) message: String,
    /// The message and those of its causes.
    pub(super) chain: String,
}

/// The gRPC codes that etcd uses.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

impl Said {
    /// Returns an error of the connection, with its causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self { code: None, message: error.to_string(), chain: chain(error) }
    }

    /// Returns the error of a stream that ended without a reason.
    pub(super) fn ended() -> Self {
        let message = "the stream ended".to_owned();
        Self { code: None, chain: message.clone(), message }
    }

    /// Returns the error of a watch that the member cancelled at its beginning. etcd 3.4 gives the same reason for an
    /// old token and for a key that the user may not read.
    pub(super) fn canceled(reason: &str) -> Self {
        let message = if reason.is_empty() { PERMISSION_DENIED.to_owned() } else { reason.to_owned() };
        let code = if message.contains("compacted") { code::OUT_OF_RANGE } else { code::UNAUTHENTICATED };
        Self { code: Some(code), chain: message.clone(), message }
    }
}

impl From<etcd::Error> for Said {
    fn from(error: etcd::Error) -> Self {
        match &error {
            etcd::Error::GRpcStatus(status) => {
                Self { code: Some(status.code() as i32), message: status.message().to_owned(), chain: chain(status) }
            }
            etcd::Error::TransportError(error) => Self::of(error),
            etcd::Error::LeaseKeepAliveError(_) => {
                let message = "etcdserver: requested lease not found".to_owned();
                Self { code: Some(code::NOT_FOUND), chain: message.clone(), message }
            }
            other => Self::of(other),
        }
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let word = error.to_string();
        // Many causes only repeat the error that wraps them.
        if words.last().is_none_or(|last| !last.contains(&word)) {
            words.push(word);
        }
        next = error.source();
    }
    words.join(": ")
}

/// The next step of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An answer that every member would give. The request fails.
    Final(StoreError),
    /// A token that the member no longer accepts. The request is repeated with a new one.
    NewToken(String),
    /// A fault of this member. The request moves to another one, which may answer.
    Move(Fault),
}

/// The reason why a member gave no answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The kind of the fault.
    pub(super) kind: Kind,
    /// True if the member may have carried the request out all the same.
    pub(super) unknown: bool,
    /// The cause, for people.
    pub(super) why: String,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A member to which no connection can be made, or whose connection broke.
    Away,
    /// A member that accepts connections and does not answer.
    Silent,
    /// A member that answers without a leader, or that cannot serve requests now.
    NoLeader,
    /// A member and a node that do not accept each other: a certificate, a key or a password is wrong.
    Refused,
}

/// The credentials that a node has, as far as messages depend on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shows {
    /// True if the node has a certificate.
    pub(super) certificate: bool,
    /// True if the certificate has expired.
    pub(super) expired: bool,
    /// True if the node has a user and a password.
    pub(super) user: bool,
}

impl Fault {
    /// Returns the fault of a member that was silent for too long.
    pub(super) fn silent(seconds: u64, unknown: bool) -> Self {
        Self { kind: Kind::Silent, unknown, why: format!("no answer within {seconds} s") }
    }

    /// Returns the fault of a connection that was given up because another request found the member failed.
    pub(super) fn given_up() -> Self {
        Self { kind: Kind::Away, unknown: true, why: "the connection was given up".into() }
    }

    /// Returns the fault of a member to which no connection can be made.
    pub(super) fn unconnected(said: &Said, shows: Shows) -> Self {
        let (kind, why) = explained(&said.chain, shows);
        Self { kind, unknown: false, why }
    }
}

/// Judges an error that a request got over a connection.
pub(super) fn judge(said: &Said, shows: Shows) -> Verdict {
    let message = said.message.as_str();
    let has = |word: &str| message.contains(word);
    let refused = |why: String| Verdict::Move(Fault { kind: Kind::Refused, unknown: false, why });
    match said.code {
        Some(code::RESOURCE_EXHAUSTED) if has("database space exceeded") => {
            // The caller knows the members, so it adds the command.
            Verdict::Final(StoreError::Full { command: String::new() })
        }
        Some(code::NOT_FOUND) if has("lease not found") => Verdict::Final(StoreError::LeaseGone),
        Some(code::UNAUTHENTICATED) => Verdict::NewToken(message.to_owned()),
        // etcd also gives this to a user whose rights changed since the token was issued.
        Some(code::INVALID_ARGUMENT) if has("revision of auth store is old") => Verdict::NewToken(message.to_owned()),
        // Authentication was enabled after the connection was made.
        Some(code::INVALID_ARGUMENT) if has("user name is empty") && shows.user => {
            Verdict::NewToken(message.to_owned())
        }
        Some(code::INVALID_ARGUMENT) if has("user name is empty") => Verdict::Final(StoreError::Denied(
            "etcd wants a user, and this node shows none; set certFile and keyFile, or usernameFile and passwordFile"
                .into(),
        )),
        Some(code::INVALID_ARGUMENT) if has("authentication failed") => {
            refused("wrong user or password; correct usernameFile and passwordFile, which are read again".into())
        }
        Some(code::PERMISSION_DENIED) => Verdict::Final(StoreError::Denied(format!(
            "{message}; the role of this node's user must allow its keys (deploy/etcd/setup.sh)"
        ))),
        Some(code::INVALID_ARGUMENT | code::FAILED_PRECONDITION | code::OUT_OF_RANGE) if has("etcdserver: ") => {
            Verdict::Final(StoreError::Denied(message.to_owned()))
        }
        Some(code::RESOURCE_EXHAUSTED) if has("too many requests") => {
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: false, why: "it has too many requests".into() })
        }
        Some(code::UNAVAILABLE) if has("etcdserver: no leader") => {
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: false, why: "it has no leader".into() })
        }
        Some(code::UNIMPLEMENTED) => refused("no etcd answers there".into()),
        Some(_) if has("etcdserver: ") => {
            let why = message.trim_start_matches("etcdserver: ").to_owned();
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: true, why })
        }
        _ => {
            let (kind, why) = explained(&said.chain, shows);
            // A member that rejects this node's certificate has carried nothing out.
            Verdict::Move(Fault { kind, unknown: kind != Kind::Refused, why })
        }
    }
}

/// Explains an error of a connection.
fn explained(chain: &str, shows: Shows) -> (Kind, String) {
    let has = |words: &[&str]| words.iter().any(|word| chain.contains(word));
    let refused = if has(&["certificate expired", "InvalidCertificate(Expired", "invalid peer certificate: Expired"]) {
        "its certificate has expired; renew it"
    } else if has(&["certificate not valid yet", "NotValidYet"]) {
        "its certificate is not valid yet; check the clocks"
    } else if has(&["UnknownIssuer", "BadSignature"]) {
        "its certificate is of another authority than caFile"
    } else if has(&["certificate not valid for name", "NotValidForName"]) {
        "its certificate is for another name than this endpoint"
    } else if has(&["KeyMismatch", "InconsistentKeys"]) {
        "keyFile does not belong to certFile"
    } else if chain.contains("received fatal alert") {
        alert(chain, shows)
    } else if has(&["InvalidContentType", "InvalidMessage", "corrupt message"]) {
        "no TLS is spoken there; write http:// or correct the port"
    } else if has(&["H2NotNegotiated", "HTTP/2 was not negotiated"]) {
        "no etcd answers there: HTTP/2 was not negotiated"
    } else {
        return (Kind::Away, away(chain));
    };
    (Kind::Refused, refused.to_owned())
}

/// Explains the TLS alert with which a member ended the connection.
fn alert(chain: &str, shows: Shows) -> &'static str {
    let has = |word: &str| chain.contains(word);
    // Members built with an old Go send BadCertificate for all of these.
    if !shows.certificate && (has("CertificateRequired") || has("BadCertificate") || has("HandshakeFailure")) {
        "it wants a client certificate, and this node shows none; set certFile and keyFile"
    } else if has("CertificateExpired") || shows.expired {
        "it refuses this node's certificate, which has expired; renew certFile"
    } else if has("UnknownCA") || has("BadCertificate") || has("CertificateUnknown") || has("DecryptError") {
        "it refuses this node's certificate; certFile must be of the authority that etcd trusts"
    } else {
        "it ended the TLS handshake; check certFile, keyFile and caFile"
    }
}

fn away(chain: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| chain.contains(word));
    if has(&["dns error", "failed to lookup"]) {
        "its name does not resolve".into()
    } else if has(&["Connection refused"]) {
        "connection refused".into()
    } else if has(&["Network is unreachable", "No route to host"]) {
        "there is no route to it".into()
    } else if has(&["deadline has elapsed", "timed out", "Timeout", "KeepAliveTimedOut"]) {
        "no answer in time".into()
    } else if has(&["frame with invalid size", "invalid HTTP", "PROTOCOL_ERROR"]) {
        "no etcd answers there, or it wants https://".into()
    } else {
        // The causes are more precise than the error that wraps them.
        chain.trim_start_matches("transport error: ").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: i32, message: &str) -> Said {
        Said { code: Some(code), message: message.into(), chain: message.into() }
    }

    fn broken(chain: &str) -> Said {
        Said { code: None, message: "transport error".into(), chain: format!("transport error: {chain}") }
    }

    #[test]
    fn answers_of_the_store_are_final() {
        for (code, message, expected) in [
            (8, "etcdserver: mvcc: database space exceeded", StoreError::Full { command: String::new() }),
            (5, "etcdserver: requested lease not found", StoreError::LeaseGone),
        ] {
            assert_eq!(judge(&said(code, message), Shows::default()), Verdict::Final(expected), "{message}");
        }
        for (code, message) in [
            (7, "etcdserver: permission denied"),
            (3, "etcdserver: user name is empty"),
            (3, "etcdserver: request is too large"),
            (3, "etcdserver: too many operations in txn request"),
        ] {
            let verdict = judge(&said(code, message), Shows::default());
            assert!(matches!(&verdict, Verdict::Final(StoreError::Denied(_))), "{message}: {verdict:?}");
        }
    }

    #[test]
    fn token_that_no_longer_counts_is_replaced() {
        let user = Shows { user: true, ..Shows::default() };
        for said in [
            said(16, "etcdserver: invalid auth token"),
            said(3, "etcdserver: revision of auth store is old"),
            said(3, "etcdserver: user name is empty"),
            Said::canceled("etcdserver: permission denied"),
            Said::canceled("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
            Said::canceled(""),
        ] {
            assert!(matches!(judge(&said, user), Verdict::NewToken(_)), "{said:?}");
        }
    }

    /// A request may be sent again unchanged only if it was certainly not carried out.
    #[test]
    fn result_is_unknown_unless_the_member_refused_the_request() {
        for (said, kind, unknown) in [
            (said(14, "etcdserver: no leader"), Kind::NoLeader, false),
            (said(8, "etcdserver: too many requests"), Kind::NoLeader, false),
            (said(14, "etcdserver: request timed out"), Kind::NoLeader, true),
            (said(14, "etcdserver: request timed out, possibly due to previous leader failure"), Kind::NoLeader, true),
            (said(14, "etcdserver: leader changed"), Kind::NoLeader, true),
            (said(14, "etcdserver: server stopped"), Kind::NoLeader, true),
            (said(2, "h2 protocol error: error reading a body from connection"), Kind::Away, true),
            (said(14, "error trying to connect: tcp connect error"), Kind::Away, true),
            (said(1, "Timeout expired"), Kind::Away, true),
            (said(12, "unknown service etcdserverpb.KV"), Kind::Refused, false),
            (said(3, "etcdserver: authentication failed, invalid user ID or password"), Kind::Refused, false),
            (broken("connection error: connection reset"), Kind::Away, true),
        ] {
            match judge(&said, Shows::default()) {
                Verdict::Move(fault) => assert_eq!((fault.kind, fault.unknown), (kind, unknown), "{said:?}"),
                other => panic!("{said:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn faults_of_connections_are_distinguished() {
        let shows = Shows { certificate: true, ..Shows::default() };
        let expired = Shows { certificate: true, expired: true, ..Shows::default() };
        let none = Shows::default();
        for (chain, shows, kind, word) in [
            ("error: received fatal alert: CertificateRequired", none, Kind::Refused, "shows none"),
            ("error: received fatal alert: BadCertificate", none, Kind::Refused, "shows none"),
            ("error: received fatal alert: BadCertificate", expired, Kind::Refused, "has expired; renew certFile"),
            ("error: received fatal alert: CertificateExpired", shows, Kind::Refused, "has expired; renew certFile"),
            ("error: received fatal alert: UnknownCA", shows, Kind::Refused, "authority that etcd trusts"),
            ("error: received fatal alert: BadCertificate", shows, Kind::Refused, "authority that etcd trusts"),
            ("invalid peer certificate: UnknownIssuer", shows, Kind::Refused, "another authority than caFile"),
            (
                "invalid peer certificate: certificate expired: verification time 1",
                shows,
                Kind::Refused,
                "its certificate has expired",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"x\"",
                shows,
                Kind::Refused,
                "for another name",
            ),
            ("keys may not be consistent: KeyMismatch", shows, Kind::Refused, "does not belong to certFile"),
            ("tcp connect error: Connection refused (os error 111)", shows, Kind::Away, "refused"),
            ("dns error: failed to lookup address information", shows, Kind::Away, "does not resolve"),
            ("tcp connect error: Network is unreachable (os error 101)", shows, Kind::Away, "no route"),
            ("tcp connect error: deadline has elapsed", shows, Kind::Away, "in time"),
        ] {
            let fault = Fault::unconnected(&broken(chain), shows);
            assert_eq!((fault.kind, fault.unknown), (kind, false), "{chain}");
            assert!(fault.why.contains(word), "{chain}: {}", fault.why);
        }
    }
}
