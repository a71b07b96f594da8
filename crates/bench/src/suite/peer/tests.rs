//! The loops with a store that is right or wrong on purpose, and each adapter of the build.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use alluvium::{ErrorKind, Result};

use super::PeerKind;
use super::loops::{Peer, Snapshot, measure};
use crate::suite::args::CellSpec;
use crate::suite::workload::add;

/// A map whose snapshots are files; `SLIPS` says whether a snapshot misses one update.
struct Model<const SLIPS: bool> {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    folder: std::path::PathBuf,
    taken: u64,
}

impl<const SLIPS: bool> Model<SLIPS> {
    fn file(folder: &Path, id: u64) -> std::path::PathBuf {
        folder.join(id.to_string())
    }
}

impl<const SLIPS: bool> Peer for Model<SLIPS> {
    fn open(folder: &Path, state_bytes: u64) -> Result<Self> {
        assert_eq!(state_bytes, 2500 * 116);
        Ok(Self { rows: BTreeMap::new(), folder: folder.to_owned(), taken: 0 })
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.rows.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn update(&mut self, key: &[u8]) -> Result<()> {
        add(self.rows.get_mut(key).unwrap(), 1);
        Ok(())
    }

    fn read<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        Ok(f(self.rows.get(key).map(Vec::as_slice)))
    }

    fn snapshot(&mut self) -> Result<Snapshot> {
        self.taken += 1;
        let mut rows = self.rows.clone();
        if SLIPS {
            add(rows.values_mut().next().unwrap(), 1u64.wrapping_neg());
        }
        std::fs::write(Self::file(&self.folder, self.taken), serde_json::to_vec(&Vec::from_iter(rows)).unwrap())
            .unwrap();
        Ok(Snapshot { id: self.taken, pause: Duration::from_micros(3), total: Duration::from_millis(7) })
    }

    fn close(self) -> Result<()> {
        Ok(())
    }

    fn restore(folder: &Path, _: u64, id: u64) -> Result<Self> {
        let rows: Vec<_> = serde_json::from_slice(&std::fs::read(Self::file(folder, id)).unwrap()).unwrap();
        Ok(Self { rows: BTreeMap::from_iter(rows), folder: folder.to_owned(), taken: id })
    }
}

fn spec() -> CellSpec {
    CellSpec::of_flags("--keys 2500 --checkpoints 3 --dirty 0.1")
}

#[test]
fn a_peer_makes_the_steps_of_a_cell() {
    let folder = tempfile::tempdir().unwrap();
    let report = measure::<Model<false>>(PeerKind::Cobble, &spec(), folder.path()).unwrap();
    assert_eq!((report.peer.as_str(), report.restore.records), ("cobble", 2500));
    // One snapshot after the updates, which is not reported, and one per dirty set.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    assert!((2.9..3.1).contains(&report.pause_us.p50) && (6.9..7.1).contains(&report.checkpoint_ms.max), "{report:?}");
    assert!(report.load_ops_s > 0.0 && report.rmw_ops_s > 0.0);
    let restore = report.restore;
    assert!(restore.load_ms <= restore.first_read_ms && restore.first_read_ms <= restore.ms, "{restore:?}");
    assert!((restore.load_ms + restore.read_back_ms - restore.ms).abs() < 0.01, "{restore:?}");
}

#[test]
fn a_snapshot_that_misses_an_update_fails_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let error = measure::<Model<true>>(PeerKind::Cobble, &spec(), folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Restores a snapshot and compares every row with a map; what was written after the snapshot must be gone.
#[cfg(any(feature = "peer-cobble", feature = "peer-rocksdb"))]
fn reads_back_as_a_map<P: Peer>() {
    let folder = tempfile::tempdir().unwrap();
    let (mut peer, mut rows) = (P::open(folder.path(), 1 << 20).unwrap(), BTreeMap::new());
    for number in 0..500u64 {
        let (key, value) = (number.to_be_bytes(), [&number.to_le_bytes()[..], b"text"].concat());
        peer.load(&key, &value).unwrap();
        rows.insert(key, value);
    }
    let mut newest = peer.snapshot().unwrap();
    for round in 0..3u64 {
        for (key, value) in rows.iter_mut().step_by(3) {
            peer.update(key).unwrap();
            add(value, 1);
        }
        let id = newest.id;
        newest = peer.snapshot().unwrap();
        assert!(newest.id > id && newest.pause <= newest.total, "{round}: {newest:?}");
    }
    peer.update(&7u64.to_be_bytes()).unwrap();
    assert_eq!(peer.update(b"absent").unwrap_err().kind(), ErrorKind::Corrupt);
    peer.close().unwrap();
    let peer = P::restore(folder.path(), 1 << 20, newest.id).unwrap();
    for (key, value) in &rows {
        assert!(peer.read(key, |found| found == Some(value)).unwrap(), "{key:?}");
    }
    assert!(peer.read(b"absent", |found| found.is_none()).unwrap());
    peer.close().unwrap();
}

#[cfg(feature = "peer-cobble")]
#[test]
fn cobble_reads_back_as_a_map() {
    reads_back_as_a_map::<super::cobble::Cobble>();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(PeerKind::Cobble.measure(&spec(), folder.path()).unwrap().restore.records, 2500);
}

#[cfg(feature = "peer-rocksdb")]
#[test]
fn rocksdb_reads_back_as_a_map() {
    reads_back_as_a_map::<super::rocksdb::RocksDb>();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(PeerKind::RocksDb.measure(&spec(), folder.path()).unwrap().restore.records, 2500);
}
