//! Computes keyed digests. Only a node that has the secret digest key can compute the keyed digest of a value.

use hmac::Mac as _;
use sha2::Sha256;

/// Returns a keyed hash of bytes. The agent stores keyed digests instead of secret values, and compares the digests.
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
