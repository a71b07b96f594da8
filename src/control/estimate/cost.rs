//! What something costs by its size.

use super::learned::LearnedLine;
use super::smoothing::Clip;
use super::{positive, sane};

/// A past sample's weight against the next one's.
const FORGET: f64 = 0.95;

/// More than this, of bytes or seconds, is no measurement.
const MOST: f64 = 1e18;

/// Sizes must spread by this share of their mean for the slope to be taken from them alone.
const SPREAD: f64 = 0.25;

/// The slope of a model in proportion: so steep that nothing is left for a fixed part until sizes have differed.
const STEEP: f64 = 1e15;

/// `seconds = c0 + bytes / B` by exponentially forgotten least squares.
///
/// One for each cost of a checkpoint, capacity lost and duration; one for the outage by the state's size; one for the bytes of
/// changed rows by their number. Sizes that hardly differ tell nothing of the slope: it is then held near the last one that
/// was well known. Both parts are kept >= 0. A sample that is absurdly dear counts as merely dear ([`LinearCost::clipped`]).
///
/// # Source
/// `docs/formulas.md`, B3. Check: (1e8, 0.16), (2e8, 0.26), (4e8, 0.46), (8e8, 0.86) give c0 = 0.06 s and B = 1e9 B/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearCost {
    weight: f64,
    mean: (f64, f64),
    variance: f64,
    covariance: f64,
    clip: Clip,
    /// Slope to hold on to, s/B.
    held: f64,
    fixed: f64,
    slope: f64,
}

impl LinearCost {
    /// Returns a model that knows nothing but a guess: `fixed` seconds and `per_byte` seconds per byte, both >= 0.
    #[must_use]
    pub fn new(fixed: f64, per_byte: f64) -> Self {
        let (fixed, slope) = (sane(fixed).unwrap_or(0.0), sane(per_byte).unwrap_or(0.0));
        Self {
            weight: 0.0,
            mean: (0.0, 0.0),
            variance: 0.0,
            covariance: 0.0,
            clip: Clip::default(),
            held: slope,
            fixed,
            slope,
        }
    }

    /// Returns a model that knows nothing, and takes the cost to be in proportion to the size until sizes have differed.
    #[must_use]
    pub fn proportional() -> Self {
        Self { held: STEEP, ..Self::new(0.0, 0.0) }
    }

    /// Returns what a sample counts as: at most eight times what was expected, once enough is known for that.
    #[must_use]
    pub fn clipped(&self, bytes: f64, seconds: f64) -> f64 {
        self.clip.of(seconds, self.at(bytes))
    }

    /// Takes a sample.
    pub fn observe(&mut self, bytes: f64, seconds: f64) {
        let (Some(bytes), Some(seconds)) = (sane(bytes), sane(seconds)) else { return };
        if bytes.max(seconds) > MOST {
            return;
        }
        if self.clip.was_absurd(seconds, self.at(bytes)) {
            // Nothing of it may stay: its weight is that of many.
            *self = Self { held: self.held, ..Self::new(0.0, 0.0) };
        }
        let seconds = self.clipped(bytes, seconds);
        self.clip.count();
        // Weighted sums about the mean: plain ones would cancel at sizes of gigabytes.
        let before = self.weight * FORGET;
        self.weight = before + 1.0;
        let (dx, dy) = (bytes - self.mean.0, seconds - self.mean.1);
        self.mean = (self.mean.0 + dx / self.weight, self.mean.1 + dy / self.weight);
        let share = before / self.weight;
        self.variance = self.variance * FORGET + share * dx * dx;
        self.covariance = self.covariance * FORGET + share * dx * dy;
        self.fit();
    }

    fn fit(&mut self) {
        let floor = (SPREAD * self.mean.0).powi(2);
        let variance = self.variance / self.weight;
        let covariance = self.covariance / self.weight;
        let slope = if variance > 0.0 && variance >= floor {
            self.held = (covariance / variance).max(0.0);
            self.held
        } else {
            positive(variance + floor).map_or(self.held, |sum| ((covariance + floor * self.held) / sum).max(0.0))
        };
        self.slope = slope;
        self.fixed = self.mean.1 - slope * self.mean.0;
        if self.fixed < 0.0 {
            self.fixed = 0.0;
            self.slope = positive(self.mean.0).map_or(slope, |mean| self.mean.1 / mean);
        }
    }

