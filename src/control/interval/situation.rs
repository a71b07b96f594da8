//! The choice of an interval from cost, goals and guard rails.

use super::bound::Bound;
use super::costs::{Delta, Line};
use super::goals::{Goals, MIN_REQUESTS};
use super::infeasible::Infeasible;
use super::settings::IntervalSettings;
use crate::control::formula::{self, Cost, ReplayWeight};

/// The inputs of the choice, as currently estimated.
pub(super) struct Situation<'a> {
    pub(super) settings: &'a IntervalSettings,
    pub(super) goals: &'a Goals,
    /// The changed rows after a number of seconds.
    pub(super) delta: &'a dyn Fn(f64) -> Delta,
    /// Bytes of bases per checkpoint, whatever the interval.
    pub(super) base_bytes: f64,
    pub(super) capacity_cost: Line,
    pub(super) duration: Line,
    /// Requests per checkpoint, if any were reported.
    pub(super) requests: Option<f64>,
    pub(super) mtbf: f64,
    /// Weight of replay.
    pub(super) weight: f64,
    pub(super) outage: f64,
    /// Input rate that a catch-up must cope with, records/s.
    pub(super) planned_rate: f64,
    pub(super) capacity: Option<f64>,
    /// Factor by which a recovery may exceed its prediction.
    pub(super) margin: f64,
}

/// The chosen interval, and the bounds that led to it, s.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) interval: f64,
    pub(super) binds: Bound,
    /// Interval of the least overhead.
    pub(super) optimum: f64,
    /// Longest interval within goals and guard rails.
    pub(super) upper: f64,
    /// Shortest interval within goals and guard rails.
    pub(super) lower: f64,
    /// Shortest interval within the guard rails alone.
    pub(super) rail: f64,
    pub(super) infeasible: Option<Infeasible>,
}

/// Number of intervals tried where the recovery is not monotonic in the interval.
const SCAN_STEPS: f64 = 64.0;

/// Share of the least overhead that may be spent in addition on a recovery goal that cannot be met for certain.
const BEST_EFFORT: f64 = 0.25;

/// Exponent of the allowed interval over the one with the quickest recovery, per relative miss of the goal.
const LOOSENING: f64 = 10.0;

/// Bisection steps in the search for a bound.
const HALVINGS: usize = 50;

