//! The conformance suite of backends, for backends outside the crate too.
//!
//! ```
//! use alluvium::OverlayBackend;
//! use alluvium::backend::conformance;
//! use alluvium::MemoryBudget;
//!
//! conformance::run(|groups| OverlayBackend::new(groups, MemoryBudget::new(1 << 30)));
//! ```

mod batches;
mod fixture;
mod history;
mod kinds;
mod rows;
mod rules;
mod seals;

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Epoch, Part, TableId};
use crate::key_group::{KeyGroup, KeyGroupRange, KeyGroupSet, Partitioner};
use crate::row::{Cut, Sealed};
use crate::time::Timestamp;

use super::{RowRef, StateBackend, Write};

pub use history::History;

/// The partitioner of all keys in the checks.
pub const PARTITIONER: Partitioner = Partitioner::Range { seed: 0x5eed };

/// The number of key groups in the checks.
pub const MAX_PARALLELISM: u16 = 16;

/// A row's identity: group, table, key, namespace and sub-key.
pub type RowId = (KeyGroup, TableId, Vec<u8>, Vec<u8>, Vec<u8>);

/// Runs all checks on backends created by `make`.
///
/// * `make`: returns a backend without rows that owns the given groups, for keys located by [`PARTITIONER`], with a
///   memory budget of at least 64 MiB.
///
/// # Panics
/// If a check fails; the message names the check.
pub fn run<B: StateBackend>(make: impl Fn(KeyGroupSet) -> B) {
    let make: &dyn Fn(KeyGroupSet) -> B = &make;
    let checks = [rows::checks(), batches::checks(), seals::checks(), kinds::checks(), rules::checks()];
    for (name, check) in checks.into_iter().flatten() {
        if let Err(Failure(reason)) = check(make) {
            panic!("{name}: {reason}");
        }
    }
}

/// A named check.
type Check<B> = (&'static str, fn(&dyn Fn(KeyGroupSet) -> B) -> Checked);

/// The result of a check.
type Checked = Result<(), Failure>;

/// The reason of a failed check.
struct Failure(String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error {error:?}"))
    }
}

/// Fails the check unless `found` equals `expected`.
fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Checked {
    if found == expected { Ok(()) } else { Err(Failure(format!("{what}: found {found:?}, expected {expected:?}"))) }
}

/// Fails the check unless `result` is an error of this kind.
fn refused<T: Debug>(what: &str, result: Result<T>, kind: ErrorKind) -> Checked {
    match result {
        Err(error) if error.kind() == kind => Ok(()),
        other => Err(Failure(format!("{what}: found {other:?}, expected an error of kind {kind}"))),
    }
}

const T: TableId = TableId(1);

/// Calls `f` with the row of a key in table [`T`], without namespace and sub-key.
fn with_row<R>(key: &[u8], f: impl FnOnce(RowRef<'_>) -> R) -> R {
    let key = PARTITIONER.locate(key, 0, MAX_PARALLELISM);
    f(RowRef { table: T, key: &key, namespace: &[], sub: &[] })
}

fn put<B: StateBackend>(backend: &mut B, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
    with_row(key.as_ref(), |row| backend.write(row, Write::Put(value.as_ref())))
}

fn delete<B: StateBackend>(backend: &mut B, key: impl AsRef<[u8]>) -> Result<()> {
    with_row(key.as_ref(), |row| backend.write(row, Write::Delete))
}

fn read<B: StateBackend>(backend: &mut B, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
    with_row(key.as_ref(), |row| backend.read(row, |value| value.map(<[u8]>::to_vec)))
}

/// Scans all live rows of `tables`.
///
/// # Errors
/// Errors of the backend; `Usage` if a scan visits a row twice.
pub fn contents<B: StateBackend>(backend: &mut B, tables: &[TableId]) -> Result<BTreeMap<RowId, Vec<u8>>> {
    let mut rows = BTreeMap::new();
    let mut twice = false;
    let groups = backend.groups().clone();
    for &table in tables {
        backend.scan(table, &groups, &[], |entry| {
            let [key, namespace, sub] = [entry.key, entry.namespace, entry.sub].map(<[u8]>::to_vec);
            twice |= rows.insert((entry.group, table, key, namespace, sub), entry.value.to_vec()).is_some();
            true
        })?;
    }
    if twice { Err(Error::usage("a scan visited a row twice")) } else { Ok(rows) }
}

/// Seals at time zero.
fn seal<B: StateBackend>(backend: &mut B, epoch: u64, part: u32, bases: &KeyGroupSet) -> Result<Sealed> {
    let at = Timestamp::default();
    backend.seal(Cut { epoch: Epoch(epoch), part: Part(part), event_time: at, processing_time: at }, bases)
}

fn all() -> KeyGroupSet {
    KeyGroupSet::all(MAX_PARALLELISM)
}

/// Returns the lower and the upper half of the groups.
fn halves() -> (KeyGroupSet, KeyGroupSet) {
    let middle = MAX_PARALLELISM / 2;
    (KeyGroupRange::new(0, middle).into(), KeyGroupRange::new(middle, MAX_PARALLELISM).into())
}

/// Returns `count` distinct keys.
fn keys(count: u32) -> impl Iterator<Item = [u8; 4]> {
    (0..count).map(u32::to_be_bytes)
}

fn group_of(key: &[u8]) -> KeyGroup {
    PARTITIONER.locate(key, 0, MAX_PARALLELISM).group
}
