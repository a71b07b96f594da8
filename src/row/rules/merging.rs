//! Merge operators, and the merging of a row's pieces under expiry and versions.

use std::fmt::Debug;

use super::table::TableRules;
use crate::error::{Error, Result};
use crate::row::MAX_VALUE_BYTES;
use crate::row::piece::{OwnedPiece, Piece, check_value_length};
use crate::time::Timestamp;

/// Merges two values into one. Must be associative: a backend merges operands before it has the value below.
///
/// The value of a row with operands only is those operands merged.
pub trait MergeOperator: Debug + Send + Sync {
    /// Returns the operator's name, stored in checkpoints.
    fn name(&self) -> &str;

    /// Appends `older` merged with `newer` to `out`.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not values; the errors of a user's function. Nothing is changed then.
    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()>;

    /// Merges `newer` into `value`. An operator that [grows](MergeOperator::grows) should merge in place: a value of many
    /// pieces takes one call per piece.
    ///
    /// # Errors
    /// As [`MergeOperator::merge`]; `value` is then unchanged.
    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        let mut merged = Vec::new();
        self.merge(value, newer, &mut merged)?;
        *value = merged;
        Ok(())
    }

    /// Returns whether a merged value is as long as both inputs together. A backend then keeps the pieces apart, each with
    /// its own life, and adding a piece does not copy the others.
    fn grows(&self) -> bool {
        false
    }
}

/// Concatenates bytes: the operator of lists. Tools recognize its name.
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

/// The rows below the oldest of some pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// None: the row has no other pieces.
    Nothing,
    /// Possibly a value, elsewhere: all pieces are operands.
    Unknown,
}

enum Join<'a> {
    Merge(&'a dyn MergeOperator),
    Replace,
}

impl TableRules {
    /// Merges pieces, oldest first, as far as possible, and drops pieces expired at `now`. Several pieces remain if their
    /// lives or versions differ, if they are too long for a segment together, or if the table has no merge operator.
    ///
    /// No merged piece is longer than [`MAX_VALUE_BYTES`]: a longer one would make its segment unwritable.
    ///
    /// * `upgrade`: whether to upgrade older versions first.
    ///
    /// # Cost
    /// Linear in the pieces' bytes for an operator that grows; otherwise one merge per piece.
    ///
    /// # Errors
    /// The errors of merging and upgrading.
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
                // Each reader upgrades a value whose upgraded form is too long to store.
                if bytes.len() <= MAX_VALUE_BYTES {
                    (piece.bytes, piece.version) = (bytes, self.version);
                }
            }
            let join = self.join(&combined, &piece, below);
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
            // The last piece renewed all earlier ones.
            if combined.last().is_some_and(|last| self.expired(last.stamp, now)) {
                combined.clear();
            }
        } else {
            combined.retain(|piece| !self.expired(piece.stamp, now));
        }
        Ok(combined)
    }

    /// Merges `newer` into `older` if the table's operator grows and both have the same stamp and version. Returns whether
    /// the pieces were merged.
    ///
    /// # Errors
    /// The errors of merging; `older` is then unchanged.
    pub(crate) fn append(&self, older: &mut OwnedPiece, newer: &Piece<'_>) -> Result<bool> {
        let alike = (older.version, older.stamp) == (newer.version, newer.stamp);
        match self.merge.as_deref().filter(|operator| alike && operator.grows()) {
            Some(operator) => older.merge(operator, newer),
            None => Ok(false),
        }
    }

    /// Returns how `newer` joins the last piece before it; `None` if the pieces stay apart.
    fn join(&self, before: &[OwnedPiece], newer: &OwnedPiece, below: Below) -> Option<Join<'_>> {
        let operator = self.merge.as_deref()?;
        let (older, before) = before.split_last()?;
        if older.version != newer.version {
            return None;
        }
        if operator.grows() {
            return (older.stamp == newer.stamp).then_some(Join::Merge(operator));
        }
        // The newer operand renewed the whole value, unless the value had expired by then. An operand without a stamp was
        // written before time began, when only rows under `dead_until` had expired.
        if self.expired(older.stamp, newer.stamp.unwrap_or(Timestamp::MIN)) {
            return Some(Join::Replace);
        }
        let at = newer.stamp.or(older.stamp).unwrap_or(Timestamp::MIN);
        // The stamp of the first operand, and each gap after it, decide whether a value below was still alive to be
        // renewed. Merging across a gap would hide the gap, so such operands stay apart.
        let bridged = before.last().is_some_and(|before| !self.expired(before.stamp, at));
        let joins = below == Below::Nothing || self.ttl.is_none() || older.stamp == newer.stamp || bridged;
        joins.then_some(Join::Merge(operator))
    }

    /// Writes the value of these pieces, oldest first, at `now` to the empty `out`. Returns false if there is no value.
    ///
    /// # Cost
    /// As [`TableRules::combine`].
    ///
    /// # Errors
    /// The errors of merging and upgrading; `Usage` if there are operands and no merge operator.
    pub(crate) fn resolve<'a>(
        &self,
        pieces: impl IntoIterator<Item = Piece<'a>>,
        now: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let pieces = pieces.into_iter();
        if self.merge.as_deref().is_some_and(MergeOperator::grows) {
            let living = pieces.filter(|piece| !self.expired(piece.stamp, now));
            return self.assemble(living, out);
        }
        let living = self.combine(pieces.map(|piece| OwnedPiece::of(&piece)).collect(), Below::Nothing, now, true)?;
        self.assemble(living.iter().map(OwnedPiece::borrow), out)
    }

    /// Writes the value of living pieces to the empty `out`. Returns false if there are none.
    fn assemble<'a>(&self, living: impl Iterator<Item = Piece<'a>>, out: &mut Vec<u8>) -> Result<bool> {
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

    /// Refuses pieces, oldest first, whose value at `now` is longer than [`MAX_VALUE_BYTES`].
    ///
    /// # Cost
    /// A step per piece for an operator that grows; otherwise that of [`TableRules::resolve`].
    ///
    /// # Errors
    /// `Limit`; the errors of merging and upgrading.
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
    /// Merges a newer piece into this one, unless the result is too long for a segment. Returns whether the pieces were
    /// merged.
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
