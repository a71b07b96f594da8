//! Signatures of objects. A checksum detects accidents; a keyed MAC detects tampering: only a holder of the key can write an
//! object that verifies.
//!
//! The MAC is keyed BLAKE3 over all bytes before it. These include the flags, so removing a signature also invalidates the
//! object.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

pub(super) const MAC_BYTES: usize = 32;

/// A secret key for signing and verifying objects: 32 random bytes. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// Returns the key of these bytes. They should be random, not a password.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn mac(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, bytes)
    }
}

impl FromStr for MacKey {
    type Err = Error;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let bytes = blake3::Hash::from_hex(text).map(|hash| *hash.as_bytes());
        // The text may be most of a key, so the error repeats none of it.
        bytes.map(Self).map_err(|_| Error::config("a key is 64 hexadecimal digits").with("bytes", text.len()))
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// The keys of a job's manifests: the key that signs new ones, and all keys accepted. By default no manifest is signed, and
/// signed ones cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MacKeys {
    signing: Option<MacKey>,
    older: Vec<MacKey>,
    unsigned: bool,
}

impl MacKeys {
    /// Returns keys that sign with `key` and accept only its signatures.
    #[must_use]
    pub fn signing(key: MacKey) -> Self {
        Self { signing: Some(key), ..Self::default() }
    }

    /// Also accepts signatures of `older`, a key that has been replaced.
    #[must_use]
    pub fn or_signed_by(mut self, older: MacKey) -> Self {
        self.older.push(older);
        self
    }

    /// Also accepts unsigned objects. Use only for the start under a job's first key.
    #[must_use]
    pub fn or_unsigned(mut self) -> Self {
        self.unsigned = true;
        self
    }

    /// Returns whether there is a signing key.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.signing.is_some()
    }

    /// Returns the MAC of `bytes`, if there is a signing key.
    pub(super) fn sign(&self, bytes: &[u8]) -> Option<[u8; MAC_BYTES]> {
        self.signing.as_ref().map(|key| *key.mac(bytes).as_bytes())
    }

    /// Verifies `mac`, the end of an object, over the `bytes` before it.
    pub(super) fn verify(&self, bytes: &[u8], mac: Option<&[u8]>) -> Result<()> {
        let mut keys = self.signing.iter().chain(&self.older).peekable();
        match mac {
            None if self.unsigned || keys.peek().is_none() => Ok(()),
            None => Err(Error::corrupt("object is not signed, and a key is set")),
            Some(_) if keys.peek().is_none() => Err(Error::denied("object is signed, and no key is set")),
            // This comparison of hashes takes constant time.
            Some(mac) if keys.any(|key| key.mac(bytes) == *mac) => Ok(()),
            Some(_) => Err(Error::corrupt("object was not signed with a key that is set")),
        }
    }
}
