//! One job's keyed state held three times: in the backends under test, in overlay backends, and in a map.

mod absent;
mod job;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use alluvium::backend::conformance::{History, PARTITIONER, RowId};
use alluvium::backend::{
    Append, Fold, MergeOperator, RowBatch, RowRef, RowSource, Rules, Scope, StateBackend, TableRules, Ttl, Upgrade,
};
use alluvium::{
    CurrentKey, DiskTier, KeyGroup, KeyGroupSet, LogBackend, MemoryBudget, Outcome, OverlayBackend, Result, TableId,
    Timestamp, subtask_range,
};

use self::job::Job;
use crate::ColdFile;

/// The number of key groups: sometimes more than the subtasks', always fewer than keys.
pub const GROUPS: u16 = 11;

/// Tables, one per kind of row: see [`rules`].
pub const TABLES: u32 = 8;

const ORDERED: u32 = 1;
const LIST: u32 = 3;
const SUM: u32 = 4;
const LIST_EXPIRES: u32 = 5;
const VALUE_EXPIRES: u32 = 6;
/// Values start with the version that wrote them; a crash moves to a newer version.
const VERSIONED: u32 = 7;

/// The time to live of rows.
const TTL: i64 = 100;

/// Adds bytes with wrap-around; values may differ in length.
#[derive(Debug)]
struct Sum;

impl MergeOperator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend((0..older.len().max(newer.len())).map(|i| {
            let byte = |of: &[u8]| of.get(i).copied().unwrap_or(0);
            byte(older).wrapping_add(byte(newer))
        }));
        Ok(())
    }
}

/// Upgrades older values to the current version.
#[derive(Debug)]
struct Renumber(u32);

impl Upgrade for Renumber {
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        assert_eq!(
            bytes.first().copied().map(u32::from),
            Some(from),
            "a row has the version that it was written under"
        );
        out.push(u8::try_from(self.0).unwrap());
        out.extend_from_slice(&bytes[1..]);
        Ok(())
    }
}

/// Returns a value's bytes as a table stores them under `version`.
fn stored_bytes(table: u32, version: u32, value: Vec<u8>) -> Vec<u8> {
    if table == VERSIONED { [vec![u8::try_from(version).unwrap()], value].concat() } else { value }
}

fn rules(table: u32, version: u32) -> Option<TableRules> {
    let ttl = |on_read| Some(Ttl { millis: TTL.unsigned_abs(), on_read, ..Ttl::default() });
    let plain = TableRules::default();
    Some(match table {
        ORDERED => TableRules { ordered: true, ..plain },
        LIST => TableRules { merge: Some(Arc::new(Append)), ..plain },
        SUM => TableRules { merge: Some(Arc::new(Sum)), ..plain },
        LIST_EXPIRES => TableRules { merge: Some(Arc::new(Append)), ttl: ttl(false), ..plain },
        VALUE_EXPIRES => TableRules { ttl: ttl(true), ..plain },
        VERSIONED => TableRules { version, upgrade: Some(Arc::new(Renumber(version))), ..plain },
        _ => return None,
    })
}

/// Returns the rules of all tables at time `clock`.
fn all_rules(clock: i64, version: u32) -> Rules {
    let mut all = Rules::none();
    for table in 0..TABLES {
        rules(table, version).into_iter().for_each(|rules| all.define(TableId(table), rules));
    }
    all.advance(Timestamp::MIN, Timestamp::from_millis(clock));
    all
}

/// A row's value, in pieces with their stamps.
type Pieces = Vec<(Vec<u8>, i64)>;

#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub table: u32,
    pub key: u16,
    pub namespace: u8,
    pub sub: u8,
}

#[derive(Debug, Clone, Copy)]
pub struct Length(pub usize);

#[derive(Debug, Clone, Copy)]
pub enum Action {
    Put(Length),
    /// Reads the value and writes it back, longer.
    Append(Length),
    /// Reads the value.
    Keep,
    Delete,
    UpdateDelete,
    Merge(Length),
    /// Changes the last byte of a value that has several.
    Edit,
}

fn edit(value: &mut [u8]) {
    if let [_, .., last] = value {
        *last = !*last;
    }
}

