//! The laws one by one: scripted faults on a store, and what must come of them. Names begin with the row of the fault
//! catalogue that they show.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::checkpoint::chain::{Chain, RestoreFrom};
use alluvium::checkpoint::claim::{ClaimRequest, Claimed, check_owner, claim, peek};
use alluvium::checkpoint::commit::{CommitOutcome, Committed, Committer, Draft};
use alluvium::checkpoint::sweep::{self, Collector};
use alluvium::control::retention::RetentionPolicy;
use alluvium::envelope::{self, Kind};
use alluvium::error::{Applied, ErrorKind, Result};
use alluvium::id::{Attempt, Epoch, Hash, JobId, ObjectId, Seq};
use alluvium::key_group::Partitioner;
use alluvium::manifest::{DurabilityLevel, Layout, Manifest, ManifestKind, ObjectRef, Program};
use alluvium::runtime::timeout;
use alluvium::store::{Key, KeyClass, Put, Store, StoreSettings};
use bytes::Bytes;
use object_store::path::Path;

use crate::harness::{Answer, Call, Fate, Faults, Operation, Sim, SimStore, StoreWorld, Tracing};

const HOUR_MS: u64 = 3_600_000;

/// A store and whoever uses it.
struct Bench {
    sim: Sim,
    world: Arc<Mutex<StoreWorld>>,
}

impl Bench {
    fn new() -> Self {
        let sim = Sim::new(1, Tracing::Off);
        let world = StoreWorld::new(&sim, Faults::none());
        Self { sim, world }
    }

    fn store(&self, node: usize) -> Store {
        let settings = StoreSettings {
            call_timeout: Duration::from_secs(10),
            retry_deadline: Duration::from_secs(60),
            tries_max: 4,
            list_lag: 4,
            ..StoreSettings::default()
        };
        let objects = Arc::new(SimStore::new(&self.sim, node, &self.world));
        Store::new(objects, &Path::default(), &"job".parse().unwrap(), self.sim.runtime(node), settings)
    }

    /// Runs `future` to its end.
    fn on<T: Send + 'static>(&self, node: usize, future: impl Future<Output = T> + Send + 'static) -> T {
        self.sim.block_on(node, HOUR_MS, future).expect("it comes to an end")
    }

    fn faults(&self, faults: Faults) {
        self.world.lock().unwrap().set_faults(faults);
    }

    /// The next call on a key that contains `part`, of that kind, has `fate`; all others go well.
    fn next_call(&self, operation: Operation, part: &'static str, fate: Fate) {
        let mut fate = Some(fate);
        let meets = move |call: &Call<'_>| call.operation == operation && call.key.contains(part);
        self.faults(Faults::Scripted(Box::new(move |call| if meets(call) { fate.take() } else { None })));
    }

    /// Every call on a key that contains `part`, of that kind, has the fate that `fate` makes.
    fn every_call(&self, operation: Operation, part: &'static str, fate: impl Fn() -> Fate + Send + 'static) {
        let meets = move |call: &Call<'_>| call.operation == operation && call.key.contains(part);
        self.faults(Faults::Scripted(Box::new(move |call| meets(call).then(&fate))));
    }

    fn keys(&self, part: &str) -> Vec<String> {
        self.world.lock().unwrap().objects().keys().filter(|key| key.contains(part)).cloned().collect()
    }

    fn claim(&self, node: usize, from: RestoreFrom) -> Result<Owner> {
        let store = self.store(node);
        self.on(node, async move {
            let claimed = claim(&store, &request(from)).await?;
            Ok(Owner::new(store, claimed))
        })
    }

    /// Commits `count` checkpoints of one new object each.
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
        retention: RetentionPolicy { checkpoints: 3 },
        writer: "laws".into(),
        program: Program::new("laws"),
    }
}

/// An attempt that puts all of its state into one new object per checkpoint.
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
    let object = envelope::encode(Kind::Pack, put_id, &epoch.to_le_bytes());
    let (bytes, hash) = (object.len() as u64, Hash::of(&object));
    assert_eq!(store.put_new(&Key::Data(id), put_id, object).await?, Put::Created);
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

