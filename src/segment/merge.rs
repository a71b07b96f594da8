//! Merging: the rows of a key group, however many, folded in batches of bounded size.
//!
//! Rows that stand in sorted runs are merged run by run, block by block. All places below the least of the places that
//! the unfinished runs were read up to are complete: their rows make a batch, oldest run first, and the fold is that of
//! [`RowBatch`]. Rows that are not sorted become sorted runs first, if they are too many for one batch.
//!
//! Invariants: the rows of one place are in one batch; batches ascend; clears are kept as long as they can cover rows that
//! are to come.

use super::RowSource;
use super::batch::{Fold, RowBatch};
use super::row::{Op, PlaceBuf, RowKey};
use super::rules::Rules;
use super::run::{Run, Spare};
use crate::error::Result;
use crate::key_group::KeyGroup;

/// What a fold holds at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Sorted rows of more bytes are merged; fewer are appended and sorted, which is quicker.
    pub(super) appended_bytes: u64,
    /// Bytes of blocks that a merge decodes for a batch.
    pub(super) decoded_bytes: usize,
    /// Rows of more bytes that are not sorted become several runs.
    pub(super) batch_bytes: usize,
}

impl Bounds {
    pub(super) const DEFAULT: Self = Self { appended_bytes: 64 << 20, decoded_bytes: 8 << 20, batch_bytes: 256 << 20 };
}

/// The rows of a key group, folded, in batches of bounded size.
///
/// # Cost
/// Up to 64 MiB of sorted rows, or 256 MiB of others, are one batch. More sorted rows cost memory for a block or a few of each
/// run, beside the runs; more of others are compressed while they are sorted.
#[derive(Debug)]
pub struct FoldedGroup<'a> {
    rows: &'a dyn RowSource,
    group: KeyGroup,
    keep: Fold,
    rules: &'a Rules,
    stage: Stage,
    bounds: Bounds,
}

#[derive(Debug)]
enum Stage {
    Unread,
    Merging(Merge),
    Done,
}

impl<'a> FoldedGroup<'a> {
    /// Returns the rows of `group`, of which nothing is read yet; the rules are those that hold for it.
    #[must_use]
    pub fn new(rows: &'a dyn RowSource, group: KeyGroup, keep: Fold, rules: &'a Rules) -> Self {
        Self::within(Bounds::DEFAULT, rows, group, keep, rules)
    }

    pub(super) fn within(
        bounds: Bounds,
        rows: &'a dyn RowSource,
        group: KeyGroup,
        keep: Fold,
        rules: &'a Rules,
    ) -> Self {
        Self { rows, group, keep, rules: rules.of(group), stage: Stage::Unread, bounds }
    }

    /// Fills `batch` with the next rows, in the order of their places; false, and an empty batch, if there are no more.
    ///
    /// # Errors
    /// What the source and the rules return. The rows that were handed out before are of no use then.
    pub fn next_batch(&mut self, batch: &mut RowBatch) -> Result<bool> {
        batch.clear();
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Unread => match self.read(batch)? {
                None => {
                    batch.fold(self.keep, self.rules)?;
                    Ok(!batch.is_empty())
                }
                Some(merge) => self.merge(merge, batch),
            },
            Stage::Merging(merge) => self.merge(merge, batch),
            Stage::Done => Ok(false),
        }
    }

    /// Reads the rows into `batch`, or returns the runs that are to be merged because they are too many.
    fn read(&self, batch: &mut RowBatch) -> Result<Option<Merge>> {
        let merge = |runs| Some(Merge::new(runs, self.bounds.decoded_bytes));
        if self.rows.sorted_bytes(self.group).is_some_and(|bytes| bytes > self.bounds.appended_bytes) {
            return Ok(merge(self.rows.runs(self.group)?));
        }
        batch.overflow_at(self.bounds.batch_bytes);
        self.rows.append_group(self.group, batch)?;
        let mut runs = batch.take_overflow();
        if runs.is_empty() {
            return Ok(None);
        }
        runs.push(batch.make_run()?);
        batch.clear();
        Ok(merge(runs))
    }

    fn merge(&mut self, mut merge: Merge, batch: &mut RowBatch) -> Result<bool> {
        let rows = merge.step(self.keep, self.rules, batch)? == Step::Rows;
        self.stage = if rows { Stage::Merging(merge) } else { Stage::Done };
        Ok(rows)
    }
}

