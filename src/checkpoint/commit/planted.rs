//! The bug planted by `Canary::DeleteAfterUnknown`.

use super::Committer;
use crate::checkpoint::sweep;
use crate::error::Error;
use crate::id::ObjectId;
use crate::store::Key;

impl Committer {
    /// Deletes the pending manifest's new objects, although a commit with an unknown outcome may have been applied.
    #[cold]
    pub(super) async fn delete_pending(&mut self, error: Error) -> Error {
        let objects = self.pending.take().map(|proposal| proposal.objects).unwrap_or_default();
        let new = |object: &ObjectId| !self.ledger.protects(object);
        sweep::delete_all(&self.store, objects.into_iter().filter(new).map(Key::Data).collect()).await;
        error
    }
}
