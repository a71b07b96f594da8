//! The failure rate.

use super::learned::{LearnedFailures, LearnedPage};
use super::{positive, sane};

/// The change test looks for a rate that is higher or lower by this factor.
const CHANGE: f64 = 4.0;

/// Log likelihood ratio at which a change is accepted: less than one false alarm in a hundred failures.
const ACCEPTED: f64 = 5.0;

/// Seconds or failures beyond this are rejected as measurement errors.
const MAX: f64 = 1e12;

/// Logarithm of the prior odds against a change.
const PRIOR_LOG_ODDS: f64 = 4.0;

/// A time that stands for never, s.
const NEVER: f64 = 1e150;

/// Strength of the prior after a change, in failures.
const STRENGTH_AFTER_CHANGE: f64 = 0.5;

/// A failure rate with a Gamma distribution: `shape` failures in `time` seconds.
///
/// # Source
/// `docs/formulas.md`, B4. Check: prior (1, 86400) and 2 failures in 21600 s give a mean time of 36000 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GammaPoisson {
    shape: f64,
    time: f64,
}

impl GammaPoisson {
    /// Returns a prior worth `strength` (> 0) failures, `mtbf` (> 0) seconds apart.
    pub(super) fn new(strength: f64, mtbf: f64) -> Self {
        let shape = positive(strength).unwrap_or(1.0);
        Self { shape, time: shape * positive(mtbf).unwrap_or(NEVER) }
    }

    /// Adds `failures` in `time` seconds.
    pub(super) fn observe(&mut self, failures: f64, time: f64) {
        self.shape += sane(failures).unwrap_or(0.0);
        self.time += sane(time).unwrap_or(0.0);
    }

    /// Returns the mean time between failures, s.
    pub(super) fn mtbf(&self) -> f64 {
        self.time / self.shape
    }
}

/// Assumptions about failures before any evidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FailurePrior {
    /// Mean time between failures of the job as a whole, without those of single nodes, s.
    pub job_mtbf: f64,
    /// Mean time between failures of one node, s; infinite if node failures are not reported separately.
    pub node_mtbf: f64,
    /// Weight of the prior, in failures. The optimum is flat, so a few suffice and evidence soon outweighs them.
    pub strength: f64,
    /// Half-life of evidence, s.
    pub memory: f64,
}

impl Default for FailurePrior {
    /// One failure a day, with the weight of three failures; evidence halves in a week.
    fn default() -> Self {
        Self { job_mtbf: 86_400.0, node_mtbf: f64::INFINITY, strength: 3.0, memory: 7.0 * 86_400.0 }
    }
}

/// The extent of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureScope {
    /// The job as a whole.
    Job,
    /// One of its nodes.
    Node,
}

/// The job's failure rate: the sum of its own and its nodes', each learned from failures and from the time between them.
///
/// Units: failures per second of the job, or per second and node. [`FailureRate::advance`] reports time. Until the first
/// failure the mean time is the prior's or, once longer, the time without a failure: quiet hours do not worsen a prior that is
/// too long. Page's test on the gaps detects a fourfold change and drops older evidence; before it decides, the
/// estimate weighs the change by its odds.
///
/// # Source
/// `docs/formulas.md`, B4.
#[derive(Debug, Clone, Copy)]
pub struct FailureRate {
    job: Evidence,
    node: Evidence,
    nodes: f64,
    /// Expected number of announced node failures, already counted as evidence.
    announced: f64,
}

impl FailureRate {
    /// Returns the rate of `prior`, for one node.
    #[must_use]
    pub fn new(prior: FailurePrior) -> Self {
        Self {
            job: Evidence::new(prior.job_mtbf, prior.strength, prior.memory),
            node: Evidence::new(prior.node_mtbf, prior.strength, prior.memory),
            nodes: 1.0,
            announced: 0.0,
        }
    }

    /// Sets the number of nodes.
    pub fn set_nodes(&mut self, nodes: f64) {
        self.nodes = positive(nodes).unwrap_or(self.nodes);
    }

    /// Advances time by `dt` seconds.
    pub fn advance(&mut self, dt: f64) {
        self.job.advance(dt, dt);
        self.node.advance(dt, dt * self.nodes);
    }

