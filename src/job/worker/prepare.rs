//! From an assignment to seats: reads what the seats restore from, and computes their shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::background::Event;
use super::process::Assignment;
use super::seat::Seat;
use super::shared::{AttemptHandle, Presence, Shared};
use super::sinks::SeatSinks;
use super::{Anchor, WorkerAttempt};
use crate::backend::Tables;
use crate::canary::{self, Canary};
use crate::checkpoint::claim;
use crate::checkpoint::pipeline::{Pipeline, SharedChain};
use crate::checkpoint::prepared_output::PreparedOutput;
use crate::checkpoint::restore;
use crate::checkpoint::segment_chain::SegmentChain;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId, OperatorId};
use crate::job::operator_state;
use crate::job::settings::RestoreSettings;
use crate::job::wire::{Assign, AssignedOperator};
use crate::manifest::SubtaskEntry;
use crate::manifest::rescale::{OperatorPlan, Share, StoredOperator};
use crate::memory::MemoryBudget;
use crate::place::Store;
use crate::sink::{self, Lineages};

/// Operators whose sources are read at a time.
const CONCURRENT_OPERATORS: usize = 4;

/// What the process brings to every assignment.
#[derive(Debug, Clone)]
pub(super) struct Bench {
    pub(super) store: Store,
    pub(super) budget: MemoryBudget,
    pub(super) restore: RestoreSettings,
    /// Whether the owner is in this process, with the same store.
    pub(super) shares_store: bool,
}

/// An assignment that is ready to be taken.
pub(super) struct Prepared {
    pub(super) assignment: Assignment,
    pub(super) attempt: WorkerAttempt,
}

impl Bench {
    /// Prepares the seats of `assign`.
    ///
    /// # Errors
    /// `Config` if the store is not the owner's; `Fenced` if a newer attempt took over; `Corrupt` if a subtask manifest
    /// is damaged; `Version`, `Denied` or `Unavailable` from the store.
    pub(super) async fn prepare(
        self,
        (job, attempt): (JobId, Attempt),
        assign: Assign,
        events: mpsc::UnboundedSender<Event>,
        anchor: Option<Anchor>,
    ) -> Result<Prepared> {
        if !self.shares_store {
            claim::check_marker(&self.store, job, attempt).await?;
        }
        let plans: Vec<_> =
            assign.operators.iter().map(|operator| self.plan(operator, assign.max_parallelism)).collect();
        let plans: Result<Vec<_>> = stream::iter(plans).buffered(CONCURRENT_OPERATORS).try_collect().await;
        let plans = match plans {
            Ok(plans) => plans,
            Err(error) => return Err(claim::why_unreadable(&self.store, attempt, error).await),
        };
        let shared = Arc::new(Shared::new(attempt, assign.first_epoch, self.shares_store));
        let handle = AttemptHandle { shared: Arc::clone(&shared), events, anchor };
        let mut seats = Vec::new();
        for (operator, plan) in assign.operators.iter().zip(plans) {
            seats.extend(
                plan.shares.into_iter().map(|share| self.seat((job, &assign), operator, share, &plan.tables, &handle)),
            );
        }
        let chains = seats.iter().map(|seat| (seat.presence.participant, Arc::clone(&seat.chain))).collect();
        let attempt = self.attempt(&assign, shared, attempt, chains);
        Ok(Prepared { assignment: Assignment::new(job, &assign, handle, seats), attempt })
    }

