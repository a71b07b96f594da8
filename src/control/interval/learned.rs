//! What a controller has learned, for the next one: a job that is started again goes on from there.

use bytes::Bytes;
use prost::Message;

use crate::control::estimate::{LearnedCurve, LearnedFailures, LearnedLine, LearnedLoad, LearnedRecoveries};
use crate::error::{Error, Result};

/// Longest form as bytes. What a controller writes is an eighth of it at most.
const MAX_BYTES: usize = 32 << 10;

/// What a controller had learned: estimates, and whether it had been told that the job would end.
///
/// Its bytes are an aid and no record: a version that does not understand them starts afresh, and a number that makes no sense
/// counts as one that was not told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Learned(pub(super) Estimates);

impl Learned {
    /// Returns it as that of a job which ended on purpose, whether it said so or not.
    #[must_use]
    pub fn of_an_end(mut self) -> Self {
        self.0.ending = true;
        self
    }

    /// Returns it as bytes: some hundreds, four thousand at most.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.0.encode_to_vec())
    }

    /// Returns what [`Learned::to_bytes`] wrote.
    ///
    /// # Errors
    /// `Corrupt` if it cannot have been written so.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_BYTES {
            let error = Error::corrupt("what a controller had learned is too long");
            return Err(error.with("bytes", bytes.len()).with("limit", MAX_BYTES));
        }
        let estimates = Estimates::decode(bytes);
        let corrupt = |source| Error::corrupt("not what a controller had learned").with_source(source);
        estimates.map(Self).map_err(corrupt)
    }
}

/// All of it. Units as those of the estimators: seconds, records, bytes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Estimates {
    /// Checkpoints that it rests on.
    #[prost(uint32, tag = "1")]
    pub(super) checkpoints: u32,
    /// The job was to end after the next checkpoint: that it does is no failure.
    #[prost(bool, tag = "2")]
    pub(super) ending: bool,
    #[prost(double, tag = "3")]
    pub(super) state_bytes: f64,
    #[prost(double, tag = "4")]
    pub(super) state_rows: f64,
    #[prost(message, required, tag = "5")]
    pub(super) load: LearnedLoad,
    #[prost(message, required, tag = "6")]
    pub(super) curve: LearnedCurve,
    #[prost(message, required, tag = "7")]
    pub(super) costs: LearnedCosts,
    #[prost(message, required, tag = "8")]
    pub(super) recovery: LearnedRecoveries,
    #[prost(message, required, tag = "9")]
    pub(super) job: LearnedFailures,
    #[prost(message, required, tag = "10")]
    pub(super) node: LearnedFailures,
}

/// Of the costs of checkpoints.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct LearnedCosts {
    #[prost(message, optional, tag = "1")]
    pub(super) capacity: Option<LearnedLine>,
    #[prost(message, optional, tag = "2")]
    pub(super) duration: Option<LearnedLine>,
    #[prost(message, optional, tag = "3")]
    pub(super) delta_bytes: Option<LearnedLine>,
    #[prost(double, optional, tag = "4")]
    pub(super) base_bytes: Option<f64>,
    #[prost(double, optional, tag = "5")]
    pub(super) requests: Option<f64>,
}