#[derive(Debug, Clone)]
pub enum Step {
    Write(Place, Action),
    /// Puts a range of keys.
    Fill(Place, u16, Length),
    /// Deletes a range of keys.
    Clear(Place, u16),
    /// Clears a key, a key's namespace, or a namespace.
    ClearScope(Place, u8),
    /// Scans the rows of a key whose sub-keys lie between these bounds.
    ScanKey(Place, [u8; 2]),
    /// Advances the clock.
    Tick(u16),
    /// Ends a part, and possibly the epoch; `bases` selects groups by bit.
    Seal {
        next_epoch: bool,
        bases: u16,
    },
    /// Settles an earlier epoch.
    Settle {
        age: u64,
        commit: bool,
    },
    /// Loses everything not sealed and restores at this parallelism; `lazy`: groups are absent until they are used.
    Crash {
        parallelism: u32,
        lazy: bool,
    },
    /// Makes groups absent, selected by bit, that have no writes since the last seal.
    Evict(u16),
    /// Seals, and moves groups between the running subtasks and new ones.
    Rescale(u32),
}

/// The backends under test, the overlays and the model, which must all agree.
pub struct World<B> {
    tested: Job<B>,
    overlay: Job<OverlayBackend>,
    clock: i64,
    /// Whether any scope was cleared.
    cleared: bool,
    model: BTreeMap<RowId, Pieces>,
    /// The model at the last seal: the state after a crash.
    sealed: BTreeMap<RowId, Pieces>,
    epoch: u64,
    part: u32,
    /// Epochs sealed by the running backends.
    epochs: Vec<u64>,
}

fn budget() -> MemoryBudget {
    MemoryBudget::new(u64::MAX)
}

impl World<LogBackend> {
    /// Returns a world on log backends.
    ///
    /// * `beyond`: the bytes of memory beyond which they move cold state to a disk.
    pub fn of_logs(parallelism: u32, on_heap: bool, beyond: Option<u64>) -> Self {
        let budget = match beyond {
            None => budget(),
            Some(bytes) => budget().with_disk_beyond(DiskTier::on_file(ColdFile::default(), u64::MAX), bytes),
        };
        let make = move |groups| match on_heap {
            false => LogBackend::new(groups, PARTITIONER, budget.clone()),
            true => LogBackend::on_heap(groups, PARTITIONER, budget.clone()),
        };
        Self::new(make, true, parallelism)
    }
}

impl<B: StateBackend> World<B> {
    /// Returns a world on backends made by `make`.
    ///
    /// * `counts`: whether the backends count their rows; otherwise they estimate.
    pub fn new(make: impl Fn(KeyGroupSet) -> B + 'static, counts: bool, parallelism: u32) -> Self {
        Self {
            tested: Job::new(make, counts, parallelism),
            overlay: Job::new(|groups| OverlayBackend::new(groups, budget()), true, parallelism),
            clock: 0,
            cleared: false,
            model: BTreeMap::new(),
            sealed: BTreeMap::new(),
            epoch: 1,
            part: 0,
            epochs: Vec::new(),
        }
    }

