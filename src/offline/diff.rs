//! The differences between two checkpoints of a job.
//!
//! Groups with the same segments on both sides have the same rows and are not read.

use std::collections::BTreeMap;

use super::fold::{Folding, LiveRows, PART_BYTES, RangeSegments, narrowed, range_segments};
use super::table::{RowPlace, RowTypes, table_name, table_of};
use crate::checkpoint::reading::under;
use crate::checkpoint::restore::SegmentReader;
use crate::error::{Error, Result};
use crate::id::{OperatorId, TableId};
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet};
use crate::manifest::{Manifest, OperatorManifest};
use crate::place::Store;
use crate::row::{Row, RowBatch, RowKey};
use crate::segment::SegmentRef;

/// How a place changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// Only the newer checkpoint has a row.
    Added,
    /// Only the older checkpoint has a row.
    Removed,
    /// Both checkpoints have rows, which differ.
    Changed,
}

/// A place that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange<'a> {
    /// Name of the operator.
    pub operator: &'a str,
    /// Name of the table.
    pub table: &'a str,
    /// Its key group.
    pub group: KeyGroup,
    /// How it changed.
    pub kind: ChangeKind,
    /// The place.
    pub place: RowPlace<'a>,
}

/// Counts of a table's changed places. A key counts once for each of its namespaces and sub-keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDiff {
    /// Name of the operator.
    pub operator: String,
    /// Name of the table.
    pub table: String,
    /// Places with a row only in the newer checkpoint.
    pub added: u64,
    /// Places with a row only in the older checkpoint.
    pub removed: u64,
    /// Places whose rows differ.
    pub changed: u64,
}

/// The differences between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// All tables of either checkpoint, by operator and id.
    pub tables: Vec<TableDiff>,
    /// Key groups that were read and compared.
    pub compared_groups: u64,
    /// Key groups with the same segments on both sides.
    pub same_groups: u64,
}

impl Diff {
    /// Returns whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.added == 0 && table.removed == 0 && table.changed == 0)
    }
}

