//! Loading a subtask's rows into its backend part by part: the next part is read while one is loaded.
//!
//! Invariants: a part has whole key groups, or a piece of one group that is larger than a part may be; such a group is
//! read in ranges, a little of each segment ahead of the merge, and loaded as it is merged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::oneshot;

use super::restore::{Content, Opened, SegmentReader, of_segment};
use super::restore_tracker::RestoreTracker;
use crate::backend::StateBackend;
use crate::error::{Error, Result};
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Fold, Merge, RowBatch, RowSource, Rules, Step};
use crate::runtime::{SharedRuntime, run_blocking};
use crate::segment::{BlockEntry, SegmentRun, verified_blocks};

/// Bytes of blocks decoded for one piece of a large group.
const DECODED_BYTES: usize = 8 << 20;

/// Segments read ahead at a time.
const CONCURRENT_SEGMENTS: usize = 8;

/// Rows to be loaded together.
#[derive(Debug)]
pub struct Part {
    pub(super) groups: KeyGroupSet,
    pub(super) rows: Arc<dyn RowSource>,
    /// Whether an earlier part has rows of the same group.
    pub(super) continues: bool,
}

impl Part {
    /// Loads the part's rows.
    ///
    /// # Errors
    /// As [`StateBackend::load`].
    pub fn load_into(&self, backend: &mut impl StateBackend) -> Result<()> {
        match self.continues {
            false => backend.load(&*self.rows, &self.groups),
            true => backend.load_more(&*self.rows, &self.groups),
        }
    }
}

/// The rows of some groups, part by part.
#[derive(Debug)]
pub struct Parts {
    runtime: SharedRuntime,
    next: oneshot::Receiver<Result<Option<(Part, Reading)>>>,
}

impl Parts {
    /// Starts reading the rows of `groups`. About twice `bytes` of stored blocks are held at a time.
    #[must_use]
    pub fn read(runtime: SharedRuntime, reader: Arc<SegmentReader>, groups: &KeyGroupSet, bytes: u64) -> Self {
        let left = reader.parts(groups, bytes).into_iter();
        let reading = Reading { runtime: Arc::clone(&runtime), reader, left, bytes, group: None };
        Self { next: begin(&runtime, reading), runtime }
    }

    /// Returns the next part and starts reading the one after it; `None` after the last.
    ///
    /// # Errors
    /// `Corrupt`, naming the object; `Unavailable` if the store does not answer.
    pub async fn next(&mut self) -> Result<Option<Part>> {
        let read = (&mut self.next).await.map_err(|_| Error::stopped("reading was dropped"))?;
        let Some((part, reading)) = read? else { return Ok(None) };
        self.next = begin(&self.runtime, reading);
        Ok(Some(part))
    }
}

impl Parts {
    /// Loads all parts into `backend`.
    ///
    /// # Errors
    /// As [`Parts::next`] and [`StateBackend::load`].
    pub(crate) async fn load_into(mut self, backend: &mut impl StateBackend, tracker: &RestoreTracker) -> Result<()> {
        let mut last = KeyGroupSet::empty();
        while let Some(part) = self.next().await? {
            // A group that comes in pieces is loaded once a part has another group.
            if !part.continues && !last.is_empty() {
                tracker.loaded(&last);
                tracker.report();
            }
            part.load_into(backend)?;
            last = part.groups;
        }
        tracker.loaded(&last);
        tracker.report();
        Ok(())
    }
}

/// Reads the next part in the background.
fn begin(runtime: &SharedRuntime, mut reading: Reading) -> oneshot::Receiver<Result<Option<(Part, Reading)>>> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(Box::pin(async move {
        let part = reading.next().await;
        // The receiver is gone if the restore was abandoned.
        let _given_up = sender.send(part.map(|part| part.map(|part| (part, reading))));
    }));
    receiver
}

/// The rest to read.
#[derive(Debug)]
struct Reading {
    runtime: SharedRuntime,
    reader: Arc<SegmentReader>,
    left: vec::IntoIter<KeyGroupSet>,
    /// Stored bytes that a part may take.
    bytes: u64,
    /// The group larger than a part that is being read.
    group: Option<Large>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Part>> {
        if let Some(large) = &mut self.group {
            if let Some(rows) = large.next(&self.runtime).await? {
                return Ok(Some(Part { groups: large.groups(), rows: Arc::new(rows), continues: true }));
            }
            self.group = None;
        }
        let Some(groups) = self.left.next() else { return Ok(None) };
        let alone = groups.first().filter(|_| groups.len() == 1);
        if let Some(group) = alone.filter(|group| self.reader.sizes().get(group).is_some_and(|size| *size > self.bytes))
        {
            let mut large = Large::new(Arc::clone(&self.reader), group, self.bytes);
            let rows = large.next(&self.runtime).await?.unwrap_or_else(|| large.empty());
            self.group = Some(large);
            return Ok(Some(Part { groups, rows: Arc::new(rows), continues: false }));
        }
        let rows = self.reader.fetch(&groups).await?;
        Ok(Some(Part { groups, rows, continues: false }))
    }
}

