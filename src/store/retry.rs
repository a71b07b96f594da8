//! Timeouts and retries of a store's calls.
//!
//! The library's own retries are off wherever a store is opened by URL, so that this is the only mechanism.

use std::fmt::Display;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::fault::Fault;
use crate::error::{Error, Result};
use crate::runtime::{SharedRuntime, timeout};
use crate::time::Timestamp;

/// Timeouts and retries of a store's calls, and how far its listings may lag.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreSettings {
    /// Timeout of one request, including its body. Default 60 s.
    pub call_timeout: Duration,
    /// Time after which a call makes no further retry. Default 3 min.
    pub retry_deadline: Duration,
    /// Most tries of each request of a call, including the first. Default 10.
    pub tries_max: usize,
    /// Delay before the first retry. Each further delay doubles, plus up to as much again at random. Default 100 ms.
    pub backoff_first: Duration,
    /// Longest delay between retries, without the random part. Default 10 s.
    pub backoff_max: Duration,
    /// A listing may miss fewer than this many of the newest manifests. Void manifests within that distance of the end
    /// are kept, so that reading on from any listed manifest reaches the end of the chain. Default 64.
    pub list_lag: u64,
    /// Time for which a commit of unknown outcome is retried while the store does not answer. Then the attempt ends,
    /// and the next one finds out. If the store refuses, the attempt ends after a few tries. Default 1 h.
    pub settle_patience: Duration,
    /// Further commits after which a running job deletes objects that a commit made unreachable, so that a reader of a
    /// dropped checkpoint can finish, or move on to a newer one. Costs the space that these commits replace: with full
    /// checkpoints, as many more copies of the state. 0 deletes at once. Default 2.
    pub collect_lag: u64,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(60),
            retry_deadline: Duration::from_secs(180),
            tries_max: 10,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            list_lag: 64,
            settle_patience: Duration::from_secs(3600),
            collect_lag: 2,
        }
    }
}

/// Silence of the store after which a call logs that it waits. Large requests may take longer.
const QUIET: Duration = Duration::from_millis(1500);

/// Bytes that extend the permitted silence by one second.
const QUIET_BYTES_PER_S: u64 = 1 << 20;

/// Time for which a call retries without logging it.
const QUIET_RETRIES: Duration = Duration::from_secs(1);

/// Least time between two such log lines.
const NOTICE_EVERY: Duration = Duration::from_secs(5);

/// How calls wait for the store, and what they log about it.
pub(super) struct Patience {
    pub(super) runtime: SharedRuntime,
    pub(super) settings: StoreSettings,
    /// Time of the last log line. All calls share it, so that lines are rare however many calls wait.
    noticed: Mutex<Option<Timestamp>>,
}

impl Patience {
    pub(super) fn new(runtime: SharedRuntime, settings: StoreSettings) -> Self {
        Self { runtime, settings, noticed: Mutex::default() }
    }

    /// Returns the retries of one call.
    pub(super) fn retry(&self) -> Retry<'_> {
        let [seed, ..] = split(self.runtime.random());
        let delays = ExponentialBuilder::new()
            .with_factor(2.0)
            .with_min_delay(self.settings.backoff_first)
            .with_max_delay(self.settings.backoff_max)
            .with_max_times(self.settings.tries_max.saturating_sub(1))
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        let started = self.runtime.monotonic();
        Retry { patience: self, delays, started, deadline: started.after(self.settings.retry_deadline), tries: 1 }
    }

    /// Runs `call` under the timeout of a request. A timeout is an unclear fault.
    ///
    /// * `bytes`: the bytes that `call` sends or requests.
    pub(super) async fn with_timeout<T>(
        &self,
        object: impl Display,
        bytes: u64,
        call: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let (runtime, limit) = (self.runtime.as_ref(), self.settings.call_timeout);
        let quiet = QUIET.saturating_add(Duration::from_secs(bytes / QUIET_BYTES_PER_S)).min(limit);
        let rest = limit.saturating_sub(quiet);
        let mut call = pin!(call);
        let mut answer = timeout(runtime, quiet, call.as_mut()).await;
        if answer.is_none() && !rest.is_zero() {
            let reason = format!("no answer for {} ms object=`{object}`", quiet.as_millis());
            self.notice(rest.saturating_add(self.settings.retry_deadline), &reason);
            answer = timeout(runtime, rest, call).await;
        }
        answer.unwrap_or_else(|| {
            let error = Error::unavailable("store did not answer in time").with("object", object);
            Err(Fault::Unclear(error.with("limit_ms", limit.as_millis())))
        })
    }

    /// Logs that a call waits for the store, unless a line was logged a moment ago.
    fn notice(&self, longest: Duration, reason: &str) {
        let now = self.runtime.monotonic();
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if noticed.is_some_and(|last| last <= now && now < last.after(NOTICE_EVERY)) {
            return;
        }
        *noticed = Some(now);
        drop(noticed);
        // An endpoint's text may have line breaks.
        let reason = reason.replace(char::is_control, " ");
        tracing::warn!("waiting for the store (at most {} s more): {reason}", longest.as_secs());
    }
}

