//! Follows a restore and reports its progress, as metrics and to an observer.
//!
//! Invariants: a group counts once, however often it is evicted and loaded again; reports come one at a time, in order, and
//! end with one that says so; nobody who loads or waits for a group waits for an observer.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::load_order::GroupLoads;
use super::restore_progress::RestoreProgress;
use crate::control::coordinator::Participant;
use crate::error::ErrorKind;
use crate::key_group::KeyGroupSet;
use crate::metrics::{self, RestoreFigures};
use crate::runtime::SharedRuntime;
use crate::time::Timestamp;

/// Is told how a restore progresses.
#[derive(Clone)]
pub(crate) struct RestoreObserver(Arc<dyn Fn(RestoreProgress) + Send + Sync>);

impl RestoreObserver {
    pub(crate) fn new(observe: impl Fn(RestoreProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }
}

impl fmt::Debug for RestoreObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestoreObserver")
    }
}

/// Follows one restore: counts each of its groups once, and reports.
#[derive(Debug)]
pub(crate) struct RestoreTracker {
    participant: Participant,
    runtime: SharedRuntime,
    started: Timestamp,
    observer: Option<RestoreObserver>,
    counts: Mutex<Counts>,
    reports: Mutex<Reports>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Whether the groups are known.
    has_begun: bool,
    /// The groups that are neither loaded nor damaged.
    left: GroupLoads,
    progress: RestoreProgress,
}

/// Keeps reports in order and apart, although several threads may have something to report, without making one wait for
/// an observer that another one calls.
#[derive(Debug, Default)]
struct Reports {
    /// Whether a thread is calling the observer.
    is_calling: bool,
    /// Whether that thread has to report once more.
    is_due: bool,
    /// Whether the last report was made.
    have_ended: bool,
    /// Whether the observer has panicked; it is not called again.
    has_panicked: bool,
}

impl RestoreTracker {
    /// Returns the tracker of a restore that starts now.
    ///
    /// * `participant`: whose restore it is.
    pub(crate) fn start(participant: Participant, runtime: SharedRuntime, observer: Option<RestoreObserver>) -> Self {
        let (started, counts, reports) = (runtime.monotonic(), Mutex::default(), Mutex::default());
        Self { participant, runtime, started, observer, counts, reports }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts. Once the restore has ended, they stay as they are.
    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts();
        if !counts.has_ended() {
            change(&mut counts);
            counts.progress.elapsed = self.runtime.monotonic().since(self.started);
        }
    }

    /// Sets what there is to load, and reports.
    pub(crate) fn begin(&self, loads: GroupLoads) {
        self.change(|counts| {
            counts.progress.groups = loads.len();
            for load in loads.values() {
                counts.progress.bytes = counts.progress.bytes.saturating_add(load.bytes);
                counts.progress.uses += load.uses;
            }
            counts.left = loads;
            counts.has_begun = true;
        });
        self.report();
    }

    /// Counts groups that are loaded.
    pub(crate) fn loaded(&self, groups: &KeyGroupSet) {
        self.change(|Counts { left, progress, .. }| {
            for load in groups.iter().filter_map(|group| left.remove(&group)) {
                progress.loaded_groups += 1;
                progress.loaded_bytes = progress.loaded_bytes.saturating_add(load.bytes);
                progress.loaded_uses += load.uses;
            }
        });
    }

    /// Counts groups that cannot be loaded.
    pub(crate) fn damaged(&self, groups: &KeyGroupSet) {
        self.change(|Counts { left, progress, .. }| {
            progress.damaged_groups += groups.iter().filter_map(|group| left.remove(&group)).count();
        });
    }

    /// Stops counting groups that need not be loaded any more.
    pub(crate) fn forget(&self, groups: &KeyGroupSet) {
        self.change(|Counts { left, progress, .. }| {
            for load in groups.iter().filter_map(|group| left.remove(&group)) {
                progress.groups -= 1;
                progress.bytes = progress.bytes.saturating_sub(load.bytes);
                progress.uses -= load.uses;
            }
        });
    }

    /// Ends the restore, unless it has ended.
    pub(crate) fn fail(&self, why: ErrorKind) {
        self.change(|counts| counts.progress.failed = Some(why));
    }

    pub(crate) fn progress(&self) -> RestoreProgress {
        self.change(|_| ());
        self.counts().progress
    }

