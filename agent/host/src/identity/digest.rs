//! Digests with the key of the node, which no other node can compute.

use hmac::Mac as _;
use sha2::Sha256;

/// Returns a keyed hash of bytes, which can be compared without exposing them.
pub fn keyed_digest(key: &[u8; 32], bytes: &[u8]) -> String {
    match hmac::Hmac::<Sha256>::new_from_slice(key) {
        Ok(mut mac) => {
            mac.update(bytes);
            hex::encode(mac.finalize().into_bytes())
        }
        // HMAC accepts keys of any length, so this never happens.
        Err(_) => String::new(),
    }
}
