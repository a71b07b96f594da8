//! Founding a job with a copy of a checkpoint from another place.
//!
//! Invariant: the manifest comes last; before it nothing is visible.

use crate::control::retention::Retention;
use crate::error::{Error, Result};
use crate::id::{ManifestId, Seq};
use crate::manifest::{AttemptMarker, Manifest, ManifestKind};
use crate::place::Store;
use crate::store::{Key, Put};

use super::commit::Proposal;

/// Founds a job whose chain begins with `manifest` under number 1, without a parent or retained manifests. The manifest
/// keeps its attempt, whose marker is created first: the next attempt takes a higher number.
///
/// * `manifest`: a checkpoint or savepoint whose objects are all durable here.
///
/// # Errors
/// `Config` if a job exists here; `Usage` or `Limit` if the manifest cannot be written; `Denied` or `Unavailable` from
/// the store: if the error may have been applied, the job may exist.
pub async fn found(store: &Store, manifest: Manifest) -> Result<ManifestId> {
    if manifest.kind == ManifestKind::Claim {
        return Err(Error::usage("a claim cannot found a job"));
    }
    let (attempt, job, created_at) = (manifest.attempt, manifest.job, manifest.created_at);
    let manifest = Manifest { seq: Seq(1), parent: None, ..manifest };
    let proposal = Proposal::new(store, manifest, Retention::default())?;
    let put_id = store.draw_put_id();
    let marker = AttemptMarker { attempt, job, created_at }.encode(put_id);
    let occupied = || Error::config("a job exists here already");
    if store.folder().put_new(&Key::Attempt(attempt), put_id, marker).await? == Put::Taken {
        return Err(occupied().with("object", Key::Attempt(attempt)));
    }
    match proposal.create(store).await? {
        Put::Created => Ok(proposal.entry().id),
        Put::Taken => Err(occupied()),
    }
}