    /// Applies a step to all three, and compares them.
    pub fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(place, action) => self.write(place, action),
            Step::Fill(place, count, length) => {
                (0..count).for_each(|i| self.write(Place { key: place.key + i, ..place }, Action::Put(length)));
            }
            Step::Clear(place, count) => {
                (0..count).for_each(|i| self.write(Place { key: place.key + i, ..place }, Action::Delete));
            }
            Step::ClearScope(place, scope) => self.clear(place, scope),
            Step::ScanKey(place, bounds) => self.scan_key(place, bounds),
            Step::Tick(millis) => {
                self.clock += i64::from(millis);
                self.tested.tick(self.clock);
                self.overlay.tick(self.clock);
            }
            Step::Seal { next_epoch, bases } => self.seal(next_epoch, bases),
            Step::Settle { age, commit } => {
                let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                if let Some(&epoch) = self.epochs.iter().rev().nth(usize::try_from(age).unwrap()) {
                    self.tested.settle(epoch, outcome);
                    self.overlay.settle(epoch, outcome);
                    self.compare();
                }
            }
            Step::Crash { parallelism, lazy } => {
                self.tested.crash(parallelism, lazy);
                self.overlay.crash(parallelism, lazy);
                self.model.clone_from(&self.sealed);
                self.epochs.clear();
                // A comparison would load all groups.
                if !lazy {
                    self.compare();
                }
            }
            Step::Evict(groups) => {
                self.tested.evict(groups);
                self.overlay.evict(groups);
            }
            Step::Rescale(parallelism) => {
                self.seal(true, 0);
                self.tested.rescale(parallelism);
                self.overlay.rescale(parallelism);
                self.epochs.clear();
                self.compare();
            }
        }
    }

    fn write(&mut self, place: Place, action: Action) {
        let owned = OwnedRow::of(place);
        let key = owned.key();
        let (row, id) = (owned.row(&key), owned.id());
        let old = self.visible(&id);
        let now = self.clock;
        match action {
            Action::Put(length) => drop(self.model.insert(id.clone(), vec![(value(length, None), now)])),
            Action::Append(length) => {
                let grown = value(length, old.as_deref());
                self.model.insert(id.clone(), vec![(grown, now)]);
            }
            Action::Keep => {}
            Action::Merge(_) if !merges(row.table) => {}
            Action::Merge(length) if row.table.0 == SUM => {
                let mut sum = Vec::new();
                Sum.merge(&old.unwrap_or_default(), &value(length, None), &mut sum).unwrap();
                self.model.insert(id.clone(), vec![(sum, now)]);
            }
            Action::Merge(length) => self.model.entry(id.clone()).or_default().push((value(length, None), now)),
            Action::Delete | Action::UpdateDelete => drop(self.model.remove(&id)),
            Action::Edit => {
                if let Some(mut stored) = old {
                    edit(&mut stored);
                    let prefix = stored_bytes(row.table.0, 0, Vec::new()).len();
                    self.model.insert(id.clone(), vec![(stored.split_off(prefix), now)]);
                }
            }
        }
        let expected = self.visible(&id);
        if row.table.0 == VALUE_EXPIRES && expected.is_some() {
            // The read happens now.
            self.model.entry(id).and_modify(|pieces| pieces[0].1 = now);
        }
        assert_eq!(self.tested.act(row, action), expected);
        assert_eq!(self.overlay.act(row, action), expected);
    }

    /// Returns a row's current value.
    fn visible(&self, id: &RowId) -> Option<Vec<u8>> {
        let expires = [LIST_EXPIRES, VALUE_EXPIRES].contains(&id.1.0);
        let pieces = self.model.get(id)?.iter().filter(|(_, stamp)| !expires || stamp + TTL > self.clock);
        let living: Vec<_> = pieces.map(|(bytes, _)| bytes.as_slice()).collect();
        (!living.is_empty()).then(|| stored_bytes(id.1.0, self.tested.version, living.concat()))
    }

    fn clear(&mut self, place: Place, scope: u8) {
        self.cleared = true;
        let owned = OwnedRow::of(place);
        let key = owned.key();
        let row = owned.row(&key);
        let scope = match scope {
            0 => Scope::Key(row.key),
            1 => Scope::KeyNamespace(row.key, row.namespace),
            _ => Scope::Namespace(row.key.group, row.namespace),
        };
        let named = scope.place(row.table);
        self.model.retain(|(group, table, key, namespace, _), _| {
            *table != row.table
                || *group != row.key.group
                || named.key.is_some_and(|named| named != key)
                || named.namespace.is_some_and(|named| named != namespace)
        });
        self.tested.clear(row.table, scope);
        self.overlay.clear(row.table, scope);
    }

    fn scan_key(&mut self, place: Place, bounds: [u8; 2]) {
        let owned = OwnedRow::of(place);
        let key = owned.key();
        let row = owned.row(&key);
        let [first, last] = bounds.map(|bound| vec![b's'; usize::from(bound)]);
        let range = (Bound::Included(first.as_slice()), Bound::Excluded(last.as_slice()));
        let (from, to) = (owned.with_sub(&first), owned.with_sub(&last));
        let ids: Vec<_> =
            if from < to { self.model.range(from..to).map(|(id, _)| id.clone()).collect() } else { vec![] };
        let expected: Vec<_> = ids.iter().filter_map(|id| Some((id.4.clone(), self.visible(id)?))).collect();
        assert_eq!(self.tested.scan_key(row, range), expected);
        assert_eq!(self.overlay.scan_key(row, range), expected);
    }

    fn seal(&mut self, next_epoch: bool, bases: u16) {
        // Deltas may differ in row counts: the tested backend may ship a tombstone that the overlay knows to be
        // redundant; the overlay may ship a clear that covers only tombstones, or rows that the tested backend knows to
        // be expired.
        let [tested, overlay] =
            [self.tested.seal(self.epoch, self.part, bases), self.overlay.seal(self.epoch, self.part, bases)];
        assert!(tested >= overlay || self.cleared || self.clock > 0, "{tested} < {overlay}");
        self.sealed.clone_from(&self.model);
        if self.epochs.last() != Some(&self.epoch) {
            self.epochs.push(self.epoch);
        }
        self.part += 1;
        if next_epoch {
            (self.epoch, self.part) = (self.epoch + 1, 0);
        }
        compare_restores(&self.tested.history, &self.overlay.history, &all_rules(self.clock, self.tested.version));
    }

    fn compare(&mut self) {
        let expected: BTreeMap<_, _> =
            self.model.keys().filter_map(|id| Some((id.clone(), self.visible(id)?))).collect();
        assert_eq!(self.tested.contents(), expected);
        assert_eq!(self.overlay.contents(), expected);
    }
}

