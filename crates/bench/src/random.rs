//! Seeded random numbers, identical on every machine.

/// SplitMix64: the first draws of different seeds differ.
///
/// # Source
/// Steele, Lea, Flood, OOPSLA 2014, doi:10.1145/2660193.2660195.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws from `0 <= x < 1`.
    pub(crate) fn draw_unit(&mut self) -> f64 {
        const STEPS: u64 = 1 << 53;
        (self.draw() % STEPS) as f64 / STEPS as f64
    }
}
