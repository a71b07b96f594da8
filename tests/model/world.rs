//! A job's keyed state three times: in log backends, in overlay backends, in a map.

use std::collections::BTreeMap;

use alluvium::backend::conformance::{History, PARTITIONER, RowId, contents};
use alluvium::backend::{Change, LogBackend, Outcome, OverlayBackend, RowRef, StateBackend, Write};
use alluvium::id::{Epoch, Part, TableId};
use alluvium::key_group::{CurrentKey, KeyGroup, KeyGroupSet, owner, subtask_range};
use alluvium::memory::MemoryBudget;
use alluvium::segment::{Cut, Fold, RowBatch, RowSource, Rules};
use alluvium::time::Timestamp;

/// The number of key groups: more than subtasks at times, fewer than keys.
pub(crate) const GROUPS: u16 = 11;

const TABLES: [TableId; 3] = [TableId(0), TableId(1), TableId(2)];

#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: u32,
    pub(crate) key: u16,
    pub(crate) namespace: u8,
    pub(crate) sub: u8,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Length(pub(crate) usize);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Put(Length),
    /// Reads the value and puts it back, longer.
    Append(Length),
    /// Reads the value.
    Keep,
    Delete,
    UpdateDelete,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Write(Place, Action),
    /// Puts a range of keys.
    Fill(Place, u16, Length),
    /// Deletes a range of keys.
    Clear(Place, u16),
    /// Ends a part, and perhaps the epoch; groups of `bases` by bit.
    Seal {
        next_epoch: bool,
        bases: u16,
    },
    /// Settles an epoch some way back.
    Settle {
        age: u64,
        commit: bool,
    },
    /// Loses everything that was not sealed and restores at this parallelism.
    Crash(u32),
    /// Seals, and moves groups between the living subtasks and new ones.
    Rescale(u32),
}

/// The subtasks of one kind of backend, and what they sealed.
struct Job<B> {
    make: fn(KeyGroupSet) -> B,
    subtasks: Vec<B>,
    history: History,
}

impl<B: StateBackend> Job<B> {
    fn new(make: fn(KeyGroupSet) -> B, parallelism: u32) -> Self {
        let subtasks = (0..parallelism).map(|i| make(range(parallelism, i))).collect();
        Self { make, subtasks, history: History::default() }
    }

    fn owner(&mut self, group: KeyGroup) -> &mut B {
        let parallelism = u32::try_from(self.subtasks.len()).unwrap();
        &mut self.subtasks[owner(GROUPS, parallelism, group) as usize]
    }

    fn act(&mut self, row: RowRef<'_>, action: Action) -> Option<Vec<u8>> {
        let backend = self.owner(row.key.group);
        match action {
            Action::Put(length) => backend.write(row, Write::Put(&value(length, None))).unwrap(),
            Action::Delete => backend.write(row, Write::Delete).unwrap(),
            Action::Append(_) | Action::Keep | Action::UpdateDelete => {
                let update = |stored: Option<&[u8]>, scratch: &mut Vec<u8>| match action {
                    Action::Append(length) => {
                        scratch.extend(value(length, stored));
                        (Change::Put, ())
                    }
                    Action::UpdateDelete => (Change::Delete, ()),
                    _ => (Change::Keep, ()),
                };
                backend.update(row, update).unwrap();
            }
        }
        backend.read(row, |stored| stored.map(<[u8]>::to_vec)).unwrap()
    }

    fn seal(&mut self, epoch: u64, part: u32, bases: u16) -> u64 {
        let at = Timestamp::default();
        let cut = Cut { epoch: Epoch(epoch), part: Part(part), event_time: at, processing_time: at };
        let mut dirty_rows = 0;
        for backend in &mut self.subtasks {
            let wanted = backend.groups().iter().filter(|group| bases >> group.0 & 1 == 1).collect();
            let dirty = backend.stats().dirty_rows;
            let sealed = backend.seal(cut, &wanted).unwrap();
            assert_eq!((sealed.dirty_rows, backend.stats().dirty_rows), (dirty, 0));
            dirty_rows += dirty;
            self.history.add(sealed);
        }
        dirty_rows
    }

    fn settle(&mut self, epoch: u64, outcome: Outcome) {
        self.subtasks.iter_mut().for_each(|backend| backend.settle(Epoch(epoch), outcome).unwrap());
    }

    fn crash(&mut self, parallelism: u32) {
        self.subtasks.clear();
        for i in 0..parallelism {
            let mut backend = (self.make)(KeyGroupSet::empty());
            backend.load(&self.history, &range(parallelism, i)).unwrap();
            self.subtasks.push(backend);
        }
    }

    /// Each subtask gives up the groups that it loses and loads the ones that it gains.
    fn rescale(&mut self, parallelism: u32) {
        self.subtasks.resize_with(parallelism as usize, || (self.make)(KeyGroupSet::empty()));
        for (i, backend) in (0..).zip(&mut self.subtasks) {
            let wanted = range(parallelism, i);
            let owned = backend.groups().clone();
            backend.drop_groups(&owned.difference(&wanted)).unwrap();
            backend.load(&self.history, &wanted.difference(&owned)).unwrap();
        }
    }

    fn contents(&mut self) -> BTreeMap<RowId, Vec<u8>> {
        let mut all = BTreeMap::new();
        for backend in &mut self.subtasks {
            let rows = contents(backend, &TABLES).unwrap();
            let bytes = |(id, value): (&RowId, &Vec<u8>)| (id.2.len() + id.3.len() + id.4.len() + value.len()) as u64;
            let stats = backend.stats();
            assert_eq!((stats.rows, stats.live_bytes), (rows.len() as u64, rows.iter().map(bytes).sum()));
            all.extend(rows);
        }
        all
    }
}

