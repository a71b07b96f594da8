//! Where a run's state lies: in memory up to `--memory`, and beyond it on `--disk`.

use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::backend::{LazyBackend, StateBackend};
use alluvium::{DiskTier, DiskTierStats, Error, JobSettings, MemoryBudget, Result};
use alluvium_bench::backend::BackendKind;
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::args::RunArgs;
use super::disk::DiskArg;

/// The least `--memory`. The key groups have a region being written each, and checkpoints have several segments being
/// uploaded: below it, little would be left for the index, which cannot go to the disk.
const LEAST_MEMORY: ByteSize = ByteSize::mib(16);

/// Each buffer of a checkpoint or a restore has at most this part of the memory: some seven are held at a time, and what is left must hold the index and what is being written.
const BUFFERS: u64 = 32;

/// The memory of a run, the disk below it, and the most that was seen of that.
#[derive(Debug)]
pub(crate) struct Tiers {
    budget: MemoryBudget,
    disk_bytes_max: AtomicU64,
    groups_absent: AtomicU64,
    evictions: AtomicU64,
}

impl Tiers {
    /// Opens the tiers of a run. Only the backend `log` can move state to the disk.
    ///
    /// # Errors
    /// `Config` if the memory is too small, or the disk's folder cannot take files.
    pub(crate) fn open(args: &RunArgs) -> Result<Self> {
        let bytes = args.memory.map_or(u64::MAX, |memory| memory.as_u64());
        if bytes < LEAST_MEMORY.as_u64() {
            let error = Error::config("--memory is too small").with("memory", ByteSize::b(bytes));
            return Err(error.with("least", LEAST_MEMORY));
        }
        let budget = MemoryBudget::new(bytes);
        let budget = match &args.disk {
            Some(disk) if args.memory.is_some() && args.backend == BackendKind::Log => {
                budget.with_disk(DiskTier::open(&disk.folder, disk.half())?)
            }
            _ => budget,
        };
        Ok(Self::new(budget))
    }

    fn new(budget: MemoryBudget) -> Self {
        let [disk_bytes_max, groups_absent, evictions] = Default::default();
        Self { budget, disk_bytes_max, groups_absent, evictions }
    }

    /// Returns how many bytes of `disk` local copies of packs may take.
    pub(crate) fn cache_bytes(&self, disk: &DiskArg) -> u64 {
        if self.budget.disk().is_some() { disk.half() } else { disk.budget }
    }

    /// Has a job use the memory, with buffers that fit it.
    pub(crate) fn apply(&self, settings: &mut JobSettings) {
        let most = self.budget.limit_bytes() / BUFFERS;
        settings.budget = Some(self.budget.clone());
        settings.restore_bytes = settings.restore_bytes.min(most);
        settings.pipeline.segment_bytes = settings.pipeline.segment_bytes.min(most);
        settings.pipeline.pack_bytes = settings.pipeline.pack_bytes.min(most);
    }

    /// Looks at how much the disk holds now.
    pub(crate) fn sample(&self) {
        if let Some(disk) = self.budget.disk() {
            self.disk_bytes_max.fetch_max(disk.stats().held_bytes, Ordering::Relaxed);
        }
    }

    /// Counts the key groups of a subtask that has read all its records.
    pub(crate) fn count<B: StateBackend>(&self, backend: &LazyBackend<B>) {
        self.groups_absent.fetch_add(backend.absent().len() as u64, Ordering::Relaxed);
        self.evictions.fetch_add(backend.evictions(), Ordering::Relaxed);
    }

    pub(crate) fn json(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let disk = self.budget.disk().map_or_else(DiskTierStats::default, DiskTier::stats);
        json!({
            "memory_bytes_max": self.budget.most_bytes(),
            "disk_bytes_max": of(&self.disk_bytes_max),
            "disk_reads": disk.reads,
            "disk_record_reads": disk.record_reads,
            "disk_slow_reads": disk.slow_reads,
            "disk_writes": disk.writes,
            "disk_failed": disk.failed,
            "disk_damaged": disk.damaged,
            "groups_absent": of(&self.groups_absent),
            "evictions": of(&self.evictions),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_fit_into_a_small_memory_and_stay_as_they_are_in_a_large_one() {
        let buffers = |memory: u64| {
            let mut settings = JobSettings::default();
            Tiers::new(MemoryBudget::new(memory)).apply(&mut settings);
            let JobSettings { pipeline, restore_bytes, budget, .. } = settings;
            assert_eq!(budget.map(|budget| budget.limit_bytes()), Some(memory));
            [pipeline.segment_bytes, pipeline.pack_bytes, restore_bytes]
        };
        assert_eq!(buffers(16 << 20), [1 << 19; 3]);
        assert_eq!(buffers(1536 << 20), [48 << 20, 48 << 20, 32 << 20]);
        assert_eq!(buffers(u64::MAX), [64 << 20, 64 << 20, 32 << 20]);
    }

    #[test]
    fn cold_state_and_local_copies_share_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let disk = |text: &str| text.parse::<DiskArg>().unwrap();
        let alone = Tiers::new(MemoryBudget::new(1));
        let tier = DiskTier::open(folder.path(), 1).unwrap();
        let both = Tiers::new(MemoryBudget::new(1).with_disk(tier));
        assert_eq!((alone.cache_bytes(&disk("d:5MiB")), both.cache_bytes(&disk("d:5MiB"))), (5 << 20, 5 << 19));
        assert_eq!((alone.cache_bytes(&disk("d")), both.cache_bytes(&disk("d"))), (u64::MAX, u64::MAX));
        assert_eq!(both.cache_bytes(&disk("d:1")), 1);
    }
}
