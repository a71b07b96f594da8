//! Owners and former owners: claims, commits, late requests of dead ones (ghosts), attempts that wake up (zombies).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::internals::checkpoint::claim::{ClaimRequest, check_owner, claim, peek};
use alluvium::internals::checkpoint::commit::CommitOutcome;
use alluvium::internals::checkpoint::sweep;
use alluvium::internals::runtime::timeout;
use alluvium::internals::store::{Key, KeyClass};
use alluvium::manifest::ManifestKind;
use alluvium::{Applied, Attempt, ErrorKind, ManifestLog, Partitioner, RestoreFrom, Seq};

use super::{HOUR_MS, Rig, committed, draft, request};
use alluvium_testkit::sim::{Answer, Call, Fate, Faults, Operation, Profile};

#[test]
fn a05_another_owners_manifest_fences() {
    let rig = Rig::new();
    let zombie = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (zombie, _) = rig.commit(zombie, 1);
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let (_, outcomes) = rig.commit(owner, 1);
    committed(&outcomes[0]);
    let before = rig.keys("").len();
    let (mut zombie, outcomes) = rig.commit(zombie, 2);
    let fenced = CommitOutcome::Fenced { by: Attempt(2) };
    assert_eq!(outcomes, [fenced.clone(), fenced], "an attempt stays fenced");
    assert_eq!(zombie.committer.take_garbage(), Default::default());
    assert_eq!(rig.keys("").len(), before + 2, "the zombie adds only the objects of its drafts");
    let lost = rig.on(0, async move { check_owner(&zombie.store, zombie.attempt).await }).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Fenced);
}

#[test]
pub(super) fn a06_a_create_that_lands_minutes_later_changes_nothing() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.next_call(Operation::Put, "manifest", Fate::silent(Some(600_000)));
    let (owner, outcomes) = rig.commit(owner, 2);
    outcomes.iter().map(committed).for_each(|committed| assert!(committed.id.seq <= Seq(3)));
    let before =
        rig.world.lock().unwrap().objects().iter().map(|(key, o)| (key.clone(), o.bytes.clone())).collect::<Vec<_>>();
    rig.sim.run_until(rig.sim.now_ms() + 700_000);
    let after =
        rig.world.lock().unwrap().objects().iter().map(|(key, o)| (key.clone(), o.bytes.clone())).collect::<Vec<_>>();
    assert_eq!(before, after);
    committed(&rig.commit(owner, 1).1[0]);
}

#[test]
fn a07_what_a_dead_writer_sent_is_void_under_its_successor() {
    let rig = Rig::new();
    let zombie = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.next_call(Operation::Put, "manifest", Fate::silent(Some(1_000_000)));
    let dead = rig.sim.block_on(0, 5_000, async move {
        let mut zombie = zombie;
        zombie.commit().await.map(|_| ())
    });
    assert!(dead.is_none());
    rig.sim.crash(0);
    // The successor uses that number, commits far beyond it, and deletes its own manifest of that number.
    let mut owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    assert_eq!(owner.restored, None);
    for _ in 0..8 {
        owner = rig.on(1, async move {
            committed(&owner.commit().await.unwrap());
            assert_eq!(owner.collect().await, 0);
            owner
        });
    }
    let ghost = Key::Manifest(Seq(2)).to_string();
    assert_eq!(rig.keys(&ghost), [""; 0]);
    rig.sim.run_until(1_100_000);
    assert_eq!(rig.keys(&ghost).len(), 1, "the ghost has landed");
    let newest = rig.claim(1, RestoreFrom::Newest).unwrap();
    assert_eq!((newest.restored, newest.epoch), (Some(Seq(10)), 8));
    let error = rig.claim(1, RestoreFrom::Checkpoint(Seq(2))).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "the ghost is void although listings show it");
    assert!(error.message().contains("restorable=`8,9,10`"), "{error}");
}

#[test]
fn a08_calls_that_are_delivered_twice_are_idempotent() {
    let rig = Rig::new();
    let twice = || Fate { effects_ms: vec![1, 30], answer: Some((1, Answer::Truth)) };
    rig.faults(Faults::nth(0, u64::MAX, twice));
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    for _ in 0..8 {
        owner = rig.on(0, async move {
            committed(&owner.commit().await.unwrap());
            assert_eq!(owner.collect().await, 0);
            owner
        });
    }
    assert_eq!(rig.claim(1, RestoreFrom::Newest).unwrap().epoch, 8);
}

