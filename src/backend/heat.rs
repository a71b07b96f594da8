//! Usage counters per key group, decayed at each seal.

/// Share of a counter that remains after each seal.
const KEPT: f64 = 7.0 / 8.0;

/// Reads and writes of one group. Each seal removes an eighth: a use 5 seals ago counts about half.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heat {
    /// Since the last seal.
    new_reads: u64,
    new_writes: u64,
    reads: f64,
    writes: f64,
    /// The seal number up to which the counters have decayed.
    seals: u32,
}

impl Heat {
    #[inline]
    pub(super) fn read(&mut self) {
        self.new_reads += 1;
    }

    #[inline]
    pub(super) fn write(&mut self) {
        self.new_writes += 1;
    }

    /// Returns the uses since the last seal that it was part of.
    pub(super) fn new_uses(&self) -> u64 {
        self.new_reads + self.new_writes
    }

    /// Returns reads and writes as of seal number `seals`, rounded, and decays the counters.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 uses")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturates")]
    pub(super) fn at_seal(&mut self, seals: u32) -> (u64, u64) {
        // Seals in between did not touch this group: apply their decay now.
        let skipped = i32::try_from(seals.saturating_sub(self.seals).saturating_sub(1)).unwrap_or(i32::MAX);
        let decay = KEPT.powi(skipped);
        let reads = self.reads * decay + self.new_reads as f64;
        let writes = self.writes * decay + self.new_writes as f64;
        *self = Self { new_reads: 0, new_writes: 0, reads: reads * KEPT, writes: writes * KEPT, seals };
        (reads.round() as u64, writes.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_decay_at_every_seal() {
        let mut heat = Heat::default();
        (0..800).for_each(|_| heat.read());
        (0..64).for_each(|_| heat.write());
        assert_eq!(heat.at_seal(1), (800, 64));
        assert_eq!(heat.at_seal(2), (700, 56));
        heat.write();
        assert_eq!(heat.at_seal(4), (536, 44), "one seal was skipped");
    }
}
