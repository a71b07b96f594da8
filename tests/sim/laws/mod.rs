//! The laws one by one: scripted faults on a store, and their required outcome. Names begin with the id of a row in the
//! fault catalogue.

mod calls;
mod canaries;
mod chains;
mod damage;
mod owners;
mod sharing;
mod sweeping;
mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::internals::checkpoint::claim::{ClaimRequest, Claimed, claim};
use alluvium::internals::checkpoint::commit::{CommitOutcome, Committed, Committer, Draft};
use alluvium::internals::checkpoint::sweep::Collector;
use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::store::{Key, Put};
use alluvium::manifest::{DurabilityLevel, Hash, Layout, ManifestKind, ObjectId, ObjectRef, Program};
use alluvium::{
    Attempt, Epoch, ManifestLog, Partitioner, RestoreFrom, Result, RetentionPolicy, Seq, Store, StoreSettings,
    StoredManifest,
};
use object_store::path::Path;

use alluvium_testkit::sim::{Call, Fate, Faults, Operation, Sim, SimStore, StoreWorld, Tracing};

const HOUR_MS: u64 = 3_600_000;

/// A simulated store, and helpers to use it as a node.
struct Rig {
    sim: Sim,
    world: Arc<Mutex<StoreWorld>>,
}

impl Rig {
    fn new() -> Self {
        let sim = Sim::new(1, Tracing::Off);
        let world = StoreWorld::new(&sim, Faults::none());
        Self { sim, world }
    }

    fn store(&self, node: usize) -> Store {
        self.store_of(node, "job")
    }

    fn store_of(&self, node: usize, job: &str) -> Store {
        let settings = StoreSettings::default().with(|it| {
            it.call_timeout = Duration::from_secs(10);
            it.retry_deadline = Duration::from_secs(60);
            it.tries_max = 4;
            it.list_lag = 4;
        });
        let objects = Arc::new(SimStore::new(&self.sim, node, &self.world));
        Store::new(objects, &Path::default(), &job.parse().unwrap(), self.sim.runtime(node), settings)
    }

    /// Runs `future` to its end.
    fn on<T: Send + 'static>(&self, node: usize, future: impl Future<Output = T> + Send + 'static) -> T {
        self.sim.block_on(node, HOUR_MS, future).expect("the future ends within an hour")
    }

    fn faults(&self, faults: Faults) {
        self.world.lock().unwrap().set_faults(faults);
    }

    /// Gives `fate` to the next `operation` on a key that contains `part`; all other calls succeed.
    fn next_call(&self, operation: Operation, part: &'static str, fate: Fate) {
        let mut fate = Some(fate);
        let matches = move |call: &Call<'_>| call.operation == operation && call.key.contains(part);
        self.faults(Faults::Scripted(Box::new(move |call| if matches(call) { fate.take() } else { None })));
    }

    /// Gives `fate()` to every `operation` on a key that contains `part`.
    fn every_call(&self, operation: Operation, part: &'static str, fate: impl Fn() -> Fate + Send + 'static) {
        let matches = move |call: &Call<'_>| call.operation == operation && call.key.contains(part);
        self.faults(Faults::Scripted(Box::new(move |call| matches(call).then(&fate))));
    }

    /// Flips a byte of the object under `key`.
    fn damage(&self, key: Key) {
        let mut world = self.world.lock().unwrap();
        let stored = world.objects_mut().get_mut(&format!("job/{key}")).expect("the object is stored");
        let mut bytes = stored.bytes.to_vec();
        bytes[60] ^= 1;
        stored.bytes = bytes.into();
    }

    fn keys(&self, part: &str) -> Vec<String> {
        self.world.lock().unwrap().objects().keys().filter(|key| key.contains(part)).cloned().collect()
    }

    fn has(&self, object: &ObjectRef) -> bool {
        !self.keys(&Key::Data(object.id).to_string()).is_empty()
    }

    /// Checks that every live manifest is readable and its objects exist.
    fn check_live(&self) -> Vec<Seq> {
        let store = self.store(0);
        let live = self.on(0, async move { ManifestLog::load(&store).await.unwrap().read_live(&store).await.unwrap() });
        for object in live.iter().flat_map(StoredManifest::objects) {
            assert_eq!(self.keys(&format!("job/{}", Key::Data(object))).len(), 1, "{object} is gone");
        }
        live.iter().map(|stored| stored.id.seq).collect()
    }

    fn claim(&self, node: usize, from: RestoreFrom) -> Result<Owner> {
        let store = self.store(node);
        self.on(node, async move {
            let claimed = claim(&store, &request(from)).await?;
            Ok(Owner::new(store, claimed))
        })
    }

    /// Commits `count` checkpoints with one new object each.
    fn commit(&self, owner: Owner, count: u64) -> (Owner, Vec<CommitOutcome>) {
        self.on(0, async move {
            let mut owner = owner;
            let mut outcomes = Vec::new();
            for _ in 0..count {
                outcomes.push(owner.commit().await.unwrap());
            }
            (owner, outcomes)
        })
    }
}