/// What all of it must agree with.
pub(crate) struct World {
    log: Job<LogBackend>,
    overlay: Job<OverlayBackend>,
    model: BTreeMap<RowId, Vec<u8>>,
    /// The model at the last seal: what a crash goes back to.
    sealed: BTreeMap<RowId, Vec<u8>>,
    epoch: u64,
    part: u32,
    /// Epochs that the living backends sealed.
    epochs: Vec<u64>,
}

impl World {
    pub(crate) fn new(parallelism: u32) -> Self {
        fn budget() -> MemoryBudget {
            MemoryBudget::new(u64::MAX)
        }
        Self {
            log: Job::new(|groups| LogBackend::new(groups, PARTITIONER, budget()), parallelism),
            overlay: Job::new(|groups| OverlayBackend::new(groups, budget()), parallelism),
            model: BTreeMap::new(),
            sealed: BTreeMap::new(),
            epoch: 1,
            part: 0,
            epochs: Vec::new(),
        }
    }

    /// Takes a step on all three, and compares.
    pub(crate) fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(place, action) => self.write(place, action),
            Step::Fill(place, count, length) => {
                (0..count).for_each(|i| self.write(Place { key: place.key + i, ..place }, Action::Put(length)));
            }
            Step::Clear(place, count) => {
                (0..count).for_each(|i| self.write(Place { key: place.key + i, ..place }, Action::Delete));
            }
            Step::Seal { next_epoch, bases } => self.seal(next_epoch, bases),
            Step::Settle { age, commit } => {
                let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                if let Some(&epoch) = self.epochs.iter().rev().nth(usize::try_from(age).unwrap()) {
                    self.log.settle(epoch, outcome);
                    self.overlay.settle(epoch, outcome);
                    self.compare();
                }
            }
            Step::Crash(parallelism) => {
                self.log.crash(parallelism);
                self.overlay.crash(parallelism);
                self.model.clone_from(&self.sealed);
                self.epochs.clear();
                self.compare();
            }
            Step::Rescale(parallelism) => {
                self.seal(true, 0);
                self.log.rescale(parallelism);
                self.overlay.rescale(parallelism);
                self.epochs.clear();
                self.compare();
            }
        }
    }

    fn write(&mut self, place: Place, action: Action) {
        let key = place.key.to_string();
        // Some rows carry a hash that an engine handed in.
        let located = PARTITIONER.locate(key.as_bytes(), 0, GROUPS);
        let key =
            CurrentKey { routing: (place.key.is_multiple_of(5)).then_some(u64::from(place.key) << 40), ..located };
        let namespace = [b'n'; 2].split_at(usize::from(place.namespace)).0.to_vec();
        let sub = [b's'; 2].split_at(usize::from(place.sub)).0.to_vec();
        let row = RowRef { table: TableId(place.table), key: &key, namespace: &namespace, sub: &sub };
        let id = (key.group, row.table, key.bytes.to_vec(), namespace.clone(), sub.clone());
        match action {
            Action::Put(length) => drop(self.model.insert(id.clone(), value(length, None))),
            Action::Append(length) => {
                let grown = value(length, self.model.get(&id).map(Vec::as_slice));
                self.model.insert(id.clone(), grown);
            }
            Action::Keep => {}
            Action::Delete | Action::UpdateDelete => drop(self.model.remove(&id)),
        }
        let expected = self.model.get(&id);
        assert_eq!(self.log.act(row, action).as_ref(), expected);
        assert_eq!(self.overlay.act(row, action).as_ref(), expected);
    }

    fn seal(&mut self, next_epoch: bool, bases: u16) {
        // Each counts the rows that its delta has: the log may ship a tombstone that the overlay knows to be needless.
        let dirty_rows = self.log.seal(self.epoch, self.part, bases);
        assert!(dirty_rows >= self.overlay.seal(self.epoch, self.part, bases));
        self.sealed.clone_from(&self.model);
        if self.epochs.last() != Some(&self.epoch) {
            self.epochs.push(self.epoch);
        }
        self.part += 1;
        if next_epoch {
            (self.epoch, self.part) = (self.epoch + 1, 0);
        }
        compare_restores(&self.log.history, &self.overlay.history);
    }

    fn compare(&mut self) {
        assert_eq!(self.log.contents(), self.model);
        assert_eq!(self.overlay.contents(), self.model);
    }
}

fn range(parallelism: u32, subtask: u32) -> KeyGroupSet {
    subtask_range(GROUPS, parallelism, subtask).into()
}

/// A value of this length that tells which value it was made from.
fn value(length: Length, before: Option<&[u8]>) -> Vec<u8> {
    let seed =
        before.map_or(7, |bytes| bytes.iter().fold(bytes.len(), |sum, byte| sum * 31 % 8191 + usize::from(*byte)));
    let longer = length.0 + before.map_or(0, |bytes| bytes.len().min(400));
    (0..longer).map(|i| u8::try_from((seed + i * 13) % 251).unwrap()).collect()
}

/// Compares what a restore would read, routing hashes included.
fn compare_restores(left: &History, right: &History) {
    let mut batches = [RowBatch::new(), RowBatch::new()];
    for group in (0..GROUPS).map(KeyGroup) {
        for (batch, history) in batches.iter_mut().zip([left, right]) {
            batch.clear();
            history.append_group(group, batch).unwrap();
            batch.fold(Fold::Base, &Rules::none()).unwrap();
        }
        let [left, right] = &batches;
        assert!(left.iter().eq(right.iter()), "group {group}");
    }
}
