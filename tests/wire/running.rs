//! Jobs whose workers come and go.

use alluvium::interval::Observation;
use alluvium::{
    AdaptiveInterval, Attempt, Barrier, Epoch, ErrorKind, JobSettings, LogBackend, OperatorId, Result, Seating,
    SessionId, Subtask, Task, Worker, WorkerSettings,
};
use alluvium_testkit::pump::{join, unseen};
use alluvium_testkit::{COUNT, Gate, runtime, store};

use crate::members::{Cluster, Member, builder};

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_lost_and_join_and_the_job_is_rescaled_in_place() -> Result<()> {
    let gate = Gate::new();
    let mut cluster = Cluster::new(&gate, (3, 12), JobSettings::default()).await;
    cluster.open().await?;
    cluster.add(0..600)?;
    assert!(cluster.checkpoint().await?.is_some());
    let committed = cluster.expected.clone();
    cluster.add(100..400)?;

    // One worker is lost: the attempt ends, and the others go on from the checkpoint.
    let mut watch = cluster.job().watch();
    cluster.members[1].cable = None;
    let progress = watch.wait_for(|progress| progress.failed.is_some()).await.unwrap().clone();
    assert_eq!(progress.failed.map(|error| error.kind()), Some(ErrorKind::Stopped));
    cluster.wait_for_workers(2).await;
    cluster.members[1].tasks.clear();
    cluster.expected = committed;
    cluster.open().await?;
    assert_eq!(cluster.members.iter().map(|member| member.tasks.len()).collect::<Vec<_>>(), [6, 0, 6]);
    cluster.add(500..900)?;
    assert!(cluster.checkpoint().await?.is_some());

    // It joins again, in the same process, and a fourth with it.
    cluster.connect(1);
    cluster.members.push(Member::new(&gate, "worker-3"));
    cluster.connect(3);
    cluster.wait_for_workers(4).await;
    cluster.open().await?;
    assert_eq!(cluster.members.iter().map(|member| member.tasks.len()).collect::<Vec<_>>(), [3; 4]);
    cluster.add(0..50)?;
    assert!(cluster.checkpoint().await?.is_some());

    // Another parallelism, in place.
    for parallelism in [5, 16] {
        cluster.rescale(parallelism)?;
        cluster.open().await?;
        cluster.add(20..500)?;
        assert!(cluster.checkpoint().await?.is_some());
    }
    assert_eq!(cluster.owner.refused().messages, 0, "{:?}", cluster.owner.refused().last);

    // Another owner takes over: the workers hear of it, and connect to it.
    let expected = cluster.expected.clone();
    let mut next = Cluster::new(&gate, (2, 7), JobSettings::default()).await;
    next.expected = expected;
    next.open().await?;
    let error = cluster.checkpoint().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    next.add(0..100)?;
    assert!(next.checkpoint().await?.is_some());

    // The end: the job is dropped, and its workers' tasks stop.
    next.job = None;
    let task = &mut next.members[0].tasks[0];
    let barrier = Barrier { attempt: Attempt(0), epoch: Epoch(1) };
    let ended = |task: &mut Task<LogBackend>| task.decline(barrier, "over").unwrap_err().kind();
    while ended(task) != ErrorKind::Stopped {
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_program_is_refused_on_both_sides() {
    let gate = Gate::new();
    let owner = builder(&gate, 2, JobSettings::default()).program("one").owner().unwrap();
    let settings = WorkerSettings::default().with(|it| it.program = "two".into());
    let mut worker = Worker::new(store(&gate.objects()), settings);
    let _cable = join(&runtime(), owner.connect(), worker.connect(), &unseen());
    assert_eq!(worker.assigned().await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(owner.refused().last.unwrap().kind(), ErrorKind::Config);
    assert!(owner.watch_workers().borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_store_is_disconnected_and_the_job_goes_on_without_it() -> Result<()> {
    let (ours, other) = (Gate::new(), Gate::new());
    for has_a_job in [false, true] {
        // The other store may have a job of the same name and attempts of the same numbers.
        if has_a_job {
            Cluster::new(&other, (1, 1), JobSettings::default()).await.open().await?;
            Cluster::new(&other, (1, 1), JobSettings::default()).await.open().await?;
        }
        let gates = [&ours, &other];
        let owner = builder(gates[0], 2, JobSettings::default()).owner()?;
        let mut workers = gates.map(|gate| Worker::new(store(&gate.objects()), WorkerSettings::default()));
        let _cables = workers.each_ref().map(|it| join(&runtime(), owner.connect(), it.connect(), &unseen()));
        let connected = owner.watch_workers().wait_for(|workers| workers.len() == 2).await.unwrap().clone();
        let job = owner.open(&owner.seat_evenly(&connected), "").await?;
        assert_eq!(workers[1].assigned().await.unwrap_err().kind(), ErrorKind::Config);
        let failed = job.watch().wait_for(|progress| progress.failed.is_some()).await.unwrap().clone();
        let error = failed.failed.unwrap();
        assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
        assert_eq!(owner.refused().last.unwrap().kind(), ErrorKind::Config);
        drop(workers[0].assigned().await);
        let remaining = owner.watch_workers().wait_for(|workers| workers.len() == 1).await.unwrap().clone();
        let job = owner.open(&owner.seat_evenly(&remaining), "").await?;
        while workers[0].assigned().await.ok().is_none_or(|it| it.attempt < job.attempt()) {}
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn seatings_and_payloads_that_cannot_be_are_refused_before_the_claim() -> Result<()> {
    let gate = Gate::new();
    let cluster = Cluster::new(&gate, (2, 4), JobSettings::default()).await;
    let workers = cluster.wait_for_workers(2).await;
    let good = || cluster.owner.seat_evenly(&workers);
    let with = |operator, subtask, session| {
        let mut seating = good();
        seating.give(operator, Subtask(subtask), session);
        seating
    };
    let stranger = SessionId([9; 16]);
    gate.take_calls();
    for (seating, payload, kind) in [
        (Seating::new(), 0, ErrorKind::Usage),
        (with(COUNT, 4, workers[0].session), 0, ErrorKind::Usage),
        (with(OperatorId(9), 0, workers[0].session), 0, ErrorKind::Usage),
        (with(COUNT, 3, stranger), 0, ErrorKind::Stopped),
        (good(), (1 << 20) + 1, ErrorKind::Limit),
    ] {
        let error = cluster.owner.open(&seating, vec![0; payload]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    assert!(gate.take_calls().is_empty());
    assert!(cluster.owner.open(&good(), vec![0; 1 << 20]).await.is_ok());
    Ok(())
}

/// Ensures that pauses, which only workers can measure, reach the controller at the owner.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_observes_counts_at_the_owner() -> Result<()> {
    let cost_s = async |pause: Option<f64>| -> Result<f64> {
        let settings = JobSettings::default().with(|it| it.adaptive = Some(AdaptiveInterval::default()));
        let mut cluster = Cluster::new(&Gate::new(), (2, 4), settings).await;
        cluster.open().await?;
        cluster.add(0..100)?;
        let barrier = cluster.job().trigger()?.expect("none is in flight");
        let worker = &cluster.members[1].worker;
        pause.map_or(Ok(()), |seconds| worker.observe(Observation::Paused(seconds)))?;
        assert_eq!(worker.observe(Observation::Aborted).unwrap_err().kind(), ErrorKind::Usage);
        cluster.send(barrier, |_| Vec::new())?;
        assert!(cluster.job().wait(barrier).await?.is_some());
        Ok(cluster.job().decision().unwrap().reason.cost_s)
    };
    let (unpaused, paused) = (cost_s(None).await?, cost_s(Some(1_000_000.0)).await?);
    assert!(paused > unpaused + 100_000.0, "{unpaused} {paused}");
    Ok(())
}
