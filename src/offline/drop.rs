//! Dropping savepoints, and checkpoints, by their ids: what their user does not want any more, and those whose manifest is
//! damaged or gone, so that it keeps all else from being collected.

use std::collections::BTreeSet;

use super::sweep::{policy, request};
use crate::checkpoint::claim::{check_unwanted, claim_without};
use crate::checkpoint::manifest_log::{ManifestLog, RestoreFrom};
use crate::checkpoint::sweep::{SweepPlan, Swept, execute, plan, preview_without};
use crate::error::{Error, Result};
use crate::id::{Attempt, Seq};
use crate::place::Store;

/// What was dropped.
#[derive(Debug)]
pub struct Dropped {
    /// The attempt that dropped it.
    pub attempt: Attempt,
    /// What the sweep found and deleted afterwards, or why it could not: while another live manifest is unreadable, say.
    pub swept: Result<(SweepPlan, Swept)>,
}

/// Claims the job, which stops the process that runs it, without listing the savepoints or checkpoints `ids` any more, and deletes
/// what no live manifest reaches then. The manifests of `ids` are not read: they may be damaged or gone.
///
/// * `chain`: the job's, which exists.
///
/// # Errors
/// Before anybody is stopped: `NotFound` if one of them is not live, naming those that are; `Usage` if the job would go on
/// from one of them; `Corrupt` if the newest manifest or the checkpoint that the job continues from is damaged. `Fenced` if
/// another attempt takes over meanwhile; `Denied` or `Unavailable` from the store.
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

/// Finds out what [`drop_savepoints`] would make deletable; writes nothing.
///
/// # Errors
/// As [`drop_savepoints`], and `Corrupt` if any other live manifest is unreadable.
pub async fn preview_drop(store: &Store, chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Result<SweepPlan> {
    check(chain, ids)?;
    preview_without(store, policy(chain, None), ids).await
}

/// Refuses ids that are not live, and the one that the job continues from.
fn check(chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Result<()> {
    ids.iter().try_for_each(|id| chain.select(RestoreFrom::Checkpoint(*id)).map(|_live| ()))?;
    check_unwanted(ids, chain.select(RestoreFrom::Newest)?.map(|continued| continued.id))
}
