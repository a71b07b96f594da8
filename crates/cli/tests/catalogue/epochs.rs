//! Epochs that are aborted, passed over or never triggered; departed subtasks, seats and operators (B, F).

use std::time::Duration;

use alluvium::{
    Attempt, Barrier, CheckpointPolicy, Epoch, Error, ErrorKind, Job, JobBuilder, LogBackend, Opaque, OpaqueRole,
    OperatorId, OperatorSpec, RestoreFrom, Result, Seat, Store, Task, Timestamp,
};
use futures_util::FutureExt as _;

use crate::sim::{Rig, small};
use alluvium_testkit::sim::{Answer, Call, Fate, Faults, Operation};
use alluvium_testkit::{COUNT, Counting};

fn prepared(name: &str) -> Vec<Opaque> {
    vec![Opaque::new(OpaqueRole::SinkPrepared, "parts", name.to_owned())]
}

/// Refuses every later upload of data.
fn refuse_data(rig: &Rig) {
    rig.faults(Faults::Scripted(Box::new(|call: &Call<'_>| {
        let refused = call.operation == Operation::Put && call.key.contains("data");
        refused.then(|| Fate::not_applied(1, Answer::Denied))
    })));
}

/// Returns the prepared output found by a restart.
fn found(job: &mut Job) -> Vec<String> {
    let seats = job.take_seats();
    let opaques = seats.iter().flat_map(Seat::opaques).filter(|opaque| opaque.role == OpaqueRole::SinkPrepared);
    opaques.map(|opaque| String::from_utf8(opaque.items().unwrap().concat()).unwrap()).collect()
}

async fn reopened(store: Store, parallelism: u32) -> Result<Job> {
    let builder = JobBuilder::new(store).settings(small()).operator(OperatorSpec::new(COUNT, "count", parallelism));
    builder.open().await
}

#[test]
pub(crate) fn b16_output_prepared_in_an_epoch_that_is_given_up_is_listed_until_it_is_committed() {
    for (restarts_after, expected) in [(2, vec!["0 of 1", "0 of 2"]), (3, vec!["0 of 3"])] {
        let rig = Rig::new();
        let mut job = rig.open(0, 1, small()).unwrap();
        refuse_data(&rig);
        let (mut job, first) = rig.on(0, async move {
            job.add(0..10).unwrap();
            let epoch = job.barrier_with(|at| prepared(&format!("{at} of 1"))).unwrap();
            let outcome = job.job.wait(epoch).await.unwrap();
            (job, outcome)
        });
        assert_eq!(first, None);
        rig.faults(Faults::none());
        let job = rig.on(0, async move {
            for epoch in 2..=restarts_after {
                job.tasks.iter_mut().for_each(|task| task.settle().unwrap());
                let epoch = job.barrier_with(|at| prepared(&format!("{at} of {epoch}"))).unwrap();
                assert!(job.job.wait(epoch).await.unwrap().is_some());
            }
            job
        });
        drop(job);
        rig.sim.crash(0);
        let store = rig.store(1);
        let found = rig.on(1, async move { found(&mut reopened(store, 1).await.unwrap()) });
        assert_eq!(found, expected, "after epoch {restarts_after}");
    }
}

#[test]
fn b16_output_of_an_epoch_whose_commit_was_not_announced_is_listed_again() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    // The second barrier is triggered before the first commit is announced.
    let job = rig.on(0, async move {
        job.add(0..10).unwrap();
        let first = job.barrier_with(|at| prepared(&format!("{at} of 1"))).unwrap();
        let second = job.barrier_with(|at| prepared(&format!("{at} of 2"))).unwrap();
        assert!(job.job.wait(first).await.unwrap().is_some() && job.job.wait(second).await.unwrap().is_some());
        job
    });
    drop(job);
    rig.sim.crash(0);
    let store = rig.store(1);
    let found = rig.on(1, async move { found(&mut reopened(store, 3).await.unwrap()) });
    assert_eq!(found, ["0 of 1", "0 of 2", "1 of 1", "1 of 2"]);
}

