//! The input rate and the capacity.

use super::learned::LearnedLoad;
use super::{ClippedMean, Ewma, Tracker, positive, sane};

/// Half-life of the smoothed rates, s.
const RATE_HALF_LIFE: f64 = 60.0;

/// Half-life of the utilisation expected at the end of a catch-up, s: a few catch-ups long.
const AHEAD_HALF_LIFE: f64 = 90.0;

/// Half-life of the capacity, in busy seconds.
const CAPACITY_HALF_LIFE: f64 = 120.0;

/// Half-life of the fast mean from which peaks are taken, s.
const FAST_HALF_LIFE: f64 = 5.0;

/// Half-life of a peak, s.
const PEAK_HALF_LIFE: f64 = 600.0;

/// Peaks are capped at this many times the capacity: at such a load no recovery ends anyway.
const MAX_PEAK_CAPACITIES: f64 = 2.0;

/// Busy shares below this are ignored when learning the capacity.
const MIN_BUSY: f64 = 0.001;

/// Rates beyond this, per second, are rejected as measurement errors.
const MAX_RATE: f64 = 1e15;

/// Utilisation is capped at this: at 1 a catch-up never ends.
const MAX_UTILISATION: f64 = 0.95;

/// The load since the previous sample.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadSample {
    /// Records received.
    pub received: f64,
    /// Records processed.
    pub processed: f64,
    /// State updates; `None` if not counted: processed records are used instead.
    pub updates: Option<f64>,
    /// Share of the time that the job was busy, 0 to 1; `None` if not measured: a job with a backlog then counts as busy.
    pub busy: Option<f64>,
    /// Records waiting to be processed; `None` if not counted.
    pub backlog: Option<f64>,
}

/// Input rate, updates, capacity, utilisation and backlog.
///
/// Units: records and updates per second; utilisation 0 to below 1. Rates are smoothed and follow level changes by jumps
/// ([`Tracker`]). The capacity (`mu`) is the records processed per busy second, learned whenever the job is busy, most of all
/// while it catches up.
///
/// # Source
/// `docs/formulas.md`, the table of symbols (`lam`, `mu`, `rho`) and B5. Check: 500 records in a second, half of it busy, give
/// mu = 1000/s.
#[derive(Debug, Clone)]
pub struct Load {
    rate: Tracker,
    /// Unlike the rate of updates, this does not change while the job catches up.
    updates_per_record: Tracker,
    capacity: ClippedMean,
    fast: Ewma,
    slow: Ewma,
    peak: f64,
    backlog: Option<f64>,
    /// Records processed per second in the last sample.
    processing: f64,
}

impl Load {
    /// Returns a load without samples; `capacity`, records/s, if it is known beforehand.
    #[must_use]
    pub fn new(capacity: Option<f64>) -> Self {
        let mut known = ClippedMean::new(CAPACITY_HALF_LIFE);
        capacity.and_then(positive).into_iter().for_each(|capacity| known.reset(capacity));
        Self {
            rate: Tracker::new(RATE_HALF_LIFE),
            updates_per_record: Tracker::new(RATE_HALF_LIFE),
            capacity: known,
            fast: Ewma::new(FAST_HALF_LIFE),
            slow: Ewma::new(AHEAD_HALF_LIFE),
            peak: 0.0,
            backlog: None,
            processing: 0.0,
        }
    }

    /// Adds a sample that covers the last `dt` seconds. Returns true if the rate of records or updates jumped.
    pub fn observe(&mut self, dt: f64, sample: LoadSample) -> bool {
        let (Some(dt), Some(received), Some(processed)) = (positive(dt), sane(sample.received), sane(sample.processed))
        else {
            return false;
        };
        let rate = received / dt;
        let updates = sample.updates.and_then(sane).unwrap_or(processed);
        if !(1e-6..1e7).contains(&dt) || [received, processed, updates].into_iter().any(|count| count / dt > MAX_RATE) {
            return false;
        }
        self.backlog = sample.backlog.and_then(sane).or(self.backlog);
        self.processing = processed / dt;
        self.learn_capacity(dt, processed, sample.busy);
        self.follow(dt, rate);
        let jumped = self.rate.update(dt, rate);
        let updates_jumped =
            positive(processed).is_some_and(|processed| self.updates_per_record.update(dt, updates / processed));
        updates_jumped || jumped
    }

