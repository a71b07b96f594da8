//! Restores from subtask manifests in slices, and assignments that lie.

use alluvium::internals::wire::{Assign, Envelope, ToOwner, ToWorker, decode, encode};
use alluvium::manifest::SubtaskEntry;
use alluvium::{
    Attempt, Error, ErrorKind, JobId, JobSettings, Opaque, OpaqueRole, Result, Subtask, Worker, WorkerSettings,
};
use alluvium_testkit::{Gate, store};

use crate::members::{Cluster, builder};

/// Opaques so long that three workers' subtask manifests do not all fit into the manifest.
fn long_opaques(subtask: u32) -> Vec<Opaque> {
    let long = |at: u8| Opaque::new(OpaqueRole::Source, format!("{subtask}/{at}"), vec![at; 19 * 1024]);
    (0..6).map(long).collect()
}

/// Leaves a job whose newest checkpoint has its subtask manifests in slices.
async fn sliced(gate: &std::sync::Arc<Gate>) -> Result<Cluster> {
    let mut cluster = Cluster::new(gate, (3, 12), JobSettings::default()).await;
    cluster.open().await?;
    cluster.add(0..2000)?;
    let barrier = cluster.barrier_with(long_opaques)?;
    assert!(cluster.job().wait(barrier).await?.is_some());
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn subtask_manifests_in_slices_are_read_by_the_workers_that_need_them() -> Result<()> {
    let gate = Gate::new();
    let mut cluster = sliced(&gate).await?;
    for parallelism in [12, 30, 5] {
        cluster.rescale(parallelism)?;
        gate.take_calls();
        cluster.open().await?;
        let restored = cluster.job().restored().unwrap();
        let entries = &restored.manifest.operators[0].subtasks;
        assert!(entries.iter().any(|entry| entry.slice().is_some()), "set up so that some lie in slices");
        cluster.add(500..900)?;
        let barrier = cluster.barrier_with(long_opaques)?;
        assert!(cluster.job().wait(barrier).await?.is_some());
    }
    assert_eq!(cluster.owner.refused().messages, 0);
    Ok(())
}

type Edit = fn(&mut Envelope<ToWorker>);

fn assign(message: &mut Envelope<ToWorker>) -> &mut Assign {
    match &mut message.body {
        ToWorker::Assign(assign) => assign,
        other => panic!("{other:?}"),
    }
}

fn summary(message: &mut Envelope<ToWorker>) -> &mut alluvium::manifest::SubtaskSummary {
    match &mut assign(message).operators[0].sources[0].1 {
        SubtaskEntry::Slice(slice) => &mut slice.summary,
        other => panic!("{other:?}"),
    }
}

/// Assignments whose lies are found when the worker reads.
const LIES: [(&str, ErrorKind, Edit); 6] = [
    ("other groups in a summary", ErrorKind::Corrupt, |it| summary(it).groups = alluvium::KeyGroupSet::empty()),
    ("other bytes in a summary", ErrorKind::Corrupt, |it| summary(it).bytes += 1),
    ("other records in a summary", ErrorKind::Corrupt, |it| summary(it).records += 1),
    ("a source under another number", ErrorKind::Corrupt, |it| {
        let sources = &mut assign(it).operators[0].sources;
        sources.truncate(1);
        sources[0].0 = Subtask(11);
    }),
    ("another job", ErrorKind::Config, |it| it.job = JobId([7; 16])),
    ("an attempt that nobody claimed", ErrorKind::Config, |it| it.attempt = Attempt(1000)),
];

#[tokio::test(flavor = "multi_thread")]
async fn assignments_that_lie_are_refused_by_their_worker_and_end_the_attempt() -> Result<()> {
    let gate = Gate::new();
    drop(sliced(&gate).await?);
    for (name, kind, edit) in LIES {
        let owner = builder(&gate, 12, JobSettings::default()).owner()?;
        let mut worker = Worker::new(store(&gate.objects()), WorkerSettings::default());
        let (mut to_worker, mut from_worker) = worker.connect();
        let (mut to_owner, mut from_owner) = owner.connect();
        to_owner.receive(&from_worker.next().await.unwrap())?;
        let workers = owner.watch_workers().borrow().clone();
        let job = owner.open(&owner.seat_evenly(&workers), "").await?;
        let mut message = decode(&from_owner.next().await.unwrap())?;
        let (id, attempt) = (message.job, message.attempt);
        edit(&mut message);
        to_worker.receive(&encode(&message))?;
        assert_eq!(worker.assigned().await.unwrap_err().kind(), kind, "{name}");
        let mut refused: Envelope<ToOwner> = decode(&from_worker.next().await.unwrap())?;
        assert!(matches!(&refused.body, ToOwner::Refused(error) if error.kind() == kind), "{name}: {refused:?}");
        (refused.job, refused.attempt) = (id, attempt);
        to_owner.receive(&encode(&refused))?;
        let failed = job.watch().wait_for(|progress| progress.failed.is_some()).await.unwrap().failed.clone();
        // Who has another store is disconnected, and the job can go on without it.
        let ends = if kind == ErrorKind::Config { ErrorKind::Stopped } else { kind };
        assert_eq!(failed.unwrap().kind(), ends, "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_ignores_what_is_not_of_its_job_attempt_and_session() -> Result<()> {
    let gate = Gate::new();
    let owner = builder(&gate, 1, JobSettings::default()).owner()?;
    let mut worker = Worker::new(store(&gate.objects()), WorkerSettings::default());
    let (mut to_worker, mut from_worker) = worker.connect();
    let (mut to_owner, mut from_owner) = owner.connect();
    to_owner.receive(&from_worker.next().await.unwrap())?;
    let workers = owner.watch_workers().borrow().clone();
    let job = owner.open(&owner.seat_evenly(&workers), "").await?;
    let bytes = from_owner.next().await.unwrap();
    let good: Envelope<ToWorker> = decode(&bytes)?;
    for at in 0..bytes.len() {
        assert_eq!(to_worker.receive(&bytes[..at]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let other_session = Envelope { session: alluvium::SessionId([9; 16]), ..good.clone() };
    assert_eq!(to_worker.receive(&encode(&other_session)).unwrap_err().kind(), ErrorKind::Corrupt);
    let other_way = Envelope {
        job: good.job,
        attempt: good.attempt,
        session: good.session,
        body: ToOwner::Restored((alluvium_testkit::COUNT, Subtask(0))),
    };
    assert_eq!(to_worker.receive(&encode(&other_way)).unwrap_err().kind(), ErrorKind::Usage);
    to_worker.receive(&bytes)?;
    let assignment = worker.assigned().await?;
    assert_eq!(assignment.attempt, job.attempt());
    let mut tasks = Vec::new();
    for seat in assignment.seats {
        tasks.push(seat.restore(alluvium::LogBackend::new).await?);
    }
    // Stops and assignments of other attempts and jobs; the same assignment again.
    let stop = ToWorker::Stop(Error::stopped("not yours"));
    for wrong in [
        Envelope { attempt: Attempt(good.attempt.0 - 1), body: stop.clone(), ..good.clone() },
        Envelope { job: JobId([7; 16]), body: stop.clone(), ..good.clone() },
        Envelope { job: JobId([7; 16]), attempt: Attempt(99), ..good.clone() },
        Envelope { attempt: Attempt(0), ..good.clone() },
        good.clone(),
    ] {
        to_worker.receive(&encode(&wrong))?;
    }
    // A checkpoint passes all the same.
    let barrier = job.trigger()?.unwrap();
    tasks[0].barrier(barrier, alluvium::Timestamp::MIN, Vec::new())?;
    let outcome = job.wait(barrier);
    tokio::pin!(outcome);
    loop {
        tokio::select! {
            outcome = &mut outcome => { assert!(outcome?.is_some()); break }
            message = from_worker.next() => to_owner.receive(&message.unwrap())?,
            message = from_owner.next() => to_worker.receive(&message.unwrap())?,
        }
    }
    Ok(())
}
