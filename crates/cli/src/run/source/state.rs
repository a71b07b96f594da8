//! The source's part of a checkpoint.

use std::collections::BTreeMap;

use alluvium::{Error, Opaque, OpaqueRole, Result};
use serde::{Deserialize, Serialize};

use super::{Kind, Position};

/// The name of the opaque with the counts.
const COUNTS: &str = "input";

/// The name of the source whose positions are in the other opaque.
pub(crate) const SPLITS: &str = "splits";

/// The source's part of a checkpoint: its counts, stored as JSON, and the positions of its splits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// Records read from the start of the input, including bad and late ones.
    pub(crate) records: u64,
    /// Malformed records that were skipped.
    pub(crate) bad_records: u64,
    /// Records dropped because their windows were closed.
    pub(crate) late_records: u64,
    /// The kinds of columns that have had a non-null cell.
    pub(crate) kinds: BTreeMap<String, Kind>,
    /// The watermark, in milliseconds since the Unix epoch.
    pub(crate) watermark: Option<i64>,
    /// The maximum event time of all records, if the watermark is behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latest: Option<i64>,
    /// Start of the last window that the end of the input closed, regardless of the watermark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<i64>,
    /// The start of the next record, in checkpoints from before there were splits.
    #[serde(flatten)]
    pub(super) position: Option<Position>,
    #[serde(skip)]
    pub(super) splits: Vec<Opaque>,
}

impl SourceState {
    /// Returns the opaques for a checkpoint.
    ///
    /// # Errors
    /// `Usage` if serialization fails, which no state causes.
    pub(crate) fn to_opaques(&self) -> Result<Vec<Opaque>> {
        let mut opaques = self.splits.clone();
        opaques.push(Opaque::new(OpaqueRole::Source, COUNTS, self.to_json()?));
        Ok(opaques)
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|source| Error::usage("source state has no JSON form").with_source(source))
    }

    /// Reads the state from a checkpoint's opaques.
    ///
    /// # Errors
    /// `Corrupt` if there is none, or it does not decode, or its counts are impossible.
    pub(crate) fn from_opaques(opaques: &[Opaque]) -> Result<Self> {
        let named = |name: &'static str| {
            opaques.iter().filter(move |opaque| opaque.role == OpaqueRole::Source && opaque.name == name)
        };
        let absent = || Error::corrupt("checkpoint has no source position");
        let mut state = Self::from_json(&named(COUNTS).next().ok_or_else(absent)?.items()?.concat())?;
        state.splits = named(SPLITS).cloned().collect();
        if state.splits.is_empty() == state.position.is_none() {
            return Err(absent());
        }
        Ok(state)
    }

    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::corrupt("stored source state is damaged");
        let state: Self = serde_json::from_slice(bytes).map_err(|source| damaged().with_source(source))?;
        let skipped = state.bad_records.saturating_add(state.late_records);
        let fits = |position: &Position| position.is_possible() && state.records <= position.offset;
        if skipped > state.records || state.records > i64::MAX.unsigned_abs() || !state.position.iter().all(fits) {
            return Err(damaged());
        }
        Ok(state)
    }
}
