//! The theory of checkpoint intervals as plain functions of numbers.
//!
//! Times are in seconds, rates per second, sizes in bytes. A function returns NaN for arguments outside the range that
//! it states, and for NaN itself; none panics. `docs/formulas.md` lists symbols, units, sources and check values.
//!
//! Three costs of a checkpoint are kept apart, for they differ by factors: its *capacity cost* (processing time that
//! the job loses), its *duration* (trigger to durable), and the *pause* that records see.

mod chain;
mod dirty;
mod latency;
mod levels;
mod optimum;
mod recovery;
mod smoothing;
mod tail;
mod utilisation;

pub use chain::chain_length;
pub use dirty::{Cost, block_amplification, dirty_aware_optimum, distinct_keys, distinct_keys_uniform, elasticity};
pub use latency::{delay_of_failure, latency_optimum};
pub use levels::{Level, levels_overhead};
pub use optimum::{ReplayWeight, daly, daly_first_order, exact, overhead, overlapped, weighted, young};
pub use recovery::{catch_up, catch_up_varying, longest_interval, outage, recovery};
pub use smoothing::{average_run_length, band, rate_penalty};
pub use tail::quantile_per_write;
pub use utilisation::utilisation;

/// Returns whether all of `values` are finite and not negative.
fn sane(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value >= 0.0)
}

/// Checks that `got` prints as `want` does, to the digits that `want` has.
#[cfg(test)]
#[track_caller]
pub(crate) fn prints(got: f64, want: &str) {
    let decimals = want.split(['e', 'E']).next().unwrap().split_once('.').map_or(0, |(_, d)| d.len());
    let text = match want.split_once('e') {
        None => format!("{got:.decimals$}"),
        // Compare mantissas: exponents are written differently.
        Some((_, exponent)) => {
            let scaled = got / 10f64.powi(exponent.parse().unwrap());
            format!("{scaled:.decimals$}e{exponent}")
        }
    };
    assert_eq!(text, want, "got {got}");
}
