//! Smoothing of irregular samples, and detection of level changes.

use super::sane;

/// An exponentially weighted mean of samples at irregular times.
///
/// Unit: the unit of the samples. A sample's weight against all earlier ones is `1 - 2^(-dt / h)`.
///
/// # Source
/// `docs/formulas.md`, B5. Check: half-life 10, start 100, then (1 s, 200) gives 106.696700846.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ewma {
    half_life: f64,
    value: Option<f64>,
}

impl Ewma {
    /// Returns an empty mean; a sample's weight halves every `half_life` seconds (> 0, else 1).
    #[must_use]
    pub fn new(half_life: f64) -> Self {
        Self { half_life: super::positive(half_life).unwrap_or(1.0), value: None }
    }

    /// Adds a sample that covers the last `dt` seconds. The first sample becomes the mean.
    pub fn update(&mut self, dt: f64, sample: f64) {
        let (Some(dt), true) = (sane(dt), sample.is_finite()) else { return };
        let weight = -(-dt / self.half_life * std::f64::consts::LN_2).exp_m1();
        self.value = Some(self.value.map_or(sample, |value| value + weight * (sample - value)));
    }

    /// Replaces the mean.
    pub fn reset(&mut self, value: f64) {
        self.value = value.is_finite().then_some(value).or(self.value);
    }

    /// Returns the mean, if there was a sample.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.value
    }
}

/// A sample counts as at most this many times the expected value.
const MOST_TIMES: f64 = 8.0;

/// Number of samples from which the expectation is trusted; before, it may rest on an absurd sample.
const KNOWN_AFTER: u32 = 5;

/// Clips samples that exceed the expectation eightfold. The first samples have no reliable expectation: a sample eight times
/// below it shows that the earlier ones were absurd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Clip {
    samples: u32,
}

impl Clip {
    /// Returns the sample, clipped.
    pub(super) fn clipped(self, sample: f64, expected: f64) -> f64 {
        let known = self.samples >= KNOWN_AFTER && expected > 0.0;
        if known { sample.min(MOST_TIMES * expected) } else { sample }
    }

    /// Returns whether `sample` shows that the few samples before it were absurd.
    pub(super) fn earlier_were_absurd(self, sample: f64, expected: f64) -> bool {
        (1..KNOWN_AFTER).contains(&self.samples) && MOST_TIMES * sample < expected
    }

    /// Counts a sample.
    pub(super) fn count(&mut self) {
        self.samples = self.samples.saturating_add(1);
    }

    pub(super) fn samples(self) -> u32 {
        self.samples
    }
}

/// An [`Ewma`] of non-negative samples that a single absurd sample moves little, and not for long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClippedMean {
    mean: Ewma,
    clip: Clip,
}

impl ClippedMean {
    /// Returns an empty mean; a sample's weight halves every `half_life` seconds (> 0, else 1).
    #[must_use]
    pub fn new(half_life: f64) -> Self {
        Self { mean: Ewma::new(half_life), clip: Clip::default() }
    }

    /// Adds a sample that covers the last `dt` seconds.
    pub fn update(&mut self, dt: f64, sample: f64) {
        let Some(sample) = sane(sample) else { return };
        if self.clip.earlier_were_absurd(sample, self.value().unwrap_or(0.0)) {
            *self = Self { mean: Ewma { value: None, ..self.mean }, clip: Clip::default() };
        }
        let sample = self.clipped(sample);
        self.clip.count();
        self.mean.update(dt, sample);
    }

    /// Replaces the mean with a trusted value.
    pub fn reset(&mut self, value: f64) {
        self.mean.reset(value);
        self.clip = Clip { samples: KNOWN_AFTER };
    }

    /// Returns the sample clipped to eight times the mean; unclipped for the first five samples.
    #[must_use]
    pub fn clipped(&self, sample: f64) -> f64 {
        self.clip.clipped(sample, self.value().unwrap_or(0.0))
    }

    /// Returns the mean, if there was a sample.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.mean.value()
    }
}

