//! Sorted runs are loaded newest first into the same state as the same rows folded.

use std::num::NonZeroUsize;
use std::sync::Arc;

use alluvium::backend::{
    Append, Columns, Cut, Op, Part, Row, RowBatch, RowKey, RowSource, Rules, SealedPart, SegmentKind, Stack,
    StateBackend, TableRules, Ttl, Upgrade,
};
use alluvium::internals::segment::{EncodeOptions, SegmentRows, encode};
use alluvium::{
    Epoch, ErrorKind, KeyGroup, KeyGroupSet, LogBackend, MemoryBudget, Partitioner, Result, TableId, Timestamp,
};
use proptest::prelude::*;

const GROUPS: u16 = 2;
const PLAIN: TableId = TableId(900);
const SCOPED: TableId = TableId(7);
const LISTS: TableId = TableId(55);
const VERSIONED: TableId = TableId(3);
const EXPIRING: TableId = TableId(12);

/// Rows of one epoch, oldest first.
#[derive(Debug, Clone, Default)]
struct Rows(Vec<(KeyGroup, Draw)>);

/// A drawn row.
#[derive(Debug, Clone)]
struct Draw {
    table: TableId,
    parts: [Vec<u8>; 3],
    kind: u8,
    value: Vec<u8>,
}

impl Draw {
    fn row(&self) -> Row<'_> {
        let [key, namespace, sub] = &self.parts;
        let (place, columns) = (RowKey::data(self.table, key, namespace, sub), Columns::default());
        let whole = |op| Row { key: place, op, columns };
        match (self.table, self.kind) {
            (_, 0..6) => whole(Op::Put(&self.value)),
            (LISTS, 6) => whole(Op::Merge(&self.value)),
            (SCOPED, 6) => Row { key: RowKey { sub: None, ..place }, op: Op::Clear, columns },
            (VERSIONED, 6) => Row { columns: Columns { schema: Some(2), ..columns }, ..whole(Op::Put(&self.value)) },
            (EXPIRING, 6) => Row { columns: Columns { stamp: Some(5), ..columns }, ..whole(Op::Put(&self.value)) },
            _ => whole(Op::Delete),
        }
    }
}

