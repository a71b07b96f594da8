//! cobble in one process: a get and a put per update, no log of writes.

use std::path::Path;
use std::sync::mpsc;

use alluvium::{Error, Result};
use cobble::{Config, SingleDb, VolumeDescriptor};

use super::loops::{Peer, Snapshot};
use crate::clock;
use crate::suite::workload::add;

/// The least size of a memtable: cobble's default.
const MEMTABLE_BYTES_MIN: u64 = 64 << 20;

/// All keys are in one bucket and one column.
const BUCKET: u16 = 0;
const COLUMN: u16 = 0;

/// A database in `folder`, with its snapshots.
pub(super) struct Cobble {
    db: SingleDb,
    value: Vec<u8>,
}

impl Cobble {
    fn with(db: cobble::Result<SingleDb>) -> Result<Self> {
        Ok(Self { db: db.map_err(failed)?, value: Vec::new() })
    }

    /// Calls `f` with the value of `key`.
    fn get<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        let row = self.db.get(BUCKET, key).map_err(failed)?;
        Ok(f(row.as_ref().and_then(|columns| columns.first()).and_then(Option::as_deref)))
    }
}

/// A memtable holds the whole state, and the cache all of its blocks, so nothing that is read waits for the disk.
fn config(folder: &Path, state_bytes: u64) -> Result<Config> {
    let bytes = state_bytes.max(MEMTABLE_BYTES_MIN);
    let config = Config {
        volumes: VolumeDescriptor::single_volume(format!("file://{}", folder.display())),
        memtable_capacity: size(bytes)?,
        block_cache_size: size(bytes.saturating_mul(2))?,
        compaction_threads: 2,
        sst_bloom_filter_enabled: true,
        snapshot_retention: Some(1),
        ..Config::default()
    };
    Ok(config)
}

/// Returns `bytes` as cobble's configuration has it, whose type is of another crate.
fn size<S: std::str::FromStr>(bytes: u64) -> Result<S> {
    bytes.to_string().parse().map_err(|_| Error::config("cobble takes no such size").with("bytes", bytes))
}

fn failed(source: cobble::Error) -> Error {
    Error::unavailable("cobble failed").with_source(source)
}

impl Peer for Cobble {
    fn open(folder: &Path, state_bytes: u64) -> Result<Self> {
        Self::with(SingleDb::open(config(folder, state_bytes)?))
    }

    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.put(BUCKET, key, COLUMN, value).map_err(failed)
    }

    fn update(&mut self, key: &[u8]) -> Result<()> {
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        let found = self.get(key, |found| found.map(|found| value.extend_from_slice(found)))?;
        found.ok_or_else(|| Error::corrupt("a key that was loaded is gone"))?;
        add(&mut value, 1);
        self.load(key, &value)?;
        self.value = value;
        Ok(())
    }

    fn read<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R> {
        self.get(key, f)
    }

    /// The call takes the memtable; another thread writes it and the manifest.
    fn snapshot(&mut self) -> Result<Snapshot> {
        let (done, finished) = mpsc::channel();
        let start = clock::now();
        let id = self.db.snapshot_with_callback(move |result| {
            // Nobody waits if the call itself failed.
            let _unheard = done.send(result.map(|_| ()));
        });
        let (id, pause) = (id.map_err(failed)?, clock::now().duration_since(start));
        let result = finished.recv().map_err(|_| Error::stopped("cobble dropped a snapshot"))?;
        result.map_err(failed)?;
        Ok(Snapshot { id, pause, total: clock::now().duration_since(start) })
    }

    fn close(self) -> Result<()> {
        self.db.close().map_err(failed)
    }

    fn restore(folder: &Path, state_bytes: u64, id: u64) -> Result<Self> {
        Self::with(SingleDb::resume(config(folder, state_bytes)?, id))
    }
}
