//! Opening a job. Every check comes before the claim, which stops a running attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::background::{Background, Latch};
use super::interval::Adaptive;
use super::owner::Owner;
use super::shared::{BackgroundHandle, Presence, Shared};
use super::worker::Worker;
use super::{Job, JobSettings, OperatorSpec, Seat, WRITER, operator_state};
use crate::backend::{CheckpointTimes, Tables};
use crate::canary::{self, Canary};
use crate::checkpoint::claim::{self, ClaimRequest, Claimed, Peeked};
use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
use crate::checkpoint::operators::{Carried, OperatorClaims, Undeclared};
use crate::checkpoint::pipeline::{Pipeline, SharedChain};
use crate::checkpoint::prepared_output::PreparedOutput;
use crate::checkpoint::reading::{Reader, under};
use crate::checkpoint::restore;
use crate::checkpoint::segment_chain::SegmentChain;
use crate::control::coordinator::{Coordinator, Participant};
use crate::error::{Error, Result};
use crate::id::{Epoch, OperatorId, Subtask};
use crate::key_group::{Partitioner, check_parallelism};
use crate::manifest::rescale::{OperatorPlan, Share};
use crate::manifest::{MAX_NAME_BYTES, Program};
use crate::memory::MemoryBudget;
use crate::place::Store;

/// Longest description of a program, in bytes. Every manifest holds a copy.
const PROGRAM_BYTES_MAX: usize = 8 << 20;

/// Collects a job's settings and operators, and opens the job.
///
/// Set [`settings`](Self::settings), add each [`operator`](Self::operator), then [`open`](Self::open). All other
/// settings are optional. [`check`](Self::check) and [`peek`](Self::peek) find mistakes without stopping a running
/// attempt.
#[derive(Debug)]
pub struct JobBuilder {
    store: Store,
    settings: JobSettings,
    operators: Vec<OperatorSpec>,
    undeclared: BTreeMap<OperatorId, Undeclared>,
    program: Program,
    from: RestoreFrom,
}

