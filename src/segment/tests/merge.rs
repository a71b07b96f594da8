//! Merging the rows of a group in batches.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::run::spill;
use super::super::{Compression, EncodeOptions, SegmentRows, SegmentWriter};
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::{
    Append, Bounds, Columns, Fold, FoldedGroup, Op, Row, RowBatch, RowKey, RowSource, Rules, SegmentKind, Stack,
    TableRules,
};

const GROUP: KeyGroup = KeyGroup(3);
/// All rows in one batch.
const WHOLE: Bounds = Bounds { appended_bytes: u64::MAX, decoded_bytes: usize::MAX, batch_bytes: usize::MAX };

/// A generated row: table, key, namespace, sub-key, op, and the length of its value.
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

/// Returns a segment of rows, given in write order.
fn segment(rows: &[(usize, Made)]) -> Arc<dyn RowSource> {
    let mut batch = RowBatch::new();
    rows.iter().for_each(|(number, made)| push(&mut batch, *number, made));
    batch.fold(Fold::Delta, &Rules::none()).unwrap();
    // Blocks also have rows of a lower and of a higher group.
    let groups = KeyGroupSet::all(8);
    let options = EncodeOptions { codec: Compression::None };
    let mut writer = SegmentWriter::new(SegmentKind::Delta, groups, options).unwrap();
    let mut other = RowBatch::new();
    push(&mut other, 0, &(0, Some(0), Some(0), Some(0), 0, 3));
    other.iter().for_each(|row| writer.push(KeyGroup(1), &row).unwrap());
    batch.iter().for_each(|row| writer.push(GROUP, &row).unwrap());
    other.iter().for_each(|row| writer.push(KeyGroup(5), &row).unwrap());
    let encoded = writer.finish().unwrap();
    Arc::new(SegmentRows::open(encoded.bytes, &encoded.index_hash).unwrap())
}

/// Unsorted rows.
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

/// Returns all rows as text, and the number of batches.
fn read(bounds: Bounds, rows: &dyn RowSource, keep: Fold, rules: &Rules) -> (Vec<String>, usize) {
    let mut folded = FoldedGroup::within(bounds, rows, GROUP, keep, rules).spilling(spill);
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

    /// Merging in batches gives the same rows as one fold, however rows are divided into segments and blocks.
    #[test]
    fn batches_together_equal_one_fold(
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
        // A clear removes no row of its own segment, so unsorted rows may fold differently from sorted ones.
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