/// One-sided CUSUM: sums the excess of standardised samples over a slack, and raises an alarm at a threshold.
///
/// # Source
/// `docs/formulas.md`, B5. Check: slack 0.5 over 0.1, -0.4, 0.3, 1.2, 1.5, 0.9, 2, 1.1 ends at 4.2: an alarm for 4.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cusum {
    slack: f64,
    threshold: f64,
    sum: f64,
}

impl Cusum {
    /// Returns an empty sum; `slack` and `threshold` are in standard deviations.
    pub(super) fn new(slack: f64, threshold: f64) -> Self {
        Self { slack, threshold, sum: 0.0 }
    }

    /// Adds a standardised sample. Returns true, and resets the sum, if the sum passes the threshold.
    pub(super) fn update(&mut self, z: f64) -> bool {
        if !z.is_finite() {
            return false;
        }
        self.sum = (self.sum + z - self.slack).max(0.0);
        let alarm = self.sum > self.threshold;
        if alarm {
            self.sum = 0.0;
        }
        alarm
    }

    /// Returns the sum.
    pub(super) fn sum(&self) -> f64 {
        self.sum
    }
}

/// Slack and threshold of a [`Tracker`]: one false alarm in thousands of independent samples, and about 16 samples to detect
/// a shift of one standard deviation.
const SLACK: f64 = 0.5;
const THRESHOLD: f64 = 8.0;

/// A sample counts as at most this many standard deviations, so that one outlier is not taken for a change.
const MOST_DEVIATIONS: f64 = 4.0;

/// The standard deviation is taken as at least this share of the mean.
const LEAST_SHARE: f64 = 0.05;

/// A smoothed value that follows a level change by a jump instead of slowly.
///
/// Unit: the unit of the samples, which must not be negative. An [`Ewma`] with a `Cusum` on either side; on an alarm the
/// mean of the samples since the sum left zero replaces the smoothed value.
///
/// # Source
/// `docs/formulas.md`, B5.
#[derive(Debug, Clone, Copy)]
pub struct Tracker {
    mean: Ewma,
    deviation: Ewma,
    sides: [Side; 2],
}

/// One side of the change test, with the samples since its CUSUM left zero.
#[derive(Debug, Clone, Copy)]
struct Side {
    cusum: Cusum,
    sign: f64,
    /// Sum of the samples, weighted by their seconds.
    sum: f64,
    weight: f64,
}

impl Tracker {
    /// Returns a tracker with the given half-life, s.
    #[must_use]
    pub fn new(half_life: f64) -> Self {
        let side = |sign| Side { cusum: Cusum::new(SLACK, THRESHOLD), sign, sum: 0.0, weight: 0.0 };
        Self { mean: Ewma::new(half_life), deviation: Ewma::new(half_life), sides: [side(1.0), side(-1.0)] }
    }