impl JobBuilder {
    /// Returns a builder for the job in `store`, with default settings and no operators.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            settings: JobSettings::default(),
            operators: Vec::new(),
            undeclared: BTreeMap::new(),
            program: Program::default(),
            from: RestoreFrom::Newest,
        }
    }

    /// Replaces all settings.
    #[must_use]
    pub fn settings(mut self, settings: JobSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Declares an operator. Ids and names must be unique; [`JobBuilder::check`] reports duplicates.
    #[must_use]
    pub fn operator(mut self, operator: OperatorSpec) -> Self {
        self.operators.push(operator);
        self
    }

    /// Drops the stored state of an operator that the job no longer declares. Without this call or
    /// [`JobBuilder::carry_operator`], opening such a job fails.
    #[must_use]
    pub fn drop_operator(mut self, operator: OperatorId) -> Self {
        self.undeclared.insert(operator, Undeclared::Drop);
        self
    }

    /// Keeps the stored state of an operator that the job does not declare: each checkpoint lists the state, unchanged,
    /// until a later attempt declares the operator.
    #[must_use]
    pub fn carry_operator(mut self, operator: OperatorId) -> Self {
        self.undeclared.insert(operator, Undeclared::Carry);
        self
    }

    /// Sets a description of the job's computation, in the embedder's own format. Every manifest stores it; at most 8
    /// MiB.
    #[must_use]
    pub fn program(mut self, bytes: impl Into<bytes::Bytes>) -> Self {
        self.program = Program::new(bytes);
        self
    }

    /// Sets which checkpoint to restore. Default: the newest.
    #[must_use]
    pub fn restore_from(mut self, from: RestoreFrom) -> Self {
        self.from = from;
        self
    }

    /// Returns the newest manifest and the checkpoint that [`JobBuilder::open`] would restore; `None` if the job has no
    /// manifest. Claims and writes nothing, so a running attempt continues.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live; `Corrupt`, `Version`, `Denied` or `Unavailable` from the store.
    pub async fn peek(&self) -> Result<Option<Peeked>> {
        claim::peek(&self.store, self.from).await
    }

    /// Returns the checkpoint that [`JobBuilder::open`] would restore, with all subtask manifests and opaques inline;
    /// `None` if it would start empty. Claims and writes nothing. If the newest checkpoint is dropped during the read,
    /// moves on to a newer one.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live, or was dropped meanwhile; `Corrupt`, `Version`, `Denied` or
    /// `Unavailable` from the store.
    pub async fn peek_restored(&self) -> Result<Option<StoredManifest>> {
        let mut chain = ManifestLog::load(&self.store).await?;
        if chain.resolve(&self.store, self.from).await?.is_none() {
            return Ok(None);
        }
        Reader::new(&self.store, &mut chain, self.from).resolved().await.map(Some)
    }

    /// Returns the checkpoint with all subtask manifests and opaques inline.
    ///
    /// # Errors
    /// `NotFound` if the checkpoint was dropped meanwhile; `Corrupt`, `Denied` or `Unavailable` from the store.
    pub async fn resolve(&self, stored: StoredManifest) -> Result<StoredManifest> {
        let manifest = under(&self.store, stored.id.seq, restore::resolve(&self.store, stored.manifest)).await?;
        Ok(StoredManifest { manifest, ..stored })
    }

    /// Claims the job and reads the checkpoint to restore. The claim fences every earlier attempt: a running one can no
    /// longer commit, and fails with `Fenced`.
    ///
    /// Next, take the [seats](Job::take_seats) and restore each. The job's background runs on the store's runtime from
    /// now on, until the job, its seats and its tasks are dropped.
    ///
    /// # Errors
    /// * `Config`: [`JobBuilder::check`] fails; the settings contradict those fixed for the job's life; a stored
    ///   operator with state is not declared, dropped or carried, or has another name; the store lacks
    ///   create-if-absent.
    /// * `NotFound`: the chosen checkpoint is not live.
    /// * `Fenced`: a newer attempt claimed the job meanwhile.
    /// * `Corrupt`, `Version`, `Denied`, `Unavailable`: from the store.
    ///
    /// `Config` and `NotFound` are found before the claim, so that a running attempt continues, unless the stored
    /// checkpoints change during the call.
    pub async fn open(self) -> Result<Job> {
        self.check()?;
        self.store.probe().await?;
        let mut claimed = claim::claim(&self.store, &self.claim_request()).await?;
        let mut carried = Vec::new();
        if let Some(stored) = claimed.restore.take() {
            let read = async {
                carried = self.claims().carried(&self.store, &stored).await?;
                self.resolve(stored).await
            };
            claimed.restore = match read.await {
                Ok(resolved) => Some(resolved),
                Err(error) => return Err(claim::why_unreadable(&self.store, claimed.attempt, error).await),
            };
        }
        self.start(claimed, carried)
    }

    /// Checks settings and operators, without the store.
    ///
    /// # Errors
    /// `Config` if there is no operator, two share an id or a name, a name or the program is too long, an operator is
    /// both declared and dropped or carried, or a parallelism, goal or setting is out of range.
    pub fn check(&self) -> Result<()> {
        if self.operators.is_empty() {
            return Err(Error::config("a job needs an operator"));
        }
        if let Some(adaptive) = &self.settings.adaptive {
            adaptive.goals.check()?;
            adaptive.settings.check()?;
        }
        let program = self.program.bytes.len();
        if program > PROGRAM_BYTES_MAX {
            let error = Error::config("description of the program is too long").with("bytes", program);
            return Err(error.with("limit", PROGRAM_BYTES_MAX));
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for OperatorSpec { id, name, parallelism, .. } in &self.operators {
            let refused = |what| Error::config(what).with("operator", id).with("name", name.escape_debug());
            if !ids.insert(*id) {
                return Err(refused("two operators have one id"));
            }
            if !names.insert(name) {
                return Err(refused("two operators have one name"));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(Error::config("name of an operator is too long")
                    .with("operator", id)
                    .with("bytes", name.len()));
            }
            if self.undeclared.contains_key(id) {
                return Err(refused("operator is both declared and dropped or carried"));
            }
            check_parallelism(*parallelism, self.settings.max_parallelism)?;
        }
        Ok(())
    }

    fn claims(&self) -> OperatorClaims {
        let names = |OperatorSpec { name, renamed_from, .. }: &OperatorSpec| {
            [name].into_iter().chain(renamed_from).cloned().collect::<Vec<_>>()
        };
        let declared = self.operators.iter().map(|operator| (operator.id, names(operator)));
        OperatorClaims { declared: declared.collect(), undeclared: self.undeclared.clone() }
    }

    fn claim_request(&self) -> ClaimRequest {
        let seed = || u64::try_from(self.store.runtime().random() >> 64).unwrap_or(0);
        ClaimRequest {
            from: self.from,
            partitioner: self.settings.partitioner.unwrap_or_else(|| Partitioner::Range { seed: seed() }),
            max_parallelism: self.settings.max_parallelism,
            retention: self.settings.retention,
            writer: WRITER.to_owned(),
            program: self.program.clone(),
            operators: Some(self.claims()),
        }
    }

    fn start(self, claimed: Claimed, carried: Vec<Carried>) -> Result<Job> {
        let Self { store, settings, operators, from, .. } = self;
        let Claimed { job: id, attempt, restore: restored, partitioner, max_parallelism, committer, .. } = claimed;
        let runtime = Arc::clone(store.runtime());
        let budget = MemoryBudget::new(settings.memory_bytes);
        let savepoints = committer.savepoints();
        let first_epoch = restored.as_ref().map_or(Epoch(1), |restored| restored.manifest.epoch.next());
        let participants = participants(&operators);
        let (sender, wakes) = mpsc::unbounded_channel();
        let now = runtime.monotonic();
        let coordinator = Coordinator::new(settings.checkpoints, participants.iter().copied(), first_epoch, now);
        let from = (from, restored.as_ref(), participants.len());
        let adaptive = Adaptive::from_settings(&settings, max_parallelism, from, now)?;
        let shared = Arc::new(Shared::new(attempt, coordinator, adaptive));
        let background = BackgroundHandle::new(Arc::clone(&shared), sender);

        let template = SeatTemplate {
            background: &background,
            settings: &settings,
            attempt,
            partitioner,
            max_parallelism,
            store: &store,
            budget: &budget,
        };
        let mut seats = Vec::with_capacity(participants.len());
        let mut settlements = Vec::with_capacity(participants.len());
        for operator in &operators {
            for (share, tables) in plans(restored.as_ref(), operator, max_parallelism)? {
                let (seat, settlement) = template.seat(operator.id, share, tables);
                seats.push(seat);
                settlements.push(settlement);
            }
        }
        let chains = seats.iter().map(|seat| (seat.presence.participant, Arc::clone(&seat.chain))).collect();
        let catalog = restored.iter().flat_map(|r| r.manifest.objects.iter().map(|o| (o.id, o.clone()))).collect();
        let pipeline = Pipeline {
            store: store.clone(),
            runtime: Arc::clone(&runtime),
            settings: settings.pipeline,
            attempt,
            max_parallelism,
            chains,
            catalog: Mutex::new(catalog),
        };
        let prepared = PreparedOutput::new(budget.clone());
        let owner =
            Owner::new(Arc::clone(&shared), &store, (attempt, max_parallelism), (operators, carried), committer);
        let worker = Worker::new(Arc::clone(&shared), pipeline, prepared, settings.chain_policy(), settlements);
        let latch = Latch(Arc::clone(&shared));
        let running = Background { shared, runtime: Arc::clone(&runtime), owner, worker, wakes, latch };
        runtime.spawn(running.run().boxed());
        Ok(Job { id, attempt, partitioner, max_parallelism, store, background, seats, restored, savepoints, budget })
    }
}

/// The properties that all seats of an attempt share.
struct SeatTemplate<'a> {
    background: &'a BackgroundHandle,
    settings: &'a JobSettings,
    attempt: crate::id::Attempt,
    partitioner: Partitioner,
    max_parallelism: u16,
    store: &'a Store,
    budget: &'a MemoryBudget,
}

