//! A self-contained copy of a checkpoint at another place.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Progress;
use crate::canary::{self, Canary};
use crate::checkpoint::chain::StoredManifest;
use crate::checkpoint::found::found;
use crate::error::{Error, Result};
use crate::id::{Hash, ManifestId};
use crate::job::WRITER;
use crate::manifest::{Layout, Manifest, ManifestKind, ObjectRef};
use crate::segment::sum;
use crate::store::{Key, KeyClass, Put, Store};

/// Objects copied at a time, each held whole.
const CONCURRENT_OBJECTS: usize = 2;

/// Copies a checkpoint to `to` as a savepoint, byte for byte: a job that goes on from it, verifies and lists there
/// needs nothing of `from`.
///
/// The manifest is written last: a copy that was cut short holds objects that nothing refers to.
///
/// # Errors
/// `Config` if anything stands at `to`; `Corrupt` if an object is not what the checkpoint lists; `Version` if one is
/// not stored whole; `Denied` or `Unavailable` from the stores.
pub async fn savepoint(
    from: &Store,
    checkpoint: &StoredManifest,
    to: &Store,
    progress: Progress<'_>,
) -> Result<ManifestId> {
    refuse_occupied(to).await?;
    let objects = &checkpoint.manifest.objects;
    let total = sum(objects.iter().map(|object| object.bytes));
    let mut done = 0u64;
    progress(done, total);
    let mut copies =
        std::pin::pin!(stream::iter(objects.clone()).map(|object| copy(from, to, object)).buffered(CONCURRENT_OBJECTS));
    while let Some(bytes) = copies.try_next().await? {
        done = done.saturating_add(bytes);
        progress(done, total);
    }
    let manifest = Manifest {
        kind: ManifestKind::Savepoint,
        created_at: to.runtime().now(),
        writer: WRITER.to_owned(),
        ..checkpoint.manifest.clone()
    };
    found(to, manifest).await
}

/// Refuses a place where anything stands, a copy that was cut short included.
///
/// # Errors
/// `Config`, naming what stands there; `Denied` or `Unavailable` from the store.
pub(super) async fn refuse_occupied(to: &Store) -> Result<()> {
    for class in [KeyClass::Manifest, KeyClass::Attempt, KeyClass::Data] {
        let listing = to.list(class).await?;
        let found = listing.entries.first().map(|(key, _)| key.to_string());
        if let Some(found) = found.or_else(|| (listing.foreign > 0).then(|| "foreign files".to_owned())) {
            let error = Error::config("something stands at the target already: choose another place or job name");
            return Err(error.with("found", found));
        }
    }
    Ok(())
}

async fn copy(from: &Store, to: &Store, object: ObjectRef) -> Result<u64> {
    if object.layout != Layout::Whole {
        return Err(Error::version("object is in shards, which this build cannot copy").with("object", object.id));
    }
    let key = Key::Data(object.id);
    let bytes = read_verified(from, &key, &object).await.map_err(|error| error.with("object", key))?;
    match to.put_new(&key, object.put_id, bytes).await? {
        Put::Created => Ok(object.bytes),
        Put::Taken => Err(Error::config("somebody else writes to the target").with("object", key)),
    }
}

async fn read_verified(from: &Store, key: &Key, object: &ObjectRef) -> Result<Bytes> {
    let bytes = from.read(key, object.bytes).await?;
    let bytes = bytes.ok_or_else(|| Error::corrupt("object of a committed manifest is missing"))?;
    let (expected, found) = (object.hash, Hash::of(&bytes));
    if expected != found && !canary::on(Canary::TrustCopy) {
        return Err(Error::corrupt("object has another hash").with("expected", expected).with("found", found));
    }
    Ok(bytes)
}