#[test]
pub(crate) fn b17_an_epoch_is_not_given_up_because_a_later_one_is() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    let mut manifests = 0;
    rig.faults(Faults::Scripted(Box::new(move |call: &Call<'_>| {
        let put = call.operation == Operation::Put;
        if put && call.key.contains("manifest") {
            manifests += 1;
            return (manifests == 1).then(|| Fate::ok(20_000));
        }
        (put && manifests > 0).then(|| Fate::not_applied(1, Answer::Denied))
    })));
    let runtime = rig.sim.runtime(0);
    rig.on(0, async move {
        job.add(0..10).unwrap();
        let first = job.barrier().unwrap();
        // The manifest write takes twenty seconds.
        runtime.sleep(Duration::from_secs(5)).await;
        job.add(0..10).unwrap();
        let second = job.barrier().unwrap();
        assert_eq!(job.job.wait(second).await.unwrap(), None);
        assert!(job.job.wait(first).now_or_never().is_none(), "its outcome is not known yet");
        let committed = job.job.wait(first).await.unwrap().expect("it commits");
        assert_eq!(job.job.progress().committed, Some((first, committed)));
        assert_eq!(job.job.wait(second).await.unwrap(), None, "that outcome stays");
    });
}

#[test]
pub(crate) fn b18_a_barrier_that_was_never_triggered_is_refused_and_changes_nothing() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    rig.on(0, async move {
        job.add(0..10).unwrap();
        for (attempt, epoch) in [(1, 1), (1, 7), (2, 1), (1, 0)] {
            let barrier = Barrier { attempt: Attempt(attempt), epoch: Epoch(epoch) };
            let refused = job.tasks[0].barrier(barrier, Timestamp::MIN, vec![]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Usage, "{barrier:?}");
            assert_eq!(job.tasks[0].decline(barrier, "no").unwrap_err().kind(), ErrorKind::Usage);
        }
        assert_eq!(job.job.wait(Epoch(7)).await.unwrap_err().kind(), ErrorKind::Usage);
        let epoch = job.barrier().unwrap();
        assert!(job.job.wait(epoch).await.unwrap().is_some());
        let again = Barrier { attempt: Attempt(1), epoch };
        assert_eq!(job.tasks[0].barrier(again, Timestamp::MIN, vec![]).unwrap_err().kind(), ErrorKind::Usage, "twice");
        job.add(5..20).unwrap();
        assert!(job.checkpoint().await.unwrap().is_some());
    });
}

#[test]
fn b05_a_barrier_of_another_attempt_is_refused_with_both() {
    let rig = Rig::new();
    let first = rig.open(0, 1, small()).unwrap();
    let stale = first.job.trigger().unwrap().unwrap();
    drop(first);
    let mut job = rig.open(0, 1, small()).unwrap();
    rig.on(0, async move {
        let current = job.job.trigger().unwrap().unwrap();
        assert_eq!((stale.epoch, current.epoch), (Epoch(1), Epoch(1)), "epochs repeat");
        let refused = job.tasks[0].barrier(stale, Timestamp::MIN, vec![]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Usage);
        assert!(refused.message().contains("attempt=`1` expected=`2`"), "{refused}");
        assert_eq!(
            job.job.wait(stale).await.unwrap_err().kind(),
            ErrorKind::Usage,
            "its outcome is not this attempt's"
        );
        job.tasks[0].barrier(current, Timestamp::MIN, vec![]).unwrap();
        assert!(job.job.wait(current).await.unwrap().is_some());
    });
}

#[test]
fn b10_an_epoch_whose_time_is_over_before_it_is_noticed_is_given_up() {
    let rig = Rig::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::ZERO);
    let mut job: Counting = rig.open(0, 2, small().with(|it| it.checkpoints = checkpoints)).unwrap();
    rig.on(0, async move {
        for _ in 0..3 {
            let barrier = job.job.trigger().unwrap().unwrap();
            assert_eq!(job.job.wait(barrier).await.unwrap(), None);
            // The barrier comes too late, but is still sealed.
            job.tasks[0].barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        }
    });
}