impl Situation<'_> {
    /// Returns the cost of a checkpoint at an interval.
    pub(super) fn cost(&self, interval: f64) -> Cost {
        let Delta { bytes, elasticity } = (self.delta)(interval);
        let cost = self.capacity_cost.at(self.base_bytes + bytes);
        Cost { cost, slope: self.capacity_cost.per_byte * bytes * elasticity / interval }
    }

    /// Returns the bytes of a checkpoint at an interval.
    pub(super) fn bytes(&self, interval: f64) -> f64 {
        self.base_bytes + (self.delta)(interval).bytes
    }

    /// Returns the duration of a checkpoint at an interval, s.
    pub(super) fn duration(&self, interval: f64) -> f64 {
        self.duration.at(self.bytes(interval))
    }

    /// Returns the predicted worst recovery at an interval, s. Checkpoints take capacity during the catch-up too, so both very
    /// long and very short intervals make a recovery long.
    pub(super) fn recovery(&self, interval: f64) -> f64 {
        let behind = interval + self.duration(interval) + self.missed();
        let left = (1.0 - self.cost(interval).cost / interval).max(0.0);
        self.outage + self.catch_up(self.planned_rate * behind, behind, left)
    }

    /// Returns whether input waits to be read, so that an outage builds up no backlog.
    fn input_waits(&self) -> bool {
        self.settings.weight == ReplayWeight::Batch
    }

    /// Returns the time for which an outage builds up a backlog, s.
    pub(super) fn missed(&self) -> f64 {
        if self.input_waits() { 0.0 } else { self.outage }
    }

    /// Returns the time to catch up with `records` received in `time` seconds, with the share `left` of the capacity and
    /// continuing input, s. Returns `time` if the capacity is unknown or the input waits to be read.
    pub(super) fn catch_up(&self, records: f64, time: f64, left: f64) -> f64 {
        match self.capacity.filter(|_| !self.input_waits()) {
            Some(capacity) if capacity * left > self.planned_rate => records / (capacity * left - self.planned_rate),
            Some(_) => f64::INFINITY,
            None => time,
        }
    }

    fn range(&self) -> (f64, f64) {
        (self.settings.shortest.as_secs_f64(), self.settings.longest.as_secs_f64())
    }

    /// Returns the longest interval in range that satisfies `holds`, infinite if all do; `None` if none does. `holds` must be
    /// monotonic: true up to some interval, false beyond it.
    fn longest_with(&self, holds: impl Fn(f64) -> bool) -> Option<f64> {
        let (mut low, mut high) = self.range();
        if holds(high) {
            return Some(f64::INFINITY);
        }
        if !holds(low) {
            return None;
        }
        for _ in 0..HALVINGS {
            let middle = (low * high).sqrt();
            if holds(middle) { low = middle } else { high = middle }
        }
        Some(low)
    }

    /// Returns the longest interval in range with a recovery of at most `goal`, s, infinite if the longest has; `None` if none has.
    fn longest_recovering_in(&self, goal: f64) -> Option<f64> {
        if goal == f64::INFINITY {
            return Some(goal);
        }
        let (low, high) = self.range();
        let step = (high / low).powf(-1.0 / SCAN_STEPS);
        let scanned = std::iter::successors(Some(high), |t| Some(t * step)).take_while(|t| *t > low * step);
        let mut longer = None;
        for t in scanned {
            if self.recovery(t) <= goal {
                let Some(mut above) = longer else { return Some(f64::INFINITY) };
                let mut below = t;
                for _ in 0..HALVINGS {
                    let middle = 0.5 * (below + above);
                    if self.recovery(middle) <= goal { below = middle } else { above = middle }
                }
                return Some(below);
            }
            longer = Some(t);
        }
        None
    }

    /// Returns the interval with the shortest recovery, and that recovery, s.
    fn quickest(&self, rail: f64) -> (f64, f64) {
        let high = self.range().1.max(rail);
        let step = (high / rail).powf(1.0 / SCAN_STEPS).max(1.001);
        let scanned = std::iter::successors(Some(rail), |t| Some(t * step)).take_while(|t| *t <= high);
        let all = scanned.map(|t| (t, self.recovery(t)));
        all.fold((rail, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a })
    }

    /// Returns the shortest interval in range that satisfies `holds`, 0 if all do, infinite if none does. `holds` must be
    /// monotonic: false up to some interval, true beyond it.
    fn shortest_with(&self, holds: impl Fn(f64) -> bool) -> f64 {
        self.longest_with(|interval| !holds(interval)).unwrap_or(0.0)
    }

    /// Returns the bounds from above, each with the longest interval that it allows.
    fn uppers(&self) -> [(Bound, f64); 4] {
        let goal = |goal: Option<std::time::Duration>| goal.map_or(f64::INFINITY, |goal| goal.as_secs_f64());
        let (recovery, point) = (goal(self.goals.recovery), goal(self.goals.recovery_point));
        let within = |goal: f64| self.longest_recovering_in(goal);
        // Without room for the margin the goal still counts.
        let by_recovery = within(recovery / self.margin).or_else(|| within(recovery)).unwrap_or(0.0);
        let by_point = self.longest_with(|t| t + self.duration(t) <= point).unwrap_or(0.0);
        let most = self.settings.delta_bytes;
        let by_delta = self.longest_with(|t| (self.delta)(t).bytes <= most).unwrap_or(0.0);
        [
            (Bound::Recovery(recovery), by_recovery),
            (Bound::RecoveryPoint(point), by_point),
            (Bound::DeltaBytes(most), by_delta),
            (Bound::Longest, self.range().1),
        ]
    }

    /// Returns the budgets, each with the shortest interval that it allows.
    fn lowers(&self) -> [(Bound, f64); 3] {
        let overhead = self.goals.overhead.unwrap_or(f64::INFINITY);
        let bytes = self.goals.bytes_per_hour.unwrap_or(f64::INFINITY);
        let requests = self.goals.requests_per_hour.unwrap_or(f64::INFINITY);
        let each = self.requests.unwrap_or(MIN_REQUESTS);
        [
            (Bound::Overhead(overhead), self.shortest_with(|t| self.cost(t).cost <= overhead * t)),
            (Bound::Bytes(bytes), self.shortest_with(|t| self.bytes(t) * 3600.0 <= bytes * t)),
            (Bound::Requests(requests), each * 3600.0 / requests),
        ]
    }

    /// Returns the shortest interval that the guard rails allow, and the rail that binds.
    fn rail(&self) -> (Bound, f64) {
        let (shortest, longest) = self.range();
        let pause = self.settings.min_pause.as_secs_f64();
        let by_duration = self.shortest_with(|t| self.duration(t) <= self.settings.busy_share * t);
        let by_pause = if pause > 0.0 { self.shortest_with(|t| self.duration(t) + pause <= t) } else { 0.0 };
        let rails = [(Bound::Duration, by_duration.min(longest)), (Bound::MinPause, by_pause.min(longest))];
        most((Bound::Shortest, shortest), rails)
    }

    /// Returns the interval nearest to the cost optimum within goals and guard rails.
    pub(super) fn choose(&self) -> Choice {
        let (optimum, _) = formula::dirty_aware_optimum(|t| self.cost(t), self.mtbf, self.weight, self.range());
        let optimum = if optimum.is_finite() { optimum } else { self.settings.first.as_secs_f64() };
        let rail = self.rail();
        let mut uppers = self.uppers();
        let infeasible = self.loosen_recovery(&mut uppers, rail.1, optimum);
        let upper = least(&uppers);
        let lower = most((Bound::Shortest, 0.0), self.lowers());
        let infeasible = infeasible.or_else(|| self.conflict(if lower.1 > rail.1 { lower } else { rail }, upper));
        let mut interval = optimum;
        let mut binds = Bound::Cost;
        // A later bound overrides an earlier one.
        for (bound, value, longer) in [(lower.0, lower.1, true), (upper.0, upper.1, false), (rail.0, rail.1, true)] {
            let moves = if longer { interval < value } else { interval > value };
            if moves {
                (interval, binds) = (value, bound);
            }
        }
        let (shortest, longest) = self.range();
        let interval = interval.clamp(shortest, longest);
        // A budget yields to a bound on the recovery.
        let (rail, lower) = (rail.1, rail.1.max(lower.1.min(upper.1)));
        Choice { interval, binds, optimum, upper: upper.1.max(rail), lower, rail, infeasible }
    }

    /// Loosens a recovery goal that no interval meets in the worst case, and reports it as infeasible. Recoveries from failures
    /// soon after a checkpoint may still meet the goal, which is worth a little overhead.
    fn loosen_recovery(&self, uppers: &mut [(Bound, f64); 4], rail: f64, optimum: f64) -> Option<Infeasible> {
        let [(Bound::Recovery(goal), allowed), ..] = uppers else { return None };
        if *allowed >= rail {
            return None;
        }
        let (goal, (quickest, least)) = (*goal, self.quickest(rail));
        if least <= goal {
            *allowed = quickest;
            return None;
        }
        // Loosen gradually: the choice must not jump when the goal becomes infeasible.
        let loosened = quickest * (LOOSENING * (least / goal - 1.0)).exp();
        *allowed = loosened.min(formula::band(BEST_EFFORT).0 * optimum).max(quickest);
        let (outage, capacity) = self.needed(goal, quickest + self.duration(quickest));
        Some(Infeasible::Recovery { goal, least, outage, capacity })
    }

    /// Returns the outage, s, and the capacity, records/s, either of which alone would let a recovery from a checkpoint of `age`
    /// meet `goal`.
    fn needed(&self, goal: f64, age: f64) -> (f64, f64) {
        if self.input_waits() {
            return (goal - age, f64::INFINITY);
        }
        let share = self.capacity.map_or(0.5, |capacity| (self.planned_rate / capacity).min(1.0));
        let spare = goal - self.outage;
        let capacity = if spare > 0.0 { self.planned_rate * (goal + age) / spare } else { f64::INFINITY };
        (goal * (1.0 - share) - share * age, capacity)
    }

    /// Returns the conflict between a bound from below and one from above, if they leave no interval.
    fn conflict(&self, longer: (Bound, f64), shorter: (Bound, f64)) -> Option<Infeasible> {
        if longer.1 <= shorter.1 {
            return None;
        }
        let (at, up_to) = (shorter.1.max(self.range().0), longer.1);
        let relax_longer = match longer.0 {
            Bound::Overhead(_) => self.cost(at).cost / at,
            Bound::Bytes(_) => self.bytes(at) * 3600.0 / at,
            Bound::Requests(_) => self.requests.unwrap_or(MIN_REQUESTS) * 3600.0 / at,
            _ => f64::NAN,
        };
        let relax_shorter = match shorter.0 {
            Bound::Recovery(_) => self.recovery(up_to) * self.margin,
            Bound::RecoveryPoint(_) => up_to + self.duration(up_to),
            _ => f64::NAN,
        };
        Some(Infeasible::Conflict { longer, shorter, relax_longer, relax_shorter })
    }
}

fn least(bounds: &[(Bound, f64)]) -> (Bound, f64) {
    bounds.iter().copied().fold((Bound::Longest, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a })
}

fn most<const N: usize>(first: (Bound, f64), bounds: [(Bound, f64); N]) -> (Bound, f64) {
    bounds.into_iter().fold(first, |a, b| if b.1 > a.1 { b } else { a })
}
