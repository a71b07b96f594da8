//! The owner's part of a job, at the first process: opens the attempt, triggers checkpoints, and ends the job.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alluvium::{
    Barrier, Epoch, Error, ErrorKind, Inbox, Job, OperatorId, Outbox, Owner, Result, Seating, SessionId, SharedRuntime,
    Subtask,
};
use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::Summary;
use crate::control::{Down, Up};
use crate::port::Port;

/// How often it looks whether a checkpoint is due.
const TICK: Duration = Duration::from_millis(5);

/// The shape of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) processes: u32,
    /// Threads of each process.
    pub(crate) threads: u32,
}

impl Shape {
    pub(crate) fn workers(self) -> u32 {
        self.processes.saturating_mul(self.threads)
    }

    /// Returns the worker that carries the link of a process.
    fn carrier(self, process: usize) -> u64 {
        process as u64 * u64::from(self.threads)
    }
}

/// The owner and its ends of the control dataflow.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(crate) owner: Owner,
    pub(crate) runtime: SharedRuntime,
    pub(crate) shape: Shape,
    pub(crate) operators: Vec<OperatorId>,
    /// Subtasks of sources.
    pub(crate) sources: u64,
    pub(crate) heard: UnboundedReceiver<Up>,
    pub(crate) down: Port<Vec<(u64, Down)>>,
    /// How long all processes have to greet, and the store to answer.
    pub(crate) start_within: Duration,
    /// Set before the workers hear of the end.
    pub(crate) summary: Arc<OnceLock<Summary>>,
}

/// What the workers report, apart from their links.
enum Report {
    Exhausted,
    Finished,
}

impl Ownership {
    /// Runs the job to its end.
    ///
    /// # Errors
    /// As [`Owner::open`], and the job's.
    pub(crate) async fn run(self) -> Result<()> {
        let Self { owner, runtime, shape, operators, sources, heard, down, start_within, summary } = self;
        let (sessions, greeted) = watch::channel(vec![None; shape.processes as usize]);
        let (reports, mut reported) = unbounded_channel();
        let mut inboxes = Vec::new();
        for process in 0..shape.processes as usize {
            let (inbox, outbox) = owner.connect();
            inboxes.push(inbox);
            runtime.spawn(carry(outbox, shape.carrier(process), down.clone()).boxed());
        }
        let (broken, mut is_broken) = watch::channel(None);
        runtime.spawn(
            async move {
                let ended = receive(heard, inboxes, &sessions, &reports).await;
                broken.send_replace(ended.err());
            }
            .boxed(),
        );
        let opening = open(&owner, &operators, shape, greeted);
        let opened = within(&runtime, start_within, opening).await;
        let job = opened.unwrap_or_else(|| {
            Err(Error::unavailable("the job did not start in time").with("limit", format!("{start_within:?}")))
        })?;
        tracing::info!(attempt = %job.attempt(), workers = shape.workers(), "the job has started");
        let cluster = Cluster { job, down, workers: u64::from(shape.workers()), summary };
        tokio::select! {
            ended = cluster.run(&runtime, sources, &mut reported) => ended,
            Ok(error) = is_broken.wait_for(Option::is_some) => Err(error.clone().unwrap_or_else(|| Error::stopped("a link is broken"))),
        }
    }
}

async fn within<R>(runtime: &SharedRuntime, limit: Duration, future: impl Future<Output = R>) -> Option<R> {
    tokio::select! {
        result = future => Some(result),
        () = runtime.sleep(limit) => None,
    }
}

/// Sends the owner's messages for a process to the worker that has its link.
async fn carry(mut outbox: Outbox, to: u64, down: Port<Vec<(u64, Down)>>) {
    while let Some(message) = outbox.next().await {
        down.send(vec![(to, Down::Link(message.to_vec()))]);
    }
}