#[test]
fn b18_a_barrier_subsumes_the_epochs_that_its_task_passed_over() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    let expected = rig.on(0, async move {
        job.add(0..50).unwrap();
        let (first, second) = (job.job.trigger().unwrap().unwrap(), job.job.trigger().unwrap().unwrap());
        job.tasks[0].barrier(first, Timestamp::MIN, vec![]).unwrap();
        job.add(0..20).unwrap();
        for task in &mut job.tasks {
            task.barrier(second, Timestamp::MIN, vec![]).unwrap();
        }
        assert_eq!(job.job.wait(first).await.unwrap(), None);
        assert!(job.job.wait(second).await.unwrap().is_some());
        let aborted = job.job.progress().last_aborted.unwrap();
        assert_eq!((aborted.epoch, aborted.missing), (first.epoch, vec![(COUNT, job.tasks[1].subtask())]));
        assert!(aborted.reason.chain().contains("subsumed"), "{}", aborted.reason.chain());
        job.add(10..30).unwrap();
        assert!(job.checkpoint().await.unwrap().is_some(), "and the next goes well in both");
        job.expected
    });
    rig.sim.crash(0);
    assert_eq!(rig.open(1, 3, small()).unwrap().expected, expected);
}

#[test]
fn b18_an_epoch_that_is_declined_is_given_up_at_once_with_the_reason() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    let before = rig.sim.now_ms();
    let job = rig.on(0, async move {
        job.add(0..10).unwrap();
        let barrier = job.job.trigger().unwrap().unwrap();
        job.tasks[0].barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        job.tasks[1].decline(barrier, Error::limit("alignment buffer is full")).unwrap();
        assert_eq!(job.tasks[1].barrier(barrier, Timestamp::MIN, vec![]).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(job.job.wait(barrier).await.unwrap(), None);
        let decline = job.job.progress().last_decline.unwrap();
        assert_eq!(decline.chain(), "subtask declined the epoch operator=`1` subtask=`1`: alignment buffer is full");
        let barrier = job.job.trigger().unwrap().unwrap();
        job.job.decline(barrier, "a source stopped").unwrap();
        assert_eq!(job.job.wait(barrier).await.unwrap(), None);
        job
    });
    assert!(rig.sim.now_ms() - before < 1_000, "nothing waited for the timeout");
    let mut job = job;
    rig.on(0, async move { assert!(job.checkpoint().await.unwrap().is_some()) });
}

#[test]
fn b18_an_epoch_that_is_declined_while_it_is_uploaded_is_given_up_at_once() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    rig.faults(Faults::Scripted(Box::new(|call: &Call<'_>| {
        (call.operation == Operation::Put).then(|| Fate::ok(20_000))
    })));
    let (before, runtime) = (rig.sim.now_ms(), rig.sim.runtime(0));
    rig.on(0, async move {
        job.add(0..10).unwrap();
        let barrier = job.job.trigger().unwrap().unwrap();
        job.tasks[0].barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        runtime.sleep(Duration::from_secs(1)).await;
        job.job.decline(barrier, "the user stopped it").unwrap();
        assert_eq!(job.job.wait(barrier).await.unwrap(), None);
    });
    assert!(rig.sim.now_ms() - before < 2_000, "nothing waited for the upload");
}

#[test]
fn b19_a_subtask_that_has_gone_declines() {
    let rig = Rig::new();
    let mut job = rig.open(0, 3, small()).unwrap();
    let before = rig.sim.now_ms();
    rig.on(0, async move {
        job.add(0..10).unwrap();
        let barrier = job.job.trigger().unwrap().unwrap();
        let mut tasks = job.tasks.into_iter();
        let mut arrived = tasks.next().unwrap();
        arrived.barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        drop(tasks);
        assert_eq!(job.job.wait(barrier).await.unwrap(), None);
        let aborted = job.job.progress().last_aborted.unwrap();
        assert!(aborted.missing.len() == 2 && aborted.reason.message().contains("dropped"), "{aborted:?}");
        let barrier = job.job.trigger().unwrap().unwrap();
        assert_eq!(job.job.wait(barrier).await.unwrap(), None, "nor will any later epoch end");
    });
    assert!(rig.sim.now_ms() - before < 1_000, "nothing waited for the timeout");
}

