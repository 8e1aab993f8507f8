//! Keyed digests, which only the node with the key can compute.

use hmac::Mac as _;
use sha2::Sha256;

/// Returns a keyed hash of bytes. Equal bytes have equal hashes, so the agent compares values without storing the
/// values.
pub fn keyed_digest(key: &[u8; 32], bytes: &[u8]) -> String {
    match hmac::Hmac::<Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(bytes);
            hex::encode(mac.finalize().into_bytes())
        }
        // HMAC accepts keys of any length, so this error never happens.
        Err(_) => String::new(),
    }
}
