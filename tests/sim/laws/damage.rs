//! Stored objects that are damaged, misplaced or of another job.

use alluvium::internals::checkpoint::sweep;
use alluvium::internals::store::Key;
use alluvium::manifest::{Manifest, ManifestKind};
use alluvium::{Attempt, ErrorKind, JobId, ManifestLog, RestoreFrom, Seq};
use bytes::Bytes;

use super::{Rig, committed};

#[test]
pub(super) fn a24_damage_is_named_with_the_choices_and_never_passed_over() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 4);
    rig.damage(Key::Manifest(Seq(5)));
    let error = rig.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains("manifest/00000000000000000005"), "{}", error.chain());
    assert!(error.chain().contains("restorable=`2,3,4`"), "{}", error.chain());
    assert_eq!(rig.keys("attempt").len(), 1, "the failed claim fences nobody");
    let store = rig.store(1);
    let planned = rig.on(1, async move { sweep::plan(&store, None).await.map(|_| ()) });
    assert_eq!(planned.unwrap_err().kind(), ErrorKind::Corrupt, "no sweep over a damaged manifest");
    let chosen = rig.claim(1, RestoreFrom::Checkpoint(Seq(4))).unwrap();
    assert_eq!((chosen.restored, chosen.epoch), (Some(Seq(4)), 3));
    let (_, outcomes) = rig.commit(chosen, 1);
    assert_eq!(committed(&outcomes[0]).id.seq, Seq(7));
}

#[test]
pub(super) fn a25_a_whole_manifest_in_the_wrong_place_is_damage() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    rig.commit(owner, 3);
    let put = |key: &str, bytes: Bytes| rig.world.lock().unwrap().objects_mut().get_mut(key).unwrap().bytes = bytes;
    let take = |key: &str| rig.world.lock().unwrap().objects()[key].bytes.clone();
    let [third, fourth] = [3, 4].map(|seq| format!("job/{}", Key::Manifest(Seq(seq))));
    let (old, new) = (take(&third), take(&fourth));
    put(&fourth, old);
    let error = rig.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    put(&fourth, new);
    // The right number, but another put-id than the newest manifest lists.
    let store = rig.store(1);
    let key = Key::Manifest(Seq(3));
    let other = rig.on(1, async move {
        let (mut manifest, _) =
            Manifest::decode(&store.folder().read(&key, 1 << 20).await.unwrap().unwrap(), Seq(3)).unwrap();
        manifest.writer = "somebody else".into();
        manifest.encode(store.draw_put_id()).unwrap()
    });
    put(&third, other);
    let error = rig.claim(1, RestoreFrom::Checkpoint(Seq(3))).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("restorable=`2,4`"), "{error}");
}

#[test]
fn b12_the_last_attempt_is_refused_and_does_not_wrap() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let store = owner.store;
    rig.on(0, {
        let store = store.clone();
        async move {
            let (mut manifest, _) =
                Manifest::decode(&store.folder().read(&Key::Manifest(Seq(1)), 1 << 20).await.unwrap().unwrap(), Seq(1))
                    .unwrap();
            (manifest.seq, manifest.attempt) = (Seq(2), Attempt(u64::MAX));
            let put_id = store.draw_put_id();
            store.folder().put_new(&Key::Manifest(Seq(2)), put_id, manifest.encode(put_id).unwrap()).await.unwrap();
        }
    });
    assert_eq!(rig.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn b15_another_jobs_state_is_refused() {
    let rig = Rig::new();
    let owner = rig.claim(0, RestoreFrom::Newest).unwrap();
    let (owner, _) = rig.commit(owner, 1);
    // A claim of another job, as left by a copy into the wrong folder.
    rig.on(0, async move {
        let store = owner.store;
        let newest = ManifestLog::load(&store).await.unwrap().newest().unwrap().unwrap().clone();
        let mut manifest = newest.manifest.clone();
        (manifest.seq, manifest.attempt, manifest.job, manifest.kind) =
            (Seq(3), Attempt(2), JobId([9; 16]), ManifestKind::Claim);
        (manifest.parent, manifest.retained, manifest.objects) =
            (Some(newest.id), vec![newest.as_retained()], Vec::new());
        let put_id = store.draw_put_id();
        store.folder().put_new(&Key::Manifest(Seq(3)), put_id, manifest.encode(put_id).unwrap()).await.unwrap();
    });
    let error = rig.claim(1, RestoreFrom::Newest).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.message().contains("another job"), "{error}");
}
