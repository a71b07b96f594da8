//! Encoding: a sealed part's rows, sorted and folded group by group, as a segment.

use super::batch::{Fold, RowBatch};
use super::writer::{EncodeOptions, SegmentWriter};
use super::{Encoded, SealedPart, SegmentKind};
use crate::error::Result;

/// Returns the segment of a sealed part. Equal rows give equal bytes, in whatever order they were written.
///
/// # Errors
/// `Usage` for a `Foreign` part; `Limit` if a row or a group is too large; whatever the rows' source and
/// rules return.
///
/// # Cost
/// Memory for the rows of one group, beside the segment.
pub fn encode(part: &SealedPart, options: EncodeOptions) -> Result<Encoded> {
    let mut writer = SegmentWriter::new(part.kind, part.groups.clone(), options)?;
    let fold = if part.kind == SegmentKind::Base { Fold::Base } else { Fold::Delta };
    let mut batch = RowBatch::new();
    for group in part.groups.intersection(part.rows.groups()).iter() {
        batch.clear();
        part.rows.append_group(group, &mut batch)?;
        batch.fold(fold, part.rules.of(group))?;
        batch.iter().try_for_each(|row| writer.push(group, &row))?;
    }
    writer.finish()
}
