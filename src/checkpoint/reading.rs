//! Reading under a checkpoint whose job keeps running.
//!
//! Readers pin nothing. The owner of a running job drops checkpoints and deletes what only they reached, a few commits
//! later; a reader that misses an object looks at the chain again. If the checkpoint is still live, the object was lost:
//! damage. If not, the checkpoint was dropped: a reader of the newest continues with a newer one; a reader of this one
//! gets `NotFound`.

use super::manifest_log::{FOLLOWED_MAX, ManifestLog, RestoreFrom, StoredManifest};
use super::restore::resolve;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Seq;
use crate::place::Store;

/// Runs `read`, which reads what the checkpoint `seq` of the job in `store` refers to.
///
/// # Errors
/// What `read` returns, but `NotFound`, naming the restorable ones, in place of `Corrupt` if the checkpoint was dropped
/// meanwhile; `Denied` or `Unavailable` if that cannot be found out.
pub async fn under<T>(store: &Store, seq: Seq, read: impl Future<Output = Result<T>>) -> Result<T> {
    match read.await {
        Err(error) if error.kind() == ErrorKind::Corrupt => Err(damaged_or_dropped(store, seq, error).await),
        settled => settled,
    }
}

/// Returns `error`, met under the checkpoint `seq`, or that the checkpoint is not live any more.
async fn damaged_or_dropped(store: &Store, seq: Seq, error: Error) -> Error {
    match look_again(store, seq, &error).await {
        Ok(Some(dropped)) => dropped,
        Ok(None) => error,
        Err(unread) => {
            let unknown = Error::new(unread.kind(), "cannot find out whether a checkpoint was dropped or is damaged");
            unknown.with("checkpoint", seq).with("met", error.chain()).with_source(unread)
        }
    }
}

async fn look_again(store: &Store, seq: Seq, error: &Error) -> Result<Option<Error>> {
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

/// Reads under the checkpoint that [`RestoreFrom`] stands for. If that is dropped while it is read, and the newest was
/// wanted, reads again under the one that is the newest then, several times if need be:
///
/// ```text
/// loop { checkpoint or resolved -> read under it -> done, or follow(error) and begin anew }
/// ```
#[derive(Debug)]
pub struct Reader<'a> {
    store: &'a Store,
    chain: &'a mut ManifestLog,
    from: RestoreFrom,
    /// The checkpoint that is being read.
    seq: Option<Seq>,
    followed: u32,
}

impl<'a> Reader<'a> {
    /// Returns a reader that has read nothing.
    pub fn new(store: &'a Store, chain: &'a mut ManifestLog, from: RestoreFrom) -> Self {
        Self { store, chain, from, seq: None, followed: 0 }
    }

    /// Returns the chain as it was last seen.
    #[must_use]
    pub fn chain(&self) -> &ManifestLog {
        self.chain
    }

    /// Reads the checkpoint's manifest as it is stored.
    ///
    /// # Errors
    /// `NotFound` if it is not live, or there is none to go on from; `Corrupt` if it is damaged. Both name those that can
    /// be chosen.
    pub async fn checkpoint(&mut self) -> Result<StoredManifest> {
        let found = self.chain.resolve(self.store, self.from).await?;
        let missing = || Error::not_found("the job has no checkpoint to go on from: choose one by its id");
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

    /// To be called with the error of what was read under the checkpoint. Returns if there is a newer checkpoint to read
    /// in its place.
    ///
    /// # Errors
    /// As [`under`]; also if the newest was dropped each time before it had been read.
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
