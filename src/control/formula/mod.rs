//! The theory of checkpoint intervals as pure functions.
//!
//! Times are in seconds, rates per second, sizes in bytes. A function returns NaN for NaN and for any other argument
//! outside its stated range; none panics. `docs/formulas.md` lists symbols, units, sources and check values.
//!
//! A checkpoint has three costs that differ by factors and are kept apart: its *capacity cost* (processing time that the
//! job loses), its *duration* (trigger to durable), and the *pause* that records see.

mod band;
mod chain;
mod dirty;
mod optimum;
mod recovery;
#[cfg(any(test, feature = "internals"))]
mod utilisation;

pub use band::band;
pub use chain::chain_length;
#[cfg(any(test, feature = "internals"))]
pub use dirty::distinct_keys_uniform;
pub use dirty::{Cost, dirty_aware_optimum};
#[cfg(any(test, feature = "internals"))]
pub use optimum::weighted;
pub use optimum::{ReplayWeight, overhead};
pub use recovery::recovery;
#[cfg(any(test, feature = "internals"))]
pub use utilisation::utilisation;

/// Returns whether all `values` are finite and not negative.
fn sane(values: &[f64]) -> bool {
    values.iter().all(|value| value.is_finite() && *value >= 0.0)
}

/// Asserts that `got` equals `want` to the digits that `want` has.
#[cfg(test)]
#[track_caller]
pub(crate) fn prints(got: f64, want: &str) {
    let decimals = want.split(['e', 'E']).next().unwrap().split_once('.').map_or(0, |(_, d)| d.len());
    let text = match want.split_once('e') {
        None => format!("{got:.decimals$}"),
        // Compare mantissas: Rust and the check values write exponents differently.
        Some((_, exponent)) => {
            let scaled = got / 10f64.powi(exponent.parse().unwrap());
            format!("{scaled:.decimals$}e{exponent}")
        }
    };
    assert_eq!(text, want, "got {got}");
}
