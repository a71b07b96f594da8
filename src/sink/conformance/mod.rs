//! The laws of a [`SinkTarget`], as a suite that any implementation can run.
//!
//! Each check panics with the law that does not hold. They use slots of a job drawn anew, so that a suite can run again on the same
//! target.

mod staged;

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::poll_fn;

use super::{Marker, Records, SinkSlot, SinkTarget, Slot};
use crate::error::{ErrorKind, Result};
use crate::id::{Attempt, Epoch, JobId, Lineage, OperatorId, Subtask};

pub use staged::{StagedHarness, run_staged};

/// A target under test.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Returns the target.
    fn target(&self) -> Arc<dyn SinkTarget>;

    /// Returns a record in the target's encoding; records of different numbers differ, and those of a target that upserts have
    /// different keys.
    fn record(&self, number: u64) -> Bytes;

    /// Returns the numbers of the records that readers of the target see, in the order of publication within each slot. Targets
    /// without an order return them sorted. May return other records of the target too.
    ///
    /// # Errors
    /// From the target.
    async fn read(&self) -> Result<Vec<u64>>;

    /// Returns whether [`read`](Self::read) keeps the order of publication. Default: yes.
    fn is_ordered(&self) -> bool {
        true
    }

    /// Returns 128 random bits.
    fn random(&self) -> u128;
}

/// Runs the whole suite.
///
/// # Panics
/// If a law does not hold.
pub async fn run(harness: &dyn Harness) {
    let suite = Suite { harness, job: JobId(harness.random().to_be_bytes()) };
    suite.opening_changes_nothing().await;
    suite.records_and_marker_appear_together().await;
    suite.an_empty_publication_sets_the_marker_alone().await;
    suite.any_marker_can_follow_any_other().await;
    suite.slots_are_independent().await;
    suite.a_later_attempt_fences_an_earlier_one().await;
    suite.a_fence_ends_earlier_calls_of_the_same_attempt().await;
    suite.a_dropped_publication_is_all_or_nothing().await;
    suite.a_stopped_publication_changes_nothing_after_a_fence().await;
    suite.many_records_are_published_at_once().await;
}

struct Suite<'a> {
    harness: &'a dyn Harness,
    job: JobId,
}

const FIRST: Attempt = Attempt(1);
const SECOND: Attempt = Attempt(2);