    /// Records a failure. Returns true if the change test accepted a new rate.
    pub fn failed(&mut self, scope: FailureScope) -> bool {
        match scope {
            FailureScope::Job => self.job.failed(1.0),
            FailureScope::Node => {
                let counted = self.announced.min(1.0);
                self.announced -= counted;
                self.node.failed(1.0 - counted)
            }
        }
    }

    /// Records that a node will be lost with `probability`: counted now, and not again at the failure.
    pub fn announced(&mut self, probability: f64) {
        let probability = sane(probability).unwrap_or(0.0).min(1.0);
        self.announced += probability;
        self.node.failed(probability);
    }

    /// Returns the state to save, of the job and of its nodes.
    pub(in crate::control) fn learned(&self) -> (LearnedFailures, LearnedFailures) {
        (self.job.learned(), self.node.learned())
    }

    /// Restores a saved state.
    pub(in crate::control) fn recall(&mut self, job: &LearnedFailures, node: &LearnedFailures) {
        self.job.recall(job);
        self.node.recall(node);
    }

    /// Returns the mean time between failures of the job, s; finite and above zero.
    #[must_use]
    pub fn mtbf(&self) -> f64 {
        let rate = 1.0 / self.job.mtbf() + self.nodes / self.node.mtbf();
        (1.0 / rate).clamp(1e-3, 1e12)
    }

    /// Returns the number of failures.
    #[cfg(test)]
    fn failures(&self) -> f64 {
        self.job.failures + self.node.failures
    }
}

/// The evidence for one rate.
#[derive(Debug, Clone, Copy)]
struct Evidence {
    /// The prior from the settings.
    configured: GammaPoisson,
    /// The prior in force: the configured one until the rate changes.
    prior: GammaPoisson,
    posterior: GammaPoisson,
    /// Half-life of evidence, s.
    memory: f64,
    failures: f64,
    /// Time before the first failure, s.
    quiet: f64,
    more: Page,
    fewer: Page,
}

/// One side of Page's test: a log likelihood ratio, at least zero, and the failures and seconds since it was zero.
#[derive(Debug, Clone, Copy, Default)]
struct Page {
    ratio: f64,
    failures: f64,
    time: f64,
}

impl Page {
    fn learned(&self) -> LearnedPage {
        let Self { ratio, failures, time } = *self;
        LearnedPage { ratio, failures, time }
    }

    fn restored(learned: LearnedPage) -> Option<Self> {
        let LearnedPage { ratio, failures, time } = learned;
        Some(Self { ratio: plausible(ratio)?, failures: plausible(failures)?, time: plausible(time)? })
    }

    /// Returns the probability of the change.
    fn probability(&self) -> f64 {
        1.0 / (1.0 + (PRIOR_LOG_ODDS - self.ratio).exp())
    }

    fn update(&mut self, change: f64, failures: f64, time: f64) {
        self.ratio += change;
        self.failures += failures;
        self.time += time;
        if self.ratio <= 0.0 {
            *self = Self::default();
        }
    }
}

/// Returns `value` if it is plausible.
fn plausible(value: f64) -> Option<f64> {
    sane(value).filter(|value| *value <= MAX)
}

impl Evidence {
    fn new(mtbf: f64, strength: f64, memory: f64) -> Self {
        let prior = GammaPoisson::new(strength, mtbf);
        let (more, fewer) = (Page::default(), Page::default());
        Self {
            configured: prior,
            prior,
            posterior: prior,
            memory: positive(memory).unwrap_or(f64::MAX),
            failures: 0.0,
            quiet: 0.0,
            more,
            fewer,
        }
    }

    fn learned(&self) -> LearnedFailures {
        LearnedFailures {
            shape: self.posterior.shape - self.prior.shape,
            time: self.posterior.time - self.prior.time,
            failures: self.failures,
            quiet: self.quiet,
            changed_to: (self.prior != self.configured).then(|| self.prior.mtbf()),
            more: Some(self.more.learned()),
            fewer: Some(self.fewer.learned()),
        }
    }

