//! Reading the rows of one key: of each segment, the index and the blocks that may have them, verified before use.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::restore::{Content, Opened, SegmentReader, of_segment};
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::place::Store;
use crate::row::{Narrowed, RowSource, Stack};
use crate::segment::{SegmentIndex, SegmentRef, SegmentRows};

/// Segments read at a time.
const CONCURRENT_SEGMENTS: usize = 8;

/// Segments whose indexes were read and verified. The rows of single keys can be read from them.
#[derive(Debug)]
pub(crate) struct KeyReader {
    segments: SegmentReader,
}

impl KeyReader {
    /// Reads the indexes of `segments`, oldest first; short segments are read whole.
    ///
    /// # Errors
    /// As [`SegmentReader::open`].
    pub(crate) async fn open(store: &Store, segments: &[SegmentRef]) -> Result<Self> {
        Ok(Self { segments: SegmentReader::open(store, segments).await? })
    }

    /// Returns the rows of `key` in `table`, oldest first, among rows of other keys of `group`, which may be incomplete: take
    /// only those of the key after folding.
    ///
    /// # Errors
    /// `Corrupt`, naming the object; `Unavailable` if the store does not answer.
    ///
    /// # Cost
    /// A block or two of each segment, or all blocks of the group in a segment without first places.
    pub(crate) async fn fetch(&self, group: KeyGroup, table: TableId, key: &[u8]) -> Result<Arc<dyn RowSource>> {
        let SegmentReader { store, segments, .. } = &self.segments;
        let fetches = segments.iter().filter(|opened| opened.segment.groups.contains(group)).map(async |opened| {
            let rows = match &opened.content {
                Content::Rows(rows, _) => Arc::clone(rows),
                Content::Index(index) => {
                    let rows = read_key(store, opened, index, (group, table, key)).await;
                    Arc::new(rows.map_err(|error| of_segment(error, &opened.segment))?)
                }
            };
            let narrowed: Arc<dyn RowSource> = Arc::new(Narrowed { groups: of(group), rows });
            Ok::<_, Error>(narrowed)
        });
        let sources: Vec<_> = stream::iter(fetches).buffered(CONCURRENT_SEGMENTS).try_collect().await?;
        Ok(Arc::new(Stack::new(sources)))
    }
}

async fn read_key(
    store: &Store,
    opened: &Opened,
    index: &SegmentIndex,
    (group, table, key): (KeyGroup, TableId, &[u8]),
) -> Result<SegmentRows> {
    let blocks = index.blocks_of_key(group, table, key)?;
    let rows = |ranges| SegmentRows::of_blocks(index, &of(group), blocks.clone(), ranges);
    opened.read_blocks(store, blocks.iter().copied(), rows).await
}

fn of(group: KeyGroup) -> KeyGroupSet {
    std::iter::once(group).collect()
}