/// Compares two checkpoints. Calls `each` with every changed place.
///
/// * `from`, `to`: checkpoints of one job, resolved.
///
/// # Errors
/// `Config` if they are not of one job; `NotFound` if one was dropped meanwhile; `Corrupt`, `Version` or `Unavailable`
/// from the store; any error of `each`.
///
/// # Cost
/// Reads the groups whose segments differ, on both sides. Memory for 64 MiB of stored blocks per side, or one group if
/// that is larger.
pub async fn diff(
    store: &Store,
    from: &Manifest,
    to: &Manifest,
    mut each: impl FnMut(RowChange<'_>) -> Result<()>,
) -> Result<Diff> {
    if (from.job, from.max_parallelism, from.partitioner) != (to.job, to.max_parallelism, to.partitioner) {
        return Err(Error::config("checkpoints are not of one job").with("from", from.job).with("to", to.job));
    }
    under(store, from.seq, under(store, to.seq, compare(store, from, to, &mut each))).await
}

async fn compare(
    store: &Store,
    from: &Manifest,
    to: &Manifest,
    each: &mut impl FnMut(RowChange<'_>) -> Result<()>,
) -> Result<Diff> {
    let mut total = Diff::default();
    let all = from.operators.iter().chain(&to.operators).map(|operator| operator.id);
    for id in all.collect::<std::collections::BTreeSet<_>>() {
        let mut pair = Pair::new(find(from, id), find(to, id))?;
        pair.compare(store, &mut total, each).await?;
        total.tables.extend(pair.tables.into_values().map(|table| table.counts));
    }
    Ok(total)
}

fn find(manifest: &Manifest, id: OperatorId) -> Option<&OperatorManifest> {
    manifest.operators.iter().find(|operator| operator.id == id)
}

/// An operator of both checkpoints.
struct Pair<'a> {
    from: Option<&'a OperatorManifest>,
    to: Option<&'a OperatorManifest>,
    tables: BTreeMap<TableId, Compared>,
}

/// A table under comparison.
struct Compared {
    types: RowTypes,
    counts: TableDiff,
}

impl<'a> Pair<'a> {
    fn new(from: Option<&'a OperatorManifest>, to: Option<&'a OperatorManifest>) -> Result<Self> {
        let mut pair = Self { from, to, tables: BTreeMap::new() };
        for table in to.into_iter().chain(from).flat_map(|operator| &operator.tables) {
            let other = from.and_then(|operator| table_of(operator, table.id));
            if let Some(other) = other.filter(|other| other.name != table.name) {
                let error = Error::config("the checkpoints number their tables differently");
                return Err(error.with("from", &other.name).with("to", &table.name));
            }
            pair.table(table.id);
        }
        Ok(pair)
    }

    fn table(&mut self, id: TableId) -> &mut Compared {
        let (from, to) = (self.from, self.to);
        self.tables.entry(id).or_insert_with(|| {
            let described = [to, from].into_iter().flatten().find(|operator| table_of(operator, id).is_some());
            let types =
                described.and_then(|operator| table_of(operator, id)).map_or_else(RowTypes::unknown, RowTypes::of);
            let operator = to.or(from).map(|operator| operator.name.clone()).unwrap_or_default();
            let counts = TableDiff { operator, table: table_name(described, id), added: 0, removed: 0, changed: 0 };
            Compared { types, counts }
        })
    }

    async fn compare(
        &mut self,
        store: &Store,
        total: &mut Diff,
        each: &mut impl FnMut(RowChange<'_>) -> Result<()>,
    ) -> Result<()> {
        let ranges_of =
            |side: Option<&OperatorManifest>| side.map(range_segments).transpose().map(Option::unwrap_or_default);
        let (from, to) = (ranges_of(self.from)?, ranges_of(self.to)?);
        let mut batches = [RowBatch::new(), RowBatch::new()];
        // Expired rows count as long as they are stored: the two sides have different times.
        let folding =
            |side: Option<&OperatorManifest>| side.map(|operator| Folding::new(operator, None)).unwrap_or_default();
        let folds = [folding(self.from), folding(self.to)];
        for range in common_ranges(&from, &to) {
            let sides = [segments_at(&from, range), segments_at(&to, range)];
            if sides.iter().all(|segments| segments.is_empty()) {
                continue;
            }
            let differing: KeyGroupSet =
                KeyGroupSet::from(range).iter().filter(|&group| lists_differ(&sides, group)).collect();
            let same = range.len().saturating_sub(differing.len());
            total.compared_groups = total.compared_groups.saturating_add(differing.len() as u64);
            total.same_groups = total.same_groups.saturating_add(same as u64);
            let old = SegmentReader::open(store, &narrowed(sides[0], &differing)).await?;
            let new = SegmentReader::open(store, &narrowed(sides[1], &differing)).await?;
            let parts = old.parts(&differing, PART_BYTES);
            for part in parts.iter().flat_map(|part| new.parts(part, PART_BYTES)) {
                let (old, new) = (old.fetch(&part).await?, new.fetch(&part).await?);
                for group in part.iter() {
                    let [before, after] = &mut batches;
                    let before = Side::new(folds[0].rows(&*old, group), before);
                    let after = Side::new(folds[1].rows(&*new, group), after);
                    merge(before, after, |kind, key| self.count(group, kind, key, each))?;
                }
            }
        }
        Ok(())
    }

    fn count(
        &mut self,
        group: KeyGroup,
        kind: ChangeKind,
        key: &RowKey<'_>,
        each: &mut impl FnMut(RowChange<'_>) -> Result<()>,
    ) -> Result<()> {
        let Compared { types, counts } = self.table(key.table);
        let count = match kind {
            ChangeKind::Added => &mut counts.added,
            ChangeKind::Removed => &mut counts.removed,
            ChangeKind::Changed => &mut counts.changed,
        };
        *count = count.saturating_add(1);
        let place = types.place(key).map_err(|error| error.with("table", &counts.table))?;
        each(RowChange { operator: &counts.operator, table: &counts.table, group, kind, place })
    }
}

/// Divides all groups at the bounds of both sides, so that each side has at most one owner per range.
fn common_ranges(from: &[RangeSegments], to: &[RangeSegments]) -> Vec<KeyGroupRange> {
    let both = || from.iter().chain(to).map(|owned| owned.range);
    let mut bounds: Vec<_> = both().flat_map(|range| [range.start, range.end]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let ranges = bounds.iter().zip(bounds.iter().skip(1)).map(|(&start, &end)| KeyGroupRange::new(start, end));
    ranges.filter(|range| both().any(|owned| !owned.intersection(*range).is_empty())).collect()
}

fn segments_at(ranges: &[RangeSegments], range: KeyGroupRange) -> &[SegmentRef] {
    let owner = ranges.iter().find(|owned| !owned.range.intersection(range).is_empty());
    owner.map_or(&[], |owner| &owner.segments)
}

fn lists_differ(sides: &[&[SegmentRef]; 2], group: KeyGroup) -> bool {
    // Data objects never change, so the same slice has the same rows.
    let [from, to] = sides.map(|segments| {
        let having = segments.iter().filter(move |segment| segment.groups.contains(group));
        having.map(|segment| (segment.object, segment.offset))
    });
    !from.eq(to)
}

/// The live rows of a group on one side, place by place.
struct Side<'a> {
    rows: LiveRows<'a>,
    batch: &'a mut RowBatch,
    /// Rows of the batch already consumed.
    done: usize,
}

impl<'a> Side<'a> {
    fn new(rows: LiveRows<'a>, batch: &'a mut RowBatch) -> Self {
        batch.clear();
        Self { rows, batch, done: 0 }
    }

    /// Ensures that the batch has the rows of the next place, if there is one.
    fn fill(&mut self) -> Result<()> {
        if self.done >= self.batch.len() {
            self.done = 0;
            self.rows.next_batch(self.batch)?;
        }
        Ok(())
    }

    fn place(&self) -> Option<RowKey<'_>> {
        self.batch.iter_from(self.done).next().map(|row| row.key)
    }

    /// Returns the number of rows of the next place: one, or a base and its operands.
    fn count(&self) -> usize {
        let place = self.place();
        self.batch.iter_from(self.done).take_while(|row| Some(row.key) == place).count()
    }

    /// Returns the rows of the next place.
    fn next_rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.batch.iter_from(self.done).take(self.count())
    }
}

/// Walks both sides of a group. Calls `found` with every place whose rows differ.
fn merge(
    mut before: Side<'_>,
    mut after: Side<'_>,
    mut found: impl FnMut(ChangeKind, &RowKey<'_>) -> Result<()>,
) -> Result<()> {
    loop {
        before.fill()?;
        after.fill()?;
        let (kind, place) = match (before.place(), after.place()) {
            (None, None) => return Ok(()),
            (Some(old), new) if new.is_none_or(|new| old < new) => (ChangeKind::Removed, old),
            (old, Some(new)) if old.is_none_or(|old| new < old) => (ChangeKind::Added, new),
            (Some(place), _) | (None, Some(place)) => (ChangeKind::Changed, place),
        };
        if kind != ChangeKind::Changed || !before.next_rows().eq(after.next_rows()) {
            found(kind, &place)?;
        }
        let (old, new) = (before.count(), after.count());
        before.done += if kind == ChangeKind::Added { 0 } else { old };
        after.done += if kind == ChangeKind::Removed { 0 } else { new };
    }
}
