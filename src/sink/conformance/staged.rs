//! The laws of a [`StagedTarget`], the same way.

use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{FIRST, SECOND, kind, poll_times};
use crate::error::{ErrorKind, Result};
use crate::id::{Attempt, Epoch, JobId, Lineage, OperatorId, Subtask};
use crate::sink::{Claim, Marker, Records, Slot, StagedPart, StagedSlot, StagedTarget};

/// A target of staged output under test.
#[async_trait]
pub trait StagedHarness: Send + Sync {
    /// Returns a target that belongs to no job, or to `job`.
    fn target(&self, job: JobId) -> Arc<dyn StagedTarget>;

    /// Returns a record in the target's encoding; records of different numbers differ.
    fn record(&self, number: u64) -> Bytes;

    /// Returns the numbers of the records that readers of the job's target see, in order within each part, the parts in any order.
    ///
    /// # Errors
    /// From the target.
    async fn read(&self, job: JobId) -> Result<Vec<u64>>;

    /// Returns 128 random bits.
    fn random(&self) -> u128;
}

/// Runs the whole suite.
///
/// # Panics
/// If a law does not hold.
pub async fn run_staged(harness: &dyn StagedHarness) {
    let suite = Suite { harness, run: harness.random() };
    suite.opening_changes_nothing().await;
    suite.what_is_staged_is_seen_once_it_is_published().await;
    suite.a_part_is_published_once_however_often_that_is_asked().await;
    suite.slots_are_independent().await;
    suite.a_new_attempt_publishes_what_is_listed().await;
    suite.an_older_attempt_publishes_nothing_that_is_not_listed().await;
    suite.what_was_not_listed_once_can_be_listed_again().await;
    suite.an_older_attempt_cannot_take_the_slot_back().await;
    suite.a_copy_of_the_job_is_fenced().await;
    suite.two_attempts_never_share_what_they_stage().await;
    suite.disregarded_parts_no_longer_count().await;
    suite.a_dropped_call_can_be_repeated().await;
    suite.a_stopped_publication_changes_nothing_after_a_fence().await;
    suite.many_records_keep_their_order().await;
}

struct Suite<'a> {
    harness: &'a dyn StagedHarness,
    run: u128,
}

const LINEAGE: Lineage = Lineage([7; 16]);

const CLAIM: Claim = Claim { lineage: LINEAGE, disregards_after: None };

