//! Encrypted values of SOPS: `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]`.
//!
//! Each value is encrypted with AES-256-GCM under the data key of the file, with a nonce of 32 bytes. The additional data
//! is the path of the value, so a value that was moved to another path does not decrypt.

use aes_gcm::{
    AesGcm, KeyInit as _, Nonce,
    aead::{AeadInPlace as _, consts::U32},
    aes::Aes256,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::Plaintext;

/// The length of a nonce that SOPS writes.
const NONCE: usize = 32;

/// The length of the tag.
const TAG: usize = 16;

/// The types of values.
const KINDS: [&str; 7] = ["str", "int", "float", "bool", "bytes", "time", COMMENT];

/// The type of a comment.
pub(super) const COMMENT: &str = "comment";

/// The data key of a file. It is zeroed on drop.
#[derive(Clone)]
pub(super) struct DataKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey")
    }
}

impl DataKey {
    /// Reads a decrypted data key; `None` if its length is wrong.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; 32]>::try_from(bytes).ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// Creates a data key from random bytes of the kernel.
    pub(super) fn generate() -> Result<Self, String> {
        random().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Decrypts a value. `path` is the additional data. `None` if the value is damaged, or belongs to another path.
    pub(super) fn decrypt(&self, value: &Encrypted, path: &str) -> Option<Plaintext> {
        let nonce: [u8; NONCE] = value.nonce.as_slice().try_into().ok()?;
        let tag: [u8; TAG] = value.tag.as_slice().try_into().ok()?;
        let mut plain = Zeroizing::new(value.data.clone());
        let cipher = AesGcm::<Aes256, U32>::new((&*self.0).into());
        cipher.decrypt_in_place_detached(&Nonce::from(nonce), path.as_bytes(), &mut plain, &tag.into()).ok()?;
        Some(plain.into())
    }

    /// Encrypts a value, which is of a type of SOPS. An empty value stays empty, as in SOPS.
    pub(super) fn encrypt(&self, value: &Plaintext, kind: &str, path: &str) -> Result<String, String> {
        if value.expose().is_empty() {
            return Ok(String::new());
        }
        let nonce = *random::<NONCE>()?;
        let mut data = Zeroizing::new(value.expose().to_vec());
        let cipher = AesGcm::<Aes256, U32>::new((&*self.0).into());
        let tag = cipher
            .encrypt_in_place_detached(&Nonce::from(nonce), path.as_bytes(), &mut data)
            .map_err(|_| "the value is too long".to_owned())?;
        Ok(format!(
            "ENC[AES256_GCM,data:{},iv:{},tag:{},type:{kind}]",
            STANDARD.encode(&*data),
            STANDARD.encode(nonce),
            STANDARD.encode(tag)
        ))
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, String> {
    let mut bytes = Zeroizing::new([0_u8; N]);
    let failed = || "the kernel provided too few random bytes".to_owned();
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(got) if got == N => Ok(bytes),
        _ => Err(failed()),
    }
}

/// An encrypted value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encrypted {
    data: Vec<u8>,
    nonce: Vec<u8>,
    tag: Vec<u8>,
    /// The type of the value: `str`, `int`, `float`, `bool`, `bytes`, `time` or `comment`.
    pub(super) kind: String,
}

impl Encrypted {
    /// Reads an encrypted value; `None` if the text is not one. The nonce and the tag have the lengths that SOPS writes.
    pub(super) fn read(text: &str) -> Option<Self> {
        let inner = text.strip_prefix("ENC[AES256_GCM,data:")?.strip_suffix(']')?;
        let (data, rest) = inner.split_once(",iv:")?;
        let (nonce, rest) = rest.split_once(",tag:")?;
        let (tag, kind) = rest.split_once(",type:")?;
        let decoded = |text: &str| STANDARD.decode(text).ok();
        let (nonce, tag) = (decoded(nonce)?, decoded(tag)?);
        let is_whole = nonce.len() == NONCE && tag.len() == TAG && KINDS.contains(&kind);
        is_whole.then_some(Self { data: decoded(data)?, nonce, tag, kind: kind.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_value_decrypts_only_at_its_path() {
        let (key, other) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
        let text = key.encrypt(&Plaintext::copied(b"hunter2"), "str", "db:password:").unwrap();
        let value = Encrypted::read(&text).unwrap();
        assert_eq!(value.kind, "str");
        assert_eq!(key.decrypt(&value, "db:password:").unwrap().text(), Some("hunter2"));
        assert!(key.decrypt(&value, "db:user:").is_none() && other.decrypt(&value, "db:password:").is_none());
        let mut damaged = value;
        damaged.data[0] ^= 1;
        assert!(key.decrypt(&damaged, "db:password:").is_none());
        assert_eq!(key.encrypt(&Plaintext::copied(b""), "str", "").unwrap(), "");
        assert_eq!(format!("{key:?}"), "DataKey");
    }

    #[test]
    fn text_that_is_not_encrypted_is_not_read() {
        for text in ["", "hunter2", "ENC[AES256_GCM,data:", "ENC[AES256_GCM,data:!,iv:AA==,tag:AA==,type:str]"] {
            assert_eq!(Encrypted::read(text), None, "{text}");
        }
        // SOPS writes nonces of 32 bytes and tags of 16 bytes only. Other lengths could hide plain text.
        let text = DataKey::generate().unwrap().encrypt(&Plaintext::copied(b"x"), "str", "").unwrap();
        let part = |name: &str| text.split(',').find_map(|part| part.strip_prefix(name)).unwrap();
        assert!(Encrypted::read(&text).is_some());
        for wrong in [
            text.replace(part("iv:"), "AA=="),
            text.replace(part("tag:"), ""),
            text.replace("type:str", "type:hunter2"),
        ] {
            assert_eq!(Encrypted::read(&wrong), None, "{wrong}");
        }
    }
}
