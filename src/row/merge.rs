//! Merging: the rows of a key group, however many, folded in batches of bounded size.
//!
//! Rows that stand in sorted runs are merged run by run, block by block. All places below the least of the places that
//! the unfinished runs were read up to are complete: their rows make a batch, oldest run first, and the fold is that of
//! [`RowBatch`]. Rows that are not sorted become sorted runs first, if they are too many for one batch.
//!
//! Invariants: the rows of one place are in one batch; batches ascend; clears are kept as long as they can cover rows that
//! are to come.

use super::batch::RowBatch;
use super::fold::Fold;
use super::key::{RowKey, RowKeyBuf};
use super::op::Op;
use super::rules::Rules;
use super::run::{Run, SortedRun, Spare, Spill};
use super::source::RowSource;
use crate::error::Result;
use crate::key_group::KeyGroup;

/// What a fold holds at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Sorted rows of more bytes are merged; fewer are appended and sorted, which is quicker.
    pub(crate) appended_bytes: u64,
    /// Bytes of blocks that a merge decodes for a batch.
    pub(crate) decoded_bytes: usize,
    /// Rows of more bytes that are not sorted become several runs.
    pub(crate) batch_bytes: usize,
}

impl Bounds {
    pub(crate) const DEFAULT: Self = Self { appended_bytes: 64 << 20, decoded_bytes: 8 << 20, batch_bytes: 256 << 20 };
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
    spill: Option<Spill>,
}

#[derive(Debug)]
enum Stage {
    Unread,
    Merging(Merge<Run>),
    Done,
}

impl<'a> FoldedGroup<'a> {
    /// Returns the rows of `group`, of which nothing is read yet; the rules are those that hold for it.
    #[must_use]
    pub fn new(rows: &'a dyn RowSource, group: KeyGroup, keep: Fold, rules: &'a Rules) -> Self {
        Self::within(Bounds::DEFAULT, rows, group, keep, rules)
    }

    pub(crate) fn within(
        bounds: Bounds,
        rows: &'a dyn RowSource,
        group: KeyGroup,
        keep: Fold,
        rules: &'a Rules,
    ) -> Self {
        Self { rows, group, keep, rules: rules.of(group), stage: Stage::Unread, bounds, spill: None }
    }

    /// Makes sorted runs of unsorted rows that are too many for one batch.
    pub(crate) fn spilling(self, spill: Spill) -> Self {
        Self { spill: Some(spill), ..self }
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
    fn read(&self, batch: &mut RowBatch) -> Result<Option<Merge<Run>>> {
        let merge = |runs| Some(Merge::new(runs, self.bounds.decoded_bytes));
        if self.rows.sorted_bytes(self.group).is_some_and(|bytes| bytes > self.bounds.appended_bytes) {
            return Ok(merge(self.rows.runs(self.group)?));
        }
        let Some(spill) = self.spill else {
            self.rows.append_group(self.group, batch)?;
            return Ok(None);
        };
        batch.overflow_at(self.bounds.batch_bytes, spill);
        self.rows.append_group(self.group, batch)?;
        let mut runs = batch.take_overflow();
        if runs.is_empty() {
            return Ok(None);
        }
        runs.push(batch.make_run(spill)?);
        batch.clear();
        Ok(merge(runs))
    }

    fn merge(&mut self, mut merge: Merge<Run>, batch: &mut RowBatch) -> Result<bool> {
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
pub(crate) struct Merge<R> {
    /// Oldest first.
    runs: Vec<Source<R>>,
    decoded_bytes: usize,
    /// All places below it are done.
    done: Option<RowKeyBuf>,
    spare: Spare,
}

#[derive(Debug)]
struct Source<R> {
    run: R,
    /// Clears that were taken and can cover rows that are to come.
    clears: RowBatch,
}

/// How far the decoded rows are complete.
enum Reach {
    All,
    Below(RowKeyBuf),
    Starved(usize),
}

impl<R: SortedRun> Merge<R> {
    /// * `decoded_bytes`: how many bytes of blocks to decode for a batch, if they are there.
    pub(crate) fn new(runs: Vec<R>, decoded_bytes: usize) -> Self {
        let runs = runs.into_iter().map(|run| Source { run, clears: RowBatch::new() }).collect();
        Self { runs, decoded_bytes, done: None, spare: Spare::default() }
    }

    /// Returns the run of this number.
    pub(crate) fn run(&mut self, at: usize) -> Option<&mut R> {
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
                let mut place = RowKeyBuf::default();
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
    fn collect(&mut self, bound: Option<&RowKeyBuf>, batch: &mut RowBatch) -> Result<()> {
        let bound = bound.map(RowKeyBuf::get);
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
