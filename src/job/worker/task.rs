//! A task: a running subtask, which processes records and seals its state at barriers.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use super::in_flight::{HandIn, InFlightData};
use super::shared::{Mail, Presence};
use super::sinks::{Drained, TaskSinks};
use crate::backend::{KeyedState, Outcome, StateBackend, TableEntry, Tables};
use crate::canary::{self, Canary};
use crate::checkpoint::acknowledgement::{Arrival, StateSummary};
use crate::checkpoint::lazy::{LazyRestore, Ready};
use crate::checkpoint::pipeline::{SharedChain, lock};
use crate::checkpoint::restore_progress::RestoreProgress;
use crate::checkpoint::restore_tracker::RestoreTracker;
use crate::checkpoint::uses::GroupUses;
use crate::error::{Error, Result};
use crate::id::{Barrier, Epoch, Part, Subtask};
use crate::job::Strategy;
use crate::job::operator_state::OperatorState;
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::manifest::{Opaque, OpaqueRole, check_handed_in};
use crate::metrics;
use crate::row::Cut;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

/// A running subtask: the single owner of its backend.
///
/// Process records through [`state`](Self::state) and [`operator_state`](Self::operator_state). At each barrier from
/// [`Job::trigger`](crate::job::Job::trigger), call [`barrier`](Self::barrier) or [`decline`](Self::decline), once. Output of
/// [sinks](crate::Seat::add_sink) follows its checkpoint by itself; an engine that publishes on its own publishes what
/// [`committed`](Self::committed) covers before each barrier. Between barriers, [`settle`](Self::settle) learns of commits.
///
/// Dropping the task declines every epoch that waits for it. The attempt continues, but completes no further
/// checkpoint. So when one task fails, end the attempt: drop the job, or, at a worker in another process than the owner,
/// break the link.
#[derive(Debug)]
pub struct Task<B> {
    pub(super) presence: Presence,
    pub(super) owned: KeyGroupSet,
    pub(super) state: KeyedState<B>,
    pub(super) operator_state: OperatorState,
    pub(super) runtime: SharedRuntime,
    pub(super) chain: SharedChain,
    pub(super) settled: UnboundedReceiver<(Epoch, Outcome)>,
    /// The newest epoch that this task sealed or declined.
    pub(super) newest: Option<Epoch>,
    /// Sealed epochs whose outcome this task does not know yet.
    pub(super) sealed: BTreeSet<Epoch>,
    pub(super) committed: Option<Epoch>,
    pub(super) strategy: Strategy,
    pub(super) tables: AgreedTables,
    pub(super) uses: GroupUses,
    pub(super) tracker: Arc<RestoreTracker>,
    /// `None` if no key group may be absent.
    pub(super) lazy: Option<Arc<LazyRestore>>,
    pub(super) sinks: TaskSinks,
}

/// The tables on which the operator's subtasks agreed.
#[derive(Debug)]
pub(super) struct AgreedTables {
    changes: usize,
    pub(super) entries: Arc<[TableEntry]>,
}

impl AgreedTables {
    pub(super) fn new(tables: &Tables) -> Self {
        Self { changes: tables.changes(), entries: tables.entries() }
    }
}

impl<B: StateBackend> Task<B> {
    /// Returns its index within the operator.
    #[must_use]
    pub fn subtask(&self) -> Subtask {
        self.presence.participant.1
    }

    /// Returns the key groups that it owns.
    #[must_use]
    pub fn groups(&self) -> &KeyGroupSet {
        &self.owned
    }

    /// Returns its keyed state.
    #[must_use]
    pub fn state(&mut self) -> &mut KeyedState<B> {
        &mut self.state
    }

    /// Returns its operator state.
    #[must_use]
    pub fn operator_state(&mut self) -> &mut OperatorState {
        &mut self.operator_state
    }

    /// Returns keyed and operator state, for code that borrows both at once.
    #[must_use]
    pub fn states(&mut self) -> (&mut KeyedState<B>, &mut OperatorState) {
        (&mut self.state, &mut self.operator_state)
    }

