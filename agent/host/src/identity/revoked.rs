//! The list of revoked certificates and keys (P143).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The maximum number of public keys in the list `shown`, and the maximum number of serial numbers for one public key.
const KEYS: usize = 50_000;
const SERIALS: usize = 64;

/// The maximum number of rejected certificates and keys that the node remembers.
const PRESENTED: usize = 1_000;

/// A revoked certificate or key that its owner has presented.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevokedUse {
    /// The name of the node or the person.
    pub name: String,
    /// The serial number of the presented certificate. `None` for a bare key.
    pub serial: Option<String>,
    /// The presented key, as text.
    pub key: String,
    /// The reason of the rejection, as a text for messages.
    pub why: String,
}

/// The list of revoked serial numbers and keys. All clones share one list.
///
/// If a certificate is revoked, the key in the certificate is also revoked. After the revocation, a thief of the key
/// can use neither the bare key nor an earlier certificate of the key. A node knows the key of a revoked certificate
/// only if the certificate was presented to the node.
#[derive(Debug, Clone, Default)]
pub struct Revoked(Arc<RwLock<List>>);

#[derive(Debug, Default)]
struct List {
    entries: BTreeSet<String>,
    /// The serial numbers of all certificates that were presented to the node, by the public key in the certificate.
    /// Each public key is a text, such as `ed25519:…`.
    shown: BTreeMap<String, Vec<String>>,
    /// The public keys in `shown` for which the agent must still write a new serial number to the journal.
    dirty: BTreeSet<String>,
    /// The number of changes of the revocation list since the start of the agent.
    version: u64,
    /// The revoked certificates and keys that their owners have presented, by the owner's name and public key. The flag
    /// of an entry is true until [`Revoked::take_used`] has returned the entry.
    used: BTreeMap<(String, [u8; 32]), (RevokedUse, bool)>,
}

impl List {
    fn refuses(&self, serial: Option<&str>, key: &[u8; 32]) -> Option<String> {
        if self.entries.is_empty() {
            return None;
        }
        if let Some(serial) = serial.filter(|serial| self.entries.contains(&plain(serial))) {
            return Some(format!("the certificate {serial} is revoked (`revoked` in a Config)"));
        }
        let key = text(key);
        if self.entries.contains(&key) {
            return Some(format!("the key {key} is revoked (`revoked` in a Config)"));
        }
        let serial = self.shown.get(&key)?.iter().find(|serial| self.entries.contains(*serial))?;
        Some(format!("the certificate {serial} of the key {key} is revoked (`revoked` in a Config)"))
    }
}

impl Revoked {
    /// Replaces the list of revoked serial numbers (`3f:0a:91`) and keys (`ed25519:…`). Returns true if the new list
    /// differs from the old list.
    pub fn set(&self, entries: impl IntoIterator<Item = String>) -> bool {
        let entries: BTreeSet<String> = entries.into_iter().map(|entry| plain(&entry)).collect();
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = list.entries != entries;
        list.version += u64::from(changed);
        list.entries = entries;
        // A certificate that is revoked once more later is reported once more.
        let mut used = std::mem::take(&mut list.used);
        used.retain(|(_, key), (used, _)| list.refuses(used.serial.as_deref(), key).is_some());
        list.used = used;
        changed
    }

    /// Returns the number of changes of the revocation list since the start of the agent. After each change of the
    /// revocation list, the agent checks every connection again.
    pub fn version(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// Returns an error message if the serial number or the key is revoked; `None` if both are valid.
    pub fn refuses(&self, serial: Option<&str>, key: &[u8; 32]) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).refuses(serial, key)
    }

    /// Returns the same reason as [`Revoked::refuses`], for a certificate or a key that `name` uses now. Records the
    /// rejection. [`Revoked::take_used`] later returns the rejection.
    pub fn refuses_use(&self, name: &str, serial: Option<&str>, key: &[u8; 32]) -> Option<String> {
        let why = self.refuses(serial, key)?;
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if list.used.len() < PRESENTED {
            let used = || RevokedUse {
                name: name.to_owned(),
                serial: serial.map(str::to_owned),
                key: text(key),
                why: why.clone(),
            };
            list.used.entry((name.to_owned(), *key)).or_insert_with(|| (used(), true));
        }
        Some(why)
    }

    /// Returns each revoked certificate or key whose first use after the revocation has not been returned yet. A later
    /// call does not return the same certificate or key again.
    pub fn take_used(&self) -> Vec<RevokedUse> {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let new = list.used.values_mut().filter_map(|(used, is_new)| std::mem::take(is_new).then(|| used.clone()));
        new.collect()
    }

    /// Records the serial number and the key of a presented certificate. The caller must first check that the owner of
    /// the certificate has the secret key.
    pub fn saw(&self, serial: Option<&str>, key: &[u8; 32]) {
        let (Some(serial), key) = (serial.map(plain), text(key)) else { return };
        let known = |list: &List| list.shown.get(&key).is_some_and(|serials| serials.contains(&serial));
        if known(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let List { entries, shown, dirty, .. } = &mut *list;
        if shown.len() >= KEYS && !shown.contains_key(&key) {
            return;
        }
        let serials = shown.entry(key.clone()).or_default();
        // If the key has too many serial numbers, only a number that is not revoked is removed.
        let spare = serials.iter().position(|serial| !entries.contains(serial));
        if let Some(oldest) = spare.filter(|_| serials.len() >= SERIALS) {
            serials.remove(oldest);
        }
        if serials.len() < SERIALS {
            serials.push(serial);
            dirty.insert(key);
        }
    }

    /// After a restart of the agent, adds the presented serial numbers that the journal contains.
    pub fn resume(&self, shown: impl IntoIterator<Item = (String, Vec<String>)>) {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        list.shown.extend(shown);
    }

    /// Returns each public key that was presented with a new serial number after the previous call. The result contains
    /// all serial numbers that were presented with the public key.
    pub fn take_changed(&self) -> Vec<(String, Vec<String>)> {
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let dirty = std::mem::take(&mut list.dirty);
        dirty.into_iter().filter_map(|key| list.shown.get(&key).cloned().map(|serials| (key, serials))).collect()
    }
}

