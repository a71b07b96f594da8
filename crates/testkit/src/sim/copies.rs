//! A machine's disk of local copies, which fails, loses and damages what it holds.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use alluvium::internals::place::cache::Disk;
use bytes::Bytes;

use super::Rng;

/// The disk, which outlives the processes of its machine. Its faults are drawn from its own seed.
#[derive(Debug)]
pub struct Copies(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    rng: Rng,
    files: BTreeMap<String, Bytes>,
}

impl Copies {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Inner { rng: Rng::new(seed), files: BTreeMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Draws what happens to the files while no process runs: power loss, rot, an operator. Returns the budget of the next.
    pub fn wear(&self) -> u64 {
        let Inner { rng, files } = &mut *self.lock();
        let names: Vec<_> = files.keys().cloned().collect();
        for name in &names {
            if rng.permille(100) {
                let (bytes, other) = (files[name].clone(), &names[rng.index(names.len())]);
                match rng.below(4) {
                    0 => drop(files.remove(name)),
                    1 => drop(files.insert(name.clone(), bytes.slice(..bytes.len() / 2))),
                    2 if files.contains_key(other) => drop(files.insert(name.clone(), files[other].clone())),
                    _ => drop(files.insert(name.clone(), damaged(&bytes, rng))),
                }
            }
        }
        [u64::MAX, 256 << 10, 16 << 10][rng.index(3)]
    }

    fn call(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        if inner.rng.permille(20) { Err(io::Error::other("the disk failed")) } else { Ok(inner) }
    }
}

fn damaged(bytes: &Bytes, rng: &mut Rng) -> Bytes {
    let mut bytes = bytes.to_vec();
    if !bytes.is_empty() {
        let at = rng.index(bytes.len());
        match rng.below(2) {
            0 => bytes[at] ^= 1 << rng.below(8),
            _ => bytes[at..].fill(0),
        }
    }
    bytes.into()
}

impl Disk for Copies {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.call()?.files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.call()?.files.get(name).map(|bytes| bytes.len() as u64).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let inner = self.call()?;
        let bytes = inner.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
        if end > bytes.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes.slice(start..end)) }
    }

    fn write(&self, temporary: &str, name: &str, pieces: &[Bytes]) -> io::Result<()> {
        let bytes = Bytes::from(pieces.concat());
        let mut inner = self.call()?;
        let Inner { rng, files } = &mut *inner;
        match rng.below(40) {
            // Killed before the rename.
            0 => drop(files.insert(temporary.to_owned(), bytes)),
            // A disk that lies.
            1 => drop(files.insert(name.to_owned(), damaged(&bytes, rng))),
            _ => drop(files.insert(name.to_owned(), bytes)),
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.call()?.files.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
