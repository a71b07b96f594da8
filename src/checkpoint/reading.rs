//! Reading a checkpoint while its job keeps running.
//!
//! Readers pin nothing. The owner of a running job drops checkpoints, and a few commits later deletes the objects that
//! only they reached. A reader that misses an object loads the chain again. If the checkpoint is still live, the object
//! was lost: damage. If not, the checkpoint was dropped: a reader of the newest checkpoint moves on to a newer one; a
//! reader of a chosen one gets `NotFound`.

use super::manifest_log::{FOLLOWED_MAX, ManifestLog, RestoreFrom, StoredManifest};
use super::restore::resolve;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Seq;
use crate::place::Store;

/// Runs `read`, which reads objects of the checkpoint `seq` of the job in `store`.
///
/// # Errors
/// The error of `read`. If that is `Corrupt` and the checkpoint was dropped meanwhile: `NotFound`, naming the
/// restorable checkpoints. `Denied` or `Unavailable` if the store does not show whether it was dropped.
pub async fn under<T>(store: &Store, seq: Seq, read: impl Future<Output = Result<T>>) -> Result<T> {
    match read.await {
        Err(error) if error.kind() == ErrorKind::Corrupt => Err(damaged_or_dropped(store, seq, error).await),
        settled => settled,
    }
}

/// Returns `error`, met while reading the checkpoint `seq`, or `NotFound` if the checkpoint is no longer live.
async fn damaged_or_dropped(store: &Store, seq: Seq, error: Error) -> Error {
    match recheck_liveness(store, seq, &error).await {
        Ok(Some(dropped)) => dropped,
        Ok(None) => error,
        Err(unread) => {
            let unknown = Error::new(unread.kind(), "cannot find out whether a checkpoint was dropped or is damaged");
            unknown.with("checkpoint", seq).with("met", error.chain()).with_source(unread)
        }
    }
}

async fn recheck_liveness(store: &Store, seq: Seq, error: &Error) -> Result<Option<Error>> {
    let mut chain = ManifestLog::load(store).await?;
    for _ in 0..FOLLOWED_MAX {
        // A damaged newest manifest cannot show that a checkpoint was dropped.
        if chain.newest().is_err() {
            return Ok(None);
        }
        // If the chain ends before the checkpoint, the listing lags.
        if chain.end() >= seq && !chain.lists(seq) {
            return Ok(Some(chain.dropped(seq, error)));
        }
        if !chain.refresh(store).await? {
            break;
        }
    }
    Ok(None)
}

/// Reads the checkpoint that [`RestoreFrom`] selects. If the newest was selected and is dropped during the read, moves
/// on to the checkpoint that is the newest then, several times if need be:
///
/// ```text
/// loop { checkpoint or resolved -> read its objects -> done, or follow(error) and start over }
/// ```
#[derive(Debug)]
pub struct Reader<'a> {
    store: &'a Store,
    chain: &'a mut ManifestLog,
    from: RestoreFrom,
    /// The checkpoint being read.
    seq: Option<Seq>,
    followed: u32,
}

impl<'a> Reader<'a> {
    /// Returns a reader that has read nothing.
    pub fn new(store: &'a Store, chain: &'a mut ManifestLog, from: RestoreFrom) -> Self {
        Self { store, chain, from, seq: None, followed: 0 }
    }

    /// Returns the chain as last loaded.
    #[must_use]
    pub fn chain(&self) -> &ManifestLog {
        self.chain
    }

    /// Reads the checkpoint's manifest as it is stored.
    ///
    /// # Errors
    /// `NotFound` if it is not live, or the job has none; `Corrupt` if it is damaged. Both name the checkpoints to
    /// choose from.
    pub async fn checkpoint(&mut self) -> Result<StoredManifest> {
        let found = self.chain.resolve(self.store, self.from).await?;
        let missing = || Error::not_found("the job has no checkpoint to restore: choose one by its id");
        let found = found.ok_or_else(missing)?;
        self.seq = Some(found.id.seq);
        Ok(found)
    }

    /// As [`Reader::checkpoint`], with all subtask manifests and opaques inline.
    ///
    /// # Errors
    /// As [`Reader::checkpoint`] and [`Reader::follow`].
    pub async fn resolved(&mut self) -> Result<StoredManifest> {
        loop {
            let StoredManifest { id, hash, manifest } = self.checkpoint().await?;
            match resolve(self.store, manifest).await {
                Ok(manifest) => return Ok(StoredManifest { id, hash, manifest }),
                Err(error) => self.follow(error).await?,
            }
        }
    }

    /// Moves on to a newer checkpoint after a read of the current one failed with `error`.
    ///
    /// # Errors
    /// If there is no newer checkpoint to move on to, or too many were dropped before they had been read: `error`, or
    /// `NotFound` if the checkpoint was dropped, naming the restorable ones. `Denied` or `Unavailable` if the store does not
    /// show whether it was dropped.
    pub async fn follow(&mut self, error: Error) -> Result<()> {
        let Some(seq) = self.seq else { return Err(error) };
        let error = match error.kind() {
            ErrorKind::Corrupt => damaged_or_dropped(self.store, seq, error).await,
            _ => error,
        };
        let may_follow = error.kind() == ErrorKind::NotFound && self.from == RestoreFrom::Newest;
        if !may_follow
            || self.followed == FOLLOWED_MAX
            || !self.chain.refresh(self.store).await?
            || self.chain.lists(seq)
        {
            return Err(error);
        }
        self.followed += 1;
        tracing::info!(checkpoint = seq.0, "checkpoint was dropped while it was read, continuing with a newer one");
        Ok(())
    }
}
