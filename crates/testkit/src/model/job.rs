//! The subtasks of the model's job, on any backend.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use alluvium::backend::conformance::{History, RowId, contents};
use alluvium::backend::{Change, Cut, Entry, LazyBackend, Part, RowRef, Scope, StateBackend, SubRange, Write};
use alluvium::{Epoch, KeyGroup, KeyGroupSet, Outcome, TableId, Timestamp, owner};

use super::absent::FromHistory;
use super::{Action, GROUPS, ORDERED, TABLES, edit, merges, range, rules, stored_bytes, value};

/// The subtasks on one kind of backend, and their sealed parts.
pub(super) struct Job<B> {
    make: Box<dyn Fn(KeyGroupSet) -> B>,
    /// Whether backends count their rows; otherwise they estimate.
    counts: bool,
    clock: i64,
    pub(super) version: u32,
    subtasks: Vec<LazyBackend<B>>,
    pub(super) history: History,
    /// The history, for absent groups.
    shared: Arc<Mutex<History>>,
}

impl<B: StateBackend> Job<B> {
    pub(super) fn new(make: impl Fn(KeyGroupSet) -> B + 'static, counts: bool, parallelism: u32) -> Self {
        let make = Box::new(make);
        let (subtasks, history, shared) = (Vec::new(), History::default(), Arc::default());
        let mut job = Self { make, counts, clock: 0, version: 1, subtasks, history, shared };
        job.subtasks = (0..parallelism).map(|i| job.start(range(parallelism, i))).collect();
        job
    }

    /// Returns a backend with the tables declared and the time set.
    fn start(&self, groups: KeyGroupSet) -> LazyBackend<B> {
        let mut backend = LazyBackend::new((self.make)(groups));
        for table in 0..TABLES {
            rules(table, self.version).into_iter().for_each(|rules| backend.define(TableId(table), rules));
        }
        backend.advance(Timestamp::MIN, Timestamp::from_millis(self.clock));
        let tables: Vec<_> = (0..TABLES).map(TableId).collect();
        let loader = backend.group_loader(&tables);
        backend.set_source(Arc::new(FromHistory::new(Arc::clone(&self.shared), loader)));
        backend
    }

    pub(super) fn tick(&mut self, clock: i64) {
        self.clock = clock;
        for backend in &mut self.subtasks {
            // A clock that goes back changes nothing.
            backend.advance(Timestamp::MIN, Timestamp::from_millis(clock));
            backend.advance(Timestamp::MIN, Timestamp::from_millis(clock - 50));
        }
    }

    pub(super) fn clear(&mut self, table: TableId, scope: Scope<'_>) {
        self.owner(scope.group()).clear(table, scope).unwrap();
    }

    /// Returns a key's sub-keys and values in visiting order.
    pub(super) fn scan_key(&mut self, row: RowRef<'_>, range: SubRange<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let visit = |entry: Entry<'_>| {
            assert_eq!((entry.key, entry.namespace), (row.key.bytes, row.namespace));
            found.push((entry.sub.to_vec(), entry.value.to_vec()));
            true
        };
        self.owner(row.key.group).scan_key(row.table, row.key, row.namespace, range, visit).unwrap();
        if row.table.0 != ORDERED {
            found.sort_unstable();
        }
        found
    }

    fn owner(&mut self, group: KeyGroup) -> &mut LazyBackend<B> {
        let parallelism = u32::try_from(self.subtasks.len()).unwrap();
        &mut self.subtasks[owner(GROUPS, parallelism, group) as usize]
    }