/// Creates one object under a fate; returns what its writer was told, how many requests it took, and whether it stands.
fn put_under(fates: Vec<(Operation, Fate)>) -> (Result<Put>, u64, bool) {
    let bench = Bench::new();
    let mut fates = fates;
    bench.faults(Faults::Scripted(Box::new(move |call| {
        let meets = fates.first().is_some_and(|(operation, _)| *operation == call.operation);
        meets.then(|| fates.remove(0).1)
    })));
    let store = bench.store(0);
    let told = bench.on(0, {
        let store = store.clone();
        async move {
            let put_id = store.draw_put_id();
            store.put_new(&Key::Manifest(Seq(1)), put_id, envelope::encode(Kind::Manifest, put_id, b"body")).await
        }
    });
    (told, store.requests().put, !bench.keys("manifest").is_empty())
}

#[test]
fn a01_a_create_that_fails_is_repeated_until_the_deadline() {
    let failing = || (Operation::Put, Fate::not_applied(5, Answer::ServerError));
    let (told, puts, stands) = put_under(vec![failing(), failing()]);
    assert_eq!((told.unwrap(), puts, stands), (Put::Created, 3, true));
    let (told, puts, stands) = put_under((0..9).map(|_| failing()).collect());
    let error = told.unwrap_err();
    assert_eq!((error.kind(), error.applied(), puts, stands), (ErrorKind::Unavailable, Applied::Unknown, 4, false));
}

#[test]
fn a02_a_create_whose_answer_is_lost_is_found_to_be_ours() {
    let (told, puts, stands) = put_under(vec![(Operation::Put, Fate::silent(Some(5)))]);
    assert_eq!((told.unwrap(), puts, stands), (Put::Created, 1, true));
}

#[test]
fn a03_applied_then_500_then_conflict_is_found_to_be_ours() {
    let fates = vec![
        (Operation::Put, Fate::applied_but(5, Answer::ServerError)),
        (Operation::Get, Fate::not_applied(5, Answer::ServerError)),
    ];
    let (told, puts, stands) = put_under(fates);
    assert_eq!((told.unwrap(), puts, stands), (Put::Created, 2, true));
    let (told, puts, _) = put_under(vec![(Operation::Put, Fate::applied_but(5, Answer::Conflict))]);
    assert_eq!((told.unwrap(), puts), (Put::Created, 1));
}

#[test]
fn a04_a_conflict_with_nothing_landed_is_repeated() {
    let (told, puts, stands) = put_under(vec![(Operation::Put, Fate::not_applied(5, Answer::Conflict))]);
    assert_eq!((told.unwrap(), puts, stands), (Put::Created, 2, true));
}

#[test]
fn a05_another_owners_manifest_fences() {
    let bench = Bench::new();
    let zombie = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (zombie, _) = bench.commit(zombie, 1);
    let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    let (_, outcomes) = bench.commit(owner, 1);
    committed(&outcomes[0]);
    let before = bench.keys("").len();
    let (mut zombie, outcomes) = bench.commit(zombie, 2);
    let fenced = CommitOutcome::Fenced { by: Attempt(2) };
    assert_eq!(outcomes, [fenced.clone(), fenced], "and it stays fenced");
    assert_eq!(zombie.committer.take_garbage(), Default::default());
    assert_eq!(bench.keys("").len(), before + 2, "it only left the objects of its drafts");
    let lost = bench.on(0, async move { check_owner(&zombie.store, zombie.attempt).await }).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Fenced);
}

