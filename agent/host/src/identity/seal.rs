//! Encrypts values for named readers. Only a named reader can decrypt a value.
//!
//! A value is encrypted once with a random key, by ChaCha20-Poly1305 (RFC 8439). For each reader, the random key is
//! encrypted (wrapped) by an X25519 exchange with an ephemeral key (RFC 7748). HKDF-SHA256 (RFC 5869) derives the
//! wrapping key, with both public keys as input. The encryption also authenticates the purpose: a value that was
//! encrypted for one purpose cannot be decrypted for another purpose.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::Identity;

/// The key of one sealed value.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

fn random<const N: usize>() -> std::io::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0_u8; N]);
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    if got == N { Ok(bytes) } else { Err(std::io::Error::other("the kernel provided too few random bytes")) }
}

fn cipher(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn encrypt(key: &[u8; 32], nonce: [u8; NONCE_LEN], context: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let failed = || std::io::Error::other("cannot encrypt the value");
    let mut sealed = bytes.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let cipher = cipher(key).ok_or_else(failed)?;
    cipher.seal_in_place_append_tag(nonce, Aad::from(context), &mut sealed).map_err(|_| failed())?;
    Ok(sealed)
}

fn decrypt(key: &[u8; 32], nonce: [u8; NONCE_LEN], context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = cipher(key)?.open_in_place(nonce, Aad::from(context), &mut bytes).ok()?.len();
    bytes.truncate(opened);
    Some(bytes)
}

/// Encrypts a value for one purpose with a new random key.
///
/// # Errors
/// Returns an error if the kernel does not provide random bytes.
pub fn seal(bytes: &[u8], purpose: &str) -> std::io::Result<(String, SealKey)> {
    let (key, nonce) = (random::<32>()?, random::<NONCE_LEN>()?);
    let sealed = encrypt(&key, *nonce, purpose, bytes)?;
    Ok((STANDARD_NO_PAD.encode([&nonce[..], &sealed].concat()), SealKey(key)))
}

impl SealKey {
    /// Decrypts a value that was encrypted with the same random key for one purpose. Returns `None` if the value was
    /// encrypted with another key or for another purpose, or if the bytes were changed.
    pub fn open(&self, sealed: &str, purpose: &str) -> Option<Vec<u8>> {
        let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        decrypt(&self.0, nonce.try_into().ok()?, purpose, sealed)
    }

    /// Encrypts the random key of a value, so that only one reader can decrypt the random key for one purpose.
    ///
    /// # Errors
    /// Returns an error if the kernel does not provide random bytes, or the reader's key is not valid.
    pub fn wrap(&self, reader: &[u8; 32], purpose: &str) -> std::io::Result<String> {
        let own = StaticSecret::from(*random::<32>()?);
        let shown = PublicKey::from(&own).to_bytes();
        let shared = own.diffie_hellman(&PublicKey::from(*reader));
        if !shared.was_contributory() {
            return Err(std::io::Error::other("the reader's key is not a valid key"));
        }
        let key = wrapping(shared.as_bytes(), &shown, reader);
        // Each wrapping key is used only once, so the nonce can be zero.
        let wrapped = encrypt(&key, [0; NONCE_LEN], purpose, &self.0[..])?;
        Ok(STANDARD_NO_PAD.encode([&shown[..], &wrapped].concat()))
    }
}

impl Identity {
    /// Decrypts a random key that was encrypted for this identity and for one purpose. Returns `None` if the key was
    /// encrypted for another identity or purpose.
    pub fn unwrap_key(&self, wrapped: &str, purpose: &str) -> Option<SealKey> {
        let bytes = STANDARD_NO_PAD.decode(wrapped).ok()?;
        let (shown, wrapped) = bytes.split_at_checked(32)?;
        let shown: [u8; 32] = shown.try_into().ok()?;
        let shared = self.reading.diffie_hellman(&PublicKey::from(shown));
        if !shared.was_contributory() {
            return None;
        }
        let key = wrapping(shared.as_bytes(), &shown, &self.keys().read);
        let opened = Zeroizing::new(decrypt(&key, [0; NONCE_LEN], purpose, wrapped)?);
        Some(SealKey(Zeroizing::new(opened.as_slice().try_into().ok()?)))
    }
}

fn wrapping(shared: &[u8; 32], shown: &[u8; 32], reader: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0_u8; 32]);
    let salt = [&shown[..], &reader[..]].concat();
    let derived = hkdf::Hkdf::<sha2::Sha256>::new(Some(&salt), shared).expand(b"towpath wrap", &mut key[..]);
    // HKDF fails only for outputs that are much longer than 32 bytes.
    debug_assert!(derived.is_ok());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_value_opens_only_for_its_reader_and_its_name() {
        let (reader, other) = (Identity::make().unwrap(), Identity::make().unwrap());
        let (sealed, key) = seal(b"the result", "a").unwrap();
        assert!(!sealed.contains("result"));
        let wrapped = key.wrap(&reader.keys().read, "a").unwrap();
        let opened = reader.unwrap_key(&wrapped, "a").unwrap().open(&sealed, "a");
        assert_eq!(opened.as_deref(), Some(b"the result".as_slice()));
        assert!(other.unwrap_key(&wrapped, "a").is_none());
        assert!(reader.unwrap_key(&wrapped, "b").is_none());
        assert!(key.open(&sealed, "b").is_none());
        let mut torn = STANDARD_NO_PAD.decode(&sealed).unwrap();
        torn[20] ^= 1;
        assert!(key.open(&STANDARD_NO_PAD.encode(torn), "a").is_none());
        for nonsense in ["", "AAAA", "!"] {
            assert!(reader.unwrap_key(nonsense, "a").is_none() && key.open(nonsense, "a").is_none());
        }
        assert!(key.wrap(&[0; 32], "a").is_err(), "a key that takes no part in the exchange");
        assert_eq!(format!("{key:?}"), "SealKey");
    }
}
