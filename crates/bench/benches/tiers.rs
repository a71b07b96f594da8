//! State larger than memory: read-modify-write with the same memory budget in the log with a disk, RocksDB and cobble.
//!
//! ```sh
//! cargo bench -p alluvium-bench --features peer-rocksdb,peer-cobble --bench tiers -- [KEYS] [VALUE_BYTES] [SHARE] [ROUNDS]
//! ```
//!
//! SHARE is the budget over the bytes of all records (key, value, and the 5 bytes of a header), 0.25 by default. Every cell
//! is a process of its own, so that its anonymous memory, sampled every 10 ms, is its own; cells run in turns. Printed are
//! the median and the range of all rounds, in million operations per second, the most memory of any round, and of the last round
//! how often an operation of the log read its disk, and the median pause.
//!
//! `TIERS_CGROUP` may be the folder of a control group that every cell joins, such as one that limits memory and page cache. The
//! log is measured twice: one operation at a time like the others, and in batches of 32, which a disk that is slower than the page
//! cache serves together. Pauses are those of the seals, one a second.
//!
//! Keys of a zipf distribution are drawn by inverting its integral, so that drawing costs the same for every rank. Hot keys
//! of the shifting hotspot are a hundredth of all, get nine tenths of the operations, and move by a tenth of themselves each
//! second.

#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]
#![expect(clippy::indexing_slicing, reason = "a benchmark may panic")]
#![expect(clippy::cast_precision_loss, reason = "fewer than 2^53 operations")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of keys and bytes")]
#![expect(clippy::disallowed_methods, reason = "measures time")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alluvium::backend::{Change, Cut, Part, RowRef, StateBackend as _, Stored};
use alluvium::{DiskTier, Epoch, KeyGroupSet, LogBackend, MemoryBudget, Partitioner, TableId, Timestamp};

const KEY_BYTES: usize = 16;
const HEADER_BYTES: usize = 5;
const GROUPS: u16 = 128;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 7 };
const TABLE: TableId = TableId(77);
const WARM_SECONDS: f64 = 3.0;
const SECONDS: f64 = 5.0;
/// Operations between two looks at the clock.
const TURN: usize = 256;
/// Keys of a batch.
const BATCH: usize = 32;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut random = Random(number);
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&random.draw().to_le_bytes());
    key[8..].copy_from_slice(&random.draw().to_le_bytes());
    key
}

fn add_one(value: &mut [u8]) {
    let first = value.first_chunk_mut::<8>().unwrap();
    *first = u64::from_le_bytes(*first).wrapping_add(1).to_le_bytes();
}

#[derive(Clone, Copy)]
enum Pattern {
    Uniform,
    Zipf(f64),
    /// A share of the keys, moving.
    Hotspot,
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match text {
            "uniform" => Self::Uniform,
            "hotspot" => Self::Hotspot,
            _ => Self::Zipf(text.strip_prefix("zipf:").unwrap().parse().unwrap()),
        }
    }

    fn draw(self, random: &mut Random, keys: u64, seconds: f64) -> u64 {
        match self {
            Self::Uniform => random.draw() % keys,
            Self::Zipf(theta) => {
                let rest = 1.0 - theta;
                let all = (keys as f64).powf(rest) - 1.0;
                ((random.unit() * all + 1.0).powf(1.0 / rest) as u64 - 1).min(keys - 1)
            }
            Self::Hotspot if random.draw().is_multiple_of(10) => random.draw() % keys,
            Self::Hotspot => {
                let hot = (keys / 100).max(1);
                let start = (seconds * hot as f64 / 10.0) as u64;
                (start + random.draw() % hot) % keys
            }
        }
    }
}

/// A store of records.
trait Store {
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn add(&mut self, key: &[u8]);
    fn add_all(&mut self, keys: &[[u8; KEY_BYTES]]) {
        keys.iter().for_each(|key| self.add(key));
    }
    /// Ends an epoch, where there are epochs.
    fn barrier(&mut self) {}
    /// Returns how often the disk was read so far, if that is counted.
    fn disk_reads(&self) -> Option<u64> {
        None
    }
}

struct Log {
    backend: LogBackend,
    budget: MemoryBudget,
    /// Keys of a call.
    batch: usize,
    epoch: u64,
}

impl Log {
    fn new(budget: u64, folder: Option<&Path>, batch: usize) -> Self {
        let budget = match folder {
            None => MemoryBudget::new(u64::MAX),
            Some(folder) => MemoryBudget::new(budget).with_disk(DiskTier::open(folder, u64::MAX).unwrap()),
        };
        let backend = LogBackend::new(KeyGroupSet::all(GROUPS), PARTITIONER, budget.clone());
        Self { backend, budget, batch, epoch: 0 }
    }
}

