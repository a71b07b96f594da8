//! How operands merge, and what of them remains.

use std::fmt::Debug;

use super::table::TableRules;
use crate::error::{Error, Result};
use crate::row::MAX_VALUE_BYTES;
use crate::row::piece::{OwnedPiece, Piece, check_value_length};
use crate::time::Timestamp;

/// Makes one value of two. It must be associative: a backend merges operands before it has the value they belong to.
///
/// A row that has operands only has what they make of each other.
pub trait MergeOperator: Debug + Send + Sync {
    /// Returns its name, which checkpoints store.
    fn name(&self) -> &str;

    /// Appends to `out` what `newer` makes of `older`.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not values; what a function of the user's returns. Nothing is changed then.
    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Makes of `value` what `newer` makes of it. An operator that [grows](MergeOperator::grows) should do so in place:
    /// a value of many pieces is put together by one such call for each.
    ///
    /// # Errors
    /// As [`MergeOperator::merge`]; `value` is then as it was.
    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        let mut merged = Vec::new();
        self.merge(value, newer, &mut merged)?;
        *value = merged;
        Ok(())
    }

    /// Returns whether a merged value is as long as both together: a backend then keeps the pieces, each with its
    /// own life, so that adding one costs nothing of the others.
    fn grows(&self) -> bool {
        false
    }
}

/// Puts bytes behind bytes: how lists grow. Known by its name to tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Append;

impl MergeOperator for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(older);
        out.extend_from_slice(newer);
        Ok(())
    }

    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        value.extend_from_slice(newer);
        Ok(())
    }

    fn grows(&self) -> bool {
        true
    }
}

/// What lies below the oldest of some pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// Nothing: they are all that the row has.
    Nothing,
    /// Perhaps a value, elsewhere: they are all operands.
    Unknown,
}

enum Join<'a> {
    Merge(&'a dyn MergeOperator),
    Replace,
}

impl TableRules {
    /// Merges pieces, oldest first, as far as may be. What remains lives at `now`: one piece, or several whose lives or
    /// versions differ, or that together are too long for a segment, or that nothing here can merge.
    ///
    /// No piece becomes longer than [`MAX_VALUE_BYTES`] here, so that no row keeps a segment from being written.
    ///
    /// * `upgrade`: whether older versions become present ones first.
    ///
    /// # Cost
    /// Linear in the pieces' bytes for an operator that grows; for others that of as many merges as there are pieces.
    ///
    /// # Errors
    /// What merging and upgrading return.
    pub(crate) fn combine(
        &self,
        pieces: Vec<OwnedPiece>,
        below: Below,
        now: Timestamp,
        upgrade: bool,
    ) -> Result<Vec<OwnedPiece>> {
        let mut combined: Vec<OwnedPiece> = Vec::with_capacity(pieces.len().min(4));
        for mut piece in pieces {
            if upgrade && piece.version != self.version && self.upgrade.is_some() {
                let mut bytes = Vec::new();
                self.present(&piece.borrow(), &mut bytes)?;
                // A form that is too long is made anew by each reader.
                if bytes.len() <= MAX_VALUE_BYTES {
                    (piece.bytes, piece.version) = (bytes, self.version);
                }
            }
            let join = self.joins(&combined, &piece, below);
            if let (Some(join), Some(older)) = (join, combined.last_mut()) {
                match join {
                    Join::Replace => *older = piece,
                    Join::Merge(operator) if older.merge(operator, &piece.borrow())? => {}
                    Join::Merge(_) => combined.push(piece),
                }
            } else {
                combined.push(piece);
            }
        }
        if self.renews_whole() {
            // The last one renewed those before it.
            if combined.last().is_some_and(|last| self.expired(last.stamp, now)) {
                combined.clear();
            }
        } else {
            combined.retain(|piece| !self.expired(piece.stamp, now));
        }
        Ok(combined)
    }

    /// Merges `newer` into the piece before it if the table's operator grows, and their lives and versions are the same.
    /// Returns whether it did.
    ///
    /// # Errors
    /// What merging returns; `older` is then as it was.
    pub(crate) fn append(&self, older: &mut OwnedPiece, newer: &Piece<'_>) -> Result<bool> {
        let alike = (older.version, older.stamp) == (newer.version, newer.stamp);
        match self.merge.as_deref().filter(|operator| alike && operator.grows()) {
            Some(operator) => older.merge(operator, newer),
            None => Ok(false),
        }
    }

