//! How much a key group is used: counters that fade.

/// What is left of a counter after each seal.
const KEPT: f64 = 7.0 / 8.0;

/// Reads and writes of one group. Each seal takes an eighth, so that what happened 5 seals ago counts about half.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heat {
    reads: f64,
    writes: f64,
    /// The number of seals that it has faded by.
    seals: u32,
}

impl Heat {
    pub(super) fn read(&mut self) {
        self.reads += 1.0;
    }

    pub(super) fn write(&mut self) {
        self.writes += 1.0;
    }

    /// Returns reads and writes, rounded, as of the seal number `seals`, and lets them fade.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never negative, and saturates")]
    pub(super) fn at_seal(&mut self, seals: u32) -> (u64, u64) {
        // It has faded since, at the seals that did not look.
        let passed = i32::try_from(seals.saturating_sub(self.seals).saturating_sub(1)).unwrap_or(i32::MAX);
        let faded = KEPT.powi(passed);
        let seen = (self.reads * faded, self.writes * faded);
        *self = Self { reads: seen.0 * KEPT, writes: seen.1 * KEPT, seals };
        (seen.0.round() as u64, seen.1.round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fades_at_every_seal() {
        let mut heat = Heat::default();
        (0..800).for_each(|_| heat.read());
        (0..64).for_each(|_| heat.write());
        assert_eq!(heat.at_seal(1), (800, 64));
        assert_eq!(heat.at_seal(2), (700, 56));
        heat.write();
        assert_eq!(heat.at_seal(4), (536, 44), "one seal did not look");
    }
}
