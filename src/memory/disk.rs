//! The disk tier: cold state in a private file, which is read by position and never durable.
//!
//! ```text
//! bytes --write--> Extent { where they lie, the numbers of their blocks } --read--> verified bytes
//! ```
//!
//! A mapping of the file would turn an error of the disk into a signal that ends the process.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result, broken};

use super::blocks;
use super::counts::Counts;
use super::file::{TierFile, unnamed_file};
use super::space::{Space, rounded};
use super::{Charge, MemoryBudget};

/// Bytes that the file may be too long by, beyond twice its used space.
const SLACK_BYTES: u64 = 16 << 20;

/// Local disk for cold state, shared by all jobs of a process. Clones share it.
///
/// A [`MemoryBudget`] that [has it](MemoryBudget::with_disk) passes it to the backends. Its file has no name and is gone with
/// the process: what lies there is never the only copy of anything that a checkpoint has.
///
/// # Examples
/// ```
/// use alluvium::{DiskTier, MemoryBudget};
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let budget = MemoryBudget::new(1 << 30).with_disk(DiskTier::open(folder, 16 << 30)?);
/// assert_eq!(budget.disk().map(|disk| disk.stats().held_bytes), Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DiskTier {
    part: Arc<Part>,
}

/// What one owner has of it, or all of it.
struct Part {
    shared: Arc<Shared>,
    counts: Arc<Counts>,
}

struct Shared {
    file: Box<dyn TierFile>,
    limit: u64,
    used: Mutex<Used>,
    /// The number of the next block. The first comes again after 2 TiB, hardly ever at its old place.
    next_block: AtomicU32,
}

/// The space in the file, and how long the file has become.
#[derive(Debug)]
struct Used {
    space: Space,
    file_len: u64,
}

/// What a disk tier holds and has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskTierStats {
    /// Bytes held now.
    pub held_bytes: u64,
    /// The most bytes that it may hold.
    pub limit_bytes: u64,
    /// Reads: each of one record, or of a region of up to 64 KiB.
    pub reads: u64,
    /// Reads of one record each: what an operation did not find in memory.
    pub record_reads: u64,
    /// Reads that took a millisecond or more.
    pub slow_reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Time spent reading, in nanoseconds.
    pub read_nanos: u64,
    /// Writes: each of one region.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Time spent writing, in nanoseconds.
    pub write_nanos: u64,
    /// Reads and writes that the system refused.
    pub failed: u64,
    /// Reads of bytes that were not those written.
    pub damaged: u64,
}

impl DiskTier {
    /// Opens a file without a name in `folder`, which is created.
    ///
    /// * `limit_bytes`: the most that the file may hold.
    ///
    /// # Errors
    /// `Config` if the folder cannot take files.
    pub fn open(folder: impl AsRef<Path>, limit_bytes: u64) -> Result<Self> {
        Ok(Self::on_file(unnamed_file(folder.as_ref())?, limit_bytes))
    }

    /// Returns a tier on any empty file: for tests with simulated disks.
    #[must_use]
    pub fn on_file(file: impl TierFile + 'static, limit_bytes: u64) -> Self {
        let shared = Shared {
            file: Box::new(file),
            limit: limit_bytes,
            used: Mutex::new(Used { space: Space::new(limit_bytes), file_len: 0 }),
            next_block: AtomicU32::new(0),
        };
        Self { part: Arc::new(Part { shared: Arc::new(shared), counts: Arc::default() }) }
    }

    /// Returns the tier for one owner: what it holds and does counts here as well, and is known for itself.
    pub(super) fn part(&self) -> Self {
        let Part { shared, counts } = &*self.part;
        let counts = Arc::new(Counts::part_of(counts));
        Self { part: Arc::new(Part { shared: Arc::clone(shared), counts }) }
    }

    /// Returns what it holds and has done so far.
    #[must_use]
    pub fn stats(&self) -> DiskTierStats {
        self.part.counts.stats(self.part.shared.limit)
    }

    /// Returns whether reads lately had to wait for a device.
    pub(crate) fn reads_a_device(&self) -> bool {
        self.part.counts.reads_a_device()
    }

