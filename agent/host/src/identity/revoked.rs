//! Certificates and keys that no longer count, whoever shows them (P143).

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The revoked serial numbers and keys. All clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Revoked(Arc<RwLock<List>>);

#[derive(Debug, Default)]
struct List {
    entries: BTreeSet<String>,
    /// How often the list has changed.
    version: u64,
}

impl Revoked {
    /// Replaces the list: serial numbers such as `3f:0a:91`, and keys such as `ed25519:…`. True if it has changed.
    pub fn set(&self, entries: impl IntoIterator<Item = String>) -> bool {
        let entries: BTreeSet<String> = entries.into_iter().map(|entry| plain(&entry)).collect();
        let mut list = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = list.entries != entries;
        list.version += u64::from(changed);
        list.entries = entries;
        changed
    }

    /// How often the list has changed: connections that were made before are looked at again.
    pub fn version(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// The reason to refuse a certificate with this serial number, or a signature with this key. `None` if neither is
    /// revoked.
    pub fn refuses(&self, serial: Option<&str>, key: &[u8; 32]) -> Option<String> {
        let list = &self.0.read().unwrap_or_else(PoisonError::into_inner).entries;
        if list.is_empty() {
            return None;
        }
        if let Some(serial) = serial.filter(|serial| list.contains(&plain(serial))) {
            return Some(format!("the certificate {serial} is revoked (revoked of Config)"));
        }
        let key = format!("ed25519:{}", STANDARD_NO_PAD.encode(key));
        list.contains(&plain(&key)).then(|| format!("the key {key} is revoked (revoked of Config)"))
    }
}

/// One form for all ways to write a serial number; a key as it is.
fn plain(entry: &str) -> String {
    let entry = entry.trim();
    if let Some(key) = entry.strip_prefix("ed25519:") {
        return format!("ed25519:{}", key.trim_end_matches('='));
    }
    let digits: String = entry.chars().filter(|digit| *digit != ':').collect();
    digits.to_ascii_lowercase().trim_start_matches('0').to_owned()
}

/// The serial number of a certificate, as `towpath pki` prints it. `None` if it is not a certificate.
pub fn serial(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.raw_serial_as_string())
}

/// The serial number of a certificate in PEM. `None` if it is not a certificate.
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
}
