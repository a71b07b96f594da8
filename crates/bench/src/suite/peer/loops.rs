//! The map's loop and a backend's steps, through the interface that users of another store call.
//!
//! ```text
//! load -> read-modify-writes -> snapshot -> K x (touch the next dirty keys, snapshot) -> restore -> read back
//! ```

use std::path::Path;
use std::time::Duration;

use alluvium::{Error, Result};

use super::PeerKind;
use crate::clock;
use crate::suite::args::CellSpec;
use crate::suite::limits::operations;
use crate::suite::pace::{Pace, Timing, percentiles};
use crate::suite::report::{PeerReport, PeerRestore, millis};
use crate::suite::workload::{BATCH, Records, Share, Workload};

/// A store under comparison, with one writer.
pub(super) trait Peer: Sized {
    /// Opens an empty store below `folder`, sized for `state_bytes` of keys and values.
    fn open(folder: &Path, state_bytes: u64) -> Result<Self>;

    /// Writes a new key.
    fn load(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// Reads the value of a key that was loaded, adds 1 to its first 8 bytes, writes it.
    fn update(&mut self, key: &[u8]) -> Result<()>;

    /// Returns what `f` returns for the value of `key`.
    fn read<R>(&self, key: &[u8], f: impl FnOnce(Option<&[u8]>) -> R) -> Result<R>;

    /// Makes everything written so far durable in the local folder, and waits for it.
    fn snapshot(&mut self) -> Result<Snapshot>;

    /// Closes the store; only its snapshots count from here.
    fn close(self) -> Result<()>;

    /// Opens the store below `folder` as snapshot `id` has it.
    fn restore(folder: &Path, state_bytes: u64, id: u64) -> Result<Self>;
}

/// A snapshot that was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot {
    pub(super) id: u64,
    /// The part of `total` that the writer cannot write.
    pub(super) pause: Duration,
    /// From the call until the snapshot is durable.
    pub(super) total: Duration,
}

/// Measures the steps above for the records of `spec`, in a new `folder`.
pub(super) fn measure<P: Peer>(kind: PeerKind, spec: &CellSpec, folder: &Path) -> Result<PeerReport> {
    let records = Records::new(spec);
    let state_bytes = records.bytes() as u64 * u64::from(spec.keys);
    let mut workload = Workload::new(Share::new(records, (0..spec.keys).collect()), spec, 0);
    let mut peer = P::open(folder, state_bytes)?;
    let load = load(&mut peer, &mut workload)?;
    let update = update(&mut peer, &mut workload, operations(spec.keys))?;
    let (mut last, mut snapshots) = (peer.snapshot()?, Vec::new());
    for _ in 0..spec.checkpoints {
        workload.next_epoch();
        let dirty = std::mem::take(&mut workload.dirty);
        dirty.chunks(BATCH).try_for_each(|batch| touch(&mut peer, &mut workload, batch, &mut Pace::default()))?;
        workload.dirty = dirty;
        last = peer.snapshot()?;
        snapshots.push(last);
    }
    peer.close()?;
    Ok(PeerReport {
        peer: kind.to_string(),
        keys: spec.keys,
        key_bytes: spec.key_bytes,
        value_bytes: spec.value_bytes,
        distribution: spec.distribution.to_string(),
        dirty: spec.dirty.get(),
        checkpoints: spec.checkpoints,
        load_ops_s: load.per_second().unwrap_or_default(),
        rmw_ops_s: update.per_second().unwrap_or_default(),
        pause_us: percentiles(snapshots.iter().map(|snapshot| snapshot.pause), Duration::from_micros(1))?,
        checkpoint_ms: percentiles(snapshots.iter().map(|snapshot| snapshot.total), Duration::from_millis(1))?,
        restore: restore::<P>(folder, state_bytes, last.id, &mut workload)?,
    })
}

/// Writes all records.
fn load(peer: &mut impl Peer, workload: &mut Workload) -> Result<Pace> {
    let (mut pace, share) = (Pace::default(), &mut workload.share);
    for at in (0..share.indices.len()).step_by(BATCH) {
        let batch: Vec<_> = share.indices.iter().skip(at).take(BATCH).map(|&index| (index, 0)).collect();
        share.stage(batch);
        pace.time(Timing::Batch, share.rows(), |(key, value)| peer.load(key, value))?;
    }
    Ok(pace)
}

/// Makes read-modify-writes of drawn keys, one by one.
fn update(peer: &mut impl Peer, workload: &mut Workload, operations: usize) -> Result<Pace> {
    let (mut pace, mut positions) = (Pace::default(), Vec::new());
    for _ in 0..operations.div_ceil(BATCH) {
        workload.draw(BATCH, &mut positions);
        touch(peer, workload, &positions, &mut pace)?;
    }
    Ok(pace)
}

fn touch(peer: &mut impl Peer, workload: &mut Workload, positions: &[u32], pace: &mut Pace) -> Result<()> {
    workload.share.stage_keys(positions.iter().copied());
    pace.time(Timing::Batch, workload.share.keys(), |key| peer.update(key))?;
    workload.touched(positions);
    Ok(())
}

/// Opens the store anew from a snapshot and reads every key. Generating expected values is not timed.
fn restore<P: Peer>(folder: &Path, state_bytes: u64, id: u64, workload: &mut Workload) -> Result<PeerRestore> {
    let started = clock::now();
    let peer = P::restore(folder, state_bytes, id)?;
    let loaded = clock::now().duration_since(started);
    let (mut pace, mut first_read, mut records) = (Pace::default(), loaded, 0);
    let history: Vec<_> = workload.history().collect();
    for (number, batch) in history.chunks(BATCH).enumerate() {
        workload.share.stage(batch.iter().copied());
        let staged: Vec<_> = workload.share.rows().collect();
        let (first, rest) = staged.split_at(staged.len().min(usize::from(number == 0)));
        let check = |(key, value): &(&[u8], &[u8])| {
            let equal = peer.read(key, |found| found == Some(value))?;
            if equal { Ok(()) } else { Err(Error::corrupt("a key does not read back from a peer as it was written")) }
        };
        pace.time_all(first.len(), || first.iter().try_for_each(check))?;
        if number == 0 {
            first_read += pace.elapsed();
        }
        pace.time_all(rest.len(), || rest.iter().try_for_each(check))?;
        records += staged.len() as u64;
    }
    peer.close()?;
    Ok(PeerRestore {
        ms: millis(loaded + pace.elapsed()),
        load_ms: millis(loaded),
        read_back_ms: millis(pace.elapsed()),
        first_read_ms: millis(first_read),
        records,
    })
}
