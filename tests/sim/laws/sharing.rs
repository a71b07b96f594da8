//! Names and objects shared by several checkpoints, jobs or deleters.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use alluvium::internals::checkpoint::claim::{ClaimRequest, claim};
use alluvium::internals::checkpoint::sweep;
use alluvium::internals::store::Key;
use alluvium::manifest::{ManifestKind, ObjectRef};
use alluvium::{ManifestLog, RestoreFrom, RetentionPolicy, Seq, offline};

use super::{HOUR_MS, Owner, Rig, committed, draft, request, upload};
use alluvium_testkit::sim::{Answer, Call, Fate, Faults, Operation};

impl Owner {
    async fn upload(&mut self) -> ObjectRef {
        self.epoch += 1;
        upload(&self.store, self.attempt, self.epoch).await.unwrap()
    }

    /// Commits a checkpoint or savepoint of `objects`, and collects garbage.
    async fn commit_objects(&mut self, kind: ManifestKind, objects: &[ObjectRef]) -> Seq {
        let draft = draft(kind, self.epoch, objects.to_vec());
        let seq = committed(&self.committer.commit(draft).await.unwrap()).id.seq;
        assert_eq!(self.collect().await, 0);
        seq
    }
}

/// The key of each put, in order.
type Puts = Arc<Mutex<Vec<String>>>;

#[test]
fn a09_no_name_is_used_twice_so_a_late_delete_finds_nothing() {
    let rig = Rig::new();
    let puts = Puts::default();
    let seen = Arc::clone(&puts);
    // Every delete is delivered again an hour later.
    rig.faults(Faults::Scripted(Box::new(move |call: &Call<'_>| match call.operation {
        Operation::Put => {
            seen.lock().unwrap().push(call.key.to_owned());
            None
        }
        Operation::Delete => Some(Fate { effects_ms: vec![1, HOUR_MS], answer: Some((1, Answer::Truth)) }),
        _ => None,
    })));
    for _ in 0..4 {
        let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
        rig.on(0, async move {
            for _ in 0..8 {
                let object = owner.upload().await;
                owner.commit_objects(ManifestKind::Checkpoint, &[object]).await;
            }
        });
    }
    let puts = puts.lock().unwrap().clone();
    assert_eq!(puts.len(), puts.iter().collect::<BTreeSet<_>>().len(), "a name was used twice");
    let live = rig.check_live();
    rig.sim.run_until(rig.sim.now_ms() + 2 * HOUR_MS);
    assert_eq!(rig.check_live(), live);
}

#[test]
pub(super) fn b14_a_savepoint_and_checkpoints_share_objects_and_all_are_restorable() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (base, savepoint) = rig.on(0, async move {
        let base = owner.upload().await;
        owner.commit_objects(ManifestKind::Checkpoint, std::slice::from_ref(&base)).await;
        let savepoint = owner.commit_objects(ManifestKind::Savepoint, std::slice::from_ref(&base)).await;
        for _ in 0..6 {
            let delta = owner.upload().await;
            owner.commit_objects(ManifestKind::Checkpoint, &[base.clone(), delta]).await;
        }
        for _ in 0..6 {
            let other = owner.upload().await;
            owner.commit_objects(ManifestKind::Checkpoint, &[other]).await;
        }
        (base, savepoint)
    });
    assert!(rig.has(&base), "the savepoint alone refers to the base");
    assert!(rig.check_live().contains(&savepoint));
    let owner = rig.claim(1, RestoreFrom::Checkpoint(savepoint)).unwrap();
    assert_eq!((owner.restored, owner.epoch), (Some(savepoint), 1));
}

#[test]
fn c01_a_sweep_that_is_killed_between_deletes_is_finished_by_the_next() {
    for k in 1.. {
        let rig = Rig::new();
        let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
        let (mut owner, _) = rig.commit(owner, 8);
        drop(rig.on(0, async move { owner.draft().await.unwrap() }));
        let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
        let (store, attempt) = (owner.store.clone(), owner.attempt);
        rig.sim.crash_at_await(1, rig.sim.awaits(1) + k);
        let swept = rig.sim.block_on(1, HOUR_MS, async move {
            let plan = sweep::plan(&store, Some(attempt)).await.unwrap();
            sweep::execute(&store, &plan).await.unwrap().failed.len()
        });
        rig.check_live();
        let (store, attempt) = (rig.store(2), rig.claim(2, RestoreFrom::Newest).unwrap().attempt);
        rig.on(2, async move {
            let plan = sweep::plan(&store, Some(attempt)).await.unwrap();
            assert!(sweep::execute(&store, &plan).await.unwrap().failed.is_empty());
        });
        rig.check_live();
        assert_eq!(rig.keys("data").len(), 3, "await {k}: one object for each checkpoint");
        if swept == Some(0) {
            assert!(k > 10, "{k} awaits");
            break;
        }
    }
}