/// The retries of one call.
pub(super) struct Retry<'a> {
    patience: &'a Patience,
    delays: ExponentialBackoff,
    started: Timestamp,
    deadline: Timestamp,
    tries: u32,
}

impl Retry<'_> {
    /// Waits for the delay before the next try, after one that failed with `error`.
    ///
    /// # Errors
    /// `error`, with the number of tries, if there are no more retries.
    pub(super) async fn wait(&mut self, error: Error) -> Result<()> {
        let Patience { runtime, settings, .. } = self.patience;
        let now = runtime.monotonic();
        let delay = self.delays.next().filter(|delay| now.after(*delay) <= self.deadline);
        let Some(delay) = delay else {
            return Err(error.with("tries", self.tries));
        };
        tracing::debug!(error = error.chain(), ?delay, "store call failed, to be repeated");
        if now.after(delay) >= self.started.after(QUIET_RETRIES) {
            let longest = self.deadline.since(now).saturating_add(settings.call_timeout);
            self.patience.notice(longest, &error.chain());
        }
        self.tries = self.tries.saturating_add(1);
        runtime.sleep(delay).await;
        Ok(())
    }
}

fn split(bits: u128) -> [u64; 2] {
    let [low, high] = [bits & u128::from(u64::MAX), bits >> 64];
    [low, high].map(|half| u64::try_from(half).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime whose clock only sleeps advance.
    #[derive(Debug)]
    struct Still(Mutex<Timestamp>);

    impl crate::runtime::Runtime for Still {
        fn spawn(&self, _: futures_util::future::BoxFuture<'static, ()>) {}
        fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
            work();
        }
        fn sleep(&self, duration: Duration) -> futures_util::future::BoxFuture<'static, ()> {
            let mut now = self.0.lock().unwrap();
            *now = now.after(duration);
            Box::pin(async {})
        }
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
        fn monotonic(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
        fn random(&self) -> u128 {
            7
        }
    }

    #[tokio::test]
    async fn an_unreachable_store_is_reported_soon_and_rarely() {
        let runtime = std::sync::Arc::new(Still(Mutex::new(Timestamp::from_millis(0))));
        let patience = Patience::new(runtime.clone(), StoreSettings::default());
        let mut retry = patience.retry();
        let mut notices = Vec::new();
        while retry.wait(Error::unavailable("away")).await.is_ok() {
            let noticed = *patience.noticed.lock().unwrap();
            notices.extend(noticed.filter(|noticed| !notices.contains(noticed)));
        }
        assert!(notices[0].as_millis() < 2_000, "{notices:?}");
        assert!(
            notices.len() > 2 && notices.windows(2).all(|pair| pair[0].after(NOTICE_EVERY) <= pair[1]),
            "{notices:?}"
        );
        // A short outage is not logged.
        let patience = Patience::new(runtime, StoreSettings::default());
        patience.retry().wait(Error::unavailable("away")).await.unwrap();
        assert_eq!(*patience.noticed.lock().unwrap(), None);
    }
}
