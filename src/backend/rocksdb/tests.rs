use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::{Error, ErrorKind};
use crate::id::Part;
use crate::key_group::{KeyGroup, Partitioner};
use crate::row::{Append, Columns, Fold, Op, Row, RowBatch, Ttl};

const P: Partitioner = Partitioner::Range { seed: 5 };
const T: TableId = TableId(1);
const GROUPS: u16 = 4;

fn rocksdb(folder: &Path) -> RocksDb {
    RocksDb::new(RocksDbSettings { memory_bytes: 16 << 20, ..RocksDbSettings::new(folder) }).unwrap()
}

fn backend(folder: &Path) -> RocksDbBackend {
    rocksdb(folder).backend("b", KeyGroupSet::all(GROUPS), MemoryBudget::new(u64::MAX)).unwrap()
}

fn write(backend: &mut RocksDbBackend, key: &str, sub: &str, write: Write<'_>) -> Result<()> {
    let key = P.locate(key.as_bytes(), 0, GROUPS);
    backend.write(RowRef { table: T, key: &key, namespace: b"", sub: sub.as_bytes() }, write)
}

fn read(backend: &mut RocksDbBackend, key: &str) -> Result<Option<Vec<u8>>> {
    let key = P.locate(key.as_bytes(), 0, GROUPS);
    backend.read(RowRef { table: T, key: &key, namespace: b"", sub: b"" }, |value| value.map(<[u8]>::to_vec))
}

/// Seals at this processing time and waits until RocksDB has the layer.
fn seal(backend: &mut RocksDbBackend, epoch: u64, millis: i64, bases: &KeyGroupSet) -> Sealed {
    let (event_time, processing_time) = (Timestamp::MIN, Timestamp::from_millis(millis));
    let sealed = backend.seal(Cut { epoch: Epoch(epoch), part: Part(0), event_time, processing_time }, bases).unwrap();
    backend.drain().unwrap();
    sealed
}

fn none() -> KeyGroupSet {
    KeyGroupSet::empty()
}

/// Compacts the whole database and returns its cells.
fn compacted(backend: &RocksDbBackend) -> Vec<Vec<u8>> {
    backend.db.inner().flush().unwrap();
    let mut options = ::rocksdb::CompactOptions::default();
    options.set_bottommost_level_compaction(::rocksdb::BottommostLevelCompaction::Force);
    backend.db.inner().compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
    let rows = backend.db.inner().iterator(::rocksdb::IteratorMode::Start);
    rows.map(|row| row.unwrap().1.to_vec()).collect()
}

fn rows(part: &SealedPart) -> Vec<Vec<u8>> {
    let (mut rows, mut batch) = (Vec::new(), RowBatch::new());
    for group in part.groups.iter() {
        batch.clear();
        part.rows.append_group(group, &mut batch).unwrap();
        batch.fold(Fold::Base, &part.rules).unwrap();
        rows.extend(batch.iter().map(|row| row.op.payload().to_vec()));
    }
    rows.sort_unstable();
    rows
}

#[test]
fn compaction_drops_expired_rows_once_no_older_view_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = backend(folder.path());
    backend.define(T, TableRules { ttl: Some(Ttl { millis: 10, ..Ttl::default() }), ..TableRules::default() });
    backend.advance(Timestamp::MIN, Timestamp::from_millis(100));
    write(&mut backend, "old", "", Write::Put(b"old")).unwrap();
    seal(&mut backend, 1, 100, &none());
    backend.advance(Timestamp::MIN, Timestamp::from_millis(105));
    write(&mut backend, "new", "", Write::Put(b"new")).unwrap();
    let base = seal(&mut backend, 2, 105, &KeyGroupSet::all(GROUPS));
    // The old row was alive at the base's seal, so it must stay until the base is dropped.
    write(&mut backend, "later", "", Write::Put(b"later")).unwrap();
    seal(&mut backend, 3, 112, &none());
    assert_eq!(read(&mut backend, "old").unwrap(), None, "never returned, dropped or not");
    assert_eq!(compacted(&backend).len(), 3);
    assert_eq!(rows(&base.parts[0]), [b"new".to_vec(), b"old".to_vec()]);
    drop(base);
    assert_eq!(compacted(&backend).len(), 2);
    assert_eq!(read(&mut backend, "new").unwrap().as_deref(), Some(b"new".as_slice()));
}

/// Rows of one group, whose order in segments differs from the order of their row keys.
#[derive(Debug)]
struct Large(KeyGroupSet);

