//! Classifies the errors of etcd members. Pure functions determine from an error how a request continues.

use std::error::Error;

use etcd_client as etcd;

use crate::store::StoreError;

/// The message with which etcd rejects a request for a store key that the user of the node is not allowed to access.
const PERMISSION_DENIED: &str = "etcdserver: permission denied";

/// An error that an etcd member has returned, or an error of the connection to an etcd member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// The gRPC status code. `None` for an error of the connection.
    pub(super) code: Option<i32>,
    /// The error message, without its causes.
    pub(super) message: String,
    /// The error message, followed by the messages of its causes.
    pub(super) chain: String,
}

/// The gRPC status codes that etcd uses.
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
    /// Creates a connection error from an error with its causes.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self { code: None, message: error.to_string(), chain: chain(error) }
    }

    /// Creates the error for a stream that ended without a reason.
    pub(super) fn ended() -> Self {
        let message = "the stream ended".to_owned();
        Self { code: None, chain: message.clone(), message }
    }

    /// Creates the error for a watch that a member rejected at the start. etcd 3.4 gives the same reason for an expired
    /// token and for a forbidden key.
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
        // Many causes only repeat the message of the error that wraps them.
        if words.last().is_none_or(|last| !last.contains(&word)) {
            words.push(word);
        }
        next = error.source();
    }
    words.join(": ")
}

/// The step by which a request continues after an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The request fails, because every member would give the same answer.
    Final(StoreError),
    /// The node repeats the request with a new token, because the member rejects the old token.
    NewToken(String),
    /// The node sends the request to another member, because the asked member has a fault.
    Move(Fault),
}

/// The reason why a member has not answered a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The kind of the fault, which determines how the request continues.
    pub(super) kind: Kind,
    /// True if the member may have executed the request in spite of the fault.
    pub(super) unknown: bool,
    /// The cause of the fault, for error messages.
    pub(super) why: String,
}

/// The kinds of faults of an etcd member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The node cannot connect to the member, or the connection broke.
    Away,
    /// The member accepts connections, but does not answer requests.
    Silent,
    /// The member answers, but has no leader or cannot serve requests now.
    NoLeader,
    /// A certificate, a private key or a password is wrong, so that the member rejects the node or the node rejects the
    /// member.
    Refused,
}

/// The kinds of credentials that a node uses. The remedy in an error message depends on the kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shows {
    /// True if the node has a certificate.
    pub(super) certificate: bool,
    /// True if the certificate of the node has expired.
    pub(super) expired: bool,
    /// True if the node has a user name and a password.
    pub(super) user: bool,
}

impl Fault {
    /// Returns the fault for a member that has not answered within `seconds` seconds.
    pub(super) fn silent(seconds: u64, unknown: bool) -> Self {
        Self { kind: Kind::Silent, unknown, why: format!("no answer within {seconds} s") }
    }

    /// Returns the fault for a connection that the node has given up after another request failed at the member.
    pub(super) fn given_up() -> Self {
        Self { kind: Kind::Away, unknown: true, why: "the connection was given up".into() }
    }

    /// Returns the fault for a member to which the node cannot connect.
    pub(super) fn unconnected(said: &Said, shows: Shows) -> Self {
        let (kind, why) = explained(&said.chain, shows);
        Self { kind, unknown: false, why }
    }
}

