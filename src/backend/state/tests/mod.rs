//! Every kind on the overlay backend, across seals, encoded segments and restarts.

mod batches;
mod evolution;
mod expiry;
mod kinds;
mod tables;

use std::sync::Arc;

use crate::backend::{KeyedState, OverlayBackend, StateBackend, Tables};
use crate::codec::schema::Schema;
use crate::error::Result;
use crate::id::{Epoch, Part};
use crate::key_group::{KeyGroupSet, Partitioner};
use crate::memory::MemoryBudget;
use crate::row::{Cut, Op, Row, RowBatch, RowSource, Stack};
use crate::time::Timestamp;

use super::CheckpointTimes;

const GROUPS: u16 = 4;

pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// A state, and the segments stored from it so far.
#[derive(Debug)]
struct Lab {
    state: KeyedState<OverlayBackend>,
    segments: Vec<Arc<dyn RowSource>>,
    epoch: u64,
    /// Event and processing time.
    now: (Timestamp, Timestamp),
}

impl Lab {
    fn new() -> Self {
        Self::over(Tables::new(Schema::new("utf8")), vec![], 0, (Timestamp::MIN, at(0)))
    }

    fn over(tables: Tables, segments: Vec<Arc<dyn RowSource>>, epoch: u64, now: (Timestamp, Timestamp)) -> Self {
        Self::try_over(tables, segments, epoch, now).unwrap()
    }

    fn try_over(
        tables: Tables,
        segments: Vec<Arc<dyn RowSource>>,
        epoch: u64,
        now: (Timestamp, Timestamp),
    ) -> Result<Self> {
        let backend = OverlayBackend::new(KeyGroupSet::empty(), MemoryBudget::new(u64::MAX));
        let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, GROUPS, tables);
        state.advance(now.0, now.1);
        state.backend_mut().load(&Stack::new(segments.clone()), &KeyGroupSet::all(GROUPS))?;
        state.set_key(b"k")?;
        Ok(Self { state, segments, epoch, now })
    }

    /// Advances processing time.
    fn at(&mut self, processing: i64) {
        self.at_both(self.now.0, processing);
    }

    fn at_both(&mut self, event: Timestamp, processing: i64) {
        self.now = (event, at(processing));
        self.state.advance(self.now.0, self.now.1);
    }

    /// Seals and stores the state. Returns the stored rows as text.
    fn seal(&mut self, base: bool) -> Vec<String> {
        self.epoch += 1;
        let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time: self.now.0, processing_time: self.now.1 };
        let bases = if base { KeyGroupSet::all(GROUPS) } else { KeyGroupSet::empty() };
        let sealed = self.state.backend_mut().seal(cut, &bases).unwrap();
        self.state.backend_mut().settle(cut.epoch, crate::backend::Outcome::Commit).unwrap();
        if base {
            self.segments.clear();
        }
        let mut batch = RowBatch::new();
        for part in &sealed.parts {
            let rows = part.folded().unwrap();
            part.groups.iter().for_each(|group| rows.append_group(group, &mut batch).unwrap());
            self.segments.push(Arc::new(rows));
        }
        let mut rows: Vec<_> = batch.iter().map(|row| printed(&row)).collect();
        rows.sort();
        rows
    }

    /// Restarts from the last seal, at the same times, with the tables that `declare` declares.
    fn restart<H>(&mut self, declare: impl FnOnce(&mut Tables) -> Result<H>) -> Result<H> {
        let mut tables = self.restored_tables();
        let handles = declare(&mut tables)?;
        *self = Self::over(tables, self.segments.clone(), self.epoch, self.now);
        Ok(handles)
    }

    fn restored_tables(&self) -> Tables {
        let (event_time, processing_time) = self.now;
        let schemas = self.state.tables().schemas().to_vec();
        Tables::restored(Schema::new("utf8"), schemas, CheckpointTimes { event_time, processing_time })
    }

    fn rows(&self) -> u64 {
        self.state.backend().stats().rows
    }
}

fn printed(row: &Row<'_>) -> String {
    let text = |part: Option<&[u8]>| part.map_or_else(|| "-".into(), |p| p.escape_ascii().to_string());
    let op = match row.op {
        Op::Put(value) => format!("={}", value.escape_ascii()),
        Op::Merge(value) => format!("+{}", value.escape_ascii()),
        Op::Delete => "x".into(),
        Op::Clear => "!".into(),
    };
    let stamp = row.columns.stamp.map(|stamp| format!(" @{stamp}")).unwrap_or_default();
    let version = row.columns.schema.map(|version| format!(" v{version}")).unwrap_or_default();
    let key = row.key;
    format!("{}/{}/{}{op}{stamp}{version}", text(key.key), text(key.namespace), text(key.sub))
}