impl Large {
    fn key(n: usize) -> Vec<u8> {
        vec![b'a' + u8::try_from(n % 5).unwrap(); 1 + n / 5]
    }
}

impl RowSource for Large {
    fn groups(&self) -> &KeyGroupSet {
        &self.0
    }

    fn append_group(&self, _: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let value = vec![7; 4 << 20];
        (0..70).try_for_each(|n| {
            let key = Self::key(n);
            let key = RowKey::data(T, &key, b"", b"");
            batch.push(&Row { key, op: Op::Put(&value), columns: Columns::default() })
        })
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn a_group_of_several_batches_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = rocksdb(folder.path()).backend("b", none(), MemoryBudget::new(u64::MAX)).unwrap();
    let group = std::iter::once(KeyGroup(1)).collect();
    backend.load(&Large(KeyGroupSet::all(GROUPS)), &group).unwrap();
    assert_eq!(backend.stats().rows, 70);
    let mut found = 0;
    backend
        .scan(T, &group, &[], |entry| {
            found += usize::from(entry.value.len() == 4 << 20);
            true
        })
        .unwrap();
    assert_eq!(found, 70);
}

#[test]
fn operands_of_many_checkpoints_become_one_value() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = backend(folder.path());
    backend.define(T, TableRules { merge: Some(Arc::new(Append)), ..TableRules::default() });
    for epoch in 1..=5 {
        write(&mut backend, "k", "", Write::Merge(&[b'0' + u8::try_from(epoch).unwrap()])).unwrap();
        let sealed = seal(&mut backend, epoch, 0, &none());
        // Statistics follow each layer with a delay: those of one layer are there at the seal of the next but one.
        let memtables = sealed.statistics.iter().find(|statistic| statistic.name == "rocksdb_memtable_bytes");
        assert!(epoch < 3 || memtables.unwrap().value > 0);
    }
    assert_eq!(read(&mut backend, "k").unwrap().as_deref(), Some(b"12345".as_slice()));
    assert_eq!(compacted(&backend), [b"\x0212345".to_vec()], "one plain piece");
}

#[test]
fn an_append_does_not_read_the_stored_list() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = backend(folder.path());
    backend.define(T, TableRules { merge: Some(Arc::new(Append)), ..TableRules::default() });
    write(&mut backend, "k", "", Write::Put(&[1; 100_000])).unwrap();
    seal(&mut backend, 1, 0, &none());
    compacted(&backend);
    write(&mut backend, "k", "", Write::Merge(b"x")).unwrap();
    let slot = backend.stack.active.rows.values().next().unwrap();
    assert!(!slot.whole && slot.cell == b"\x02x");
    let sealed = seal(&mut backend, 2, 0, &none());
    assert_eq!(rows(&sealed.parts[0]), [b"x".to_vec()]);
    assert_eq!(read(&mut backend, "k").unwrap().unwrap().len(), 100_001);
}

#[test]
fn only_a_clear_of_many_rows_becomes_a_range_tombstone() {
    for (rows, ranges) in [(writer::MAX_POINT_DELETES - 1, 0), (writer::MAX_POINT_DELETES + 10, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let mut backend = backend(folder.path());
        for sub in 0..rows {
            write(&mut backend, "k", &sub.to_string(), Write::Put(b"v")).unwrap();
            write(&mut backend, "other", &sub.to_string(), Write::Put(b"v")).unwrap();
        }
        seal(&mut backend, 1, 0, &none());
        let key = P.locate(b"k", 0, GROUPS);
        backend.clear(T, Scope::Key(&key)).unwrap();
        assert_eq!(backend.stats().rows, rows as u64);
        assert_eq!(seal(&mut backend, 2, 0, &none()).dirty_rows, 1);
        backend.db.inner().flush().unwrap();
        let properties = backend.db.inner().property_value(properties::AGGREGATED_TABLE_PROPERTIES).unwrap().unwrap();
        let deleted = properties.split("; ").find(|part| part.starts_with("# range deletions")).unwrap().to_owned();
        assert_eq!(deleted, format!("# range deletions={ranges}"));
        assert_eq!(compacted(&backend).len(), rows);
    }
}

/// Returns the table files in a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "sst")).collect()
}

/// Returns a backend of 2,000 rows, its base, and an empty backend for a load of that base.
fn base_and_empty_backend(folder: &Path) -> (RocksDbBackend, Sealed, RocksDbBackend) {
    let mut stored = backend(folder);
    (0..2000).for_each(|n: u32| write(&mut stored, &n.to_string(), "", Write::Put(&[7; 50])).unwrap());
    let base = seal(&mut stored, 1, 0, &KeyGroupSet::all(GROUPS));
    (stored, base, rocksdb(folder).backend("loaded", none(), MemoryBudget::new(u64::MAX)).unwrap())
}

