//! A cache in a real folder, and on a disk that fails.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::error::ErrorKind;
use crate::id::Attempt;
use crate::time::Timestamp;

const BLOCK: u64 = 4096;

/// Does blocking work at once.
#[derive(Debug)]
struct Inline(AtomicU64);

impl Runtime for Inline {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        future.now_or_never().unwrap();
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }

    fn now(&self) -> Timestamp {
        Timestamp::MIN
    }

    fn random(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Returns a runtime whose draws begin at `first`.
fn inline(first: u64) -> Inline {
    Inline(AtomicU64::new(first))
}

fn open(folder: &Path, budget: u64) -> LocalCache {
    LocalCache::open(folder, budget, inline(0)).unwrap()
}

fn object(name: u8) -> ObjectId {
    ObjectId { attempt: Attempt(1), random: [name; 16] }
}

fn bytes(range: Range<u64>) -> Bytes {
    range.map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn add(cache: &LocalCache, name: u8, length: u64) {
    let middle = length / 2;
    let written = cache.add_object(object(name), vec![bytes(0..middle), bytes(middle..length)]);
    drop(written.now_or_never().unwrap());
}

/// Returns start and end of the parts that are found of a range of an object, after comparing them.
fn found(cache: &LocalCache, name: u8, range: Range<u64>) -> Vec<(u64, u64)> {
    let Found { parts, gap, .. } = cache.read(object(name), range.clone()).now_or_never().unwrap();
    let mut left = range.start;
    let ranges = parts.into_iter().map(|(start, part)| {
        let range = start..start + part.len() as u64;
        assert_eq!(part, bytes(range.clone()));
        left = if left == gap.start && start == gap.end { gap.end } else { left };
        assert_eq!(start, left);
        left = range.end;
        (start, left)
    });
    let ranges = ranges.collect();
    assert!(left == range.end || (left, range.end) == (gap.start, gap.end));
    ranges
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_was_added_is_found_again_by_any_process() {
    let folder = tempfile::tempdir().unwrap();
    let (first, other) = (open(folder.path(), u64::MAX), open(folder.path(), u64::MAX));
    add(&first, 1, 10_000);
    first.add_part(object(2), 100, bytes(100..200));
    for (cache, parts) in [(&first, 1), (&other, 0), (&open(folder.path(), u64::MAX), 1)] {
        assert_eq!(found(cache, 1, 5..9000), [(5, 9000)]);
        assert_eq!(found(cache, 1, 0..0), []);
        // Pieces are known to the process that wrote them, and to those that came later.
        assert_eq!(found(cache, 2, 150..300).len(), parts);
        assert_eq!(found(cache, 3, 0..1), []);
        assert_eq!((cache.counts().damaged, cache.counts().failed), (0, 0));
    }
    assert_eq!(first.counts().written, 2);
    assert_eq!(first.counts().read_bytes, 8995 + 50);
}

#[test]
fn d10_processes_that_share_a_folder_stay_within_its_budget_and_do_each_other_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let budget = 16 * BLOCK;
    let caches = [0, 1000].map(|first| LocalCache::open(folder.path(), budget, inline(first)).unwrap());
    for name in 0..100 {
        add(&caches[usize::from(name % 2)], name, BLOCK);
        let size = names(folder.path()).len() as u64 * BLOCK;
        assert!(size <= budget + 2 * budget / LISTED_AGAIN, "{size} bytes after {name}");
    }
    for name in 0..100 {
        caches.iter().for_each(|cache| drop(found(cache, name, 0..BLOCK)));
    }
    for cache in &caches {
        assert_eq!((cache.counts().damaged, cache.counts().failed), (0, 0));
        assert!(!found(cache, 99, 0..BLOCK).is_empty());
    }
}

#[test]
fn the_budget_holds_and_the_least_recently_used_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), 4 * BLOCK);
    for name in 0..4 {
        add(&cache, name, BLOCK - 1);
    }
    assert_eq!(found(&cache, 0, 0..1).len(), 1);
    add(&cache, 9, 2 * BLOCK);
    let held = |cache: &LocalCache| [0, 1, 2, 3, 9].map(|name| found(cache, name, 0..1).len());
    assert_eq!((held(&cache), cache.room()), ([1, 0, 0, 1, 1], 4 * BLOCK));
    add(&cache, 5, 5 * BLOCK);
    assert_eq!(
        (held(&cache), cache.counts().skipped),
        ([1, 0, 0, 1, 1], 1),
        "more than all of the room is not written"
    );
    // A smaller budget, after a restart.
    let cache = open(folder.path(), 2 * BLOCK);
    assert!(cache.room() <= 2 * BLOCK);
    assert_eq!(names(folder.path()).len(), held(&cache).iter().sum::<usize>());
}

