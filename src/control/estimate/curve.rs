//! The number of distinct keys that updates dirty.

use std::f64::consts::LN_2;

use super::learned::LearnedCurve;
use super::{positive, sane};

/// Knots, at 1, 2, 4, ... updates.
const KNOTS: usize = 60;

/// Share of its error by which a sample moves the curve.
const GAIN: f64 = 0.4;

/// Elasticity of a curve with one known point: between the extremes, near that of skewed keys.
const FIRST_ELASTICITY: f64 = 0.8;

/// Distinct dirty keys over updates, `D(n)`, and its elasticity `d ln D / d ln n`, from exact first-touch counts.
///
/// Units: keys, and updates (or records, where updates are not counted). The argument is updates, not time, so that the curve
/// survives a change of rate: `T` seconds at rate `u` dirty `D(u T)` keys. The curve stores logarithms at powers of two, is
/// cubic in between, and extrapolates with the elasticity at its ends. The elasticity stays between 0 (all keys are dirty)
/// and 1 (every update hits another key).
///
/// # Source
/// `docs/formulas.md`, B1 and A10. Check: uniform over 1e6 keys, D(1e5) is 95162.63 and its elasticity 0.951.
#[derive(Debug, Clone)]
pub struct DirtyCurve {
    /// Logarithms of counts at powers of two, from `2^first` on, ascending by at most `ln 2` each.
    logs: Vec<f64>,
    first: usize,
    last: Sample,
    /// Number of all keys.
    keys: Option<f64>,
}

/// The last sample of the running epoch.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    updates: f64,
    distinct: f64,
}

impl Default for DirtyCurve {
    fn default() -> Self {
        Self::new()
    }
}

impl DirtyCurve {
    /// Returns a curve without samples: every update hits another key.
    #[must_use]
    pub fn new() -> Self {
        Self { logs: Vec::new(), first: 0, last: Sample::default(), keys: None }
    }

    /// Sets the number of all keys, the upper bound of every count.
    pub fn set_keys(&mut self, keys: f64) {
        self.keys = positive(keys).or(self.keys);
    }

    /// Adds a sample within an epoch: `distinct` keys are dirty after `updates` updates. Both only grow within an epoch.
    /// Returns false if the sample was ignored.
    pub fn observe(&mut self, updates: f64, distinct: f64) -> bool {
        let (Some(updates), Some(distinct)) = (positive(updates), sane(distinct)) else { return false };
        if updates < 1.0
            || updates <= self.last.updates
            || distinct < self.last.distinct
            || updates >= (KNOTS as f64 - 2.0).exp2()
        {
            return false;
        }
        self.last = Sample { updates, distinct };
        // Zero keys have no logarithm.
        self.learn(updates.log2(), distinct.max(1e-3).ln());
        true
    }

