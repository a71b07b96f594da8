//! Subtask manifests that are too much for one object are placed in packs of their own.

use std::sync::Arc;

use super::Pipeline;
use crate::checkpoint::acknowledgement::Acknowledgement;
use crate::error::Result;
use crate::id::Hash;
use crate::manifest::{INLINE_SUBTASKS_BYTES, ObjectRef, ObjectSlice};

impl Pipeline {
    /// Uploads the subtask manifests if they weigh more than [`INLINE_SUBTASKS_BYTES`] together. Returns the objects that
    /// they lie in.
    ///
    /// # Errors
    /// `Limit` if one of them is too long by itself; `Unavailable` or `Denied` from the store.
    pub(super) async fn upload_manifests(
        self: &Arc<Self>,
        acknowledgements: &mut [Acknowledgement],
    ) -> Result<Vec<ObjectRef>> {
        let weights = acknowledgements.iter().map(|acknowledgement| acknowledgement.manifest.weight());
        if weights.fold(0, usize::saturating_add) <= INLINE_SUBTASKS_BYTES {
            return Ok(Vec::new());
        }
        let mut objects = Vec::new();
        let mut rest = acknowledgements.iter_mut().peekable();
        while rest.peek().is_some() {
            let mut pack = self.open_pack();
            // A pack holds one manifest at least, however small packs may be.
            while pack.builder.is_empty() || pack.builder.len() < self.settings.pack_bytes {
                let Some(acknowledgement) = rest.next() else { break };
                let bytes = acknowledgement.manifest.encode(self.max_parallelism)?;
                let (object, offset) = (pack.id, pack.builder.add_opaque(&bytes));
                let (length, hash) = (bytes.len() as u64, Hash::of(&bytes));
                acknowledgement.slice = Some(ObjectSlice { object, offset, length, hash });
            }
            let (object, _) = Arc::clone(self).upload(pack).await?;
            objects.push(object);
        }
        Ok(objects)
    }
}