    /// Updates the fast and slow means of the rate, and its peak.
    fn follow(&mut self, dt: f64, rate: f64) {
        let most = self.capacity().map_or(f64::INFINITY, |capacity| MAX_PEAK_CAPACITIES * capacity);
        let rate = rate.min(most);
        self.fast.update(dt, rate);
        self.slow.update(dt, rate);
        let faded = self.peak * (-dt / PEAK_HALF_LIFE).exp2();
        self.peak = faded.max(self.fast.value().unwrap_or(rate)).min(most);
    }

    fn learn_capacity(&mut self, dt: f64, processed: f64, busy: Option<f64>) {
        let busy = match busy {
            Some(busy) if (MIN_BUSY..=1.0).contains(&busy) => busy * dt,
            // More than a second's work is waiting: the job was not idle.
            None if self.backlog.is_some_and(|backlog| backlog > self.processing) => dt,
            _ => return,
        };
        if let Some(capacity) = positive(processed / busy) {
            self.capacity.update(busy, capacity);
        }
    }

    /// Returns the state to save.
    pub(in crate::control) fn learned(&self) -> LearnedLoad {
        LearnedLoad { rate: self.rate.value(), updates: self.updates_per_record.value(), capacity: self.capacity() }
    }

    /// Restores a saved state. A capacity given to [`Load::new`] takes precedence.
    pub(in crate::control) fn recall(&mut self, learned: &LearnedLoad) {
        let plausible = |value: Option<f64>| value.and_then(sane).filter(|value| *value <= MAX_RATE);
        if let (None, Some(capacity)) = (self.capacity(), plausible(learned.capacity).and_then(positive)) {
            self.capacity.reset(capacity);
        }
        if let Some(rate) = plausible(learned.rate) {
            self.rate.update(1.0, rate);
            self.follow(1.0, rate);
        }
        if let Some(updates) = plausible(learned.updates) {
            self.updates_per_record.update(1.0, updates);
        }
    }