    /// Reads what the seats of an operator restore from, and returns their shares.
    async fn plan(&self, operator: &AssignedOperator, max_parallelism: u16) -> Result<OperatorPlan> {
        let AssignedOperator { id, parallelism, seats, stored_parallelism, tables, sources, .. } = operator;
        let entries: Vec<SubtaskEntry> = sources.iter().map(|(_, entry)| entry.clone()).collect();
        let subtasks = restore::read_entries(&self.store, entries, max_parallelism).await?;
        let misplaced =
            |((expected, _), found): &(&(_, _), &crate::manifest::SubtaskManifest)| *expected != found.subtask;
        if let Some(((expected, _), found)) = sources.iter().zip(&subtasks).find(misplaced) {
            let error = Error::corrupt("subtask manifest is another subtask's").with("operator", id);
            return Err(error.with("expected", expected).with("found", found.subtask));
        }
        let stored = StoredOperator { parallelism: *stored_parallelism, tables: tables.clone(), subtasks };
        OperatorPlan::of_seats(*id, (max_parallelism, *parallelism), &stored, seats)
    }

    fn seat(
        &self,
        (job, assign): (JobId, &Assign),
        operator: &AssignedOperator,
        mut share: Share,
        tables: &[crate::manifest::TableSchema],
        attempt: &AttemptHandle,
    ) -> Seat {
        let operator_state =
            share.opaques.extract_if(.., |opaque| operator_state::carries_operator_state(opaque)).collect();
        let output = share.opaques.extract_if(.., |opaque| sink::is_of_sink(opaque)).collect();
        let lineages = Lineages { own: assign.lineage, restored: assign.restored_lineage };
        let before = Epoch(assign.first_epoch.0.saturating_sub(1));
        let (settlement, settled) = mpsc::unbounded_channel();
        attempt.shared.add_settlement(settlement);
        Seat {
            presence: Presence { attempt: attempt.clone(), participant: (operator.id, share.subtask) },
            tables: restored_tables(operator, &share, tables),
            chain: self.chain(assign, &share),
            share,
            operator_state,
            partitioner: assign.partitioner,
            parallelism: operator.parallelism,
            max_parallelism: assign.max_parallelism,
            store: self.store.clone(),
            runtime: Arc::clone(self.store.runtime()),
            settled,
            strategy: assign.strategy,
            budget: self.budget.clone(),
            restore: self.restore,
            observer: None,
            sinks: SeatSinks::new(job, lineages, before, (operator.parallelism, output)),
        }
    }

    /// Returns a subtask's chain, starting with the restored segments of its share.
    fn chain(&self, assign: &Assign, share: &Share) -> SharedChain {
        let chain = SegmentChain::new(share.groups.clone(), share.segments.clone(), self.budget.clone());
        let pipeline = assign.pipeline;
        let mut chain = chain.with_segment_bytes(pipeline.segment_bytes).with_encoders(pipeline.encoders);
        assign.chain.into_iter().for_each(|policy| chain.plan_bases(policy));
        Arc::new(Mutex::new(chain))
    }

    fn attempt(
        &self,
        assign: &Assign,
        shared: Arc<Shared>,
        attempt: Attempt,
        chains: BTreeMap<(OperatorId, crate::id::Subtask), SharedChain>,
    ) -> WorkerAttempt {
        let pipeline = Pipeline {
            store: self.store.clone(),
            runtime: Arc::clone(self.store.runtime()),
            settings: assign.pipeline,
            attempt,
            max_parallelism: assign.max_parallelism,
            chains,
            inline_bytes: usize::try_from(assign.inline_bytes).unwrap_or(usize::MAX),
            catalog: Mutex::default(),
            rewritten: Mutex::default(),
        };
        let prepared = PreparedOutput::new(self.budget.clone());
        let disk = self.budget.disk().cloned();
        WorkerAttempt::new(shared, pipeline, prepared, assign.chain, self.shares_store, disk)
    }
}

fn restored_tables(operator: &AssignedOperator, share: &Share, tables: &[crate::manifest::TableSchema]) -> Tables {
    if operator.stored_parallelism == 0 {
        return Tables::new(operator.key.clone());
    }
    let times = if canary::on(Canary::TrustClock) { Vec::new() } else { share.times.clone() };
    Tables::restored(operator.key.clone(), tables.to_vec(), operator.times).with_group_times(times)
}
