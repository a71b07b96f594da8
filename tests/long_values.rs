//! Merged values stay within the length limit in every backend, and an overlong row blocks no checkpoint.

#[cfg(feature = "rocksdb")]
use std::sync::atomic::{AtomicU32, Ordering};

use alluvium::backend::conformance::{History, PARTITIONER};
use alluvium::backend::{
    Columns, Cut, MAX_VALUE_BYTES, Op, Part, Row, RowBatch, RowKey, RowSource, Sealed, StateBackend,
};
use alluvium::internals::segment::{Compression, EncodeOptions, encode};
use alluvium::{
    Aggregate, AggregatingState, Epoch, ErrorKind, KeyGroup, KeyGroupSet, KeyedState, ListState, LogBackend,
    MemoryBudget, OverlayBackend, Raw, ReducingState, Result, Schema, Tables, Timestamp,
};

const GROUPS: u16 = 2;
const MIB: usize = 1 << 20;

/// Appends bytes without limit, as a user's function might.
#[derive(Debug)]
struct Concat;

impl Aggregate for Concat {
    type Input = Vec<u8>;
    type Accumulator = Vec<u8>;
    type Output = usize;

    fn name(&self) -> &'static str {
        "concat"
    }

    fn create(&self) -> Vec<u8> {
        Vec::new()
    }

    fn add(&self, accumulator: &mut Vec<u8>, input: &Vec<u8>) {
        accumulator.extend_from_slice(input);
    }

    fn merge(&self, older: Vec<u8>, newer: Vec<u8>) -> Vec<u8> {
        [older, newer].concat()
    }

    fn result(&self, accumulator: &Vec<u8>) -> usize {
        accumulator.len()
    }
}

struct Kinds {
    list: ListState<Vec<u8>, Raw>,
    reduced: ReducingState<Vec<u8>, Raw>,
    aggregated: AggregatingState<Concat, Raw>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    List,
    Reducing,
    Aggregating,
}

impl Kinds {
    fn declare(tables: &mut Tables) -> Self {
        Self {
            list: tables.list("list", Raw).unwrap(),
            reduced: tables.reducing("reduced", Raw, "concat", |older, newer| [older, newer].concat()).unwrap(),
            aggregated: tables.aggregating("aggregated", Raw, Concat).unwrap(),
        }
    }

    fn add<B: StateBackend>(&self, kind: Kind, state: &mut KeyedState<B>, bytes: usize) -> Result<()> {
        let value = vec![7; bytes];
        match kind {
            Kind::List => self.list.add(state, &value),
            Kind::Reducing => self.reduced.add(state, &value),
            Kind::Aggregating => self.aggregated.add(state, &value),
        }
    }

    /// Returns the number of added bytes.
    fn read<B: StateBackend>(&self, kind: Kind, state: &mut KeyedState<B>) -> usize {
        match kind {
            Kind::List => self.list.read(state).unwrap().iter().map(Vec::len).sum(),
            Kind::Reducing => self.reduced.read(state).unwrap().map_or(0, |value| value.len()),
            Kind::Aggregating => self.aggregated.read(state).unwrap().unwrap_or(0),
        }
    }

    fn clear<B: StateBackend>(&self, kind: Kind, state: &mut KeyedState<B>) {
        match kind {
            Kind::List => self.list.clear(state),
            Kind::Reducing => self.reduced.clear(state),
            Kind::Aggregating => self.aggregated.clear(state),
        }
        .unwrap();
    }
}

fn state<B: StateBackend>(backend: B) -> (KeyedState<B>, Kinds) {
    let mut tables = Tables::new(Schema::new("bytes"));
    let kinds = Kinds::declare(&mut tables);
    let mut state = KeyedState::new(backend, PARTITIONER, GROUPS, tables);
    state.set_key(b"k").unwrap();
    (state, kinds)
}

/// Seals, and encodes the parts as a checkpoint would; no row may make that fail.
fn seal<B: StateBackend>(state: &mut KeyedState<B>, epoch: u64, base: bool) -> Sealed {
    let cut = Cut {
        epoch: Epoch(epoch),
        part: Part(0),
        event_time: Timestamp::MIN,
        processing_time: Timestamp::from_millis(0),
    };
    let bases = if base { KeyGroupSet::all(GROUPS) } else { KeyGroupSet::empty() };
    let sealed = state.backend_mut().seal(cut, &bases).unwrap();
    // The large delta is skipped to save time.
    for part in sealed.parts.iter().filter(|_| base || epoch > 1) {
        encode(part, EncodeOptions { codec: Compression::None }).unwrap();
    }
    sealed
}