/// What a step of a merge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There are rows.
    Rows,
    /// The run of this number has to be given blocks first.
    Starved(usize),
    /// There are no more rows.
    End,
}

/// Sorted runs of one key group on their way to one.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Oldest first.
    runs: Vec<Source>,
    decoded_bytes: usize,
    /// All places below it are done.
    done: Option<PlaceBuf>,
    spare: Spare,
}

#[derive(Debug)]
struct Source {
    run: Run,
    /// Clears that were taken and can cover rows that are to come.
    clears: RowBatch,
}

/// How far the decoded rows are complete.
enum Reach {
    All,
    Below(PlaceBuf),
    Starved(usize),
}

impl Merge {
    /// * `decoded_bytes`: how many bytes of blocks to decode for a batch, if they are there.
    pub(crate) fn new(runs: Vec<Run>, decoded_bytes: usize) -> Self {
        let runs = runs.into_iter().map(|run| Source { run, clears: RowBatch::new() }).collect();
        Self { runs, decoded_bytes, done: None, spare: Spare::default() }
    }

    /// Returns the run of this number.
    pub(crate) fn run(&mut self, at: usize) -> Option<&mut Run> {
        self.runs.get_mut(at).map(|source| &mut source.run)
    }

    /// Replaces what `batch` holds by the next rows, folded.
    ///
    /// # Errors
    /// `Corrupt` or `Version` from the blocks; what the rules return.
    pub(crate) fn step(&mut self, keep: Fold, rules: &Rules, batch: &mut RowBatch) -> Result<Step> {
        loop {
            batch.clear();
            let bound = match self.reach()? {
                Reach::Starved(at) => return Ok(Step::Starved(at)),
                Reach::All => None,
                Reach::Below(place) => Some(place),
            };
            self.collect(bound.as_ref(), batch)?;
            batch.fold(keep, rules)?;
            if let Some(done) = &self.done {
                // Clears of the batch before.
                batch.skip_below(&done.get());
            }
            match (batch.is_empty(), bound) {
                (true, None) => return Ok(Step::End),
                (empty, bound) => {
                    // With no bound all is taken: the next step finds nothing.
                    self.done = bound;
                    if !empty {
                        return Ok(Step::Rows);
                    }
                }
            }
        }
    }

    /// Decodes blocks until there is enough for a batch, and returns how far rows are complete.
    fn reach(&mut self) -> Result<Reach> {
        loop {
            let unfinished = self.runs.iter().enumerate().filter(|(_, source)| !source.run.is_decoded());
            let least = unfinished.min_by(|(_, a), (_, b)| a.run.last().cmp(&b.run.last()));
            let Some((at, Source { run, .. })) = least else { return Ok(Reach::All) };
            let complete = run.last().filter(|bound| self.has_rows_below(bound)).map(|bound| {
                let mut place = PlaceBuf::default();
                place.set(&bound);
                place
            });
            let decoded: usize = self.runs.iter().map(|source| source.run.decoded_bytes()).sum();
            let Some(Source { run, .. }) = self.runs.get_mut(at) else { continue };
            match complete {
                Some(place) if decoded >= self.decoded_bytes => return Ok(Reach::Below(place)),
                complete => {
                    if !run.decode(&mut self.spare)? {
                        return Ok(complete.map_or(Reach::Starved(at), Reach::Below));
                    }
                }
            }
        }
    }

    fn has_rows_below(&self, bound: &RowKey<'_>) -> bool {
        self.runs.iter().any(|source| source.run.first().is_some_and(|first| first < *bound))
    }