fn request(from: RestoreFrom) -> ClaimRequest {
    ClaimRequest {
        from,
        partitioner: Partitioner::Range { seed: 7 },
        max_parallelism: 16,
        retention: RetentionPolicy::default().with(|it| it.checkpoints = 3),
        writer: "laws".into(),
        program: Program::new("laws"),
        operators: None,
    }
}

/// An attempt whose every checkpoint is one new object.
struct Owner {
    store: Store,
    attempt: Attempt,
    restored: Option<Seq>,
    epoch: u64,
    committer: Committer,
    collector: Collector,
}

impl Owner {
    fn new(store: Store, claimed: Claimed) -> Self {
        let Claimed { attempt, restore, committer, .. } = claimed;
        let collector = Collector::new(&store);
        let epoch = restore.as_ref().map_or(0, |restore| restore.manifest.epoch.0);
        Self { store, attempt, restored: restore.map(|restore| restore.id.seq), epoch, committer, collector }
    }

    async fn draft(&mut self) -> Result<Draft> {
        self.epoch += 1;
        let object = upload(&self.store, self.attempt, self.epoch).await?;
        Ok(draft(ManifestKind::Checkpoint, self.epoch, vec![object]))
    }

    async fn commit(&mut self) -> Result<CommitOutcome> {
        let draft = self.draft().await?;
        self.committer.commit(draft).await
    }

    async fn collect(&mut self) -> usize {
        self.collector.add(self.committer.take_garbage());
        self.collector.run().await.failed.len()
    }
}

async fn upload(store: &Store, attempt: Attempt, epoch: u64) -> Result<ObjectRef> {
    let (id, put_id) = (ObjectId { attempt, random: store.draw_put_id().0 }, store.draw_put_id());
    let object = envelope::encode(ObjectKind::Pack, put_id, &epoch.to_le_bytes());
    let (bytes, hash) = (object.len() as u64, Hash::of(&object));
    assert_eq!(store.folder().put_new(&Key::Data(id), put_id, object).await?, Put::Created);
    Ok(ObjectRef { id, put_id, bytes, hash, layout: Layout::Whole, cipher: 0, key_id: String::new() })
}

fn draft(kind: ManifestKind, epoch: u64, objects: Vec<ObjectRef>) -> Draft {
    let (level, operators, extensions) = (DurabilityLevel::ObjectStore, Vec::new(), Vec::new());
    Draft { kind, epoch: Epoch(epoch), objects, level, operators, extensions }
}

fn committed(outcome: &CommitOutcome) -> &Committed {
    match outcome {
        CommitOutcome::Committed(committed) => committed,
        CommitOutcome::Fenced { by } => panic!("fenced by {by}"),
    }
}