#[test]
fn a06_a_create_that_lands_minutes_later_changes_nothing() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.next_call(Operation::Put, "manifest", Fate::silent(Some(600_000)));
    let (owner, outcomes) = bench.commit(owner, 2);
    outcomes.iter().map(committed).for_each(|committed| assert!(committed.id.seq <= Seq(3)));
    let before =
        bench.world.lock().unwrap().objects().iter().map(|(key, o)| (key.clone(), o.bytes.clone())).collect::<Vec<_>>();
    bench.sim.run_until(bench.sim.now_ms() + 700_000);
    let after =
        bench.world.lock().unwrap().objects().iter().map(|(key, o)| (key.clone(), o.bytes.clone())).collect::<Vec<_>>();
    assert_eq!(before, after);
    committed(&bench.commit(owner, 1).1[0]);
}

#[test]
fn a07_what_a_dead_writer_sent_is_void_under_its_successor() {
    let bench = Bench::new();
    let zombie = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.next_call(Operation::Put, "manifest", Fate::silent(Some(1_000_000)));
    let dead = bench.sim.block_on(0, 5_000, async move {
        let mut zombie = zombie;
        zombie.commit().await.map(|_| ())
    });
    assert!(dead.is_none());
    bench.sim.crash(0);
    // The successor uses the number, goes far beyond it, and gives the name free.
    let mut owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    assert_eq!(owner.restored, None);
    for _ in 0..8 {
        owner = bench.on(1, async move {
            committed(&owner.commit().await.unwrap());
            assert_eq!(owner.collect().await, 0);
            owner
        });
    }
    let ghost = Key::Manifest(Seq(2)).to_string();
    assert_eq!(bench.keys(&ghost), [""; 0]);
    bench.sim.run_until(1_100_000);
    assert_eq!(bench.keys(&ghost).len(), 1, "the ghost has landed");
    let newest = bench.claim(1, RestoreFrom::Newest).unwrap();
    assert_eq!((newest.restored, newest.epoch), (Some(Seq(10)), 8));
    let error = bench.claim(1, RestoreFrom::Checkpoint(Seq(2))).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "void, whatever a listing shows");
    assert!(error.message().contains("restorable=`8,9,10`"), "{error}");
}

#[test]
fn a08_calls_that_are_delivered_twice_are_idempotent() {
    let bench = Bench::new();
    let twice = || Fate { effects_ms: vec![1, 30], answer: Some((1, Answer::Truth)) };
    bench.faults(Faults::nth(0, u64::MAX, twice));
    let mut owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    for _ in 0..8 {
        owner = bench.on(0, async move {
            committed(&owner.commit().await.unwrap());
            assert_eq!(owner.collect().await, 0);
            owner
        });
    }
    assert_eq!(bench.claim(1, RestoreFrom::Newest).unwrap().epoch, 8);
}

#[test]
fn a11_an_answer_that_ends_early_is_asked_for_again() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 1);
    bench.next_call(Operation::Get, "manifest", Fate { effects_ms: vec![1], answer: Some((1, Answer::Cut)) });
    assert_eq!(bench.claim(1, RestoreFrom::Newest).unwrap().epoch, 1);
}

#[test]
fn a14_the_end_of_the_chain_is_found_though_listings_lag() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 6);
    let lagging = crate::harness::Profile {
        list_misses_max: 3,
        list_ghosts_max_ms: HOUR_MS,
        ..crate::harness::Profile::healthy()
    };
    bench.faults(Faults::Drawn(lagging));
    for _ in 0..10 {
        let mut owner = bench.claim(1, RestoreFrom::Newest).unwrap();
        let epoch = owner.epoch;
        bench.on(1, async move {
            for _ in 0..3 {
                committed(&owner.commit().await.unwrap());
                assert_eq!(owner.collect().await, 0);
            }
        });
        let store = bench.store(2);
        let peeked = bench.on(2, async move { peek(&store, RestoreFrom::Newest).await }).unwrap().unwrap();
        assert_eq!(peeked.newest.manifest.epoch.0, epoch + 3);
    }
}

#[test]
fn a15_a_listing_that_breaks_off_is_no_listing() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 3);
    let broken = crate::harness::Profile { list_breaks: 1000, ..crate::harness::Profile::healthy() };
    bench.faults(Faults::Drawn(broken));
    let (store, before) = (bench.store(1), bench.keys("").len());
    let error = bench.on(1, async move { sweep::plan(&store, None).await.map(|_| ()) }).unwrap_err();
    assert_eq!((error.kind(), bench.keys("").len()), (ErrorKind::Unavailable, before));
}