impl RowSource for Rows {
    fn groups(&self) -> &KeyGroupSet {
        static ALL: std::sync::LazyLock<KeyGroupSet> = std::sync::LazyLock::new(|| KeyGroupSet::all(GROUPS));
        &ALL
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.0.iter().filter(|(of, _)| *of == group).try_for_each(|(_, draw)| batch.push(&draw.row()))
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

/// Hides that rows are sorted.
#[derive(Debug)]
struct Unsorted<'a>(&'a Stack);

impl RowSource for Unsorted<'_> {
    fn groups(&self) -> &KeyGroupSet {
        self.0.groups()
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.0.append_group(group, batch)
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

/// Appends a mark to each value of an older version.
#[derive(Debug)]
struct Mark;

impl Upgrade for Mark {
    fn upgrade(&self, _version: u32, value: &[u8], to: &mut Vec<u8>) -> Result<()> {
        to.extend_from_slice(&[value, b"!"].concat());
        Ok(())
    }
}

fn backend() -> LogBackend {
    let partitioner = Partitioner::Range { seed: 3 };
    let mut backend = LogBackend::new(KeyGroupSet::empty(), partitioner, MemoryBudget::new(u64::MAX));
    backend = backend.with_load_threads(NonZeroUsize::new(3).unwrap());
    backend.define(LISTS, TableRules { merge: Some(Arc::new(Append)), ..TableRules::default() });
    backend.define(VERSIONED, TableRules { version: 2, upgrade: Some(Arc::new(Mark)), ..TableRules::default() });
    backend
}

/// Returns a backend with these rows: its counts, and all rows in the form of a segment.
fn loaded(rows: &dyn RowSource, expiring: bool) -> (u64, u64, Vec<u8>) {
    let mut backend = backend();
    if expiring {
        let ttl = Some(Ttl::default());
        backend.define(EXPIRING, TableRules { ttl, ..TableRules::default() });
    }
    backend.load(rows, &KeyGroupSet::all(GROUPS)).unwrap();
    let stats = backend.stats();
    assert_eq!((stats.dirty_rows, stats.dirty_bytes), (0, 0), "loaded rows are not dirty");
    let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
    let sealed = backend.seal(cut, &KeyGroupSet::all(GROUPS)).unwrap();
    let image = encode(&sealed.parts[0], EncodeOptions::default()).unwrap();
    (stats.rows, stats.live_bytes, image.bytes.to_vec())
}

fn segment(kind: SegmentKind, rows: Rows) -> Arc<dyn RowSource> {
    let part = SealedPart { kind, groups: KeyGroupSet::all(GROUPS), rows: Arc::new(rows), rules: Rules::none() };
    let encoded = encode(&part, EncodeOptions::default()).unwrap();
    Arc::new(SegmentRows::open(encoded.bytes, &encoded.index_hash).unwrap())
}

fn any_rows(tables: &'static [TableId]) -> impl Strategy<Value = Rows> {
    let part = |most: u8| prop::collection::vec(0..=most, 0..3);
    let value = prop_oneof![8 => prop::collection::vec(any::<u8>(), 0..20), 1 => Just(vec![7; 5_000])];
    let draw = (prop::sample::select(tables), part(2), part(1), part(1), 0..9u8, value);
    let row = (0..GROUPS, draw).prop_map(|(group, (table, key, namespace, sub, kind, value))| {
        let scope = |part: Vec<u8>| if table == PLAIN || table == LISTS { Vec::new() } else { part };
        (KeyGroup(group), Draw { table, parts: [key, scope(namespace), scope(sub)], kind, value })
    });
    prop::collection::vec(row, 0..60).prop_map(Rows)
}

/// Returns epochs of rows, the first of them a base.
fn any_history(tables: &'static [TableId]) -> impl Strategy<Value = Stack> {
    prop::collection::vec(any_rows(tables), 1..5).prop_map(|epochs| {
        let kind = |at| if at == 0 { SegmentKind::Base } else { SegmentKind::Delta };
        Stack::new(epochs.into_iter().enumerate().map(|(at, rows)| segment(kind(at), rows)).collect())
    })
}

fn check(history: &Stack, expiring: bool) {
    assert_eq!(loaded(history, expiring), loaded(&Unsorted(history), expiring));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plain_rows_load_as_they_fold(history in any_history(&[PLAIN])) {
        check(&history, false);
    }

    #[test]
    fn rows_of_many_kinds_load_as_they_fold(history in any_history(&[PLAIN, SCOPED, LISTS, VERSIONED, EXPIRING])) {
        check(&history, false);
        check(&history, true);
    }
}

/// Returns the memory of a backend with these rows, loaded by itself. An arena would keep the blocks that a load gave back.
fn held(rows: &dyn RowSource, expected: u64) -> u64 {
    let (partitioner, budget) = (Partitioner::Range { seed: 3 }, MemoryBudget::new(u64::MAX));
    let mut backend = LogBackend::on_heap(KeyGroupSet::empty(), partitioner, budget);
    backend.load(rows, &KeyGroupSet::all(GROUPS)).unwrap();
    assert_eq!(backend.stats().rows, expected);
    backend.stats().memory_bytes
}

fn draw(key: Vec<u8>, kind: u8) -> (KeyGroup, Draw) {
    (KeyGroup(0), Draw { table: PLAIN, parts: [key, Vec::new(), Vec::new()], kind, value: vec![1; 8] })
}

#[test]
fn deleted_rows_leave_nothing_in_memory() {
    let rows = |numbers: std::ops::Range<u16>, kind| {
        Rows(numbers.map(|number| draw(number.to_be_bytes().to_vec(), kind)).collect())
    };
    let base = segment(SegmentKind::Base, rows(0..5_000, 0));
    let history = Stack::new(vec![base, segment(SegmentKind::Delta, rows(1..5_000, 8))]);
    let (direct, folded) = (held(&history, 1), held(&Unsorted(&history), 1));
    assert!(direct <= folded + 4_096, "{direct} bytes, {folded} when folded");
}

#[test]
fn keys_that_are_short_in_segments_take_no_more_memory() {
    // In a segment, a key is its difference from the one before: the bytes of records are underestimated.
    let key = |number: u32| [&[7; 36][..], &number.to_be_bytes()].concat();
    let rows = Rows((0..20_000).map(|number| draw(key(number), 0)).collect());
    let history = Stack::new(vec![segment(SegmentKind::Base, rows)]);
    let (direct, folded) = (held(&history, 20_000), held(&Unsorted(&history), 20_000));
    assert!(direct * 10 <= folded * 11, "{direct} bytes, {folded} when folded");
}

#[test]
fn a_load_within_the_budget_is_not_refused_for_rows_that_newer_ones_hide() {
    let large = |byte| {
        let (group, draw) = draw(vec![1], 0);
        Rows(vec![(group, Draw { value: vec![byte; 600_000], ..draw })])
    };
    let history = Stack::new(vec![segment(SegmentKind::Base, large(1)), segment(SegmentKind::Delta, large(2))]);
    let load = |bytes| {
        let (partitioner, budget) = (Partitioner::Range { seed: 3 }, MemoryBudget::new(bytes));
        let mut backend = LogBackend::on_heap(KeyGroupSet::empty(), partitioner, budget);
        backend.load(&history, &KeyGroupSet::all(GROUPS))
    };
    load(1_000_000).unwrap();
    assert_eq!(load(500_000).unwrap_err().kind(), ErrorKind::Limit);
}