impl Store for Log {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        let key = PARTITIONER.locate(key, 0, GROUPS);
        let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
        self.backend.write(row, alluvium::backend::Write::Put(value)).unwrap();
    }

    fn add(&mut self, key: &[u8]) {
        let key = PARTITIONER.locate(key, 0, GROUPS);
        let row = RowRef { table: TABLE, key: &key, namespace: &[], sub: &[] };
        let add = |value: Option<&[u8]>, new: &mut Vec<u8>| {
            new.extend_from_slice(value.unwrap());
            add_one(new);
            (Change::Put, ())
        };
        self.backend.update(row, add).unwrap();
    }

    fn add_all(&mut self, keys: &[[u8; KEY_BYTES]]) {
        if self.batch == 1 {
            return keys.iter().for_each(|key| self.add(key));
        }
        let located: Vec<_> = keys.iter().map(|key| PARTITIONER.locate(key, 0, GROUPS)).collect();
        for keys in located.chunks(self.batch) {
            let add = |_: usize, value: Stored<'_>, new: &mut Vec<u8>| {
                let change = match value {
                    Stored::InPlace(value) => {
                        add_one(value);
                        None
                    }
                    value => {
                        new.extend_from_slice(value.bytes().unwrap());
                        add_one(new);
                        Some(Change::Put)
                    }
                };
                (change, Ok(()))
            };
            self.backend.update_many(TABLE, &[], keys, add).unwrap();
        }
    }

    fn barrier(&mut self) {
        self.epoch += 1;
        let at = Timestamp::MIN;
        let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time: at, processing_time: at };
        drop(self.backend.seal(cut, &KeyGroupSet::empty()).unwrap());
    }

    fn disk_reads(&self) -> Option<u64> {
        self.budget.disk().map(|disk| disk.stats().reads)
    }
}

#[cfg(feature = "peer-rocksdb")]
struct Rocks {
    db: rocksdb::DB,
    value: Vec<u8>,
}

#[cfg(feature = "peer-rocksdb")]
impl Rocks {
    fn new(budget: u64, folder: &Path) -> Self {
        let budget = budget as usize;
        // Half of the budget for blocks and a quarter for memtables. Indexes and filters, 3 bytes per key, stay outside of
        // the cache: in a cache this small they would push each other out.
        let cache = rocksdb::Cache::new_lru_cache(budget / 2);
        let manager = rocksdb::WriteBufferManager::new_write_buffer_manager(budget / 4, false);
        let mut table = rocksdb::BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(false);
        table.set_bloom_filter(10.0, false);
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(budget / 8);
        options.set_write_buffer_manager(&manager);
        options.increase_parallelism(2);
        Self { db: rocksdb::DB::open(&options, folder).unwrap(), value: Vec::new() }
    }

    fn write(&self, key: &[u8], value: &[u8]) {
        let mut options = rocksdb::WriteOptions::default();
        options.disable_wal(true);
        self.db.put_opt(key, value, &options).unwrap();
    }
}

#[cfg(feature = "peer-rocksdb")]
impl Store for Rocks {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.write(key, value);
    }

    fn add(&mut self, key: &[u8]) {
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        value.extend_from_slice(&self.db.get_pinned(key).unwrap().unwrap());
        add_one(&mut value);
        self.write(key, &value);
        self.value = value;
    }
}

#[cfg(feature = "peer-cobble")]
struct Cobble(cobble::SingleDb);

#[cfg(feature = "peer-cobble")]
impl Cobble {
    fn new(budget: u64, folder: &Path) -> Self {
        let size = |bytes: u64| bytes.to_string().parse().unwrap();
        let config = cobble::Config {
            volumes: cobble::VolumeDescriptor::single_volume(format!("file://{}", folder.display())),
            memtable_capacity: size(budget / 4),
            block_cache_size: size(budget / 2),
            compaction_threads: 2,
            sst_bloom_filter_enabled: true,
            ..cobble::Config::default()
        };
        Self(cobble::SingleDb::open(config).unwrap())
    }
}

#[cfg(feature = "peer-cobble")]
impl Store for Cobble {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.put(0, key, 0, value).unwrap();
    }

    fn add(&mut self, key: &[u8]) {
        let row = self.0.get(0, key).unwrap().unwrap();
        let mut value = row[0].as_ref().unwrap().to_vec();
        add_one(&mut value);
        self.0.put(0, key, 0, &value).unwrap();
    }
}

