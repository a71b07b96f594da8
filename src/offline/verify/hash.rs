//! Comparing bytes with the hash in a manifest.

use crate::error::{Error, Result};
use crate::id::Hash;

/// Checks that the hash of `bytes` is `expected`.
///
/// * `what`: names the bytes in the error.
///
/// # Errors
/// `Corrupt`, with both hashes.
pub(super) fn check_hash(what: &str, bytes: &[u8], expected: &Hash) -> Result<()> {
    let found = Hash::of(bytes);
    if found == *expected {
        return Ok(());
    }
    Err(Error::corrupt(format!("{what} has another hash")).with("expected", expected).with("found", found))
}
