//! A cost as a linear function of size.

use super::learned::LearnedLine;
use super::smoothing::Clip;
use super::{positive, sane};

/// Weight of the past against a new sample.
const FORGET: f64 = 0.95;

/// Bytes or seconds beyond this are rejected as measurement errors.
const MOST: f64 = 1e18;

/// The samples alone determine the slope once their sizes spread by this share of the mean.
const SPREAD: f64 = 0.25;

/// The prior slope of a proportional model: so steep that the fixed part stays 0 until sizes differ.
const STEEP: f64 = 1e15;

/// Fits `seconds = c0 + bytes / B` by least squares with exponential forgetting.
///
/// Models capacity cost and duration by a checkpoint's bytes, the outage by the state's bytes, and changed bytes by changed rows.
/// Sizes that hardly differ do not determine the slope: the model then holds it near the last well-determined value. Both
/// parts stay >= 0. Outliers are clipped ([`LinearCost::clipped`]).
///
/// # Source
/// `docs/formulas.md`, B3. Check: (1e8, 0.16), (2e8, 0.26), (4e8, 0.46), (8e8, 0.86) give c0 = 0.06 s and B = 1e9 B/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearCost {
    weight: f64,
    mean_size: f64,
    mean_cost: f64,
    variance: f64,
    covariance: f64,
    clip: Clip,
    /// The last well-determined slope, or the prior, s/B.
    held: f64,
    fixed: f64,
    slope: f64,
}

impl LinearCost {
    /// Returns a model with a prior guess: `fixed` seconds and `per_byte` seconds per byte, both >= 0.
    #[must_use]
    pub fn new(fixed: f64, per_byte: f64) -> Self {
        let (fixed, slope) = (sane(fixed).unwrap_or(0.0), sane(per_byte).unwrap_or(0.0));
        Self {
            weight: 0.0,
            mean_size: 0.0,
            mean_cost: 0.0,
            variance: 0.0,
            covariance: 0.0,
            clip: Clip::default(),
            held: slope,
            fixed,
            slope,
        }
    }

    /// Returns a model without a prior guess. The cost is proportional to the size until sizes differ.
    #[must_use]
    pub fn proportional() -> Self {
        Self { held: STEEP, ..Self::new(0.0, 0.0) }
    }

    /// Returns the sample clipped to eight times the expected cost; unclipped for the first five samples.
    #[must_use]
    pub fn clipped(&self, bytes: f64, seconds: f64) -> f64 {
        self.clip.clipped(seconds, self.at(bytes))
    }

    /// Adds a sample.
    pub fn observe(&mut self, bytes: f64, seconds: f64) {
        let (Some(bytes), Some(seconds)) = (sane(bytes), sane(seconds)) else { return };
        if bytes.max(seconds) > MOST {
            return;
        }
        if self.clip.earlier_were_absurd(seconds, self.at(bytes)) {
            // Drop the earlier samples altogether: one absurd value would outweigh many good ones.
            *self = Self { held: self.held, ..Self::new(0.0, 0.0) };
        }
        let seconds = self.clipped(bytes, seconds);
        self.clip.count();
        // Sums about the mean: plain sums of squares cancel at sizes of gigabytes.
        let before = self.weight * FORGET;
        self.weight = before + 1.0;
        let (dx, dy) = (bytes - self.mean_size, seconds - self.mean_cost);
        self.mean_size += dx / self.weight;
        self.mean_cost += dy / self.weight;
        let share = before / self.weight;
        self.variance = self.variance * FORGET + share * dx * dx;
        self.covariance = self.covariance * FORGET + share * dx * dy;
        self.fit();
    }

    fn fit(&mut self) {
        let floor = (SPREAD * self.mean_size).powi(2);
        let variance = self.variance / self.weight;
        let covariance = self.covariance / self.weight;
        let slope = if variance > 0.0 && variance >= floor {
            self.held = (covariance / variance).max(0.0);
            self.held
        } else {
            positive(variance + floor).map_or(self.held, |sum| ((covariance + floor * self.held) / sum).max(0.0))
        };
        self.slope = slope;
        self.fixed = self.mean_cost - slope * self.mean_size;
        if self.fixed < 0.0 {
            self.fixed = 0.0;
            self.slope = positive(self.mean_size).map_or(slope, |mean| self.mean_cost / mean);
        }
    }

    /// Returns the cost of `bytes`, s.
    #[must_use]
    pub fn at(&self, bytes: f64) -> f64 {
        self.fixed + self.slope * sane(bytes).unwrap_or(0.0)
    }

    /// Returns the fixed part (c0), s.
    #[must_use]
    pub fn fixed(&self) -> f64 {
        self.fixed
    }

    /// Returns the cost per byte (1/B), s.
    #[must_use]
    pub fn per_byte(&self) -> f64 {
        self.slope
    }

    /// Returns the state to save; `None` without a sample.
    pub(in crate::control) fn learned(&self) -> Option<LearnedLine> {
        let line = LearnedLine { fixed: self.fixed, slope: self.slope, size: self.mean_size };
        (self.samples() > 0).then_some(line)
    }

