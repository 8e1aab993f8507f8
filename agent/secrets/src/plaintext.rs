//! Decrypted values.

use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

/// A decrypted value. Its memory is zeroed on drop, and its debug output does not contain the value.
#[derive(Debug, Clone)]
pub struct Plaintext(SecretSlice<u8>);

impl Plaintext {
    /// Creates a plaintext from bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        if bytes.len() == bytes.capacity() {
            return Self(SecretSlice::from(bytes));
        }
        // A shorter allocation may be another one, and the old one would be freed with the value in it.
        let bytes = Zeroizing::new(bytes);
        Self::copied(&bytes)
    }

    /// Creates a plaintext from a copy of bytes.
    pub fn copied(bytes: &[u8]) -> Self {
        Self(SecretSlice::new(bytes.into()))
    }

    /// Returns the value. The caller must not copy it into memory that is not zeroed, or into output.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Returns the value as text; `None` if it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(self.expose()).ok()
    }

    /// Returns true if another plaintext has the same value.
    pub fn is(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl From<Zeroizing<Vec<u8>>> for Plaintext {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self::new(std::mem::take(&mut *bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_debug_hides_the_value() {
        let value = Plaintext::copied(b"hunter2");
        let printed = format!("{value:?} {:#?}", Some(&value));
        assert!(!printed.contains("hunter2") && !printed.contains("104"), "{printed}");
        assert_eq!(value.text(), Some("hunter2"));
        assert!(Plaintext::copied(&[0xff]).text().is_none());
        let mut longer = Vec::with_capacity(100);
        longer.extend_from_slice(b"hunter2");
        assert!(value.is(&Plaintext::new(longer)));
        assert!(value.is(&Plaintext::copied(b"hunter2")) && !value.is(&Plaintext::copied(b"hunter3")));
    }
}