    /// Returns how `newer` becomes one with the last piece before it, if it does.
    fn joins(&self, before: &[OwnedPiece], newer: &OwnedPiece, below: Below) -> Option<Join<'_>> {
        let operator = self.merge.as_deref()?;
        let (older, before) = before.split_last()?;
        if older.version != newer.version {
            return None;
        }
        if operator.grows() {
            return (older.stamp == newer.stamp).then_some(Join::Merge(operator));
        }
        // The newer operand renewed the whole value, unless it came too late. One without a stamp was written before
        // time began, when only what was dead by then had expired.
        if self.expired(older.stamp, newer.stamp.unwrap_or(Timestamp::MIN)) {
            return Some(Join::Replace);
        }
        let at = newer.stamp.or(older.stamp).unwrap_or(Timestamp::MIN);
        // Whether a value below lived to be renewed is seen by the stamp of the operand that came first, and by each gap
        // after it: operands that bridge a gap stay apart.
        let bridged = before.last().is_some_and(|before| !self.expired(before.stamp, at));
        let joins = below == Below::Nothing || self.ttl.is_none() || older.stamp == newer.stamp || bridged;
        joins.then_some(Join::Merge(operator))
    }

    /// Writes what a reader of these pieces, oldest first, sees at `now` to `out`, which is empty; false if there is no
    /// value.
    ///
    /// # Cost
    /// As [`TableRules::combine`].
    ///
    /// # Errors
    /// What merging and upgrading return; `Usage` if there are operands and nothing to merge them by.
    pub(crate) fn resolve<'a>(
        &self,
        pieces: impl IntoIterator<Item = Piece<'a>>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let pieces = pieces.into_iter();
        if self.merge.as_deref().is_some_and(MergeOperator::grows) {
            let living = pieces.filter(|piece| !self.expired(piece.stamp, now));
            return self.put_together(living, out);
        }
        let living = self.combine(pieces.map(|piece| OwnedPiece::of(&piece)).collect(), Below::Nothing, now, true)?;
        self.put_together(living.iter().map(OwnedPiece::borrow), out)
    }

    /// Writes what living pieces make to `out`, which is empty; false if there are none.
    fn put_together<'a>(&self, living: impl Iterator<Item = Piece<'a>>, out: &mut Vec<u8>) -> Result<bool> {
        let (mut any, mut newer) = (false, Vec::new());
        for piece in living {
            if !std::mem::replace(&mut any, true) {
                self.present(&piece, out)?;
                continue;
            }
            let Some(operator) = self.merge.as_deref() else {
                return Err(Error::usage("table has operands, and no merge operator was declared"));
            };
            if piece.version == self.version {
                operator.merge_into(out, piece.bytes)?;
            } else {
                newer.clear();
                self.present(&piece, &mut newer)?;
                operator.merge_into(out, &newer)?;
            }
        }
        Ok(any)
    }

    /// Refuses pieces, oldest first, whose value at `now` is longer than values may be.
    ///
    /// # Cost
    /// A step per piece for an operator that grows; for others that of reading them.
    ///
    /// # Errors
    /// `Limit`; what merging and upgrading return.
    pub(crate) fn check_length<'a>(&self, pieces: impl IntoIterator<Item = Piece<'a>>, now: Timestamp) -> Result<()> {
        if self.merge.as_deref().is_some_and(MergeOperator::grows) {
            let living = pieces.into_iter().filter(|piece| !self.expired(piece.stamp, now));
            return check_value_length(living.map(|piece| piece.bytes.len()).sum());
        }
        let mut value = Vec::new();
        self.resolve(pieces, now, &mut value)?;
        check_value_length(value.len())
    }
}

impl OwnedPiece {
    /// Merges a newer piece into this one, unless that becomes too long for a segment. Returns whether it did.
    fn merge(&mut self, operator: &dyn MergeOperator, newer: &Piece<'_>) -> Result<bool> {
        if operator.grows() {
            if self.bytes.len() + newer.bytes.len() > MAX_VALUE_BYTES {
                return Ok(false);
            }
            operator.merge_into(&mut self.bytes, newer.bytes)?;
        } else {
            let mut merged = Vec::new();
            operator.merge(&self.bytes, newer.bytes, &mut merged)?;
            if merged.len() > MAX_VALUE_BYTES {
                return Ok(false);
            }
            self.bytes = merged;
        }
        self.stamp = newer.stamp;
        Ok(true)
    }
}
