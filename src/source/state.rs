//! The positions of a subtask's splits, as they lie in a checkpoint.
//!
//! ```text
//! version 2 (u8) | watermark (i64) | postcard list of splits: name, number, position, records, latest and first event time
//!                | postcard list of the sums of the splits' hashes, each optional; absent in version 1
//! ```
//! Each restored subtask gets those of all subtasks, and keeps the splits that it owns.

use serde::{Deserialize, Serialize};

use super::split::{Position, SplitId};
use super::watermark::SplitClock;
use crate::error::{Error, Result};
use crate::manifest::{Opaque, OpaqueRole, Redistribution};
use crate::time::Timestamp;

const VERSION: u8 = 2;
const WITHOUT_HASHES: u8 = 1;

/// A split at a barrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SplitState {
    pub(super) id: SplitId,
    pub(super) position: Position,
    /// Records read since its start.
    pub(super) records: u64,
    /// The sum of their hashes, if each has one.
    pub(super) hash: Option<u128>,
    pub(super) clock: SplitClock,
}

/// What a subtask has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubtaskState {
    pub(super) watermark: Timestamp,
    pub(super) splits: Vec<SplitState>,
}

/// A split as a checkpoint has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredSplit {
    /// The split.
    pub id: SplitId,
    /// Where the next record begins.
    pub position: Position,
    /// Records read, from where the job started.
    pub records: u64,
    /// The sum of their hashes, modulo 2^128, if each [has one](super::SplitReader::hash).
    pub hash: Option<u128>,
}

/// Returns the splits of the source `name`, as the opaques of any number of subtasks have them.
///
/// # Errors
/// `Corrupt`; `Version` if a later version wrote them.
pub(crate) fn stored_splits(name: &str, opaques: &[Opaque]) -> Result<Vec<StoredSplit>> {
    let splits = SubtaskState::of(name, opaques)?.into_iter().flat_map(|state| state.splits);
    let stored = |SplitState { id, position, records, hash, .. }| StoredSplit { id, position, records, hash };
    Ok(splits.map(stored).collect())
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    name: &'a str,
    number: u32,
    position: &'a [u8],
    records: u64,
    latest: Option<i64>,
    first: Option<i64>,
}

impl SubtaskState {
    /// Returns the opaque of the source `name` for a checkpoint.
    ///
    /// # Errors
    /// `Usage` if the encoding fails, which no state causes.
    pub(super) fn to_opaque(&self, name: &str) -> Result<Opaque> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.watermark.as_millis().to_le_bytes());
        let splits: Vec<_> = self.splits.iter().map(stored).collect();
        let hashes: Vec<_> = self.splits.iter().map(|split| split.hash).collect();
        let bytes = postcard::to_extend(&splits, bytes).and_then(|bytes| postcard::to_extend(&hashes, bytes));
        let bytes = bytes.map_err(|source| Error::usage("positions have no encoding").with_source(source))?;
        let mut opaque = Opaque::new(OpaqueRole::Source, name, bytes);
        opaque.redistribution = Redistribution::Union;
        Ok(opaque)
    }

    /// Returns what the opaques of the source `name` hold, one element for each stored subtask.
    ///
    /// # Errors
    /// `Corrupt`; `Version` if a later version wrote them.
    pub(super) fn of(name: &str, opaques: &[Opaque]) -> Result<Vec<Self>> {
        let mut states = Vec::new();
        for opaque in opaques.iter().filter(|opaque| opaque.role == OpaqueRole::Source && opaque.name == name) {
            for item in opaque.items()? {
                states.push(Self::parse(&item).map_err(|error| error.with("source", name))?);
            }
        }
        Ok(states)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::corrupt("stored positions of splits are damaged");
        let (version, rest) = bytes.split_first().ok_or_else(damaged)?;
        if !matches!(*version, VERSION | WITHOUT_HASHES) {
            return Err(Error::version("positions of splits have an unknown version").with("version", version));
        }
        let (watermark, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (stored, rest): (Vec<Stored<'_>>, _) =
            postcard::take_from_bytes(rest).map_err(|source| damaged().with_source(source))?;
        let (hashes, rest) = match *version {
            WITHOUT_HASHES => (vec![None; stored.len()], rest),
            _ => postcard::take_from_bytes(rest).map_err(|source| damaged().with_source(source))?,
        };
        if !rest.is_empty() || hashes.len() != stored.len() {
            return Err(damaged());
        }
        let splits = stored.into_iter().zip(hashes).map(parsed).collect::<Result<_>>();
        let splits = splits.map_err(|source| damaged().with_source(source))?;
        Ok(Self { watermark: Timestamp::from_millis(i64::from_le_bytes(*watermark)), splits })
    }
}

fn stored(split: &SplitState) -> Stored<'_> {
    Stored {
        name: split.id.name(),
        number: split.id.number(),
        position: split.position.bytes(),
        records: split.records,
        latest: split.clock.latest,
        first: split.clock.first,
    }
}

