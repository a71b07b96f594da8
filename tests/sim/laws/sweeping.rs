//! Sweeping and collecting: the objects deleted, and those kept.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use alluvium::internals::checkpoint::claim::claim;
use alluvium::internals::checkpoint::commit::{CommitOutcome, Draft};
use alluvium::internals::checkpoint::sweep;
use alluvium::internals::store::Key;
use alluvium::manifest::ManifestKind;
use alluvium::{ErrorKind, ManifestLog, RestoreFrom, Seq};

use super::{Owner, Rig, committed, draft, request};
use alluvium_testkit::sim::{Answer, Call, Fate, Faults, Operation, Profile};

#[test]
pub(super) fn a15_a_listing_that_breaks_off_is_no_listing() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 3);
    let broken = Profile { list_breaks: 1000, ..Profile::healthy() };
    rig.faults(Faults::Drawn(broken));
    let (store, before) = (rig.store(1), rig.keys("").len());
    let error = rig.on(1, async move { sweep::plan(&store, None).await.map(|_| ()) }).unwrap_err();
    assert_eq!((error.kind(), rig.keys("").len()), (ErrorKind::Unavailable, before));
}

#[test]
fn c03_an_old_plan_deletes_only_what_is_dead_for_ever() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (mut dead, _) = rig.commit(owner, 8);
    drop(rig.on(0, async move { dead.draft().await.unwrap() }));
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let store = rig.store(2);
    let plan = rig.on(2, async move { sweep::plan(&store, None).await }).unwrap();
    // Objects of five dropped but uncollected checkpoints, the draft's object, and the void manifests beyond the lag.
    assert_eq!(plan.deletable_tally().objects, 5 + 1 + 6);
    let (owner, _) = rig.commit(owner, 6);
    let store = rig.store(2);
    let swept = rig.on(2, async move { sweep::execute(&store, &plan).await }).unwrap();
    assert!(swept.failed.is_empty());
    let store = owner.store.clone();
    let live = rig.on(1, async move { ManifestLog::load(&store).await.unwrap().read_live(&store).await.unwrap() });
    assert_eq!(live.len(), 3);
    for object in live.iter().flat_map(|stored| stored.objects()) {
        assert_eq!(rig.keys(&Key::Data(object).to_string()).len(), 1, "{object} is gone");
    }
}

#[test]
fn c04_what_is_uploaded_but_not_committed_is_kept() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (mut owner, _) = rig.commit(owner, 1);
    let (mut owner, draft) = rig.on(0, async move {
        let draft = owner.draft().await.unwrap();
        (owner, draft)
    });
    for by in [None, Some(owner.attempt)] {
        let store = rig.store(1);
        let plan = rig.on(1, async move {
            let plan = sweep::plan(&store, by).await.unwrap();
            assert!(sweep::execute(&store, &plan).await.unwrap().failed.is_empty());
            plan
        });
        assert_eq!((plan.in_flight_tally().objects, plan.deletable_tally().objects), (1, 0));
    }
    committed(&rig.on(0, async move { owner.committer.commit(draft).await }).unwrap());
}

#[test]
pub(super) fn c05_while_a_live_manifest_is_unreadable_nothing_is_deleted() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 4);
    rig.damage(Key::Manifest(Seq(4)));
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let store = rig.store(2);
    let error = rig.on(2, async move { sweep::plan(&store, None).await.map(|_| ()) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // The owner deletes nothing either until the damaged manifest is dropped.
    let dropped = |outcome: &CommitOutcome| committed(outcome).dropped.iter().map(|d| d.id.seq.0).collect::<Vec<_>>();
    let (mut owner, outcomes) = rig.commit(owner, 1);
    assert_eq!(dropped(&outcomes[0]), [3, 6]);
    assert_eq!(owner.committer.take_garbage().objects.len(), 0);
    let (mut owner, outcomes) = rig.commit(owner, 1);
    assert_eq!(dropped(&outcomes[0]), [4]);
    assert_eq!(owner.committer.take_garbage().objects.len(), 1, "the object of checkpoint 3 alone");
}

#[test]
fn c09_deletes_that_fail_are_tried_again() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.every_call(Operation::Delete, "", || Fate::not_applied(1, Answer::Denied));
    let mut tries = Vec::new();
    for commit in 1..=200 {
        let failed;
        (owner, failed) = step(&rig, owner);
        if failed > 0 {
            assert!(failed <= 16, "commit {commit}: {failed} deletes");
            tries.push(commit);
        }
    }
    // The first garbage is due at commit 6: three live, two resting. Retries then back off by 2, 4, 8, ... up to 64 commits.
    assert_eq!(tries, [6, 8, 12, 20, 36, 68, 132, 196]);
    let uncollected = owner.collector.uncollected();
    assert_eq!(uncollected.last_error.map(|error| error.kind()), Some(ErrorKind::Denied));
    assert!(uncollected.objects > 190, "{}", uncollected.objects);
    rig.faults(Faults::none());
    for _ in 0..64 {
        let failed;
        (owner, failed) = step(&rig, owner);
        assert_eq!(failed, 0);
    }
    assert_eq!(rig.keys("data").len(), 3 + 2);
    assert_eq!(owner.collector.uncollected().objects, 0);
}

