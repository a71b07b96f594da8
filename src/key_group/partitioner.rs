//! Partitioners: how keys map to key groups.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::KeyGroup;
use crate::error::{Error, Result};

/// The mapping of keys to key groups: stored in the manifest and fixed for the job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partitioner {
    /// XXH3-64 of the key's bytes with a seed drawn once per job, so that outsiders cannot choose colliding keys.
    Range {
        /// The job's seed.
        seed: u64,
    },
    /// Flink's mapping: murmur of the key's Java hash code, modulo the number of groups.
    Flink,
    /// The engine's own 64-bit hash, stored with each row.
    External,
}

impl Partitioner {
    /// Returns the name stored in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Range { .. } => "range",
            Self::Flink => "flink",
            Self::External => "external",
        }
    }

    /// Returns the version and seed stored in manifests.
    #[inline]
    #[must_use]
    pub const fn version_and_seed(self) -> (u32, u64) {
        match self {
            Self::Range { seed } => (1, seed),
            Self::Flink | Self::External => (1, 0),
        }
    }

    /// Returns the partitioner named in a manifest.
    ///
    /// # Errors
    /// `Version` if this build does not know it.
    pub fn from_parts(name: &str, version: u32, seed: u64) -> Result<Self> {
        match (name, version) {
            ("range", 1) => Ok(Self::Range { seed }),
            ("flink", 1) => Ok(Self::Flink),
            ("external", 1) => Ok(Self::External),
            _ => Err(Error::version("unknown partitioner").with("name", name).with("version", version)),
        }
    }

    /// Returns the index hash of a key: [`CurrentKey::hash`].
    #[inline]
    #[must_use]
    pub fn index_hash(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.version_and_seed().1)
    }

    /// Returns the key with its hash and group, computed once per record.
    ///
    /// The engine passes `routing`: its own hash for `External`, the Java hash code for `Flink` (see [`java_hash`]);
    /// `Range` ignores it.
    #[inline]
    #[must_use]
    pub fn locate(self, bytes: &[u8], routing: u64, max_parallelism: u16) -> CurrentKey<'_> {
        let hash = self.index_hash(bytes);
        match self {
            Self::Range { .. } => CurrentKey { bytes, hash, group: scale(hash, max_parallelism), routing: None },
            Self::Flink => {
                // The low half is Java's 32-bit hash code, of either sign.
                let [a, b, c, d, ..] = routing.to_le_bytes();
                let group = flink_murmur(i32::from_le_bytes([a, b, c, d])) % u32::from(max_parallelism.max(1));
                let group = KeyGroup(u16::try_from(group).unwrap_or(0));
                CurrentKey { bytes, hash, group, routing: Some(routing) }
            }
            Self::External => {
                let group = scale(routing, max_parallelism);
                CurrentKey { bytes, hash, group, routing: Some(routing) }
            }
        }
    }
}

/// A record's key with its hash and group, for all tables of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentKey<'a> {
    /// The encoded key.
    pub bytes: &'a [u8],
    /// Index hash; its low 32 bits are independent of the group.
    pub hash: u64,
    /// The key group.
    pub group: KeyGroup,
    /// The engine's hash or hash code, stored with the row.
    pub routing: Option<u64>,
}

/// Maps the high half of a hash to `0..max`. A multiple of `max` splits each group into consecutive groups.
#[inline]
fn scale(hash: u64, max: u16) -> KeyGroup {
    KeyGroup(u16::try_from(((hash >> 32) * u64::from(max)) >> 32).unwrap_or(0))
}

/// Returns Flink's murmur of a Java hash code, never negative.
fn flink_murmur(code: i32) -> u32 {
    let mut h = code.cast_unsigned().wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    h ^= 4;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    // As Java's abs(), except that MIN becomes 0.
    match h.cast_signed() {
        i32::MIN => 0,
        signed => signed.unsigned_abs(),
    }
}

/// Java's hash codes of common key types, as `routing` for [`Partitioner::Flink`].
pub mod java_hash {
    /// Returns `Integer.hashCode`.
    #[must_use]
    pub fn int(value: i32) -> u64 {
        u64::from(value.cast_unsigned())
    }

    /// Returns `Long.hashCode`.
    #[must_use]
    pub fn long(value: i64) -> u64 {
        let bits = value.cast_unsigned();
        (bits ^ (bits >> 32)) & 0xffff_ffff
    }

    /// Returns `String.hashCode`: a polynomial over UTF-16 units.
    #[must_use]
    pub fn string(value: &str) -> u64 {
        u64::from(value.encode_utf16().fold(0u32, |h, unit| h.wrapping_mul(31).wrapping_add(u32::from(unit))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flink_groups_match_published_vectors() {
        let group = |routing, max| Partitioner::Flink.locate(b"", routing, max).group.0;
        for (routing, in_128, in_4096) in [
            (java_hash::int(0), 94, 2526),
            (java_hash::long(-1), 94, 2526),
            (java_hash::int(1), 86, 4054),
            (java_hash::int(42), 29, 3613),
            (java_hash::int(-1), 80, 2896),
            (java_hash::int(i32::MAX), 62, 3262),
            (java_hash::long(1_234_567_890_123), 92, 3420),
            (java_hash::string("a"), 81, 3025),
            (java_hash::string("ü"), 41, 2217),
            (java_hash::string("user-1"), 121, 1657),
            (java_hash::string("hello"), 35, 2723),
            (java_hash::string("key-1000"), 93, 1501),
        ] {
            assert_eq!((group(routing, 128), group(routing, 4096)), (in_128, in_4096));
        }
    }

    #[test]
    fn a_multiple_of_the_groups_splits_each_into_consecutive_ones() {
        for key in 0..1000u32 {
            let bytes = key.to_le_bytes();
            let of = |max| Partitioner::Range { seed: 9 }.locate(&bytes, 0, max).group.0;
            assert_eq!(of(128), of(1024) / 8);
        }
    }
}