#[test]
fn what_is_forgotten_leaves_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, other) = (open(folder.path(), u64::MAX), open(folder.path(), u64::MAX));
    add(&other, 1, 10);
    cache.add_part(object(1), 3, bytes(3..7));
    cache.add_part(object(2), 3, bytes(3..7));
    cache.forget(object(1));
    assert_eq!(names(folder.path()), BTreeSet::from([Piece::part(object(2), &(3..7)).name()]));
    assert_eq!(found(&other, 1, 0..10), [], "the other process takes it for a miss");
    assert_eq!((other.counts().damaged, other.counts().failed), (0, 0));
}

#[test]
fn d11_what_crashed_runs_left_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let cache = open(folder.path(), u64::MAX);
    add(&cache, 1, 10);
    let own: Vec<_> = (0..10_000u64).map(|at| format!("{at:032x}.tmp")).collect();
    let foreign = ["notes.tmp", "A0.tmp", &format!("{:033x}.tmp", 1), "x.pack", "1-2.part", "photo.jpg", ".tmp"];
    own.iter().map(String::as_str).chain(foreign).for_each(|name| fs::write(path(name), "left over").unwrap());
    fs::create_dir(path(&Piece::whole(object(3), 0).name())).unwrap();
    let not_text = folder.path().join(OsStr::from_bytes(b"\xff.pack"));
    fs::write(&not_text, "foreign").unwrap();
    let cache = open(folder.path(), 3 * BLOCK);
    fs::remove_file(not_text).unwrap();
    let mut kept: BTreeSet<_> = foreign.map(str::to_owned).into();
    kept.extend([1, 3].map(|name| Piece::whole(object(name), 0).name()));
    assert_eq!(names(folder.path()), kept);
    assert_eq!((cache.room(), cache.counts().failed), (BLOCK, 0), "foreign files do not count");
    assert_eq!(found(&cache, 3, 0..1), [], "a folder is no copy");
}

#[test]
fn d12_links_are_not_followed_and_a_folder_that_cannot_be_written_is_refused() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = elsewhere.path().join("precious");
    fs::write(&victim, bytes(0..100)).unwrap();
    let name = Piece::whole(object(1), 100).name();
    symlink(&victim, folder.path().join(&name)).unwrap();
    symlink(&victim, folder.path().join(format!("{:032x}.tmp", 7))).unwrap();
    let cache = open(folder.path(), u64::MAX);
    assert_eq!(cache.room(), 0);
    assert_eq!(found(&cache, 1, 0..10), []);
    add(&cache, 1, 50);
    assert_eq!(found(&cache, 1, 0..50), [(0, 50)], "the link was replaced");
    assert_eq!(fs::read(&victim).unwrap(), bytes(0..100));
    fs::remove_file(folder.path().join(&name)).unwrap();
    symlink(&victim, folder.path().join(&name)).unwrap();
    assert_eq!(found(&cache, 1, 0..50), [], "a link in place of a file");
    cache.forget(object(1));
    assert!(victim.exists());

    for bad in [victim.join("below"), victim] {
        let error = LocalCache::open(&bad, 1, inline(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains("precious"), "{error}");
    }
    let error = LocalCache::open("/proc/self", 1, inline(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "it can be listed, but not written");
}

#[test]
fn d09_files_that_are_cut_or_removed_are_dropped_and_done_without() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), u64::MAX);
    add(&cache, 1, 100);
    add(&cache, 2, 100);
    cache.add_part(object(3), 10, bytes(10..20));
    let [whole, gone, part] =
        [Piece::whole(object(1), 100), Piece::whole(object(2), 100), Piece::part(object(3), &(10..20))]
            .map(|piece| folder.path().join(piece.name()));
    fs::File::options().write(true).open(&whole).unwrap().set_len(50).unwrap();
    fs::File::options().write(true).open(&part).unwrap().set_len(5).unwrap();
    fs::remove_file(gone).unwrap();
    assert_eq!(found(&cache, 1, 0..40), [(0, 40)], "what is there may be sound");
    assert_eq!(found(&cache, 1, 0..60), []);
    assert_eq!(found(&cache, 2, 0..60), []);
    assert!(!whole.exists());
    assert_eq!(cache.counts().damaged, 1);
    // A part that is shorter than its name says is dropped unread.
    let cache = open(folder.path(), u64::MAX);
    assert!(!part.exists());
    assert_eq!(cache.counts().damaged, 1);
}

