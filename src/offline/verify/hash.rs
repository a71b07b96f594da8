//! Compares bytes with the hash that a manifest recorded.

use crate::error::{Error, Result};
use crate::id::Hash;

/// Refuses `bytes` of another hash than `expected`.
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