    /// Returns what `bytes` cost, s.
    #[must_use]
    pub fn at(&self, bytes: f64) -> f64 {
        self.fixed + self.slope * sane(bytes).unwrap_or(0.0)
    }

    /// Returns the part that does not depend on the size (c0), s.
    #[must_use]
    pub fn fixed(&self) -> f64 {
        self.fixed
    }

    /// Returns what a byte costs (1/B), s.
    #[must_use]
    pub fn per_byte(&self) -> f64 {
        self.slope
    }

    /// Returns what it has learned, if there was a sample.
    pub(in crate::control) fn learned(&self) -> Option<LearnedLine> {
        let line = LearnedLine { fixed: self.fixed, slope: self.slope, size: self.mean.0 };
        (self.samples() > 0).then_some(line)
    }

    /// Goes on from what another has learned, as from a single sample on its line.
    pub(in crate::control) fn recall(&mut self, learned: Option<&LearnedLine>) {
        let Some(&LearnedLine { fixed, slope, size }) = learned.filter(|line| line.slope <= MOST) else { return };
        let mut model = Self::new(fixed, slope);
        model.observe(size, model.at(size));
        if model.samples() > 0 {
            *self = model;
        }
    }

    /// Returns how many samples were taken.
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
    fn equal_sizes_leave_the_slope_where_it_was() {
        let mut model = LinearCost::new(0.0, 2e-9);
        for _ in 0..50 {
            model.observe(1e8, 0.5);
        }
        assert!((model.per_byte() - 2e-9).abs() < 1e-15 && (model.fixed() - 0.3).abs() < 1e-9, "{model:?}");
        // Hardly different sizes with noise do not throw it off either.
        for at in 0..200u32 {
            let wobble = f64::from(at * 7919 % 11) / 5.0 - 1.0;
            let noise = f64::from(at * 104_729 % 13) / 6.0 - 1.0;
            model.observe(1e8 * (1.0 + 0.03 * wobble), 0.5 * (1.0 + 0.1 * noise));
        }
        assert!((1e-9..4e-9).contains(&model.per_byte()), "{model:?}");
    }

    #[test]
    fn both_parts_stay_positive_and_the_new_is_learned() {
        let mut model = LinearCost::new(0.1, 1e-9);
        for _ in 0..20 {
            B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, (seconds - 0.1).max(0.0)));
        }
        assert!(model.fixed() == 0.0 && model.per_byte() > 0.0, "{model:?}");
        for _ in 0..50 {
            B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, 2.0 * seconds));
        }
        assert!((model.fixed() - 0.12).abs() < 0.01, "{model:?}");
        // Falling costs: no negative slope.
        for _ in 0..50 {
            [(1e8, 0.5), (8e8, 0.1)].into_iter().for_each(|(bytes, seconds)| model.observe(bytes, seconds));
        }
        assert!(model.per_byte() >= 0.0 && model.fixed() > 0.0, "{model:?}");
    }

    #[test]
    fn nonsense_changes_nothing_and_absurd_costs_little() {
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
    fn an_absurd_beginning_is_forgotten() {
        let mut model = LinearCost::new(0.0, 1e-9);
        model.observe(1e8, 1e9);
        B3.into_iter().for_each(|(bytes, seconds)| model.observe(bytes, seconds));
        prints(model.at(3e8), "0.360000000");
    }

    #[test]
    fn in_proportion_until_sizes_differ() {
        let mut model = LinearCost::proportional();
        assert_eq!(model.at(10.0), 0.0);
        for wobble in [0.0, 1.0, -1.0, 2.0, -2.0] {
            let rows = 1e4 + 100.0 * wobble;
            model.observe(rows, 1e5 + 50.0 * rows);
        }
        assert!(model.fixed() == 0.0 && (model.at(1e4) / 6e5 - 1.0).abs() < 0.01, "{model:?}");
        // Little can be told of an idle time yet, and it does not make rows larger; some of them show what is fixed.
        model.observe(1.0, 1e5 + 50.0);
        assert!((model.at(1e4) / 6e5 - 1.0).abs() < 0.01, "{model:?}");
        for rows in [1e4, 1.0].into_iter().cycle().take(80) {
            model.observe(rows, 1e5 + 50.0 * rows);
        }
        assert!((model.fixed() / 1e5 - 1.0).abs() < 0.01 && (model.per_byte() / 50.0 - 1.0).abs() < 0.01, "{model:?}");
    }
}
