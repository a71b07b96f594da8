//! Workers: they connect to owners, restore the seats that they are given, and hold the tasks.

use std::pin::pin;

use alluvium::{Assignment, Error, RestoreMode, Result, Worker, WorkerSettings};
use futures_util::future::{Either, select};

use super::engine::PROGRAM;
use super::links::Dialled;
use super::nodes::Process;
use super::seats::{Hosted, Party, Slot};

/// What a worker waits for.
enum Event {
    Assigned(Result<Assignment>),
    Broken,
    /// There may be another owner, or more memory.
    Changed,
}

impl Process {
    /// Works for one owner after another, for ever.
    pub(crate) async fn work(mut self) {
        let network = self.world.network.clone();
        if self.world.sim.crashes(self.node) > 0 {
            self.world.sim.hit("worker crashed and came back");
        }
        loop {
            let scarce = self.world.scarce && !network.has_plenty();
            let settings = WorkerSettings::default().with(|it| {
                it.host = format!("n{}", self.node);
                it.program = PROGRAM.into();
                it.memory_bytes = if scarce { self.rng.within(20_000, 300_000) } else { u64::MAX };
                it.restore_bytes = if self.rng.permille(100) { 40_000 } else { 128 << 20 };
                it.restore = if self.rng.permille(600) { RestoreMode::Lazy } else { RestoreMode::Eager };
            });
            let mut worker = Worker::new(self.store.clone(), settings);
            self.world.judge.track_budget(worker.budget());
            self.serve(&mut worker, scarce).await;
        }
    }

    /// Works until there is more memory than this worker has.
    async fn serve(&mut self, worker: &mut Worker, scarce: bool) {
        let network = self.world.network.clone();
        let mut hosted: Option<Hosted> = None;
        let mut changed = network.watch();
        let mut last = None;
        loop {
            self.pause(0, 200).await;
            changed.mark_unchanged();
            let Some(listener) = network.choose(&mut self.rng) else {
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if last.replace(listener).is_some_and(|last| last != listener) {
                self.world.sim.hit("owner replaced");
            }
            let mut link = network.dial(self.node, listener, worker.connect());
            loop {
                match next(worker, &mut link, &mut changed).await {
                    Event::Assigned(Ok(assignment)) => {
                        // The tasks of the attempt before have ended.
                        drop(hosted.take());
                        self.restore(assignment, &mut hosted).await;
                    }
                    Event::Assigned(Err(error)) => self.failed("assignment", &error, &["fenced"]),
                    Event::Broken => break,
                    Event::Changed if scarce && network.has_plenty() => return,
                    Event::Changed => {
                        if network.choose(&mut self.rng) != Some(link.listener) && self.rng.permille(850) {
                            self.pause(0, 1_000).await;
                            break;
                        }
                    }
                }
            }
            if network.was_given_up(self.node) {
                self.world.sim.hit("worker given up while it was paused came back");
            }
        }
    }

    /// Restores the seats of an assignment, and hands them to the attempt's engine.
    async fn restore(&mut self, mut assignment: Assignment, hosted: &mut Option<Hosted>) {
        let (attempt, seats) = (assignment.attempt.0, std::mem::take(&mut assignment.seats));
        let overlay = assignment.payload.first() == Some(&1);
        if assignment.payload.len() != 1 {
            self.world.judge.oracle.violation(format!("attempt {attempt} has the payload {:?}", assignment.payload));
        }
        let mut party = Party::new(self.store.runtime().clone());
        party.assignment = Some(Slot::new(assignment));
        let host = hosted.insert(Hosted(party));
        let restored = host.0.restore(seats, overlay).await;
        let party = restored.map(|()| host.0.clone());
        self.world.network.stage(attempt, party);
    }
}

/// Waits for the next event. An assignment comes before what else happened.
async fn next(worker: &mut Worker, link: &mut Dialled, changed: &mut tokio::sync::watch::Receiver<()>) -> Event {
    let (assigned, changed) = (pin!(worker.assigned()), pin!(changed.changed()));
    match select(assigned, select(&mut link.broken, changed)).await {
        Either::Left((assigned, _)) => Event::Assigned(assigned),
        Either::Right((Either::Left(_), _)) => Event::Broken,
        Either::Right((Either::Right(_), _)) => Event::Changed,
    }
}

/// Returns whether an attempt may be followed by another in place.
pub(crate) fn can_go_on(error: &Error) -> bool {
    !matches!(error.kind().name(), "fenced" | "limit")
}
