//! Estimators of the interval's inputs: samples and time in, values out.
//!
//! Times are in seconds, rates per second, sizes in bytes. Every estimator ignores samples that are zero, missing, absurd, out
//! of order or not finite; its value stays finite and in range.

mod cost;
mod curve;
mod failures;
mod learned;
mod load;
mod recovery;
mod smoothing;

pub use cost::LinearCost;
pub use curve::DirtyCurve;
pub use failures::{FailurePrior, FailureRate, FailureScope};
pub(in crate::control) use learned::{LearnedCurve, LearnedFailures, LearnedLine, LearnedLoad, LearnedRecoveries};
pub use load::{Load, LoadSample};
pub use recovery::{Recovery, RecoveryModel};
pub use smoothing::{ClippedMean, Ewma, Tracker};

/// Returns `value` if it is finite and not negative.
fn sane(value: f64) -> Option<f64> {
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// Returns `value` if it is finite and above zero.
fn positive(value: f64) -> Option<f64> {
    (value.is_finite() && value > 0.0).then_some(value)
}

/// Samples that every estimator must survive.
#[cfg(test)]
pub(crate) const NONSENSE: [f64; 6] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, f64::MAX, f64::MIN_POSITIVE];
