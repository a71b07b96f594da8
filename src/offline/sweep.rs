//! Deleting what no live manifest reaches, when no job does it itself.

use crate::checkpoint::claim::{ClaimRequest, claim};
use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom, StoredManifest};
use crate::checkpoint::sweep::{SweepPlan, Swept, execute, plan};
use crate::control::retention::RetentionPolicy;
use crate::error::Result;
use crate::id::Attempt;
use crate::job::WRITER;
use crate::manifest::ManifestKind;
use crate::place::Store;

pub use crate::checkpoint::sweep::preview;

/// Returns the policy that keeps the newest `retain` checkpoints or, if not set, all that live now.
#[must_use]
pub fn policy(chain: &ManifestLog, retain: Option<u32>) -> RetentionPolicy {
    let live = chain.live().iter().filter(|manifest| manifest.kind == ManifestKind::Checkpoint).count();
    let checkpoints = retain.unwrap_or_else(|| u32::try_from(live).unwrap_or(u32::MAX));
    RetentionPolicy { checkpoints }
}

/// Returns what a tool claims that continues from where the job stands.
pub(super) fn request(newest: &StoredManifest, retention: RetentionPolicy) -> ClaimRequest {
    ClaimRequest {
        from: RestoreFrom::Newest,
        partitioner: newest.manifest.partitioner,
        max_parallelism: newest.manifest.max_parallelism,
        retention,
        writer: WRITER.to_owned(),
        program: newest.manifest.program.clone(),
        operators: None,
    }
}

/// Claims the job, which stops whoever runs it, and deletes what no live manifest reaches.
///
/// * `chain`: the job's, which exists.
///
/// # Errors
/// `Corrupt` if any live manifest is damaged: nothing is deleted then; `Fenced` if another attempt takes over
/// meanwhile; `Denied` or `Unavailable` from the store. Deletes that fail are in the result.
pub async fn sweep(
    store: &Store,
    chain: &ManifestLog,
    retain: Option<u32>,
) -> Result<Option<(Attempt, SweepPlan, Swept)>> {
    // Unreadable manifests are found before anybody is stopped.
    let dropped = preview(store, policy(chain, retain)).await?.dropped;
    let Some(newest) = chain.newest()? else { return Ok(None) };
    let claimed = claim(store, &request(newest, policy(chain, retain))).await?;
    let mut plan = plan(store, Some(claimed.attempt)).await?;
    plan.dropped = dropped;
    let swept = execute(store, &plan).await?;
    Ok(Some((claimed.attempt, plan, swept)))
}