    /// Restores a saved state as a single sample on the saved line.
    pub(in crate::control) fn recall(&mut self, learned: Option<&LearnedLine>) {
        let Some(&LearnedLine { fixed, slope, size }) = learned.filter(|line| line.slope <= MOST) else { return };
        let mut model = Self::new(fixed, slope);
        model.observe(size, model.at(size));
        if model.samples() > 0 {
            *self = model;
        }
    }

    /// Returns the number of samples.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.clip.samples()
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;
    use crate::control::formula::prints;

    const B3: [(f64, f64); 4] = [(1e8, 0.16), (2e8, 0.26), (4e8, 0.46), (8e8, 0.86)];

    #[test]
    fn b3_fixed_and_per_byte() {
        let mut model = LinearCost::new(1.0, 1.0);
        B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, seconds));
        prints(model.fixed(), "0.060000000");
        prints(1.0 / model.per_byte() / 1e9, "1.000000000");
        prints(model.at(3e8), "0.360000000");
    }

    #[test]
    fn equal_sizes_keep_the_prior_slope() {
        let mut model = LinearCost::new(0.0, 2e-9);
        for _ in 0..50 {
            model.observe(1e8, 0.5);
        }
        assert!((model.per_byte() - 2e-9).abs() < 1e-15 && (model.fixed() - 0.3).abs() < 1e-9, "{model:?}");
        // Nor do nearly equal sizes with noise move it far.
        for at in 0..200u32 {
            let wobble = f64::from(at * 7919 % 11) / 5.0 - 1.0;
            let noise = f64::from(at * 104_729 % 13) / 6.0 - 1.0;
            model.observe(1e8 * (1.0 + 0.03 * wobble), 0.5 * (1.0 + 0.1 * noise));
        }
        assert!((1e-9..4e-9).contains(&model.per_byte()), "{model:?}");
    }

    #[test]
    fn both_parts_stay_positive_and_adapt() {
        let mut model = LinearCost::new(0.1, 1e-9);
        for _ in 0..20 {
            B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, (seconds - 0.1).max(0.0)));
        }
        assert!(model.fixed() == 0.0 && model.per_byte() > 0.0, "{model:?}");
        for _ in 0..50 {
            B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, 2.0 * seconds));
        }
        assert!((model.fixed() - 0.12).abs() < 0.01, "{model:?}");
        // Falling costs give no negative slope.
        for _ in 0..50 {
            [(1e8, 0.5), (8e8, 0.1)].into_iter().for_each(|(bytes, seconds)| model.observe(bytes, seconds));
        }
        assert!(model.per_byte() >= 0.0 && model.fixed() > 0.0, "{model:?}");
    }

    #[test]
    fn nonsense_is_ignored_and_an_absurd_sample_is_clipped() {
        let mut model = LinearCost::new(f64::NAN, -1.0);
        assert_eq!(model.at(f64::NAN), 0.0);
        for (bytes, seconds) in std::iter::repeat_n(B3, 5).flatten() {
            model.observe(bytes, seconds);
        }
        let before = model;
        for bad in NONSENSE.into_iter().filter(|bad| *bad != f64::MIN_POSITIVE) {
            model.observe(bad, 1.0);
            model.observe(1e8, bad);
        }
        assert_eq!(model, before);
        model.observe(4e8, 1e6);
        assert!(model.at(4e8) < 3.0 * before.at(4e8), "{model:?}");
        model.observe(0.0, 0.0);
        assert!(model.at(1e8).is_finite() && model.at(1e8) >= 0.0);
    }

    #[test]
    fn an_absurd_first_sample_is_dropped() {
        let mut model = LinearCost::new(0.0, 1e-9);
        model.observe(1e8, 1e9);
        B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, seconds));
        prints(model.at(3e8), "0.360000000");
    }

    #[test]
    fn a_proportional_model_has_no_fixed_part_until_sizes_differ() {
        let mut model = LinearCost::proportional();
        assert_eq!(model.at(10.0), 0.0);
        for wobble in [0.0, 1.0, -1.0, 2.0, -2.0] {
            let rows = 1e4 + 100.0 * wobble;
            model.observe(rows, 1e5 + 50.0 * rows);
        }
        assert!(model.fixed() == 0.0 && (model.at(1e4) / 6e5 - 1.0).abs() < 0.01, "{model:?}");
        // One idle epoch does not change the size of rows; several reveal the fixed part.
        model.observe(1.0, 1e5 + 50.0);
        assert!((model.at(1e4) / 6e5 - 1.0).abs() < 0.01, "{model:?}");
        for rows in [1e4, 1.0].into_iter().cycle().take(80) {
            model.observe(rows, 1e5 + 50.0 * rows);
        }
        assert!((model.fixed() / 1e5 - 1.0).abs() < 0.01 && (model.per_byte() / 50.0 - 1.0).abs() < 0.01, "{model:?}");
    }
}
