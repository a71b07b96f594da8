//! The saved state of a controller, from which the controller of a restarted job resumes.

use bytes::Bytes;
use prost::Message;

use crate::control::estimate::{LearnedCurve, LearnedFailures, LearnedLine, LearnedLoad, LearnedRecoveries};
use crate::error::{Error, Result};

/// Longest accepted encoding: eight times the longest that a controller writes.
const MAX_BYTES: usize = 32 << 10;

/// A controller's estimates, and whether the job was about to stop.
///
/// The estimates are a hint: a version that cannot decode them starts without, and an implausible number counts as missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Learned(pub(super) Estimates);

impl Learned {
    /// Marks the job as stopped on purpose, whether or not it had announced its end.
    #[must_use]
    pub fn of_an_end(mut self) -> Self {
        self.0.ending = true;
        self
    }

    /// Encodes the estimates: some hundreds of bytes, at most four thousand.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.0.encode_to_vec())
    }

    /// Decodes the output of [`Learned::to_bytes`].
    ///
    /// # Errors
    /// `Corrupt` if the bytes are too long or not such an output.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_BYTES {
            let error = Error::corrupt("saved interval estimates are too long");
            return Err(error.with("bytes", bytes.len()).with("limit", MAX_BYTES));
        }
        let estimates = Estimates::decode(bytes);
        let corrupt = |source| Error::corrupt("saved interval estimates cannot be decoded").with_source(source);
        estimates.map(Self).map_err(corrupt)
    }
}

/// The encoded form. Units as in the estimators: seconds, records, bytes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Estimates {
    /// Number of completed checkpoints.
    #[prost(uint32, tag = "1")]
    pub(super) checkpoints: u32,
    /// The job was about to stop on purpose, so its end is not a failure.
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

/// State of `Costs`.
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