#[test]
fn a20_refused_credentials_abort_one_checkpoint() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.next_call(Operation::Put, "manifest", Fate::not_applied(5, Answer::Denied));
    let (owner, error) = bench.on(0, async move {
        let mut owner = owner;
        let error = owner.commit().await.unwrap_err();
        (owner, error)
    });
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Denied, Applied::No));
    let (_, outcomes) = bench.commit(owner, 1);
    assert_eq!(committed(&outcomes[0]).id.seq, Seq(2), "the number is still free");
}

#[test]
fn a20_a_refusal_after_doubt_proves_nothing() {
    let fates =
        vec![(Operation::Put, Fate::silent(Some(20_000))), (Operation::Put, Fate::not_applied(5, Answer::Denied))];
    let (told, _, _) = put_under(fates);
    assert_eq!(told.unwrap_err().applied(), Applied::Unknown, "the first may still land");
}

/// Flips a byte of the object under `key`.
fn damage(bench: &Bench, key: Key) {
    let mut world = bench.world.lock().unwrap();
    let stored = world.objects_mut().get_mut(&format!("job/{key}")).expect("it is stored");
    let mut bytes = stored.bytes.to_vec();
    bytes[60] ^= 1;
    stored.bytes = bytes.into();
}

#[test]
fn a24_damage_is_named_with_the_choices_and_never_passed_over() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 4);
    damage(&bench, Key::Manifest(Seq(5)));
    let error = bench.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains("manifest/00000000000000000005"), "{}", error.chain());
    assert!(error.chain().contains("restorable=`2,3,4`"), "{}", error.chain());
    assert_eq!(bench.keys("attempt").len(), 1, "and nobody was fenced by it");
    let store = bench.store(1);
    let planned = bench.on(1, async move { sweep::plan(&store, None).await.map(|_| ()) });
    assert_eq!(planned.unwrap_err().kind(), ErrorKind::Corrupt, "nor is anything swept");
    let chosen = bench.claim(1, RestoreFrom::Checkpoint(Seq(4))).unwrap();
    assert_eq!((chosen.restored, chosen.epoch), (Some(Seq(4)), 3));
    let (_, outcomes) = bench.commit(chosen, 1);
    assert_eq!(committed(&outcomes[0]).id.seq, Seq(7));
}

#[test]
fn a25_a_whole_manifest_in_the_wrong_place_is_damage() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 3);
    let put = |key: &str, bytes: Bytes| bench.world.lock().unwrap().objects_mut().get_mut(key).unwrap().bytes = bytes;
    let take = |key: &str| bench.world.lock().unwrap().objects()[key].bytes.clone();
    let [third, fourth] = [3, 4].map(|seq| format!("job/{}", Key::Manifest(Seq(seq))));
    let (old, new) = (take(&third), take(&fourth));
    put(&fourth, old);
    let error = bench.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    put(&fourth, new);
    // The right number, but another write than the newest manifest lists.
    let store = bench.store(1);
    let key = Key::Manifest(Seq(3));
    let other = bench.on(1, async move {
        let (mut manifest, _) = Manifest::decode(&store.read(&key, 1 << 20).await.unwrap().unwrap(), Seq(3)).unwrap();
        manifest.writer = "somebody else".into();
        manifest.encode(store.draw_put_id()).unwrap()
    });
    put(&third, other);
    let error = bench.claim(1, RestoreFrom::Checkpoint(Seq(3))).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("restorable=`2,4`"), "{error}");
}

