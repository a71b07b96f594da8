//! Copying a checkpoint to another place.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{ReportProgress, reader};
use crate::canary::{self, Canary};
use crate::checkpoint::found::found;
use crate::checkpoint::manifest_log::{ManifestLog, StoredManifest};
use crate::checkpoint::reading::under;
use crate::envelope::Object;
use crate::error::{Error, Result};
use crate::id::{Hash, ManifestId, ObjectId, Seq};
use crate::job::WRITER;
use crate::manifest::{Manifest, ManifestKind, ObjectRef};
use crate::place::pack::Packed;
use crate::place::{DataObjects, Store, check_layout};
use crate::segment::sum;
use crate::store::KeyClass;

/// Objects copied at a time, each held whole.
const CONCURRENT_OBJECTS: usize = 2;

/// Copies a checkpoint to `to` as a self-contained savepoint, byte for byte: a job at `to` needs nothing of `from`.
///
/// The manifest is written last: an interrupted copy leaves only unreferenced objects.
///
/// # Errors
/// `Config` if `to` is not empty; `NotFound` if the checkpoint was dropped before it was copied; `Corrupt` if an object
/// differs from the checkpoint's description; `Version` if one is not stored whole; `Denied` or `Unavailable` from the
/// stores.
pub async fn savepoint(
    from: &Store,
    checkpoint: &StoredManifest,
    to: &Store,
    progress: ReportProgress<'_>,
) -> Result<ManifestId> {
    refuse_occupied(to).await?;
    under(from, checkpoint.id.seq, write(from, checkpoint, to, &mut BTreeSet::new(), progress)).await
}

/// As [`savepoint`], for the checkpoint with this id or, without an id, the newest. If the newest is dropped before it
/// is copied, copies a newer one; objects of the dropped one may stay at `to` until a job there sweeps them. Returns
/// the checkpoint that was copied, and the copy.
///
/// # Errors
/// As [`savepoint`].
pub async fn savepoint_of(
    from: &Store,
    chain: &mut ManifestLog,
    id: Option<Seq>,
    to: &Store,
    progress: ReportProgress<'_>,
) -> Result<(Seq, ManifestId)> {
    refuse_occupied(to).await?;
    let mut copied = BTreeSet::new();
    let mut reader = reader(from, chain, id);
    loop {
        let checkpoint = reader.checkpoint().await?;
        match write(from, &checkpoint, to, &mut copied, progress).await {
            Ok(copy) => return Ok((checkpoint.id.seq, copy)),
            Err(error) => reader.follow(error).await?,
        }
    }
}

/// Copies the objects that are not in `copied`, then the manifest.
async fn write(
    from: &Store,
    checkpoint: &StoredManifest,
    to: &Store,
    copied: &mut BTreeSet<ObjectId>,
    progress: ReportProgress<'_>,
) -> Result<ManifestId> {
    let objects = &checkpoint.manifest.objects;
    let total = sum(objects.iter().map(|object| object.bytes));
    let (there, missing): (Vec<_>, Vec<_>) = objects.iter().cloned().partition(|object| copied.contains(&object.id));
    let mut done = sum(there.iter().map(|object| object.bytes));
    progress(done, total);
    let mut copies =
        std::pin::pin!(stream::iter(missing).map(|object| copy(from, to, object)).buffered(CONCURRENT_OBJECTS));
    while let Some(object) = copies.try_next().await? {
        copied.insert(object.id);
        done = done.saturating_add(object.bytes);
        progress(done, total);
    }
    let mut manifest = Manifest {
        kind: ManifestKind::Savepoint,
        created_at: to.runtime().now(),
        writer: WRITER.to_owned(),
        ..checkpoint.manifest.clone()
    };
    manifest.mark_copied()?;
    found(to, manifest).await
}

/// Refuses a target that is not empty, for example after an interrupted copy.
///
/// # Errors
/// `Config`, naming an object at the target; `Denied` or `Unavailable` from the store.
pub(super) async fn refuse_occupied(to: &Store) -> Result<()> {
    for class in [KeyClass::Manifest, KeyClass::Attempt, KeyClass::Data] {
        let listing = to.folder().list(class).await?;
        let found = listing.entries.first().map(|(key, _)| key.to_string());
        if let Some(found) = found.or_else(|| (listing.foreign > 0).then(|| "foreign files".to_owned())) {
            let error = Error::config("target is not empty: choose another place or job name");
            return Err(error.with("found", found));
        }
    }
    Ok(())
}

async fn copy(from: &Store, to: &Store, object: ObjectRef) -> Result<ObjectRef> {
    check_layout(&object)?;
    let name = DataObjects::name(object.id);
    let bytes = read_verified(from, &object).await.map_err(|error| error.with("object", &name))?;
    let whole = Object { length: bytes.len() as u64, hash: object.hash, pieces: vec![bytes] };
    let pack = Packed { id: object.id, put_id: object.put_id, object: whole };
    match to.data().put(pack).await? {
        Some(_) => Ok(object),
        None => Err(Error::config("another process writes to the target").with("object", name)),
    }
}

async fn read_verified(from: &Store, object: &ObjectRef) -> Result<Bytes> {
    let bytes = from.data().read_whole(object.id, object.bytes).await?;
    let bytes = bytes.ok_or_else(|| Error::corrupt("object of a committed manifest is missing"))?;
    let (expected, found) = (object.hash, Hash::of(&bytes));
    if expected != found && !canary::on(Canary::TrustCopy) {
        return Err(Error::corrupt("object has another hash").with("expected", expected).with("found", found));
    }
    Ok(bytes)
}