#[test]
fn damaged_files_are_reported_and_the_folder_is_deleted_with_the_backend() {
    let folder = tempfile::tempdir().unwrap();
    let (_stored, base, mut loaded) = base_and_empty_backend(folder.path());
    loaded.load(&*base.parts[0].rows, &KeyGroupSet::all(GROUPS)).unwrap();
    assert_eq!((loaded.stats().rows, loaded.stats().live_bytes), (2000, 2000 * 50 + 6890));
    let database = folder.path().join("loaded");
    let [file] = &files(&database)[..] else { panic!("{:?}", files(&database)) };
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[..middle].fill(0xee);
    fs::write(file, bytes).unwrap();
    let errors = (0..2000).filter_map(|n: u32| read(&mut loaded, &n.to_string()).err());
    let kinds: Vec<_> = errors.map(|error| error.kind()).collect();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| *kind == ErrorKind::Corrupt), "{kinds:?}");
    // The sealed base reads its own backend's files, which are intact.
    assert_eq!(rows(&base.parts[0]).len(), 2000);
    drop(loaded);
    assert!(!database.exists() || fs::read_dir(database).unwrap().count() == 0);
}

#[test]
fn layers_that_cannot_be_written_stay_readable_and_are_retried() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = backend(folder.path());
    let full = Arc::new(AtomicBool::new(true));
    let is_full = Arc::clone(&full);
    let (tried, tries) = std::sync::mpsc::channel();
    let write_if_room = move |db: &Db, layer: &Layer| {
        tried.send(()).unwrap_or_default();
        if is_full.load(Ordering::Relaxed) {
            return Err(Error::limit("no space left"));
        }
        writer::write_layer(db, layer)
    };
    backend.writer = Writer::start_with(&backend.db, write_if_room).unwrap();
    let cut = |epoch: usize| Cut {
        epoch: Epoch(epoch as u64),
        part: Part(0),
        event_time: Timestamp::MIN,
        processing_time: Timestamp::MIN,
    };
    for epoch in 1..=MAX_FROZEN_LAYERS {
        write(&mut backend, &epoch.to_string(), "", Write::Put(b"v")).unwrap();
        let sealed = backend.seal(cut(epoch), &none()).unwrap();
        assert_eq!(rows(&sealed.parts[0]), [b"v".to_vec()]);
    }
    // All layers were tried once: from here on only explicit retries write.
    (0..MAX_FROZEN_LAYERS).for_each(|_| tries.recv().unwrap());
    write(&mut backend, "9", "", Write::Put(b"v")).unwrap();
    for _ in 0..2 {
        assert_eq!(backend.seal(cut(9), &none()).unwrap_err().kind(), ErrorKind::Limit);
    }
    full.store(false, Ordering::Relaxed);
    let sealed = backend.seal(cut(9), &KeyGroupSet::all(GROUPS)).unwrap();
    assert_eq!(rows(&sealed.parts[0]).len(), 9);
    backend.drain().unwrap();
    assert!(backend.stack.frozen.is_empty());
    assert_eq!(compacted(&backend).len(), 9);
    assert!((1..=9).all(|key| read(&mut backend, &key.to_string()).unwrap().is_some()));
}

#[test]
fn a_dropped_backend_discards_queued_layers() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = backend(folder.path());
    let (started, starts) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let slow = move |_: &Db, _: &Layer| {
        started.send(()).unwrap();
        released.recv().unwrap();
        Ok(())
    };
    backend.writer = Writer::start_with(&backend.db, slow).unwrap();
    let mut bases = Vec::new();
    for epoch in 1..=3u64 {
        write(&mut backend, &epoch.to_string(), "", Write::Put(b"v")).unwrap();
        let (event_time, processing_time) = (Timestamp::MIN, Timestamp::MIN);
        let cut = Cut { epoch: Epoch(epoch), part: Part(0), event_time, processing_time };
        bases = backend.seal(cut, &KeyGroupSet::all(GROUPS)).unwrap().parts;
    }
    starts.recv().unwrap();
    backend.writer.stop();
    // The thread may end before the second release.
    (0..3).for_each(|_| release.send(()).unwrap_or_default());
    drop(backend);
    assert!(starts.recv().is_err(), "no write was started after the first");
    assert_eq!(rows(&bases[0]).len(), 3, "a sealed base needs no writer");
}

