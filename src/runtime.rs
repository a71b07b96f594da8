//! The injected runtime: all code below the façade spawns, sleeps and draws randomness through it, so that the same code
//! runs on tokio in production and on a seeded executor in simulation. Only backends have their own threads, for work whose
//! timing changes no result: writing layers to files, touching fresh memory.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, Either, select};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::time::Timestamp;

/// The executor functions that the crate needs.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Runs `future` in the background.
    fn spawn(&self, future: BoxFuture<'static, ()>);
    /// Runs CPU-bound or blocking `work` without delaying futures.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Blocks the calling thread, which is one of blocking work, for `duration`. Default: [`std::thread::sleep`].
    #[expect(clippy::disallowed_methods, reason = "the default of the injected sleep")]
    fn sleep_blocking(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
    /// Returns whether a thread may [`block`](Self::block): whether futures and blocking work still run meanwhile. Default: no.
    fn can_block(&self) -> bool {
        false
    }
    /// Calls `wait`, which blocks the calling thread until futures or blocking work of this runtime have done something.
    /// Called only if [`can_block`](Self::can_block). Default: no more than the call.
    fn block(&self, wait: &mut dyn FnMut()) {
        wait();
    }
    /// Returns the wall-clock time: used as processing time for expiry, and for displayed times.
    fn now(&self) -> Timestamp;
    /// Returns the time of a clock that never goes back, in milliseconds from an arbitrary origin. Measures intervals,
    /// timeouts and retries. Default: the system's monotonic clock.
    fn monotonic(&self) -> Timestamp {
        system_monotonic()
    }
    /// Returns 128 random bits.
    fn random(&self) -> u128;
}

#[expect(clippy::disallowed_methods, reason = "the default of the injected clock")]
fn system_monotonic() -> Timestamp {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let passed = ORIGIN.get_or_init(Instant::now).elapsed();
    Timestamp::from_millis(0).after(passed)
}

/// A shared runtime.
pub type SharedRuntime = Arc<dyn Runtime>;

/// Runs `work` off the executor and returns its result.
///
/// # Errors
/// `Stopped` if the work panicked or the runtime dropped it.
pub async fn run_blocking<R: Send + 'static>(
    runtime: &dyn Runtime,
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn_blocking(Box::new(move || {
        // The receiver is gone if the caller was cancelled.
        let _cancelled = sender.send(work());
    }));
    receiver.await.map_err(|_| Error::stopped("background work panicked or was dropped"))?
}

/// Returns the output of `future`, or drops it and returns `None` once `limit` has passed.
pub async fn timeout<F: Future>(runtime: &dyn Runtime, limit: Duration, future: F) -> Option<F::Output> {
    match select(Box::pin(future), runtime.sleep(limit)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}
