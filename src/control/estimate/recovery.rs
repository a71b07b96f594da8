//! The duration of a recovery, learned from measured ones.

use std::collections::VecDeque;

use super::learned::{LearnedRecoveries, LearnedRecovery};
use super::{LinearCost, positive, sane};
use crate::control::formula;

/// Number of recoveries kept.
const MAX_RECOVERIES: usize = 64;

/// Minimum number of recoveries for a fit.
const MIN_RECOVERIES: usize = 3;

/// Errors beyond this share count linearly, not squared, so that one outlier does not spoil the fit.
const HUBER: f64 = 0.15;

/// Most steps of the fit.
const MAX_STEPS: usize = 60;

/// Relative error of a prediction before any was checked.
const PRIOR_ERROR: f64 = 0.1;

/// A measured recovery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recovery {
    /// Age of the restored checkpoint at the failure, s.
    pub age: f64,
    /// Input rate during the recovery, records/s.
    pub rate: f64,
    /// From the failure until processing resumed, s, if measured.
    pub outage: Option<f64>,
    /// From the failure until the job had caught up, s.
    pub total: f64,
}

/// Outage (D) and capacity (mu) of recoveries, which give the time of the next one.
///
/// Units: s, records/s. A measured outage is modelled as a [`LinearCost`] of the state's size. Where only totals are known, both
/// parameters are fitted to them by robust least squares of relative errors (Huber).
///
/// # Source
/// `docs/formulas.md`, A7: `D + lam (a + D) / (mu - lam)`. Check: with D 15 s and mu 100e3/s, an age of 10.5 s at 50e3/s
/// takes 40.5 s; a fit to recoveries computed from two parameters returns those parameters.
#[derive(Debug, Clone)]
pub struct RecoveryModel {
    outage: LinearCost,
    seen: VecDeque<Recovery>,
    fitted: Option<Parameters>,
    checked: Checked,
}

/// The parameters of the recovery formula.
#[derive(Debug, Clone, Copy)]
struct Parameters {
    /// D, s.
    outage: f64,
    /// mu, records/s.
    capacity: f64,
}

/// Relative errors of the predictions checked so far.
#[derive(Debug, Clone, Copy, Default)]
struct Checked {
    sum_of_squares: f64,
    count: f64,
}

impl RecoveryModel {
    /// Returns a model with a prior guess of the outage: `fixed` seconds, and `per_byte` seconds per byte of state.
    #[must_use]
    pub fn new(fixed: f64, per_byte: f64) -> Self {
        let outage = LinearCost::new(fixed, per_byte);
        Self { outage, seen: VecDeque::new(), fitted: None, checked: Checked::default() }
    }

    /// Adds a measured outage and the bytes restored in it.
    pub fn observe_outage(&mut self, state_bytes: f64, seconds: f64) {
        self.outage.observe(state_bytes, seconds);
    }

    /// Adds a complete recovery.
    pub fn observe(&mut self, recovery: Recovery) {
        let Recovery { age, rate, total, .. } = recovery;
        if sane(age).is_none() || sane(rate).is_none() || positive(total).is_none() || age.max(rate).max(total) > 1e15 {
            return;
        }
        if self.seen.len() == MAX_RECOVERIES {
            self.seen.pop_front();
        }
        self.seen.push_back(recovery);
        self.fitted = fit(self.seen.make_contiguous());
    }

    /// Records the error of a prediction for a recovery that took `actual` seconds.
    pub fn check(&mut self, predicted: f64, actual: f64) {
        if let (Some(predicted), Some(actual)) = (positive(predicted), positive(actual)) {
            // One-sided: a recovery shorter than predicted counts as no error, a longer one twice to make up for it.
            let error = (actual / predicted).ln().clamp(0.0, 1.0);
            self.checked.sum_of_squares += 2.0 * error * error;
            self.checked.count += 1.0;
        }
    }