    /// Reports the progress. If another thread is reporting, that one does so once more.
    pub(crate) fn report(&self) {
        {
            let mut reports = self.reports();
            if reports.have_ended || reports.is_calling {
                reports.is_due = true;
                return;
            }
            reports.is_calling = true;
        }
        loop {
            let (progress, has_ended) = self.snapshot();
            self.set_metrics(progress);
            let observer = self.observer.as_ref().filter(|_| !self.reports().has_panicked);
            let observe = AssertUnwindSafe(|| observer.iter().for_each(|observer| (observer.0)(progress)));
            let is_sound = catch_unwind(observe).is_ok();
            let mut reports = self.reports();
            // The restore goes on without it.
            reports.has_panicked |= !is_sound;
            reports.have_ended = has_ended;
            if reports.have_ended || !std::mem::take(&mut reports.is_due) {
                reports.is_calling = false;
                return;
            }
        }
    }

    fn set_metrics(&self, progress: RestoreProgress) {
        let (operator, subtask) = self.participant;
        let figures = RestoreFigures {
            groups: progress.groups,
            loaded_groups: progress.loaded_groups,
            bytes: progress.bytes,
            loaded_bytes: progress.loaded_bytes,
            ready_share: progress.ready_share(),
            elapsed: progress.elapsed,
        };
        metrics::restore(operator, subtask, figures);
    }

    fn snapshot(&self) -> (RestoreProgress, bool) {
        self.change(|_| ());
        let counts = self.counts();
        (counts.progress, counts.has_ended())
    }
}

impl Counts {
    fn has_ended(&self) -> bool {
        self.progress.failed.is_some() || self.has_begun && self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::Duration;

    use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, SharedString, Unit};
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::checkpoint::load_order::GroupLoad;
    use crate::id::{OperatorId, Subtask};
    use crate::key_group::KeyGroup;
    use crate::runtime::Runtime;

    /// A clock that stands still unless it is set, in milliseconds.
    #[derive(Debug, Default)]
    struct Clock(AtomicI64);

    impl Runtime for Clock {
        fn spawn(&self, _: BoxFuture<'static, ()>) {}

        fn spawn_blocking(&self, _: Box<dyn FnOnce() + Send>) {}

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }

        fn now(&self) -> Timestamp {
            Timestamp::MIN
        }

        fn monotonic(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn random(&self) -> u128 {
            0
        }
    }

    type Seen = Arc<Mutex<Vec<(usize, u128, bool)>>>;

    /// Returns what an observer saw: loaded groups, milliseconds, and whether the restore has ended.
    fn seen(progress: RestoreProgress) -> (usize, u128, bool) {
        (progress.loaded_groups, progress.elapsed.as_millis(), progress.has_ended())
    }

    fn tracker(observe: impl Fn(RestoreProgress) + Send + Sync + 'static) -> (Arc<Clock>, Arc<RestoreTracker>) {
        let clock = Arc::new(Clock(AtomicI64::new(1000)));
        let observer = Some(RestoreObserver::new(observe));
        let tracker = RestoreTracker::start((OperatorId(7), Subtask(2)), Arc::<Clock>::clone(&clock), observer);
        (clock, Arc::new(tracker))
    }

    fn recording() -> (Arc<Clock>, Arc<RestoreTracker>, Seen) {
        let all = Seen::default();
        let record = Arc::clone(&all);
        let (clock, tracker) = tracker(move |progress| record.lock().unwrap().push(seen(progress)));
        (clock, tracker, all)
    }

    fn loads(groups: u16) -> GroupLoads {
        (0..groups).map(|group| (KeyGroup(group), GroupLoad { bytes: 10, uses: f64::from(group) })).collect()
    }

    fn set(groups: &[u16]) -> KeyGroupSet {
        groups.iter().map(|group| KeyGroup(*group)).collect()
    }

    #[test]
    fn each_group_counts_once_and_the_end_is_reported_once() {
        let (clock, tracker, all) = recording();
        tracker.begin(loads(3));
        for (millis, groups) in [(1020, set(&[1])), (1030, set(&[1, 0])), (1050, set(&[2])), (1090, set(&[0]))] {
            clock.0.store(millis, Ordering::Relaxed);
            tracker.loaded(&groups);
            tracker.report();
        }
        // The task is dropped long after.
        tracker.fail(ErrorKind::Stopped);
        tracker.report();
        assert_eq!(*all.lock().unwrap(), [(0, 0, false), (1, 20, false), (2, 30, false), (3, 50, true)]);
        let progress = tracker.progress();
        assert!(progress.is_complete() && progress.loaded_bytes == 30 && progress.loaded_uses == 3.0);
        assert_eq!(progress.elapsed, Duration::from_millis(50), "the clock of a restore stops at its end");
    }

