//! Compares policies over many seeds.

use std::collections::BTreeMap;

use alluvium::internals::control::interval::Controller;
use alluvium::interval::{Goals, IntervalSettings};
use alluvium::{Result, Timestamp};

use super::clairvoyant;
use super::simulation::{Outcome, Policy, simulate};
use super::world::{Failures, World};
use crate::random::Random;

/// Ratio of consecutive fixed intervals.
const INTERVAL_RATIO: f64 = 1.2;

/// Share of the capacity spent on checkpoints at the shortest fixed interval: a lower share is best unless failures
/// come every few intervals.
const COST_SHARE_MAX: f64 = 0.1;

/// Fixed intervals commonly configured.
pub(super) const USUAL_S: [f64; 2] = [30.0, 600.0];

/// Maximum number of moments in the clairvoyant schedule.
const MOMENTS_MAX: usize = 22_000;

/// A job, its load and the policies' settings.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(super) name: String,
    pub(super) world: World,
    pub(super) goals: Goals,
    pub(super) settings: IntervalSettings,
    pub(super) failures: Failures,
    /// Factor on the costs observed by the controller.
    pub(super) cost_factor: f64,
    pub(super) seeds: u32,
    pub(super) first_seed: u64,
}

impl Case {
    /// Returns the time between load samples, s, which doubles for a day-long run to bound its steps.
    fn sample_s(&self) -> f64 {
        if self.world.end() > 40_000.0 { 2.0 } else { 1.0 }
    }

    pub(super) fn draw_failures(&self, seed: u64) -> Vec<f64> {
        self.world.failures(self.failures, &mut Random::new(seed))
    }

    /// Runs the controller with a seed's failures.
    ///
    /// # Errors
    /// `Config` for invalid goals or settings.
    pub(super) fn run_adaptive(&self, seed: u64) -> Result<Outcome> {
        let controller = Controller::new(self.settings, self.goals, Timestamp::from_millis(0))?;
        let mut policy = Policy::Adaptive(Box::new(controller), self.cost_factor);
        Ok(simulate(&self.world, &mut policy, &self.draw_failures(seed), seed, self.sample_s()))
    }

    pub(super) fn seeds(&self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.seeds)).map(|seed| (self.first_seed + seed).wrapping_mul(0x9e37_79b9))
    }
}

/// A policy's totals over all seeds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Total {
    /// Lost time of each seed, s.
    pub(super) lost: Vec<f64>,
    pub(super) checkpoints: f64,
    pub(super) bytes: f64,
    pub(super) changes: f64,
    pub(super) busy_cost_s: f64,
    pub(super) checkpoint_s: f64,
    pub(super) shortest_s: f64,
    /// Recovery of each failure, by seed and index, s.
    pub(super) recoveries: BTreeMap<(u64, usize), f64>,
}

impl Total {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.lost.push(outcome.lost_s());
        self.checkpoints += outcome.checkpoints as f64;
        self.bytes += outcome.bytes;
        self.changes += outcome.changes.len().saturating_sub(1) as f64;
        self.busy_cost_s += outcome.busy_cost_s;
        self.checkpoint_s += outcome.checkpoint_s;
        self.shortest_s =
            if self.lost.len() == 1 { outcome.shortest_s } else { self.shortest_s.min(outcome.shortest_s) };
        self.recoveries.extend(outcome.recoveries.into_iter().map(|(index, took)| ((seed, index), took)));
    }

    /// Returns the mean lost time of a run, s.
    pub(super) fn mean(&self) -> f64 {
        self.lost.iter().sum::<f64>() / self.lost.len().max(1) as f64
    }

    /// Returns the standard error of the mean of `self - other` over paired runs; `None` for a single run.
    fn paired_error(&self, other: &Self) -> Option<f64> {
        let differences: Vec<f64> = self.lost.iter().zip(&other.lost).map(|(a, b)| a - b).collect();
        if differences.len() < 2 {
            return None;
        }
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some((variance / count).sqrt())
    }

    /// Returns the recovery time not exceeded by `share` of the failures, s.
    pub(super) fn recovery_quantile(&self, share: f64) -> Option<f64> {
        let mut all: Vec<f64> = self.recoveries.values().copied().collect();
        all.sort_unstable_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let at = (share * all.len() as f64).ceil() as usize;
        all.get(at.saturating_sub(1).min(all.len().saturating_sub(1))).copied()
    }
}

/// Recoveries against a goal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Met {
    pub(super) failures: usize,
    /// Recoveries under the controller that met the goal.
    pub(super) met: usize,
    /// The fixed interval that met the goal most often, the failures in which it did, and those of them in which the
    /// controller did too.
    pub(super) best_fixed_s: f64,
    pub(super) best_fixed_met: usize,
    pub(super) both_met: usize,
}

/// All policies on one case.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    pub(super) controller: Total,
    pub(super) clairvoyant: Total,
    pub(super) fixed: Vec<(f64, Total)>,
    /// The controller's first run.
    pub(super) first: Outcome,
    pub(super) first_failures: Vec<f64>,
}

impl Comparison {
    /// Returns the fixed interval with the smallest loss.
    pub(super) fn best_fixed(&self) -> (f64, &Total) {
        let best = self.fixed.iter().min_by(|a, b| a.1.mean().total_cmp(&b.1.mean()));
        best.map_or((f64::NAN, &self.clairvoyant), |(interval, total)| (*interval, total))
    }

