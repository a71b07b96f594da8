//! The machine's limits without the crate: one thread, the same keys and values.

use std::borrow::Borrow;
use std::hash::Hash;
use std::hint::black_box;
use std::io;
use std::time::Duration;

use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::store::Key;
use alluvium::manifest::ObjectId;
use alluvium::{Attempt, Error, Result, Store};
use hashbrown::HashMap;
use tokio::runtime::Runtime;

use super::args::CellSpec;
use super::distribution::Distribution;
use super::pace::{Pace, Timing, idle_gap, rate};
use super::report::{HashMapRates, Limits, micros, rounded};
use super::workload::{BATCH, Records, Share, Workload, add};
use crate::clock;

/// Bytes copied, compressed or written at a time.
const BLOCK_BYTES: usize = 16 << 20;

/// Maximum number of blocks written: a store in memory keeps them.
const BLOCKS_MAX: usize = 16;

/// Measures each limit for about `time`, with the records of `spec`.
pub(super) fn measure(spec: &CellSpec, time: Duration, store: &Store, runtime: &Runtime) -> Result<Limits> {
    let records = Records::new(spec);
    let sorted = sorted_records(records, spec.keys);
    let mut block = vec![0; BLOCK_BYTES];
    block.iter_mut().zip(sorted.iter().cycle()).for_each(|(to, from)| *to = *from);
    Ok(Limits {
        keys: spec.keys,
        memcpy_gb_s: memcpy(&block, time)?,
        zstd1_mb_s: rate(time, 1e6, || compressed(&sorted).map(|_| sorted.len()))?,
        value_zstd1_ratio: value_ratio(records, spec.keys)?,
        store_write_mb_s: store_write(&block, time, store, runtime)?,
        hashmap_rmw_ops_s: hash_maps::<Box<[u8]>>(spec)?,
        hashmap_u64_rmw_ops_s: hash_maps::<u64>(spec)?,
        idle_gap_us: micros(idle_gap(time)),
    })
}

/// Returns up to one block of records, sorted by key.
pub(super) fn sorted_records(records: Records, keys: u32) -> Vec<u8> {
    let fitting = u32::try_from(BLOCK_BYTES / records.bytes()).unwrap_or(u32::MAX).max(1);
    let mut indices: Vec<_> = (0..keys.min(fitting)).collect();
    indices.sort_by_cached_key(|index| records.rank(*index));
    let mut bytes = Vec::with_capacity(indices.len() * records.bytes());
    for index in indices {
        records.push_key(index, &mut bytes);
        records.push_value(index, 0, &mut bytes);
    }
    bytes
}

fn compressed(bytes: &[u8]) -> Result<usize> {
    let compressed = zstd::bulk::compress(bytes, 1);
    compressed.map(|bytes| bytes.len()).map_err(|source| Error::limit("zstd failed").with_source(source))
}

/// Compresses `bytes` and discards the result, because a kept result would distort concurrent memory figures.
pub(super) fn compress_in_vain(bytes: &[u8]) -> Result<()> {
    zstd::stream::copy_encode(bytes, io::sink(), 1).map_err(|source| Error::limit("zstd failed").with_source(source))
}

fn value_ratio(records: Records, keys: u32) -> Result<f64> {
    let mut values = Vec::new();
    (0..keys.min(10_000)).for_each(|index| records.push_value(index, 0, &mut values));
    Ok(rounded(values.len() as f64 / compressed(&values)? as f64))
}

fn memcpy(from: &[u8], time: Duration) -> Result<f64> {
    let mut to = vec![1; from.len()];
    rate(time, 1e9, || {
        black_box(&mut to[..]).copy_from_slice(black_box(from));
        Ok(from.len())
    })
}

/// Writes one-block objects, one after the other.
fn store_write(block: &[u8], time: Duration, store: &Store, runtime: &Runtime) -> Result<f64> {
    let (mut elapsed, mut bytes) = (Duration::ZERO, 0);
    for _ in 0..BLOCKS_MAX {
        let put_id = store.draw_put_id();
        let object = envelope::encode(ObjectKind::Pack, put_id, block);
        let key = Key::Data(ObjectId { attempt: Attempt(1), random: put_id.0 });
        bytes += object.len();
        let start = clock::now();
        runtime.block_on(store.folder().put_new(&key, put_id, object))?;
        elapsed += clock::now().duration_since(start);
        if elapsed >= time {
            break;
        }
    }
    Ok(rounded(bytes as f64 / 1e6 / elapsed.as_secs_f64()))
}

