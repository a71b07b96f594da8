//! How long a recovery takes, learned from those that happened.

use std::collections::VecDeque;

use super::learned::{LearnedRecoveries, LearnedRecovery};
use super::{LinearCost, positive, sane};
use crate::control::formula;

/// Recoveries that are remembered.
const REMEMBERED: usize = 64;

/// Recoveries from which both parameters are fitted.
const ENOUGH: usize = 3;

/// Errors beyond this share count linearly, not squared: one recovery gone wrong must not bend the rest.
const HUBER: f64 = 0.15;

/// Steps of the fit; it ends sooner when it stands still.
const STEPS: usize = 60;

/// Error of a prediction before any was checked, as a share.
const FIRST_ERROR: f64 = 0.1;

/// A recovery that happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    /// Age of the checkpoint that was restored when the failure happened, s.
    pub age: f64,
    /// Input rate meanwhile, records/s.
    pub rate: f64,
    /// From the failure until processing went on, s, if it was measured.
    pub outage: Option<f64>,
    /// From the failure until the job had caught up, s.
    pub total: f64,
}

/// Outage (D) and capacity (mu) of recoveries, and so the time that one takes.
///
/// Units: s, records/s. Where the outage is measured it is a [`LinearCost`] of the state's size; where only totals are
/// known, both parameters are fitted to them by least squares of relative errors, robustly (Huber).
///
/// # Source
/// `docs/formulas.md`, A7: `D + lam (a + D) / (mu - lam)`. Check: with D 15 s and mu 100e3/s, an age of 10.5 s at 50e3/s
/// takes 40.5 s; recoveries made from two parameters give them back.
#[derive(Debug, Clone)]
pub struct RecoveryModel {
    outage: LinearCost,
    seen: VecDeque<Recovery>,
    fitted: Option<(f64, f64)>,
    /// Mean square of relative errors of predictions, and how many.
    errors: (f64, f64),
}

impl RecoveryModel {
    /// Returns a model that guesses: an outage of `fixed` seconds and `per_byte` seconds for each byte of state.
    #[must_use]
    pub fn new(fixed: f64, per_byte: f64) -> Self {
        Self { outage: LinearCost::new(fixed, per_byte), seen: VecDeque::new(), fitted: None, errors: (0.0, 0.0) }
    }

    /// Takes a measured outage, with the bytes that were restored in it.
    pub fn observe_outage(&mut self, state_bytes: f64, seconds: f64) {
        self.outage.observe(state_bytes, seconds);
    }

    /// Takes a recovery from failure to having caught up.
    pub fn observe(&mut self, recovery: Recovery) {
        let Recovery { age, rate, total, .. } = recovery;
        if sane(age).is_none() || sane(rate).is_none() || positive(total).is_none() || age.max(rate).max(total) > 1e15 {
            return;
        }
        if self.seen.len() == REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(recovery);
        self.fitted = fit(self.seen.make_contiguous());
    }

    /// Notes what had been predicted of a recovery that took `actual` seconds.
    pub fn check(&mut self, predicted: f64, actual: f64) {
        if let (Some(predicted), Some(actual)) = (positive(predicted), positive(actual)) {
            // Both sides of a symmetric error count once over, a prediction that was too long not at all.
            let error = (actual / predicted).ln().clamp(0.0, 1.0);
            self.errors = (self.errors.0 + 2.0 * error * error, self.errors.1 + 1.0);
        }
    }

    /// Returns what it has learned.
    pub(in crate::control) fn learned(&self) -> LearnedRecoveries {
        let learned = |&Recovery { age, rate, outage, total }: &Recovery| LearnedRecovery { age, rate, outage, total };
        LearnedRecoveries {
            outage: self.outage.learned(),
            seen: self.seen.iter().map(learned).collect(),
            squares: self.errors.0,
            checked: self.errors.1,
        }
    }

