//! Records of one partition on their way from the task that fetches them to the reader.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use alluvium::{Error, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::settings::RECORD_BYTES;
use crate::record::KafkaRecord;

/// How long the answer that a partition has no more records counts. A broker that is asked answers several times in it.
const CAUGHT_UP_FOR: Duration = Duration::from_secs(5);

/// A record, and where it was.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) record: KafkaRecord,
    pub(super) offset: i64,
}

impl Fetched {
    fn bytes(&self) -> usize {
        self.record.payload() + RECORD_BYTES
    }
}

/// What is next for the reader.
#[derive(Debug)]
pub(super) enum Next {
    Record(Fetched),
    /// No record is at hand.
    Nothing {
        /// The position, which is also past what holds no records.
        position: i64,
        /// Whether it is known that there is none now.
        is_caught_up: bool,
    },
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    room: Notify,
    /// The next fetch waits while more bytes than these are queued.
    low_bytes: usize,
}

#[derive(Debug)]
struct State {
    records: VecDeque<Fetched>,
    bytes: usize,
    /// After the last record.
    position: i64,
    /// When the brokers last said that there are no records after the position.
    caught_up_at: Option<Instant>,
    /// Why no more records come.
    failure: Option<Error>,
    reader: Option<Waker>,
}

impl State {
    fn is_caught_up(&self) -> bool {
        self.caught_up_at.is_some_and(|at| at.elapsed() < CAUGHT_UP_FOR)
    }
}

impl Queue {
    /// Returns an empty queue of a partition that is read from `position`.
    ///
    /// * `most_bytes`: as much as is queued after a fetch, about.
    pub(super) fn new(position: i64, most_bytes: usize) -> Self {
        let records = VecDeque::new();
        let state = State { records, bytes: 0, position, caught_up_at: None, failure: None, reader: None };
        Self { state: Mutex::new(state), room: Notify::new(), low_bytes: most_bytes / 2 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes of what is queued.
    pub(super) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Takes the next record out.
    ///
    /// # Errors
    /// What the task has failed with, once all records are taken.
    pub(super) fn next(&self) -> Result<Next> {
        let mut state = self.state();
        let Some(fetched) = state.records.pop_front() else {
            let is_caught_up = state.is_caught_up();
            return match &state.failure {
                Some(error) => Err(error.clone()),
                None => Ok(Next::Nothing { position: state.position, is_caught_up }),
            };
        };
        let before = state.bytes;
        state.bytes = before.saturating_sub(fetched.bytes());
        if before > self.low_bytes && state.bytes <= self.low_bytes {
            self.room.notify_one();
        }
        Ok(Next::Record(fetched))
    }

    /// Returns `Ready` if there is more to know for a reader at `position`.
    ///
    /// * `knows_caught_up`: whether it knows that there are no records now.
    pub(super) fn poll_ready(&self, context: &Context<'_>, position: i64, knows_caught_up: bool) -> Poll<()> {
        let mut state = self.state();
        let has_caught_up = !knows_caught_up && state.is_caught_up();
        if has_caught_up || !state.records.is_empty() || state.position > position || state.failure.is_some() {
            return Poll::Ready(());
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until there is room for a fetch. Returns whether it had to wait.
    pub(super) async fn wait_for_room(&self) -> bool {
        let mut has_waited = false;
        while self.bytes() > self.low_bytes {
            self.room.notified().await;
            has_waited = true;
        }
        has_waited
    }

    /// Adds what was fetched.
    ///
    /// * `position`: after it.
    /// * `is_caught_up`: whether the brokers have said just now that there are no records after it.
    pub(super) fn add(&self, fetched: impl IntoIterator<Item = Fetched>, position: i64, is_caught_up: bool) {
        self.change(|state| {
            for fetched in fetched {
                state.bytes += fetched.bytes();
                state.records.push_back(fetched);
            }
            if is_caught_up {
                state.caught_up_at = Some(Instant::now());
            } else if position > state.position {
                state.caught_up_at = None;
            }
            state.position = position;
        });
    }

    /// Ends the queue. The first reason counts.
    pub(super) fn fail(&self, error: Error) {
        self.change(|state| {
            state.failure.get_or_insert(error);
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.state();
            change(&mut state);
            state.reader.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    fn fetched(offset: i64) -> Fetched {
        Fetched { record: KafkaRecord::default(), offset }
    }

    fn is_ready(queue: &Queue, position: i64, knows_caught_up: bool) -> bool {
        queue.poll_ready(&Context::from_waker(Waker::noop()), position, knows_caught_up).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_a_while() {
        let queue = Queue::new(5, 1 << 20);
        let is_caught_up = || matches!(queue.next().unwrap(), Next::Nothing { position: 5, is_caught_up: true });
        assert!(!is_caught_up() && !is_ready(&queue, 5, false), "nothing is known yet");
        queue.add([], 5, true);
        assert!(is_caught_up() && is_ready(&queue, 5, false) && !is_ready(&queue, 5, true));
        tokio::time::advance(CAUGHT_UP_FOR).await;
        assert!(!is_caught_up() && !is_ready(&queue, 5, false));
        queue.add([], 5, true);
        assert!(is_caught_up());
        queue.add([], 7, false);
        assert!(matches!(queue.next().unwrap(), Next::Nothing { position: 7, is_caught_up: false }));
        assert!(is_ready(&queue, 5, true), "the position has moved");
    }

    #[tokio::test]
    async fn a_failure_comes_after_the_records() {
        let queue = Queue::new(0, 1 << 20);
        queue.add([fetched(0)], 1, false);
        queue.fail(Error::input("first"));
        queue.fail(Error::unavailable("second"));
        assert!(matches!(queue.next().unwrap(), Next::Record(Fetched { offset: 0, .. })));
        for _ in 0..2 {
            assert_eq!(queue.next().unwrap_err().kind(), ErrorKind::Input);
        }
        assert!(is_ready(&queue, 1, true));
    }

    #[tokio::test]
    async fn a_fetch_waits_until_half_is_read() {
        let queue = Queue::new(0, 4 * RECORD_BYTES);
        queue.add((0..4).map(fetched), 4, true);
        assert_eq!(queue.bytes(), 4 * RECORD_BYTES);
        let mut waiting = Box::pin(queue.wait_for_room());
        let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        for _ in 0..2 {
            assert!(poll().is_pending());
            queue.next().unwrap();
        }
        assert_eq!(poll(), Poll::Ready(true));
        drop(waiting);
        assert!(!queue.wait_for_room().await);
    }
}
