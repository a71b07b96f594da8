//! The protocol's requirements on any store.

use std::sync::Arc;
use std::time::Duration;

use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::store::{Key, KeyClass, Put};
use alluvium::manifest::{ObjectId, PutId};
use alluvium::{Attempt, ErrorKind, Seq, SharedRuntime, Store, StoreSettings, TokioRuntime};
use bytes::Bytes;
use futures_util::future::join_all;
use object_store::ObjectStore;
use object_store::path::Path;

pub fn runtime() -> SharedRuntime {
    Arc::new(TokioRuntime::current())
}

/// Settings with few and quick retries.
pub fn settings() -> StoreSettings {
    let quick = Duration::from_millis(1);
    StoreSettings::default().with(|it| {
        it.tries_max = 2;
        it.backoff_first = quick;
        it.backoff_max = quick;
    })
}

/// Returns the place of job `job` below `prefix`.
pub fn store(objects: Arc<dyn ObjectStore>, prefix: &Path, settings: StoreSettings) -> Store {
    Store::new(objects, prefix, &"job".parse().unwrap(), runtime(), settings)
}

/// Returns an object and its put-id, both made from `byte`.
pub fn object(byte: u8) -> (PutId, Bytes) {
    let put_id = PutId([byte; 16]);
    (put_id, envelope::encode(ObjectKind::Pack, put_id, &[byte; 100]))
}

pub fn data(byte: u8) -> Key {
    Key::Data(ObjectId { attempt: Attempt(1), random: [byte; 16] })
}

/// Checks all requirements.
pub async fn check(store: Store) {
    store.probe().await.unwrap();
    assert_eq!(store.folder().list(KeyClass::Probe).await.unwrap().entries, [], "the probe cleans up");
    let before = store.requests();
    let (id, bytes) = object(1);
    assert_eq!(store.folder().read(&data(1), 1000).await.unwrap(), None);
    assert_eq!(store.folder().put_new(&data(1), id, bytes.clone()).await.unwrap(), Put::Created);
    let (other, others) = object(2);
    assert_eq!(store.folder().put_new(&data(1), other, others).await.unwrap(), Put::Taken);
    assert_eq!(
        store.folder().put_new(&data(1), id, bytes.clone()).await.unwrap(),
        Put::Created,
        "a repetition is ours"
    );
    assert_eq!(store.folder().read(&data(1), 1000).await.unwrap(), Some(bytes.clone()));
    assert_eq!(store.folder().read_range(&data(1), 3..50).await.unwrap(), bytes.slice(3..50));
    assert_eq!(store.folder().read_range(&data(1), 50..50).await.unwrap(), Bytes::new());
    assert_eq!(store.folder().read(&data(1), 10).await.unwrap_err().kind(), ErrorKind::Corrupt, "longer than its cap");
    let length = bytes.len() as u64;
    for beyond in [length - 1..length + 1, length..length + 1, length + 5..length + 9] {
        let error = store.folder().read_range(&data(1), beyond.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{beyond:?}: {error}");
    }
    let error = store.folder().read_range(&data(9), 0..1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains(&data(9).to_string()), "{error}");
    assert_eq!(store.folder().list(KeyClass::Data).await.unwrap().entries, [(data(1), length)]);
    assert_eq!(store.folder().list(KeyClass::Manifest).await.unwrap().entries, []);
    store.folder().delete(&data(1)).await.unwrap();
    store.folder().delete(&data(1)).await.unwrap();
    assert_eq!(store.folder().list(KeyClass::Data).await.unwrap().entries, []);
    let after = store.requests();
    assert_eq!((after.put - before.put, after.list - before.list, after.delete - before.delete), (3, 3, 2));
    assert_eq!(after.put_bytes - before.put_bytes, 3 * length);
}

/// Eight concurrent creates of the same object: exactly one wins, all see the winner, and the winner's object stays.
pub async fn race(store: &Store) {
    for round in 0..10 {
        let key = Key::Manifest(Seq(round));
        let puts = (1..=8).map(|byte| {
            let (put_id, bytes) = object(byte);
            store.folder().put_new(&key, put_id, bytes)
        });
        let puts = join_all(puts).await.into_iter().map(Result::unwrap);
        let winners: Vec<usize> = puts.enumerate().filter(|(_, put)| *put == Put::Created).map(|(at, _)| at).collect();
        let [winner] = winners[..] else { panic!("round {round}: {winners:?} have the object") };
        let (_, bytes) = object(u8::try_from(winner + 1).unwrap());
        assert_eq!(store.folder().read(&key, 1000).await.unwrap(), Some(bytes), "round {round}");
    }
}

/// Asserts that a listing of `count` objects is complete and in order, over any number of pages.
pub async fn list_many(store: &Store, count: u64) {
    for start in (0..count).step_by(16) {
        let puts = (start..count.min(start + 16)).map(async |seq| {
            let (put_id, bytes) = object(1);
            store.folder().put_new(&Key::Manifest(Seq(seq)), put_id, bytes).await.unwrap()
        });
        join_all(puts).await;
    }
    let listing = store.folder().list(KeyClass::Manifest).await.unwrap();
    let keys: Vec<Key> = listing.entries.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, (0..count).map(|seq| Key::Manifest(Seq(seq))).collect::<Vec<_>>());
}
