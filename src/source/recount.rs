//! Reading a split again, to compare it with what checkpoints say of it.

use super::split::{Source, SplitReader as _, StartAt, next_record};
use super::state::StoredSplit;
use crate::error::{Error, Result};
use crate::manifest::RecordSum;

/// What a split has, as far as a checkpoint has read it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recounted {
    /// Its records up to the checkpoint's position, or all of them if there are fewer.
    pub found: RecordSum,
    /// Whether they are the records that the checkpoint counts: as many, with the same hashes; without hashes, up to the same position.
    pub is_same: bool,
}

/// Reads a split again and compares it with what checkpoints say of it; returns one result for each.
///
/// * `stored`: the split in successive checkpoints, oldest first.
/// * `since_first`: read from the first of them on, and trust what it counts. Else from the split's beginning, which is right only if
///   the job started there and nothing has been cut off since.
///
/// # Errors
/// `Usage` if the checkpoints are of several splits, or count less than one before; others as [`Source::open`] and
/// [`SplitReader::advance`](super::SplitReader::advance).
pub async fn recount<S: Source>(source: &S, stored: &[StoredSplit], since_first: bool) -> Result<Vec<Recounted>> {
    let Some(first) = stored.first() else { return Ok(Vec::new()) };
    if stored.iter().any(|other| other.id != first.id) || !stored.is_sorted_by_key(|split| split.records) {
        return Err(Error::usage("checkpoints do not follow each other").with("split", &first.id));
    }
    let from = if since_first { StartAt::Position(&first.position) } else { StartAt::Beginning };
    let mut reader = source.open(&first.id, from).await?;
    let mut sum = match since_first {
        true => RecordSum { records: first.records, hash: first.hash.unwrap_or_default() },
        false => RecordSum::default(),
    };
    let mut recounted = Vec::new();
    for expected in stored {
        while sum.records < expected.records && next_record(&mut reader).await? {
            sum.add_hash(reader.hash().unwrap_or_default());
        }
        let is_same = sum.records == expected.records
            && match expected.hash {
                Some(hash) => hash == sum.hash,
                None => reader.position()? == expected.position,
            };
        recounted.push(Recounted { found: sum, is_same });
    }
    Ok(recounted)
}
