//! Reading slices: subtask manifests and opaques. Those that lie side by side are read in one request.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::restore::read_checked;
use crate::error::{Error, Result};
use crate::id::{Hash, ObjectId};
use crate::manifest::ObjectSlice;
use crate::place::{READ_BYTES_MAX, Store};

/// Runs of slices read at a time.
const CONCURRENT_RUNS: usize = 16;

/// Slices of one object without gaps. Together they are at most [`READ_BYTES_MAX`] long, unless it is a single slice.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    object: ObjectId,
    range: Range<u64>,
    /// Each with its position in the caller's list.
    slices: Vec<(usize, ObjectSlice)>,
}

/// Returns what `accept` makes of each slice, in order. The bytes are verified.
///
/// # Errors
/// `Corrupt`, naming the object; `Unavailable` if the store does not answer; the errors of `accept`.
pub(super) async fn read<T>(
    store: &Store,
    slices: &[ObjectSlice],
    accept: impl Fn(&ObjectSlice, Bytes) -> Result<T>,
) -> Result<Vec<T>> {
    let reads: Vec<_> = runs(slices)?.into_iter().map(|run| run.read(store, &accept)).collect();
    let read: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT_RUNS).try_collect().await?;
    let mut accepted: Vec<_> = read.into_iter().flatten().collect();
    accepted.sort_unstable_by_key(|(at, _)| *at);
    Ok(accepted.into_iter().map(|(_, accepted)| accepted).collect())
}

/// Returns the runs of the slices.
fn runs(slices: &[ObjectSlice]) -> Result<Vec<Run>> {
    let mut sorted: Vec<_> = slices.iter().copied().enumerate().collect();
    sorted.sort_unstable_by_key(|(at, slice)| (slice.object, slice.offset, *at));
    let mut runs: Vec<Run> = Vec::new();
    for (at, slice) in sorted {
        let exceeds = || Error::corrupt("slice exceeds its object").with("object", slice.object);
        let end = slice.offset.checked_add(slice.length).ok_or_else(exceeds)?;
        match runs.last_mut() {
            Some(run)
                if run.object == slice.object
                    && slice.offset <= run.range.end
                    && end.max(run.range.end) - run.range.start <= READ_BYTES_MAX =>
            {
                run.range.end = run.range.end.max(end);
                run.slices.push((at, slice));
            }
            _ => runs.push(Run { object: slice.object, range: slice.offset..end, slices: vec![(at, slice)] }),
        }
    }
    Ok(runs)
}

impl Run {
    async fn read<T>(
        self,
        store: &Store,
        accept: &impl Fn(&ObjectSlice, Bytes) -> Result<T>,
    ) -> Result<Vec<(usize, T)>> {
        let read = read_checked(store, self.object, 0, std::slice::from_ref(&self.range), |read| {
            let bytes = read.into_iter().next().unwrap_or_default();
            self.slices.iter().map(|(at, slice)| Ok((*at, accept(slice, self.part(slice, &bytes)?)?))).collect()
        });
        read.await.map_err(|error| error.with("object", self.object))
    }

    /// Returns the bytes of one of its slices from those of the run, verified.
    fn part(&self, slice: &ObjectSlice, bytes: &Bytes) -> Result<Bytes> {
        let within = slice.offset.checked_sub(self.range.start).and_then(|start| usize::try_from(start).ok());
        let length = usize::try_from(slice.length).ok();
        let part = within.zip(length).and_then(|(start, length)| bytes.get(start..start.checked_add(length)?));
        let Some(part) = part.filter(|part| Hash::of(part) == slice.hash) else {
            return Err(Error::corrupt("hash of a slice differs").with("offset", slice.offset));
        };
        // A part of the run would keep all of it in memory.
        Ok(if self.slices.len() == 1 { bytes.clone() } else { Bytes::copy_from_slice(part) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Attempt;

    fn slice(object: u8, offset: u64, length: u64) -> ObjectSlice {
        let object = ObjectId { attempt: Attempt(1), random: [object; 16] };
        ObjectSlice { object, offset, length, hash: Hash::default() }
    }

    fn shown(slices: &[ObjectSlice]) -> Vec<(Range<u64>, Vec<usize>)> {
        let show = |run: Run| (run.range, run.slices.into_iter().map(|(at, _)| at).collect());
        runs(slices).unwrap().into_iter().map(show).collect()
    }

    #[test]
    fn neighbours_in_one_object_are_one_run_of_bounded_length() {
        let slices = [slice(1, 30, 10), slice(2, 40, 5), slice(1, 10, 20), slice(1, 41, 1)];
        assert_eq!(shown(&slices), [(10..40, vec![2, 0]), (41..42, vec![3]), (40..45, vec![1])]);
        let half = READ_BYTES_MAX / 2;
        let long = [slice(1, 0, half), slice(1, half, half), slice(1, 2 * half, 1), slice(2, 0, 3 * half)];
        assert_eq!(
            shown(&long),
            [(0..2 * half, vec![0, 1]), (2 * half..2 * half + 1, vec![2]), (0..3 * half, vec![3])]
        );
        let overlapping = [slice(1, 0, 10), slice(1, 0, 4), slice(1, 0, 0)];
        assert_eq!(shown(&overlapping), [(0..10, vec![0, 1, 2])]);
        assert!(runs(&[slice(1, u64::MAX, 2)]).is_err(), "hostile lengths are refused");
    }
}
