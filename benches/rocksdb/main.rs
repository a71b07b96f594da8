//! The RocksDB backend compared with RocksDB itself, with the same options, in one run.
//!
//! ```sh
//! cargo bench --features rocksdb --bench rocksdb            # all parts at 1,000,000 keys (5,000,000 for the rescale)
//! cargo bench --features rocksdb --bench rocksdb -- beside 100000
//! ```
//!
//! 16-byte keys in random order, 100-byte values, half random.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark prints and panics"
)]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, and is an engine on tokio")]

mod beside;
mod growth;
mod rescale;

use std::time::Duration;

use alluvium::{RocksDb, RocksDbSettings};
use alluvium_testkit::bench;

fn rocksdb(folder: &std::path::Path) -> RocksDb {
    RocksDb::new(RocksDbSettings::new(folder)).unwrap()
}

/// Returns a key's value in a round.
fn value(number: u64, round: u64) -> [u8; 100] {
    let mut value = [b'x'; 100];
    for (at, bytes) in value[..56].chunks_mut(8).enumerate() {
        bytes.copy_from_slice(&bench::mixed(number ^ round << 32 ^ (at as u64) << 56).to_le_bytes()[..bytes.len()]);
    }
    value
}

fn percentile(times: &mut [Duration], of_100: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of_100 / 100).min(times.len() - 1)]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let part = args.first().map_or("all", String::as_str);
    let keys = |default| args.get(1).map_or(default, |keys| keys.parse().unwrap());
    if ["all", "beside"].contains(&part) {
        beside::measure(keys(1_000_000));
    }
    if ["all", "growth"].contains(&part) {
        growth::measure(keys(1_000_000), 0.01, 200);
        growth::measure(keys(1_000_000), 0.1, 40);
    }
    if ["all", "rescale"].contains(&part) {
        rescale::measure(keys(5_000_000));
    }
}