/// Takes what workers send. Holds the owner's ends of the links: dropping them ends the attempt.
async fn receive(
    mut heard: UnboundedReceiver<Up>,
    mut inboxes: Vec<Inbox>,
    sessions: &watch::Sender<Vec<Option<SessionId>>>,
    reports: &UnboundedSender<Report>,
) -> Result<()> {
    while let Some(message) = heard.recv().await {
        let report = match message {
            Up::Link(process, message) => {
                let at = usize::try_from(process).unwrap_or(usize::MAX);
                let inbox = inboxes
                    .get_mut(at)
                    .ok_or_else(|| Error::config("a process is not of this cluster").with("process", process))?;
                inbox.receive(&message)?;
                let session = inbox.session();
                sessions.send_if_modified(|sessions| {
                    let known = sessions.get_mut(at).filter(|known| **known != session);
                    known.map(|known| *known = session).is_some()
                });
                continue;
            }
            Up::Exhausted => Report::Exhausted,
            Up::Finished => Report::Finished,
        };
        let _ended = reports.send(report);
    }
    Ok(())
}

/// Opens the attempt once all processes have greeted. Subtask `i` of each operator goes to worker `i` of the dataflow.
async fn open(
    owner: &Owner,
    operators: &[OperatorId],
    shape: Shape,
    mut greeted: watch::Receiver<Vec<Option<SessionId>>>,
) -> Result<Job> {
    let sessions: Vec<SessionId> = {
        let all = greeted.wait_for(|sessions| sessions.iter().all(Option::is_some)).await;
        all.map_err(|_| Error::stopped("a link is broken"))?.iter().copied().flatten().collect()
    };
    let mut seating = Seating::new();
    for operator in operators {
        for worker in 0..shape.workers() {
            let process = (worker / shape.threads) as usize;
            sessions.get(process).into_iter().for_each(|session| seating.give(*operator, Subtask(worker), *session));
        }
    }
    owner.open(&seating, "").await
}

/// A job that runs on a cluster.
struct Cluster {
    job: Job,
    down: Port<Vec<(u64, Down)>>,
    workers: u64,
    summary: Arc<OnceLock<Summary>>,
}

impl Cluster {
    async fn run(self, runtime: &SharedRuntime, sources: u64, reports: &mut UnboundedReceiver<Report>) -> Result<()> {
        let mut left = sources;
        let mut progress = self.job.watch();
        while left > 0 {
            tokio::select! {
                () = runtime.sleep(TICK) => if self.job.is_due() && let Some(barrier) = self.job.trigger()? {
                    self.announce(barrier);
                },
                report = reports.recv() => match report {
                    Some(Report::Exhausted) => left -= 1,
                    Some(Report::Finished) => {}
                    None => return Err(Error::stopped("the links are broken")),
                },
                _ = progress.changed() => if let Some(error) = &progress.borrow_and_update().failed {
                    return Err(error.clone());
                },
            }
        }
        let last = self.commit_the_end().await?;
        self.broadcast(&Down::Complete(last.0));
        let mut left = self.workers;
        while left > 0 {
            match reports.recv().await {
                Some(Report::Finished) => left -= 1,
                Some(Report::Exhausted) => {}
                None => return Err(Error::stopped("the links are broken")),
            }
        }
        let _once = self.summary.set(Summary::of(&self.job));
        self.broadcast(&Down::End);
        Ok(())
    }

    /// Takes checkpoints until one has the end of all sources.
    async fn commit_the_end(&self) -> Result<Epoch> {
        loop {
            let barrier = self.job.trigger_when_possible().await?;
            self.announce(barrier);
            if self.job.wait(barrier).await?.is_some() {
                return Ok(barrier.epoch);
            }
            let progress = self.job.progress();
            let reason = progress.last_decline.or_else(|| progress.last_aborted.map(|aborted| aborted.reason));
            match reason {
                // Its sink, or its store, will not do it another time either.
                Some(error) if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Stopped) => {
                    return Err(error);
                }
                _ => tracing::warn!(epoch = %barrier.epoch, "the last checkpoint was aborted, and is taken again"),
            }
        }
    }

    fn announce(&self, barrier: Barrier) {
        self.broadcast(&Down::Barrier(barrier.attempt.0, barrier.epoch.0));
    }

    fn broadcast(&self, message: &Down) {
        // At once: the first worker that hears of the end closes the way to the others.
        self.down.send((0..self.workers).map(|worker| (worker, message.clone())).collect());
    }
}