/// Adds to one row, across seals and within an epoch, until an add is refused.
fn assert_refused_at_the_limit<B: StateBackend>(kinds: &[Kind], make: impl Fn(KeyGroupSet) -> B) {
    for &kind in kinds {
        let (mut state, kinds) = state(make(KeyGroupSet::all(GROUPS)));
        let (mut added, mut history) = (0, History::default());
        for (epoch, more) in [(1, 57 * MIB), (2, MIB), (3, MIB)] {
            kinds.add(kind, &mut state, more).unwrap();
            added += more;
            history.add(seal(&mut state, epoch, false));
        }
        let refused = kinds.add(kind, &mut state, 6 * MIB).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Limit, "{kind:?}: {refused:?}");
        // The limit also holds within one epoch.
        kinds.add(kind, &mut state, 3 * MIB).unwrap();
        added += 3 * MIB;
        assert_eq!(kinds.add(kind, &mut state, 3 * MIB).unwrap_err().kind(), ErrorKind::Limit, "{kind:?}");
        assert_eq!(kinds.read(kind, &mut state), added, "{kind:?}: a refused add changes nothing");
        history.add(seal(&mut state, 4, true));
        drop(state);
        let (mut state, kinds) = self::state(make(KeyGroupSet::empty()));
        state.backend_mut().load(&history, &KeyGroupSet::all(GROUPS)).unwrap();
        assert_eq!(kinds.read(kind, &mut state), added, "{kind:?}: restored");
        assert_eq!(kinds.add(kind, &mut state, 4 * MIB).unwrap_err().kind(), ErrorKind::Limit, "{kind:?}");
        kinds.clear(kind, &mut state);
        kinds.add(kind, &mut state, 4 * MIB).unwrap();
        assert_eq!(kinds.read(kind, &mut state), 4 * MIB, "{kind:?}: after the clear");
    }
}

/// Rows whose pieces together exceed the limit, as stored by a backend that does not check it.
#[derive(Debug)]
struct TooLong(KeyGroupSet);

const PIECE_BYTES: usize = 33 * MIB;

impl RowSource for TooLong {
    fn groups(&self) -> &KeyGroupSet {
        &self.0
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        if PARTITIONER.locate(b"k", 0, GROUPS).group != group {
            return Ok(());
        }
        let mut tables = Tables::new(Schema::new("bytes"));
        let kinds = Kinds::declare(&mut tables);
        let piece = vec![7; PIECE_BYTES];
        for op in [Op::Put(&piece), Op::Merge(&piece)] {
            let key = RowKey::data(kinds.reduced.table(), b"k", b"", b"");
            batch.push(&Row { key, op, columns: Columns::default() })?;
        }
        // A list element begins with its length.
        let element = [&[0x80, 0x80, 0xc0, 0x10][..], &piece].concat();
        for op in [Op::Put(&element), Op::Merge(&element)] {
            let key = RowKey::data(kinds.list.table(), b"k", b"", b"");
            batch.push(&Row { key, op, columns: Columns::default() })?;
        }
        Ok(())
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

/// Overlong rows are read, copied and stored in pieces, and refuse further adds.
fn assert_stored_in_pieces<B: StateBackend>(make: impl Fn(KeyGroupSet) -> B) {
    let (mut state, kinds) = state(make(KeyGroupSet::empty()));
    state.backend_mut().load(&TooLong(KeyGroupSet::all(GROUPS)), &KeyGroupSet::all(GROUPS)).unwrap();
    let mut history = History::default();
    for (epoch, base) in [(1, false), (2, true)] {
        for kind in [Kind::List, Kind::Reducing] {
            assert_eq!(kinds.read(kind, &mut state), 2 * PIECE_BYTES, "{kind:?}");
            assert_eq!(kinds.add(kind, &mut state, 1).unwrap_err().kind(), ErrorKind::Limit, "{kind:?}");
        }
        kinds.aggregated.add(&mut state, &vec![1]).unwrap();
        history.add(seal(&mut state, epoch, base));
    }
    let (mut state, kinds) = self::state(make(KeyGroupSet::empty()));
    state.backend_mut().load(&history, &KeyGroupSet::all(GROUPS)).unwrap();
    assert_eq!(kinds.read(Kind::List, &mut state), 2 * PIECE_BYTES);
    assert_eq!(kinds.read(Kind::Aggregating, &mut state), 2);
    const { assert!(2 * PIECE_BYTES > MAX_VALUE_BYTES) };
}

fn log(groups: KeyGroupSet) -> LogBackend {
    LogBackend::new(groups, PARTITIONER, MemoryBudget::new(u64::MAX))
}

fn overlay(groups: KeyGroupSet) -> OverlayBackend {
    OverlayBackend::new(groups, MemoryBudget::new(u64::MAX))
}

#[test]
fn f18_the_log_refuses_what_makes_a_row_too_long() {
    assert_refused_at_the_limit(&[Kind::List, Kind::Reducing, Kind::Aggregating], log);
}

#[test]
fn the_overlay_refuses_adds_beyond_the_limit() {
    assert_refused_at_the_limit(&[Kind::List, Kind::Aggregating], overlay);
}

#[test]
fn f18_a_row_that_is_too_long_stops_no_checkpoint() {
    assert_stored_in_pieces(log);
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_refuses_adds_beyond_the_limit_and_stores_overlong_rows() {
    use alluvium::{RocksDb, RocksDbSettings};

    let folder = tempfile::tempdir().unwrap();
    let settings = RocksDbSettings::new(folder.path()).with(|it| it.memory_bytes = 64 << 20);
    let (rocksdb, made) = (RocksDb::new(settings).unwrap(), AtomicU32::new(0));
    let make = |groups| {
        let name = made.fetch_add(1, Ordering::Relaxed).to_string();
        rocksdb.backend(&name, groups, MemoryBudget::new(u64::MAX)).unwrap()
    };
    assert_refused_at_the_limit(&[Kind::List, Kind::Aggregating], make);
    assert_stored_in_pieces(make);
}
