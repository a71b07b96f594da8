//! How many distinct keys a number of updates dirties.

use std::f64::consts::LN_2;

use super::learned::LearnedCurve;
use super::{positive, sane};

/// Knots, at 1, 2, 4, ... updates.
const KNOTS: usize = 60;

/// How far a sample moves the curve towards itself.
const GAIN: f64 = 0.4;

/// Elasticity of a curve of which one point is known: between the extremes, near what skewed keys have.
const FIRST_ELASTICITY: f64 = 0.8;

/// Distinct dirty keys over updates, `D(n)`, and its elasticity `d ln D / d ln n`, from exact first-touch counts.
///
/// Units: updates (or records, where updates are not counted) and keys. Updates, not time: a curve over updates stays as
/// it is when the rate changes, and over `T` seconds at a rate of `u` it is `D(u T)`. The curve is kept at powers of two,
/// in logarithms; between them it is a cubic, beyond them it goes on with the elasticity of its end. The elasticity is
/// kept between 0 (all keys are dirty) and 1 (every update hits another key), as it must be.
///
/// # Source
/// `docs/formulas.md`, B1 and A10. Check: uniform over 1e6 keys, D(1e5) is 95162.63 and its elasticity 0.951.
#[derive(Debug, Clone)]
pub struct DirtyCurve {
    /// Logarithms of counts at powers of two, from `first` on, ascending by at most `ln 2` each.
    logs: Vec<f64>,
    first: usize,
    /// Updates and count at the last sample of the running epoch.
    last: (f64, f64),
    keys: Option<f64>,
}

impl Default for DirtyCurve {
    fn default() -> Self {
        Self::new()
    }
}

impl DirtyCurve {
    /// Returns a curve that knows nothing: every update hits another key.
    #[must_use]
    pub fn new() -> Self {
        Self { logs: Vec::new(), first: 0, last: (0.0, 0.0), keys: None }
    }

    /// Sets how many keys there are: no count is larger.
    pub fn set_keys(&mut self, keys: f64) {
        self.keys = positive(keys).or(self.keys);
    }

    /// Takes a sample within an epoch: after `updates` since it began, `distinct` keys are dirty. Both only grow. False if it
    /// was left out.
    pub fn observe(&mut self, updates: f64, distinct: f64) -> bool {
        let (Some(updates), Some(distinct)) = (positive(updates), sane(distinct)) else { return false };
        if updates < 1.0 || updates <= self.last.0 || distinct < self.last.1 || updates >= (KNOTS as f64 - 2.0).exp2() {
            return false;
        }
        self.last = (updates, distinct);
        // Less than one key is as good as none, and has a logarithm.
        self.learn(updates.log2(), distinct.max(1e-3).ln());
        true
    }

    /// Ends the epoch: the next sample counts from zero again.
    pub fn end_epoch(&mut self) {
        self.last = (0.0, 0.0);
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
            // What lies beyond the end is drawn towards the sample at once: nothing else is known of it.
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

    /// Bends what lies beside the knots `at` and `at + 1` so that the curve rises, and by no more than the updates do.
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

    /// Returns the slope of the segment that begins at knot `at`, counted from the first; that of the nearest beyond the ends.
    fn segment(&self, at: isize) -> f64 {
        let last = isize::try_from(self.logs.len()).unwrap_or(isize::MAX) - 2;
        let at = usize::try_from(at.clamp(0, last.max(0))).unwrap_or(0);
        match (self.logs.get(at), self.logs.get(at + 1)) {
            (Some(low), Some(high)) => ((high - low) / LN_2).clamp(0.0, 1.0),
            _ => 1.0,
        }
    }

    /// Returns logarithm and elasticity at `2^position` updates.
    #[expect(clippy::cast_possible_truncation, reason = "between 0 and KNOTS, or clamped to the ends")]
    fn read(&self, position: f64) -> (f64, f64) {
        let (Some(bottom), Some(top)) = (self.logs.first(), self.logs.last()) else { return (position * LN_2, 1.0) };
        let x = position - self.first as f64;
        let end = self.logs.len() as f64 - 1.0;
        if x <= 0.0 {
            // Few updates hit distinct keys: the elasticity of the lowest segment holds a little further down only.
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
        // Slopes at the knots; at most thrice the segment's, so that the cubic does not swing over.
        let left = (0.5 * (self.segment(at - 1) + inner)).min(3.0 * inner);
        let right = (0.5 * (inner + self.segment(at + 1))).min(3.0 * inner);
        let (bend, twist) = (3.0 * inner - 2.0 * left - right, left + right - 2.0 * inner);
        let value = low + LN_2 * t * (left + t * (bend + t * twist));
        (value, (left + t * (2.0 * bend + 3.0 * t * twist)).clamp(0.0, 1.0))
    }

    /// Returns the distinct keys that `updates` dirty, at most `updates` and at most all keys, and the elasticity there.
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

    /// Returns what it has learned.
    pub(in crate::control) fn learned(&self) -> LearnedCurve {
        LearnedCurve { first: u32::try_from(self.first).unwrap_or(u32::MAX), logs: self.logs.clone() }
    }

    /// Goes on from what another has learned.
    pub(in crate::control) fn recall(&mut self, learned: &LearnedCurve) {
        let LearnedCurve { first, logs } = learned;
        let first = usize::try_from(*first).unwrap_or(usize::MAX);
        // No logarithm of a count is larger than that of the updates at the last knot.
        let makes_sense = logs.iter().all(|log| log.abs() <= KNOTS as f64 * LN_2);
        if makes_sense && logs.len() >= 2 && first.saturating_add(logs.len()) <= KNOTS {
            (self.first, self.logs) = (first, logs.clone());
            self.straighten(0);
        }
    }

    /// Returns whether there was a sample.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.logs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;
    use crate::control::formula::distinct_keys_uniform;

    /// Feeds epochs of `updates` updates, a sample at each `step`.
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
        assert!(curve.at(1e9).0 <= 3e6, "beyond what was seen it flattens");
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
    fn another_distribution_is_learned_within_a_few_epochs() {
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
        assert_eq!((curve.at(100.0), curve.at(f64::NAN), curve.is_known()), ((100.0, 1.0), (0.0, 1.0), false));
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
        assert_eq!(curve.at(1000.0), before, "neither out of order nor fewer than before");
        curve.set_keys(850.0);
        assert_eq!(curve.at(1e9), (850.0, 0.0));
        for n in [1e-9, 1.0, 1e3, 1e9, 1e30, f64::MAX] {
            let (distinct, beta) = curve.at(n);
            assert!(distinct.is_finite() && distinct >= 0.0 && (0.0..=1.0).contains(&beta), "{n}");
        }
        curve.end_epoch();
        curve.observe(1000.0, 0.0);
        assert!(curve.at(1000.0).0 >= 0.0, "an epoch of reads alone");
    }
}