    pub(super) fn act(&mut self, row: RowRef<'_>, action: Action) -> Option<Vec<u8>> {
        let (table, version) = (row.table.0, self.version);
        let backend = self.owner(row.key.group);
        match action {
            Action::Put(length) => {
                backend.write(row, Write::Put(&stored_bytes(table, version, value(length, None)))).unwrap();
            }
            Action::Delete => backend.write(row, Write::Delete).unwrap(),
            Action::Edit => drop(backend.edit(row, edit).unwrap()),
            Action::Merge(length) => {
                let merged = backend.write(row, Write::Merge(&value(length, None)));
                assert_eq!(merged.is_ok(), merges(row.table));
            }
            Action::Append(_) | Action::Keep | Action::UpdateDelete => {
                let update = |stored: Option<&[u8]>, scratch: &mut Vec<u8>| match action {
                    Action::Append(length) => {
                        scratch.extend(stored_bytes(table, version, value(length, stored)));
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

    pub(super) fn seal(&mut self, epoch: u64, part: u32, bases: u16) -> u64 {
        let processing_time = Timestamp::from_millis(self.clock);
        let cut = Cut { epoch: Epoch(epoch), part: Part(part), event_time: Timestamp::MIN, processing_time };
        let mut dirty_rows = 0;
        for backend in &mut self.subtasks {
            let wanted = backend.groups().iter().filter(|group| bases >> group.0 & 1 == 1).collect();
            let dirty = backend.stats().dirty_rows;
            let sealed = backend.seal(cut, &wanted).unwrap();
            assert_eq!((sealed.dirty_rows, backend.stats().dirty_rows), (dirty, 0));
            assert_eq!(sealed.heat.iter().map(|heat| heat.dirty_rows).sum::<u64>(), dirty);
            dirty_rows += dirty;
            self.history.add(sealed);
        }
        self.shared.lock().unwrap().clone_from(&self.history);
        dirty_rows
    }

    pub(super) fn settle(&mut self, epoch: u64, outcome: Outcome) {
        self.subtasks.iter_mut().for_each(|backend| backend.settle(Epoch(epoch), outcome).unwrap());
    }

    /// * `lazy`: whether groups are absent until they are used.
    pub(super) fn crash(&mut self, parallelism: u32, lazy: bool) {
        self.version += 1;
        self.subtasks.clear();
        for i in 0..parallelism {
            let mut backend = self.start(KeyGroupSet::empty());
            let groups = range(parallelism, i);
            match lazy {
                true => backend.add_absent(&groups, &[]).unwrap(),
                false => backend.load(&self.history, &groups).unwrap(),
            }
            self.subtasks.push(backend);
        }
    }

    /// Makes groups absent, selected by bit, whose writes are all sealed.
    pub(super) fn evict(&mut self, groups: u16) {
        for backend in &mut self.subtasks {
            let clean = backend.resident().groups().difference(&backend.dirty_groups());
            backend.evict(&clean.iter().filter(|group| groups >> group.0 & 1 == 1).collect()).unwrap();
        }
    }

    /// Each subtask drops the groups it loses and loads those it gains.
    pub(super) fn rescale(&mut self, parallelism: u32) {
        self.subtasks.truncate(parallelism as usize);
        while self.subtasks.len() < parallelism as usize {
            self.subtasks.push(self.start(KeyGroupSet::empty()));
        }
        for (i, backend) in (0..).zip(&mut self.subtasks) {
            let wanted = range(parallelism, i);
            let owned = backend.groups().clone();
            backend.drop_groups(&owned.difference(&wanted)).unwrap();
            backend.load(&self.history, &wanted.difference(&owned)).unwrap();
        }
    }

    pub(super) fn contents(&mut self) -> BTreeMap<RowId, Vec<u8>> {
        let mut all = BTreeMap::new();
        for backend in &mut self.subtasks {
            let tables: Vec<_> = (0..TABLES).map(TableId).collect();
            let rows = contents(backend, &tables).unwrap();
            let bytes = |(id, value): (&RowId, &Vec<u8>)| (id.2.len() + id.3.len() + id.4.len() + value.len()) as u64;
            let stats = backend.stats();
            let (rows_seen, bytes_seen) = (rows.len() as u64, rows.iter().map(bytes).sum::<u64>());
            // Counts include expired rows until cleaning, and operands until merging.
            if self.counts {
                assert!(stats.rows >= rows_seen && stats.live_bytes >= bytes_seen);
                assert!(self.clock > 0 || stats.rows == rows_seen);
            }
            all.extend(rows);
        }
        all
    }
}
