//! The intervals that the cost, the goals and the guard rails ask for.

use super::goals::{Goals, LEAST_REQUESTS};
use super::reason::Infeasible;
use super::settings::IntervalSettings;
use crate::control::formula::{self, Cost, ReplayWeight};

/// What an interval is chosen by.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// Nothing is known yet.
    First,
    /// It has the least overhead.
    Cost,
    /// A recovery takes at most this many seconds.
    Recovery(f64),
    /// The last checkpoint is at most this many seconds old.
    RecoveryPoint(f64),
    /// Checkpoints take at most this share of the capacity.
    Overhead(f64),
    /// Bytes per hour.
    Bytes(f64),
    /// Requests per hour.
    Requests(f64),
    /// Bytes of changed rows in one checkpoint.
    DeltaBytes(f64),
    /// Checkpoints are under way for too large a share of the time.
    Duration,
    /// From the end of a checkpoint to the start of the next.
    MinPause,
    /// No interval is shorter.
    Shortest,
    /// No interval is longer.
    Longest,
}

impl Bound {
    /// Returns a stable name, for labels of metrics and for JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Cost => "cost",
            Self::Recovery(_) => "recovery",
            Self::RecoveryPoint(_) => "recovery_point",
            Self::Overhead(_) => "overhead",
            Self::Bytes(_) => "bytes",
            Self::Requests(_) => "requests",
            Self::DeltaBytes(_) => "delta_bytes",
            Self::Duration => "duration",
            Self::MinPause => "min_pause",
            Self::Shortest => "shortest",
            Self::Longest => "longest",
        }
    }

    /// Every name that [`Bound::name`] returns.
    pub const NAMES: [&'static str; 12] = [
        "first",
        "cost",
        "recovery",
        "recovery_point",
        "overhead",
        "bytes",
        "requests",
        "delta_bytes",
        "duration",
        "min_pause",
        "shortest",
        "longest",
    ];
}

/// Everything that the choice depends on, as estimated now.
pub(super) struct Situation<'a> {
    pub(super) settings: &'a IntervalSettings,
    pub(super) goals: &'a Goals,
    /// Bytes of changed rows after so many seconds, and the elasticity there.
    pub(super) delta: &'a dyn Fn(f64) -> (f64, f64),
    /// Bytes that a checkpoint writes whatever the interval.
    pub(super) base_bytes: f64,
    /// Capacity lost: fixed s, s per byte.
    pub(super) capacity_cost: (f64, f64),
    /// Duration: fixed s, s per byte.
    pub(super) duration: (f64, f64),
    /// Requests that a checkpoint makes, if one was seen.
    pub(super) requests: Option<f64>,
    pub(super) mtbf: f64,
    pub(super) weight: f64,
    pub(super) outage: f64,
    /// Input rate that a catch-up has to be planned with.
    pub(super) planned_rate: f64,
    pub(super) capacity: Option<f64>,
    /// By how much a recovery may take longer than predicted.
    pub(super) margin: f64,
}

/// What was chosen, and by what.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) interval: f64,
    pub(super) binds: Bound,
    pub(super) optimum: f64,
    /// The longest that goals and guard rails allow.
    pub(super) upper: f64,
    /// The shortest that goals and guard rails allow.
    pub(super) lower: f64,
    /// The shortest that guard rails allow.
    pub(super) rail: f64,
    pub(super) infeasible: Option<Infeasible>,
}

/// Intervals that are tried where a longer one may be better or worse.
const SCANNED: f64 = 64.0;

/// Share of the least overhead that may be given on top for a recovery goal that cannot be met for certain.
const BEST_EFFORT: f64 = 0.25;

/// How quickly an interval grows away from the quickest recovery's, by the share by which that misses the goal.
const LOOSENING: f64 = 10.0;

/// Steps in which a bound is searched for.
const HALVINGS: usize = 50;