    /// Returns the state to save.
    pub(in crate::control) fn learned(&self) -> LearnedRecoveries {
        let learned = |&Recovery { age, rate, outage, total }: &Recovery| LearnedRecovery { age, rate, outage, total };
        LearnedRecoveries {
            outage: self.outage.learned(),
            seen: self.seen.iter().map(learned).collect(),
            squares: self.checked.sum_of_squares,
            checked: self.checked.count,
        }
    }

    /// Restores a saved state.
    pub(in crate::control) fn recall(&mut self, learned: &LearnedRecoveries) {
        self.outage.recall(learned.outage.as_ref());
        for &LearnedRecovery { age, rate, outage, total } in learned.seen.iter().take(MAX_RECOVERIES) {
            self.observe(Recovery { age, rate, outage, total });
        }
        if let (Some(squares), Some(count)) = (sane(learned.squares), sane(learned.checked)) {
            // No check adds more than 2.
            self.checked = Checked { sum_of_squares: squares.min(2.0 * count), count };
        }
    }

    /// Returns the expected outage with `state_bytes` of state, s (D).
    #[must_use]
    pub fn outage(&self, state_bytes: f64) -> f64 {
        match self.fitted {
            Some(Parameters { outage, .. }) if self.outage.samples() == 0 => outage,
            _ => self.outage.at(state_bytes),
        }
    }

    /// Returns the fitted capacity, records/s (mu), if there is a fit.
    #[must_use]
    pub fn capacity(&self) -> Option<f64> {
        self.fitted.map(|fitted| fitted.capacity)
    }

    /// Returns the relative standard error of predictions, towards longer recoveries.
    #[must_use]
    pub fn error(&self) -> f64 {
        // The prior error counts as one checked prediction.
        ((self.checked.sum_of_squares + PRIOR_ERROR * PRIOR_ERROR) / (self.checked.count + 1.0)).sqrt()
    }

    /// Returns the duration of a recovery by the fitted parameters, s; `None` without a fit.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn predict(&self, age: f64, rate: f64) -> Option<f64> {
        self.fitted.map(|fitted| formula::recovery(fitted.outage, age, rate, fitted.capacity))
    }
}

/// Returns the parameters that fit `recoveries` best; `None` for too few recoveries, or for a single load.
fn fit(recoveries: &[Recovery]) -> Option<Parameters> {
    let rates = || recoveries.iter().map(|recovery| recovery.rate);
    let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    if recoveries.len() < MIN_RECOVERIES || most <= 1.2 * least {
        return None;
    }
    let shortest = recoveries.iter().map(|recovery| recovery.total).fold(f64::INFINITY, f64::min);
    let start = |factor: f64| Parameters { outage: shortest, capacity: factor * most };
    let fits = [1.05, 1.3, 2.0, 5.0].map(|factor| descend(recoveries, start(factor)));
    let (best, _) = fits.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (best.outage.is_finite() && best.capacity.is_finite()).then_some(best)
}

