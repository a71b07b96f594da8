//! The controller's rules, one by one. The simulator in `cli/interval` measures the quality of its choices.

use std::time::Duration;

use super::*;
use crate::control::estimate::{FailurePrior, FailureScope, LoadSample, NONSENSE};
use crate::control::formula::ReplayWeight;
use crate::time::Timestamp;

/// A day after the epoch, so that a clock can be set back.
const START_S: f64 = 86_400.0;

#[expect(clippy::cast_possible_truncation, reason = "milliseconds of some days")]
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millis(((START_S + seconds) * 1000.0).round() as i64)
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn expecting(mtbf: f64) -> IntervalSettings {
    IntervalSettings {
        failures: FailurePrior { job_mtbf: mtbf, ..FailurePrior::default() },
        ..IntervalSettings::default()
    }
}

/// An engine that asks ten times a second and obeys.
struct Engine {
    settings: IntervalSettings,
    controller: Controller,
    now: f64,
    /// Records per second and busy share; `None`: no load samples.
    load: Option<(f64, f64)>,
    /// Records processed per second; `None`: as many as received.
    processed: Option<f64>,
    /// Checkpoint duration, fixed and per record, s.
    duration: (f64, f64),
    /// Bytes of a checkpoint beside 100 per record.
    overhead: f64,
    records: f64,
    ends: Option<f64>,
    triggers: Vec<f64>,
}

impl Engine {
    fn new(settings: IntervalSettings, goals: Goals) -> Self {
        Self {
            settings,
            controller: Controller::new(settings, goals, at(0.0)).unwrap(),
            now: 0.0,
            load: Some((1000.0, 0.5)),
            processed: None,
            duration: (0.5, 0.0),
            overhead: 0.0,
            records: 0.0,
            ends: None,
            triggers: Vec::new(),
        }
    }

    fn report(&mut self, observation: Observation) {
        self.controller.observe(at(self.now), observation);
    }

    /// Restarts ten seconds later, with a controller that resumes from this one's estimates.
    fn start_again(&mut self) {
        let learned = Learned::from_bytes(&self.controller.learned().to_bytes()).unwrap();
        assert_eq!(learned, self.controller.learned());
        self.now += 10.0;
        let (settings, goals) = (self.settings, *self.controller.goals());
        self.controller = Controller::resume(settings, goals, at(self.now), &learned).unwrap();
        (self.records, self.ends) = (0.0, None);
    }

    fn fail(&mut self) {
        self.report(Observation::Failed(FailureScope::Node));
        self.ends = None;
    }

