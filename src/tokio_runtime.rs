//! The runtime for embedders on tokio.
#![expect(clippy::disallowed_methods, reason = "this file alone adapts tokio and the system's clock")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::runtime::Runtime;
use crate::time::Timestamp;

/// Runs the crate's background work on a tokio runtime.
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    handle: Handle,
}

impl TokioRuntime {
    /// Returns an adapter for `handle`'s runtime, which must have its time driver enabled.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Returns an adapter for the caller's runtime.
    ///
    /// # Panics
    /// If the caller is outside a tokio runtime.
    #[must_use]
    pub fn current() -> Self {
        Self::new(Handle::current())
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.handle.spawn(future);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.handle.spawn_blocking(work);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let _inside = self.handle.enter();
        tokio::time::sleep(duration).boxed()
    }

    /// A runtime of several threads still runs while one of them blocks.
    fn can_block(&self) -> bool {
        !matches!(self.handle.runtime_flavor(), RuntimeFlavor::CurrentThread)
    }

    fn block(&self, wait: &mut dyn FnMut()) {
        match Handle::try_current() {
            // Another thread takes over this one's futures.
            Ok(current) if current.id() == self.handle.id() => block_in_place(wait),
            _ => wait(),
        }
    }

    fn now(&self) -> Timestamp {
        let since = |earlier: SystemTime, later: SystemTime| {
            later.duration_since(earlier).ok().and_then(|d| i64::try_from(d.as_millis()).ok())
        };
        let (now, epoch) = (SystemTime::now(), SystemTime::UNIX_EPOCH);
        let millis = since(epoch, now).or_else(|| since(now, epoch).map(|before| -before));
        Timestamp::from_millis(millis.unwrap_or(i64::MAX))
    }

    fn random(&self) -> u128 {
        let mut bytes = [0; 16];
        // Without the system's randomness neither names nor seeds are safe, and a fallback derived from the clock would
        // only hide the failure.
        match getrandom::fill(&mut bytes) {
            Ok(()) => u128::from_le_bytes(bytes),
            Err(error) => std::panic::panic_any(format!("the system has no randomness: {error}")),
        }
    }
}

/// Calls `wait` where tokio lets a thread block. Inside a `LocalSet` it does not, and panics before the call; then this thread's
/// futures wait too.
fn block_in_place(wait: &mut dyn FnMut()) {
    let mut called = false;
    let blocked = catch_unwind(AssertUnwindSafe(|| {
        tokio::task::block_in_place(|| {
            called = true;
            wait();
        });
    }));
    match blocked {
        Ok(()) => {}
        Err(_) if !called => wait(),
        Err(panic) => resume_unwind(panic),
    }
}