impl Situation<'_> {
    /// Returns the cost of a checkpoint at an interval.
    pub(super) fn cost(&self, interval: f64) -> Cost {
        let (delta, elasticity) = (self.delta)(interval);
        let (fixed, per_byte) = self.capacity_cost;
        let cost = fixed + per_byte * (self.base_bytes + delta);
        Cost { cost, slope: per_byte * delta * elasticity / interval }
    }

    /// Returns the bytes that a checkpoint writes at an interval.
    pub(super) fn bytes(&self, interval: f64) -> f64 {
        self.base_bytes + (self.delta)(interval).0
    }

    /// Returns a checkpoint's duration at an interval.
    pub(super) fn duration(&self, interval: f64) -> f64 {
        self.duration.0 + self.duration.1 * self.bytes(interval)
    }

    /// Returns the worst recovery at an interval, as predicted. Checkpoints take their part of the capacity while the job catches
    /// up, so that neither the longest nor the shortest interval makes it short.
    pub(super) fn recovery(&self, interval: f64) -> f64 {
        let behind = interval + self.duration(interval) + self.missed();
        let left = (1.0 - self.cost(interval).cost / interval).max(0.0);
        self.outage + self.catch_up(self.planned_rate * behind, behind, left)
    }

    /// Returns whether input waits to be read, so that none piles up while the job is down or catches up.
    fn input_waits(&self) -> bool {
        self.settings.weight == ReplayWeight::Batch
    }

    /// Returns for how long input piles up in an outage, s.
    pub(super) fn missed(&self) -> f64 {
        if self.input_waits() { 0.0 } else { self.outage }
    }

    /// Returns how long it takes, s, to catch up with `records` that came in `time` seconds, while more come in, with the share
    /// `left` of the capacity. As long again, if nothing is known of the capacity or the input waited for it before.
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

    /// Returns the longest interval in range that keeps `holds`, which a longer one can only break; `None` if none does.
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

    /// Returns the longest interval in range at which a recovery takes at most `goal`, s.
    fn longest_recovering_in(&self, goal: f64) -> Option<f64> {
        if goal == f64::INFINITY {
            return Some(goal);
        }
        let (low, high) = self.range();
        let step = (high / low).powf(-1.0 / SCANNED);
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

    /// Returns the interval at which a recovery is shortest, and how long it is, s.
    fn quickest(&self, rail: f64) -> (f64, f64) {
        let high = self.range().1.max(rail);
        let step = (high / rail).powf(1.0 / SCANNED).max(1.001);
        let scanned = std::iter::successors(Some(rail), |t| Some(t * step)).take_while(|t| *t <= high);
        let all = scanned.map(|t| (t, self.recovery(t)));
        all.fold((rail, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a })
    }

    /// Returns the shortest interval in range that keeps `holds`, which a shorter one can only break; infinite if none does.
    fn shortest_with(&self, holds: impl Fn(f64) -> bool) -> f64 {
        self.longest_with(|interval| !holds(interval)).unwrap_or(0.0)
    }

    /// Returns what asks for a shorter interval, with the longest that each allows.
    fn uppers(&self) -> [(Bound, f64); 4] {
        let goal = |goal: Option<std::time::Duration>| goal.map_or(f64::INFINITY, |goal| goal.as_secs_f64());
        let (recovery, point) = (goal(self.goals.recovery), goal(self.goals.recovery_point));
        let within = |goal: f64| self.longest_recovering_in(goal);
        // A goal that leaves no room for error is still one.
        let by_recovery = within(recovery / self.margin).or_else(|| within(recovery)).unwrap_or(0.0);
        let by_point = self.longest_with(|t| t + self.duration(t) <= point).unwrap_or(0.0);
        let most = self.settings.delta_bytes;
        let by_delta = self.longest_with(|t| (self.delta)(t).0 <= most).unwrap_or(0.0);
        [
            (Bound::Recovery(recovery), by_recovery),
            (Bound::RecoveryPoint(point), by_point),
            (Bound::DeltaBytes(most), by_delta),
            (Bound::Longest, self.range().1),
        ]
    }

    /// Returns what asks for a longer interval by cost, with the shortest that each allows.
    fn lowers(&self) -> [(Bound, f64); 3] {
        let overhead = self.goals.overhead.unwrap_or(f64::INFINITY);
        let bytes = self.goals.bytes_per_hour.unwrap_or(f64::INFINITY);
        let requests = self.goals.requests_per_hour.unwrap_or(f64::INFINITY);
        let each = self.requests.unwrap_or(LEAST_REQUESTS);
        [
            (Bound::Overhead(overhead), self.shortest_with(|t| self.cost(t).cost <= overhead * t)),
            (Bound::Bytes(bytes), self.shortest_with(|t| self.bytes(t) * 3600.0 <= bytes * t)),
            (Bound::Requests(requests), each * 3600.0 / requests),
        ]
    }

    /// Returns the shortest interval that the guard rails allow.
    fn rail(&self) -> (Bound, f64) {
        let (shortest, longest) = self.range();
        let pause = self.settings.min_pause.as_secs_f64();
        let by_duration = self.shortest_with(|t| self.duration(t) <= self.settings.busy_share * t);
        let by_pause = if pause > 0.0 { self.shortest_with(|t| self.duration(t) + pause <= t) } else { 0.0 };
        let rails = [(Bound::Duration, by_duration.min(longest)), (Bound::MinPause, by_pause.min(longest))];
        most((Bound::Shortest, shortest), rails)
    }

    /// Returns the interval that cost, goals and guard rails agree on, or that comes nearest.
    pub(super) fn choose(&self) -> Choice {
        let (optimum, _) = formula::dirty_aware_optimum(|t| self.cost(t), self.mtbf, self.weight, self.range());
        let optimum = if optimum.is_finite() { optimum } else { self.settings.first.as_secs_f64() };
        let rail = self.rail();
        let mut uppers = self.uppers();
        let infeasible = self.beyond_recovery(&mut uppers, rail.1, optimum);
        let upper = least(&uppers);
        let lower = most((Bound::Shortest, 0.0), self.lowers());
        let infeasible = infeasible.or_else(|| self.conflict(if lower.1 > rail.1 { lower } else { rail }, upper));
        let mut interval = optimum;
        let mut binds = Bound::Cost;
        // What is named later wins.
        for (bound, value, longer) in [(lower.0, lower.1, true), (upper.0, upper.1, false), (rail.0, rail.1, true)] {
            let moves = if longer { interval < value } else { interval > value };
            if moves {
                (interval, binds) = (value, bound);
            }
        }
        let (shortest, longest) = self.range();
        let interval = interval.clamp(shortest, longest);
        // A budget gives way to what bounds a recovery.
        let (rail, lower) = (rail.1, rail.1.max(lower.1.min(upper.1)));
        Choice { interval, binds, optimum, upper: upper.1.max(rail), lower, rail, infeasible }
    }

    /// If no interval meets the recovery goal whenever a failure comes, loosens it: failures soon after a checkpoint may
    /// still meet it, and a little may be given for that. Says so.
    fn beyond_recovery(&self, uppers: &mut [(Bound, f64); 4], rail: f64, optimum: f64) -> Option<Infeasible> {
        let [(Bound::Recovery(goal), allowed), ..] = uppers else { return None };
        if *allowed >= rail {
            return None;
        }
        let (goal, (quickest, least)) = (*goal, self.quickest(rail));
        if least <= goal {
            *allowed = quickest;
            return None;
        }
        // Little by little, the further the goal is off: at the edge of what is possible the choice must not jump.
        let loosened = quickest * (LOOSENING * (least / goal - 1.0)).exp();
        *allowed = loosened.min(formula::band(BEST_EFFORT).0 * optimum).max(quickest);
        let (outage, capacity) = self.needed(goal, quickest + self.duration(quickest));
        Some(Infeasible::Recovery { goal, least, outage, capacity })
    }

    /// Returns the outage, s, and the capacity, records/s, either of which would make a recovery from a checkpoint of `age` take
    /// `goal`, with the other as it is.
    fn needed(&self, goal: f64, age: f64) -> (f64, f64) {
        if self.input_waits() {
            return (goal - age, f64::INFINITY);
        }
        let share = self.capacity.map_or(0.5, |capacity| (self.planned_rate / capacity).min(1.0));
        let spare = goal - self.outage;
        let capacity = if spare > 0.0 { self.planned_rate * (goal + age) / spare } else { f64::INFINITY };
        (goal * (1.0 - share) - share * age, capacity)
    }

    fn conflict(&self, longer: (Bound, f64), shorter: (Bound, f64)) -> Option<Infeasible> {
        if longer.1 <= shorter.1 {
            return None;
        }
        let (at, up_to) = (shorter.1.max(self.range().0), longer.1);
        let relax_longer = match longer.0 {
            Bound::Overhead(_) => self.cost(at).cost / at,
            Bound::Bytes(_) => self.bytes(at) * 3600.0 / at,
            Bound::Requests(_) => self.requests.unwrap_or(LEAST_REQUESTS) * 3600.0 / at,
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
