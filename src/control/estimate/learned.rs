//! Saved estimator state. Each estimator restores its own state and ignores implausible numbers as it ignores such samples.

use prost::Message;

/// State of a `LinearCost`: its line, and the mean sample size.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedLine {
    #[prost(double, tag = "1")]
    pub(super) fixed: f64,
    #[prost(double, tag = "2")]
    pub(super) slope: f64,
    #[prost(double, tag = "3")]
    pub(super) size: f64,
}

/// State of a `Load`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(in crate::control) struct LearnedLoad {
    #[prost(double, optional, tag = "1")]
    pub(super) rate: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub(super) updates: Option<f64>,
    #[prost(double, optional, tag = "3")]
    pub(super) capacity: Option<f64>,
}

/// State of a `DirtyCurve`: logarithms of counts at powers of two, from `2^first` on.
#[derive(Clone, PartialEq, Message)]
pub(in crate::control) struct LearnedCurve {
    #[prost(uint32, tag = "1")]
    pub(super) first: u32,
    #[prost(double, repeated, tag = "2")]
    pub(super) logs: Vec<f64>,
}

/// State of one rate of a `FailureRate`: the evidence beyond the prior, and the new prior if the rate has changed.
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
    /// Both sides of the change test. Saved because failures are rare: one process seldom sees two.
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

/// A measured recovery.
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

/// State of a `RecoveryModel`.
#[derive(Clone, PartialEq, Message)]
pub(in crate::control) struct LearnedRecoveries {
    #[prost(message, optional, tag = "1")]
    pub(super) outage: Option<LearnedLine>,
    #[prost(message, repeated, tag = "2")]
    pub(super) seen: Vec<LearnedRecovery>,
    /// Sum of squared relative prediction errors; `checked` is their number.
    #[prost(double, tag = "3")]
    pub(super) squares: f64,
    #[prost(double, tag = "4")]
    pub(super) checked: f64,
}