impl SeatTemplate<'_> {
    /// Returns the seat of a subtask, and the channel for the outcomes of its epochs.
    fn seat(
        &self,
        operator: OperatorId,
        mut share: Share,
        tables: Tables,
    ) -> (Seat, mpsc::UnboundedSender<(Epoch, crate::backend::Outcome)>) {
        let operator_state =
            share.opaques.extract_if(.., |opaque| operator_state::carries_operator_state(opaque)).collect();
        let chain = chain_of(&share, self.settings, self.budget);
        let (settlement, settled) = mpsc::unbounded_channel();
        let participant = (operator, share.subtask);
        let seat = Seat {
            presence: Presence { background: self.background.clone(), participant },
            attempt: self.attempt,
            share,
            operator_state,
            tables,
            partitioner: self.partitioner,
            max_parallelism: self.max_parallelism,
            store: self.store.clone(),
            runtime: Arc::clone(self.store.runtime()),
            chain,
            settled,
            strategy: self.settings.strategy,
            budget: self.budget.clone(),
            restore_bytes: self.settings.restore_bytes,
        };
        (seat, settlement)
    }
}

/// Returns the subtasks of all operators.
fn participants(operators: &[OperatorSpec]) -> Vec<Participant> {
    let of = |operator: &OperatorSpec| {
        let id = operator.id;
        (0..operator.parallelism).map(move |index| (id, Subtask(index)))
    };
    operators.iter().flat_map(of).collect()
}

/// Returns a subtask's chain, starting with the restored segments of its share.
fn chain_of(share: &Share, settings: &JobSettings, budget: &MemoryBudget) -> SharedChain {
    let chain = SegmentChain::new(share.groups.clone(), share.segments.clone(), budget.clone());
    let mut chain = chain.with_segment_bytes(settings.pipeline.segment_bytes);
    settings.chain_policy().into_iter().for_each(|policy| chain.plan_bases(policy));
    Arc::new(Mutex::new(chain))
}

/// Returns each subtask's share of `operator`, with its restored tables.
fn plans(
    restored: Option<&StoredManifest>,
    operator: &OperatorSpec,
    max_parallelism: u16,
) -> Result<Vec<(Share, Tables)>> {
    let Some(StoredManifest { manifest, .. }) = restored else {
        let plan = OperatorPlan::empty(operator.id, max_parallelism, operator.parallelism)?;
        return Ok(plan.shares.into_iter().map(|share| (share, Tables::new(operator.key.clone()))).collect());
    };
    let plan = OperatorPlan::new(manifest, operator.id, operator.parallelism)?;
    let common = CheckpointTimes::common(plan.shares.iter().flat_map(|share| &share.times));
    let tables = |share: &Share| {
        let times = if canary::on(Canary::TrustClock) { Vec::new() } else { share.times.clone() };
        Tables::restored(operator.key.clone(), plan.tables.clone(), common).with_group_times(times)
    };
    let tables: Vec<_> = plan.shares.iter().map(tables).collect();
    Ok(plan.shares.into_iter().zip(tables).collect())
}