    fn recall(&mut self, learned: &LearnedFailures) {
        if let Some(mtbf) = learned.changed_to.and_then(plausible).and_then(positive) {
            self.prior = GammaPoisson::new(STRENGTH_AFTER_CHANGE, mtbf);
        }
        self.posterior = self.prior;
        if let (Some(shape), Some(time)) = (plausible(learned.shape), plausible(learned.time)) {
            self.posterior.observe(shape, time);
        }
        self.failures = plausible(learned.failures).unwrap_or(0.0);
        self.quiet = plausible(learned.quiet).unwrap_or(0.0);
        self.more = learned.more.and_then(Page::restored).unwrap_or_default();
        self.fewer = learned.fewer.and_then(Page::restored).unwrap_or_default();
    }

    fn mtbf(&self) -> f64 {
        self.unchanged_mtbf() * CHANGE.powf(self.fewer.probability() - self.more.probability())
    }

    /// Returns the mean time under the hypothesis that the rate has not changed.
    fn unchanged_mtbf(&self) -> f64 {
        if self.failures == 0.0 { self.prior.mtbf().max(self.quiet) } else { self.posterior.mtbf() }
    }

    fn advance(&mut self, dt: f64, exposure: f64) {
        let (Some(dt), Some(exposure)) = (sane(dt), sane(exposure)) else { return };
        if dt > MAX {
            return;
        }
        if self.failures == 0.0 {
            self.quiet += exposure;
        }
        // Only evidence fades; the prior stays.
        let kept = (-dt / self.memory).exp2();
        self.posterior.shape = self.prior.shape + kept * (self.posterior.shape - self.prior.shape);
        self.posterior.time = self.prior.time + kept * (self.posterior.time - self.prior.time) + exposure;
        // Without a failure there is no rate that could have changed.
        if self.failures > 0.0 {
            let expected = exposure / self.unchanged_mtbf();
            self.more.update(-(CHANGE - 1.0) * expected, 0.0, exposure);
            self.fewer.update((1.0 - 1.0 / CHANGE) * expected, 0.0, exposure);
            self.detect_change();
        }
    }

    fn failed(&mut self, count: f64) -> bool {
        if count <= 0.0 {
            return false;
        }
        self.posterior.shape += count;
        self.failures += count;
        self.more.update(count * CHANGE.ln(), count, 0.0);
        self.fewer.update(-count * CHANGE.ln(), count, 0.0);
        self.detect_change()
    }