#[test]
fn b02_a_zombie_that_wakes_commits_and_deletes_nothing() {
    let bench = Bench::new();
    let zombie = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (mut zombie, _) = bench.commit(zombie, 6);
    let garbage = zombie.committer.take_garbage();
    let store = bench.store(1);
    let plan = bench.on(1, async move { sweep::plan(&store, None).await }).unwrap();
    assert_eq!(plan.deletable.iter().filter(|(key, _)| key.class() == KeyClass::Data).count(), 0);
    let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    let (_, outcomes) = bench.commit(owner, 1);
    let reader = bench.store(2);
    let live = bench.on(2, async move { Chain::load(&reader).await.unwrap().read_live(&reader).await.unwrap() });
    // What it was about to delete it may delete: it was unreachable when it still owned the job.
    zombie.collector.add(garbage);
    let (zombie, failed) = bench.on(0, async move {
        let mut zombie = zombie;
        let failed = zombie.collector.run().await.failed.len();
        (zombie, failed)
    });
    assert_eq!(failed, 0);
    let (_, fenced) = bench.commit(zombie, 1);
    assert_eq!(fenced, [CommitOutcome::Fenced { by: Attempt(2) }]);
    committed(&outcomes[0]);
    for stored in live {
        for object in stored.objects() {
            assert_eq!(bench.keys(&Key::Data(object).to_string()).len(), 1, "{object} is gone");
        }
    }
}

#[test]
fn b03_of_two_that_start_at_once_each_gets_its_own_number() {
    let bench = Bench::new();
    let claims = [0, 1].map(|node| {
        let (store, slot) = (bench.store(node), Arc::new(Mutex::new(None)));
        let filled = Arc::clone(&slot);
        let claiming = async move {
            let outcome = claim(&store, &request(RestoreFrom::Newest)).await.map(|claimed| claimed.attempt);
            *filled.lock().unwrap() = Some(outcome);
        };
        bench.sim.spawn(node, Box::pin(claiming));
        slot
    });
    bench.sim.run_until(HOUR_MS);
    let outcomes = claims.map(|slot| slot.lock().unwrap().take().unwrap());
    let won: BTreeSet<_> = outcomes.iter().flatten().copied().collect();
    assert!(won.contains(&Attempt(2)), "the higher one owns the job: {outcomes:?}");
    assert_eq!(bench.keys("attempt").len(), 2);
    assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| e.kind() == ErrorKind::Fenced));
}

#[test]
fn b04_a_restart_gets_past_its_own_ghost() {
    let bench = Bench::new();
    bench.next_call(Operation::Put, "attempt", Fate::silent(Some(3)));
    let store = bench.store(0);
    assert!(
        bench
            .sim
            .block_on(0, 1_000, async move { claim(&store, &request(RestoreFrom::Newest)).await.map(|_| ()) })
            .is_none()
    );
    bench.sim.crash(0);
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    assert_eq!(owner.attempt, Attempt(2));
    let (owner, _) = bench.commit(owner, 1);
    // Its claim lands after the next incarnation has begun, and takes the number that the next would have.
    bench.next_call(Operation::Put, "manifest", Fate::silent(Some(20)));
    let store = bench.store(0);
    drop(owner);
    assert!(
        bench
            .sim
            .block_on(0, 15, async move { claim(&store, &request(RestoreFrom::Newest)).await.map(|_| ()) })
            .is_none()
    );
    bench.sim.crash(0);
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    assert_eq!((owner.attempt, owner.epoch), (Attempt(4), 1));
    committed(&bench.commit(owner, 1).1[0]);
}

