//! Epochs with lost or late acknowledgements and uploads, or jumping clocks (B).

use std::time::Duration;

use alluvium::internals::checkpoint::sweep;
use alluvium::internals::control::coordinator::{Command, Coordinator, Event};
use alluvium::interval::{Bound, Decision, FailurePrior, Goals, IntervalSettings, LoadSample, Observation};
use alluvium::{
    AdaptiveInterval, CheckpointPolicy, Epoch, JobSettings, OperatorId, Participant, RestoreFrom, Subtask, Timestamp,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::sim::{HOUR_MS, Rig, small};
use alluvium_testkit::Counting;
use alluvium_testkit::sim::{Call, Fate, Faults, Operation, Rng, Sim};

#[test]
fn b06_acknowledgements_that_are_lost_doubled_or_out_of_order_change_nothing() {
    let participants: Vec<Participant> = (0..3).map(|at| (OperatorId(1), Subtask(at))).collect();
    let at = |seconds: u64| Timestamp::from_millis(0).after(Duration::from_secs(seconds));
    for seed in 0..1000 {
        let mut rng = Rng::new(seed);
        let policy = CheckpointPolicy::default().with(|it| it.max_in_flight = 3);
        let mut coordinator = Coordinator::new(policy, participants.iter().copied(), Epoch(1), at(0));
        let epochs: Vec<Epoch> = (0..3).map(|_| coordinator.trigger(at(1)).unwrap()).collect();
        let mut events: Vec<_> = epochs.iter().flat_map(|epoch| participants.iter().map(|p| (*epoch, *p))).collect();
        // One for a non-existent epoch, and some duplicates.
        events.push((Epoch(99), participants[0]));
        events.extend_from_within(..rng.index(events.len()));
        let lost = rng.permille(500).then(|| events[rng.index(9)]);
        events.retain(|event| Some(*event) != lost);
        let mut commands = Vec::new();
        while !events.is_empty() {
            let (epoch, participant) = events.swap_remove(rng.index(events.len()));
            coordinator.handle(at(2), Event::Acknowledged(epoch, participant));
            while let Some(command) = coordinator.poll() {
                commands.push(command);
                if let Command::Commit(epoch) = command {
                    coordinator.handle(at(3), Event::Committed(epoch));
                }
            }
        }
        let complete = epochs.iter().take_while(|epoch| lost.is_none_or(|(lost, _)| lost > **epoch));
        assert!(
            commands.iter().copied().eq(complete.map(|epoch| Command::Commit(*epoch))),
            "{commands:?}, lost {lost:?}"
        );
        // The epoch with the lost acknowledgement times out; the next one is complete.
        coordinator.handle_timeout(at(700));
        let first = coordinator.poll();
        assert_eq!(first, lost.map(|(epoch, _)| Command::Abort(epoch)));
    }
}

#[test]
pub(crate) fn b07_what_lands_after_its_epoch_was_given_up_is_an_orphan() {
    let rig = Rig::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::from_secs(5));
    let mut job = rig.open(0, 2, small().with(|it| it.checkpoints = checkpoints)).unwrap();
    rig.next_call(Operation::Put, "data", Fate::silent(Some(30_000)));
    let mut job = rig.on(0, async move {
        job.add(0..50).unwrap();
        assert_eq!(job.checkpoint().await.unwrap(), None);
        job.add(40..60).unwrap();
        job.checkpoint().await.unwrap().unwrap();
        job
    });
    assert_eq!(rig.keys("data").len(), 1);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.keys("data").len(), 2, "it has landed");
    let expected = std::mem::take(&mut job.expected);
    drop(job);
    rig.sim.crash(0);
    let successor = rig.open(1, 3, small()).unwrap();
    assert_eq!(successor.expected, expected);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.keys("data").len(), 1, "and is swept");
    let store = rig.store(2);
    let plan = rig.on(2, async move { sweep::plan(&store, None).await.unwrap() });
    assert_eq!((plan.deletable_tally().objects, plan.in_flight_tally().objects), (0, 0));
}