/// Runs one cell and prints its figures.
fn cell(store: &str, pattern: &str, keys: u64, value_bytes: usize, budget: u64) {
    let scratch = tempfile::tempdir_in(std::env::var("TIERS_DIR").unwrap_or_else(|_| ".".into())).unwrap();
    let folder = scratch.path();
    join_cgroup();
    let before = anonymous_bytes();
    let mut store: Box<dyn Store> = match store {
        "memory" => Box::new(Log::new(budget, None, 1)),
        "log" => Box::new(Log::new(budget, Some(folder), 1)),
        "batches" => Box::new(Log::new(budget, Some(folder), BATCH)),
        #[cfg(feature = "peer-rocksdb")]
        "rocksdb" => Box::new(Rocks::new(budget, folder)),
        #[cfg(feature = "peer-cobble")]
        "cobble" => Box::new(Cobble::new(budget, folder)),
        _ => panic!("store is memory, log, batches, rocksdb or cobble, as built"),
    };
    let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let sampler = {
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(anonymous_bytes().saturating_sub(before), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        })
    };
    let value = vec![1; value_bytes];
    (0..keys).for_each(|number| store.put(&key(number), &value));
    store.barrier();
    let pattern = Pattern::parse(pattern);
    let mut random = Random(99);
    let start = Instant::now();
    let (mut pauses, mut drawn) = (Vec::<Duration>::new(), Vec::new());
    let (mut operations, mut reads, mut measured_from, mut sealed) = (0u64, None, None, 0.0);
    loop {
        let now = start.elapsed().as_secs_f64();
        if now >= WARM_SECONDS && measured_from.is_none() {
            (operations, reads, measured_from) = (0, store.disk_reads(), Some(now));
        }
        if now >= WARM_SECONDS + SECONDS {
            let rate = operations as f64 / (now - measured_from.unwrap()) / 1e6;
            stop.store(true, Ordering::Relaxed);
            sampler.join().unwrap();
            let reads =
                store.disk_reads().zip(reads).map(|(after, before)| (after - before) as f64 / operations as f64);
            let reads = reads.map_or_else(|| "-".into(), |reads| format!("{reads:.3}"));
            pauses.sort();
            let pause = pauses[pauses.len() / 2].as_secs_f64() * 1e6;
            println!("{rate:.4} {} {reads} {pause:.0}", most.load(Ordering::Relaxed));
            return;
        }
        if now - sealed > 1.0 {
            sealed = now;
            let at = Instant::now();
            store.barrier();
            pauses.push(at.elapsed());
        }
        drawn.clear();
        drawn.extend((0..TURN).map(|_| key(pattern.draw(&mut random, keys, now))));
        store.add_all(&drawn);
        operations += TURN as u64;
    }
}

fn join_cgroup() {
    if let Ok(group) = std::env::var("TIERS_CGROUP") {
        fs::write(Path::new(&group).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
}

fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [store, pattern, keys, value_bytes, budget] = &args[..]
        && store.parse::<u64>().is_err()
    {
        return cell(store, pattern, keys.parse().unwrap(), value_bytes.parse().unwrap(), budget.parse().unwrap());
    }
    let number = |at: usize, default: f64| args.get(at).map_or(default, |arg| arg.parse().unwrap());
    let (keys, value_bytes) = (number(0, 1e6) as u64, number(1, 100.0) as usize);
    let (share, rounds) = (number(2, 0.25), number(3, 3.0) as usize);
    let state = keys * (KEY_BYTES + HEADER_BYTES + value_bytes) as u64;
    let budget = (state as f64 * share) as u64;
    println!(
        "{keys} keys, values of {value_bytes} bytes: {} MB of records, budget {} MB",
        state / 1_000_000,
        budget / 1_000_000
    );
    let mut stores = vec!["memory", "log", "batches"];
    stores.extend(cfg!(feature = "peer-rocksdb").then_some("rocksdb"));
    stores.extend(cfg!(feature = "peer-cobble").then_some("cobble"));
    for pattern in ["uniform", "zipf:0.99", "hotspot"] {
        let mut rates = vec![Vec::new(); stores.len()];
        let mut most = vec![0u64; stores.len()];
        let mut reads = vec![String::new(); stores.len()];
        let mut pauses = vec![String::new(); stores.len()];
        for _ in 0..rounds {
            for (at, store) in stores.iter().enumerate() {
                let output = Command::new(std::env::current_exe().unwrap())
                    .args([store, pattern, &keys.to_string(), &value_bytes.to_string(), &budget.to_string()])
                    .output()
                    .unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                let mut figures = text.split_whitespace();
                let Some(rate) = figures.next().and_then(|rate| rate.parse::<f64>().ok()) else {
                    println!("{store} failed: {}", String::from_utf8_lossy(&output.stderr));
                    continue;
                };
                rates[at].push(rate);
                most[at] = most[at].max(figures.next().unwrap().parse().unwrap());
                reads[at] = figures.next().unwrap().into();
                pauses[at] = figures.next().unwrap().into();
            }
        }
        println!("{pattern}");
        for (at, (store, rates)) in stores.iter().zip(&mut rates).enumerate() {
            let (most, reads, pause) = (most[at], &reads[at], &pauses[at]);
            rates.sort_by(f64::total_cmp);
            let Some(median) = rates.get(rates.len() / 2) else { continue };
            let (least, highest) = (rates[0], rates[rates.len() - 1]);
            println!(
                "  {store:8} {median:7.3} M/s [{least:.3} to {highest:.3}]  anonymous memory at most {:6.1} MB, {:.2} of the budget, {reads} disk reads an operation, pause {pause} us",
                most as f64 / 1e6,
                most as f64 / budget as f64
            );
        }
    }
}
