//! The adaptive checkpoint interval: observations in, the next interval and its reason out.
//!
//! ```text
//! observations --> model (control/estimate) --> situation: cost optimum, goals, guard rails --> Decision + Reason
//! ```
//!
//! Invariants: an interval is finite and above zero; no checkpoint starts sooner after the last than the guard rails allow,
//! whatever the goals; equal observations give equal decisions. Where goals conflict, guard rails win, then bounds on a
//! recovery, then bounds on the cost; the decision reports the conflict and the values that would resolve it.

mod bound;
mod clock;
mod controller;
mod costs;
mod decision;
mod goals;
mod infeasible;
mod learned;
mod lull;
mod model;
mod observation;
mod reason;
mod recovery;
mod settings;
mod situation;
#[cfg(test)]
mod tests;
mod units;

pub use bound::Bound;
pub use controller::Controller;
pub use decision::{CheckpointKind, Decision};
pub use goals::Goals;
pub use infeasible::Infeasible;
pub use learned::Learned;
pub use observation::{CheckpointSample, Observation};
pub use reason::{Damping, Reason};
pub use settings::IntervalSettings;
