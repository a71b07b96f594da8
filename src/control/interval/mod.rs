//! The adaptive checkpoint interval: observations in, the next interval and its reason out.
//!
//! ```text
//! observations --> estimates (control/estimate) --> bounds: cost optimum, goals, guard rails --> Decision + Reason
//! ```
//!
//! Invariants: an interval is finite and above zero; no checkpoint starts sooner after the last than the guard rail allows,
//! whatever the goals say; equal observations give equal decisions. Where goals contradict each other, guard rails win, then
//! what bounds a recovery, then what bounds the cost; the decision says so, and what would make all of them possible.

mod bounds;
mod clock;
mod controller;
mod costs;
mod goals;
mod learned;
mod lull;
mod observation;
mod reason;
mod recovering;
mod settings;
#[cfg(test)]
mod tests;

pub use bounds::Bound;
pub use controller::{Controller, Decision, Kind};
pub use goals::Goals;
pub use learned::Learned;
pub use observation::{CheckpointSample, Observation};
pub use reason::{Damping, Infeasible, Reason};
pub use settings::IntervalSettings;