#[test]
fn b19_a_seat_that_was_dropped_declines() {
    let rig = Rig::new();
    let store = rig.store(0);
    rig.on(0, async move {
        let mut job = reopened(store, 2).await.unwrap();
        drop(job.take_seats());
        let barrier = job.trigger().unwrap().unwrap();
        assert_eq!(job.wait(barrier).await.unwrap(), None);
    });
    assert!(rig.sim.now_ms() < 5_000, "nothing waited for the timeout");
}

#[test]
fn b19_a_background_that_is_gone_ends_all_waiting() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    refuse_data(&rig);
    let barrier = job.barrier().unwrap();
    // Everything on the node is dropped, as when a runtime shuts down.
    rig.sim.crash(0);
    let error = job.job.wait(barrier).now_or_never().expect("it does not wait").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped);
    assert_eq!(job.job.trigger().unwrap_err().kind(), ErrorKind::Stopped);
    assert_eq!(job.barrier().unwrap_err().kind(), ErrorKind::Stopped);
}

#[test]
fn b19_a_refusal_while_a_commit_is_in_doubt_ends_the_job_and_is_seen() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    rig.faults(Faults::Scripted(Box::new(|call: &Call<'_>| {
        let fence = call.operation == Operation::Get && call.key.contains("attempt");
        fence.then(|| Fate::not_applied(1, Answer::Denied))
    })));
    let job = rig.on(0, async move {
        job.add(0..10).unwrap();
        let epoch = job.barrier().unwrap();
        let error = job.job.wait(epoch).await.unwrap_err();
        assert_eq!((error.kind(), error.applied()), (ErrorKind::Denied, alluvium::Applied::Unknown));
        assert!(job.job.progress().unsettled.is_some(), "it was seen while it lasted");
        job
    });
    rig.faults(Faults::none());
    rig.sim.crash(0);
    assert_eq!(rig.open(1, 2, small()).unwrap().expected, job.expected, "the manifest stands");
}

#[test]
fn b20_a_commit_that_the_store_refused_is_an_epoch_given_up() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    rig.next_call(Operation::Put, "manifest", Fate::not_applied(1, Answer::Denied));
    let expected = rig.on(0, async move {
        job.add(0..50).unwrap();
        assert_eq!(job.checkpoint().await.unwrap(), None);
        let aborted = job.job.progress().last_aborted.unwrap();
        assert_eq!(aborted.reason.kind(), ErrorKind::Denied);
        job.add(40..60).unwrap();
        assert!(job.checkpoint().await.unwrap().is_some());
        job.expected
    });
    rig.sim.crash(0);
    assert_eq!(rig.open(1, 1, small()).unwrap().expected, expected);
}

#[test]
fn b13_a_checkpoint_is_due_though_the_clock_went_back() {
    let rig = Rig::new();
    let job = rig.open(0, 1, small()).unwrap();
    rig.sim.skew_clock(0, -3_600_000);
    rig.pass(Duration::from_secs(11));
    assert!(job.job.is_due(), "the interval is ten seconds");
}

/// Writes one operator's value.
async fn put(task: &mut Task<LogBackend>, number: u64) -> Result<()> {
    let value = task.state().value("value", alluvium::Fixed)?;
    task.state().set_key(b"key")?;
    value.put(task.state(), &number)
}

async fn open(store: &Store, change: impl FnOnce(JobBuilder) -> JobBuilder) -> Result<(Job, Vec<Task<LogBackend>>)> {
    let builder = JobBuilder::new(store.clone()).settings(small().with(|it| it.retention = Default::default()));
    let mut job = change(builder).open().await?;
    let mut tasks = Vec::new();
    for seat in job.take_seats() {
        tasks.push(seat.restore(LogBackend::new).await?);
    }
    Ok((job, tasks))
}

