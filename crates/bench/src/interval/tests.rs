//! Checks the simulator against closed forms, and the controller against the best choice in hindsight.
//!
//! Few seeds and short loads, to take seconds; `alluvium interval --suite` produces the full table.

use std::time::Duration;

use alluvium::Timestamp;
use alluvium::internals::control::formula;
use alluvium::internals::control::interval::Controller;
use alluvium::interval::{Bound, FailurePrior, Goals, Infeasible, IntervalSettings};

use super::compare::{Case, compare_with};
use super::simulation::{Outcome, Policy, simulate};
use super::suite::Variant;
use super::trace::{MADE_CAPACITY, Made};
use super::world::{Failures, Job, World};
use crate::random::Random;

/// A job whose checkpoints cost the same at any interval.
fn plain_job(cost: f64, duration: f64, outage: f64) -> Job {
    Job {
        capacity: 1000.0,
        keys: 1.0,
        row_bytes: 1.0,
        skew: 0.0,
        cost: (cost, 0.0),
        duration: (duration, 0.0),
        outage: (outage, 0.0),
        noise: 0.0,
    }
}

/// The default job of `alluvium interval`.
fn usual_job() -> Job {
    Job {
        capacity: MADE_CAPACITY,
        keys: 1e7,
        row_bytes: 100.0,
        skew: 0.8,
        cost: (0.3, 5e-9),
        duration: (0.6, 1e-8),
        outage: (10.0, 5e-9),
        noise: 0.1,
    }
}

fn case(made: Made, mtbf: f64, seeds: u32) -> Case {
    let (rate, updates, likelier) = made.make(1);
    let hazard = likelier.into_iter().map(|factor| factor / mtbf).collect();
    Case {
        name: made.name().to_owned(),
        world: World::new(usual_job(), rate, updates, hazard),
        goals: Goals::default(),
        settings: IntervalSettings::default()
            .with(|it| it.failures = FailurePrior { job_mtbf: mtbf, ..FailurePrior::default() }),
        failures: Failures::Exponential,
        cost_factor: 1.0,
        seeds,
        first_seed: 1,
    }
}

/// Runs a fixed interval over a constant load, once per seed.
fn fixed_runs(world: &World, interval: f64, seeds: u64) -> Vec<Outcome> {
    let run = |seed: u64| {
        let failures = world.failures(Failures::Exponential, &mut Random::new(seed * 7919));
        simulate(world, &mut Policy::Fixed(interval), &failures, seed, 1.0)
    };
    (1..=seeds).map(run).collect()
}

/// Returns mean and standard error.
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

#[test]
fn a4_a_busy_job_is_useful_for_as_long_as_the_closed_form_says() {
    for (t, c, m, r, operators, hop) in [
        (60.0, 0.5, 3600.0, 30.0, 1, 0.0),
        (60.0, 0.5, 3600.0, 30.0, 6, 5.0),
        (600.0, 5.0, 3600.0, 60.0, 10, 1.0),
        (120.0, 2.0, 800.0, 20.0, 5, 0.1),
    ] {
        let usable_after = f64::from(operators - 1) * hop;
        // Input exceeds capacity, so the job is always busy.
        let world = World::plain(plain_job(c, usable_after, r), vec![1500.0; 60_000], m);
        let useful: Vec<f64> =
            fixed_runs(&world, t, 30).iter().map(|run| run.processed / 1000.0 / world.end()).collect();
        let (got, error) = mean(&useful);
        let want = formula::utilisation(t, c, m, r, operators, hop);
        assert!((got - want).abs() < 4.0 * error + 1e-3, "T {t}: {got} +- {error}, closed form {want}");
    }
}

#[test]
fn a5_lost_time_is_the_overhead_of_the_closed_form() {
    for (rho, t) in [(0.5, 30.0), (0.5, 120.0), (0.8, 30.0)] {
        let (c, d, m) = (0.5, 1.0, 3600.0);
        let world = World::plain(plain_job(c, d, 5.0), vec![rho * 1000.0; 80_000], m);
        let lost: Vec<f64> = fixed_runs(&world, t, 30).iter().map(|run| run.lost_s() / world.end()).collect();
        let (got, error) = mean(&lost);
        let weight = formula::ReplayWeight::CatchUp.at(rho);
        // The age at a failure is half an interval plus the duration; nothing is lost during an outage.
        let want = (formula::overhead(t, c, m, weight) + weight * d / m) * m / (m + 5.0);
        assert!(
            (got - want).abs() < 4.0 * error + 0.03 * want,
            "rho {rho}, T {t}: {got} +- {error}, closed form {want}"
        );
    }
}