impl Suite<'_> {
    /// Returns the job of a law.
    fn job(&self, law: u32) -> JobId {
        JobId((self.run ^ u128::from(law)).to_be_bytes())
    }

    async fn open(&self, law: u32, subtask: u32, attempt: Attempt) -> Box<dyn StagedSlot> {
        let job = self.job(law);
        let target = self.harness.target(job);
        target.check().await.expect("a target under test is sound");
        let slot = Slot { job, operator: OperatorId(1), sink: "conformance".to_owned(), subtask: Subtask(subtask) };
        target.open(&slot, attempt).await.expect("a slot opens")
    }

    /// Opens a slot and takes it over.
    async fn fenced(&self, law: u32, subtask: u32, attempt: Attempt, listed: &[StagedPart]) -> Box<dyn StagedSlot> {
        let slot = self.open(law, subtask, attempt).await;
        slot.fence(CLAIM, listed).await.expect("fences");
        slot
    }

    async fn stage(&self, slot: &dyn StagedSlot, epoch: u64, numbers: std::ops::Range<u64>) -> StagedPart {
        slot.stage(Epoch(epoch), &self.records(numbers)).await.expect("stages")
    }

    fn records(&self, numbers: std::ops::Range<u64>) -> Records {
        numbers.map(|number| self.harness.record(number)).collect()
    }

    /// Returns what readers see, sorted.
    async fn seen(&self, law: u32) -> Vec<u64> {
        let mut seen = self.harness.read(self.job(law)).await.expect("a target under test is readable");
        seen.sort_unstable();
        seen
    }

    async fn opening_changes_nothing(&self) {
        let slot = self.open(1, 0, FIRST).await;
        assert_eq!(slot.published().await.expect("answers"), None, "a slot that published nothing has no marker");
        for _ in 0..2 {
            slot.fence(CLAIM, &[]).await.expect("a fence can be repeated");
            assert_eq!(slot.published().await.expect("answers"), None);
        }
        assert!(self.seen(1).await.is_empty());
    }

    async fn what_is_staged_is_seen_once_it_is_published(&self) {
        let slot = self.fenced(2, 0, FIRST, &[]).await;
        let first = self.stage(&*slot, 3, 0..3).await;
        let second = self.stage(&*slot, 4, 3..5).await;
        assert!(self.seen(2).await.is_empty(), "readers see nothing of what is staged");
        assert_eq!(slot.published().await.expect("answers"), None, "what is staged is not published");
        slot.publish(&first).await.expect("publishes");
        assert_eq!(self.seen(2).await, [0, 1, 2]);
        assert_eq!(slot.published().await.expect("answers"), Some(marker(FIRST, 3)));
        slot.publish(&second).await.expect("publishes");
        assert_eq!(self.seen(2).await, [0, 1, 2, 3, 4]);
        let next = self.open(2, 0, SECOND).await;
        assert_eq!(next.published().await.expect("answers"), Some(marker(FIRST, 4)), "the newest part counts");
    }

    async fn a_part_is_published_once_however_often_that_is_asked(&self) {
        let slot = self.fenced(3, 0, FIRST, &[]).await;
        let part = self.stage(&*slot, 1, 0..3).await;
        for _ in 0..3 {
            slot.publish(&part).await.expect("a publication can be repeated");
            assert_eq!(self.seen(3).await, [0, 1, 2]);
        }
        let later = self.fenced(3, 0, SECOND, std::slice::from_ref(&part)).await;
        later.publish(&part).await.expect("so can another attempt's");
        assert_eq!(self.seen(3).await, [0, 1, 2]);
    }

    async fn slots_are_independent(&self) {
        let (first, other) = (self.fenced(4, 0, FIRST, &[]).await, self.fenced(4, 1, FIRST, &[]).await);
        let (mine, theirs) = (self.stage(&*first, 1, 0..2).await, self.stage(&*other, 1, 2..4).await);
        first.publish(&mine).await.expect("publishes");
        assert_eq!(other.published().await.expect("answers"), None, "another slot's parts do not count");
        self.fenced(4, 0, SECOND, &[]).await;
        other.publish(&theirs).await.expect("another slot's fence does not matter");
        assert_eq!(self.seen(4).await, [0, 1, 2, 3]);
    }

    async fn a_new_attempt_publishes_what_is_listed(&self) {
        let older = self.fenced(5, 0, FIRST, &[]).await;
        let (one, two) = (self.stage(&*older, 1, 0..2).await, self.stage(&*older, 2, 2..4).await);
        older.publish(&one).await.expect("publishes");
        let copies = [&one, &two].map(|part| StagedPart::new(part.bytes().to_vec()));
        drop(older);
        let newer = self.fenced(5, 0, SECOND, &copies).await;
        for part in &copies {
            newer.publish(part).await.expect("a listed part survives the fence, and its process");
        }
        assert_eq!(self.seen(5).await, [0, 1, 2, 3]);
        assert_eq!(newer.published().await.expect("answers").map(|marker| marker.epoch), Some(Epoch(2)));
    }

    async fn an_older_attempt_publishes_nothing_that_is_not_listed(&self) {
        let older = self.fenced(6, 0, FIRST, &[]).await;
        let (listed, other) = (self.stage(&*older, 1, 0..2).await, self.stage(&*older, 2, 2..4).await);
        let newer = self.fenced(6, 0, SECOND, std::slice::from_ref(&listed)).await;
        assert!(older.publish(&other).await.is_err(), "what the fence removed cannot be published");
        newer.publish(&listed).await.expect("publishes");
        // Committed before the fence, so it is one of the newer attempt's too.
        let _either = older.publish(&listed).await;
        assert_eq!(self.seen(6).await, [0, 1]);
    }

    /// A start from an older checkpoint, and then one from the newest after all.
    async fn what_was_not_listed_once_can_be_listed_again(&self) {
        let first = self.fenced(11, 0, FIRST, &[]).await;
        let part = self.stage(&*first, 1, 0..2).await;
        self.fenced(11, 0, SECOND, &[]).await;
        assert!(first.publish(&part).await.is_err());
        let third = self.fenced(11, 0, Attempt(3), std::slice::from_ref(&part)).await;
        third.publish(&part).await.expect("a part outlives one attempt that does not list it");
        assert_eq!(self.seen(11).await, [0, 1]);
    }

    async fn a_copy_of_the_job_is_fenced(&self) {
        self.fenced(12, 0, FIRST, &[]).await;
        let copy = self.open(12, 0, FIRST).await;
        let claim = Claim { lineage: Lineage([9; 16]), ..CLAIM };
        assert_eq!(kind(copy.fence(claim, &[]).await), Some(ErrorKind::Fenced), "one attempt, two lineages");
    }

    async fn an_older_attempt_cannot_take_the_slot_back(&self) {
        self.fenced(7, 0, SECOND, &[]).await;
        let older = self.open(7, 0, FIRST).await;
        assert_eq!(kind(older.published().await), Some(ErrorKind::Fenced));
        assert_eq!(kind(older.fence(CLAIM, &[]).await), Some(ErrorKind::Fenced));
    }

    async fn two_attempts_never_share_what_they_stage(&self) {
        let older = self.fenced(8, 0, FIRST, &[]).await;
        let newer = self.fenced(8, 0, SECOND, &[]).await;
        let part = self.stage(&*newer, 1, 0..2).await;
        // An attempt that was paused before this call.
        let _late = older.stage(Epoch(1), &self.records(2..4)).await;
        newer.publish(&part).await.expect("publishes");
        assert_eq!(self.seen(8).await, [0, 1], "an attempt that was replaced overwrites nothing");
    }

    async fn disregarded_parts_no_longer_count(&self) {
        let older = self.fenced(9, 0, FIRST, &[]).await;
        let part = self.stage(&*older, 5, 0..2).await;
        older.publish(&part).await.expect("publishes");
        let newer = self.open(9, 0, SECOND).await;
        let other = Lineage([8; 16]);
        newer.fence(Claim { lineage: other, disregards_after: Some(Epoch(1)) }, &[]).await.expect("fences");
        let claimed = Marker { lineage: other, attempt: SECOND, epoch: Epoch(1) };
        assert_eq!(newer.published().await.expect("answers"), Some(claimed));
        let again = self.stage(&*newer, 2, 0..2).await;
        newer.publish(&again).await.expect("publishes");
        let third = self.open(9, 0, Attempt(3)).await;
        third.fence(Claim { lineage: other, ..CLAIM }, &[]).await.expect("fences");
        let expected = Marker { lineage: other, attempt: SECOND, epoch: Epoch(2) };
        assert_eq!(third.published().await.expect("answers"), Some(expected), "nor for later attempts");
        assert_eq!(self.seen(9).await, [0, 0, 1, 1], "they stay where they are");
    }

    /// Drops a staging and a publication after each number of polls in turn.
    async fn a_dropped_call_can_be_repeated(&self) {
        for polls in 0..40u64 {
            let law = 100 + u32::try_from(polls).expect("few");
            let slot = self.fenced(law, 0, FIRST, &[]).await;
            let records = self.records(0..5);
            let staged = poll_times(&mut pin!(slot.stage(Epoch(1), &records)), polls).await;
            assert!(self.seen(law).await.is_empty(), "after {polls} polls");
            let part = slot.stage(Epoch(1), &records).await.expect("staging can be repeated");
            let done = poll_times(&mut pin!(slot.publish(&part)), polls).await;
            let seen = self.seen(law).await;
            assert!(seen.is_empty() || seen == [0, 1, 2, 3, 4], "after {polls} polls: {seen:?}");
            slot.publish(&part).await.expect("a publication can be repeated");
            assert_eq!(self.seen(law).await, [0, 1, 2, 3, 4], "after {polls} polls");
            if staged && done {
                return;
            }
        }
    }

    /// Stops the publication after each number of polls in turn, and continues it once a newer attempt has the slot.
    async fn a_stopped_publication_changes_nothing_after_a_fence(&self) {
        for polls in 0..40u64 {
            let law = 200 + u32::try_from(polls).expect("few");
            let older = self.fenced(law, 0, FIRST, &[]).await;
            let part = self.stage(&*older, 1, 0..5).await;
            let mut publication = pin!(older.publish(&part));
            let done = poll_times(&mut publication, polls).await;
            let newer = self.fenced(law, 0, SECOND, &[]).await;
            let before = self.seen(law).await;
            assert_eq!(newer.published().await.expect("answers").is_some(), !before.is_empty());
            if done {
                return;
            }
            let late = publication.await;
            assert!(late.is_err() || !before.is_empty(), "a stopped publication succeeds after a fence");
            assert_eq!(self.seen(law).await, before, "a stopped attempt publishes after {polls} polls");
        }
    }

    async fn many_records_keep_their_order(&self) {
        let slot = self.fenced(10, 0, FIRST, &[]).await;
        let part = self.stage(&*slot, 1, 0..2000).await;
        slot.publish(&part).await.expect("publishes");
        let seen = self.harness.read(self.job(10)).await.expect("a target under test is readable");
        assert!(seen.into_iter().eq(0..2000), "a part is complete, in the order of its records");
    }
}

fn marker(attempt: Attempt, epoch: u64) -> Marker {
    Marker { lineage: LINEAGE, attempt, epoch: Epoch(epoch) }
}