#[test]
fn b12_the_last_attempt_is_refused_and_does_not_wrap() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let store = owner.store;
    bench.on(0, {
        let store = store.clone();
        async move {
            let (mut manifest, _) =
                Manifest::decode(&store.read(&Key::Manifest(Seq(1)), 1 << 20).await.unwrap().unwrap(), Seq(1)).unwrap();
            (manifest.seq, manifest.attempt) = (Seq(2), Attempt(u64::MAX));
            let put_id = store.draw_put_id();
            store.put_new(&Key::Manifest(Seq(2)), put_id, manifest.encode(put_id).unwrap()).await.unwrap();
        }
    });
    assert_eq!(bench.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn b15_another_jobs_state_is_refused() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 1);
    // A claim of another job, as a copy into the wrong folder would leave it.
    bench.on(0, async move {
        let store = owner.store;
        let newest = Chain::load(&store).await.unwrap().newest().unwrap().unwrap().clone();
        let mut manifest = newest.manifest.clone();
        (manifest.seq, manifest.attempt, manifest.job, manifest.kind) =
            (Seq(3), Attempt(2), JobId([9; 16]), ManifestKind::Claim);
        (manifest.parent, manifest.retained, manifest.objects) =
            (Some(newest.id), vec![newest.as_retained()], Vec::new());
        let put_id = store.draw_put_id();
        store.put_new(&Key::Manifest(Seq(3)), put_id, manifest.encode(put_id).unwrap()).await.unwrap();
    });
    let error = bench.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("another job"), "{error}");
}

#[test]
fn c01_c03_an_old_plan_deletes_only_what_is_dead_for_ever() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (mut dead, _) = bench.commit(owner, 8);
    drop(bench.on(0, async move { dead.draft().await.unwrap() }));
    let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    let store = bench.store(2);
    let plan = bench.on(2, async move { sweep::plan(&store, None).await }).unwrap();
    // Objects of five checkpoints that were dropped but not collected, and the draft's; all void manifests but young ones.
    assert_eq!(plan.deletable_tally().objects, 5 + 1 + 6);
    let (owner, _) = bench.commit(owner, 6);
    let store = bench.store(2);
    let swept = bench.on(2, async move { sweep::execute(&store, &plan).await }).unwrap();
    assert!(swept.failed.is_empty());
    let store = owner.store.clone();
    let live = bench.on(1, async move { Chain::load(&store).await.unwrap().read_live(&store).await.unwrap() });
    assert_eq!(live.len(), 3);
    for object in live.iter().flat_map(|stored| stored.objects()) {
        assert_eq!(bench.keys(&Key::Data(object).to_string()).len(), 1, "{object} is gone");
    }
}

#[test]
fn c04_what_is_uploaded_but_not_committed_is_kept() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (mut owner, _) = bench.commit(owner, 1);
    let (mut owner, draft) = bench.on(0, async move {
        let draft = owner.draft().await.unwrap();
        (owner, draft)
    });
    for by in [None, Some(owner.attempt)] {
        let store = bench.store(1);
        let plan = bench.on(1, async move {
            let plan = sweep::plan(&store, by).await.unwrap();
            assert!(sweep::execute(&store, &plan).await.unwrap().failed.is_empty());
            plan
        });
        assert_eq!((plan.in_flight_tally().objects, plan.deletable_tally().objects), (1, 0));
    }
    committed(&bench.on(0, async move { owner.committer.commit(draft).await }).unwrap());
}

#[test]
fn c05_while_a_live_manifest_is_unreadable_nothing_is_deleted() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 4);
    damage(&bench, Key::Manifest(Seq(4)));
    let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    let store = bench.store(2);
    let error = bench.on(2, async move { sweep::plan(&store, None).await.map(|_| ()) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // The owner, too, waits until the damaged one is dropped.
    let dropped = |outcome: &CommitOutcome| committed(outcome).dropped.iter().map(|d| d.id.seq.0).collect::<Vec<_>>();
    let (mut owner, outcomes) = bench.commit(owner, 1);
    assert_eq!(dropped(&outcomes[0]), [3, 6]);
    assert_eq!(owner.committer.take_garbage().objects.len(), 0);
    let (mut owner, outcomes) = bench.commit(owner, 1);
    assert_eq!(dropped(&outcomes[0]), [4]);
    assert_eq!(owner.committer.take_garbage().objects.len(), 1, "what only the third referred to");
}

#[test]
fn c09_deletes_that_fail_are_tried_again() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.every_call(Operation::Delete, "data", || Fate::not_applied(1, Answer::Denied));
    let (mut owner, _) = bench.commit(owner, 5);
    let (mut owner, failed) = bench.on(0, async move {
        let failed = [owner.collect().await, owner.collect().await];
        (owner, failed)
    });
    assert_eq!(failed, [2, 2]);
    bench.faults(Faults::none());
    assert_eq!(bench.on(0, async move { owner.collect().await }), 0);
    assert_eq!(bench.keys("data").len(), 3);
}