#[test]
fn an_adaptive_job_extends_its_timeout_on_a_slow_store() {
    let rig = Rig::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::from_secs(5));
    for (adaptive, outcomes) in
        [(None, [false; 5]), (Some(AdaptiveInterval::default()), [false, false, true, true, true])]
    {
        let mut job = rig
            .open(
                0,
                2,
                small().with(|it| {
                    it.checkpoints = checkpoints;
                    it.adaptive = adaptive;
                }),
            )
            .unwrap();
        let mut committed = Vec::new();
        for round in 0..5 {
            rig.next_call(Operation::Put, "data", Fate::ok(8_000));
            let (returned, done) = rig.on(0, async move {
                job.add(round * 10..round * 10 + 30).unwrap();
                let done = job.checkpoint().await.unwrap().is_some();
                (job, done)
            });
            job = returned;
            committed.push(done);
        }
        assert_eq!(committed, outcomes, "given twice the time after two failures, and as long as it is needed");
        drop(job);
        rig.sim.crash(0);
    }
}

/// Settings of a job with an adaptive interval and a prior of `job_mtbf` seconds between failures.
fn expecting(job_mtbf: f64) -> JobSettings {
    let failures = FailurePrior { job_mtbf, ..FailurePrior::default() };
    let settings = IntervalSettings::default().with(|it| it.failures = failures);
    small().with(|it| {
        it.adaptive = Some(AdaptiveInterval::default().with(|it| {
            it.goals = Goals::default();
            it.settings = settings;
        }))
    })
}

/// A job under a load of some keys per second, of its capacity of 2,500.
struct Loaded {
    job: Counting,
    keys: Rng,
    sim: Sim,
    metrics: PrometheusHandle,
}

impl Loaded {
    /// Runs for `seconds` at `per_s`, with checkpoints when due.
    async fn run(&mut self, seconds: u32, per_s: u32) {
        let received = f64::from(per_s) / 4.0;
        let busy = Some(f64::from(per_s) / 2500.0);
        for _ in 0..seconds * 4 {
            self.sim.runtime(0).sleep(Duration::from_millis(250)).await;
            for _ in 0..per_s / 4 {
                let key = self.keys.within(0, 20_000).to_le_bytes();
                self.job.add_key(&key).unwrap();
            }
            let load = LoadSample { received, processed: received, busy, ..LoadSample::default() };
            self.job.job.observe(Observation::Load(load));
            if self.job.job.is_due() {
                self.job.barrier().unwrap();
            }
        }
    }

    /// Returns the job's decision, after checking that metrics and reason agree with it.
    fn decision(&self) -> Decision {
        let decision = self.job.job.decision().unwrap();
        let page = self.metrics.render();
        let metric = |name: &str| -> f64 {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
        };
        assert_eq!(metric("alluvium_checkpoint_interval_seconds"), decision.interval.as_secs_f64());
        assert_eq!(metric("alluvium_dirty_rows_per_second"), decision.reason.dirty_rows_per_s);
        let interval = decision.interval.as_secs_f64();
        let reason = decision.reason.to_string();
        assert!(reason.starts_with(&format!("{interval:.1} s: cost optimum binds")), "{reason}");
        assert_eq!(metric("alluvium_checkpoint_interval_bound{bound=\"cost\"}"), 1.0);
        decision
    }
}

/// By the formula the interval is proportional to the root of the checkpoint cost over the weight of a second of
/// replay: the load.
#[test]
fn an_adaptive_job_follows_a_load_that_steps_up_tenfold_for_a_minute() {
    let rig = Rig::new();
    let slow = |call: &Call<'_>| (call.operation == Operation::Put).then(|| Fate::ok(100));
    rig.faults(Faults::Scripted(Box::new(slow)));
    let settings = expecting(600.0);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let decisions = metrics::with_local_recorder(&recorder, || {
        let job = rig.open(0, 2, settings).unwrap();
        let mut loaded = Loaded { job, keys: Rng::new(7), sim: rig.sim.clone(), metrics };
        rig.on(0, async move {
            let mut decisions = Vec::new();
            for (seconds, per_s) in [(300, 200), (1, 2000), (59, 2000), (1, 200), (239, 200)] {
                loaded.run(seconds, per_s).await;
                decisions.push(loaded.decision());
            }
            decisions
        })
    });
    let interval = |at: usize| decisions[at].interval.as_secs_f64();
    let (dirty, load) =
        (|at: usize| decisions[at].reason.dirty_rows_per_s, |at: usize| decisions[at].reason.utilisation);
    for (from, to) in [(0, 1), (2, 3)] {
        // Detected within a second.
        let (ratio, expected) = (interval(from) / interval(to), (load(to) / load(from)).sqrt());
        assert!((ratio / expected - 1.0).abs() < 0.2, "{ratio} {expected}: {decisions:#?}");
    }
    assert!((interval(2) / interval(1) - 1.0).abs() < 0.2 && (interval(4) / interval(0) - 1.0).abs() < 0.2);
    assert!(dirty(1) > 5.0 * dirty(0) && dirty(3) < dirty(2) / 5.0, "{decisions:#?}");
}

