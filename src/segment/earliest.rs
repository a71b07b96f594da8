//! The earliest timers of a segment, an optional section of its index: a restore finds out which groups may have due
//! timers without reading their rows.
//!
//! The earliest over a group's segments is a lower bound: a newer segment may have removed the timer.

use crate::codec::bytes::{Reader, put_length, put_signed, put_u32, put_varint};
use crate::codec::typed::{Codec, Ordered};
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{Op, Row};
use crate::time::Timestamp;

/// The earliest timer that a segment puts into a table of timers, in one key group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EarliestTimer {
    /// The table.
    pub table: TableId,
    /// The key group.
    pub group: KeyGroup,
    /// The time of the timer.
    pub at: Timestamp,
}

/// The least length of a table, and of a group's entry.
const TABLE_BYTES: usize = 4 + 1;
const ENTRY_BYTES: usize = 2;

/// Notes the timers of the rows that are written.
#[derive(Debug)]
pub(super) struct TimerNotes {
    /// The tables of timers, ascending.
    tables: Vec<TableId>,
    /// By group, then by table.
    found: Vec<EarliestTimer>,
}

impl TimerNotes {
    pub(super) const fn new(tables: Vec<TableId>) -> Self {
        Self { tables, found: Vec::new() }
    }

    /// Notes a row, which follows the last one.
    pub(super) fn note(&mut self, group: KeyGroup, row: &Row<'_>) {
        let table = row.key.table;
        if !matches!(row.op, Op::Put(_)) || self.tables.binary_search(&table).is_err() {
            return;
        }
        let at = time_of(row);
        match self.found.last_mut() {
            Some(last) if (last.table, last.group) == (table, group) => last.at = last.at.min(at),
            _ => self.found.push(EarliestTimer { table, group, at }),
        }
    }

    /// Returns the earliest timers, ordered by table and group.
    pub(super) fn finish(mut self) -> Vec<EarliestTimer> {
        self.found.sort_unstable_by_key(|timer| (timer.table, timer.group));
        self.found
    }
}

/// Returns the time of a timer's row; before all times if it is none: such a row is found damaged when its group is loaded,
/// so let that be at once.
pub(super) fn time_of(row: &Row<'_>) -> Timestamp {
    Ordered.decode(row.key.sub.unwrap_or_default()).map_or(Timestamp::MIN, Timestamp::from_millis)
}

/// Appends the section's content.
pub(super) fn encode(timers: &[EarliestTimer], out: &mut Vec<u8>) {
    let tables = || timers.chunk_by(|a, b| a.table == b.table);
    put_length(out, tables().count());
    for of_table in tables() {
        let Some(first) = of_table.first() else { continue };
        put_u32(out, first.table.0);
        put_length(out, of_table.len());
        let (mut next, mut before) = (0, 0i64);
        for EarliestTimer { group, at, .. } in of_table {
            put_varint(out, u64::from(group.0) - next);
            put_signed(out, at.as_millis().wrapping_sub(before));
            (next, before) = (u64::from(group.0) + 1, at.as_millis());
        }
    }
}

/// Returns the section's content, of a segment that covers `groups`.
///
/// # Errors
/// `Corrupt` if tables or groups are out of order, or a group is not covered.
pub(super) fn decode(content: &[u8], groups: &KeyGroupSet) -> Result<Vec<EarliestTimer>> {
    let mut reader = Reader::new(content);
    let mut timers: Vec<EarliestTimer> = Vec::new();
    for _ in 0..reader.count(TABLE_BYTES)? {
        let table = TableId(reader.u32()?);
        let count = reader.count(ENTRY_BYTES)?;
        if count == 0 || timers.last().is_some_and(|before| before.table >= table) {
            return Err(reader.corrupt("tables of the earliest timers are empty or out of order"));
        }
        let (mut next, mut at) = (0, 0i64);
        for _ in 0..count {
            let number = next + reader.varint_up_to(usize::from(u16::MAX))?;
            let group = u16::try_from(number).ok().map(KeyGroup).filter(|group| groups.contains(*group));
            let Some(group) = group else {
                return Err(reader.corrupt("earliest timer is of a group that the segment does not cover"));
            };
            at = at.wrapping_add(reader.signed()?);
            timers.push(EarliestTimer { table, group, at: Timestamp::from_millis(at) });
            next = number + 1;
        }
    }
    reader.finish()?;
    Ok(timers)
}