#[test]
fn a_load_on_a_full_disk_fails_and_adds_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (_stored, base, mut loaded) = base_and_empty_backend(folder.path());
    std::os::unix::fs::symlink("/dev/full", loaded.db.loads.file(0)).unwrap();
    let error = loaded.load(&*base.parts[0].rows, &KeyGroupSet::all(GROUPS)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error:?}");
    assert!(loaded.groups().is_empty() && loaded.stats().rows == 0);
    loaded.load(&*base.parts[0].rows, &KeyGroupSet::all(GROUPS)).unwrap();
    assert_eq!(loaded.stats().rows, 2000);
}

#[test]
fn groups_are_loaded_on_other_threads_in_pieces_and_left_over_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (_stored, base, mut loaded) = base_and_empty_backend(folder.path());
    let (loader, rows) = (loaded.group_loader(&[T]).unwrap(), Arc::clone(&base.parts[0].rows));
    let group = |group: u16| -> KeyGroupSet { std::iter::once(KeyGroup(group)).collect() };
    let load = |of: u16| {
        let (loader, rows) = (Arc::clone(&loader), Arc::clone(&rows));
        std::thread::spawn(move || loader.load(&*rows, &group(of), None)).join().unwrap().unwrap().unwrap()
    };
    let database = loaded.db.folder().to_owned();
    let waiting = || files(&database.join("loads")).len();
    let (first, second, third) = (load(0), load(1), load(2));
    assert_eq!((loaded.stats().rows, waiting()), (0, 3), "nothing is in the database before it is adopted");
    loaded.adopt(first, &group(0)).unwrap();
    drop(second);
    assert_eq!(waiting(), 1, "adopted files were moved, others removed");
    // The next piece of the same group; its rows are those of another group here.
    let third = loader.load(&*rows, &group(3), Some(third)).unwrap().unwrap();
    loaded.adopt(third, &group(2).union(&group(3))).unwrap();
    loaded.load(&*rows, &group(1)).unwrap();
    assert_eq!((loaded.stats().rows, waiting()), (2000, 0));
    for key in 0..2000 {
        assert!(read(&mut loaded, &key.to_string()).unwrap().is_some(), "key {key}");
    }
    assert_eq!(loaded.adopt(Box::new(()), &none()).unwrap_err().kind(), ErrorKind::Usage);
    let mut other = rocksdb(folder.path()).backend("other", none(), MemoryBudget::new(u64::MAX)).unwrap();
    assert_eq!(other.adopt(load(0), &group(0)).unwrap_err().kind(), ErrorKind::Usage);
    // Neither the loader nor what it has loaded keeps the folder in use, and both harm nothing of the next backend there.
    let late = load(0);
    drop(loaded);
    assert!(!database.exists());
    let mut next = rocksdb(folder.path()).backend("loaded", none(), MemoryBudget::new(u64::MAX)).unwrap();
    let later = load(1);
    let of_next = next.group_loader(&[T]).unwrap().load(&*rows, &group(0), None).unwrap().unwrap();
    drop((late, later));
    next.adopt(of_next, &group(0)).unwrap();
    drop(load(2));
    fs::write(next.db.loads.file(99), b"left over").unwrap();
    drop(next);
    assert!(!database.exists());
}

#[test]
fn a_folder_in_use_and_invalid_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = backend(folder.path());
    write(&mut first, "k", "", Write::Put(b"v")).unwrap();
    let budget = || MemoryBudget::new(u64::MAX);
    let waiting = first.db.loads.new_file();
    fs::write(&waiting, b"loaded").unwrap();
    let error = rocksdb(folder.path()).backend("b", none(), budget()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(waiting.exists(), "files of a backend in use are left alone");
    seal(&mut first, 1, 0, &none());
    assert_eq!(read(&mut first, "k").unwrap().as_deref(), Some(b"v".as_slice()), "nothing was lost");
    for (name, value) in [("write_buffer_size", "many"), ("no_such_option", "1"), ("max_open_files", "7")] {
        let options = vec![(name.to_owned(), value.to_owned())];
        let settings = RocksDbSettings { options, ..RocksDbSettings::new(folder.path()) };
        let error = RocksDb::new(settings).unwrap().backend(name, none(), budget()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{name}: {error:?}");
    }
    let settings = RocksDbSettings { memory_bytes: 1 << 20, ..RocksDbSettings::new(folder.path()) };
    assert_eq!(RocksDb::new(settings).unwrap_err().kind(), ErrorKind::Config);
    fs::write(folder.path().join("file"), b"").unwrap();
    let error = rocksdb(&folder.path().join("file")).backend("b", none(), budget()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Config), "{error:?}");
}