    /// Goes on from what another has learned.
    pub(in crate::control) fn recall(&mut self, learned: &LearnedRecoveries) {
        self.outage.recall(learned.outage.as_ref());
        for &LearnedRecovery { age, rate, outage, total } in learned.seen.iter().take(REMEMBERED) {
            self.observe(Recovery { age, rate, outage, total });
        }
        if let (Some(squares), Some(checked)) = (sane(learned.squares), sane(learned.checked)) {
            // No error counts more than 2.
            self.errors = (squares.min(2.0 * checked), checked);
        }
    }

    /// Returns the outage that a failure would cause with `state_bytes` of state, s (D).
    #[must_use]
    pub fn outage(&self, state_bytes: f64) -> f64 {
        match self.fitted {
            Some((outage, _)) if self.outage.samples() == 0 => outage,
            _ => self.outage.at(state_bytes),
        }
    }

    /// Returns the rate at which the job catches up, records/s (mu), if recoveries have shown it.
    #[must_use]
    pub fn capacity(&self) -> Option<f64> {
        self.fitted.map(|(_, capacity)| capacity)
    }

    /// Returns the relative standard error of predictions towards recoveries that took longer, from those that were checked.
    #[must_use]
    pub fn error(&self) -> f64 {
        // As if one prediction had been off by the first guess.
        ((self.errors.0 + FIRST_ERROR * FIRST_ERROR) / (self.errors.1 + 1.0)).sqrt()
    }

    /// Returns how long a recovery takes by the parameters that were fitted to totals, s.
    #[must_use]
    pub fn predict(&self, age: f64, rate: f64) -> Option<f64> {
        self.fitted.map(|(outage, capacity)| formula::recovery(outage, age, rate, capacity))
    }
}

/// Returns outage and capacity that explain `recoveries` best; `None` for too few, or of one load only.
fn fit(recoveries: &[Recovery]) -> Option<(f64, f64)> {
    let rates = || recoveries.iter().map(|recovery| recovery.rate);
    let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    if recoveries.len() < ENOUGH || most <= 1.2 * least {
        return None;
    }
    let shortest = recoveries.iter().map(|recovery| recovery.total).fold(f64::INFINITY, f64::min);
    let starts = [1.05, 1.3, 2.0, 5.0].map(|factor| descend(recoveries, (shortest, factor * most)));
    let best = starts.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    let (outage, capacity) = best.0;
    (outage.is_finite() && capacity.is_finite()).then_some((outage, capacity))
}

/// Returns where the fit ends that begins at `start`, and how badly it explains the recoveries.
///
/// Levenberg and Marquardt's method on the logarithms of both parameters, which so stay positive.
fn descend(recoveries: &[Recovery], start: (f64, f64)) -> ((f64, f64), f64) {
    let mut at = start;
    let mut loss = recoveries.iter().map(|r| huber(residual(r, at))).sum::<f64>();
    let mut damping = 1e-3;
    for _ in 0..STEPS {
        let (mut a, mut b, mut c, mut g, mut h) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for recovery in recoveries {
            let error = residual(recovery, at);
            let weight = if error.abs() > HUBER { HUBER / error.abs() } else { 1.0 };
            let (x, y) = gradient(recovery, at);
            a += weight * x * x;
            b += weight * x * y;
            c += weight * y * y;
            g += weight * x * error;
            h += weight * y * error;
        }
        let (p, q) = (a * (1.0 + damping), c * (1.0 + damping));
        let determinant = p * q - b * b;
        let step = ((g * q - h * b) / determinant, (h * p - g * b) / determinant);
        let next = (at.0 * step.0.clamp(-1.0, 1.0).exp(), at.1 * step.1.clamp(-1.0, 1.0).exp());
        let then = recoveries.iter().map(|r| huber(residual(r, next))).sum::<f64>();
        if then < loss {
            let done = loss - then < 1e-12 * loss;
            (at, loss, damping) = (next, then, damping * 0.3);
            if done {
                break;
            }
        } else {
            damping *= 10.0;
            if damping > 1e12 {
                break;
            }
        }
    }
    (at, loss)
}

/// Returns the logarithm of how much longer it took than `(outage, capacity)` say.
fn residual(recovery: &Recovery, (outage, capacity): (f64, f64)) -> f64 {
    let predicted = formula::recovery(outage, recovery.age, recovery.rate, capacity);
    if predicted.is_finite() { (recovery.total / predicted).ln() } else { -1e3 }
}