#[test]
fn a_steady_checkpoint_costs_two_puts_and_a_get() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 5);
    let before = owner.store.requests();
    let (owner, _) = bench.commit(owner, 1);
    let after = owner.store.requests();
    assert_eq!([after.put - before.put, after.get - before.get, after.list - before.list], [2, 1, 0]);
    assert_eq!(after.delete - before.delete, 0);
}

#[test]
fn a_mistaken_claim_disturbs_nobody() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 2);
    let good = || request(RestoreFrom::Newest);
    let mistakes = [
        (ClaimRequest { from: RestoreFrom::Checkpoint(Seq(9)), ..good() }, ErrorKind::NotFound, "restorable=`2,3`"),
        (ClaimRequest { from: RestoreFrom::Checkpoint(Seq(1)), ..good() }, ErrorKind::NotFound, "restorable=`2,3`"),
        (ClaimRequest { max_parallelism: 32, ..good() }, ErrorKind::Config, "stored=`16` requested=`32`"),
        (ClaimRequest { max_parallelism: 0, ..good() }, ErrorKind::Config, "max_parallelism=`0`"),
        (
            ClaimRequest { partitioner: Partitioner::Flink, ..good() },
            ErrorKind::Config,
            "stored=`range 1` requested=`flink 1`",
        ),
    ];
    let before = bench.keys("");
    for (request, kind, text) in mistakes {
        let store = bench.store(1);
        let error = bench.on(1, async move { claim(&store, &request).await.map(|_| ()) }).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    let store = bench.store(1);
    let peeked = bench.on(1, async move { peek(&store, RestoreFrom::Newest).await }).unwrap().unwrap();
    assert_eq!(peeked.newest.id.seq, Seq(3));
    assert_eq!(before, bench.keys(""));
    committed(&bench.commit(owner, 1).1[0]);
}

#[test]
fn a_claim_goes_on_with_the_seed_of_the_state() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.commit(owner, 1);
    for (from, seed) in [(RestoreFrom::Newest, 7), (RestoreFrom::Fresh, 8)] {
        let request = ClaimRequest { partitioner: Partitioner::Range { seed: 8 }, ..request(from) };
        let store = bench.store(1);
        let claimed = bench.on(1, async move { claim(&store, &request).await }).unwrap();
        assert_eq!(claimed.partitioner, Partitioner::Range { seed });
    }
}

#[test]
fn drafts_that_break_the_chains_rules_are_refused() {
    let bench = Bench::new();
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 3);
    let old = owner.store.clone();
    let dropped = bench.on(0, async move { Chain::load(&old).await.unwrap().read_live(&old).await.unwrap() });
    let dropped = dropped.first().unwrap().manifest.objects.clone();
    let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 3);
    let puts = owner.store.requests().put;
    bench.on(1, async move {
        let mut owner = owner;
        for draft in [
            draft(ManifestKind::Claim, 9, Vec::new()),
            draft(ManifestKind::Checkpoint, 5, Vec::new()),
            draft(ManifestKind::Checkpoint, 9, dropped),
        ] {
            let error = owner.committer.commit(draft).await.unwrap_err();
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Usage, Applied::No), "{error}");
        }
        assert_eq!(owner.store.requests().put, puts, "nothing was sent");
        committed(&owner.commit().await.unwrap());
    });
}