#[test]
fn d13_names_are_drawn_and_no_file_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), u64::MAX);
    // The opening drew two names.
    let drawn = format!("{}.tmp", PutId(2u128.to_le_bytes()));
    fs::write(folder.path().join(&drawn), "another's").unwrap();
    add(&cache, 1, 10);
    assert_eq!((found(&cache, 1, 0..10), cache.counts().failed), (vec![], 1));
    assert_eq!(fs::read(folder.path().join(drawn)).unwrap(), b"another's");
    add(&cache, 1, 10);
    assert_eq!(found(&cache, 1, 0..10), [(0, 10)]);
}

#[test]
fn d15_a_range_beyond_a_file_is_refused_before_room_is_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Folder(folder.path().to_owned());
    disk.write("a", "b", &[bytes(0..10)]).unwrap();
    for range in [0..1 << 60, 5..11, 11..12, u64::MAX - 1..u64::MAX] {
        assert_eq!(disk.read("b", range).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    assert_eq!(disk.read("b", 4..10).unwrap(), bytes(4..10));
    let cache = open(folder.path(), u64::MAX);
    add(&cache, 1, 10);
    assert_eq!(found(&cache, 1, 0..1 << 60), [(0, 10)]);
}

/// Fails some calls.
#[derive(Debug)]
struct Failing {
    folder: Folder,
    /// The failing call, and its error.
    fault: Mutex<Option<(&'static str, io::ErrorKind)>>,
}

impl Failing {
    fn check(&self, call: &str) -> io::Result<()> {
        match *self.fault.lock().unwrap() {
            Some((failing, error)) if failing == call => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for Failing {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.check("list")?;
        self.folder.list()
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.check("length")?;
        self.folder.length(name)
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        self.check("read")?;
        self.folder.read(name, range)
    }

    fn write(&self, temporary: &str, name: &str, pieces: &[Bytes]) -> io::Result<()> {
        self.check("write")?;
        self.folder.write(temporary, name, pieces)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check("remove")?;
        self.folder.remove(name)
    }
}

#[test]
fn d05_d06_whatever_the_disk_refuses_is_counted_and_done_without() {
    use io::ErrorKind::{Other, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    for error in [StorageFull, QuotaExceeded, ReadOnlyFilesystem, PermissionDenied, Other] {
        for (call, counted) in [("list", true), ("length", false), ("read", true), ("write", true), ("remove", true)] {
            let folder = tempfile::tempdir().unwrap();
            let disk = Arc::new(Failing { folder: Folder(folder.path().to_owned()), fault: Mutex::default() });
            let cache = LocalCache::with_disk(Arc::<Failing>::clone(&disk), 8 * BLOCK, Arc::new(inline(0))).unwrap();
            add(&cache, 1, BLOCK);
            *disk.fault.lock().unwrap() = Some((call, error));
            for name in 2..20 {
                add(&cache, name, BLOCK);
                found(&cache, name, 0..BLOCK);
                found(&cache, 1, 0..BLOCK);
                found(&cache, 30, 0..BLOCK);
            }
            assert_eq!(cache.counts().failed > 0, counted, "{call} {error}");
            assert!(cache.room() <= 8 * BLOCK);
            *disk.fault.lock().unwrap() = None;
            // With the first, files that could not be removed are found again, and with it they go.
            add(&cache, 39, BLOCK);
            add(&cache, 40, BLOCK);
            assert!(cache.room() <= 8 * BLOCK && names(folder.path()).len() <= 8, "{call} {error}");
            assert_eq!(found(&cache, 40, 0..BLOCK), [(0, BLOCK)], "{call} {error}");
        }
    }
}

#[test]
fn d14_a_disk_that_hangs_holds_a_bounded_number_of_bytes() {
    /// Never does blocking work.
    #[derive(Debug)]
    struct Hanging(Inline, Mutex<Vec<&'static str>>);

    impl Runtime for Hanging {
        fn spawn(&self, future: BoxFuture<'static, ()>) {
            self.0.spawn(future);
        }

        fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
            std::mem::forget(work);
            self.1.lock().unwrap().push("work");
        }

        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.0.sleep(duration)
        }

        fn now(&self) -> Timestamp {
            self.0.now()
        }

        fn random(&self) -> u128 {
            self.0.random()
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let runtime = Arc::new(Hanging(inline(0), Mutex::default()));
    let disk = Arc::new(Folder(folder.path().to_owned()));
    let cache = LocalCache::with_disk(disk, u64::MAX, Arc::<Hanging>::clone(&runtime)).unwrap();
    let piece = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..300 {
        cache.add_part(object(1), 0, piece.clone());
    }
    assert_eq!(runtime.1.lock().unwrap().len() as u64, WAITING_BYTES_MAX >> 20);
    assert_eq!(cache.counts().skipped, 300 - (WAITING_BYTES_MAX >> 20));
}