/// A place, encoded and located.
struct OwnedRow {
    table: TableId,
    number: u16,
    key: String,
    namespace: Vec<u8>,
    sub: Vec<u8>,
}

impl OwnedRow {
    fn of(place: Place) -> Self {
        let repeated = |byte: u8, times: u8| vec![byte; usize::from(times)];
        Self {
            table: TableId(place.table),
            number: place.key,
            key: place.key.to_string(),
            namespace: repeated(b'n', place.namespace),
            sub: repeated(b's', place.sub),
        }
    }

    fn key(&self) -> CurrentKey<'_> {
        let located = PARTITIONER.locate(self.key.as_bytes(), 0, GROUPS);
        // Some rows carry a routing hash supplied by an engine.
        let routing = self.number.is_multiple_of(5).then_some(u64::from(self.number) << 40);
        CurrentKey { routing, ..located }
    }

    fn row<'a>(&'a self, key: &'a CurrentKey<'a>) -> RowRef<'a> {
        RowRef { table: self.table, key, namespace: &self.namespace, sub: &self.sub }
    }

    fn id(&self) -> RowId {
        self.with_sub(&self.sub)
    }

    fn with_sub(&self, sub: &[u8]) -> RowId {
        let key = self.key.as_bytes().to_vec();
        (self.key().group, self.table, key, self.namespace.clone(), sub.to_vec())
    }
}

fn merges(table: TableId) -> bool {
    [LIST, SUM, LIST_EXPIRES].contains(&table.0)
}

fn range(parallelism: u32, subtask: u32) -> KeyGroupSet {
    subtask_range(GROUPS, parallelism, subtask).into()
}

/// Returns a value of this length that identifies the value it replaced.
fn value(length: Length, before: Option<&[u8]>) -> Vec<u8> {
    let seed =
        before.map_or(7, |bytes| bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 8191 + usize::from(*byte)));
    let longer = length.0 + before.map_or(0, |bytes| bytes.len().min(400));
    (0..longer).map(|i| u8::try_from((seed + i * 13) % 251).unwrap()).collect()
}

/// Compares the rows that a restore would read, routing hashes included.
fn compare_restores(left: &History, right: &History, rules: &Rules) {
    let mut batches = [RowBatch::new(), RowBatch::new()];
    for group in (0..GROUPS).map(KeyGroup) {
        for (batch, history) in batches.iter_mut().zip([left, right]) {
            batch.clear();
            history.append_group(group, batch).unwrap();
            batch.fold(Fold::Base, rules).unwrap();
        }
        let [left, right] = &batches;
        for (left, right) in left.iter().zip(right.iter()) {
            assert_eq!(left, right, "group {group}");
        }
        assert_eq!(left.len(), right.len(), "group {group}");
    }
}