async fn checkpoint(job: &Job, tasks: &mut [Task<LogBackend>]) -> Result<()> {
    let barrier = job.trigger()?.expect("none is in flight");
    for task in tasks {
        task.barrier(barrier, Timestamp::MIN, vec![])?;
    }
    assert!(job.wait(barrier).await?.is_some());
    Ok(())
}

fn orders() -> OperatorSpec {
    OperatorSpec::new(OperatorId(1), "orders", 1)
}

fn users() -> OperatorSpec {
    OperatorSpec::new(OperatorId(2), "users", 2)
}

/// Runs a job of two stateful operators.
async fn of_two(store: &Store) -> Result<()> {
    let (job, mut tasks) = open(store, |builder| builder.operator(orders()).operator(users())).await?;
    for task in &mut tasks {
        let of_key = task.groups().contains(job.partitioner().locate(b"key", 0, 16).group);
        if of_key {
            put(task, 7).await?;
        }
    }
    checkpoint(&job, &mut tasks).await
}

async fn read(task: &mut Task<LogBackend>) -> Result<Option<u64>> {
    let value = task.state().value::<u64, _>("value", alluvium::Fixed)?;
    task.state().set_key(b"key")?;
    value.read(task.state())
}

#[test]
pub(crate) fn f15_state_that_no_operator_claims_is_refused_dropped_or_carried() {
    let rig = Rig::new();
    let store = rig.store(0);
    rig.on(0, async move {
        of_two(&store).await.unwrap();
        let refused = |error: Error, needle: &str| {
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.chain().contains(needle), "{}", error.chain());
        };
        let left_out = open(&store, |builder| builder.operator(orders())).await.unwrap_err();
        refused(left_out, "operator 2 \"users\" with 1 rows");
        let shifted = OperatorSpec::new(OperatorId(3), "users", 2);
        let shifted = open(&store, |builder| builder.operator(orders()).operator(shifted)).await.unwrap_err();
        refused(shifted, "operator 2 \"users\"");
        let renamed = OperatorSpec::new(OperatorId(2), "people", 2);
        let other = open(&store, |builder| builder.operator(orders()).operator(renamed.clone())).await.unwrap_err();
        refused(other, "stored=`users` declared=`people`");

        // Carried over more checkpoints than are retained, then declared again.
        let carry = |builder: JobBuilder| builder.operator(orders()).carry_operator(OperatorId(2));
        let name_taken = OperatorSpec::new(OperatorId(3), "users", 2);
        let name_taken = open(&store, |builder| carry(builder).operator(name_taken)).await.unwrap_err();
        refused(name_taken, "carried operator has the name of a declared one");
        let (job, mut tasks) = open(&store, carry).await.unwrap();
        assert_eq!(job.attempt(), Attempt(2), "what was refused claimed nothing");
        for _ in 0..5 {
            checkpoint(&job, &mut tasks).await.unwrap();
        }
        drop((job, tasks));
        let explicit = renamed.renamed_from("users");
        let (job, mut tasks) = open(&store, |builder| builder.operator(orders()).operator(explicit)).await.unwrap();
        let of_key =
            |task: &&mut Task<LogBackend>| task.groups().contains(job.partitioner().locate(b"key", 0, 16).group);
        for task in tasks.iter_mut().filter(of_key) {
            assert_eq!(read(task).await.unwrap(), Some(7));
        }
        checkpoint(&job, &mut tasks).await.unwrap();
        drop((job, tasks));

        let drop_it = |builder: JobBuilder| builder.operator(orders()).drop_operator(OperatorId(2));
        let (job, mut tasks) = open(&store, drop_it).await.unwrap();
        checkpoint(&job, &mut tasks).await.unwrap();
        drop((job, tasks));
        let (_, mut tasks) = open(&store, |builder| builder.operator(orders()).operator(users())).await.unwrap();
        assert_eq!(read(&mut tasks[0]).await.unwrap(), Some(7));
        for task in &mut tasks[1..] {
            let groups = task.groups().clone();
            let mut rows = 0;
            let value = task.state().value::<u64, _>("value", alluvium::Fixed).unwrap();
            value
                .scan(task.state(), &groups, |_, _, _| {
                    rows += 1;
                    true
                })
                .unwrap();
            assert_eq!(rows, 0, "its state was dropped on purpose");
        }
    });
}

