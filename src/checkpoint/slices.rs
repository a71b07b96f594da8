//! Subtask manifests outside the manifest: where they are too much for one object, they lie in packs of their own.

use std::sync::Arc;

use super::pipeline::{Acknowledgement, Pipeline};
use crate::error::Result;
use crate::id::Hash;
use crate::manifest::{INLINE_SUBTASKS_BYTES, ObjectRef, ObjectSlice};

impl Pipeline {
    /// Moves the subtask manifests out of the manifest if they weigh more than [`INLINE_SUBTASKS_BYTES`] together. Returns
    /// the objects that they now lie in.
    ///
    /// # Errors
    /// `Limit` if one of them is too long by itself; `Unavailable` or `Denied` from the store.
    pub(super) async fn slice_manifests(
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
            let mut load = self.new_load();
            // One manifest at least, however small a pack may be.
            while load.builder.is_empty() || load.builder.len() < self.settings.pack_bytes {
                let Some(acknowledgement) = rest.next() else { break };
                let bytes = acknowledgement.manifest.encode(self.max_parallelism)?;
                let (object, offset) = (load.id, load.builder.add_opaque(&bytes));
                let (length, hash) = (bytes.len() as u64, Hash::of(&bytes));
                acknowledgement.slice = Some(ObjectSlice { object, offset, length, hash });
            }
            let (object, _) = Arc::clone(self).upload(load).await?;
            objects.push(object);
        }
        Ok(objects)
    }
}