    /// Ends the epoch: the next sample counts from zero.
    pub fn end_epoch(&mut self) {
        self.last = Sample::default();
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and KNOTS, checked before")]
    fn learn(&mut self, position: f64, log: f64) {
        let knot = position.floor() as usize;
        let part = position - position.floor();
        if self.logs.is_empty() {
            self.first = knot;
            self.logs = vec![log - FIRST_ELASTICITY * part * LN_2, log + FIRST_ELASTICITY * (1.0 - part) * LN_2];
        }
        while knot < self.first {
            let (value, _) = self.read(self.first as f64 - 1.0);
            self.logs.insert(0, value);
            self.first -= 1;
        }
        while knot + 1 >= self.first + self.logs.len() {
            // Extrapolate; the update below moves the new knot towards the sample, its only evidence.
            let (value, _) = self.read((self.first + self.logs.len()) as f64);
            self.logs.push(value);
        }
        let error = log - self.read(position).0;
        let gain = GAIN * error / (part * part + (1.0 - part) * (1.0 - part));
        let at = knot - self.first;
        if let Some(low) = self.logs.get_mut(at) {
            *low += gain * (1.0 - part);
        }
        if let Some(high) = self.logs.get_mut(at + 1) {
            *high += gain * part;
        }
        self.straighten(at);
    }

    /// Clamps the knots on either side of `at` and `at + 1`, so that the elasticity stays between 0 and 1.
    fn straighten(&mut self, at: usize) {
        let middle = (at + 1).min(self.logs.len());
        let (before, after) = self.logs.split_at_mut(middle);
        let Some(pivot) = before.last().copied() else { return };
        let mut last = pivot;
        for log in after {
            *log = log.clamp(last, last + LN_2);
            last = *log;
        }
        last = pivot;
        for log in before.iter_mut().rev().skip(1) {
            *log = log.clamp(last - LN_2, last);
            last = *log;
        }
    }

    /// Returns the slope of the segment that begins at knot `at` (0 is the first); beyond the ends, of the nearest segment.
    fn segment(&self, at: isize) -> f64 {
        let last = isize::try_from(self.logs.len()).unwrap_or(isize::MAX) - 2;
        let at = usize::try_from(at.clamp(0, last.max(0))).unwrap_or(0);
        match (self.logs.get(at), self.logs.get(at + 1)) {
            (Some(low), Some(high)) => ((high - low) / LN_2).clamp(0.0, 1.0),
            _ => 1.0,
        }
    }

    /// Returns the logarithm of the count, and the elasticity, at `2^position` updates.
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and KNOTS, or clamped to the ends")]
    fn read(&self, position: f64) -> (f64, f64) {
        let (Some(bottom), Some(top)) = (self.logs.first(), self.logs.last()) else { return (position * LN_2, 1.0) };
        let x = position - self.first as f64;
        let end = self.logs.len() as f64 - 1.0;
        if x <= 0.0 {
            // An approximation: the elasticity tends to 1 as updates become few.
            let slope = self.segment(0);
            return (bottom + slope * x * LN_2, slope);
        }
        if x >= end {
            let slope = self.segment(end as isize - 1);
            return (top + slope * (x - end) * LN_2, slope);
        }
        let knot = x.floor();
        let (at, t) = (knot as isize, x - knot);
        let low = usize::try_from(at).ok().and_then(|at| self.logs.get(at)).copied().unwrap_or(*top);
        let inner = self.segment(at);
        // Slopes at the knots; at most three times the segment's, so that the cubic does not overshoot.
        let left = (0.5 * (self.segment(at - 1) + inner)).min(3.0 * inner);
        let right = (0.5 * (inner + self.segment(at + 1))).min(3.0 * inner);
        let (bend, twist) = (3.0 * inner - 2.0 * left - right, left + right - 2.0 * inner);
        let value = low + LN_2 * t * (left + t * (bend + t * twist));
        (value, (left + t * (2.0 * bend + 3.0 * t * twist)).clamp(0.0, 1.0))
    }

    /// Returns the distinct keys that `updates` dirty (at most `updates`, at most all keys), and the elasticity there.
    #[must_use]
    pub fn at(&self, updates: f64) -> (f64, f64) {
        let Some(updates) = positive(updates) else { return (0.0, 1.0) };
        if self.logs.is_empty() {
            return (updates, 1.0);
        }
        let (log, elasticity) = self.read(updates.log2());
        let most = self.keys.unwrap_or(f64::INFINITY);
        let distinct = log.exp();
        if distinct >= most {
            return (most.min(updates), 0.0);
        }
        if distinct >= updates { (updates, 1.0) } else { (distinct, elasticity) }
    }

    /// Returns the state to save.
    pub(in crate::control) fn learned(&self) -> LearnedCurve {
        LearnedCurve { first: u32::try_from(self.first).unwrap_or(u32::MAX), logs: self.logs.clone() }
    }

    /// Restores a saved state.
    pub(in crate::control) fn recall(&mut self, learned: &LearnedCurve) {
        let LearnedCurve { first, logs } = learned;
        let first = usize::try_from(*first).unwrap_or(usize::MAX);
        // A count never exceeds the updates at the last knot.
        let plausible = logs.iter().all(|log| log.abs() <= KNOTS as f64 * LN_2);
        if plausible && logs.len() >= 2 && first.saturating_add(logs.len()) <= KNOTS {
            (self.first, self.logs) = (first, logs.clone());
            self.straighten(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;
    use crate::control::formula::distinct_keys_uniform;

    /// Returns a curve fed with epochs of `updates` updates, a sample at each `step`.
    fn learned(distinct: impl Fn(f64) -> f64, epochs: u32, updates: f64, step: f64) -> DirtyCurve {
        let mut curve = DirtyCurve::new();
        for _ in 0..epochs {
            let mut n = step;
            while n <= updates {
                curve.observe(n, distinct(n));
                n += step;
            }
            curve.end_epoch();
        }
        curve
    }

    #[test]
    fn b1_uniform_keys_are_learned() {
        let keys = 1e6;
        let curve = learned(|n| distinct_keys_uniform(keys, n), 20, 4e6, 1e4);
        for n in [1e4, 1e5, 3e5, 1e6, 3e6] {
            let (got, beta) = curve.at(n);
            let want = distinct_keys_uniform(keys, n);
            assert!((got / want - 1.0).abs() < 0.01, "{n}: {got} {want}");
            let x = n / keys;
            let exact = x * (-x).exp() / -(-x).exp_m1();
            assert!((beta - exact).abs() < 0.04, "{n}: {beta} {exact}");
        }
        let (at_check, beta) = curve.at(1e5);
        assert!((at_check - 95_162.63).abs() < 500.0 && (beta - 0.951).abs() < 0.02, "{at_check} {beta}");
        assert!(curve.at(1e9).0 <= 3e6, "the curve flattens beyond its samples");
    }

    #[test]
    fn one_count_per_epoch_is_enough_if_epochs_differ() {
        let mut curve = DirtyCurve::new();
        for epoch in 0..200u32 {
            let n = 1e5 * 1.5f64.powi(i32::try_from(epoch % 7).unwrap());
            curve.observe(n, distinct_keys_uniform(1e6, n));
            curve.end_epoch();
        }
        for n in [1e5, 3e5, 1e6] {
            assert!((curve.at(n).0 / distinct_keys_uniform(1e6, n) - 1.0).abs() < 0.03, "{n} {:?}", curve.at(n));
        }
    }

    #[test]
    fn a_new_distribution_is_learned_within_a_few_epochs() {
        let mut curve = learned(|n| distinct_keys_uniform(1e4, n), 10, 1e6, 1e4);
        for epoch in 1..=4 {
            for n in (1..=100).map(|at| f64::from(at) * 1e4) {
                curve.observe(n, distinct_keys_uniform(1e7, n));
            }
            curve.end_epoch();
            let (got, want) = (curve.at(1e6).0, distinct_keys_uniform(1e7, 1e6));
            assert!(epoch < 3 || (got / want - 1.0).abs() < 0.05, "epoch {epoch}: {got} {want}");
        }
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut curve = DirtyCurve::new();
        assert_eq!((curve.at(100.0), curve.at(f64::NAN)), ((100.0, 1.0), (0.0, 1.0)));
        curve.observe(1000.0, 800.0);
        let before = curve.at(1000.0);
        for bad in NONSENSE {
            curve.observe(bad, 10.0);
            curve.set_keys(bad.min(0.0));
            if !bad.is_finite() || bad < 0.0 {
                curve.observe(2000.0, bad);
            }
        }
        curve.observe(500.0, 700.0);
        curve.observe(1500.0, 700.0);
        assert_eq!(curve.at(1000.0), before, "samples out of order or with a smaller count are ignored");
        curve.set_keys(850.0);
        assert_eq!(curve.at(1e9), (850.0, 0.0));
        for n in [1e-9, 1.0, 1e3, 1e9, 1e30, f64::MAX] {
            let (distinct, beta) = curve.at(n);
            assert!(distinct.is_finite() && distinct >= 0.0 && (0.0..=1.0).contains(&beta), "{n}");
        }
        curve.end_epoch();
        curve.observe(1000.0, 0.0);
        assert!(curve.at(1000.0).0 >= 0.0, "an epoch with reads only");
    }
}