/// Returns the local optimum found from `start`, and its loss.
///
/// Uses the Levenberg-Marquardt method on the logarithms of both parameters, so that they stay positive.
fn descend(recoveries: &[Recovery], start: Parameters) -> (Parameters, f64) {
    let total = |at: Parameters| recoveries.iter().map(|recovery| huber(residual(recovery, at))).sum::<f64>();
    let mut at = start;
    let mut loss = total(at);
    let mut damping = 1e-3;
    for _ in 0..MAX_STEPS {
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
        let next = Parameters {
            outage: at.outage * step.0.clamp(-1.0, 1.0).exp(),
            capacity: at.capacity * step.1.clamp(-1.0, 1.0).exp(),
        };
        let next_loss = total(next);
        if next_loss < loss {
            let done = loss - next_loss < 1e-12 * loss;
            (at, loss, damping) = (next, next_loss, damping * 0.3);
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

/// Returns the logarithm of the measured over the predicted duration.
fn residual(recovery: &Recovery, Parameters { outage, capacity }: Parameters) -> f64 {
    let predicted = formula::recovery(outage, recovery.age, recovery.rate, capacity);
    if predicted.is_finite() { (recovery.total / predicted).ln() } else { -1e3 }
}

/// Returns the derivatives of the prediction's logarithm by the logarithms of outage and capacity.
fn gradient(recovery: &Recovery, Parameters { outage, capacity }: Parameters) -> (f64, f64) {
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

    fn computed(outage: f64, capacity: f64) -> Vec<Recovery> {
        let cases = [(10.0, 0.1), (60.0, 0.5), (120.0, 0.7), (30.0, 0.8), (90.0, 0.3)];
        let total = |age: f64, rate: f64| formula::recovery(outage, age, rate, capacity);
        let recovery = |(age, load): (f64, f64)| {
            let rate = load * capacity;
            Recovery { age, rate, outage: None, total: total(age, rate) }
        };
        cases.into_iter().map(recovery).collect()
    }

    #[test]
    fn a7_a_fit_returns_the_two_parameters() {
        let mut model = RecoveryModel::new(1.0, 0.0);
        computed(15.0, 100e3).into_iter().for_each(|recovery| model.observe(recovery));
        assert!(
            (model.outage(0.0) - 15.0).abs() < 1e-4 && (model.capacity().unwrap() - 100e3).abs() < 1.0,
            "{model:?}"
        );
        assert!((model.predict(10.5, 50e3).unwrap() - 40.5).abs() < 1e-3);
        // One outlier hardly moves them.
        model.observe(Recovery { age: 7.0, rate: 80e3, outage: None, total: 1500.0 });
        assert!((model.predict(10.5, 50e3).unwrap() / 40.5 - 1.0).abs() < 0.1, "{model:?}");
    }

    #[test]
    fn a_measured_outage_takes_precedence_over_a_fitted_one() {
        let mut model = RecoveryModel::new(5.0, 1e-9);
        assert_eq!(model.outage(1e10), 15.0);
        model.observe_outage(1e10, 21.0);
        computed(15.0, 100e3).into_iter().for_each(|recovery| model.observe(recovery));
        assert!((model.outage(1e10) - 21.0).abs() < 1e-9, "{model:?}");
        assert_eq!(model.error(), PRIOR_ERROR);
        (0..20).for_each(|_| model.check(10.0, 13.0));
        assert!((0.3..0.4).contains(&model.error()), "{}", model.error());
    }

    #[test]
    fn too_few_recoveries_and_nonsense_give_no_fit() {
        let mut model = RecoveryModel::new(f64::NAN, -1.0);
        for bad in NONSENSE.into_iter().filter(|bad| *bad != f64::MIN_POSITIVE) {
            model.observe(Recovery { age: bad, rate: 1.0, outage: None, total: 1.0 });
            model.observe(Recovery { age: 1.0, rate: bad, outage: None, total: 1.0 });
            model.observe(Recovery { age: 1.0, rate: 1.0, outage: None, total: bad });
            model.observe_outage(bad, bad);
            model.check(bad, bad.min(0.0));
        }
        assert!(model.capacity().is_none() && model.outage(1e9) == 0.0 && model.error() == PRIOR_ERROR);
        // A single load does not determine both parameters.
        (0..10).for_each(|_| model.observe(Recovery { age: 10.0, rate: 100.0, outage: None, total: 30.0 }));
        assert_eq!(model.capacity(), None);
        // Pure noise still gives finite parameters.
        for at in 0..100u32 {
            let [age, rate, total] = [7919, 104_729, 1_299_709].map(|prime| f64::from(at * prime % 101 + 1));
            model.observe(Recovery { age, rate, outage: None, total });
        }
        assert!(model.outage(0.0).is_finite() && model.predict(10.0, 5.0).unwrap() > 0.0, "{model:?}");
    }
}
