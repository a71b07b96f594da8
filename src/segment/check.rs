//! Checks the sections of an index against the segment's rows. The hashes prove what was written; this proves that it is true.

use std::collections::BTreeSet;
use std::slice;

use super::earliest::time_of;
use super::index::{BlockEntry, SegmentIndex};
use super::places::Places;
use crate::error::{Error, Result};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::{Op, Row, RowBatch, sortable};

/// A check in progress: it takes the rows of every block, group by group.
#[derive(Debug)]
pub(crate) struct SectionCheck<'a> {
    index: &'a SegmentIndex,
    /// The tables whose earliest timers are told.
    timers: BTreeSet<TableId>,
    places: Option<Places<'a>>,
    /// Blocks whose first places were not read yet.
    blocks: slice::Iter<'a, BlockEntry>,
    /// The group of the last rows, and their last place.
    group: Option<KeyGroup>,
    last: Vec<u8>,
    first: Vec<u8>,
}

impl<'a> SectionCheck<'a> {
    /// Returns a check of `index`.
    pub(crate) fn new(index: &'a SegmentIndex) -> Self {
        let timers = index.earliest().iter().map(|timer| timer.table).collect();
        let places = index.first_places();
        let (blocks, last, first) = (index.blocks().iter(), Vec::new(), Vec::new());
        Self { index, timers, places, blocks, group: None, last, first }
    }

    /// Checks the rows that the next block has of `group`; at least one.
    ///
    /// # Errors
    /// `Corrupt` if a section is not that of the rows.
    pub(crate) fn check(&mut self, group: KeyGroup, rows: &RowBatch) -> Result<()> {
        self.check_place(group, rows)?;
        rows.iter().try_for_each(|row| self.check_row(group, &row))
    }

    fn check_place(&mut self, group: KeyGroup, rows: &RowBatch) -> Result<()> {
        let Some(places) = &mut self.places else { return Ok(()) };
        let (Some(first), Some(last)) = (rows.iter().next(), rows.iter().last()) else { return Ok(()) };
        sortable(&first.key, &mut self.first);
        if self.group.replace(group) == Some(group) {
            let mut place = None;
            while place.is_none()
                && let Some(block) = self.blocks.next()
            {
                place = places.next(block)?.map(<[u8]>::to_vec);
            }
            let fits = |place: &Vec<u8>| {
                *place <= self.first && (self.last < *place || (self.last == *place && self.first == *place))
            };
            if !place.as_ref().is_some_and(fits) {
                return Err(Error::corrupt("first place of a block is not that of its rows").with("group", group));
            }
        }
        sortable(&last.key, &mut self.last);
        Ok(())
    }

    fn check_row(&self, group: KeyGroup, row: &Row<'_>) -> Result<()> {
        if row.key.key.is_none() && self.places.as_ref().is_some_and(|places| !places.keyless()) {
            return Err(Error::corrupt("clear without a key is not told of").with("group", group));
        }
        let table = row.key.table;
        if !matches!(row.op, Op::Put(_)) || !self.timers.contains(&table) {
            return Ok(());
        }
        match self.index.earliest_of(table, group) {
            Some(earliest) if earliest <= time_of(row) => Ok(()),
            _ => {
                Err(Error::corrupt("timer is earlier than the earliest told").with("group", group).with("table", table))
            }
        }
    }
}