    pub(super) fn fixed_at(&self, interval: f64) -> Option<&Total> {
        self.fixed.iter().find(|(other, _)| *other == interval).map(|(_, total)| total)
    }

    /// Returns the controller's extra loss relative to the best fixed interval; `None` if that interval lost nothing.
    pub(super) fn regret(&self) -> Option<f64> {
        self.relative_to_best_fixed(self.controller.mean()).map(|lost| lost - 1.0)
    }

    /// Returns the clairvoyant's saving relative to the best fixed interval; `None` if that interval lost nothing.
    pub(super) fn gap(&self) -> Option<f64> {
        self.relative_to_best_fixed(self.clairvoyant.mean()).map(|lost| 1.0 - lost)
    }

    /// Returns the share of that gap closed by the controller; `None` without a gap.
    pub(super) fn gap_closed(&self) -> Option<f64> {
        let (regret, gap) = (self.regret()?, self.gap()?);
        (gap > 0.0).then(|| -regret / gap)
    }

    /// Returns the standard error of [`Comparison::regret`]; `None` for a single run, or if the best fixed interval
    /// lost nothing.
    pub(super) fn regret_error(&self) -> Option<f64> {
        self.relative_to_best_fixed(self.controller.paired_error(self.best_fixed().1)?)
    }

    /// Returns a time as a share of the best fixed interval's loss.
    fn relative_to_best_fixed(&self, seconds: f64) -> Option<f64> {
        let best = self.best_fixed().1.mean();
        (best > 0.0).then(|| seconds / best)
    }

    /// Compares recoveries with `goal`.
    pub(super) fn met(&self, goal: f64) -> Met {
        let within = |total: &Total, key: &(u64, usize)| total.recoveries.get(key).is_some_and(|took| *took <= goal);
        let count = |total: &Total| total.recoveries.values().filter(|took| **took <= goal).count();
        let keys = || self.controller.recoveries.keys();
        let best = self.fixed.iter().max_by_key(|(_, total)| count(total));
        let best_met = keys().filter(|key| best.is_some_and(|(_, total)| within(total, key)));
        Met {
            failures: keys().count(),
            met: keys().filter(|key| within(&self.controller, key)).count(),
            best_fixed_s: best.map_or(f64::NAN, |(interval, _)| *interval),
            best_fixed_met: best_met.clone().count(),
            both_met: best_met.filter(|key| within(&self.controller, key)).count(),
        }
    }
}

/// Returns the fixed intervals to try, s: the controller's whole range, except intervals too short to be the best.
fn fixed_intervals(case: &Case) -> Vec<f64> {
    let (shortest, longest) = (case.settings.shortest.as_secs_f64(), case.settings.longest.as_secs_f64());
    let shortest = shortest.max(case.world.job.cost.0 / COST_SHARE_MAX).min(longest);
    let mut all: Vec<f64> = std::iter::successors(Some(shortest), |last| Some(last * INTERVAL_RATIO))
        .take_while(|interval| *interval < longest)
        .map(|interval| (interval * 10.0).round() / 10.0)
        .chain([longest])
        .chain(USUAL_S)
        .collect();
    all.sort_unstable_by(f64::total_cmp);
    all
}

/// Runs every policy over all seeds.
///
/// # Errors
/// `Config` for invalid goals or settings.
pub(super) fn compare(case: &Case) -> Result<Comparison> {
    compare_with(case, &fixed_intervals(case))
}

/// Runs every policy over all seeds, with these fixed intervals.
///
/// # Errors
/// `Config` for invalid goals or settings.
pub(super) fn compare_with(case: &Case, intervals: &[f64]) -> Result<Comparison> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a trace")]
    let moments = MOMENTS_MAX.min(case.world.end() as usize);
    let schedule = clairvoyant::schedule(&case.world, moments, case.settings.longest.as_secs_f64());
    let mut comparison = Comparison {
        controller: Total::default(),
        clairvoyant: Total::default(),
        fixed: intervals.iter().map(|interval| (*interval, Total::default())).collect(),
        first: Outcome::default(),
        first_failures: Vec::new(),
    };
    for seed in case.seeds() {
        let failures = case.draw_failures(seed);
        let run = |mut policy: Policy<'_>| simulate(&case.world, &mut policy, &failures, seed, 1.0);
        comparison.clairvoyant.add(seed, run(Policy::Schedule(&schedule)));
        for (interval, total) in &mut comparison.fixed {
            total.add(seed, run(Policy::Fixed(*interval)));
        }
    }
    with_controller(case, &comparison)
}

/// Runs the controller alone and takes the other policies' totals from `others`, which used the same seeds.
///
/// # Errors
/// `Config` for invalid goals or settings.
pub(super) fn with_controller(case: &Case, others: &Comparison) -> Result<Comparison> {
    let mut comparison = Comparison { controller: Total::default(), ..others.clone() };
    for (at, seed) in case.seeds().enumerate() {
        let outcome = case.run_adaptive(seed)?;
        if at == 0 {
            (comparison.first, comparison.first_failures) = (outcome.clone(), case.draw_failures(seed));
        }
        comparison.controller.add(seed, outcome);
    }
    Ok(comparison)
}
