//! Events about certificates. All functions are pure.

use towpath_host::{
    clock::rfc3339,
    identity::{CertificateTerm, RevokedUse},
};

use crate::events::{EventType, NewEvent};

/// Returns the alarm for a certificate with less than a third of its lifetime left. `now` is the time in seconds since
/// 1970.
pub(super) fn expiring(term: &CertificateTerm, now: i64) -> Option<NewEvent> {
    let left = term.end.saturating_sub(now);
    if left.saturating_mul(3) >= term.end.saturating_sub(term.begin) {
        return None;
    }
    let end = rfc3339(term.end.saturating_mul(1000));
    let (reason, what) = match left > 0 {
        true => ("Expiring", "expires"),
        false => ("Expired", "has expired, so other nodes reject this node; it expired"),
    };
    let message = format!(
        "the certificate {} of this node {what} at {end}; renew it with `towpath pki renew`, and replace `tls.certFile`",
        term.serial
    );
    let event = NewEvent::new(EventType::CertificateExpiring, message).because(reason);
    Some(event.with("serial", term.serial.as_str()).with("until", end))
}

/// Returns the event for a new certificate that the agent has loaded in place of the previous certificate.
pub(super) fn renewed(old: &CertificateTerm, new: &CertificateTerm) -> Option<NewEvent> {
    if old == new {
        return None;
    }
    let end = rfc3339(new.end.saturating_mul(1000));
    let message = format!("this node uses the new certificate {}, which is valid until {end}", new.serial);
    let event = NewEvent::new(EventType::CertificateRenewed, message).because("Renewed");
    Some(event.with("serial", new.serial.as_str()).with("before", old.serial.as_str()).with("until", end))
}

/// Returns the event for the use of a revoked certificate or key. `is_own` is true if this node itself uses the revoked
/// certificate or key.
pub(super) fn revoked(used: &RevokedUse, is_own: bool) -> NewEvent {
    let RevokedUse { name, serial, key, why } = used;
    let message = match is_own {
        true => format!(
            "{why}, but this node uses the revoked identity; create a new identity, or remove the entry from git"
        ),
        false => format!("rejected a connection with {name}: {why}"),
    };
    let event = NewEvent::new(EventType::CertificateRevoked, message).because("Revoked");
    let event = event.with("name", name.as_str()).with("key", key.as_str());
    serial.iter().fold(event, |event, serial| event.with("serial", serial.as_str()))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, time::Duration};

    use towpath_coordination::LocalStore;
    use towpath_host::{
        Clock as _, TestClock,
        identity::{Authority, Credentials, Identity, Request, Role, TlsFiles},
    };

    use super::*;
    use crate::{
        config,
        node::{Node, Options},
    };

    fn term(serial: &str, begin: i64, end: i64) -> CertificateTerm {
        CertificateTerm { serial: serial.into(), begin, end }
    }

    #[test]
    fn certificate_expires_soon_in_the_last_third_of_its_lifetime() {
        let term = term("3f:0a", 1_000, 4_000);
        let reason = |now: i64| expiring(&term, now).and_then(|event| event.reason);
        for (now, expected) in [
            (0, None),
            (1_000, None),
            (3_000, None),
            (3_001, Some("Expiring")),
            (3_999, Some("Expiring")),
            (4_000, Some("Expired")),
            (i64::MAX, Some("Expired")),
            (i64::MIN, None),
        ] {
            assert_eq!(reason(now).as_deref(), expected, "{now}");
        }
        let event = expiring(&term, 3_500).unwrap();
        assert!(event.message.contains("1970-01-01T01:06:40"), "{}", event.message);
        assert_eq!(event, expiring(&term, 3_600).unwrap(), "the alarm does not change with the time");
    }

    #[test]
    fn another_certificate_is_a_renewal() {
        let old = term("1", 0, 10);
        assert_eq!(renewed(&old, &old), None);
        let event = renewed(&old, &term("2", 5, 15)).unwrap();
        assert_eq!(
            (event.event_type, &event.data["serial"], &event.data["before"]),
            (EventType::CertificateRenewed, &"2".into(), &"1".into())
        );
    }

    #[test]
    fn use_of_a_revoked_certificate_names_its_owner() {
        let used = RevokedUse {
            name: "db".into(),
            serial: Some("3f".into()),
            key: "ed25519:AA".into(),
            why: "the certificate 3f is revoked (`revoked` in a Config)".into(),
        };
        let event = revoked(&used, false);
        assert_eq!(
            event.message,
            "rejected a connection with db: the certificate 3f is revoked (`revoked` in a Config)"
        );
        assert_eq!((&event.data["name"], &event.data["serial"]), (&"db".into(), &"3f".into()));
        assert!(revoked(&used, true).message.contains("this node uses the revoked identity"));
        assert!(!revoked(&RevokedUse { serial: None, ..used }, false).data.contains_key("serial"));
    }

    /// The number of milliseconds of a day.
    const DAY: i64 = 86_400_000;

    #[test]
    fn node_reports_expiry_renewal_and_revocation_of_its_certificate_once() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let clock = TestClock::at(1_900_000_000_000);
        let authority = Authority::init(&folder.join("pki"), "default", clock.wall()).unwrap();
        let key = folder.join("n1.key");
        let files = TlsFiles { ca: Authority::files(&folder.join("pki")).0, cert: folder.join("n1.crt"), key };
        let keys = Identity::open(&files.key).unwrap().keys();
        let issue = |days: u32| {
            let lifetime = Duration::from_secs(86_400) * days;
            let request = Request { name: "n1".into(), role: Role::Node, addresses: Vec::new(), keys, lifetime };
            fs::write(&files.cert, authority.issue(&request, clock.wall()).unwrap()).unwrap();
        };
        issue(90);
        let credentials = Arc::new(Credentials::read(files.clone(), Arc::new(clock.clone())).unwrap());
        let file = folder.join("agent.yaml");
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config}}
spec: {{node: n1, root: {0}/root, stateDir: {0}/state, sources: [{{name: fleet, url: {0}/none, branch: main}}]}}
",
            folder.display()
        );
        fs::write(&file, text).unwrap();
        let settings = config::load(&file, "n1").unwrap();
        let store = Arc::new(LocalStore::default());
        let credentials = Some(credentials);
        let mut node = Node::open(Options { settings, store, clock: Arc::new(clock.clone()), credentials }).unwrap();
        let mut seen = 0_usize;
        let mut new = |node: &mut Node| {
            for _ in 0..2 {
                clock.advance(2_000);
                node.refresh_and_propose();
                node.pass();
            }
            let all = node.queries().events().recorded();
            let all = all.iter().filter(|event| event.r#type.starts_with("certificate."));
            let all: Vec<String> = all
                .map(|event| format!("{} {}", event.r#type, event.state.as_deref().unwrap_or_default()))
                .skip(seen)
                .collect();
            seen += all.len();
            all
        };
        assert_eq!(new(&mut node), [""; 0]);
        clock.jump(61 * DAY);
        assert_eq!(new(&mut node), ["certificate.expiring firing"]);
        clock.jump(DAY);
        assert_eq!(new(&mut node), [""; 0]);
        issue(91);
        assert_eq!(new(&mut node), ["certificate.renewed ", "certificate.expiring resolved"]);
        let serial = node.membership.identity.term().unwrap().serial;
        node.membership.identity.signer().revoked().set([serial]);
        assert_eq!(new(&mut node), ["certificate.revoked "]);
        assert_eq!(new(&mut node), [""; 0]);
    }
}
