//! Dropping savepoints and checkpoints by id: unwanted ones, and those whose damaged or missing manifest blocks the
//! collection of garbage.

use std::collections::BTreeSet;

use super::sweep::{policy, request};
use crate::checkpoint::claim::{check_unwanted, claim_without};
use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom};
use crate::checkpoint::sweep::{SweepPlan, Swept, execute, plan, preview_without};
use crate::error::{Error, Result};
use crate::id::{Attempt, Seq};
use crate::place::Store;

/// The outcome of [`drop_savepoints`].
#[derive(Debug)]
pub struct Dropped {
    /// The attempt that dropped it.
    pub attempt: Attempt,
    /// The sweep that followed and its deletes, or its error, for example because another live manifest is unreadable.
    pub swept: Result<(SweepPlan, Swept)>,
}

/// Drops the savepoints or checkpoints `ids` and deletes the objects that no live manifest reaches any more. Claims the
/// job, which stops the process that runs it. The manifests of `ids` are not read and may be damaged or gone.
///
/// * `chain`: the chain of the job, which must exist.
///
/// # Errors
/// Before the claim: `NotFound` if an id is not live, naming the live ones; `Usage` if the job would restore one of
/// them; `Corrupt` if the newest manifest or the checkpoint to restore is damaged. `Fenced` if another attempt takes
/// over meanwhile; `Denied` or `Unavailable` from the store.
pub async fn drop_savepoints(store: &Store, chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Result<Dropped> {
    check(chain, ids)?;
    let newest = chain.newest()?.ok_or_else(|| Error::not_found("the job has no manifest"))?;
    let claimed = claim_without(store, &request(newest, policy(chain, None)), ids).await?;
    let sweep = async {
        let plan = plan(store, Some(claimed.attempt)).await?;
        let swept = execute(store, &plan).await?;
        Ok((plan, swept))
    };
    Ok(Dropped { attempt: claimed.attempt, swept: sweep.await })
}

/// Returns the sweep that [`drop_savepoints`] would make. Writes nothing.
///
/// # Errors
/// As [`drop_savepoints`], and `Corrupt` if any other live manifest is unreadable.
pub async fn preview_drop(store: &Store, chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Result<SweepPlan> {
    check(chain, ids)?;
    preview_without(store, policy(chain, None), ids).await
}

/// Refuses ids that are not live, and the checkpoint that the job continues.
fn check(chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Result<()> {
    ids.iter().try_for_each(|id| chain.select(RestoreFrom::Checkpoint(*id)).map(|_live| ()))?;
    check_unwanted(ids, chain.select(RestoreFrom::Newest)?.map(|continued| continued.id))
}
