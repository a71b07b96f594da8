//! Tables, operators and a store that the checks share.

use std::sync::Arc;

use super::*;
use crate::backend::Outcome;
use crate::key_group::CurrentKey;
use crate::row::{Append, MergeOperator, Op, RowBatch, RowSource as _, SealedPart, TableRules};

/// Returns a located key.
pub(super) fn key(bytes: &[u8]) -> CurrentKey<'_> {
    PARTITIONER.locate(bytes, 0, MAX_PARALLELISM)
}

/// Adds little-endian `u64` values. Adding 13 panics; adding 14 fails.
#[derive(Debug)]
pub(super) struct Sum;

impl MergeOperator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
        match (number(older), number(newer)) {
            (Ok(_), Ok(13)) => std::panic::resume_unwind(Box::new("planned")),
            (Ok(_), Ok(14)) | (Err(_), _) | (_, Err(_)) => Err(Error::corrupt("planned")),
            (Ok(older), Ok(newer)) => {
                out.extend_from_slice(&older.wrapping_add(newer).to_le_bytes());
                Ok(())
            }
        }
    }
}

/// A table of sums.
pub(super) const SUMS: TableId = TableId(2);
/// A table of lists.
pub(super) const LISTS: TableId = TableId(3);
/// A table with ordered scans.
pub(super) const ORDERED: TableId = TableId(4);

/// Defines the tables above.
pub(super) fn define<B: StateBackend>(backend: &mut B) {
    let merging = |merge: Arc<dyn MergeOperator>| TableRules { merge: Some(merge), ..TableRules::default() };
    backend.define(SUMS, merging(Arc::new(Sum)));
    backend.define(LISTS, merging(Arc::new(Append)));
    backend.define(ORDERED, TableRules { ordered: true, ..TableRules::default() });
}

/// Returns a backend of all groups with these tables.
pub(super) fn make_defined<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> B {
    let mut backend = make(all());
    define(&mut backend);
    backend
}

/// The stored state of a backend: its sealed parts, encoded and decoded again.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) history: History,
    epoch: u64,
}

/// A stored row: its operation as a sign, its key, namespace and sub-key joined by `/`, and its payload.
pub(super) type StoredRow = (char, Vec<u8>, Vec<u8>);

impl Stored {
    /// Seals at these times, stores the sealed parts and returns their rows. Every second epoch commits.
    pub(super) fn seal_at<B: StateBackend>(
        &mut self,
        backend: &mut B,
        bases: &KeyGroupSet,
        (event, processing): (i64, i64),
    ) -> Result<Vec<StoredRow>> {
        self.epoch += 1;
        let (event_time, processing_time) = (Timestamp::from_millis(event), Timestamp::from_millis(processing));
        let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time, processing_time };
        let mut sealed = backend.seal(cut, bases)?;
        let outcome = if self.epoch.is_multiple_of(2) { Outcome::Commit } else { Outcome::Abort };
        backend.settle(cut.epoch, outcome)?;
        let mut found = Vec::new();
        for part in &mut sealed.parts {
            found.extend(store(part)?);
        }
        self.history.add(sealed);
        Ok(found)
    }

    /// As [`Stored::seal_at`], at time zero.
    pub(super) fn seal<B: StateBackend>(&mut self, backend: &mut B, bases: &KeyGroupSet) -> Result<Vec<StoredRow>> {
        self.seal_at(backend, bases, (0, 0))
    }

    /// Returns a new backend loaded from the stored parts.
    pub(super) fn load<B: StateBackend>(&self, make: &dyn Fn(KeyGroupSet) -> B) -> Result<B> {
        let mut backend = make(KeyGroupSet::empty());
        define(&mut backend);
        backend.load(&self.history, &all())?;
        Ok(backend)
    }
}

/// Replaces a part's rows with the folded rows that encoding would store, and returns them.
fn store(part: &mut SealedPart) -> Result<Vec<StoredRow>> {
    let rows = part.folded()?;
    let mut batch = RowBatch::new();
    part.groups.iter().try_for_each(|group| rows.append_group(group, &mut batch))?;
    part.rows = Arc::new(rows);
    let sign = |op: &Op<'_>| match op {
        Op::Put(_) => '=',
        Op::Merge(_) => '+',
        Op::Delete => 'x',
        Op::Clear => '!',
    };
    let found = batch.iter().map(|row| {
        let parts = [row.key.key, row.key.namespace, row.key.sub].map(|part| part.unwrap_or(b"-"));
        (sign(&row.op), parts.join(&b'/'), row.op.payload().to_vec())
    });
    Ok(found.collect())
}

pub(super) fn none() -> KeyGroupSet {
    KeyGroupSet::empty()
}

/// Writes a row of `table`, addressed by key, namespace and sub-key.
pub(super) fn write_in<B: StateBackend>(
    backend: &mut B,
    table: TableId,
    [k, namespace, sub]: [&str; 3],
    write: Write<'_>,
) -> Result<()> {
    let (namespace, sub) = (namespace.as_bytes(), sub.as_bytes());
    backend.write(RowRef { table, key: &key(k.as_bytes()), namespace, sub }, write)
}

/// Reads a row of `table`, addressed by key, namespace and sub-key.
pub(super) fn read_in<B: StateBackend>(
    backend: &mut B,
    table: TableId,
    [k, namespace, sub]: [&str; 3],
) -> Result<Option<Vec<u8>>> {
    let (namespace, sub) = (namespace.as_bytes(), sub.as_bytes());
    backend.read(RowRef { table, key: &key(k.as_bytes()), namespace, sub }, |value| value.map(<[u8]>::to_vec))
}

/// Transitions between two steps of a check.
pub(super) const STEPS: [&str; 4] = ["nothing", "seal", "base", "reload"];

/// Applies one of [`STEPS`].
pub(super) fn apply_step<B: StateBackend>(
    step: &str,
    backend: &mut B,
    stored: &mut Stored,
    make: &dyn Fn(KeyGroupSet) -> B,
) -> Result<()> {
    match step {
        "seal" => stored.seal(backend, &none()).map(drop),
        "base" => stored.seal(backend, &all()).map(drop),
        "reload" => {
            stored.seal(backend, &none())?;
            *backend = stored.load(make)?;
            Ok(())
        }
        _ => Ok(()),
    }
}