    /// Writes `bytes` to free space. What the extent takes in memory, and its owner's `overhead`, is charged to `budget`.
    ///
    /// # Errors
    /// `Limit` if the tier or the disk is full; `Unavailable` if the system refuses otherwise.
    pub(crate) fn write(&self, bytes: &[u8], overhead: u64, budget: &MemoryBudget) -> Result<Extent> {
        let Part { shared, counts } = &*self.part;
        let (len, count) = (bytes.len(), blocks::count(bytes.len()));
        let (Ok(len_u32), Ok(count)) = (u32::try_from(len), u32::try_from(count)) else {
            broken("a region is shorter than 4 GiB")
        };
        let Some(at) = shared.used().take(blocks::stored_bytes(len) as u64) else {
            return Err(Error::limit("disk tier is full").with("limit", shared.limit));
        };
        let first_block = shared.next_block.fetch_add(count, Ordering::Relaxed);
        let mut extent = Extent { tier: self.clone(), at, len: len_u32, first_block, charge: budget.charge(0) };
        let stored = blocks::stored(bytes, first_block);
        counts.hold(extent.disk_bytes());
        let started = now();
        shared.write_all(&stored, at).map_err(|error| self.part.failed("write", at, error))?;
        counts.wrote(stored.len(), started.elapsed());
        // Not before: what a failed write gives back would wake owners that wait for memory, for nothing.
        extent.charge.resize(overhead);
        Ok(extent)
    }
}

impl fmt::Debug for DiskTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskTier").field(&self.part.shared.file).field(&self.stats()).finish()
    }
}

impl Used {
    fn take(&mut self, len: u64) -> Option<u64> {
        let at = self.space.take(len)?;
        self.file_len = self.file_len.max(self.space.end());
        Some(at)
    }

    /// Returns the length to cut the file to, once most of it is free.
    fn length_to_cut_to(&mut self) -> Option<u64> {
        let end = self.space.end();
        (self.file_len > 2 * end + SLACK_BYTES).then(|| {
            self.file_len = end;
            end
        })
    }
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write_at(bytes, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    at += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_exact(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.read_at(bytes, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    bytes = bytes.get_mut(read..).unwrap_or_default();
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Part {
    fn failed(&self, what: &str, at: u64, error: io::Error) -> Error {
        self.counts.failed();
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let message = format!("disk tier cannot {what} cold state");
        let error_of_kind = if full { Error::limit(message) } else { Error::unavailable(message) };
        error_of_kind.with("offset", at).with_source(error)
    }
}

/// Bytes on disk, which are given back when this is dropped.
pub(crate) struct Extent {
    tier: DiskTier,
    at: u64,
    len: u32,
    /// The number of its first block.
    first_block: u32,
    charge: Charge,
}

impl Extent {
    /// Returns the bytes that it takes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        rounded(self.stored_bytes())
    }

    fn stored_bytes(&self) -> u64 {
        blocks::stored_bytes(self.len as usize) as u64
    }

    /// Returns the bytes that it and its owner take in memory.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.charge.bytes()
    }

    /// Announces a read of the bytes in `range`, if reads lately had to wait for a device: several announced at once are waited
    /// for once.
    pub(crate) fn will_read(&self, range: Range<usize>) {
        let Part { shared, counts } = &*self.tier.part;
        if counts.reads_a_device() {
            let place = blocks::place(&blocks::around(&range), self.len as usize);
            shared.file.will_read(self.at + place.start as u64, place.len() as u64);
        }
    }

    /// Puts the bytes in `range`, and those up to the end of the last block, into `bytes`.
    ///
    /// # Errors
    /// `Corrupt` if the disk returns other bytes than were written; `Unavailable` if it returns none.
    pub(crate) fn read(&self, range: Range<usize>, bytes: &mut Vec<u8>) -> Result<()> {
        let len = self.len as usize;
        if range.start > range.end || range.end > len {
            broken("bytes are read where they were written");
        }
        let blocks = blocks::around(&range);
        let place = blocks::place(&blocks, len);
        let at = self.at + place.start as u64;
        let Part { shared, counts } = &*self.tier.part;
        bytes.clear();
        bytes.resize(place.len(), 0);
        let started = now();
        shared.read_exact(bytes, at).map_err(|error| self.tier.part.failed("read", at, error))?;
        counts.read(bytes.len(), range.len() < len, started.elapsed());
        let Ok(skipped) = u32::try_from(blocks.start) else { broken("a region is shorter than 4 GiB") };
        let first = self.first_block.wrapping_add(skipped);
        if !blocks::verify(bytes, first, range.start - blocks::bytes_before(blocks.start)) {
            counts.damaged();
            return Err(Error::corrupt("cold state on the local disk is damaged").with("offset", at));
        }
        Ok(())
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        let Part { shared, counts } = &*self.tier.part;
        counts.release(self.disk_bytes());
        let mut used = shared.used();
        used.space.give_back(self.at, self.stored_bytes());
        // Under the lock: nobody may have written beyond the new end. A file that stays long is harmless.
        if let Some(len) = used.length_to_cut_to() {
            drop(shared.file.set_len(len));
        }
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({} bytes at {})", self.len, self.at)
    }
}

/// Returns the time for a measurement: it decides hints alone.
#[expect(clippy::disallowed_methods, reason = "see above")]
fn now() -> Instant {
    Instant::now()
}
