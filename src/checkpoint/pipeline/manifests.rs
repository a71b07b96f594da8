//! Placing subtask manifests in packs when they are too large for the job's manifest.

use std::sync::Arc;

use super::Pipeline;
use crate::checkpoint::acknowledgement::Acknowledgement;
use crate::error::Result;
use crate::id::Hash;
use crate::manifest::{INLINE_SUBTASKS_BYTES, ObjectRef, ObjectSlice};

impl Pipeline {
    /// Uploads the subtask manifests if their total length exceeds [`INLINE_SUBTASKS_BYTES`]. Returns the new objects.
    ///
    /// # Errors
    /// `Limit` if a single one is too long; `Unavailable` or `Denied` from the store.
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
            // A pack holds at least one manifest, however small `pack_bytes` is.
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
