//! Records and the order of touches, derived from the seed alone.

use std::io::{self, Write};

use alluvium::{CurrentKey, Error, Partitioner, Result, owner};

use super::args::CellSpec;
use super::distribution::Sampler;
use crate::random::Random;

/// Records staged before the clock starts: few enough that the staged bytes stay in the cache.
pub(super) const BATCH: usize = 1000;

/// Vocabulary for the text half of values.
const WORDS: [&str; 32] = [
    "amount", "and", "basin", "bed", "below", "carry", "channel", "count", "delta", "drop", "every", "flow", "from",
    "grain", "in", "into", "layer", "load", "of", "over", "river", "sand", "settle", "silt", "slow", "stone", "stream",
    "that", "the", "to", "water", "which",
];

/// How keys map to groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routing {
    pub(super) partitioner: Partitioner,
    pub(super) max_parallelism: u16,
}

impl Routing {
    pub(super) fn locate(self, key: &[u8]) -> CurrentKey<'_> {
        self.partitioner.locate(key, 0, self.max_parallelism)
    }
}

/// Generates keys and values by record number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records {
    pub(super) key_bytes: usize,
    pub(super) value_bytes: usize,
    seed: u64,
}

impl Records {
    pub(super) fn new(spec: &CellSpec) -> Self {
        Self { key_bytes: spec.key_bytes.into(), value_bytes: spec.value_bytes as usize, seed: spec.seed }
    }

    pub(super) fn bytes(&self) -> usize {
        self.key_bytes + self.value_bytes
    }

    /// Returns a generator whose first draw is unique to the record.
    fn random(&self, index: u32) -> Random {
        Random::new(self.seed.wrapping_add(u64::from(index)))
    }

    /// Returns a number that sorts records by key.
    pub(super) fn rank(&self, index: u32) -> u64 {
        self.random(index).draw()
    }

    /// Appends the key of record `index`: random bytes, of which the first 8 are unique.
    pub(super) fn push_key(&self, index: u32, out: &mut Vec<u8>) {
        push_random(&mut self.random(index), self.key_bytes, out);
    }

    /// Appends the value of record `index` with `added` added to its first 8 bytes.
    pub(super) fn push_value(&self, index: u32, added: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let mut random = Random::new(!self.rank(index));
        push_random(&mut random, self.value_bytes.div_ceil(2).max(8), out);
        while out.len() < start + self.value_bytes {
            let word = WORDS.get(usize::try_from(random.draw() % WORDS.len() as u64).unwrap_or(0)).unwrap_or(&"");
            out.extend_from_slice(word.as_bytes());
            out.push(b' ');
        }
        out.truncate(start + self.value_bytes);
        add(out.get_mut(start..).unwrap_or_default(), added.into());
    }
}

fn push_random(random: &mut Random, length: usize, out: &mut Vec<u8>) {
    let end = out.len() + length;
    while out.len() < end {
        out.extend_from_slice(&random.draw().to_be_bytes());
    }
    out.truncate(end);
}

/// Adds to the number in a value's first 8 bytes: the modify step of a read-modify-write.
pub(super) fn add(value: &mut [u8], amount: u64) {
    if let Some(number) = value.first_chunk_mut::<8>() {
        *number = u64::from_le_bytes(*number).wrapping_add(amount).to_le_bytes();
    }
}

/// One subtask's records, with staging buffers.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) records: Records,
    /// Record numbers of the subtask; a position is an index into this.
    pub(super) indices: Vec<u32>,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Share {
    pub(super) fn new(records: Records, indices: Vec<u32>) -> Self {
        let keys = Vec::with_capacity(BATCH * records.key_bytes);
        let values = Vec::with_capacity(BATCH * records.value_bytes);
        Self { records, indices, keys, values }
    }

    /// Returns each subtask's share of `keys` records.
    pub(super) fn all(records: Records, keys: u32, routing: Routing, parallelism: u32) -> Vec<Self> {
        let mut indices = vec![Vec::new(); parallelism as usize];
        let mut key = Vec::with_capacity(records.key_bytes);
        for index in 0..keys {
            key.clear();
            records.push_key(index, &mut key);
            let at = owner(routing.max_parallelism, parallelism, routing.locate(&key).group) as usize;
            indices.get_mut(at).into_iter().for_each(|share: &mut Vec<u32>| share.push(index));
        }
        indices.into_iter().map(|indices| Self::new(records, indices)).collect()
    }

    /// Stages the keys at `positions`.
    pub(super) fn stage_keys(&mut self, positions: impl IntoIterator<Item = u32>) {
        self.keys.clear();
        for position in positions {
            if let Some(&index) = self.indices.get(position as usize) {
                self.records.push_key(index, &mut self.keys);
            }
        }
    }

    /// Stages keys and values of `records`, given as record numbers with the amount added to each.
    pub(super) fn stage(&mut self, records: impl IntoIterator<Item = (u32, u32)>) {
        self.keys.clear();
        self.values.clear();
        for (index, added) in records {
            self.records.push_key(index, &mut self.keys);
            self.records.push_value(index, added, &mut self.values);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.chunks_exact(self.records.key_bytes)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.keys().zip(self.values.chunks_exact(self.records.value_bytes))
    }
}

/// A share and its history of touches.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) share: Share,
    /// How often each position was touched.
    pub(super) added: Vec<u32>,
    sampler: Sampler,
    /// Positions touched in the current epoch.
    pub(super) dirty: Vec<u32>,
    /// Some positions of the previous epoch.
    pub(super) last_dirty: Vec<u32>,
}