/// What a map keeps for each key.
trait Kept {
    /// Returns what is kept for a record loaded with `value`.
    fn loaded(value: &[u8]) -> Self;

    /// The modify step of a read-modify-write.
    fn add_one(&mut self);
}

impl Kept for Box<[u8]> {
    fn loaded(value: &[u8]) -> Self {
        value.into()
    }

    fn add_one(&mut self) {
        add(self, 1);
    }
}

/// The counter that users would write.
impl Kept for u64 {
    fn loaded(_value: &[u8]) -> Self {
        0
    }

    fn add_one(&mut self) {
        *self = self.wrapping_add(1);
    }
}

/// Returns read-modify-writes per second of presized hash maps without snapshots.
fn hash_maps<V: Kept>(spec: &CellSpec) -> Result<HashMapRates> {
    let of = |distribution| -> Result<f64> {
        let spec = CellSpec { distribution, ..*spec };
        let pace = match spec.key_bytes {
            8 => rmw::<[u8; 8], V>(&spec)?.0,
            16 => rmw::<[u8; 16], V>(&spec)?.0,
            32 => rmw::<[u8; 32], V>(&spec)?.0,
            _ => rmw::<Box<[u8]>, V>(&spec)?.0,
        };
        Ok(pace.per_second().unwrap_or_default())
    };
    Ok(HashMapRates { uniform: of(Distribution::Uniform)?, zipf: of(Distribution::Zipf(0.99))? })
}

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// Loads a map and makes read-modify-writes of drawn keys.
fn rmw<K, V: Kept>(spec: &CellSpec) -> Result<(Pace, Map<K, V>)>
where
    K: Hash + Eq + Borrow<[u8]> + for<'a> TryFrom<&'a [u8]>,
{
    let share = Share::new(Records::new(spec), (0..spec.keys).collect());
    let mut workload = Workload::new(share, spec, 0);
    let hasher = foldhash::fast::FixedState::with_seed(spec.seed);
    let mut map = Map::with_capacity_and_hasher(spec.keys as usize, hasher);
    let owned = |key: &[u8]| K::try_from(key).map_err(|_| Error::usage("key has another length"));
    for at in (0..spec.keys).step_by(BATCH) {
        let end = at.saturating_add(u32::try_from(BATCH).unwrap_or(u32::MAX)).min(spec.keys);
        workload.share.stage((at..end).map(|index| (index, 0)));
        for (key, value) in workload.share.rows() {
            map.insert(owned(key)?, V::loaded(value));
        }
    }
    let (mut pace, mut positions) = (Pace::default(), Vec::new());
    for _ in 0..operations(spec.keys).div_ceil(BATCH) {
        workload.draw(BATCH, &mut positions);
        workload.share.stage_keys(positions.iter().copied());
        pace.time(Timing::Batch, workload.share.keys(), |key| {
            // By the staged bytes: a copy of the key, written in pieces and read at once, would make each lookup wait for
            // the value that the one before has written.
            map.get_mut(key).into_iter().for_each(V::add_one);
            Ok(())
        })?;
    }
    Ok((pace, map))
}

/// Returns a sufficient number of read-modify-writes for a rate.
pub(super) fn operations(keys: u32) -> usize {
    (keys as usize).clamp(50_000, 2_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_counters_counts_each_draw_of_its_key() {
        let spec = CellSpec::of_flags("--keys 300");
        let (pace, map) = rmw::<[u8; 16], u64>(&spec).unwrap();
        let (records, mut key) = (Records::new(&spec), Vec::new());
        let mut workload = Workload::new(Share::new(records, (0..spec.keys).collect()), &spec, 0);
        let mut positions = Vec::new();
        workload.draw(operations(spec.keys), &mut positions);
        workload.touched(&positions);
        for (index, added) in workload.history() {
            key.clear();
            records.push_key(index, &mut key);
            assert_eq!(map.get(&key[..]), Some(&u64::from(added)), "key {index}");
        }
        assert!(map.len() == 300 && pace.per_second().unwrap() > 0.0);
    }
}