#[test]
fn f15_what_cannot_be_opened_is_refused_before_a_running_job_is_stopped() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    let mut job = rig.on(0, async move {
        job.add(0..10).unwrap();
        job.checkpoint().await.unwrap().unwrap();
        job
    });
    let store = rig.store(1);
    rig.on(1, async move {
        let twice =
            |a: OperatorSpec, b: OperatorSpec| JobBuilder::new(store.clone()).settings(small()).operator(a).operator(b);
        let spec = |id: u32, name: &str| OperatorSpec::new(OperatorId(id), name, 1);
        for builder in [
            twice(spec(1, "count"), spec(1, "other")),
            twice(spec(1, "count"), spec(2, "count")),
            twice(spec(2, "a"), spec(3, "b")),
            twice(spec(1, "count"), spec(2, &"x".repeat(5000))),
            twice(spec(1, "count"), spec(2, "b")).carry_operator(OperatorId(2)),
            twice(spec(1, "count"), spec(2, "b")).program(vec![0; 9 << 20]),
        ] {
            let error = builder.restore_from(RestoreFrom::Newest).open().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{}", error.chain());
        }
    });
    rig.on(0, async move {
        job.add(0..10).unwrap();
        assert!(job.checkpoint().await.unwrap().is_some(), "the running job was not disturbed");
    });
}

#[test]
fn f04_a_restore_that_failed_can_be_tried_again_with_the_same_seat() {
    let rig = Rig::new();
    let mut job = rig.open(0, 1, small()).unwrap();
    let expected = rig.on(0, async move {
        job.add(0..50).unwrap();
        job.checkpoint().await.unwrap().unwrap();
        job.expected
    });
    rig.sim.crash(0);
    let store = rig.store(1);
    let (job, seat) = rig.on(1, async move {
        let mut job = reopened(store, 1).await.unwrap();
        let seat = job.take_seats().remove(0);
        (job, seat)
    });
    rig.faults(Faults::Scripted(Box::new(|call: &Call<'_>| {
        (call.operation == Operation::Get).then(|| Fate::not_applied(1, Answer::ServerError))
    })));
    let seat = rig.on(1, async move {
        let failed = seat.restore(LogBackend::new).await.expect_err("the store does not answer");
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        failed.into_seat()
    });
    rig.faults(Faults::none());
    rig.on(1, async move {
        let mut seat = seat;
        let counts = seat.tables().value::<u64, _>("count", alluvium::Fixed).unwrap();
        let mut task = seat.restore(LogBackend::new).await.unwrap();
        let mut rows = 0;
        let groups = task.groups().clone();
        counts
            .scan(task.state(), &groups, |_, _, _| {
                rows += 1;
                true
            })
            .unwrap();
        assert_eq!(rows, expected.len());
        let barrier = job.trigger().unwrap().unwrap();
        task.barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        assert!(job.wait(barrier).await.unwrap().is_some());
    });
}

#[test]
fn b10_an_epoch_that_took_too_long_says_what_it_waited_for() {
    let rig = Rig::new();
    let checkpoints = CheckpointPolicy::default().with(|it| it.timeout = Duration::from_secs(5));
    let mut job: Counting = rig.open(0, 2, small().with(|it| it.checkpoints = checkpoints)).unwrap();
    rig.on(0, async move {
        let barrier = job.job.trigger().unwrap().unwrap();
        job.tasks[1].barrier(barrier, Timestamp::MIN, vec![]).unwrap();
        assert_eq!(job.job.wait(barrier).await.unwrap(), None);
        let aborted = job.job.progress().last_aborted.unwrap();
        assert_eq!((aborted.epoch, aborted.missing), (barrier.epoch, vec![(COUNT, job.tasks[0].subtask())]));
        assert!(aborted.age >= Duration::from_secs(5) && aborted.age < Duration::from_secs(6), "{:?}", aborted.age);
    });
}
