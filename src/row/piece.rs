//! Pieces: stored values and operands. A row's value is its pieces merged, oldest first.

use super::MAX_VALUE_BYTES;
use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Version of values stored without one.
pub const FIRST_VERSION: u32 = 1;

/// A stored value or operand. A row's value is its pieces merged, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Version of their encoding.
    pub version: u32,
    /// Time of the last write, or of the last read if reads renew, in the time domain of the table's expiry.
    pub stamp: Option<Timestamp>,
}

/// A piece that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedPiece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) stamp: Option<Timestamp>,
}

impl OwnedPiece {
    pub(crate) fn of(piece: &Piece<'_>) -> Self {
        Self { bytes: piece.bytes.to_vec(), version: piece.version, stamp: piece.stamp }
    }

    pub(crate) fn borrow(&self) -> Piece<'_> {
        Piece { bytes: &self.bytes, version: self.version, stamp: self.stamp }
    }
}

/// Refuses a value longer than [`MAX_VALUE_BYTES`].
///
/// # Errors
/// `Limit`.
pub(crate) fn check_value_length(bytes: usize) -> Result<()> {
    if bytes <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Error::limit("value is too long for a segment").with("bytes", bytes).with("limit", MAX_VALUE_BYTES))
}