/// Returns the change of the prediction's logarithm with those of outage and capacity.
fn gradient(recovery: &Recovery, (outage, capacity): (f64, f64)) -> (f64, f64) {
    let spare = capacity - recovery.rate;
    let predicted = formula::recovery(outage, recovery.age, recovery.rate, capacity);
    let by_outage = outage * capacity / spare;
    let by_capacity = -capacity * recovery.rate * (recovery.age + outage) / (spare * spare);
    (by_outage / predicted, by_capacity / predicted)
}

fn huber(error: f64) -> f64 {
    let size = error.abs();
    if size <= HUBER { size * size } else { HUBER * (2.0 * size - HUBER) }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;

    fn made(outage: f64, capacity: f64) -> Vec<Recovery> {
        let cases = [(10.0, 0.1), (60.0, 0.5), (120.0, 0.7), (30.0, 0.8), (90.0, 0.3)];
        let total = |age: f64, rate: f64| formula::recovery(outage, age, rate, capacity);
        let made = |(age, load): (f64, f64)| {
            let rate = load * capacity;
            Recovery { age, rate, outage: None, total: total(age, rate) }
        };
        cases.into_iter().map(made).collect()
    }

    #[test]
    fn a7_two_parameters_are_found_again() {
        let mut model = RecoveryModel::new(1.0, 0.0);
        made(15.0, 100e3).into_iter().for_each(|recovery| model.observe(recovery));
        assert!(
            (model.outage(0.0) - 15.0).abs() < 1e-4 && (model.capacity().unwrap() - 100e3).abs() < 1.0,
            "{model:?}"
        );
        assert!((model.predict(10.5, 50e3).unwrap() - 40.5).abs() < 1e-3);
        // One that went wrong hardly moves them.
        model.observe(Recovery { age: 7.0, rate: 80e3, outage: None, total: 1500.0 });
        assert!((model.predict(10.5, 50e3).unwrap() / 40.5 - 1.0).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn a_measured_outage_counts_before_a_fitted_one() {
        let mut model = RecoveryModel::new(5.0, 1e-9);
        assert_eq!(model.outage(1e10), 15.0);
        model.observe_outage(1e10, 21.0);
        made(15.0, 100e3).into_iter().for_each(|recovery| model.observe(recovery));
        assert!((model.outage(1e10) - 21.0).abs() < 1e-9, "{model:?}");
        assert_eq!(model.error(), FIRST_ERROR);
        (0..20).for_each(|_| model.check(10.0, 13.0));
        assert!((0.3..0.4).contains(&model.error()), "{}", model.error());
    }

    #[test]
    fn too_little_and_nonsense_leave_it_unfitted() {
        let mut model = RecoveryModel::new(f64::NAN, -1.0);
        for bad in NONSENSE.into_iter().filter(|bad| *bad != f64::MIN_POSITIVE) {
            model.observe(Recovery { age: bad, rate: 1.0, outage: None, total: 1.0 });
            model.observe(Recovery { age: 1.0, rate: bad, outage: None, total: 1.0 });
            model.observe(Recovery { age: 1.0, rate: 1.0, outage: None, total: bad });
            model.observe_outage(bad, bad);
            model.check(bad, bad.min(0.0));
        }
        assert!(model.capacity().is_none() && model.outage(1e9) == 0.0 && model.error() == FIRST_ERROR);
        // One load only: the parameters cannot be told apart.
        (0..10).for_each(|_| model.observe(Recovery { age: 10.0, rate: 100.0, outage: None, total: 30.0 }));
        assert_eq!(model.capacity(), None);
        // Noise without sense still gives something finite.
        for at in 0..100u32 {
            let [age, rate, total] = [7919, 104_729, 1_299_709].map(|prime| f64::from(at * prime % 101 + 1));
            model.observe(Recovery { age, rate, outage: None, total });
        }
        assert!(model.outage(0.0).is_finite() && model.predict(10.0, 5.0).unwrap() > 0.0, "{model:?}");
    }
}
