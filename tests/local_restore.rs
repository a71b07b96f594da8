//! Restores from local copies of packs: they cost no bytes of the store, and damage costs bytes of the store and nothing
//! else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use alluvium::internals::place::cache::Disk;
use alluvium::{JobSettings, LocalCache, Opaque, OpaqueRole, RestoreFrom, Result, RetentionPolicy, TokioRuntime};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::{Counting, Door, Gate, runtime, store};
use bytes::Bytes;

/// A machine with a folder of local copies.
struct Machine {
    disk: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { disk: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Opens the folder as a new process does.
    fn cache(&self) -> LocalCache {
        LocalCache::open(self.path(), u64::MAX, TokioRuntime::current()).unwrap()
    }

    /// Opens the job with local copies in this machine's folder.
    async fn open(&self, gate: &Arc<Gate>, parallelism: u32) -> (Counting, LocalCache) {
        let cache = self.cache();
        (open(gate, &cache, parallelism).await.unwrap(), cache)
    }

    /// Restores the job in a new process, compares its state, and returns the bytes of data read from the store.
    async fn restores(&self, gate: &Arc<Gate>, parallelism: u32, expected: &BTreeMap<Vec<u8>, u64>) -> u64 {
        let (job, cache) = self.open(gate, parallelism).await;
        assert!(job.expected == *expected, "other content at parallelism {parallelism}");
        let read = job.job.store().requests();
        assert!(read.get_bytes - read.data_bytes < 1 << 20, "manifests and markers are small");
        settled(&cache).await;
        read.data_bytes
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_unstable();
        files
    }
}

async fn open(gate: &Arc<Gate>, cache: &LocalCache, parallelism: u32) -> Result<Counting> {
    let settings =
        JobSettings::default().with(|it| it.retention = RetentionPolicy::default().with(|it| it.checkpoints = 2));
    let store = store(&gate.objects()).with_cache(cache.clone());
    Counting::open_on(store, parallelism, settings, RestoreFrom::Newest).await
}

/// Waits until all copies are written.
async fn settled(cache: &LocalCache) {
    while cache.waiting_bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Length of opaques that are too large for the manifest.
const LARGE: usize = 40 << 10;

/// Takes a checkpoint with opaques of this length.
async fn checkpoint(job: &mut Counting, opaques: usize) {
    let opaque = |at| Opaque::new(OpaqueRole::Source, "offsets", vec![u8::try_from(at).unwrap(); opaques]);
    let epoch = job.barrier_with(|at| vec![opaque(at)]).unwrap();
    job.job.wait(epoch).await.unwrap().unwrap();
}

/// Runs a job on `machine` that leaves long and short segments, and opaques in packs. Returns its content.
async fn build(machine: &Machine, gate: &Arc<Gate>) -> BTreeMap<Vec<u8>, u64> {
    build_with(machine, gate, LARGE).await
}

/// As [`build`], with opaques of this length.
async fn build_with(machine: &Machine, gate: &Arc<Gate>, opaques: usize) -> BTreeMap<Vec<u8>, u64> {
    let (mut job, cache) = machine.open(gate, 4).await;
    for keys in [0..40_000, 100..200, 7_000..19_000] {
        job.add(keys).unwrap();
        checkpoint(&mut job, opaques).await;
    }
    settled(&cache).await;
    assert_eq!((cache.counts().failed, cache.counts().skipped), (0, 0));
    job.expected
}

/// Returns the lengths of the stored data objects, by name.
async fn objects(gate: &Gate) -> BTreeMap<String, u64> {
    let dump = gate.dump().await.into_iter();
    dump.filter_map(|(key, bytes)| Some((key.split_once("/data/")?.1.to_owned(), bytes.len() as u64))).collect()
}

/// Returns a bound for reads of these bytes by lanes that do not wait for each other: a block that a lane reads may be read
/// by another, if that begins before the copy is written. Here all groups are smaller than a block; without copies, each
/// block would be read for each of its groups.
fn with_shared_blocks(bytes: u64) -> u64 {
    2 * bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_or_rescale_on_the_same_machine_reads_no_data_from_the_store() {
    let (machine, gate) = (Machine::new(), Gate::new());
    let expected = build(&machine, &gate).await;
    for parallelism in [4, 5, 1, 4] {
        assert_eq!(machine.restores(&gate, parallelism, &expected).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_reads_what_it_needs_once() {
    let (first, second, gate) = (Machine::new(), Machine::new(), Gate::new());
    let expected = build(&first, &gate).await;
    let stored: u64 = objects(&gate).await.into_values().sum();
    let read = second.restores(&gate, 4, &expected).await;
    assert!(read > stored / 2 && read <= with_shared_blocks(stored), "{read} of {stored}");
    for parallelism in [4, 5, 3] {
        assert_eq!(second.restores(&gate, parallelism, &expected).await, 0, "at {parallelism}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescale_reads_little_more_than_what_is_not_there() {
    let (first, second, gate) = (Machine::new(), Machine::new(), Gate::new());
    // An open reads opaques in packs twice, the second time perhaps before their copy is written.
    let expected = build_with(&first, &gate, 0).await;
    second.restores(&gate, 4, &expected).await;
    // What a quarter of the subtasks would have brought along is on another machine.
    let moved: Vec<_> = second.files().into_iter().step_by(4).collect();
    let bytes: u64 = moved.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    moved.iter().for_each(|file| fs::remove_file(file).unwrap());
    let read = second.restores(&gate, 5, &expected).await;
    // Copies of such a block may overlap: what one of them had is in the other.
    assert!(read > 0 && read <= with_shared_blocks(bytes), "{read} bytes for {bytes}");
    assert_eq!(second.restores(&gate, 5, &expected).await, 0);
}

/// Damages a local copy at a drawn place; returns the files that changed.
fn damage(rng: &mut Rng, files: &[PathBuf], foreign: &[PathBuf]) -> Vec<PathBuf> {
    let file = &files[rng.index(files.len())];
    let mut bytes = fs::read(file).unwrap();
    let at = rng.index(bytes.len());
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes.truncate(at),
        // A power loss: blocks were never written.
        5 => bytes[at..].iter_mut().take([4096, usize::MAX][rng.index(2)]).for_each(|byte| *byte = 0),
        2 => {
            fs::remove_file(file).unwrap();
            return vec![file.clone()];
        }
        3 => {
            let other = &files[rng.index(files.len())];
            let swapped = fs::read(other).unwrap();
            fs::write(other, bytes).unwrap();
            fs::write(file, swapped).unwrap();
            return vec![file.clone(), other.clone()];
        }
        _ => bytes = fs::read(&foreign[rng.index(foreign.len())]).unwrap(),
    }
    fs::write(file, bytes).unwrap();
    vec![file.clone()]
}

/// Returns the objects of which data was read from the store since the last call.
fn fetched(gate: &Gate) -> BTreeSet<String> {
    let calls = gate.take_calls().into_iter();
    calls.filter_map(|call| Some(call.strip_prefix("get ")?.split_once("/data/")?.1.to_owned())).collect()
}

/// Returns the name of the object of which a file is a copy.
fn object_of(file: &Path) -> String {
    file.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn d02_d08_copies_that_are_damaged_at_random_are_found_or_harmless_and_never_wrong() {
    let (machine, other, gate, elsewhere) = (Machine::new(), Machine::new(), Gate::new(), Gate::new());
    let expected = build(&machine, &gate).await;
    build(&other, &elsewhere).await;
    let foreign = other.files();
    let pristine: Vec<_> = machine.files().into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    let files: Vec<_> = pristine.iter().map(|(_, file)| file.clone()).collect();
    let mut found = 0;
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let mut changed = BTreeSet::new();
        for _ in 0..=rng.below(3) {
            let there: Vec<_> =
                files.iter().filter(|file| file.exists() && fs::metadata(file).unwrap().len() > 0).cloned().collect();
            changed.extend(damage(&mut rng, &there, &foreign).iter().map(|file| object_of(file)));
        }
        gate.take_calls();
        let (job, cache) = machine.open(&gate, 1 + u32::try_from(rng.below(8)).unwrap()).await;
        assert!(job.expected == expected, "seed {seed}: a damaged copy gave other content");
        // Only what was damaged is read from the store.
        let read = fetched(&gate);
        assert!(read.is_subset(&changed), "seed {seed}: {read:?} were read, {changed:?} are damaged");
        settled(&cache).await;
        drop(job);
        // What was read of a copy before the damage to it was found has no copy now: the next restore fetches that.
        machine.restores(&gate, 4, &expected).await;
        assert!(fetched(&gate).is_subset(&read), "seed {seed}");
        assert_eq!(machine.restores(&gate, 4, &expected).await, 0, "seed {seed}: not repaired");
        found += u32::from(!read.is_empty());
        machine.files().iter().for_each(|file| fs::remove_file(file).unwrap());
        pristine.iter().for_each(|(bytes, file)| fs::write(file, bytes).unwrap());
    }
    // The others lay where no restore reads.
    assert!((50..100).contains(&found), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn d17_an_older_image_of_the_disk_lacks_the_newer_packs_and_harms_nothing() {
    let (machine, gate) = (Machine::new(), Gate::new());
    let (mut job, _cache) = machine.open(&gate, 2).await;
    job.add(0..20_000).unwrap();
    checkpoint(&mut job, LARGE).await;
    let older: Vec<_> = machine.files().into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    job.add(0..20_000).unwrap();
    checkpoint(&mut job, LARGE).await;
    let stored: u64 = objects(&gate).await.into_values().sum();
    machine.files().iter().for_each(|file| fs::remove_file(file).unwrap());
    older.iter().for_each(|(bytes, file)| fs::write(file, bytes).unwrap());
    let kept: u64 = older.iter().map(|(bytes, _)| bytes.len() as u64).sum();
    let read = machine.restores(&gate, 2, &job.expected).await;
    assert!(read > 0 && read <= with_shared_blocks(stored - kept), "{read} bytes of {stored}, {kept} were there");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_machine_share_a_folder() {
    let (machine, gates) = (Machine::new(), [Gate::new(), Gate::new()]);
    let expected = [build(&machine, &gates[0]).await, build(&machine, &gates[1]).await];
    for (gate, expected) in gates.iter().zip(&expected) {
        assert_eq!(machine.restores(gate, 4, expected).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_deletes_leaves_the_folder() {
    let (machine, gate) = (Machine::new(), Gate::new());
    let (mut job, cache) = machine.open(&gate, 1).await;
    let mut uploaded = BTreeSet::new();
    for round in 0..20 {
        job.add(round..round + 50).unwrap();
        checkpoint(&mut job, LARGE).await;
        uploaded.extend(objects(&gate).await.into_keys());
    }
    settled(&cache).await;
    let held = || machine.files().iter().map(|file| object_of(file)).collect::<BTreeSet<_>>();
    let mut stored = BTreeSet::new();
    // The collector deletes in the background.
    for _ in 0..100_000 {
        stored = objects(&gate).await.into_keys().collect();
        if stored.len() < uploaded.len() && held() == stored {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?} are held, {stored:?} are stored", held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_not_uploaded_leaves_no_copy() {
    let (machine, gate) = (Machine::new(), Gate::new());
    let (mut job, _cache) = machine.open(&gate, 1).await;
    job.add(0..50).unwrap();
    gate.set(Door::ReadOnly);
    assert!(job.checkpoint().await.unwrap().is_none());
    for _ in 0..100_000 {
        if machine.files().is_empty() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{:?} are left", machine.files());
}

/// A disk whose writes wait until it is released, and whose every call fails if it is broken.
#[derive(Debug, Default)]
struct Sick {
    released: Mutex<bool>,
    release: Condvar,
    broken: bool,
}

impl Sick {
    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::Error::other("broken")) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

impl Disk for Sick {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }

    fn length(&self, _: &str) -> io::Result<u64> {
        // There is a copy of everything, and none can be read.
        if self.broken { Ok(1 << 30) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn read(&self, _: &str, _: Range<u64>) -> io::Result<Bytes> {
        self.check().map(|()| Bytes::new())
    }

    fn write(&self, _: &str, name: &str, _: &[Bytes]) -> io::Result<()> {
        if name.ends_with(".tmp") {
            return Ok(());
        }
        let mut released = self.released.lock().unwrap();
        while !*released && !self.broken {
            released = self.release.wait(released).unwrap();
        }
        self.check()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if name.ends_with(".tmp") { Ok(()) } else { self.check() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d05_a_disk_that_fails_or_hangs_holds_up_no_job() {
    for broken in [true, false] {
        let gate = Gate::new();
        let disk = Arc::new(Sick { broken, ..Sick::default() });
        let cache = LocalCache::on(Arc::<Sick>::clone(&disk), u64::MAX, runtime()).unwrap();
        let mut job = open(&gate, &cache, 2).await.unwrap();
        for _ in 0..3 {
            job.add(0..5_000).unwrap();
            checkpoint(&mut job, LARGE).await;
        }
        let again = open(&gate, &cache, 3).await.unwrap();
        assert!(again.expected == job.expected);
        assert!(again.job.store().requests().data_bytes > 0);
        *disk.released.lock().unwrap() = true;
        disk.release.notify_all();
        settled(&cache).await;
        assert!(cache.counts().failed > 0 && cache.counts().written == 0, "{:?}", cache.counts());
    }
}