    /// Replaces prior and evidence if either side of the test accepts a change.
    fn detect_change(&mut self) -> bool {
        let changed = [self.more, self.fewer].into_iter().find(|side| side.ratio > ACCEPTED);
        let Some(Page { failures, time, .. }) = changed else { return false };
        let mtbf = (time / failures.max(1.0)).max(1e-3);
        self.prior = GammaPoisson::new(STRENGTH_AFTER_CHANGE, mtbf);
        self.posterior = self.prior;
        self.posterior.observe(failures, time);
        (self.more, self.fewer) = (Page::default(), Page::default());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::NONSENSE;
    use super::*;
    use crate::control::formula::prints;

    #[test]
    fn b4_gamma_poisson() {
        for (a0, m0, k, t, m) in [
            (1.0, 86_400.0, 0.0, 0.0, "86400.000"),
            (1.0, 86_400.0, 0.0, 86_400.0, "172800.000"),
            (1.0, 86_400.0, 2.0, 21_600.0, "36000.000"),
            (2.0, 86_400.0, 2.0, 21_600.0, "48600.000"),
            (1.0, 86_400.0, 10.0, 86_400.0, "15709.091"),
            (0.5, 604_800.0, 1.0, 3600.0, "204000.000"),
        ] {
            let mut rate = GammaPoisson::new(a0, m0);
            rate.observe(k, t);
            prints(rate.mtbf(), m);
        }
    }

    fn prior(mtbf: f64) -> FailurePrior {
        FailurePrior { job_mtbf: mtbf, ..FailurePrior::default() }
    }

    #[test]
    fn quiet_hours_do_not_make_a_long_prior_longer() {
        let mut rate = FailureRate::new(prior(1000.0));
        assert_eq!(rate.mtbf(), 1000.0);
        (0..900).for_each(|_| rate.advance(1.0));
        assert_eq!(rate.mtbf(), 1000.0);
        (0..900).for_each(|_| rate.advance(1.0));
        assert!((rate.mtbf() - 1800.0).abs() < 1.0);
        rate.failed(FailureScope::Job);
        // The first failure is already weak evidence of a higher rate.
        assert!((1100.0..1200.0).contains(&rate.mtbf()), "{}", rate.mtbf());
    }

    #[test]
    fn evidence_outweighs_a_wrong_prior() {
        for wrong in [0.25, 4.0] {
            let mut rate = FailureRate::new(prior(wrong * 1000.0));
            for _ in 0..20 {
                rate.advance(1000.0);
                rate.failed(FailureScope::Job);
            }
            assert!((800.0..1450.0).contains(&rate.mtbf()), "{wrong}: {}", rate.mtbf());
        }
    }

    #[test]
    fn a_changed_rate_is_detected() {
        let mut rate = FailureRate::new(prior(10_000.0));
        for _ in 0..20 {
            rate.advance(10_000.0);
            assert!(!rate.failed(FailureScope::Job));
        }
        let detected = (0..10).position(|_| {
            rate.advance(600.0);
            rate.failed(FailureScope::Job)
        });
        assert!(detected.is_some_and(|at| at < 6), "{detected:?}");
        assert!(rate.mtbf() < 1200.0, "{}", rate.mtbf());
        (0..100).for_each(|_| rate.advance(100.0));
        assert!(rate.mtbf() > 4000.0, "{}", rate.mtbf());
    }

    #[test]
    fn a_change_counts_by_its_odds_until_the_test_accepts_it() {
        let mut rate = FailureRate::new(prior(1000.0));
        (0..20).for_each(|_| {
            rate.advance(1000.0);
            rate.failed(FailureScope::Job);
        });
        rate.advance(2000.0);
        let before = rate.mtbf();
        assert!((0.95..1.5).contains(&(before / 1000.0)), "{before}");
        for times in [1.1, 1.4, 1.9] {
            rate.advance(1.0);
            assert!(!rate.failed(FailureScope::Job), "not yet accepted");
            let now = before / rate.mtbf();
            assert!((times..1.35 * times).contains(&now), "{times}: {now}");
        }
        rate.advance(1.0);
        assert!(rate.failed(FailureScope::Job) && rate.mtbf() < 5.0, "{}", rate.mtbf());
    }

    #[test]
    fn nodes_add_up_and_an_announced_loss_counts_once() {
        let mut rate = FailureRate::new(FailurePrior { node_mtbf: 864_000.0, ..prior(1e11) });
        rate.set_nodes(10.0);
        assert!((rate.mtbf() / 86_400.0 - 1.0).abs() < 1e-3, "{}", rate.mtbf());
        rate.advance(86_400.0);
        rate.announced(1.0);
        let announced = rate.mtbf();
        assert!(!rate.failed(FailureScope::Node));
        assert_eq!((rate.mtbf(), rate.failures()), (announced, 1.0));
        rate.failed(FailureScope::Node);
        assert!(rate.mtbf() < announced);
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut rate =
            FailureRate::new(FailurePrior { job_mtbf: f64::NAN, node_mtbf: -1.0, strength: 0.0, memory: 0.0 });
        assert!(rate.mtbf().is_finite() && rate.mtbf() > 0.0);
        rate = FailureRate::new(prior(1000.0));
        let before = rate.mtbf();
        for bad in NONSENSE.into_iter().filter(|bad| *bad != f64::MIN_POSITIVE) {
            rate.advance(bad);
            rate.announced(bad.min(0.0));
            rate.set_nodes(bad.min(0.0));
        }
        assert_eq!((rate.mtbf(), rate.failures()), (before, 0.0));
        (0..1000).for_each(|_| {
            rate.failed(FailureScope::Job);
        });
        assert!(rate.mtbf() > 0.0);
        let mut gamma = GammaPoisson::new(1.0, 100.0);
        gamma.observe(f64::NAN, -1.0);
        assert!(gamma.mtbf() == 100.0);
    }
}
