//! A simulated disk for cold state, with faults on demand.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alluvium::TierFile;

/// A file in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ColdFile {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// The most bytes that a call reads or writes; 0 for no bound.
    per_call: usize,
    read_error: Option<io::ErrorKind>,
    write_error: Option<io::ErrorKind>,
    /// Calls that succeed before an error comes.
    before_error: usize,
    /// How long a read takes that was not announced.
    latency: Duration,
    announced: Vec<Range<u64>>,
    /// Reads that were not announced.
    waits: usize,
}

impl ColdFile {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has each call read or write at most `bytes`; 0 for no bound.
    pub fn limit_calls(&self, bytes: usize) {
        self.with(|state| state.per_call = bytes);
    }

    /// Has reads fail from now on, or no longer.
    pub fn fail_reads(&self, error: Option<io::ErrorKind>) {
        self.with(|state| state.read_error = error);
    }

    /// Has writes fail after so many more calls, or no longer.
    pub fn fail_writes(&self, error: Option<io::ErrorKind>, after: usize) {
        self.with(|state| (state.write_error, state.before_error) = (error, after));
    }

    /// Has each read take so long from now on, unless it was announced.
    pub fn delay_reads(&self, latency: Duration) {
        self.with(|state| state.latency = latency);
    }

    /// Returns how many reads were announced since the last call, and how many were not.
    #[must_use]
    pub fn take_reads(&self) -> (usize, usize) {
        self.with(|state| (std::mem::take(&mut state.announced).len(), std::mem::take(&mut state.waits)))
    }

    /// Returns how long the file is.
    #[must_use]
    pub fn length(&self) -> usize {
        self.with(|state| state.bytes.len())
    }

    /// Flips one bit.
    pub fn flip(&self, bit: usize) {
        self.with(|state| state.bytes[bit / 8] ^= 1 << (bit % 8));
    }

    /// Cuts the file under its user.
    pub fn cut(&self, length: usize) {
        self.with(|state| state.bytes.truncate(length));
    }
}

impl TierFile for ColdFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            if let Some(error) = state.read_error {
                return Err(error.into());
            }
            if !state.announced.iter().any(|range| range.contains(&at)) {
                state.waits += 1;
                wait(state.latency);
            }
            let at = usize::try_from(at).unwrap();
            let there = state.bytes.get(at..).unwrap_or_default();
            let most = if state.per_call == 0 { usize::MAX } else { state.per_call };
            let count = bytes.len().min(there.len()).min(most);
            bytes[..count].copy_from_slice(&there[..count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            if let Some(error) = state.write_error {
                match state.before_error.checked_sub(1) {
                    Some(left) => state.before_error = left,
                    None => return Err(error.into()),
                }
            }
            let most = if state.per_call == 0 { usize::MAX } else { state.per_call };
            let (at, count) = (usize::try_from(at).unwrap(), bytes.len().min(most));
            if state.bytes.len() < at + count {
                state.bytes.resize(at + count, 0);
            }
            state.bytes[at..at + count].copy_from_slice(&bytes[..count]);
            Ok(count)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| state.bytes.resize(usize::try_from(len).unwrap(), 0));
        Ok(())
    }

    fn will_read(&self, at: u64, len: u64) {
        self.with(|state| state.announced.push(at..at + len));
    }
}

/// Takes at least so long, without leaving the processor: longer would make no difference.
#[expect(clippy::disallowed_methods, reason = "the caller measures how long a read takes")]
fn wait(latency: Duration) {
    let start = Instant::now();
    while start.elapsed() < latency {
        std::hint::spin_loop();
    }
}