#[test]
pub(super) fn a14_the_end_of_the_chain_is_found_though_listings_lag() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 6);
    let lagging = Profile { list_misses_max: 3, list_ghosts_max_ms: HOUR_MS, ..Profile::healthy() };
    rig.faults(Faults::Drawn(lagging));
    for _ in 0..10 {
        let mut owner = rig.claim(1, RestoreFrom::Newest).unwrap();
        let epoch = owner.epoch;
        rig.on(1, async move {
            for _ in 0..3 {
                committed(&owner.commit().await.unwrap());
                assert_eq!(owner.collect().await, 0);
            }
        });
        let store = rig.store(2);
        let peeked = rig.on(2, async move { peek(&store, RestoreFrom::Newest).await }).unwrap().unwrap();
        assert_eq!(peeked.newest.manifest.epoch.0, epoch + 3);
    }
}

#[test]
fn a20_refused_credentials_abort_one_checkpoint() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.next_call(Operation::Put, "manifest", Fate::not_applied(5, Answer::Denied));
    let (owner, error) = rig.on(0, async move {
        let mut owner = owner;
        let error = owner.commit().await.unwrap_err();
        (owner, error)
    });
    assert_eq!((error.kind(), error.applied()), (ErrorKind::Denied, Applied::No));
    let (_, outcomes) = rig.commit(owner, 1);
    assert_eq!(committed(&outcomes[0]).id.seq, Seq(2), "the refused commit took no number");
}

#[test]
fn a20_a_commit_in_doubt_goes_on_through_refusals() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let mut fates = vec![
        // These use up the tries of the first call...
        Fate::silent(Some(900_000)),
        Fate::not_applied(1, Answer::ServerError),
        Fate::not_applied(1, Answer::ServerError),
        Fate::not_applied(1, Answer::ServerError),
        // ...and the next call is refused, which proves nothing about the first.
        Fate::not_applied(1, Answer::Denied),
    ];
    let matches = |call: &Call<'_>| call.operation == Operation::Put && call.key.contains("manifest");
    rig.faults(Faults::Scripted(Box::new(move |call| (matches(call) && !fates.is_empty()).then(|| fates.remove(0)))));
    committed(&rig.commit(owner, 1).1[0]);
}

#[test]
fn b02_a_zombie_that_wakes_commits_and_deletes_nothing() {
    let rig = Rig::new();
    let zombie = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (mut zombie, _) = rig.commit(zombie, 6);
    let garbage = zombie.committer.take_garbage();
    let store = rig.store(1);
    let plan = rig.on(1, async move { sweep::plan(&store, None).await }).unwrap();
    assert_eq!(plan.deletable.iter().filter(|(key, _)| key.class() == KeyClass::Data).count(), 0);
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let (_, outcomes) = rig.commit(owner, 1);
    let reader = rig.store(2);
    let live = rig.on(2, async move { ManifestLog::load(&reader).await.unwrap().read_live(&reader).await.unwrap() });
    // The zombie may still run deletes planned while it owned the job: their objects were already unreachable.
    zombie.collector.add(garbage);
    let (zombie, failed) = rig.on(0, async move {
        let mut zombie = zombie;
        let failed = zombie.collector.run().await.failed.len();
        (zombie, failed)
    });
    assert_eq!(failed, 0);
    let (_, fenced) = rig.commit(zombie, 1);
    assert_eq!(fenced, [CommitOutcome::Fenced { by: Attempt(2) }]);
    committed(&outcomes[0]);
    for stored in live {
        for object in stored.objects() {
            assert_eq!(rig.keys(&Key::Data(object).to_string()).len(), 1, "{object} is gone");
        }
    }
}

#[test]
fn b03_of_two_that_start_at_once_each_gets_its_own_number() {
    let rig = Rig::new();
    let claims = [0, 1].map(|node| {
        let (store, slot) = (rig.store(node), Arc::new(Mutex::new(None)));
        let filled = Arc::clone(&slot);
        let claiming = async move {
            let outcome = claim(&store, &request(RestoreFrom::Newest)).await.map(|claimed| claimed.attempt);
            *filled.lock().unwrap() = Some(outcome);
        };
        rig.sim.spawn(node, Box::pin(claiming));
        slot
    });
    rig.sim.run_until(HOUR_MS);
    let outcomes = claims.map(|slot| slot.lock().unwrap().take().unwrap());
    let won: BTreeSet<_> = outcomes.iter().flatten().copied().collect();
    // The second to found the job has named a job of its own in its marker, and takes another marker.
    assert!(won.contains(&Attempt(3)), "the highest attempt owns the job: {outcomes:?}");
    assert_eq!(rig.keys("attempt").len(), 3);
    assert!(outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| e.kind() == ErrorKind::Fenced));
}

