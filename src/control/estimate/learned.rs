//! What estimators have learned, as it is handed on. Each estimator takes back what it gave; numbers that make no sense are
//! left out like samples that make none.

use prost::Message;

/// Of a `LinearCost`: its line, and the mean size of samples.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedLine {
    #[prost(double, tag = "1")]
    pub(super) fixed: f64,
    #[prost(double, tag = "2")]
    pub(super) slope: f64,
    #[prost(double, tag = "3")]
    pub(super) size: f64,
}

/// Of a `Load`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedLoad {
    #[prost(double, optional, tag = "1")]
    pub(super) rate: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub(super) updates: Option<f64>,
    #[prost(double, optional, tag = "3")]
    pub(super) capacity: Option<f64>,
}

/// Of a `DirtyCurve`: logarithms of counts at powers of two, from `first` on.
#[derive(Clone, PartialEq, Message)]
pub(in crate::control) struct LearnedCurve {
    #[prost(uint32, tag = "1")]
    pub(super) first: u32,
    #[prost(double, repeated, tag = "2")]
    pub(super) logs: Vec<f64>,
}

/// Of one rate of a `FailureRate`: evidence beyond the prior, and the prior if the rate has changed since.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedFailures {
    #[prost(double, tag = "1")]
    pub(super) shape: f64,
    #[prost(double, tag = "2")]
    pub(super) time: f64,
    #[prost(double, tag = "3")]
    pub(super) failures: f64,
    #[prost(double, tag = "4")]
    pub(super) quiet: f64,
    #[prost(double, optional, tag = "5")]
    pub(super) changed_to: Option<f64>,
    /// Both sides of the test for a change: failures are far between, more than one in a process are rare.
    #[prost(message, optional, tag = "6")]
    pub(super) more: Option<LearnedPage>,
    #[prost(message, optional, tag = "7")]
    pub(super) fewer: Option<LearnedPage>,
}

/// One side of Page's test.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct LearnedPage {
    #[prost(double, tag = "1")]
    pub(super) ratio: f64,
    #[prost(double, tag = "2")]
    pub(super) failures: f64,
    #[prost(double, tag = "3")]
    pub(super) time: f64,
}

/// A recovery that happened.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedRecovery {
    #[prost(double, tag = "1")]
    pub(super) age: f64,
    #[prost(double, tag = "2")]
    pub(super) rate: f64,
    #[prost(double, optional, tag = "3")]
    pub(super) outage: Option<f64>,
    #[prost(double, tag = "4")]
    pub(super) total: f64,
}

/// Of a `RecoveryModel`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::control) struct LearnedRecoveries {
    #[prost(message, optional, tag = "1")]
    pub(super) outage: Option<LearnedLine>,
    #[prost(message, repeated, tag = "2")]
    pub(super) seen: Vec<LearnedRecovery>,
    /// Sum of squares of relative errors of predictions, and how many.
    #[prost(double, tag = "3")]
    pub(super) squares: f64,
    #[prost(double, tag = "4")]
    pub(super) checked: f64,
}
