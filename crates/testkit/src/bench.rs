//! Keys and backends shared by several benches.

use alluvium::backend::{Cut, Part, Sealed, StateBackend};
use alluvium::{Epoch, KeyGroupSet, LogBackend, MemoryBudget, Partitioner, Timestamp};

pub const GROUPS: u16 = 128;
pub const PARTITIONER: Partitioner = Partitioner::Range { seed: 42 };

/// Returns a pseudo-random number.
pub fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

pub fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mixed(number).to_le_bytes());
    key[8..].copy_from_slice(&number.to_le_bytes());
    key
}

pub fn backend() -> LogBackend {
    LogBackend::new(KeyGroupSet::all(GROUPS), PARTITIONER, MemoryBudget::new(u64::MAX))
}

pub fn seal(backend: &mut impl StateBackend, epoch: u64) -> Sealed {
    let at = Timestamp::default();
    let cut = Cut { epoch: Epoch(epoch), part: Part(0), event_time: at, processing_time: at };
    backend.seal(cut, &KeyGroupSet::empty()).unwrap()
}
