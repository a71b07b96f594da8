//! The job's background in one process: an owner and a worker, joined by one loop.
//!
//! ```text
//! tasks --mail--> Worker --reports--> Owner --commands--> commit, or settle the epoch with the worker
//! ```
//!
//! Invariants: an epoch's end is decided by the owner's coordinator alone; a fenced attempt does nothing more.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use futures_util::stream::StreamExt as _;
use tokio::sync::mpsc::UnboundedReceiver;

use super::owner::{self, Owner};
use super::shared::{Shared, Wake};
use super::worker::{self, Report, Worker};
use crate::backend::Outcome;
use crate::control::coordinator::Command;
use crate::error::{Error, Result};
use crate::id::Epoch;
use crate::metrics;
use crate::runtime::SharedRuntime;

/// The background of one attempt.
pub(super) struct Background {
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: SharedRuntime,
    pub(super) owner: Owner,
    pub(super) worker: Worker,
    pub(super) wakes: UnboundedReceiver<Wake>,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) latch: Latch,
}

/// An event for the loop.
enum Step {
    /// A trigger, or mail that should not wait; `None` once every handle is dropped.
    Woken(Option<Wake>),
    Owner(owner::Step),
    Worker(worker::Step),
}

impl Background {
    /// Runs until the job is dropped or fails.
    pub(super) async fn run(mut self) {
        self.owner.begin();
        loop {
            let step = self.next().await;
            match self.handle(step) {
                Ok(true) => self.advance(),
                Ok(false) => return,
                Err(error) => return self.owner.fail(error),
            }
        }
    }

    async fn next(&mut self) -> Step {
        poll_fn(|context| {
            if let Poll::Ready(Some(step)) = self.owner.steps.poll_next_unpin(context) {
                return Poll::Ready(Step::Owner(step));
            }
            if let Poll::Ready(Some(step)) = self.worker.steps.poll_next_unpin(context) {
                return Poll::Ready(Step::Worker(step));
            }
            self.wakes.poll_recv(context).map(Step::Woken)
        })
        .await
    }

    /// Handles one step; returns false once every handle is dropped.
    fn handle(&mut self, step: Step) -> Result<bool> {
        let now = self.runtime.monotonic();
        match step {
            Step::Woken(None) => return Ok(false),
            Step::Woken(Some(Wake::Mail)) => {}
            Step::Woken(Some(Wake::Triggered { epoch, announced })) => {
                // An epoch may have timed out before this wake was read.
                let open = self.shared.coordinator().is_in_flight(epoch);
                self.owner.triggered(now, epoch, open);
                self.worker.triggered(now, epoch, open.then_some(announced));
            }
            Step::Owner(step) => {
                if let Some((epoch, id)) = self.owner.handle(now, step)? {
                    self.worker.settle(epoch, Outcome::Commit);
                    self.owner.announce(now, epoch, id);
                }
            }
            Step::Worker(step) => self.worker.handle(step),
        }
        Ok(true)
    }

    /// Starts whatever can start now.
    fn advance(&mut self) {
        for report in self.worker.gather() {
            self.report(report);
        }
        while let Some(command) = self.owner.poll() {
            match command {
                Command::Commit(epoch) => self.owner.commit(epoch),
                Command::Abort(epoch) => self.abort(epoch),
            }
        }
        self.worker.advance();
        self.owner.advance();
        metrics::in_progress(self.shared.coordinator().in_flight());
    }

    fn report(&mut self, report: Report) {
        let now = self.runtime.monotonic();
        match report {
            Report::Placed(epoch, placed) => self.owner.placed(now, epoch, placed),
            Report::Declined(epoch, reason) => self.owner.decline(now, epoch, reason),
        }
    }

    fn abort(&mut self, epoch: Epoch) {
        let now = self.runtime.monotonic();
        let unfinished = self.worker.settle(epoch, Outcome::Abort);
        self.owner.aborted(now, epoch, unfinished);
    }
}

/// Marks the job as failed if its background ends without an error of its own: by a panic, or dropped by its runtime.
#[derive(Debug)]
pub(super) struct Latch(pub(super) Arc<Shared>);

impl Drop for Latch {
    fn drop(&mut self) {
        self.0.fail(Error::stopped("the job's background ended: it panicked, or its runtime dropped it"));
    }
}
