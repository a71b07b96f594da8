//! The rules of one table.

use std::fmt::Debug;
use std::sync::Arc;

use super::expiry::Ttl;
use super::merging::MergeOperator;
use crate::error::{Error, Result};
use crate::row::piece::{FIRST_VERSION, Piece};
use crate::time::Timestamp;

/// The rules of one table's rows.
#[derive(Debug, Clone)]
pub struct TableRules {
    /// Version of newly written values.
    pub version: u32,
    /// Whether the rows of a key and namespace can be visited in sub-key order.
    pub ordered: bool,
    /// Whether the rows of a key and namespace can be visited without scanning the group, as a map needs. If not, visiting
    /// or clearing them may cost a step per row of the group, in no particular order, and writing is cheaper.
    pub by_key: bool,
    /// Whether the rows are timers: the sub-key is a time as `ordered:i64`. Segments tell the earliest.
    pub timers: bool,
    /// When rows expire; `None` if the table never had a time to live.
    pub ttl: Option<Ttl>,
    /// How operands merge.
    pub merge: Option<Arc<dyn MergeOperator>>,
    /// How values of older versions are upgraded.
    pub upgrade: Option<Arc<dyn Upgrade>>,
}

impl Default for TableRules {
    fn default() -> Self {
        Self {
            version: FIRST_VERSION,
            ordered: false,
            by_key: true,
            timers: false,
            ttl: None,
            merge: None,
            upgrade: None,
        }
    }
}

impl TableRules {
    /// Returns whether an operand renews the life of the whole value: then the newest piece alone decides whether a row has
    /// expired.
    #[must_use]
    pub fn renews_whole(&self) -> bool {
        self.merge.as_deref().is_some_and(|operator| !operator.grows())
    }

    /// Returns whether a piece has expired at `now`.
    #[must_use]
    pub fn expired(&self, stamp: Option<Timestamp>, now: Timestamp) -> bool {
        self.ttl.is_some_and(|ttl| ttl.expired(stamp, now))
    }

    /// Writes a piece's bytes, upgraded to the table's version, to the empty `out`.
    ///
    /// # Errors
    /// `Version` if the table has no upgrade; the errors of the upgrade.
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

/// Upgrades values of older versions to a table's version.
pub trait Upgrade: Debug + Send + Sync {
    /// Appends the value `bytes` of version `from` to `out`, upgraded.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a value of that version; `Version` if that version cannot be read.
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()>;
}
