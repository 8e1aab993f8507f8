//! Digests with the key of a node. Other nodes cannot compute these digests.

use hmac::Mac as _;
use sha2::Sha256;

/// Returns a keyed hash of bytes. Two hashes can be compared without the bytes.
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
