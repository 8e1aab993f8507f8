//! Decrypted values.

use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

/// A decrypted value. Its memory is zeroed on drop, and its debug output does not contain the value.
#[derive(Debug, Clone)]
pub struct Plaintext(SecretSlice<u8>);

impl Plaintext {
    /// Creates a plaintext from bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// Creates a plaintext from a copy of bytes.
    pub fn copied(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
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
        assert!(value.is(&Plaintext::copied(b"hunter2")) && !value.is(&Plaintext::copied(b"hunter3")));
    }
}