    /// Returns the smoothed input rate, records/s (lam).
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate.value().unwrap_or(0.0)
    }

    /// Returns the recent peak rate, records/s; it halves every ten minutes.
    #[must_use]
    pub fn peak(&self) -> f64 {
        self.peak.max(self.rate())
    }

    /// Returns the smoothed rate of updates, per second.
    #[must_use]
    pub fn updates(&self) -> f64 {
        self.rate() * self.updates_per_record.value().unwrap_or(1.0)
    }

    /// Returns the highest rate at which the job can process records, records/s (mu), if it is known.
    #[must_use]
    pub fn capacity(&self) -> Option<f64> {
        self.capacity.value()
    }

    /// Returns the utilisation (rho = lam / mu) at `rate`, at most 0.95; 0.5 while the capacity is unknown.
    #[must_use]
    pub fn utilisation_at(&self, rate: f64) -> f64 {
        self.capacity().map_or(0.5, |capacity| (rate / capacity).clamp(0.0, MAX_UTILISATION))
    }

    /// Returns the smoothed utilisation, 0 to 0.95.
    #[must_use]
    pub fn utilisation(&self) -> f64 {
        self.utilisation_at(self.rate())
    }

    /// Returns the utilisation expected in some minutes: the mean of the last minutes, whatever the current value.
    #[must_use]
    pub fn utilisation_ahead(&self) -> f64 {
        self.utilisation_at(self.slow.value().unwrap_or(0.0))
    }

    /// Returns the utilisation of the last seconds.
    #[must_use]
    pub fn utilisation_just_seen(&self) -> f64 {
        self.utilisation_at(self.fast.value().unwrap_or(0.0))
    }

    /// Returns the number of waiting records, if it was ever counted.
    #[must_use]
    pub fn backlog(&self) -> Option<f64> {
        self.backlog
    }

    /// Returns the time to process the backlog, s, which is how long a record waits; `None` if unknown.
    #[must_use]
    pub fn residence(&self) -> Option<f64> {
        let backlog = self.backlog?;
        if backlog == 0.0 { Some(0.0) } else { self.capacity().map(|capacity| backlog / capacity) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;

    fn sample(records: f64, busy: f64) -> LoadSample {
        LoadSample { received: records, processed: records, busy: Some(busy), ..LoadSample::default() }
    }

    #[test]
    fn rates_capacity_and_utilisation() {
        let mut load = Load::new(None);
        assert_eq!((load.rate(), load.capacity(), load.utilisation()), (0.0, None, 0.5));
        for _ in 0..300 {
            load.observe(1.0, sample(500.0, 0.5));
        }
        assert_eq!((load.rate(), load.capacity(), load.utilisation()), (500.0, Some(1000.0), 0.5));
        // Without a busy share the backlog shows that the job is busy.
        let mut load = Load::new(Some(800.0));
        for _ in 0..600 {
            load.observe(
                1.0,
                LoadSample { received: 500.0, processed: 1000.0, backlog: Some(9e4), ..LoadSample::default() },
            );
        }
        assert!(
            (load.capacity().unwrap() - 1000.0).abs() < 10.0 && (load.residence().unwrap() - 90.0).abs() < 2.0,
            "{load:?}"
        );
    }

    #[test]
    fn a_tenfold_step_is_noticed_within_seconds() {
        let mut load = Load::new(Some(1e4));
        (0..600).for_each(|_| {
            load.observe(1.0, sample(500.0, 0.05));
        });
        let jumped = (0..20).position(|_| load.observe(1.0, sample(5000.0, 0.5)));
        assert!(jumped.is_some_and(|at| at < 5), "{jumped:?}");
        assert!(load.rate() > 4000.0 && load.peak() > 1500.0, "{load:?}");
        (0..60).for_each(|_| {
            load.observe(1.0, sample(500.0, 0.05));
        });
        assert!(load.rate() < 1000.0 && load.peak() > 1500.0, "{load:?}");
    }

    #[test]
    fn an_absurd_sample_is_soon_forgotten() {
        for before in [0, 600] {
            let mut load = Load::new(None);
            let usual = |load: &mut Load, times| {
                (0..times).for_each(|_| {
                    load.observe(1.0, sample(500.0, 0.5));
                });
            };
            usual(&mut load, before);
            load.observe(1.0, sample(1e14, 1.0));
            usual(&mut load, 10);
            let capacity = load.capacity().unwrap();
            assert!((900.0..1200.0).contains(&capacity) && load.peak() <= 2.1 * capacity, "{before} {load:?}");
            usual(&mut load, 1200);
            assert!(load.peak() < 900.0, "{before} {load:?}");
        }
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut load = Load::new(Some(f64::NAN));
        assert_eq!(load.capacity(), None);
        load.observe(1.0, sample(500.0, 0.5));
        for bad in NONSENSE {
            load.observe(bad, sample(1.0, 0.5));
            load.observe(1.0, LoadSample { busy: Some(bad), backlog: Some(bad), ..sample(500.0, 0.5) });
            load.observe(1.0, LoadSample { updates: Some(bad.min(-1.0)), ..sample(500.0, 0.5) });
            if bad != f64::MIN_POSITIVE {
                load.observe(1.0, sample(bad, 0.5));
            }
        }
        assert!((load.rate() - 500.0).abs() < 1e-6 && load.capacity() == Some(1000.0), "{load:?}");
        load.observe(1e12, sample(0.0, 0.0));
        assert!(load.rate() >= 0.0 && load.residence().is_none_or(f64::is_finite) && load.utilisation() <= 0.95);
    }
}
