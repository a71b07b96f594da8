//! The processes on the nodes: coordinators that take the job over from each other, an unowned sweeper, a reader.
//!
//! The job's state at epoch `e` is the records `0..e` of a log; a data object holds some of them. So the oracle can check
//! any manifest, regardless of its writer.

use std::time::Duration;

use alluvium::internals::checkpoint::claim::{ClaimRequest, Claimed, claim, peek};
use alluvium::internals::checkpoint::commit::{CommitOutcome, Committer, Draft};
use alluvium::internals::checkpoint::sweep;
use alluvium::internals::checkpoint::sweep::Collector;
use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::runtime::timeout;
use alluvium::internals::store::{Key, Put};
use alluvium::manifest::{DurabilityLevel, Extension, Hash, Layout, ManifestKind, ObjectId, ObjectRef, Program, PutId};
use alluvium::{
    Applied, Attempt, Epoch, Error, ManifestId, Partitioner, RestoreFrom, Result, RetentionPolicy, Store,
    StoredManifest,
};

use crate::oracle::Oracle;
use crate::wire;
use alluvium_testkit::sim::{Node, Rng, Sim};

/// Longest data object of the scenario.
const OBJECT_BYTES_MAX: u64 = 1024;

/// The state that all nodes of a run share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) sim: Sim,
    pub(crate) oracle: Oracle,
    /// Longest time between two commits.
    pub(crate) think_max_ms: u64,
}

/// One incarnation of a node.
pub(crate) struct Process {
    pub(crate) world: World,
    pub(crate) node: Node,
    pub(crate) store: Store,
    pub(crate) rng: Rng,
}

/// A data object, and the end of the range of records in it.
#[derive(Debug, Clone)]
struct Piece {
    object: ObjectRef,
    to: u64,
}

impl Process {
    async fn pause(&mut self, low_ms: u64, high_ms: u64) {
        let ms = self.rng.within(low_ms, high_ms);
        self.store.runtime().sleep(Duration::from_millis(ms)).await;
    }

    fn request(&mut self, from: RestoreFrom) -> ClaimRequest {
        let checkpoints = u32::try_from(self.rng.within(1, 4)).expect("a small number");
        ClaimRequest {
            from,
            partitioner: Partitioner::Range { seed: 7 },
            max_parallelism: 16,
            retention: RetentionPolicy::default().with(|it| it.checkpoints = checkpoints),
            writer: format!("n{} {from:?}", self.node),
            program: Program::new("records of a log"),
            operators: None,
        }
    }

    /// Claims the job, leads it until fenced, and starts over.
    pub(crate) async fn coordinate(mut self) {
        loop {
            self.pause(0, 2_000).await;
            let from = match self.choose_checkpoint().await {
                Ok(from) => from,
                Err(error) => {
                    self.world.oracle.failed("peek", &error, &[]);
                    continue;
                }
            };
            let request = self.request(from);
            match claim(&self.store, &request).await {
                Ok(claimed) => {
                    let attempt = claimed.attempt;
                    if let Err(error) = self.lead(claimed).await {
                        self.world.oracle.failed(&format!("attempt {attempt}"), &error, &[]);
                    }
                }
                Err(error) => {
                    let gone: &[_] = if matches!(from, RestoreFrom::Checkpoint(_)) { &["not_found"] } else { &[] };
                    self.world.oracle.failed("claim", &error, &[gone, &["fenced"]].concat());
                }
            }
            self.pause(1_000, 20_000).await;
        }
    }

    /// Draws the checkpoint to start from: mostly the newest, now and then an older one or none.
    async fn choose_checkpoint(&mut self) -> Result<RestoreFrom> {
        let chance = self.rng.within(0, 99);
        if chance < 4 {
            return Ok(RestoreFrom::Fresh);
        }
        if chance < 12
            && let Some(peeked) = peek(&self.store, RestoreFrom::Newest).await?
        {
            let retained = peeked.newest.manifest.retained;
            let checkpoints: Vec<_> = retained.iter().filter(|entry| entry.kind != ManifestKind::Claim).collect();
            if !checkpoints.is_empty() {
                return Ok(RestoreFrom::Checkpoint(checkpoints[self.rng.index(checkpoints.len())].id.seq));
            }
        }
        Ok(RestoreFrom::Newest)
    }

