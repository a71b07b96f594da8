//! Warmth: how much a key group was used lately, in one byte.

/// Thresholds of rounding, as fractions of the next power of two in 64 bits: 2^63.0625, 2^63.1875, ... 2^63.9375.
const ROUNDED_UP_FROM: [u64; 8] = [
    0x85aa_c367_cc48_7b15,
    0x91c3_d373_ab11_c337,
    0x9ef5_3260_91a1_11ae,
    0xad58_3eea_42a1_4ac7,
    0xbd08_a39f_580c_36bf,
    0xce24_8c15_1f84_80e4,
    0xe0cc_deec_2a94_e112,
    0xf525_7d15_2486_cc2d,
];

/// How much a key group was used lately: a logarithmic weight of its reads and writes, which decay. Orders groups, and
/// tells how many times as much one was used as another; exact counts are in [`GroupHeat`](super::GroupHeat).
///
/// The byte is part of the format: 0 for none, else `1 + round(8 * log2(uses))`, at most 255. A step is 9 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Warmth(pub u8);

impl Warmth {
    /// Returns the warmth of a group that was used this often.
    #[must_use]
    pub fn of(uses: u64) -> Self {
        let Some(power) = uses.checked_ilog2() else { return Self(0) };
        // The highest bit of `uses` becomes that of the word.
        let fraction = uses << uses.leading_zeros();
        let eighths = ROUNDED_UP_FROM.partition_point(|from| *from <= fraction);
        Self(u8::try_from(1 + 8 * u64::from(power) + eighths as u64).unwrap_or(u8::MAX))
    }

    /// Returns about how often the group was used; at most 2^31.75.
    #[must_use]
    pub fn weight(self) -> f64 {
        self.0.checked_sub(1).map_or(0.0, |eighths| (f64::from(eighths) / 8.0).exp2())
    }

    /// Returns the stored byte.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in floating point.
    fn defined(uses: u64) -> f64 {
        if uses == 0 { 0.0 } else { (1.0 + (8.0 * (uses as f64).log2()).round()).min(255.0) }
    }

    #[test]
    fn a_byte_is_eight_steps_per_doubling() {
        let spread = (0..64).flat_map(|shift| [1, 3, 5, 7, 1001, 12_345].map(|odd: u64| odd << shift));
        for uses in (0..100_000).chain(spread).chain([u64::MAX]) {
            assert_eq!(f64::from(Warmth::of(uses).byte()), defined(uses), "{uses}");
        }
        assert_eq!([0, 1, 2, 4, 1 << 31].map(|uses| Warmth::of(uses).byte()), [0, 1, 9, 17, 249]);
    }

    #[test]
    fn a_weight_is_about_the_uses() {
        assert_eq!([Warmth::of(0), Warmth::of(1), Warmth::of(4)].map(Warmth::weight), [0.0, 1.0, 4.0]);
        for uses in [3, 17, 1000, 99_999, 3_000_000_000] {
            let share = Warmth::of(uses).weight() / uses as f64;
            assert!((0.955..1.047).contains(&share), "{uses}: {share}");
        }
        assert!((0..u8::MAX).all(|byte| Warmth(byte).weight() < Warmth(byte + 1).weight()));
    }
}