/// Determines from an error how a request continues.
pub(super) fn judge(said: &Said, shows: Shows) -> Verdict {
    let message = said.message.as_str();
    let has = |word: &str| message.contains(word);
    let refused = |why: String| Verdict::Move(Fault { kind: Kind::Refused, unknown: false, why });
    match said.code {
        Some(code::RESOURCE_EXHAUSTED) if has("database space exceeded") => {
            // The caller knows the members, so it adds the command that frees space.
            Verdict::Final(StoreError::Full { command: String::new() })
        }
        Some(code::NOT_FOUND) if has("lease not found") => Verdict::Final(StoreError::LeaseGone),
        Some(code::UNAUTHENTICATED) => Verdict::NewToken(message.to_owned()),
        // etcd also returns this error if the rights of the user have changed since the token was issued.
        Some(code::INVALID_ARGUMENT) if has("revision of auth store is old") => Verdict::NewToken(message.to_owned()),
        // Authentication was enabled after this connection was made.
        Some(code::INVALID_ARGUMENT) if has("user name is empty") && shows.user => {
            Verdict::NewToken(message.to_owned())
        }
        Some(code::INVALID_ARGUMENT) if has("user name is empty") => Verdict::Final(StoreError::Denied(
            "etcd requires a user, and this node shows none; set certFile and keyFile, or usernameFile and passwordFile"
                .into(),
        )),
        Some(code::INVALID_ARGUMENT) if has("authentication failed") => {
            refused("wrong user or password; correct usernameFile and passwordFile (the agent reads them again)".into())
        }
        Some(code::PERMISSION_DENIED) => Verdict::Final(StoreError::Denied(format!(
            "{message}; the role of this node's user must permit the keys of this node (deploy/etcd/setup.sh)"
        ))),
        Some(code::INVALID_ARGUMENT | code::FAILED_PRECONDITION | code::OUT_OF_RANGE) if has("etcdserver: ") => {
            Verdict::Final(StoreError::Denied(message.to_owned()))
        }
        Some(code::RESOURCE_EXHAUSTED) if has("too many requests") => {
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: false, why: "the member has too many requests".into() })
        }
        Some(code::UNAVAILABLE) if has("etcdserver: no leader") => {
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: false, why: "the member has no leader".into() })
        }
        Some(code::UNIMPLEMENTED) => refused("the server at this endpoint is not etcd".into()),
        Some(_) if has("etcdserver: ") => {
            let why = message.trim_start_matches("etcdserver: ").to_owned();
            Verdict::Move(Fault { kind: Kind::NoLeader, unknown: true, why })
        }
        _ => {
            let (kind, why) = explained(&said.chain, shows);
            // A member that rejects this node's certificate has not carried the request out.
            Verdict::Move(Fault { kind, unknown: kind != Kind::Refused, why })
        }
    }
}

/// Returns the kind and the cause of a connection error.
fn explained(chain: &str, shows: Shows) -> (Kind, String) {
    let has = |words: &[&str]| words.iter().any(|word| chain.contains(word));
    let refused = if has(&["certificate expired", "InvalidCertificate(Expired", "invalid peer certificate: Expired"]) {
        "the certificate of the member has expired; renew the certificate"
    } else if has(&["certificate not valid yet", "NotValidYet"]) {
        "the certificate of the member is not valid yet; check the clocks"
    } else if has(&["UnknownIssuer", "BadSignature"]) {
        "the certificate of the member is of another authority than caFile"
    } else if has(&["certificate not valid for name", "NotValidForName"]) {
        "the certificate of the member is for another name than this endpoint"
    } else if has(&["KeyMismatch", "InconsistentKeys"]) {
        "keyFile does not belong to certFile"
    } else if chain.contains("received fatal alert") {
        alert(chain, shows)
    } else if has(&["InvalidContentType", "InvalidMessage", "corrupt message"]) {
        "the server does not use TLS; write http:// or correct the port"
    } else if has(&["H2NotNegotiated", "HTTP/2 was not negotiated"]) {
        "the server at this endpoint is not etcd: HTTP/2 was not negotiated"
    } else {
        return (Kind::Away, away(chain));
    };
    (Kind::Refused, refused.to_owned())
}

/// Returns the cause of a TLS alert by which a member ended the connection, with the remedy.
fn alert(chain: &str, shows: Shows) -> &'static str {
    let has = |word: &str| chain.contains(word);
    // Members that were built with an old version of Go send BadCertificate in all of these cases.
    if !shows.certificate && (has("CertificateRequired") || has("BadCertificate") || has("HandshakeFailure")) {
        "the member requires a client certificate, and this node shows none; set certFile and keyFile"
    } else if has("CertificateExpired") || shows.expired {
        "the member rejects this node's certificate, which has expired; renew certFile"
    } else if has("UnknownCA") || has("BadCertificate") || has("CertificateUnknown") || has("DecryptError") {
        "the member rejects this node's certificate; certFile must be of the authority that etcd trusts"
    } else {
        "the member ended the TLS handshake; check certFile, keyFile and caFile"
    }
}

fn away(chain: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| chain.contains(word));
    if has(&["dns error", "failed to lookup"]) {
        "the host name does not resolve".into()
    } else if has(&["Connection refused"]) {
        "connection refused".into()
    } else if has(&["Network is unreachable", "No route to host"]) {
        "there is no route to the host".into()
    } else if has(&["deadline has elapsed", "timed out", "Timeout", "KeepAliveTimedOut"]) {
        "no answer in time".into()
    } else if has(&["frame with invalid size", "invalid HTTP", "PROTOCOL_ERROR"]) {
        "the server at this endpoint is not etcd, or requires https://".into()
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

    /// A request may be repeated unchanged only if it was certainly not carried out.
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
                "member has expired",
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