    /// Takes the rows below `bound`, run by run, each behind the clears that were taken of it before.
    fn collect(&mut self, bound: Option<&PlaceBuf>, batch: &mut RowBatch) -> Result<()> {
        let bound = bound.map(PlaceBuf::get);
        for Source { run, clears } in &mut self.runs {
            let start = batch.len();
            clears.iter().try_for_each(|clear| batch.push(&clear))?;
            run.take_below(bound.as_ref(), batch, &mut self.spare)?;
            clears.clear();
            if let Some(bound) = &bound {
                let taken = batch.iter_from(start).filter(|row| row.op == Op::Clear && can_cover(&row.key, bound));
                taken.into_iter().try_for_each(|row| clears.push(&row))?;
            }
        }
        Ok(())
    }
}

/// Returns whether a clear below `bound` can cover rows that are not below it.
fn can_cover(clear: &RowKey<'_>, bound: &RowKey<'_>) -> bool {
    let of_key = clear.key.is_none() || clear.key == bound.key;
    let of_namespace = clear.key.is_none() || clear.namespace.is_none() || clear.namespace == bound.namespace;
    clear.table == bound.table && of_key && of_namespace
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::id::TableId;
    use crate::key_group::KeyGroupSet;
    use crate::segment::{
        Append, Codec, Columns, EncodeOptions, Row, SegmentKind, SegmentRows, SegmentWriter, Stack, TableRules,
    };

    const GROUP: KeyGroup = KeyGroup(3);
    /// All that there is, at once.
    const WHOLE: Bounds = Bounds { appended_bytes: u64::MAX, decoded_bytes: usize::MAX, batch_bytes: usize::MAX };

    /// A row as bytes that own themselves: table, key, namespace, sub-key, op, and how long its value is.
    type Made = (u32, Option<u8>, Option<u8>, Option<u8>, u8, usize);

    fn made() -> impl Strategy<Value = Made> {
        let long = prop_oneof![3 => Just(70_000usize), 1 => Just(3)];
        (0u32..2, 0u8..6, 0u8..3, 0u8..2, 0u8..8, long).prop_map(|(table, key, namespace, sub, op, long)| match op {
            0 => (table, Some(key), None, None, 3, 0),
            1 => (table, Some(key), Some(namespace), None, 3, 0),
            2 => (table, None, Some(namespace), None, 3, 0),
            3 => (table, Some(key), Some(namespace), Some(sub), 1, 0),
            4 | 5 => (table, Some(key), Some(namespace), Some(sub), 2, long),
            _ => (table, Some(key), Some(namespace), Some(sub), 0, long),
        })
    }

    fn push(batch: &mut RowBatch, number: usize, made: &Made) {
        let &(table, key, namespace, sub, op, long) = made;
        let parts = [key, namespace, sub].map(|part| part.map(|part| vec![b'a' + part]));
        let [key, namespace, sub] = [0, 1, 2].map(|at| parts[at].as_deref());
        let mut value = vec![b'v'; long];
        value.extend((number as u64).to_le_bytes());
        let op = match op {
            0 => Op::Put(&value),
            1 => Op::Delete,
            2 => Op::Merge(&value),
            _ => Op::Clear,
        };
        let key = RowKey { table: TableId(table), key, namespace, sub };
        batch.push(&Row { key, op, columns: Columns::default() }).unwrap();
    }

    /// A segment of rows, in the order that they were written.
    fn segment(rows: &[(usize, Made)]) -> Arc<dyn RowSource> {
        let mut batch = RowBatch::new();
        rows.iter().for_each(|(number, made)| push(&mut batch, *number, made));
        batch.fold(Fold::Delta, &Rules::none()).unwrap();
        // A group before and one behind, in the same blocks.
        let groups = KeyGroupSet::all(8);
        let options = EncodeOptions { codec: Codec::None };
        let mut writer = SegmentWriter::new(SegmentKind::Delta, groups, options).unwrap();
        let mut other = RowBatch::new();
        push(&mut other, 0, &(0, Some(0), Some(0), Some(0), 0, 3));
        other.iter().for_each(|row| writer.push(KeyGroup(1), &row).unwrap());
        batch.iter().for_each(|row| writer.push(GROUP, &row).unwrap());
        other.iter().for_each(|row| writer.push(KeyGroup(5), &row).unwrap());
        let encoded = writer.finish().unwrap();
        Arc::new(SegmentRows::open(encoded.bytes, &encoded.index_hash).unwrap())
    }

    /// Rows that are not sorted.
    #[derive(Debug)]
    struct Unsorted(KeyGroupSet, Vec<(usize, Made)>);

    impl RowSource for Unsorted {
        fn groups(&self) -> &KeyGroupSet {
            &self.0
        }

        fn append_group(&self, _: KeyGroup, batch: &mut RowBatch) -> Result<()> {
            self.1.iter().for_each(|(number, made)| push(batch, *number, made));
            Ok(())
        }

        fn held_bytes(&self) -> u64 {
            0
        }
    }

    /// Returns all rows as text, and how many batches they came in.
    fn read(bounds: Bounds, rows: &dyn RowSource, keep: Fold, rules: &Rules) -> (Vec<String>, usize) {
        let mut folded = FoldedGroup::within(bounds, rows, GROUP, keep, rules);
        let (mut batch, mut all, mut batches) = (RowBatch::new(), Vec::new(), 0);
        while folded.next_batch(&mut batch).unwrap() {
            assert!(!batch.is_empty());
            batches += 1;
            all.extend(batch.iter().map(|row| {
                let payload = row.op.payload();
                let tail = &payload[payload.len().saturating_sub(8)..];
                format!("{:?} {:?} {} {tail:?}", row.key, std::mem::discriminant(&row.op), payload.len())
            }));
        }
        assert!(batch.is_empty() && !folded.next_batch(&mut batch).unwrap());
        (all, batches)
    }

    fn rules(of_lists: bool) -> Rules {
        let mut rules = Rules::none();
        if of_lists {
            rules.define(TableId(1), TableRules { merge: Some(Arc::new(Append)), ..TableRules::default() });
        }
        rules
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// However rows lie in segments and blocks, merging them in batches makes what sorting them at once does.
        #[test]
        fn batches_are_together_what_one_fold_is(
            segments in prop::collection::vec(prop::collection::vec(made(), 0..24), 1..5),
            decoded_bytes in prop_oneof![Just(1usize), Just(200_000)],
            batch_bytes in prop_oneof![Just(1usize), Just(300_000)],
            of_lists in any::<bool>(),
        ) {
            let mut number = 0;
            let mut numbered = |rows: &Vec<Made>| -> Vec<(usize, Made)> {
                rows.iter().map(|row| { number += 1; (number, *row) }).collect()
            };
            let segments: Vec<_> = segments.iter().map(&mut numbered).collect();
            let sorted = Stack::new(segments.iter().map(|rows| segment(rows)).collect());
            // Each segment's clears undo none of its own rows where they are sorted, so rows that are not may differ.
            let unsorted = Unsorted(KeyGroupSet::all(8), segments.concat());
            let rules = rules(of_lists);
            for keep in [Fold::Base, Fold::Delta] {
                let merged = Bounds { appended_bytes: 0, decoded_bytes, batch_bytes };
                prop_assert_eq!(read(merged, &sorted, keep, &rules).0, read(WHOLE, &sorted, keep, &rules).0);
                let overflowing = Bounds { batch_bytes, ..WHOLE };
                prop_assert_eq!(read(overflowing, &unsorted, keep, &rules).0, read(WHOLE, &unsorted, keep, &rules).0);
            }
        }
    }

    #[test]
    fn many_rows_come_in_many_batches() {
        let row = |number: usize| (number, (0, Some(u8::try_from(number % 100).unwrap()), Some(0), Some(0), 0, 70_000));
        let segments = (0..5).map(|n| segment(&(0..100).map(|i| row(n * 100 + i)).collect::<Vec<_>>())).collect();
        let sorted = Stack::new(segments);
        let bounds = Bounds { appended_bytes: 30 << 20, decoded_bytes: 1 << 20, ..Bounds::DEFAULT };
        let (rows, batches) = read(bounds, &sorted, Fold::Base, &Rules::none());
        assert!(rows.len() == 100 && batches > 20, "{} rows in {batches}", rows.len());
        let (appended, one) = read(Bounds::DEFAULT, &sorted, Fold::Base, &Rules::none());
        assert!(appended == rows && one == 1);
    }
}