#[test]
fn a7_no_recovery_takes_longer_than_the_closed_form_says() {
    let (t, d, down, rho) = (20.0, 1.0, 15.0, 0.5);
    let world = World::plain(plain_job(0.0, d, down), vec![rho * 1000.0; 150_000], 3000.0);
    let worst = formula::recovery(down, t + d, rho * 1000.0, 1000.0);
    let least = formula::recovery(down, d, rho * 1000.0, 1000.0);
    let runs = fixed_runs(&world, t, 20);
    let all: Vec<f64> = runs.iter().flat_map(|run| run.recoveries.iter().map(|(_, took)| *took)).collect();
    // The catch-up threshold and the one-second sampling shift a recovery by up to a second each way; a failure soon
    // after a catch-up undoes work done faster than real time.
    let within = all.iter().filter(|took| (least - 2.0..=worst + 2.0).contains(*took)).count();
    assert!(all.len() > 500 && within as f64 > 0.98 * all.len() as f64, "{least} {worst}: {within} of {}", all.len());
    let (middle, error) = mean(&all);
    assert!((middle - 0.5 * (least + worst)).abs() < 4.0 * error + 1.5, "{middle} +- {error}");
}

#[test]
fn weibull_failures_are_as_many_and_clustered() {
    let world = World::plain(plain_job(0.1, 0.1, 1.0), vec![100.0; 400_000], 1000.0);
    for (failures, spread) in [(Failures::Exponential, 1.0), (Failures::Weibull(0.7), 1.46)] {
        let times: Vec<Vec<f64>> = (1..30).map(|seed| world.failures(failures, &mut Random::new(seed))).collect();
        let gaps: Vec<f64> = times.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
        let (gap, error) = mean(&gaps);
        let deviation = error * (gaps.len() as f64).sqrt();
        assert!(
            (gap - 1000.0).abs() < 40.0 && (deviation / gap - spread).abs() < 0.1,
            "{failures:?} {gap} {deviation}"
        );
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    let case = case(Made::Bursts, 1200.0, 1);
    let runs: Vec<Outcome> = (0..2).map(|_| case.run_adaptive(5).unwrap()).collect();
    assert_eq!(format!("{:?}", runs[0]), format!("{:?}", runs[1]));
    assert_ne!(runs[0].lost_s(), case.run_adaptive(6).unwrap().lost_s());
}

/// Fixed intervals around the best ones.
const SOME_S: [f64; 9] = [9.0, 13.0, 19.0, 27.0, 30.0, 40.0, 57.0, 85.0, 600.0];

#[test]
fn the_controller_is_close_to_the_best_fixed_interval_in_hindsight() {
    // `docs/adaptive.md` shows the same with more seeds; the bounds leave room for noise.
    for (made, variant, most, closed) in [
        (Made::Steady, Variant::Expected, 0.05, None),
        (Made::Step, Variant::Expected, -0.05, Some(0.6)),
        (Made::Diurnal, Variant::Weibull, -0.03, Some(0.5)),
        (Made::WriteStorm, Variant::Expected, -0.05, Some(0.55)),
        (Made::FailureRate, Variant::Expected, -0.02, Some(0.35)),
        (Made::Bursts, Variant::Costs(0.5), 0.06, None),
        (Made::FlashCrowd, Variant::Costs(2.0), 0.06, None),
    ] {
        let mut case = case(made, 1200.0, 16);
        variant.apply(&mut case);
        let comparison = compare_with(&case, &SOME_S).unwrap();
        let regret = comparison.regret().unwrap();
        assert!(regret <= most, "{made:?} {variant:?}: {regret}");
        assert!(
            closed.is_none_or(|least| comparison.gap_closed().unwrap() >= least),
            "{made:?}: {:?}",
            comparison.gap_closed()
        );
        let clairvoyant = comparison.clairvoyant.mean();
        assert!(
            clairvoyant < 1.01 * comparison.best_fixed().1.mean(),
            "{made:?}: the clairvoyant is no worse than fixed"
        );
        for usual in super::compare::USUAL_S {
            let other = comparison.fixed_at(usual).unwrap().mean();
            assert!(comparison.controller.mean() < 1.05 * other, "{made:?} against {usual} s");
        }
    }
}

#[test]
fn a_wrong_prior_costs_a_quarter_until_a_failure_is_seen_and_less_and_less_after() {
    // Failures are expected but none comes, so the formula gives the loss.
    let job = plain_job(0.5, 0.5, 10.0);
    let (mtbf, rho) = (3600.0, 0.5);
    let quiet = World::new(job, vec![rho * 1000.0; 3000], vec![1.0; 3000], vec![0.0; 3000]);
    let weight = formula::ReplayWeight::CatchUp.at(rho);
    let least = formula::overhead(formula::weighted(0.5, mtbf, weight), 0.5, mtbf, weight);
    for factor in [0.25, 1.0, 4.0] {
        let settings = IntervalSettings::default()
            .with(|it| it.failures = FailurePrior { job_mtbf: factor * mtbf, ..FailurePrior::default() });
        let controller = Controller::new(settings, Goals::default(), Timestamp::from_millis(0)).unwrap();
        let run = simulate(&quiet, &mut Policy::Adaptive(Box::new(controller), 1.0), &[], 1, 1.0);
        let (_, last) = run.changes.iter().rev().find(|(at, _)| *at < 1000.0).unwrap();
        let overhead = formula::overhead(last.interval.as_secs_f64(), 0.5, mtbf, weight);
        assert!(overhead <= 1.27 * least, "prior x {factor}: {overhead} against {least}");
    }
    for factor in [0.25, 4.0] {
        let mut off = case(Made::Steady, 600.0, 12);
        Variant::Prior(factor).apply(&mut off);
        let comparison = compare_with(&off, &SOME_S).unwrap();
        assert!(comparison.regret().unwrap() < 0.1, "prior x {factor}: {:?}", comparison.regret());
    }
}

#[test]
fn on_constant_conditions_the_interval_settles_and_stays() {
    let mut constant = case(Made::Steady, 43_200.0, 1);
    // Half a day without a failure, which is plausible at that rate; then one per hour on average.
    let rate: Vec<f64> = constant.world.rate.iter().copied().cycle().take(43_200).collect();
    // Also with a binding goal, whose bound moves with the estimates.
    let goal = Some(Duration::from_secs(90));
    for (mtbf, every, recovery) in [(43_200.0, 1e12, None), (3600.0, 3600.0, None), (43_200.0, 1e12, goal)] {
        constant.goals.recovery = recovery;
        constant.world = World::plain(usual_job(), rate.clone(), every);
        constant.settings.failures.job_mtbf = mtbf;
        let mut changes = 0;
        for seed in 1..=2 {
            let run = constant.run_adaptive(seed).unwrap();
            // Ten checkpoints at intervals that at most double.
            let settled = 10.0 * run.changes.last().unwrap().1.interval.as_secs_f64();
            changes += run.changes.iter().filter(|(at, _)| *at > settled).count();
        }
        assert!(changes < 2 * 12, "{changes} changes in 24 h");
    }
}

#[test]
fn recovery_goals_are_met() {
    for (made, goal) in [(Made::Steady, 120), (Made::Diurnal, 240), (Made::FlashCrowd, 180), (Made::WriteStorm, 120)] {
        let mut case = case(made, 1200.0, 16);
        case.goals.recovery = Some(Duration::from_secs(goal));
        let comparison = compare_with(&case, &SOME_S).unwrap();
        let met = comparison.met(goal as f64);
        assert!(
            met.best_fixed_met > 100 && met.both_met as f64 >= 0.99 * met.best_fixed_met as f64,
            "{made:?}: {met:?}"
        );
    }
}

/// Headroom for noise and for the first checkpoints, whose costs are unknown.
const SLACK: f64 = 1.01;

#[test]
fn guard_rails_and_budgets_hold_under_any_goals() {
    let shortest = Duration::from_secs(5);
    for goals in [
        Goals::default().with(|it| it.recovery = Some(Duration::from_secs(1))),
        Goals::default().with(|it| it.recovery_point = Some(Duration::from_secs(1))),
        Goals::default().with(|it| {
            it.recovery_point = Some(Duration::from_secs(8));
            it.overhead = Some(1e-4);
        }),
    ] {
        let mut case = case(Made::Bursts, 900.0, 1);
        (case.goals, case.settings.shortest) = (goals, shortest);
        let run = case.run_adaptive(1).unwrap();
        assert!(run.shortest_s >= 5.0 - 1e-3, "{goals:?}: {}", run.shortest_s);
        assert!(run.changes.iter().all(|(_, decision)| decision.interval >= shortest));
        let (_, last) = run.changes.last().unwrap();
        assert!(last.reason.infeasible.is_some(), "{goals:?}: {}", last.reason);
    }
    let mut case = case(Made::Steady, 900.0, 1);
    case.goals.overhead = Some(0.005);
    let run = case.run_adaptive(1).unwrap();
    let hours = case.world.end() / 3600.0;
    assert!(run.checkpoint_s / case.world.end() <= 0.005 * SLACK, "{}", run.checkpoint_s / case.world.end());
    case.goals = Goals::default().with(|it| it.bytes_per_hour = Some(3e9));
    let run = case.run_adaptive(1).unwrap();
    assert!(run.bytes / hours <= 3e9 * SLACK, "{}", run.bytes / hours);
    case.goals = Goals::default().with(|it| it.requests_per_hour = Some(60.0));
    let run = case.run_adaptive(1).unwrap();
    assert!(run.requests / hours <= 60.0 * SLACK, "{}", run.requests / hours);
    assert!(matches!(run.changes.last().unwrap().1.reason.binds, Bound::Requests(_)));
    case.goals = Goals::default().with(|it| it.recovery = Some(Duration::from_secs(2)));
    let run = case.run_adaptive(1).unwrap();
    let (_, last) = run.changes.last().unwrap();
    assert!(matches!(last.reason.infeasible, Some(Infeasible::Recovery { .. })), "{}", last.reason);
}
