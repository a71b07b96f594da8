//! Signatures of objects. A checksum finds accidents; a keyed MAC finds intent: only who has the key can have written
//! what it verifies.
//!
//! Keyed BLAKE3 over all bytes of the object before the MAC, flags included, so that nobody can take a signature off and
//! call the rest unsigned.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

pub(super) const MAC_BYTES: usize = 32;

/// A secret that objects are signed and verified with: 32 random bytes. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct MacKey([u8; 32]);

impl MacKey {
    /// Returns the key of these bytes, which should come from a source of randomness, not from a password.
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
        // The text may be nearly a key, so no error repeats any of it.
        bytes.map(Self).map_err(|_| Error::config("a key is 64 hexadecimal digits").with("bytes", text.len()))
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey(..)")
    }
}

/// The keys of a job's manifests: what signs new ones, and what is believed. By default nothing is signed, and nothing
/// that is signed can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MacKeys {
    signing: Option<MacKey>,
    older: Vec<MacKey>,
    unsigned: bool,
}

impl MacKeys {
    /// Signs with `key`, and believes only what it signed.
    #[must_use]
    pub fn signing(key: MacKey) -> Self {
        Self { signing: Some(key), ..Self::default() }
    }

    /// Believes what `older` signed, too: a key that has been replaced.
    #[must_use]
    pub fn or_signed_by(mut self, older: MacKey) -> Self {
        self.older.push(older);
        self
    }

    /// Believes what nobody signed, too: for the start under a job's first key, and no longer.
    #[must_use]
    pub fn or_unsigned(mut self) -> Self {
        self.unsigned = true;
        self
    }

    /// Returns whether objects are signed.
    #[must_use]
    pub fn signs(&self) -> bool {
        self.signing.is_some()
    }

    /// Returns the MAC of `bytes`, if objects are signed.
    pub(super) fn sign(&self, bytes: &[u8]) -> Option<[u8; MAC_BYTES]> {
        self.signing.as_ref().map(|key| *key.mac(bytes).as_bytes())
    }

    /// Checks that `mac`, which ends an object, is that of the `bytes` before it.
    pub(super) fn verify(&self, bytes: &[u8], mac: Option<&[u8]>) -> Result<()> {
        let mut keys = self.signing.iter().chain(&self.older).peekable();
        match mac {
            None if self.unsigned || keys.peek().is_none() => Ok(()),
            None => Err(Error::corrupt("object is not signed, and a key is set")),
            Some(_) if keys.peek().is_none() => Err(Error::denied("object is signed, and no key is set")),
            // Hashes are compared in constant time.
            Some(mac) if keys.any(|key| key.mac(bytes) == *mac) => Ok(()),
            Some(_) => Err(Error::corrupt("object was not signed with a key that is set")),
        }
    }
}
