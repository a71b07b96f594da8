//! How epochs end, and how the attempt does.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt as _;

use super::{Decision, InFlight, OwnedAttempt, Step};
use crate::backend::Outcome;
use crate::checkpoint::commit::CommitOutcome;
use crate::control::coordinator::{Event as Change, Participant};
use crate::control::interval::{CheckpointSample, Observation};
use crate::error::{Applied, Error, ErrorKind, Result, broken};
use crate::id::{Epoch, ManifestId, ObjectId, SessionId};
use crate::job::progress::Aborted;
use crate::job::wire::{Settle, ToWorker};
use crate::metrics;
use crate::time::Timestamp;

impl OwnedAttempt {
    /// Publishes the errors of a commit in doubt in the job's progress.
    pub(super) fn publish_doubt(&mut self) {
        let shared = Arc::downgrade(&self.shared);
        let Some(committer) = &mut self.committer else { broken("an owner starts without its committer") };
        committer.on_doubt(Arc::new(move |error| {
            if let Some(shared) = shared.upgrade() {
                shared.update(|progress| progress.unsettled = Some(error.clone()));
            }
        }));
    }

    /// Takes the committer back once the outcome of its commit is known.
    ///
    /// # Errors
    /// Fatal to the attempt: the commit stays in doubt, or another attempt owns the job.
    pub(super) fn decided(&mut self, now: Timestamp, epoch: Epoch, decision: Decision) -> Result<()> {
        let Decision { mut committer, outcome, listed } = decision;
        if outcome.is_ok() {
            self.garbage.push(committer.take_garbage());
        }
        self.committer = Some(committer);
        match outcome {
            Ok(CommitOutcome::Committed(committed)) => {
                self.shared.update(|progress| progress.unsettled = None);
                self.shared.coordinator().handle(now, Change::Committed(epoch));
                let pending = self.epochs.values().flat_map(|flight| flight.placed.values());
                let pending: BTreeSet<_> =
                    pending.flat_map(|ack| &ack.placed.objects).map(|object| object.id).collect();
                self.intake.committed(listed, &pending);
                self.committed(now, epoch, committed.id);
                Ok(())
            }
            Ok(CommitOutcome::Fenced { by }) => {
                self.shared.update(|progress| progress.unsettled = None);
                Err(Error::fenced("a newer attempt owns the job").with("attempt", by))
            }
            // The store refused, or the draft broke a rule: the manifest does not exist and will not.
            Err(error) if is_not_committed(&error) => {
                if let Some(flight) = self.epochs.get_mut(&epoch) {
                    flight.reason = Some(error.clone());
                }
                self.shared.update(|progress| {
                    progress.unsettled = None;
                    progress.last_decline = Some(error);
                });
                self.shared.coordinator().handle(now, Change::NotCommitted(epoch));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Settles a committed epoch with the workers, then announces its checkpoint: who waits for the announcement finds
    /// the epoch settled.
    fn committed(&mut self, now: Timestamp, epoch: Epoch, id: ManifestId) {
        let started = self.epochs.remove(&epoch).map_or(now, |flight| flight.started);
        let duration = now.since(started);
        self.observe_completed(now, duration);
        let rewrite = std::mem::take(&mut self.rewrite);
        self.settle(epoch, Outcome::Commit, rewrite);
        metrics::checkpoint_completed(id.seq, duration);
        tracing::info!(%epoch, id = %id.seq, ?duration, "checkpoint committed");
        self.shared.epoch_ended(epoch, Some(id));
        self.shared.update(|progress| {
            progress.committed = Some((epoch, id));
            progress.completed = progress.completed.saturating_add(1);
        });
        self.sweep_late_uploads();
    }

    fn settle(&self, epoch: Epoch, outcome: Outcome, rewrite: Vec<ObjectId>) {
        let decided = |policy| self.shared.adaptive.as_ref().map_or(policy, |adaptive| adaptive.chain_policy(policy));
        self.broadcast(&ToWorker::Settle(Settle { epoch, outcome, chain: self.chain.map(decided), rewrite }));
    }

    /// Returns the number of requests that this process has made.
    pub(super) fn store_requests(&self) -> u64 {
        let requests = self.store.requests();
        requests.put + requests.get + requests.list + requests.delete
    }

    /// Reports the checkpoint's duration and requests to the controller of the interval.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests and rows")]
    fn observe_completed(&mut self, now: Timestamp, duration: Duration) {
        let all = self.store_requests();
        let requests = all.saturating_sub(self.requests.replace(all).unwrap_or(all));
        let requests = requests.saturating_add(self.workers_requests) as f64;
        let sample = CheckpointSample { duration: duration.as_secs_f64(), requests, ..self.sample };
        self.shared.observe(now, Observation::Completed(sample));
    }

    /// Settles an aborted epoch with the workers, logs and announces it.
    pub(super) fn aborted(&mut self, epoch: Epoch) {
        let now = self.runtime.monotonic();
        self.shared.observe(now, Observation::Aborted);
        metrics::checkpoint_failed();
        // An epoch that timed out before its trigger was read is unknown here: no subtask has arrived.
        let flight = self.epochs.remove(&epoch).unwrap_or_else(|| InFlight::new(now));
        self.settle(epoch, Outcome::Abort, Vec::new());
        let missing: Vec<_> = match flight.committing {
            true => Vec::new(),
            false => self.intake.seats().filter(|subtask| !flight.arrived.contains(subtask)).collect(),
        };
        let stage = flight.stage(missing.is_empty(), self.intake.worker_count());
        let reason = flight.reason.unwrap_or_else(|| Error::unavailable("checkpoint was not complete in time"));
        let aborted = Aborted { epoch, reason, age: now.since(flight.started), missing };
        let subtasks = Subtasks(&aborted.missing);
        tracing::warn!(%epoch, reason = aborted.reason.chain(), age = ?aborted.age, stage,
            missing = %subtasks, "checkpoint given up");
        self.shared.epoch_ended(epoch, None);
        self.shared.update(|progress| {
            progress.aborted = progress.aborted.saturating_add(1);
            progress.last_aborted = Some(aborted);
        });
    }

    pub(super) fn arm_timer(&mut self) {
        let Some(deadline) = self.shared.coordinator().deadline() else { return };
        // A later epoch may have an earlier deadline: the controller chooses each timeout.
        if self.timer.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.timer = Some(deadline);
        let sleep = self.runtime.sleep(deadline.since(self.runtime.monotonic()));
        self.steps.push(sleep.map(move |()| Step::Deadline(deadline)).boxed());
    }

    /// Gives up the epochs that a lost worker leaves incomplete.
    ///
    /// # Errors
    /// `Stopped` if the worker had seats: its subtasks are gone, and with them this attempt.
    pub(super) fn lost(&mut self, now: Timestamp, session: SessionId) -> Result<()> {
        let seats = self.intake.seats_of(session).len();
        if seats == 0 {
            return Ok(());
        }
        let lost = Error::stopped("a worker was lost").with("session", session).with("seats", seats);
        let epochs: Vec<_> = self.epochs.keys().copied().collect();
        epochs.into_iter().for_each(|epoch| self.decline(now, epoch, lost.clone()));
        self.advance();
        Err(lost)
    }

    /// Returns why the attempt ends when a worker cannot take its seats.
    ///
    /// A worker with another store is treated like one with another program: its link ends, and the next attempt goes
    /// without it.
    pub(super) fn seats_refused(&self, session: SessionId, error: Error) -> Error {
        let host = self.sessions.host(session).unwrap_or_default();
        let is_other = error.kind() == ErrorKind::Config;
        if is_other {
            self.sessions.refuse(error.clone());
            self.sessions.lost(session);
        }
        let kind = if is_other { ErrorKind::Stopped } else { error.kind() };
        Error::new(kind, "worker cannot take its seats").with("host", host.escape_debug()).with_source(error)
    }

    /// Ends the attempt with an error.
    pub(super) fn fail(mut self, error: Error) {
        match error.kind() {
            ErrorKind::Fenced => tracing::warn!(error = error.chain(), "fenced"),
            _ => tracing::error!(error = error.chain(), "job failed"),
        }
        self.end(error);
    }

    /// Tells the workers, then everyone who waits.
    pub(super) fn end(&mut self, error: Error) {
        self.ended = true;
        self.broadcast(&ToWorker::Stop(error.clone()));
        self.shared.fail(error);
    }
}

/// Ends the attempt if its loop ends without an error of its own: by a panic, or dropped by its runtime.
impl Drop for OwnedAttempt {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Error::stopped("the job's background ended: it panicked, or its runtime dropped it"));
        }
    }
}

impl InFlight {
    /// Returns how far the epoch has come, for the log.
    fn stage(&self, all_arrived: bool, workers: usize) -> &'static str {
        match (self.committing, all_arrived) {
            (true, _) => "committing",
            (false, false) => "waiting for subtasks",
            (false, true) if self.acknowledged.len() < workers => "encoding and uploading",
            (false, true) => "waiting for an earlier commit",
        }
    }
}

/// Returns whether a failed commit provably left no manifest, so that the job can continue.
fn is_not_committed(error: &Error) -> bool {
    let ends = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fenced | ErrorKind::Stopped);
    error.applied() == Applied::No && !ends
}

/// Prints subtasks for a log line.
struct Subtasks<'a>(&'a [Participant]);

impl fmt::Display for Subtasks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (operator, subtask) in self.0.iter().take(SHOWN) {
            write!(f, "{operator}/{subtask} ")?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "and {more} more"),
        }
    }
}