fn parsed((stored, hash): (Stored<'_>, Option<u128>)) -> Result<SplitState> {
    if stored.records > i64::MAX.unsigned_abs() {
        // The count grows from here, and must not overflow.
        return Err(Error::corrupt("split has an impossible number of records").with("records", stored.records));
    }
    Ok(SplitState {
        id: SplitId::new(stored.name, stored.number)?,
        position: Position::new(stored.position.to_vec())?,
        records: stored.records,
        hash,
        clock: SplitClock { latest: stored.latest, first: stored.first },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::manifest::OpaqueContent;

    fn state() -> SubtaskState {
        let split = |number, latest: Option<i64>, first| SplitState {
            id: SplitId::new("topic", number).unwrap(),
            position: Position::new(vec![1, 2, 3]).unwrap(),
            records: 1 << 40,
            hash: latest.map(|_| u128::MAX - 7),
            clock: SplitClock { latest, first },
        };
        let splits = vec![split(0, Some(-5), None), split(7, None, Some(i64::MAX))];
        SubtaskState { watermark: Timestamp::from_millis(-9), splits }
    }

    #[test]
    fn positions_come_back() {
        let other = Opaque::new(OpaqueRole::Source, "other", vec![9]);
        let opaques = [state().to_opaque("clicks").unwrap(), other];
        assert_eq!(SubtaskState::of("clicks", &opaques).unwrap(), [state()]);
    }

    #[test]
    fn positions_without_hashes_come_back() {
        let mut expected = state();
        expected.splits.iter_mut().for_each(|split| split.hash = None);
        let opaque = expected.to_opaque("clicks").unwrap();
        let OpaqueContent::Inline(bytes) = &opaque.content else { panic!("inline") };
        // The list of hashes: its length, and two that are absent.
        let (before, hashes) = bytes.split_at(bytes.len() - 3);
        assert_eq!(hashes, [2, 0, 0]);
        let older = [&[WITHOUT_HASHES], &before[1..]].concat();
        assert_eq!(SubtaskState::parse(&older).unwrap(), expected);
    }

    #[test]
    fn damaged_positions_are_refused() {
        let opaque = state().to_opaque("clicks").unwrap();
        let OpaqueContent::Inline(bytes) = &opaque.content else { panic!("inline") };
        for cut in 0..bytes.len() {
            assert_eq!(SubtaskState::parse(&bytes[..cut]).unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
        }
        let longer = [bytes, &b"x"[..]].concat();
        assert_eq!(SubtaskState::parse(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut endless = state();
        endless.splits[0].records = u64::MAX;
        let endless = endless.to_opaque("clicks").unwrap();
        assert_eq!(SubtaskState::of("clicks", &[endless]).unwrap_err().kind(), ErrorKind::Corrupt);
        let later = [&[3], &bytes[1..]].concat();
        assert_eq!(SubtaskState::parse(&later).unwrap_err().kind(), ErrorKind::Version);
    }
}