/// A group whose rows are read as they are merged.
#[derive(Debug)]
struct Large {
    reader: Arc<SegmentReader>,
    group: KeyGroup,
    /// `None` after an error, and while a blocking thread runs a step.
    merge: Option<Merge<SegmentRun>>,
    /// One for each run of the merge.
    sources: Vec<Ahead>,
    /// Bytes that all runs together may read ahead.
    bytes: u64,
}

/// The unread blocks of a segment.
#[derive(Debug)]
struct Ahead {
    /// The segment's index in the reader.
    segment: usize,
    blocks: VecDeque<BlockEntry>,
}

impl Large {
    fn new(reader: Arc<SegmentReader>, group: KeyGroup, bytes: u64) -> Self {
        let (mut runs, mut sources) = (Vec::new(), Vec::new());
        let having = |(_, opened): &(usize, &Opened)| opened.segment.groups.contains(group);
        for (segment, opened) in reader.segments.iter().enumerate().filter(having) {
            let (run, blocks) = match &opened.content {
                Content::Rows(rows, _) => (rows.run(group), VecDeque::new()),
                Content::Index(index) => {
                    let blocks: VecDeque<_> = index.blocks_of(&groups_of(group)).copied().collect();
                    let of = (index.kind(), index.groups().clone());
                    (SegmentRun::new(of, group, VecDeque::new(), blocks.len()), blocks)
                }
            };
            runs.push(run);
            sources.push(Ahead { segment, blocks });
        }
        Self { reader, group, merge: Some(Merge::new(runs, DECODED_BYTES)), sources, bytes }
    }

    fn groups(&self) -> KeyGroupSet {
        groups_of(self.group)
    }

    /// Returns an empty piece of the group.
    fn empty(&self) -> Merged {
        Merged { groups: self.groups(), batch: RowBatch::new() }
    }

    /// Returns the next rows; `None` if there are no more.
    async fn next(&mut self, runtime: &SharedRuntime) -> Result<Option<Merged>> {
        loop {
            let Some(mut merge) = self.merge.take() else { return Ok(None) };
            let step = move || {
                let mut batch = RowBatch::new();
                // The backend applies expiry and operands.
                let step = merge.step(Fold::Delta, &Rules::none(), &mut batch)?;
                Ok((merge, batch, step))
            };
            let (merge, batch, step) = run_blocking(&**runtime, step).await?;
            self.merge = Some(merge);
            match step {
                Step::Rows => return Ok(Some(Merged { groups: self.groups(), batch })),
                Step::Starved(_) => self.read_ahead().await?,
                Step::End => return Ok(None),
            }
        }
    }

    /// Reads blocks of each segment, up to its share of the bytes to read ahead.
    async fn read_ahead(&mut self) -> Result<()> {
        let Some(merge) = &mut self.merge else { return Ok(()) };
        let unread = self.sources.iter().filter(|source| !source.blocks.is_empty()).count() as u64;
        let share = self.bytes / unread.max(1);
        let mut reads = Vec::new();
        for (at, source) in self.sources.iter_mut().enumerate() {
            let ahead = merge.run(at).map_or(0, |run| run.waiting_bytes());
            let blocks = source.take(share.saturating_sub(ahead), ahead == 0);
            if !blocks.is_empty()
                && let Some(opened) = self.reader.segments.get(source.segment)
            {
                reads.push(read(&self.reader, opened, at, blocks));
            }
        }
        let read: Vec<_> = stream::iter(reads).buffered(CONCURRENT_SEGMENTS).try_collect().await?;
        for (at, blocks) in read {
            merge.run(at).into_iter().for_each(|run| run.extend(blocks.iter().cloned()));
        }
        Ok(())
    }
}

impl Ahead {
    /// Takes blocks of up to `bytes` in total; at least one if `some`.
    fn take(&mut self, bytes: u64, some: bool) -> Vec<BlockEntry> {
        let (mut taken, mut total) = (Vec::new(), 0u64);
        while let Some(block) = self.blocks.front() {
            total = total.saturating_add(u64::from(block.length));
            if total > bytes && !(some && taken.is_empty()) {
                break;
            }
            taken.extend(self.blocks.pop_front());
        }
        taken
    }
}

async fn read(
    reader: &SegmentReader,
    opened: &Opened,
    at: usize,
    blocks: Vec<BlockEntry>,
) -> Result<(usize, Vec<(BlockEntry, bytes::Bytes)>)> {
    let verified = opened.read_blocks(&reader.store, &blocks, |ranges| verified_blocks(&blocks, &ranges)).await;
    Ok((at, verified.map_err(|error| of_segment(error, &opened.segment))?))
}

fn groups_of(group: KeyGroup) -> KeyGroupSet {
    std::iter::once(group).collect()
}

/// A piece of a group's rows, merged.
#[derive(Debug)]
struct Merged {
    groups: KeyGroupSet,
    batch: RowBatch,
}

impl RowSource for Merged {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        if self.groups.contains(group) { self.batch.iter().try_for_each(|row| batch.push(&row)) } else { Ok(()) }
    }

    fn held_bytes(&self) -> u64 {
        self.batch.held_bytes()
    }
}