impl Suite<'_> {
    async fn open(&self, law: u32, subtask: u32) -> Box<dyn SinkSlot> {
        let slot = Slot {
            job: self.job,
            operator: OperatorId(law),
            sink: "conformance".to_owned(),
            subtask: Subtask(subtask),
        };
        self.harness.target().check().await.expect("a target under test is sound");
        self.harness.target().open(&slot).await.expect("a slot opens")
    }

    fn records(&self, numbers: impl IntoIterator<Item = u64>) -> Records {
        numbers.into_iter().map(|number| self.harness.record(number)).collect()
    }

    /// Returns which of `numbers` readers see, in order.
    async fn seen(&self, numbers: std::ops::Range<u64>) -> Vec<u64> {
        let seen = self.harness.read().await.expect("a target under test is readable");
        let mut seen: Vec<_> = seen.into_iter().filter(|number| numbers.contains(number)).collect();
        if !self.harness.is_ordered() {
            seen.sort_unstable();
        }
        seen
    }

    async fn opening_changes_nothing(&self) {
        let base = self.base(1);
        let mut slot = self.open(1, 0).await;
        drop(self.open(1, 0).await);
        assert_eq!(slot.fence(FIRST).await.expect("fences"), None, "a slot that published nothing has no marker");
        assert_eq!(slot.fence(FIRST).await.expect("fences again"), None, "a fence can be repeated");
        assert!(self.seen(base..base + 10).await.is_empty(), "opening and fencing publish nothing");
    }

    async fn records_and_marker_appear_together(&self) {
        let base = self.base(2);
        let mut slot = self.open(2, 0).await;
        slot.fence(FIRST).await.expect("fences");
        for epoch in 1..=3 {
            let start = base + epoch * 10;
            slot.publish(marker(FIRST, epoch), &self.records(start..start + 3)).await.expect("publishes");
        }
        let expected: Vec<_> = (1..=3).flat_map(|epoch| base + epoch * 10..base + epoch * 10 + 3).collect();
        assert_eq!(self.seen(base..base + 100).await, expected, "each record is published once, in order");
        let mut next = self.open(2, 0).await;
        assert_eq!(next.fence(SECOND).await.expect("fences"), Some(marker(FIRST, 3)), "the marker is the last one set");
    }

    async fn an_empty_publication_sets_the_marker_alone(&self) {
        let base = self.base(3);
        let mut slot = self.open(3, 0).await;
        slot.fence(FIRST).await.expect("fences");
        slot.publish(marker(FIRST, 4), &Records::default()).await.expect("publishes nothing");
        assert_eq!(self.open(3, 0).await.fence(SECOND).await.expect("fences"), Some(marker(FIRST, 4)));
        assert!(self.seen(base..base + 10).await.is_empty());
    }

    async fn any_marker_can_follow_any_other(&self) {
        let base = self.base(4);
        let mut slot = self.open(4, 0).await;
        slot.fence(SECOND).await.expect("fences");
        slot.publish(marker(SECOND, 9), &self.records([base])).await.expect("publishes");
        let adopted = Marker { lineage: Lineage([8; 16]), attempt: SECOND, epoch: Epoch(0) };
        slot.publish(adopted, &self.records([base + 1])).await.expect("a job may start again from an older checkpoint");
        assert_eq!(slot.fence(SECOND).await.expect("fences"), Some(adopted));
        assert_eq!(self.seen(base..base + 10).await, [base, base + 1]);
    }

    async fn slots_are_independent(&self) {
        let base = self.base(5);
        let (mut first, mut other) = (self.open(5, 0).await, self.open(5, 1).await);
        first.fence(FIRST).await.expect("fences");
        other.fence(SECOND).await.expect("fences");
        first.publish(marker(FIRST, 1), &self.records([base])).await.expect("another slot's fence does not matter");
        assert_eq!(other.fence(SECOND).await.expect("fences"), None, "another slot's marker does not matter");
        assert_eq!(self.seen(base..base + 10).await, [base]);
    }

    async fn a_later_attempt_fences_an_earlier_one(&self) {
        let base = self.base(6);
        let (mut older, mut newer) = (self.open(6, 0).await, self.open(6, 0).await);
        older.fence(FIRST).await.expect("fences");
        older.publish(marker(FIRST, 1), &self.records([base])).await.expect("publishes");
        assert_eq!(newer.fence(SECOND).await.expect("fences"), Some(marker(FIRST, 1)));
        let late = older.publish(marker(FIRST, 2), &self.records([base + 1])).await;
        assert_eq!(kind(late), Some(ErrorKind::Fenced), "a fenced attempt publishes nothing");
        assert_eq!(
            kind(older.fence(FIRST).await),
            Some(ErrorKind::Fenced),
            "a fenced attempt cannot take the slot back"
        );
        let mut reopened = self.open(6, 0).await;
        assert_eq!(kind(reopened.fence(FIRST).await), Some(ErrorKind::Fenced), "nor can a new connection of it");
        newer.publish(marker(SECOND, 2), &self.records([base + 2])).await.expect("the newer attempt publishes");
        assert_eq!(self.seen(base..base + 10).await, [base, base + 2]);
    }

    /// A call whose outcome was unknown may still be on its way when the same attempt fences again.
    async fn a_fence_ends_earlier_calls_of_the_same_attempt(&self) {
        let base = self.base(7);
        let (mut delayed, mut again) = (self.open(7, 0).await, self.open(7, 0).await);
        delayed.fence(FIRST).await.expect("fences");
        assert_eq!(again.fence(FIRST).await.expect("fences"), None);
        let late = delayed.publish(marker(FIRST, 1), &self.records([base])).await;
        assert!(late.is_err(), "a call from before the fence does not take effect after it");
        again.publish(marker(FIRST, 1), &self.records([base + 1])).await.expect("publishes");
        assert_eq!(self.seen(base..base + 10).await, [base + 1]);
    }

    /// Drops the publication after each number of polls in turn.
    async fn a_dropped_publication_is_all_or_nothing(&self) {
        let base = self.base(8);
        for polls in 0..40u64 {
            let subtask = u32::try_from(polls).expect("few");
            let start = base + polls * 10;
            let mut slot = self.open(8, subtask).await;
            slot.fence(FIRST).await.expect("fences");
            let records = self.records(start..start + 5);
            let done = poll_times(&mut pin!(slot.publish(marker(FIRST, 1), &records)), polls).await;
            drop(slot);
            let mut slot = self.open(8, subtask).await;
            let found = slot.fence(SECOND).await.expect("fences");
            let expected: Vec<_> = if found.is_some() { (start..start + 5).collect() } else { Vec::new() };
            assert!(found.is_none_or(|found| found == marker(FIRST, 1)), "{found:?}");
            assert_eq!(self.seen(start..start + 10).await, expected, "after {polls} polls: marker {found:?}");
            if done {
                assert!(found.is_some(), "a publication that returned stands");
                return;
            }
        }
    }

    /// Stops the publication after each number of polls in turn, and continues it once a newer attempt has the slot: a process that
    /// was paused, or cut off, in each of its calls.
    async fn a_stopped_publication_changes_nothing_after_a_fence(&self) {
        let base = self.base(9);
        for polls in 0..40u64 {
            let subtask = u32::try_from(polls).expect("few");
            let start = base + polls * 10;
            let (mut older, mut newer) = (self.open(9, subtask).await, self.open(9, subtask).await);
            older.fence(FIRST).await.expect("fences");
            let records = self.records(start..start + 5);
            let mut publication = pin!(older.publish(marker(FIRST, 1), &records));
            let done = poll_times(&mut publication, polls).await;
            let found = newer.fence(SECOND).await.expect("fences");
            let expected: Vec<_> = if found.is_some() { (start..start + 5).collect() } else { Vec::new() };
            assert_eq!(self.seen(start..start + 10).await, expected, "after {polls} polls: marker {found:?}");
            if done {
                assert!(found.is_some(), "a publication that returned stands");
                return;
            }
            let late = publication.await;
            assert!(late.is_err() || found.is_some(), "a stopped publication succeeds after a fence: {polls} polls");
            assert_eq!(self.seen(start..start + 10).await, expected, "a stopped attempt publishes after {polls} polls");
            assert_eq!(newer.fence(SECOND).await.expect("fences"), found, "a stopped attempt moves the marker");
        }
    }

    async fn many_records_are_published_at_once(&self) {
        let base = self.base(10);
        let mut slot = self.open(10, 0).await;
        slot.fence(FIRST).await.expect("fences");
        slot.publish(marker(FIRST, 1), &self.records(base..base + 2000)).await.expect("publishes");
        let seen = self.seen(base..base + 5000).await;
        let distinct: BTreeSet<_> = seen.iter().copied().collect();
        assert_eq!((seen.len(), distinct.len()), (2000, 2000));
        assert!(seen.is_sorted(), "records keep their order");
    }

    /// Returns the first record number of a law: apart from those of other laws and of other runs of the suite.
    fn base(&self, law: u64) -> u64 {
        let run = u64::from_be_bytes(std::array::from_fn(|at| self.job.0.get(at).copied().unwrap_or_default()));
        (run >> 20 << 16 | law << 12) & (u64::MAX >> 11)
    }
}

fn marker(attempt: Attempt, epoch: u64) -> Marker {
    Marker { lineage: Lineage([7; 16]), attempt, epoch: Epoch(epoch) }
}

fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Polls `future` at most `polls` times, whenever it asks for it; returns whether it ended.
async fn poll_times<T>(future: &mut Pin<&mut impl Future<Output = Result<T>>>, polls: u64) -> bool {
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(result) => {
                assert!(result.is_ok(), "an undisturbed call succeeds");
                Poll::Ready(true)
            }
            // The last poll.
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