    #[test]
    fn damaged_and_dropped_groups_do_not_keep_a_restore_from_its_end() {
        let (_, tracker, all) = recording();
        tracker.begin(loads(4));
        tracker.damaged(&set(&[3]));
        tracker.forget(&set(&[2]));
        tracker.loaded(&set(&[0, 1]));
        tracker.report();
        assert_eq!(*all.lock().unwrap(), [(0, 0, false), (2, 0, true)]);
        let progress = tracker.progress();
        assert_eq!((progress.groups, progress.damaged_groups, progress.bytes, progress.uses), (3, 1, 30, 4.0));
        assert!(!progress.is_complete() && progress.failed.is_none());
    }

    #[test]
    fn a_restore_that_fails_ends_with_the_reason_whenever_it_does() {
        for has_begun in [false, true] {
            let (_, tracker, all) = recording();
            if has_begun {
                tracker.begin(loads(2));
            }
            tracker.fail(ErrorKind::Fenced);
            tracker.fail(ErrorKind::Stopped);
            tracker.report();
            tracker.report();
            assert_eq!(all.lock().unwrap().iter().filter(|(.., ended)| *ended).count(), 1);
            assert_eq!(tracker.progress().failed, Some(ErrorKind::Fenced));
        }
    }

    #[test]
    fn nothing_to_restore_is_reported_once() {
        let (_, tracker, all) = recording();
        tracker.begin(GroupLoads::new());
        tracker.begin(GroupLoads::new());
        assert_eq!(*all.lock().unwrap(), [(0, 0, true)]);
    }

    /// Gauges by name and labels.
    #[derive(Debug, Default)]
    struct Gauges(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl ::metrics::Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Gauge::from_arc(Arc::clone(self.0.lock().unwrap().entry(name).or_default()))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn metrics_follow_a_restore_without_an_observer() {
        let gauges = Gauges::default();
        let clock = Arc::new(Clock(AtomicI64::new(1000)));
        ::metrics::with_local_recorder(&gauges, || {
            let tracker = RestoreTracker::start((OperatorId(7), Subtask(2)), Arc::<Clock>::clone(&clock), None);
            tracker.begin(loads(5));
            clock.0.store(3500, Ordering::Relaxed);
            tracker.loaded(&set(&[0, 2, 4]));
            tracker.report();
        });
        let expected = [
            ("bytes", 50.0),
            ("groups", 5.0),
            ("loaded_bytes", 30.0),
            ("loaded_groups", 3.0),
            ("ready_ratio", 0.6),
            ("seconds", 2.5),
        ];
        let all = gauges.0.lock().unwrap();
        let found = all.iter().map(|(name, value)| (name.clone(), f64::from_bits(value.load(Ordering::Relaxed))));
        let named = |(name, value)| (format!("alluvium_restore_{name} operator=7 subtask=2"), value);
        assert_eq!(found.collect::<Vec<_>>(), expected.map(named));
    }

    /// A report from within the observer, as from another thread meanwhile, waits for nobody and is not lost.
    #[test]
    fn reports_during_a_report_are_made_after_it_as_one() {
        let (own, all) = (Arc::new(OnceLock::<Arc<RestoreTracker>>::new()), Seen::default());
        let (within, record) = (Arc::clone(&own), Arc::clone(&all));
        let (_, tracker) = tracker(move |progress| {
            record.lock().unwrap().push(seen(progress));
            if progress.loaded_groups == 1 {
                for group in [1, 2] {
                    within.get().unwrap().loaded(&set(&[group]));
                    within.get().unwrap().report();
                }
            }
        });
        own.set(Arc::clone(&tracker)).unwrap();
        tracker.begin(loads(4));
        tracker.loaded(&set(&[0]));
        tracker.report();
        assert_eq!(*all.lock().unwrap(), [(0, 0, false), (1, 0, false), (3, 0, false)]);
        tracker.loaded(&set(&[3]));
        tracker.report();
        assert_eq!(all.lock().unwrap().last(), Some(&(4, 0, true)));
    }

    #[test]
    fn an_observer_that_panics_is_not_called_again() {
        let calls = Arc::new(AtomicI64::new(0));
        let counted = Arc::clone(&calls);
        let (_, tracker) = tracker(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            panic!("the observer fails");
        });
        tracker.begin(loads(1));
        tracker.loaded(&set(&[0]));
        tracker.report();
        assert!(tracker.progress().is_complete() && calls.load(Ordering::Relaxed) == 1);
    }
}
