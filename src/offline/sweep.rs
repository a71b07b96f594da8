//! Deleting unreachable objects of a job that is not running.

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

/// Returns the policy that retains the newest `retain` checkpoints; `None` for all live ones.
#[must_use]
pub fn policy(chain: &ManifestLog, retain: Option<u32>) -> RetentionPolicy {
    let live = chain.live().iter().filter(|manifest| manifest.kind == ManifestKind::Checkpoint).count();
    let checkpoints = retain.unwrap_or_else(|| u32::try_from(live).unwrap_or(u32::MAX));
    RetentionPolicy { checkpoints }
}

/// Returns a tool's claim request, which keeps the job's newest checkpoint and settings.
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

/// Deletes the objects that no live manifest reaches. Claims the job, which stops the process that runs it.
///
/// * `chain`: the chain of the job, which must exist.
///
/// # Errors
/// `Corrupt` if any live manifest is damaged, and then nothing is deleted; `Fenced` if another attempt takes over
/// meanwhile; `Denied` or `Unavailable` from the store. Failed deletes are in the result.
pub async fn sweep(
    store: &Store,
    chain: &ManifestLog,
    retain: Option<u32>,
) -> Result<Option<(Attempt, SweepPlan, Swept)>> {
    // Find unreadable manifests before the claim stops a running job.
    let dropped = preview(store, policy(chain, retain)).await?.dropped;
    let Some(newest) = chain.newest()? else { return Ok(None) };
    let claimed = claim(store, &request(newest, policy(chain, retain))).await?;
    let mut plan = plan(store, Some(claimed.attempt)).await?;
    plan.dropped = dropped;
    let swept = execute(store, &plan).await?;
    Ok(Some((claimed.attempt, plan, swept)))
}
