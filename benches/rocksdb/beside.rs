//! Read-modify-writes and checkpoints of the backend, compared with RocksDB used directly: flush, then hard links.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alluvium::backend::{Change, Cut, Part, RowRef, StateBackend, Write};
use alluvium::internals::segment::{EncodeOptions, encode};
use alluvium::{Epoch, KeyGroupSet, MemoryBudget, Outcome, RocksDbBackend, TableId, Timestamp};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, Options, WriteOptions};

use super::{percentile, rocksdb, value};
use alluvium_testkit::bench::{GROUPS, PARTITIONER, key, mixed};

/// Epochs measured, and updates per epoch as a share of the keys.
const EPOCHS: u64 = 20;
const DIRTY: [f64; 2] = [0.01, 0.1];

#[derive(Default)]
struct Figures {
    updating: Duration,
    pauses: Vec<Duration>,
    bytes: u64,
}

/// RocksDB itself.
struct Plain {
    db: DB,
    write: WriteOptions,
    folder: std::path::PathBuf,
    /// Files of the newest checkpoint, with their lengths.
    files: BTreeMap<String, u64>,
}

impl Plain {
    fn open(folder: &Path, options: &Options) -> Self {
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Self {
            db: DB::open(options, folder.join("db")).unwrap(),
            write,
            folder: folder.to_owned(),
            files: BTreeMap::new(),
        }
    }

    fn update(&self, number: u64, round: u64) {
        let key = key(number);
        let old = self.db.get_pinned(key).unwrap();
        let mut new = value(number, round);
        new[99] = old.map_or(0, |old| old[99].wrapping_add(1));
        self.db.put_opt(key, new, &self.write).unwrap();
    }

    /// Returns the duration of a flush, and the bytes of files not in the previous checkpoint.
    fn checkpoint(&mut self, epoch: u64) -> (Duration, u64) {
        let started = Instant::now();
        self.db.flush().unwrap();
        let flushed = started.elapsed();
        let folder = self.folder.join(epoch.to_string());
        Checkpoint::new(&self.db).unwrap().create_checkpoint(&folder).unwrap();
        let of_sst = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            name.ends_with(".sst").then(|| (name, entry.metadata().unwrap().len()))
        };
        let files: BTreeMap<_, _> =
            std::fs::read_dir(&folder).unwrap().filter_map(|entry| of_sst(entry.unwrap())).collect();
        let new = files.iter().filter(|(name, _)| !self.files.contains_key(*name)).map(|(_, bytes)| bytes).sum();
        self.files = files;
        std::fs::remove_dir_all(folder).unwrap();
        (flushed, new)
    }
}

fn update(backend: &mut RocksDbBackend, number: u64, round: u64) {
    let bytes = key(number);
    let key = PARTITIONER.locate(&bytes, 0, GROUPS);
    let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
    let updated = backend.update(row, |old, new| {
        let mut next = value(number, round);
        next[99] = old.map_or(0, |old| old[99].wrapping_add(1));
        new.extend_from_slice(&next);
        (Change::Put, ())
    });
    updated.unwrap();
}

/// Returns a checkpoint's pause, and the bytes of its segment.
fn checkpoint(backend: &mut RocksDbBackend, epoch: u64) -> (Duration, u64) {
    let at = Timestamp::default();
    let cut = Cut { epoch: Epoch(epoch), part: Part(0), event_time: at, processing_time: at };
    let started = Instant::now();
    let sealed = backend.seal(cut, &KeyGroupSet::empty()).unwrap();
    let pause = started.elapsed();
    let encoded = sealed.parts.iter().map(|part| encode(part, EncodeOptions::default()).unwrap().bytes.len() as u64);
    let bytes = encoded.sum();
    backend.settle(Epoch(epoch), Outcome::Commit).unwrap();
    (pause, bytes)
}

pub(crate) fn measure(keys: u64) {
    for dirty in DIRTY {
        measure_at(keys, dirty);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn measure_at(keys: u64, dirty: f64) {
    let folder = tempfile::tempdir().unwrap();
    let options = Arc::new(Mutex::new(None));
    let taken = Arc::clone(&options);
    let tuned = rocksdb(folder.path()).tuned(move |options| *taken.lock().unwrap() = Some(options.clone()));
    let mut ours = tuned.backend("ours", KeyGroupSet::all(GROUPS), MemoryBudget::new(u64::MAX)).unwrap();
    let mut plain = Plain::open(folder.path(), options.lock().unwrap().as_ref().unwrap());
    for number in 0..keys {
        let bytes = key(number);
        plain.db.put_opt(bytes, value(number, 0), &plain.write).unwrap();
        let key = PARTITIONER.locate(&bytes, 0, GROUPS);
        let row = RowRef { table: TableId(0), key: &key, namespace: &[], sub: &[] };
        ours.write(row, Write::Put(&value(number, 0))).unwrap();
    }
    plain.checkpoint(0);
    checkpoint(&mut ours, 1);
    let updates = (keys as f64 * dirty) as u64;
    let (mut of_plain, mut of_ours) = (Figures::default(), Figures::default());
    for round in 1..=EPOCHS {
        let draws: Vec<u64> = (0..updates).map(|draw| mixed(round * updates + draw) % keys).collect();
        // Alternating, so that a busy machine affects both.
        let started = Instant::now();
        draws.iter().for_each(|&number| plain.update(number, round));
        of_plain.updating += started.elapsed();
        let started = Instant::now();
        draws.iter().for_each(|&number| update(&mut ours, number, round));
        of_ours.updating += started.elapsed();
        for (figures, (pause, bytes)) in
            [(&mut of_plain, plain.checkpoint(round)), (&mut of_ours, checkpoint(&mut ours, round + 1))]
        {
            figures.pauses.push(pause);
            figures.bytes += bytes;
        }
    }
    let rate = |figures: &Figures| (updates * EPOCHS) as f64 / figures.updating.as_secs_f64();
    let dirty_bytes = (updates * EPOCHS * 116) as f64;
    println!("\n{keys} keys, {dirty} of them updated per checkpoint, {EPOCHS} checkpoints");
    println!("| | read-modify-writes/s | pause p50, max | bytes shipped / bytes updated |\n|---|---|---|---|");
    for (name, figures) in [("RocksDB, flush and hard links", &mut of_plain), ("backend", &mut of_ours)] {
        let pauses = [50, 100].map(|of_100| percentile(&mut figures.pauses, of_100));
        let shipped = figures.bytes as f64 / dirty_bytes;
        println!("| {name} | {:.0} | {:.0?}, {:.0?} | {shipped:.2} |", rate(figures), pauses[0], pauses[1]);
    }
    let [plain_pause, our_pause] = [&mut of_plain, &mut of_ours].map(|figures| percentile(&mut figures.pauses, 50));
    println!(
        "read-modify-writes {:.2} x RocksDB's, pause {:.4} x its flush",
        rate(&of_ours) / rate(&of_plain),
        our_pause.as_secs_f64() / plain_pause.as_secs_f64()
    );
}