    /// Returns a future that resolves once the key groups of `keys` are loaded, to a guard that keeps them so: for engines
    /// whose threads do not wait. [`KeyedState::locate`] locates keys. After an [eager](crate::RestoreMode::Eager) restore it is
    /// ready at once. Rows of the keys that lie on the disk of a [`MemoryBudget`](crate::MemoryBudget) are read meanwhile, all
    /// at once, if that disk keeps its readers waiting.
    ///
    /// # Errors
    /// Of the future: why a group cannot be loaded. `Corrupt` or `Version`, naming it; `Fenced`; `Limit` if the memory
    /// budget is spent; `Unavailable` if the store does not answer: call again.
    pub fn ready(&self, keys: &[CurrentKey<'_>]) -> Ready {
        self.state.backend().prefetch_keys(keys);
        self.ready_groups(&keys.iter().map(|key| key.group).collect())
    }

    /// As [`Task::ready`], for key groups: for those of [`Timers::due_groups`](crate::Timers::due_groups), say.
    pub fn ready_groups(&self, groups: &KeyGroupSet) -> Ready {
        match &self.lazy {
            Some(lazy) => lazy.ready(groups.intersection(&self.owned)),
            None => Ready::resident(),
        }
    }

    /// Returns how far its restore has come. [`Seat::on_restore_progress`](crate::Seat::on_restore_progress) has changes
    /// reported instead.
    #[must_use]
    pub fn restore_progress(&self) -> RestoreProgress {
        self.tracker.progress()
    }

    /// Returns the key groups whose rows are damaged in the restored checkpoint, as far as is known, each with its error.
    /// Every access to them fails. Checkpoints list their segments again, as they are, until [`Task::give_up_groups`], or a
    /// restart from another checkpoint.
    #[must_use]
    pub fn damaged_groups(&self) -> Vec<(KeyGroup, Error)> {
        self.lazy.as_ref().map_or_else(Vec::new, |lazy| lazy.damaged())
    }

    /// Gives up all state of damaged key groups: they are empty from now on, and the next checkpoint no longer lists what is
    /// stored of them. Checkpoints that are retained still do.
    ///
    /// # Errors
    /// `Usage` if a group is not among [`Task::damaged_groups`].
    pub fn give_up_groups(&mut self, groups: &KeyGroupSet) -> Result<()> {
        let damaged: KeyGroupSet = self.damaged_groups().into_iter().map(|(group, _)| group).collect();
        let sound = groups.difference(&damaged);
        if !sound.is_empty() {
            return Err(Error::usage("key groups are not known to be damaged").with("groups", sound));
        }
        self.state.backend_mut().give_up(groups)?;
        tracing::warn!(%groups, "damaged key groups were given up, and are empty");
        lock(&self.chain).give_up(groups);
        Ok(())
    }

    /// Ends an epoch at this task: seals its state, which the background then encodes and uploads.
    ///
    /// * `watermark`: the task's event time.
    /// * `opaques`: bytes to store in the same checkpoint: source positions, in-flight data, prepared output.
    ///
    /// Epochs must ascend. If a task skips an epoch, this barrier subsumes it: the job aborts the skipped epoch, whose
    /// state is part of this one. If the epoch was aborted meanwhile, the call still succeeds and its state joins the
    /// next checkpoint.
    ///
    /// Opaques replace those of earlier epochs. Prepared output ([`OpaqueRole::SinkPrepared`]) accumulates instead:
    /// each checkpoint lists it until one that lists it is committed and [`Task::committed`] covers that commit before
    /// this call. So call [`Task::settle`] and publish what [`Task::committed`] covers before this call.
    ///
    /// # Errors
    /// The task is unchanged by each: call again, or [`Task::decline`] the epoch. Otherwise the epoch stays open until
    /// its timeout.
    /// * The job's error, such as `Fenced`, if it has failed; that of a sink whose target refused output for good.
    /// * `Config`: another subtask of the operator declared one of the task's new tables differently.
    /// * `Usage`: this attempt never triggered the epoch; the epoch is not newer than this task's last; or an opaque is
    ///   invalid: two share a role and name, a name is too long or reserved for operator state, items are out of order.
    ///
    /// # Cost
    /// Independent of the keyed state's size (see [`StateBackend::seal`]), plus a copy of each changed operator state.
    ///
    /// [`OpaqueRole::SinkPrepared`]: crate::manifest::OpaqueRole::SinkPrepared
    pub fn barrier(&mut self, barrier: Barrier, watermark: Timestamp, opaques: Vec<Opaque>) -> Result<()> {
        self.pass(barrier, watermark, opaques, 0)
    }

    /// As [`barrier`](Self::barrier), at an epoch whose in-flight data are not known yet: the barrier overtakes records on the way
    /// to this task, or is on its way around a cycle. The task processes records at once; each one that the barrier has overtaken
    /// is processed and also logged, and the log is handed in with [`InFlightData::complete`], once the barrier has come on every channel.
    /// Until then the epoch is open, and later ones wait for it. After a restore, the task processes the logged records before all
    /// others.
    ///
    /// # Errors
    /// As [`barrier`](Self::barrier); `Usage` if `opaques` has in-flight data already.
    pub fn barrier_in_flight(
        &mut self,
        barrier: Barrier,
        watermark: Timestamp,
        opaques: Vec<Opaque>,
    ) -> Result<InFlightData> {
        if let Some(early) = opaques.iter().find(|opaque| opaque.role == OpaqueRole::InFlight) {
            let error = Error::usage("in-flight data are handed in when they are complete");
            return Err(error.with("opaque", &early.name));
        }
        self.pass(barrier, watermark, opaques, 1)?;
        Ok(InFlightData::new(HandIn::new(&self.presence, barrier.epoch), self.owned.clone()))
    }

    /// * `awaits`: the engine's hand-ins that follow.
    fn pass(&mut self, barrier: Barrier, watermark: Timestamp, opaques: Vec<Opaque>, awaits: usize) -> Result<()> {
        self.check_next(barrier)?;
        self.sinks.check()?;
        check_handed_in(&opaques, &self.owned)?;
        let published = self.sinks.published(self.committed);
        self.settle()?;
        self.agree_on_tables()?;
        let epoch = barrier.epoch;
        let mut opaques = self.operator_state.add_to(opaques)?;
        let cut = Cut { epoch, part: Part(0), event_time: watermark, processing_time: self.runtime.now() };
        let bases = match self.strategy {
            Strategy::Full => self.owned.clone(),
            Strategy::Incremental => lock(&self.chain).take_due(),
        };
        let sealed = self.state.backend_mut().seal(cut, &bases);
        let mut sealed = sealed.inspect_err(|_| lock(&self.chain).add_due(&bases))?;
        opaques.extend(self.sinks.prepare(epoch));
        let staging = self.sinks.drain(epoch, &self.presence);
        metrics::dirty_rows(sealed.dirty_rows);
        self.uses.at_seal(&sealed.heat);
        self.lazy.iter().for_each(|lazy| lazy.set_uses(&self.uses));
        let summary = StateSummary {
            tables: Arc::clone(&self.tables.entries),
            heat: std::mem::take(&mut sealed.heat),
            statistics: std::mem::take(&mut sealed.statistics),
        };
        let absent = self.state.backend().absent();
        let mut chain = lock(&self.chain);
        chain.set_absent(absent);
        chain.set_loading(self.lazy.as_ref().is_some_and(|lazy| lazy.is_loading()));
        chain.push(sealed);
        drop(chain);
        self.newest = Some(epoch);
        self.sealed.insert(epoch);
        let times = if canary::on(Canary::ForgetTimes) { Vec::new() } else { self.state.backend().times() };
        let (owned, uses) = (self.owned.clone(), self.uses.clone());
        let (awaits, in_flight) = (awaits + staging.len(), None);
        let arrival = Arrival { owned, watermark, times, uses, opaques, awaits, in_flight, published, summary };
        self.presence.attempt.post(Mail::Arrived(epoch, self.presence.participant, arrival))?;
        // Hand-ins must not overtake the arrival.
        staging.into_iter().for_each(Drained::stage);
        Ok(())
    }

    /// Refuses to end an epoch at this task, for example because a sink cannot prepare its output. The job aborts the
    /// epoch at once. Nothing is sealed; the changes since the last barrier are part of the next epoch.
    ///
    /// * `reason`: text or an error; becomes the source of [`Progress::last_decline`].
    ///
    /// # Errors
    /// The job's error, if it has failed; `Usage` if this attempt never triggered the epoch, or the epoch is not newer
    /// than this task's last.
    ///
    /// [`Progress::last_decline`]: crate::job::Progress::last_decline
    pub fn decline(
        &mut self,
        barrier: Barrier,
        reason: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<()> {
        self.check_next(barrier)?;
        self.newest = Some(barrier.epoch);
        let (operator, subtask) = self.presence.participant;
        let error =
            Error::unavailable("subtask declined the epoch").with("operator", operator).with("subtask", subtask);
        self.presence.attempt.post(Mail::Declined(barrier.epoch, error.with_source(reason)))
    }

    fn check_next(&self, barrier: Barrier) -> Result<()> {
        self.presence.attempt.shared.check()?;
        self.presence.attempt.shared.check_barrier(barrier)?;
        match self.newest {
            Some(newest) if newest >= barrier.epoch => {
                let error = Error::usage("epoch does not follow this task's last epoch");
                Err(error.with("epoch", barrier.epoch).with("last", newest))
            }
            _ => Ok(()),
        }
    }

    /// Returns the newest epoch that this task knows to be committed: output up to it can be published.
    /// [`Task::settle`] and [`Task::barrier`] update it.
    #[must_use]
    pub fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    /// Records the tables declared since the last barrier.
    fn agree_on_tables(&mut self) -> Result<()> {
        let tables = self.state.tables();
        if tables.changes() == self.tables.changes {
            return Ok(());
        }
        let new = AgreedTables::new(tables);
        let (operator, subtask) = self.presence.participant;
        self.presence.attempt.shared.schemas.agree(operator, subtask, &new.entries)?;
        self.tables = new;
        Ok(())
    }

    /// Reads the outcomes of earlier epochs and passes them to the backend, and evicts cold key groups while the memory budget
    /// is nearly spent. [`Task::barrier`] does the same. Does not block.
    ///
    /// # Errors
    /// None from the crate's own backends.
    pub fn settle(&mut self) -> Result<()> {
        while let Ok((epoch, outcome)) = self.settled.try_recv() {
            // An epoch can be aborted before its barrier reaches this task.
            let sealed = self.sealed.remove(&epoch);
            if outcome == Outcome::Commit {
                self.committed = Some(epoch);
                self.sealed.retain(|other| *other > epoch);
            }
            if sealed {
                self.state.backend_mut().settle(epoch, outcome)?;
            }
        }
        self.lazy.as_ref().map_or(Ok(()), |lazy| lazy.relieve(self.state.backend_mut()))
    }
}