    /// Adds a sample that covers the last `dt` seconds. Returns true if the value jumped.
    pub fn update(&mut self, dt: f64, sample: f64) -> bool {
        let (Some(dt), Some(sample)) = (super::positive(dt), sane(sample)) else { return false };
        let Some(mean) = self.mean.value() else {
            self.mean.update(dt, sample);
            return false;
        };
        // Convert the mean absolute deviation to a standard deviation, assuming normal noise.
        let spread = self.deviation.value().unwrap_or(0.0) * (std::f64::consts::PI / 2.0).sqrt();
        let scale = spread.max(LEAST_SHARE * mean).max(f64::MIN_POSITIVE);
        let z = ((sample - mean) / scale).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS);
        let mut jumped = None;
        for side in &mut self.sides {
            let alarm = side.cusum.update(side.sign * z);
            if side.cusum.sum() > 0.0 || alarm {
                side.sum += dt * sample;
                side.weight += dt;
            }
            if alarm {
                jumped = Some(side.sum / side.weight);
            }
            if side.cusum.sum() == 0.0 {
                (side.sum, side.weight) = (0.0, 0.0);
            }
        }
        if let Some(level) = jumped {
            self.mean.reset(level);
            return true;
        }
        self.deviation.update(dt, (z * scale).abs());
        self.mean.update(dt, mean + z * scale);
        false
    }

    /// Returns the smoothed value, if there was a sample.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        self.mean.value()
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;
    use crate::control::formula::prints;

    #[test]
    fn b5_ewma_of_irregular_samples() {
        let mut mean = Ewma::new(10.0);
        mean.update(0.0, 100.0);
        for (dt, x, want) in [
            (1.0, 100.0, "100.000000000"),
            (1.0, 200.0, "106.696700846"),
            (5.0, 200.0, "134.024604461"),
            (10.0, 50.0, "92.012302231"),
            (0.1, 1000.0, "98.284231396"),
        ] {
            mean.update(dt, x);
            prints(mean.value().unwrap(), want);
        }
    }

    #[test]
    fn b5_cusum_path() {
        let mut cusum = Cusum::new(0.5, 4.0);
        let mut path = Vec::new();
        for (at, z) in [0.1, -0.4, 0.3, 1.2, 1.5, 0.9, 2.0, 1.1].into_iter().enumerate() {
            path.push((cusum.sum() * 10.0).round() / 10.0);
            assert_eq!(cusum.update(z), at == 7, "{at}");
        }
        assert_eq!(path, [0.0, 0.0, 0.0, 0.0, 0.7, 1.7, 2.1, 3.6]);
        assert_eq!(cusum.sum(), 0.0, "an alarm resets the sum");
    }

    #[test]
    fn a_tracker_jumps_at_a_step_and_not_at_an_outlier() {
        let noise = |at: u32| 1.0 + 0.05 * f64::from(at * 7919 % 13) / 6.0 - 0.05;
        let mut tracker = Tracker::new(60.0);
        let mut alarms = 0;
        for at in 0..1000 {
            let outlier = if at % 200 == 150 { 50.0 } else { 1.0 };
            // The first sample alone is a poor mean: ignore early alarms.
            alarms += u32::from(tracker.update(1.0, 1000.0 * noise(at) * outlier) && at > 100);
        }
        assert_eq!(alarms, 0);
        let before = tracker.value().unwrap();
        let jumped = (0..30).position(|at| tracker.update(1.0, 10_000.0 * noise(at)));
        assert!(jumped.is_some_and(|at| at < 5), "{jumped:?} from {before}");
        let after = tracker.value().unwrap();
        assert!((9000.0..11_000.0).contains(&after), "{after}");
        let down = (0..30).position(|at| tracker.update(1.0, 100.0 * noise(at)));
        assert!(down.is_some(), "{tracker:?}");
    }

    #[test]
    fn an_absurd_sample_is_clipped_or_dropped() {
        let mut mean = ClippedMean::new(4.0);
        [1e15, 2.0, 4.0].into_iter().for_each(|sample| mean.update(1.0, sample));
        assert!((2.0..4.0).contains(&mean.value().unwrap()), "{mean:?}");
        (0..20).for_each(|_| mean.update(1.0, 3.0));
        mean.update(1.0, 1e300);
        assert!((3.0..7.0).contains(&mean.value().unwrap()), "{mean:?}");
    }

    #[test]
    fn nonsense_changes_nothing() {
        let (mut mean, mut tracker, mut cusum) = (Ewma::new(f64::NAN), Tracker::new(0.0), Cusum::new(0.5, 4.0));
        mean.update(1.0, 5.0);
        for _ in 0..100 {
            tracker.update(1.0, 5.0);
        }
        for bad in NONSENSE {
            mean.update(bad, 5.0);
            tracker.update(bad, 5.0);
            tracker.update(-1.0, 9.0);
            cusum.update(f64::NAN);
            if !bad.is_finite() || bad < 0.0 {
                tracker.update(1.0, bad);
                mean.update(1.0, if bad.is_finite() { 5.0 } else { bad });
            }
        }
        assert_eq!((mean.value(), tracker.value(), cusum.sum()), (Some(5.0), Some(5.0), 0.0));
        mean.reset(f64::NAN);
        assert_eq!(mean.value(), Some(5.0));
        tracker.update(1.0, f64::MAX);
        assert!(tracker.value().unwrap().is_finite());
    }
}
