//! Reading one partition.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use alluvium::Result;
use alluvium::source::{Advance, Position, SplitReader, hash_of};
use futures_util::future::{AbortHandle, abortable};

use super::fetch::Fetcher;
use super::partition::{Bounds, Partition};
use super::position::Place;
use super::queue::{Fetched, Next, Queue};
use crate::record::KafkaRecord;

/// Reads one partition of a topic. Dropping it ends the task that fetches for it.
pub struct KafkaReader {
    queue: Arc<Queue>,
    fetching: AbortHandle,
    topic_id: [u8; 16],
    /// The offset after the current record, and after what holds no records.
    next: i64,
    /// Where reading ends, if it does.
    end: Option<i64>,
    found: Advance,
    current: Option<Fetched>,
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { next, end, found, .. } = self;
        let mut shown = f.debug_struct("KafkaReader");
        shown.field("next", next).field("end", end).field("found", found).finish_non_exhaustive()
    }
}

impl KafkaReader {
    /// Starts to read at `next`.
    pub(super) async fn start(partition: Partition, bounds: Bounds, next: i64) -> Result<Self> {
        let consumer = Arc::new(partition.consumer(next).await?);
        let queue = Arc::new(Queue::new(next, partition.settings.buffer_bytes));
        queue.add([], next, next >= bounds.readable_end);
        let end = partition.settings.stop_at_end.then_some(bounds.readable_end);
        let topic_id = partition.topic_id;
        let fetcher = Fetcher::new(Arc::new(partition), Arc::clone(&consumer), Arc::clone(&queue), next);
        let (work, fetching) = abortable(fetcher.run());
        spawn(async move {
            let _ended = work.await;
            if let Err(error) = consumer.close().await {
                tracing::debug!(%error, "consumer of a partition cannot be closed");
            }
        });
        Ok(Self { queue, fetching, topic_id, next, end, found: Advance::Pending, current: None })
    }

    /// Returns the last record that was read: its partition and its timestamp are set. Names of headers that are not UTF-8 have
    /// U+FFFD in place of what is not.
    ///
    /// A [`KafkaTarget`](crate::KafkaTarget) publishes it to the partition with the same number: clear
    /// [`partition`](KafkaRecord::partition) if the key is to decide.
    #[must_use]
    pub fn current(&self) -> Option<&KafkaRecord> {
        self.current.as_ref().map(|fetched| &fetched.record)
    }

    /// Returns the offset of [`current`](Self::current).
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        self.current.as_ref().map(|fetched| fetched.offset)
    }

    /// Returns about how much memory the records take that are fetched and not yet read.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.queue.bytes()
    }

    fn find(&mut self) -> Result<Advance> {
        if self.found == Advance::End {
            return Ok(Advance::End);
        }
        let is_end = |at: i64| self.end.is_some_and(|end| at >= end);
        if is_end(self.next) {
            return Ok(Advance::End);
        }
        match self.queue.next()? {
            Next::Record(fetched) if is_end(fetched.offset) => Ok(Advance::End),
            Next::Record(fetched) => {
                self.next = fetched.offset.saturating_add(1);
                self.current = Some(fetched);
                Ok(Advance::Record)
            }
            Next::Nothing { position, is_caught_up } => {
                let is_end = is_end(position);
                self.next = position;
                Ok(match is_caught_up {
                    _ if is_end => Advance::End,
                    true => Advance::CaughtUp,
                    false => Advance::Pending,
                })
            }
        }
    }
}

impl SplitReader for KafkaReader {
    fn advance(&mut self) -> Result<Advance> {
        self.found = self.find()?;
        if self.found == Advance::End {
            self.fetching.abort();
        }
        Ok(self.found)
    }

    fn position(&self) -> Result<Position> {
        Place { topic_id: self.topic_id, next: self.next }.to_position()
    }

    fn hash(&self) -> Option<u128> {
        let record = self.current()?;
        Some(hash_of([record.key.as_deref(), record.value.as_deref()]))
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.queue.poll_ready(context, self.next, self.found == Advance::CaughtUp)
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "the client runs on tokio, whatever the engine runs on")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(work));
}