    /// Runs the job as its owner, until fenced or done.
    async fn lead(&mut self, claimed: Claimed) -> Result<()> {
        let Claimed { attempt, restore, mut committer, .. } = claimed;
        let mut pieces = match &restore {
            Some(restore) => self.restore(restore).await?,
            None => Vec::new(),
        };
        let mut collector = Collector::new(&self.store);
        if self.rng.permille(300) {
            self.sweep(Some(attempt)).await;
        }
        let mut to = pieces.last().map_or(0, |piece| piece.to);
        for _ in 0..self.rng.within(3, 40) {
            self.pause(1, self.world.think_max_ms).await;
            to += self.rng.within(1, 9);
            let Some(next) = self.write(attempt, &pieces, to).await else { continue };
            if self.rng.permille(100) {
                // The epoch is given up, and its objects stay as orphans.
                continue;
            }
            let kind = if self.rng.permille(80) { ManifestKind::Savepoint } else { ManifestKind::Checkpoint };
            let intent = self.world.oracle.drafted();
            let outcome = self.commit(&mut committer, draft(kind, &next, intent)).await;
            match outcome {
                Ok(CommitOutcome::Committed(committed)) => {
                    self.world.oracle.reported_committed(intent, attempt.0, plain_id(committed.id));
                    if kind == ManifestKind::Checkpoint {
                        pieces = next;
                    }
                    collector.add(committer.take_garbage());
                    if self.rng.permille(900) {
                        collector.run().await;
                    }
                }
                Ok(CommitOutcome::Fenced { by }) => {
                    self.world.oracle.reported_fenced(intent, by.0);
                    return Ok(());
                }
                Err(error) if error.applied() == Applied::No => {
                    self.world.oracle.reported_refused(intent);
                    self.world.oracle.failed("commit", &error, &[]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Commits; now and then drops the future midway and settles the commit afterwards.
    async fn commit(&mut self, committer: &mut Committer, draft: Draft) -> Result<CommitOutcome> {
        let runtime = self.store.runtime().clone();
        let mut patience = Duration::from_millis(self.rng.within(5, 60_000));
        if let Some(outcome) = timeout(runtime.as_ref(), patience, committer.commit(draft.clone())).await {
            return outcome;
        }
        if committer.commit(draft).await.is_ok() {
            self.world.oracle.violation("a commit succeeded over another whose outcome is unknown".into());
        }
        loop {
            match timeout(runtime.as_ref(), patience, committer.settle()).await {
                Some(Ok(Some(outcome))) => {
                    self.world.sim.hit(match outcome {
                        CommitOutcome::Committed(_) => "commit broken off, settled as ours",
                        CommitOutcome::Fenced { .. } => "commit broken off, settled as another's",
                    });
                    return Ok(outcome);
                }
                Some(Ok(None)) => return Err(Error::stopped("the committer forgot a dropped commit")),
                Some(Err(error)) => return Err(error),
                None => patience *= 2,
            }
        }
    }

    /// Stores the records up to `to`: mostly those beyond `pieces`, now and then all of them anew.
    async fn write(&mut self, attempt: Attempt, pieces: &[Piece], to: u64) -> Option<Vec<Piece>> {
        let mut next = if self.rng.permille(250) { Vec::new() } else { pieces.to_vec() };
        let from = next.last().map_or(0, |piece| piece.to);
        let middle = self.rng.within(from, to);
        for (from, to) in [(from, middle), (middle, to)] {
            if from == to {
                continue;
            }
            match self.upload(attempt, from, to).await {
                Ok(object) => next.push(Piece { object, to }),
                Err(error) => {
                    self.world.oracle.failed("upload", &error, &[]);
                    return None;
                }
            }
        }
        Some(next)
    }

    async fn upload(&mut self, attempt: Attempt, from: u64, to: u64) -> Result<ObjectRef> {
        let id = ObjectId { attempt, random: self.store.draw_put_id().0 };
        let put_id = self.store.draw_put_id();
        let object = envelope::encode(ObjectKind::Pack, put_id, &[from.to_le_bytes(), to.to_le_bytes()].concat());
        let (bytes, hash) = (object.len() as u64, Hash::of(&object));
        match self.store.folder().put_new(&Key::Data(id), put_id, object).await? {
            Put::Created => {}
            Put::Taken => return Err(Error::corrupt("a random name is taken").with("object", id)),
        }
        Ok(ObjectRef { id, put_id, bytes, hash, layout: Layout::Whole, cipher: 0, key_id: String::new() })
    }

    /// Reads all records of a manifest, and has the oracle check them.
    async fn restore(&mut self, stored: &StoredManifest) -> Result<Vec<Piece>> {
        let (id, epoch) = (plain_id(stored.id), stored.manifest.epoch.0);
        let found = self.read_pieces(stored).await;
        let outcome = match &found {
            Ok(pieces) => Ok(pieces.last().map_or(0, |piece| piece.to)),
            Err(error) => Err(Error::new(error.kind(), error.chain())),
        };
        self.world.oracle.reported_restored(id, epoch, outcome);
        // The oracle has judged the failure; callers only need an expected error, for a checkpoint may be dropped while read.
        found.map_err(|error| Error::unavailable("restore failed").with_source(error))
    }

    async fn read_pieces(&self, stored: &StoredManifest) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for object in &stored.manifest.objects {
            let key = Key::Data(object.id);
            let bytes = self.store.folder().read(&key, OBJECT_BYTES_MAX).await?;
            let bytes = bytes.ok_or_else(|| Error::not_found("object is not in the store").with("object", key))?;
            let (from, to) = wire::records(&bytes);
            pieces.push((from, Piece { object: object.clone(), to }));
        }
        pieces.sort_by_key(|(from, _)| *from);
        Ok(pieces.into_iter().map(|(_, piece)| piece).collect())
    }

    async fn sweep(&mut self, owner: Option<Attempt>) {
        match sweep::plan(&self.store, owner).await {
            Ok(plan) => {
                // A plan must be safe however late it is executed.
                self.pause(0, 5_000).await;
                self.world.sim.hit("sweep executed late");
                if let Err(error) = sweep::execute(&self.store, &plan).await {
                    self.world.oracle.failed("sweep", &error, &[]);
                }
            }
            Err(error) => {
                if error.kind().name() == "fenced" {
                    self.world.sim.hit("sweep refused: another attempt owns the job");
                }
                self.world.oracle.failed("plan of a sweep", &error, &["fenced"]);
            }
        }
    }

    /// Sweeps for ever, without owning the job.
    pub(crate) async fn sweep_for_ever(mut self) {
        loop {
            self.pause(100, 15_000).await;
            self.sweep(None).await;
        }
    }

    /// Restores for ever, without writing.
    pub(crate) async fn read_for_ever(mut self) {
        loop {
            self.pause(100, 10_000).await;
            match peek(&self.store, RestoreFrom::Newest).await {
                Ok(Some(peeked)) => {
                    if let Some(restore) = &peeked.restore {
                        // `restore` reports failures to the oracle.
                        drop(self.restore(restore).await);
                    }
                }
                Ok(None) => {}
                Err(error) => self.world.oracle.failed("peek", &error, &[]),
            }
        }
    }

    /// Proves that the job still works on a healthy store: claim, restore, commit, sweep.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let request = self.request(RestoreFrom::Newest);
        let claimed = claim(&self.store, &request).await?;
        let Claimed { attempt, restore, mut committer, .. } = claimed;
        let pieces = match &restore {
            Some(restore) => self.restore(restore).await?,
            None => Vec::new(),
        };
        let to = pieces.last().map_or(0, |piece| piece.to) + 1;
        let next = self.write(attempt, &pieces, to).await.ok_or_else(|| Error::stopped("upload failed"))?;
        let intent = self.world.oracle.drafted();
        match committer.commit(draft(ManifestKind::Checkpoint, &next, intent)).await? {
            CommitOutcome::Committed(committed) => {
                self.world.oracle.reported_committed(intent, attempt.0, plain_id(committed.id));
            }
            CommitOutcome::Fenced { .. } => return Err(Error::stopped("the only coordinator was fenced")),
        }
        let plan = sweep::plan(&self.store, Some(attempt)).await?;
        let swept = sweep::execute(&self.store, &plan).await?;
        if let Some((key, _)) = swept.failed.first() {
            return Err(Error::stopped("delete failed").with("object", key));
        }
        Ok(())
    }
}

fn draft(kind: ManifestKind, pieces: &[Piece], intent: u64) -> Draft {
    let bytes = intent.to_le_bytes().to_vec().into();
    Draft {
        kind,
        epoch: Epoch(pieces.last().map_or(0, |piece| piece.to)),
        objects: pieces.iter().map(|piece| piece.object.clone()).collect(),
        level: DurabilityLevel::ObjectStore,
        operators: Vec::new(),
        extensions: vec![Extension { tag: "intent".into(), required: false, bytes }],
    }
}

fn plain_id(id: ManifestId) -> (u64, [u8; 16]) {
    let PutId(put_id) = id.put_id;
    (id.seq.0, put_id)
}
