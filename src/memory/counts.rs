//! What a disk tier holds and has done: in all, and for one of its owners.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::disk::DiskTierStats;

/// A read of at least this long went to a device: one from the page cache takes 1 or 2 microseconds.
const DEVICE_READ: Duration = Duration::from_micros(20);

/// A read of at least this long is counted as slow.
const SLOW_READ: Duration = Duration::from_millis(1);

/// Of the last hundreds of reads, the share that went to a device is kept as a fraction of this.
const ALL_READS: u32 = 1 << 16;

/// The weight of the last read in that share: one of so many.
const RECENT_READS: u32 = 256;

/// While at least this share of reads goes to a device, reads are announced. If they are, few of a batch still wait.
const ANNOUNCED_FROM: u32 = ALL_READS / 128;

/// Counts of a disk tier, and of the whole that they are part of.
#[derive(Debug, Default)]
pub(super) struct Counts {
    held_bytes: AtomicU64,
    reads: AtomicU64,
    record_reads: AtomicU64,
    slow_reads: AtomicU64,
    read_bytes: AtomicU64,
    read_nanos: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    write_nanos: AtomicU64,
    failed: AtomicU64,
    damaged: AtomicU64,
    from_device: AtomicU32,
    total: Option<Arc<Self>>,
}

impl Counts {
    /// Returns counts for one owner.
    pub(super) fn part_of(counts: &Arc<Self>) -> Self {
        let total = counts.total.as_ref().unwrap_or(counts);
        Self { total: Some(Arc::clone(total)), ..Self::default() }
    }

    fn each(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(self.total.as_deref())
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.each().for_each(|counts| add(&counts.held_bytes, bytes));
    }

    pub(super) fn release(&self, bytes: u64) {
        self.each().for_each(|counts| _ = counts.held_bytes.fetch_sub(bytes, Ordering::Relaxed));
    }

    /// Counts a read of one record, or of a whole region.
    pub(super) fn read(&self, bytes: usize, of_record: bool, took: Duration) {
        for counts in self.each() {
            add(&counts.reads, 1);
            add(&counts.record_reads, u64::from(of_record));
            add(&counts.slow_reads, u64::from(took >= SLOW_READ));
            add(&counts.read_bytes, bytes as u64);
            add(&counts.read_nanos, nanos(took));
        }
        let last = if took >= DEVICE_READ { ALL_READS } else { 0 };
        // Two threads at once may lose one of their reads: it is an estimate.
        let share = self.from_device.load(Ordering::Relaxed);
        let share = share - share.div_ceil(RECENT_READS) + last / RECENT_READS;
        self.from_device.store(share, Ordering::Relaxed);
    }

    /// Returns whether reads lately went to a device, so that announcing them is worth a call of the system each.
    pub(super) fn reads_a_device(&self) -> bool {
        self.from_device.load(Ordering::Relaxed) >= ANNOUNCED_FROM
    }

    /// Counts a write of a region.
    pub(super) fn wrote(&self, bytes: usize, took: Duration) {
        for counts in self.each() {
            add(&counts.writes, 1);
            add(&counts.written_bytes, bytes as u64);
            add(&counts.write_nanos, nanos(took));
        }
    }

    pub(super) fn failed(&self) {
        self.each().for_each(|counts| add(&counts.failed, 1));
    }

    pub(super) fn damaged(&self) {
        self.each().for_each(|counts| add(&counts.damaged, 1));
    }

    pub(super) fn stats(&self, limit_bytes: u64) -> DiskTierStats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DiskTierStats {
            held_bytes: of(&self.held_bytes),
            limit_bytes,
            reads: of(&self.reads),
            record_reads: of(&self.record_reads),
            slow_reads: of(&self.slow_reads),
            read_bytes: of(&self.read_bytes),
            read_nanos: of(&self.read_nanos),
            writes: of(&self.writes),
            written_bytes: of(&self.written_bytes),
            write_nanos: of(&self.write_nanos),
            failed: of(&self.failed),
            damaged: of(&self.damaged),
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_counted_for_itself_and_in_the_whole() {
        let whole = Arc::new(Counts::default());
        let (one, other) = (Counts::part_of(&whole), Counts::part_of(&whole));
        one.hold(600);
        other.hold(70);
        one.release(100);
        one.read(30, true, Duration::from_millis(2));
        other.read(500, false, Duration::from_micros(3));
        other.wrote(500, Duration::from_nanos(9));
        let [whole, one, other] = [&*whole, &one, &other].map(|counts| counts.stats(5));
        assert_eq!((whole.held_bytes, one.held_bytes, other.held_bytes), (570, 500, 70));
        assert_eq!((whole.reads, whole.record_reads, whole.slow_reads, whole.read_bytes), (2, 1, 1, 530));
        assert_eq!((one.reads, one.read_nanos, other.reads, other.writes, other.write_nanos), (1, 2_000_000, 1, 1, 9));
    }

    #[test]
    fn reads_are_announced_while_some_go_to_a_device() {
        let counts = Counts::default();
        let [cached, device] = [1, 80].map(Duration::from_micros);
        let read = |times: usize, took| (0..times).for_each(|_| counts.read(1, true, took));
        read(1000, cached);
        read(1, device);
        assert!(!counts.reads_a_device(), "one may be a pause of the thread");
        (0..20).for_each(|_| {
            read(1, device);
            read(31, cached);
        });
        assert!(counts.reads_a_device(), "the first of each batch still waits");
        read(2000, cached);
        assert!(!counts.reads_a_device());
    }
}