/// A killed process reports nothing: the next one reads the learned state from the checkpoint, and infers a failure.
#[test]
fn an_adaptive_jobs_learned_state_outlives_its_process() {
    let rig = Rig::new();
    let settings = expecting(100_000.0);
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let mut reasons = Vec::new();
    for (life, ends) in [false, false, false, false, false, false, true, true].into_iter().enumerate() {
        let job = rig.open(life, 2, settings.clone()).unwrap();
        let begins = job.job.decision().unwrap().reason;
        let mut loaded = Loaded { job, keys: Rng::new(7), sim: rig.sim.clone(), metrics: metrics.clone() };
        let seconds = 300;
        let loaded = rig.on(life, async move {
            loaded.run(seconds, 200).await;
            if ends {
                loaded.job.job.observe(Observation::Ending);
            }
            loaded.job.checkpoint().await.unwrap().unwrap();
            loaded
        });
        reasons.push((begins, loaded.job.job.decision().unwrap().reason));
        drop(loaded);
        rig.sim.crash(life);
    }
    assert!(reasons[0].0.binds == Bound::First && reasons[0].1.mtbf_s.round() == 100_000.0, "{reasons:#?}");
    for (before, after) in reasons.iter().zip(&reasons[1..]) {
        assert!(after.0.binds == Bound::Cost && after.0.target_s < 1.2 * before.1.target_s, "{reasons:#?}");
    }
    // Six failures, each 300 s after the start.
    assert!((250.0..400.0).contains(&reasons[6].1.mtbf_s), "{reasons:#?}");
    assert!((reasons[7].0.mtbf_s / reasons[6].1.mtbf_s - 1.0).abs() < 0.01, "that was no failure: {reasons:#?}");
    // Detection and restart as assumed, plus the time of the restore.
    assert!((10.0..10.5).contains(&reasons[7].1.restore_s), "{reasons:#?}");
}

#[test]
fn a_rollback_is_no_failure() {
    let rig = Rig::new();
    let settings = expecting(1000.0);
    let mut job = rig.open(0, 2, settings.clone()).unwrap();
    let id = rig.on(0, async move {
        job.add(0..50).unwrap();
        job.checkpoint().await.unwrap().unwrap()
    });
    rig.sim.crash(0);
    for (life, from, counts) in [(1, RestoreFrom::Checkpoint(id.seq), false), (2, RestoreFrom::Newest, true)] {
        let job = rig.on(life, Counting::open_on(rig.store(life), 2, settings.clone(), from)).unwrap();
        let mtbf = job.job.decision().unwrap().reason.mtbf_s;
        assert_eq!(mtbf < 900.0, counts, "{from:?}: {mtbf}");
        drop(job);
        rig.sim.crash(life);
    }
}

#[test]
fn b13_a_clock_that_jumps_loses_nothing() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    let mut committed = 0;
    for (round, jump_ms) in (0..).zip([-3_600_000, 31_536_000_000, 0, -63_072_000_000, 0]) {
        let sim = rig.sim.clone();
        // In the middle of a checkpoint.
        rig.sim.after(3, move |_| sim.skew_clock(0, jump_ms));
        let (returned, done) = rig.on(0, async move {
            job.add(round * 10..round * 10 + 30).unwrap();
            let done = job.checkpoint().await.unwrap().is_some();
            (job, done)
        });
        (job, committed) = (returned, committed + u32::from(done));
    }
    // At worst, a jump ahead passes the deadline of the epoch in flight.
    assert!(committed >= 4, "{committed} of 5 were committed");
    let mut job = rig.on(0, async move {
        job.checkpoint().await.unwrap().unwrap();
        job
    });
    let expected = std::mem::take(&mut job.expected);
    rig.sim.skew_clock(1, -10 * i64::try_from(HOUR_MS).unwrap());
    assert_eq!(rig.open(1, 3, small()).unwrap().expected, expected);
}
