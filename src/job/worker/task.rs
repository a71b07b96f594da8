//! A task: a running subtask, which processes records and seals at barriers.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::backend::{KeyedState, Outcome, StateBackend, TableEntry, Tables};
use crate::canary::{self, Canary};
use crate::checkpoint::acknowledgement::{Arrival, StateSummary};
use crate::checkpoint::pipeline::{SharedChain, lock};
use crate::error::{Error, Result};
use crate::id::{Barrier, Epoch, Part, Subtask};
use crate::job::Strategy;
use crate::job::operator_state::OperatorState;
use crate::job::shared::{Mail, Presence};
use crate::key_group::KeyGroupSet;
use crate::manifest::{Opaque, check_handed_in};
use crate::metrics;
use crate::row::Cut;
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

/// A running subtask: the single owner of its backend.
#[derive(Debug)]
pub struct Task<B> {
    pub(super) presence: Presence,
    pub(super) owned: KeyGroupSet,
    pub(super) state: KeyedState<B>,
    pub(super) operator_state: OperatorState,
    pub(super) runtime: SharedRuntime,
    pub(super) chain: SharedChain,
    pub(super) settled: UnboundedReceiver<(Epoch, Outcome)>,
    /// The newest epoch that was sealed or declined here.
    pub(super) newest: Option<Epoch>,
    /// Sealed epochs whose outcome is not known here.
    pub(super) sealed: BTreeSet<Epoch>,
    pub(super) committed: Option<Epoch>,
    pub(super) strategy: Strategy,
    pub(super) tables: AgreedTables,
}

/// The tables that the job's subtasks agreed on.
#[derive(Debug)]
pub(super) struct AgreedTables {
    changes: usize,
    pub(super) entries: Arc<[TableEntry]>,
}

impl AgreedTables {
    pub(super) fn of(tables: &Tables) -> Self {
        Self { changes: tables.changes(), entries: tables.entries() }
    }
}

impl<B: StateBackend> Task<B> {
    /// Returns the subtask.
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

    /// Returns keyed and operator state, for code that needs both at a time.
    #[must_use]
    pub fn states(&mut self) -> (&mut KeyedState<B>, &mut OperatorState) {
        (&mut self.state, &mut self.operator_state)
    }

    /// Ends an epoch here: freezes its state and lets the background take it from there. `opaques` travel in the
    /// same checkpoint, as operator state does: source positions, in-flight data, prepared sinks.
    ///
    /// Epochs rise. A task that passes over an epoch never ends it: the barrier subsumes it, and the job gives it up; its
    /// state is part of this epoch. A barrier of an epoch that was given up meanwhile is taken, and its state is part of the
    /// next checkpoint.
    ///
    /// Opaques are of this instant, and those of the newest epoch replace those before. Prepared output
    /// ([`OpaqueRole::SinkPrepared`]) adds up instead: each checkpoint lists it until the commit of one that lists it was
    /// announced before the barrier's trigger. So publish what [`Task::committed`] covers before the call.
    ///
    /// # Errors
    /// What the job failed with (`Fenced`, say), if it has; `Config` if a table was declared meanwhile that another subtask
    /// of the operator declared differently; `Usage` if this attempt never triggered the epoch, if it does not follow the
    /// last, or if an opaque cannot be part of a checkpoint: two of one role and name, a name that is too long, items out of
    /// order, a name that is kept for operator state. The task is then as before: call again, or [`Task::decline`] the
    /// epoch, which waits for this task until it takes too long.
    ///
    /// # Cost
    /// Independent of the keyed state's size (see [`StateBackend::seal`]); a copy of the operator states that changed.
    ///
    /// [`OpaqueRole::SinkPrepared`]: crate::manifest::OpaqueRole::SinkPrepared
    pub fn barrier(&mut self, barrier: Barrier, watermark: Timestamp, opaques: Vec<Opaque>) -> Result<()> {
        self.check_next(barrier)?;
        check_handed_in(&opaques)?;
        self.settle()?;
        self.agree_on_tables()?;
        let epoch = barrier.epoch;
        let opaques = self.operator_state.add_to(opaques)?;
        let cut = Cut { epoch, part: Part(0), event_time: watermark, processing_time: self.runtime.now() };
        let bases = match self.strategy {
            Strategy::Full => self.owned.clone(),
            Strategy::Incremental => lock(&self.chain).take_due(),
        };
        let sealed = self.state.backend_mut().seal(cut, &bases);
        let mut sealed = sealed.inspect_err(|_| lock(&self.chain).add_due(&bases))?;
        metrics::dirty_rows(sealed.dirty_rows);
        let summary = StateSummary {
            tables: Arc::clone(&self.tables.entries),
            heat: std::mem::take(&mut sealed.heat),
            statistics: std::mem::take(&mut sealed.statistics),
        };
        lock(&self.chain).push(sealed);
        self.newest = Some(epoch);
        self.sealed.insert(epoch);
        let times = if canary::on(Canary::ForgetTimes) { Vec::new() } else { self.state.backend().times() };
        let arrival = Arrival { owned: self.owned.clone(), watermark, times, opaques, summary };
        self.presence.background.post(Mail::Arrived(epoch, self.presence.participant, arrival))
    }

    /// Refuses to end an epoch here, because its barriers could not be aligned, say, or a sink could not prepare: the job
    /// gives it up at once. Nothing is sealed; what was written since the last barrier is part of the next epoch.
    ///
    /// * `reason`: text, or an error, which [`Progress::last_decline`] then has as its source.
    ///
    /// # Errors
    /// As [`Task::barrier`].
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
        self.presence.background.post(Mail::Declined(barrier.epoch, error.with_source(reason)))
    }

    fn check_next(&self, barrier: Barrier) -> Result<()> {
        self.presence.background.shared.check()?;
        self.presence.background.shared.check_triggered(barrier)?;
        match self.newest {
            Some(newest) if newest >= barrier.epoch => {
                let error = Error::usage("epoch does not follow the last that ended here");
                Err(error.with("epoch", barrier.epoch).with("last", newest))
            }
            _ => Ok(()),
        }
    }

    /// Returns the newest epoch whose commit this task has been told: every epoch up to it can be published.
    /// [`Task::settle`] and [`Task::barrier`] look for news.
    #[must_use]
    pub fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    /// Takes note of tables that were declared since the last barrier.
    fn agree_on_tables(&mut self) -> Result<()> {
        let tables = self.state.tables();
        if tables.changes() == self.tables.changes {
            return Ok(());
        }
        let new = AgreedTables::of(tables);
        let (operator, subtask) = self.presence.participant;
        self.presence.background.shared.schemas.agree(operator, subtask, &new.entries)?;
        self.tables = new;
        Ok(())
    }

    /// Tells the backend what became of earlier epochs. Barriers do so too.
    ///
    /// # Errors
    /// None from the crate's own backends.
    pub fn settle(&mut self) -> Result<()> {
        while let Ok((epoch, outcome)) = self.settled.try_recv() {
            // An epoch can be given up before its barrier came here.
            let sealed = self.sealed.remove(&epoch);
            if outcome == Outcome::Commit {
                self.committed = Some(epoch);
                self.sealed.retain(|other| *other > epoch);
            }
            if sealed {
                self.state.backend_mut().settle(epoch, outcome)?;
            }
        }
        Ok(())
    }
}