    fn sample(&self) -> CheckpointSample {
        CheckpointSample {
            duration: self.duration.0 + self.duration.1 * self.records,
            capacity: Some(0.2),
            delta_bytes: 100.0 * self.records + self.overhead,
            rows: 0.5 * self.records,
            requests: 3.0,
            ..CheckpointSample::default()
        }
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + seconds;
        let mut sampled = self.now;
        while self.now + 0.05 < end {
            self.now += 0.1;
            if let Some((rate, busy)) = self.load
                && self.now - sampled > 0.95
            {
                sampled = self.now;
                let processed = self.processed.unwrap_or(rate);
                self.records += processed;
                let busy = Some(busy);
                self.report(Observation::Load(LoadSample { received: rate, processed, busy, ..LoadSample::default() }));
            }
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        if self.ends.is_some_and(|end| self.now >= end) {
            self.ends = None;
            let sample = self.sample();
            self.records = 0.0;
            self.report(Observation::Completed(sample));
        }
        if self.controller.is_due(at(self.now)) {
            self.triggers.push(self.now);
            self.ends = Some(self.now + self.sample().duration);
            self.report(Observation::Triggered);
        }
    }

    /// Returns the number of checkpoints started after `from`.
    fn started(&self, from: f64) -> usize {
        self.triggers.iter().filter(|at| **at > from).count()
    }

    fn interval(&self) -> f64 {
        seconds(self.controller.decision().interval)
    }
}

#[test]
fn a_failure_without_a_restore_stops_no_checkpoints() {
    // Processed records show that the job survives the loss of a node.
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.run(600.0);
    engine.fail();
    engine.run(600.0);
    assert!(engine.started(610.0) > 5, "{:?}", engine.triggers);
    // Without observations the recovery ends at its predicted time.
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.load = None;
    engine.run(600.0);
    engine.fail();
    assert!(!engine.controller.is_due(at(601.0)));
    engine.run(600.0);
    assert!(engine.started(600.0) > 5, "{:?}", engine.triggers);
}

#[test]
fn setting_the_clock_stops_no_checkpoints() {
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.run(600.0);
    for time in [at(600.0 + 3600.0), Timestamp::MAX, Timestamp::MIN, at(0.0)] {
        let load = LoadSample { received: 1000.0, processed: 1000.0, busy: Some(0.5), ..LoadSample::default() };
        engine.controller.observe(time, Observation::Load(load));
        let before = engine.triggers.len();
        engine.run(300.0);
        assert!((3..40).contains(&(engine.triggers.len() - before)), "{time}: {:?}", engine.triggers);
    }
    assert!(engine.controller.mtbf() < 1e5, "{}", engine.controller.mtbf());
}

#[test]
fn a_catch_up_without_observations_causes_no_checkpoint_storm() {
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.load = None;
    engine.run(60.0);
    engine.fail();
    engine.run(5.0);
    engine.report(Observation::Restored { bytes: 0.0 });
    engine.run(600.0);
    let most = 600.0 / seconds(engine.controller.decision().earliest) + 10.0;
    assert!((3.0..most).contains(&(engine.started(65.0) as f64)), "{:?}", engine.triggers);
}

#[test]
fn early_checkpoints_keep_to_the_busy_share() {
    // A checkpoint takes 1 s plus a quarter of the interval: in flight for half of the time at an interval of 4 s.
    let goals = Goals { recovery_point: Some(Duration::from_secs(3)), ..Goals::default() };
    let settings = IntervalSettings { restore_bytes_per_s: 100.0 * 4000.0, ..expecting(3600.0) };
    let mut engine = Engine::new(settings, goals);
    engine.load = Some((1000.0, 0.25));
    engine.duration = (1.0, 1.0 / 4000.0);
    engine.run(1200.0);
    assert!((3.8..4.5).contains(&engine.interval()), "{}", engine.controller.decision().reason);
    engine.fail();
    engine.load = None;
    engine.run(10.0);
    engine.report(Observation::Restored { bytes: 0.0 });
    (engine.records, engine.load, engine.processed) = (0.0, Some((1000.0, 1.0)), Some(4000.0));
    engine.run(60.0);
    let first = engine.triggers.iter().find(|at| **at > 1210.0).unwrap();
    assert!((1213.8..1216.0).contains(first), "{:?}", engine.triggers);
}

#[test]
fn an_absurd_size_has_no_lasting_effect() {
    let absurd = CheckpointSample { delta_bytes: 1e300, rows: 1.0, ..CheckpointSample::default() };
    let large = CheckpointSample { delta_bytes: 1e12, base_bytes: 1e12, requests: 1e9, ..absurd };
    for (first, absurd) in [(true, absurd), (true, large), (false, absurd), (false, large)] {
        let goals = Goals { bytes_per_hour: Some(2e9), ..Goals::default() };
        let usual = |engine: &mut Engine| engine.duration = (0.5, 1e-6);
        let mut sane = Engine::new(expecting(3600.0), goals);
        let mut engine = Engine::new(expecting(3600.0), goals);
        [&mut sane, &mut engine].into_iter().for_each(usual);
        if !first {
            [&mut sane, &mut engine].into_iter().for_each(|engine| engine.run(3600.0));
        }
        engine.report(Observation::State { bytes: 1e8, rows: 1e6 });
        engine.report(Observation::Completed(absurd));
        for _ in 0..4 {
            [&mut sane, &mut engine].into_iter().for_each(|engine| engine.run(450.0));
        }
        let ratio = engine.interval() / sane.interval();
        assert!((0.6..1.7).contains(&ratio), "{first} {absurd:?}: {}", engine.controller.decision().reason);
    }
}

#[test]
fn an_idle_epoch_does_not_change_the_size_of_rows() {
    let settings = IntervalSettings { delta_bytes: 5e6, ..expecting(36_000.0) };
    let mut engine = Engine::new(settings, Goals::default());
    engine.overhead = 1e5;
    engine.run(3600.0);
    let before = engine.interval();
    let idle = CheckpointSample { delta_bytes: 1e5 + 100.0, rows: 1.0, ..engine.sample() };
    for sample in [engine.sample(), idle] {
        engine.report(Observation::Triggered);
        engine.report(Observation::Completed(sample));
    }
    engine.run(1.0);
    assert!((0.9..1.1).contains(&(engine.interval() / before)), "{before} {}", engine.controller.decision().reason);
}

#[test]
fn a_failure_reported_repeatedly_counts_once() {
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.run(600.0);
    for _ in 0..4 {
        engine.report(Observation::Failed(FailureScope::Job));
    }
    assert!(engine.controller.mtbf() > 2000.0, "{}", engine.controller.mtbf());
}

#[test]
fn budgets_are_kept_from_the_first_checkpoint_on() {
    let hours = 6.0;
    let mut engine = Engine::new(expecting(900.0), Goals { requests_per_hour: Some(60.0), ..Goals::default() });
    engine.run(hours * 3600.0);
    assert!(3.0 * engine.triggers.len() as f64 <= 60.0 * hours + 3.0, "{}", engine.triggers.len());
    let mut engine = Engine::new(expecting(900.0), Goals { overhead: Some(0.005), ..Goals::default() });
    engine.run(hours * 3600.0);
    // The first checkpoint is before the costs are known.
    assert!(0.2 * (engine.triggers.len() as f64 - 1.0) <= 0.005 * hours * 3600.0, "{}", engine.triggers.len());
}

#[test]
fn the_pause_between_checkpoints_is_part_of_the_interval() {
    let settings = IntervalSettings { min_pause: Duration::from_secs(4), ..expecting(3600.0) };
    let goals = Goals { recovery_point: Some(Duration::from_secs(2)), ..Goals::default() };
    let mut engine = Engine::new(settings, goals);
    engine.run(120.0);
    assert!((4.5..4.7).contains(&engine.interval()), "{}", engine.controller.decision().reason);
    let reason = &engine.controller.decision().reason;
    assert!(matches!(reason.infeasible, Some(Infeasible::Conflict { .. })), "{reason}");
}

#[test]
fn a_past_notice_hides_no_later_one() {
    let settings = IntervalSettings { first: Duration::from_secs(3600), ..expecting(1e9) };
    let mut engine = Engine::new(settings, Goals::default());
    engine.load = None;
    engine.now = 100.0;
    engine.report(Observation::Notice { deadline: at(99.0), probability: 0.0 });
    engine.report(Observation::Notice { deadline: at(400.0), probability: 0.0 });
    engine.run(310.0);
    assert!(engine.triggers.len() == 1 && (390.0..400.0).contains(&engine.triggers[0]), "{:?}", engine.triggers);
}

#[test]
fn a_past_deadline_means_due() {
    let settings = IntervalSettings { min_pause: Duration::from_secs(8), ..expecting(300.0) };
    let mut engine = Engine::new(settings, Goals { recovery: Some(Duration::from_secs(60)), ..Goals::default() });
    for step in 0..4000_u32 {
        match step {
            700 | 2000 | 2010 => engine.fail(),
            900 | 2100 => engine.report(Observation::Restored { bytes: 1e9 }),
            1000 => engine.load = Some((1.0, 0.01)),
            2500 => engine.load = Some((1000.0, 0.5)),
            2600 => engine.report(Observation::Notice { deadline: at(engine.now - 5.0), probability: 0.5 }),
            2700 => engine.report(Observation::Notice { deadline: at(engine.now + 4.0), probability: 0.5 }),
            3000 => engine.report(Observation::Aborted),
            _ => {}
        }
        engine.run(1.0);
        let past = engine.controller.deadline().is_some_and(|deadline| deadline <= at(engine.now));
        assert!(!past || engine.controller.is_due(at(engine.now)), "step {step} at {}", engine.now);
    }
    assert!(engine.started(0.0) > 100, "{:?}", engine.triggers);
}

#[test]
fn after_an_abort_the_age_counts_from_the_last_durable_checkpoint() {
    let mut engine = Engine::new(expecting(36_000.0), Goals::default());
    engine.run(3600.0);
    let interval = engine.interval();
    assert!(interval > 30.0, "{interval}");
    while engine.ends.is_none() {
        engine.run(0.1);
    }
    engine.ends = None;
    engine.report(Observation::Aborted);
    let before = engine.triggers.len();
    engine.run(interval);
    let again = engine.triggers[before] - engine.triggers[before - 1];
    assert!(again < 0.1 * interval, "{again} of {interval}");
    // Checkpoints that always fail back off.
    let before = engine.triggers.len();
    for _ in 0..36_000 {
        engine.run(0.1);
        if engine.ends.take().is_some() {
            engine.report(Observation::Aborted);
        }
    }
    let tries = engine.triggers.len() - before;
    assert!((30..60).contains(&tries), "{tries} with an interval of {interval}");
}

#[test]
fn missing_observations_do_not_count_as_zero() {
    let mut engine = Engine::new(expecting(3600.0), Goals::default());
    engine.report(Observation::Dirty { updates: f64::NAN, rows: f64::NAN });
    engine.run(600.0);
    let rows = engine.controller.decision().reason.dirty_rows_per_s;
    assert!((450.0..550.0).contains(&rows), "every other record dirties a row: {rows}");
    // Without backlog reports the catch-up lasts as long as predicted.
    engine.run(0.95 * engine.interval());
    engine.fail();
    let load = engine.load.take();
    engine.run(9.0);
    engine.report(Observation::Restored { bytes: 0.0 });
    engine.load = load;
    let restored = engine.now;
    let latest = seconds(engine.controller.decision().latest);
    engine.run(1.05 * latest);
    assert_eq!(engine.started(restored), 0, "still catching up: {:?} {latest}", engine.triggers);
}

#[test]
fn a_reason_names_the_damping() {
    let mut engine = Engine::new(expecting(36_000.0), Goals::default());
    engine.run(12.0);
    let reason = &engine.controller.decision().reason;
    assert_eq!((engine.interval(), reason.binds, reason.damping), (20.0, Bound::Cost, Some(Damping::Step)));
    let (start, part) = ("20.0 s: cost optimum binds and asks for 120.", " s, a factor of two at a time; dirty");
    assert!(reason.to_string().starts_with(start) && reason.to_string().contains(part), "{reason}");
    engine.run(3600.0);
    let reason = &engine.controller.decision().reason;
    assert!(reason.to_string().starts_with("120.0 s: cost optimum binds; dirty"), "{reason}");
}

#[test]
fn the_longest_interval_is_used_to_the_full() {
    let settings = IntervalSettings { longest: Duration::from_secs(60), ..expecting(1e6) };
    let budget = Goals { requests_per_hour: Some(30.0), ..Goals::default() };
    for (goals, binds) in [(Goals::default(), Bound::Cost), (budget, Bound::Longest)] {
        let mut engine = Engine::new(settings, goals);
        engine.run(600.0);
        let reason = &engine.controller.decision().reason;
        assert!(engine.interval() == 60.0 && reason.binds == binds, "{reason}");
    }
}

#[test]
fn an_infeasible_goal_is_reported_with_finite_numbers() {
    let goals = Goals { recovery: Some(Duration::from_secs(30)), ..Goals::default() };
    let infeasible = |load: (f64, f64), weight: ReplayWeight| {
        let mut engine = Engine::new(IntervalSettings { weight, ..expecting(3600.0) }, goals);
        engine.load = Some(load);
        engine.run(600.0);
        engine.controller.decision().reason.infeasible.as_ref().map(ToString::to_string)
    };
    let saturated = infeasible((1000.0, 1.0), ReplayWeight::CatchUp).unwrap();
    assert!(
        saturated
            .starts_with("recovery goal 30.0 s cannot be met: the load leaves no room to catch up; it needs a cap")
    );
    assert!(!saturated.contains("no end"), "{saturated}");
    let loaded = infeasible((900.0, 0.9), ReplayWeight::CatchUp).unwrap();
    assert!(loaded.contains("the quickest takes") && loaded.contains("or a goal of"), "{loaded}");
    // Waiting input builds up no backlog.
    assert_eq!(infeasible((1000.0, 1.0), ReplayWeight::Batch), None);
}

#[test]
fn waiting_input_is_replayed_as_fast_as_it_was_read() {
    let settings = IntervalSettings { weight: ReplayWeight::Batch, ..expecting(3600.0) };
    let mut engine = Engine::new(settings, Goals::default());
    // A slow start makes the capacity look small for a while.
    engine.load = Some((100.0, 1.0));
    engine.run(2.0);
    engine.load = Some((1000.0, 1.0));
    engine.run(30.0);
    let reason = &engine.controller.decision().reason;
    assert!(reason.recovery_s <= 10.0 + reason.interval_s + 0.6, "{reason}");
    let since = engine.now - engine.triggers.last().unwrap();
    let predicted = engine.controller.predicted_recovery(at(engine.now));
    assert!(predicted <= 10.0 + since + 1.0, "{predicted} after {since}");
}

#[test]
fn an_engine_need_not_count_rows() {
    let mut controller = Controller::new(expecting(3600.0), Goals::default(), at(0.0)).unwrap();
    for second in (1..600).map(f64::from) {
        let load = LoadSample { received: 1000.0, processed: 1000.0, busy: Some(0.5), ..LoadSample::default() };
        controller.observe(at(second), Observation::Load(load));
        if controller.is_due(at(second)) {
            controller.observe(at(second), Observation::Triggered);
            let sample = CheckpointSample {
                duration: 0.5,
                capacity: Some(0.2),
                delta_bytes: 1e6,
                ..CheckpointSample::default()
            };
            controller.observe(at(second), Observation::Completed(sample));
        }
    }
    let reason = &controller.decision().reason;
    assert!((30.0..45.0).contains(&reason.interval_s) && reason.cost_s < 0.25, "{reason}");
}

#[test]
fn a_restarted_job_resumes_from_saved_estimates() {
    let goals = Goals { recovery: Some(Duration::from_secs(90)), ..Goals::default() };
    let mut engine = Engine::new(expecting(100_000.0), goals);
    engine.overhead = 1e7;
    engine.report(Observation::State { bytes: 5e9, rows: 1e6 });
    for _ in 0..10 {
        engine.run(990.0);
        engine.fail();
        engine.now += 20.0;
        engine.report(Observation::Restored { bytes: 5e9 });
        engine.report(Observation::CaughtUp);
    }
    engine.run(500.0);
    let before = engine.controller.clone();
    // Stopped on purpose: the estimates stay.
    engine.report(Observation::Ending);
    engine.start_again();
    assert_eq!(engine.controller.mtbf(), before.mtbf());
    let (reason, was) = (&engine.controller.decision().reason, &before.decision().reason);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.05;
    assert!(close(reason.target_s, was.target_s) && reason.binds == was.binds, "{reason} {was}");
    assert!(close(reason.optimum_s, was.optimum_s) && close(reason.recovery_s, was.recovery_s), "{reason} {was}");
    assert!(close(reason.restore_s, 20.0) && close(reason.cost_s, was.cost_s), "{reason} {was}");
    // Without an announcement ten starts, each after 200 s of work, count as ten failures.
    for _ in 0..10 {
        engine.run(200.0);
        engine.start_again();
        assert!(!engine.controller.is_due(at(engine.now + 1.0)), "the job is down");
        engine.now += 5.0;
        engine.report(Observation::Restored { bytes: 5e9 });
        engine.report(Observation::CaughtUp);
    }
    assert!((150.0..400.0).contains(&engine.controller.mtbf()), "{}", engine.controller.mtbf());
    let reason = &engine.controller.decision().reason;
    assert!((15.0..20.0).contains(&reason.restore_s), "a restart of 10 s and a restore of 5 s: {reason}");
}

#[test]
fn nonsense_in_saved_estimates_does_no_harm() {
    let mut engine = Engine::new(expecting(1000.0), Goals::default());
    engine.run(900.0);
    engine.fail();
    engine.report(Observation::Restored { bytes: 1e6 });
    engine.report(Observation::CaughtUp);
    engine.run(100.0);
    let learned = engine.controller.learned().to_bytes();
    let mut decoded = 0;
    for place in 0..learned.len() - 8 {
        for bad in NONSENSE {
            let mut bytes = learned.to_vec();
            bytes[place..place + 8].copy_from_slice(&bad.to_le_bytes());
            let Ok(learned) = Learned::from_bytes(&bytes) else { continue };
            decoded += 1;
            let mut engine = Engine::new(expecting(1000.0), Goals::default());
            engine.controller = Controller::resume(engine.settings, Goals::default(), at(0.0), &learned).unwrap();
            engine.report(Observation::Restored { bytes: 1e6 });
            engine.run(30.0);
            let (reason, recovery) =
                (&engine.controller.decision().reason, engine.controller.predicted_recovery(at(engine.now)));
            assert!((1.0..=3600.0).contains(&reason.interval_s) && recovery >= 0.0, "{bad} at {place}: {reason}");
            assert!(
                !reason.to_string().contains("NaN") && engine.controller.mtbf() > 0.0,
                "{bad} at {place}: {reason}"
            );
        }
    }
    assert!(decoded > 150, "{decoded} of {}", 6 * learned.len());
    assert!(Learned::from_bytes(&[0; 40_000]).is_err() && Learned::from_bytes(b"\xff\xff").is_err());
}

#[test]
fn the_longest_pause_of_a_checkpoint_is_part_of_its_cost() {
    let cost = |pauses: &[f64], and_none: u32| {
        let mut controller = Controller::new(expecting(3600.0), Goals::default(), at(0.0)).unwrap();
        for round in 1..=10 + and_none {
            let now = at(10.0 * f64::from(round));
            controller.observe(now, Observation::Triggered);
            let pauses = if round <= 10 { pauses } else { &[] };
            pauses.iter().for_each(|pause| controller.observe(now, Observation::Paused(*pause)));
            let sample = CheckpointSample { duration: 1.0, ..CheckpointSample::default() };
            controller.observe(now, Observation::Completed(sample));
        }
        controller.decision().reason.cost_s
    };
    assert!((cost(&[], 0) - 0.05).abs() < 1e-6, "a twentieth of the duration: {}", cost(&[], 0));
    for pauses in [&[0.1, 0.3, 0.2][..], &[0.3, f64::NAN, -1.0]] {
        assert!((cost(pauses, 0) - 0.35).abs() < 1e-6, "{}", cost(pauses, 0));
        assert!(
            (cost(pauses, 200) - 0.05).abs() < 1e-3,
            "pauses of another checkpoint do not count: {}",
            cost(pauses, 200)
        );
    }
}