impl Workload {
    pub(super) fn new(share: Share, spec: &CellSpec, subtask: u32) -> Self {
        let count = u32::try_from(share.indices.len()).unwrap_or(u32::MAX);
        let seed = spec.seed ^ (u64::from(subtask) << 32) ^ 0xd15_7a1b;
        Self {
            added: vec![0; share.indices.len()],
            sampler: Sampler::new(spec.distribution, count, seed),
            // Non-zero, so that the pages are committed before memory is measured.
            dirty: vec![1; spec.dirty.share_of(count) as usize],
            last_dirty: Vec::with_capacity(BATCH),
            share,
        }
    }

    /// Draws `count` positions, with repetitions; none if the subtask has no records.
    pub(super) fn draw(&mut self, count: usize, positions: &mut Vec<u32>) {
        positions.clear();
        if !self.share.indices.is_empty() {
            positions.extend((0..count).map(|_| self.sampler.draw()));
        }
    }

    /// Draws the positions touched in the next epoch.
    pub(super) fn next_epoch(&mut self) {
        self.last_dirty.clear();
        self.last_dirty.extend(self.dirty.iter().rev().take(BATCH));
        let wanted = u32::try_from(self.dirty.len()).unwrap_or(u32::MAX);
        self.sampler.draw_distinct(wanted, &mut self.dirty);
    }

    /// Counts a touch of each position.
    pub(super) fn touched(&mut self, positions: &[u32]) {
        for &position in positions {
            if let Some(added) = self.added.get_mut(position as usize) {
                *added += 1;
            }
        }
    }

    /// Returns the key and value bytes of the current epoch's dirty records.
    pub(super) fn dirty_bytes(&self) -> u64 {
        (self.dirty.len() * self.share.records.bytes()) as u64
    }

    /// Returns the size of those records, sorted, as one zstd frame of level 1.
    pub(super) fn dirty_zstd1_bytes(&self) -> Result<u64> {
        let failed = |source| Error::limit("zstd failed").with_source(source);
        let records = self.share.records;
        let touched = self.dirty.iter().map(|&position| position as usize);
        let touched = touched.filter_map(|at| Some((*self.share.indices.get(at)?, *self.added.get(at)?)));
        let mut touched: Vec<_> = touched.collect();
        touched.sort_by_cached_key(|(index, _)| records.rank(*index));
        let mut encoder = zstd::Encoder::new(ByteCount::default(), 1).map_err(failed)?;
        let mut row = Vec::with_capacity(records.bytes());
        for (index, added) in touched {
            row.clear();
            records.push_key(index, &mut row);
            records.push_value(index, added, &mut row);
            encoder.write_all(&row).map_err(failed)?;
        }
        Ok(encoder.finish().map_err(failed)?.0)
    }

    /// Returns the subtask's record numbers with the amount added to each.
    pub(super) fn history(&self) -> impl Iterator<Item = (u32, u32)> {
        self.share.indices.iter().copied().zip(self.added.iter().copied())
    }
}

/// A sink that counts bytes.
#[derive(Debug, Default)]
struct ByteCount(u64);

impl Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RECORDS: Records = Records { key_bytes: 20, value_bytes: 101, seed: 3 };

    #[test]
    fn records_are_functions_of_their_number() {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut prefixes = BTreeSet::new();
        for index in 0..1000 {
            key.clear();
            value.clear();
            RECORDS.push_key(index, &mut key);
            RECORDS.push_value(index, 0, &mut value);
            assert_eq!((key.len(), value.len()), (20, 101));
            assert_eq!(key[..8], RECORDS.rank(index).to_be_bytes());
            assert!(value[51..].is_ascii(), "{value:?}");
            assert!(prefixes.insert(RECORDS.rank(index)));
        }
        let before = value.clone();
        value.clear();
        RECORDS.push_value(999, 300, &mut value);
        add(&mut value, 300u64.wrapping_neg());
        assert_eq!(value, before);
    }

    #[test]
    fn shares_split_all_records() {
        let routing = Routing { partitioner: Partitioner::Range { seed: 1 }, max_parallelism: 128 };
        let shares = Share::all(RECORDS, 1000, routing, 3);
        let mut all: Vec<_> = shares.iter().flat_map(|share| share.indices.clone()).collect();
        assert!(shares.iter().all(|share| share.indices.len() > 200));
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1000));
    }
}