#[test]
fn c02_two_sweeps_at_once_do_no_more_than_one() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 8);
    rig.claim(0, RestoreFrom::Newest).unwrap();
    let failed = Arc::new(Mutex::new(Vec::new()));
    for node in [1, 2] {
        let (store, failed) = (rig.store(node), Arc::clone(&failed));
        rig.sim.spawn(
            node,
            Box::pin(async move {
                let plan = sweep::plan(&store, None).await.unwrap();
                let swept = sweep::execute(&store, &plan).await.unwrap();
                failed.lock().unwrap().push((swept.deleted.len(), swept.failed.len()));
            }),
        );
    }
    rig.sim.run_until(HOUR_MS);
    // Five objects of dropped checkpoints, and six void manifests beyond the lag of listings.
    assert_eq!(*failed.lock().unwrap(), [(11, 0), (11, 0)]);
    rig.check_live();
    assert_eq!(rig.keys("data").len(), 3);
}

#[test]
fn c06_what_a_claim_goes_on_from_is_kept_until_it_has_gone_on() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 5);
    let store = rig.store(1);
    let retention = RetentionPolicy::default().with(|it| it.checkpoints = 1);
    let from = RestoreFrom::Checkpoint(Seq(4));
    let request = ClaimRequest { retention, ..request(from) };
    let claimed = rig.on(1, async move { Owner::new(store.clone(), claim(&store, &request).await.unwrap()) });
    let sweep = |node| {
        let store = rig.store(node);
        rig.on(node, async move {
            let plan = sweep::plan(&store, None).await.unwrap();
            sweep::execute(&store, &plan).await.unwrap();
        });
        rig.check_live()
    };
    assert_eq!(sweep(2), [4, 6, 7].map(Seq), "retention spares the restored checkpoint");
    rig.commit(claimed, 1);
    assert_eq!(sweep(2), [Seq(8)]);
}

#[test]
fn c07_a_base_is_kept_as_long_as_a_checkpoint_refers_to_it() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (mut owner, base) = rig.on(0, async move {
        let base = owner.upload().await;
        for _ in 0..10 {
            let delta = owner.upload().await;
            owner.commit_objects(ManifestKind::Checkpoint, &[base.clone(), delta]).await;
        }
        (owner, base)
    });
    assert!(rig.has(&base));
    assert_eq!(rig.keys("data").len(), 4 + 2, "the base, three deltas, and two resting objects");
    rig.check_live();
    rig.on(0, async move {
        for _ in 0..3 + 2 {
            let new = owner.upload().await;
            owner.commit_objects(ManifestKind::Checkpoint, &[new]).await;
        }
    });
    assert!(!rig.has(&base), "no live checkpoint refers to the base, and its rest is over");
}

#[test]
fn c08_nobody_deletes_what_another_job_or_a_copy_has() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 3);
    let (from, [copy, other]) = (rig.store(0), ["copy", "other"].map(|job| rig.store_of(0, job)));
    let (copied, others) = (copy.clone(), other.clone());
    rig.on(0, async move {
        let checkpoint = offline::find(&from, &mut ManifestLog::load(&from).await.unwrap(), None).await.unwrap();
        offline::savepoint(&from, &checkpoint, &copied, &|_, _| {}).await.unwrap();
        let claimed = claim(&others, &request(RestoreFrom::Newest)).await.unwrap();
        let mut owner = Owner::new(others, claimed);
        for _ in 0..3 {
            committed(&owner.commit().await.unwrap());
        }
    });
    let foreign = |rig: &Rig| [rig.keys("copy/"), rig.keys("other/")].concat();
    let before = foreign(&rig);
    assert!(before.len() > 8, "{before:?}");
    let mut owner = owner;
    rig.on(0, async move {
        for _ in 0..9 {
            committed(&owner.commit().await.unwrap());
            assert_eq!(owner.collect().await, 0);
        }
        let chain = ManifestLog::load(&owner.store).await.unwrap();
        offline::sweep(&owner.store, &chain, Some(1)).await.unwrap();
    });
    assert_eq!(foreign(&rig), before);
    for store in [copy, other] {
        rig.on(0, async move {
            let chain = ManifestLog::load(&store).await.unwrap();
            assert!(!chain.restorable().is_empty());
            for manifest in ManifestLog::load(&store).await.unwrap().read_live(&store).await.unwrap() {
                for object in manifest.manifest.objects {
                    assert!(store.folder().read(&Key::Data(object.id), object.bytes).await.unwrap().is_some());
                }
            }
        });
    }
}

#[test]
fn c10_orphans_that_pile_up_are_told_of() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.every_call(Operation::Delete, "data", || Fate::not_applied(1, Answer::Throttled));
    let mut owner = owner;
    let uncollected = rig.on(0, async move {
        for _ in 0..8 {
            committed(&owner.commit().await.unwrap());
            owner.collect().await;
        }
        owner.collector.uncollected().objects
    });
    assert_eq!(uncollected, 3, "two more objects are resting");
    let store = rig.store(1);
    let plan = rig
        .on(1, async move { sweep::preview(&store, RetentionPolicy::default().with(|it| it.checkpoints = 3)).await })
        .unwrap();
    let world = rig.world.lock().unwrap();
    let bytes = world.objects().iter().find(|(key, _)| key.contains("data")).unwrap().1.bytes.len() as u64;
    let data = |(key, bytes): &(Key, u64)| matches!(key, Key::Data(_)).then_some(*bytes);
    assert_eq!(plan.deletable.iter().filter_map(data).collect::<Vec<_>>(), [bytes; 5]);
}