#[test]
fn an_undeletable_object_delays_no_other() {
    let rig = Rig::new();
    let (mut owner, _) = rig.commit(rig.claim(0, RestoreFrom::Newest).unwrap(), 1);
    let held = rig.keys("data").remove(0);
    let denied = held.clone();
    let matches = move |call: &Call<'_>| call.operation == Operation::Delete && denied.contains(call.key);
    let fate = move |call: &Call<'_>| matches(call).then(|| Fate::not_applied(1, Answer::Denied));
    rig.faults(Faults::Scripted(Box::new(fate)));
    let mut failed = 0;
    for _ in 0..100 {
        let failures;
        (owner, failures) = step(&rig, owner);
        failed += failures;
    }
    assert!(rig.keys("data").contains(&held) && rig.keys("data").len() == 1 + 3 + 2);
    assert!(failed <= 7, "{failed} tries to delete one object");
}

#[test]
fn garbage_rests_before_its_deletion_and_a_dead_owners_is_swept() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    for commit in 1..=9 {
        (owner, _) = step(&rig, owner);
        // Three live, two resting.
        assert_eq!(rig.keys("data").len(), commit.min(3 + 2));
    }
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let owner = rig.on(1, async move {
        owner.collector.sweep_orphans(owner.attempt).await;
        owner
    });
    assert_eq!(rig.keys("data").len(), 3);
    rig.commit(owner, 1);
}

/// Commits a checkpoint and collects garbage. Returns the owner and the number of failed deletes.
fn step(rig: &Rig, owner: Owner) -> (Owner, usize) {
    let (mut owner, _) = rig.commit(owner, 1);
    rig.on(0, async move {
        let failed = owner.collect().await;
        (owner, failed)
    })
}

#[test]
fn savepoints_are_kept_and_restorable() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let owner = rig.on(0, async move {
        let Draft { epoch, objects, .. } = owner.draft().await.unwrap();
        committed(&owner.committer.commit(draft(ManifestKind::Savepoint, epoch.0, objects)).await.unwrap());
        owner
    });
    assert_eq!(rig.claim(1, RestoreFrom::Newest).unwrap().restored, Some(Seq(2)));
    drop(owner);
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 9);
    let store = owner.store;
    let chain = rig.on(0, async move { ManifestLog::load(&store).await.unwrap() });
    assert_eq!(chain.restorable().iter().map(|entry| entry.id.seq.0).collect::<Vec<_>>(), [2, 11, 12, 13]);
}

#[test]
fn any_failing_call_leaves_the_state_before_or_after_the_commit() {
    type MakeFate = fn() -> Fate;
    let fates: [MakeFate; 5] = [
        || Fate::not_applied(2, Answer::ServerError),
        || Fate::applied_but(2, Answer::ServerError),
        || Fate::applied_but(2, Answer::Conflict),
        || Fate::silent(None),
        || Fate::silent(Some(1)),
    ];
    // Call `n` alone fails, or all calls from there on, until the process is killed.
    for (fate, count) in fates.into_iter().flat_map(|fate| [(fate, 1), (fate, u64::MAX)]) {
        for n in 0.. {
            let rig = Rig::new();
            rig.faults(Faults::nth(n, count, fate));
            let epochs = Arc::new(Mutex::new((0, 0)));
            let (store, progress) = (rig.store(0), Arc::clone(&epochs));
            let job = async move {
                let claimed = claim(&store, &request(RestoreFrom::Newest)).await?;
                let mut owner = Owner::new(store, claimed);
                for epoch in 1..=5 {
                    progress.lock().unwrap().1 = epoch;
                    let draft = owner.draft().await?;
                    committed(&owner.committer.commit(draft).await?);
                    progress.lock().unwrap().0 = epoch;
                    owner.collect().await;
                }
                Ok::<(), alluvium::Error>(())
            };
            drop(rig.sim.block_on(0, 600_000, job));
            rig.sim.crash(0);
            let none_failed = rig.world.lock().unwrap().calls() <= n;
            rig.faults(Faults::none());
            let (committed_epoch, drafted_epoch) = *epochs.lock().unwrap();
            let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
            assert!((committed_epoch..=drafted_epoch).contains(&owner.epoch), "call {n}");
            let store = owner.store;
            let objects = rig.on(1, async move {
                let live = ManifestLog::load(&store).await.unwrap().read_live(&store).await.unwrap();
                live.iter().flat_map(|stored| stored.objects()).collect::<BTreeSet<_>>()
            });
            for object in objects {
                assert_eq!(rig.keys(&Key::Data(object).to_string()).len(), 1, "call {n}: {object} is gone");
            }
            if none_failed {
                assert_eq!(committed_epoch, 5);
                break;
            }
        }
    }
}
