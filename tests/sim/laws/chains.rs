//! The effect of commits on the chain, under crashes too, and the drafts that a commit refuses.

use std::future::poll_fn;
use std::task::Poll;

use alluvium::internals::store::{Key, Put};
use alluvium::manifest::{Manifest, ManifestKind, OperatorManifest, SubtaskEntry, SubtaskManifest};
use alluvium::{Applied, ErrorKind, KeyGroupRange, KeyGroupSet, OperatorId, RestoreFrom, Seq, Subtask, Timestamp};

use super::{Rig, committed, draft};
use alluvium_testkit::sim::{Fate, Operation};

#[test]
fn b01_a_commit_that_is_killed_is_there_or_is_not() {
    let mut outcomes = Vec::new();
    for k in 1.. {
        let rig = Rig::new();
        let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
        let (mut owner, _) = rig.commit(owner, 2);
        rig.sim.crash_at_await(0, rig.sim.awaits(0) + k);
        let acknowledged = rig.sim.block_on(0, 60_000, async move { committed(&owner.commit().await.unwrap()).id.seq });
        rig.sim.crash_at_await(0, 0);
        let successor = rig.claim(1, RestoreFrom::Newest).unwrap();
        let restored = (successor.restored, successor.epoch);
        assert!([(Some(Seq(3)), 2), (Some(Seq(4)), 3)].contains(&restored), "await {k}: {restored:?}");
        outcomes.push(successor.epoch);
        committed(&rig.commit(successor, 1).1[0]);
        rig.check_live();
        if let Some(acknowledged) = acknowledged {
            assert_eq!(acknowledged, Seq(4));
            break;
        }
    }
    assert!(
        outcomes.is_sorted() && outcomes.len() > 3,
        "from some await on, every crash is after the commit: {outcomes:?}"
    );
}

/// Returns an operator whose subtasks own the ranges in `owned`.
fn operator(parallelism: u32, owned: &[(u16, u16)]) -> OperatorManifest {
    let subtask = |(at, &(start, end)): (usize, &(u16, u16))| {
        SubtaskEntry::Inline(SubtaskManifest {
            subtask: Subtask(u32::try_from(at).unwrap()),
            groups: KeyGroupSet::from(KeyGroupRange::new(start, end)),
            watermark: Timestamp::MIN,
            segments: Vec::new(),
            opaques: Vec::new(),
            times: Vec::new(),
            heat: Vec::new(),
        })
    };
    let subtasks = owned.iter().enumerate().map(subtask).collect();
    OperatorManifest { id: OperatorId(1), name: "count".into(), parallelism, tables: Vec::new(), subtasks }
}

#[test]
fn b08_key_groups_without_an_owner_or_with_two_are_not_committed() {
    let rig = Rig::new();
    let mut owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let mistakes = [
        (operator(2, &[(0, 8), (9, 16)]), "key groups have no owner"),
        (operator(2, &[(0, 8), (8, 15)]), "groups=`15..16`"),
        (operator(2, &[(0, 9), (8, 16)]), "key groups have two owners"),
        (operator(2, &[(0, 8), (8, 17)]), "groups that the job does not have"),
        (operator(2, &[(0, 16)]), "expected=`2` found=`1`"),
        (operator(17, &[(0, 16)]), "parallelism out of range"),
    ];
    rig.on(0, async move {
        for (operator, text) in mistakes {
            let mut mistaken = draft(ManifestKind::Checkpoint, 1, Vec::new());
            mistaken.operators.push(operator);
            let error = owner.committer.commit(mistaken).await.unwrap_err();
            assert_eq!((error.kind(), error.applied()), (ErrorKind::Usage, Applied::No), "{}", error.chain());
            assert!(error.chain().contains(text), "{text}: {}", error.chain());
        }
        let mut right = draft(ManifestKind::Checkpoint, 1, Vec::new());
        right.operators.push(operator(2, &[(0, 8), (8, 16)]));
        assert_eq!(
            committed(&owner.committer.commit(right).await.unwrap()).id.seq,
            Seq(2),
            "refused drafts take no number"
        );
    });
}

#[test]
fn b09_a_number_that_has_other_content_is_refused() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (mut owner, _) = rig.commit(owner, 1);
    let intruder = rig.store(1);
    rig.on(1, async move {
        let second = intruder.folder().read(&Key::Manifest(Seq(2)), 1 << 20).await.unwrap().unwrap();
        let (mut manifest, _) = Manifest::decode(&second, Seq(2)).unwrap();
        (manifest.seq, manifest.retained) = (Seq(3), Vec::new());
        let put_id = intruder.draw_put_id();
        let object = manifest.encode(put_id).unwrap();
        assert_eq!(intruder.folder().put_new(&Key::Manifest(Seq(3)), put_id, object).await.unwrap(), Put::Created);
    });
    let before = rig.keys("manifest");
    let error = rig.on(0, async move { owner.commit().await.unwrap_err() });
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("after=`2`"), "{error}");
    assert_eq!(rig.keys("manifest"), before);
}

#[test]
fn b11_a_commit_that_nobody_was_told_of_is_found() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.next_call(Operation::Put, "manifest", Fate::silent(Some(5)));
    let acknowledged = rig.sim.block_on(0, 100, async move {
        let mut owner = owner;
        owner.commit().await.map(|_| ())
    });
    assert!(acknowledged.is_none());
    rig.sim.crash(0);
    for node in [1, 2] {
        let successor = rig.claim(node, RestoreFrom::Newest).unwrap();
        assert_eq!((successor.restored, successor.epoch), (Some(Seq(2)), 1), "node {node}");
    }
}

#[test]
fn g12_a_commit_that_is_dropped_at_any_await_is_settled_and_gone_on_from() {
    for polls in 1.. {
        let rig = Rig::new();
        let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
        let (mut owner, _) = rig.commit(owner, 1);
        let (owner, done) = rig.on(0, async move {
            let draft = owner.draft().await.unwrap();
            let mut commit = Box::pin(owner.committer.commit(draft));
            let mut left = polls;
            let done = poll_fn(|context| {
                left -= 1;
                match commit.as_mut().poll(context) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            let done = done.await;
            drop(commit);
            if done.is_none() {
                let settled = owner.committer.settle().await.unwrap();
                assert_eq!(committed(&settled.unwrap()).id.seq, Seq(3), "{polls} polls");
            }
            (owner, done.is_some())
        });
        let (_, outcomes) = rig.commit(owner, 1);
        assert_eq!(committed(&outcomes[0]).id.seq, Seq(4));
        rig.check_live();
        if done {
            assert!(polls > 2);
            break;
        }
    }
}