fn text(key: &[u8; 32]) -> String {
    format!("ed25519:{}", STANDARD_NO_PAD.encode(key))
}

/// Returns a serial number or a key without optional characters, such as colons, so that different spellings are equal.
fn plain(entry: &str) -> String {
    let entry = entry.trim();
    if let Some(key) = entry.strip_prefix("ed25519:") {
        return format!("ed25519:{}", key.trim_end_matches('='));
    }
    let digits: String = entry.chars().filter(|digit| *digit != ':').collect();
    digits.to_ascii_lowercase().trim_start_matches('0').to_owned()
}

/// Returns the serial number of a DER certificate, in the spelling of `towpath pki`. Returns `None` if the bytes are
/// not a certificate.
pub fn serial(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.raw_serial_as_string())
}

/// Returns the serial number of a certificate in PEM; `None` if the text is not a certificate.
pub fn serial_of_pem(pem: &[u8]) -> Option<String> {
    serial(&CertificateDer::from_pem_slice(pem).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_is_refused_in_every_spelling_and_a_key_by_its_text() {
        let revoked = Revoked::default();
        assert_eq!(revoked.refuses(Some("3f:0a:91"), &[1; 32]), None);
        for spelling in ["3f:0a:91", "3F:0A:91", "00:3f:0a:91", "3f0a91", " 3f:0a:91 "] {
            assert!(revoked.set([spelling.to_owned()]) || spelling != "3f:0a:91");
            assert!(revoked.refuses(Some("3f:0a:91"), &[1; 32]).is_some(), "{spelling}");
            assert_eq!(revoked.refuses(Some("3f:0a:92"), &[1; 32]), None);
        }
        let key = format!("ed25519:{}", STANDARD_NO_PAD.encode([1; 32]));
        revoked.set([key]);
        assert!(revoked.refuses(None, &[1; 32]).is_some() && revoked.refuses(None, &[2; 32]).is_none());
    }

    #[test]
    fn use_of_a_revoked_certificate_is_reported_once_until_it_is_revoked_again() {
        let revoked = Revoked::default();
        let used = || {
            assert_eq!(revoked.refuses_use("web", Some("11:22"), &[2; 32]), None);
            let _ = revoked.refuses_use("db", Some("3f:0a"), &[1; 32]);
            revoked.take_used().into_iter().map(|used| (used.name, used.serial)).collect::<Vec<_>>()
        };
        assert_eq!(used(), []);
        let entry = || ["3f:0a".to_owned()];
        for _ in 0..2 {
            revoked.set(entry());
            assert_eq!(used(), [("db".to_owned(), Some("3f:0a".to_owned()))]);
            revoked.set(entry());
            assert_eq!(used(), [], "the same use");
            revoked.set([]);
            assert_eq!(used(), []);
        }
    }

    #[test]
    fn revoked_serial_revokes_its_key_for_all_certificates_and_after_a_restart() {
        let revoked = Revoked::default();
        revoked.saw(Some("3f:0a:91"), &[1; 32]);
        revoked.saw(Some("11:22"), &[1; 32]);
        revoked.saw(Some("33:44"), &[2; 32]);
        revoked.set(["3f:0a:91".to_owned()]);
        let again = Revoked::default();
        again.resume(revoked.take_changed());
        assert!(revoked.take_changed().is_empty());
        again.set(["3F:0A:91".to_owned()]);
        for revoked in [&revoked, &again] {
            for shown in [None, Some("11:22"), Some("never:seen"), Some("3f:0a:91")] {
                assert!(revoked.refuses(shown, &[1; 32]).is_some(), "{shown:?}");
            }
            assert_eq!(revoked.refuses(Some("33:44"), &[2; 32]).or(revoked.refuses(None, &[2; 32])), None);
            // A revoked serial number remains in the list after many renewals.
            (0..200).for_each(|number| revoked.saw(Some(&format!("{number:x}")), &[1; 32]));
            assert!(revoked.refuses(None, &[1; 32]).is_some());
        }
    }
}