#[test]
pub(super) fn b03_a_claim_that_comes_late_is_fenced() {
    let rig = Rig::new();
    let late = Fate { effects_ms: vec![100], answer: Some((5_000, Answer::Truth)) };
    rig.next_call(Operation::Put, "manifest", late);
    let (store, slot) = (rig.store(0), Arc::new(Mutex::new(None)));
    let filled = Arc::clone(&slot);
    rig.sim.spawn(
        0,
        Box::pin(async move {
            let outcome = claim(&store, &request(RestoreFrom::Newest)).await.map(|_| ());
            *filled.lock().unwrap() = Some(outcome);
        }),
    );
    rig.sim.run_until(1_000);
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    assert_eq!(rig.keys("manifest").len(), 2, "both claims are in the chain");
    rig.sim.run_until(10_000);
    let outcome = slot.lock().unwrap().take().unwrap();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Fenced, "the late claim fails before any work");
    committed(&rig.commit(owner, 1).1[0]);
}

#[test]
pub(super) fn b04_a_restart_gets_past_its_own_ghost() {
    let rig = Rig::new();
    rig.next_call(Operation::Put, "attempt", Fate::silent(Some(3)));
    let store = rig.store(0);
    assert!(
        rig.sim
            .block_on(0, 1_000, async move { claim(&store, &request(RestoreFrom::Newest)).await.map(|_| ()) })
            .is_none()
    );
    rig.sim.crash(0);
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    assert_eq!(owner.attempt, Attempt(2));
    let (owner, _) = rig.commit(owner, 1);
    // A crashed claim lands after the next incarnation has begun, and takes the manifest number of the next claim.
    rig.next_call(Operation::Put, "manifest", Fate::silent(Some(20)));
    let store = rig.store(0);
    drop(owner);
    assert!(
        rig.sim
            .block_on(0, 15, async move { claim(&store, &request(RestoreFrom::Newest)).await.map(|_| ()) })
            .is_none()
    );
    rig.sim.crash(0);
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    assert_eq!((owner.attempt, owner.epoch), (Attempt(4), 1));
    committed(&rig.commit(owner, 1).1[0]);
}

#[test]
fn a_steady_checkpoint_costs_two_puts_and_a_get() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 5);
    let before = owner.store.requests();
    let (owner, _) = rig.commit(owner, 1);
    let after = owner.store.requests();
    assert_eq!([after.put - before.put, after.get - before.get, after.list - before.list], [2, 1, 0]);
    assert_eq!(after.delete - before.delete, 0);
}

#[test]
fn a_refused_claim_changes_nothing() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 2);
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
    let before = rig.keys("");
    for (request, kind, text) in mistakes {
        let store = rig.store(1);
        let error = rig.on(1, async move { claim(&store, &request).await.map(|_| ()) }).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    let store = rig.store(1);
    let peeked = rig.on(1, async move { peek(&store, RestoreFrom::Newest).await }).unwrap().unwrap();
    assert_eq!(peeked.newest.id.seq, Seq(3));
    assert_eq!(before, rig.keys(""));
    committed(&rig.commit(owner, 1).1[0]);
}

#[test]
fn a_claim_keeps_the_seed_of_restored_state() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 1);
    for (from, seed) in [(RestoreFrom::Newest, 7), (RestoreFrom::Fresh, 8)] {
        let request = ClaimRequest { partitioner: Partitioner::Range { seed: 8 }, ..request(from) };
        let store = rig.store(1);
        let claimed = rig.on(1, async move { claim(&store, &request).await }).unwrap();
        assert_eq!(claimed.partitioner, Partitioner::Range { seed });
    }
}

#[test]
pub(super) fn drafts_that_break_the_chains_rules_are_refused() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 3);
    let old = owner.store.clone();
    let dropped = rig.on(0, async move { ManifestLog::load(&old).await.unwrap().read_live(&old).await.unwrap() });
    let dropped = dropped.first().unwrap().manifest.objects.clone();
    let owner = rig.claim(1, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 3);
    let puts = owner.store.requests().put;
    rig.on(1, async move {
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
fn a_dropped_commit_must_be_settled_before_the_next() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.every_call(Operation::Get, "attempt", || Fate::silent(None));
    let owner = rig.on(0, async move {
        let draft = owner.draft().await.unwrap();
        let runtime = owner.store.runtime().clone();
        let broken = timeout(runtime.as_ref(), Duration::from_secs(100), owner.committer.commit(draft)).await;
        assert!(broken.is_none(), "the manifest exists, but a newer attempt may have begun, so the outcome is unknown");
        let next = owner.draft().await.unwrap();
        assert_eq!(owner.committer.commit(next).await.unwrap_err().kind(), ErrorKind::Usage);
        owner
    });
    rig.faults(Faults::none());
    let owner = rig.on(0, async move {
        let mut owner = owner;
        assert_eq!(committed(&owner.committer.settle().await.unwrap().unwrap()).id.seq, Seq(2));
        assert_eq!(owner.committer.settle().await.unwrap(), None);
        owner
    });
    assert_eq!(committed(&rig.commit(owner, 1).1[0]).id.seq, Seq(3));
}