#[test]
fn a_commit_that_is_broken_off_is_settled_first() {
    let bench = Bench::new();
    let mut owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    bench.every_call(Operation::Get, "attempt", || Fate::silent(None));
    let owner = bench.on(0, async move {
        let draft = owner.draft().await.unwrap();
        let runtime = owner.store.runtime().clone();
        let broken = timeout(runtime.as_ref(), Duration::from_secs(100), owner.committer.commit(draft)).await;
        assert!(broken.is_none(), "the manifest stands, but nobody knows whether a newer attempt has begun");
        let next = owner.draft().await.unwrap();
        assert_eq!(owner.committer.commit(next).await.unwrap_err().kind(), ErrorKind::Usage);
        owner
    });
    bench.faults(Faults::none());
    let owner = bench.on(0, async move {
        let mut owner = owner;
        assert_eq!(committed(&owner.committer.settle().await.unwrap().unwrap()).id.seq, Seq(2));
        assert_eq!(owner.committer.settle().await.unwrap(), None);
        owner
    });
    assert_eq!(committed(&bench.commit(owner, 1).1[0]).id.seq, Seq(3));
}

#[test]
fn savepoints_stay_and_are_gone_on_from() {
    let bench = Bench::new();
    let mut owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let owner = bench.on(0, async move {
        let Draft { epoch, objects, .. } = owner.draft().await.unwrap();
        committed(&owner.committer.commit(draft(ManifestKind::Savepoint, epoch.0, objects)).await.unwrap());
        owner
    });
    assert_eq!(bench.claim(1, RestoreFrom::Newest).unwrap().restored, Some(Seq(2)));
    drop(owner);
    let owner = bench.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = bench.commit(owner, 9);
    let store = owner.store;
    let chain = bench.on(0, async move { Chain::load(&store).await.unwrap() });
    assert_eq!(chain.restorable().iter().map(|entry| entry.id.seq.0).collect::<Vec<_>>(), [2, 11, 12, 13]);
}

#[test]
fn every_call_failing_in_turn_leaves_the_state_before_or_after() {
    type MakeFate = fn() -> Fate;
    let fates: [MakeFate; 5] = [
        || Fate::not_applied(2, Answer::ServerError),
        || Fate::applied_but(2, Answer::ServerError),
        || Fate::applied_but(2, Answer::Conflict),
        || Fate::silent(None),
        || Fate::silent(Some(1)),
    ];
    // One call fails, or all from there on, until the process is killed.
    for (fate, count) in fates.into_iter().flat_map(|fate| [(fate, 1), (fate, u64::MAX)]) {
        for n in 0.. {
            let bench = Bench::new();
            bench.faults(Faults::nth(n, count, fate));
            let epochs = Arc::new(Mutex::new((0, 0)));
            let (store, told) = (bench.store(0), Arc::clone(&epochs));
            let job = async move {
                let claimed = claim(&store, &request(RestoreFrom::Newest)).await?;
                let mut owner = Owner::new(store, claimed);
                for epoch in 1..=5 {
                    told.lock().unwrap().1 = epoch;
                    let draft = owner.draft().await?;
                    committed(&owner.committer.commit(draft).await?);
                    told.lock().unwrap().0 = epoch;
                    owner.collect().await;
                }
                Ok::<(), alluvium::Error>(())
            };
            drop(bench.sim.block_on(0, 600_000, job));
            bench.sim.crash(0);
            let all_went_well = bench.world.lock().unwrap().calls() <= n;
            bench.faults(Faults::none());
            let (committed_epoch, drafted_epoch) = *epochs.lock().unwrap();
            let owner = bench.claim(1, RestoreFrom::Newest).unwrap();
            assert!((committed_epoch..=drafted_epoch).contains(&owner.epoch), "call {n}");
            let store = owner.store;
            let objects = bench.on(1, async move {
                let live = Chain::load(&store).await.unwrap().read_live(&store).await.unwrap();
                live.iter().flat_map(|stored| stored.objects()).collect::<BTreeSet<_>>()
            });
            for object in objects {
                assert_eq!(bench.keys(&Key::Data(object).to_string()).len(), 1, "call {n}: {object} is gone");
            }
            if all_went_well {
                assert_eq!(committed_epoch, 5);
                break;
            }
        }
    }
}
