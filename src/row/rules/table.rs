//! What the rows of one table mean.

use std::fmt::Debug;
use std::sync::Arc;

use super::expiry::Ttl;
use super::merging::MergeOperator;
use crate::error::{Error, Result};
use crate::row::piece::{FIRST_VERSION, Piece};
use crate::time::Timestamp;

/// What the rows of one table mean.
#[derive(Debug, Clone)]
pub struct TableRules {
    /// Version of the values that are written from now on.
    pub version: u32,
    /// Whether the rows of a key and namespace can be visited in the order of their sub-keys.
    pub ordered: bool,
    /// Whether the rows of a key and namespace can be visited alone, as those of a map are. If not, visiting or clearing
    /// them may cost a step per row of the group, in no particular order, and writing is cheaper.
    pub by_key: bool,
    /// When rows expire; `None` if they never did.
    pub ttl: Option<Ttl>,
    /// How operands merge.
    pub merge: Option<Arc<dyn MergeOperator>>,
    /// How values of older versions become present ones.
    pub upgrade: Option<Arc<dyn Upgrade>>,
}

impl Default for TableRules {
    fn default() -> Self {
        Self { version: FIRST_VERSION, ordered: false, by_key: true, ttl: None, merge: None, upgrade: None }
    }
}

impl TableRules {
    /// Returns whether an operand renews the life of all that it is merged with: then only the newest piece of a row decides
    /// whether the row has expired.
    #[must_use]
    pub fn renews_whole(&self) -> bool {
        self.merge.as_deref().is_some_and(|operator| !operator.grows())
    }

    /// Returns whether a piece has expired at `now`.
    #[must_use]
    pub fn expired(&self, stamp: Option<Timestamp>, now: Timestamp) -> bool {
        self.ttl.is_some_and(|ttl| ttl.expired(stamp, now))
    }

    /// Writes the present form of a piece's bytes to `out`, which is empty.
    ///
    /// # Errors
    /// `Version` if there is no way from its version; what the upgrade returns.
    pub fn present(&self, piece: &Piece<'_>, out: &mut Vec<u8>) -> Result<()> {
        if piece.version == self.version {
            out.extend_from_slice(piece.bytes);
            return Ok(());
        }
        match &self.upgrade {
            Some(upgrade) => upgrade.upgrade(piece.version, piece.bytes, out),
            None => Err(Error::version("value has another version than the table")
                .with("stored", piece.version)
                .with("declared", self.version)),
        }
    }
}

/// Makes values of a table's present version of values of an older one.
pub trait Upgrade: Debug + Send + Sync {
    /// Appends to `out` the present form of `bytes`, which have version `from`.
    ///
    /// # Errors
    /// `Corrupt` if they have not; `Version` if that version cannot be read.
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()>;
}
