//! A job that copies numbers to a sink.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use alluvium::sink::Sink;
use alluvium::{
    Barrier, Epoch, Error, ErrorKind, Job, JobBuilder, LogBackend, Opaque, OpaqueRole, OperatorId, OperatorSpec,
    Redistribution, RestoreFrom, Result, Seat, Task, Timestamp,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use object_store::ObjectStore;

use crate::store;

/// The operator with the sink.
pub const COPY: OperatorId = OperatorId(3);

/// A job that copies the numbers 0, 1, 2, ... to a sink: number `n` through subtask `n % parallelism`. Its position is in its
/// checkpoints.
#[derive(Debug)]
pub struct Copying {
    pub job: Job,
    pub tasks: Vec<Task<LogBackend>>,
    pub sinks: Vec<Sink>,
    /// The next number.
    pub next: u64,
}

impl Copying {
    /// * `register`: adds the sink to a seat.
    ///
    /// # Errors
    /// From the job or the sink's target.
    pub async fn open(
        objects: &Arc<dyn ObjectStore>,
        parallelism: u32,
        from: RestoreFrom,
        register: impl Fn(&mut Seat) -> Result<Sink>,
    ) -> Result<Self> {
        let operator = OperatorSpec::new(COPY, "copy", parallelism);
        let mut job = JobBuilder::new(store(objects)).operator(operator).restore_from(from).open().await?;
        let (mut tasks, mut sinks, mut next) = (Vec::new(), Vec::new(), 0);
        for mut seat in job.take_seats() {
            let position = seat.opaques().iter().find(|opaque| opaque.role == OpaqueRole::Source);
            if let Some(position) = position {
                let item = position.items()?.concat();
                next = u64::from_le_bytes(item.as_slice().try_into().unwrap());
            }
            sinks.push(register(&mut seat)?);
            tasks.push(seat.restore(LogBackend::new).await?);
        }
        Ok(Self { job, tasks, sinks, next })
    }

    /// # Errors
    /// As [`Sink::emit`].
    pub fn emit(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let at = usize::try_from(self.next).unwrap() % self.sinks.len();
            self.sinks[at].emit(self.next.to_string().as_bytes())?;
            self.next += 1;
        }
        Ok(())
    }

    pub fn position(&self) -> Opaque {
        let opaque = Opaque::new(OpaqueRole::Source, "position", self.next.to_le_bytes().to_vec());
        Opaque { redistribution: Redistribution::Broadcast, ..opaque }
    }

    /// # Errors
    /// From the job.
    pub fn trigger(&mut self) -> Result<Barrier> {
        self.job.trigger()?.ok_or_else(|| Error::limit("too many checkpoints in flight"))
    }

    /// # Errors
    /// From the job.
    pub fn barrier(&mut self) -> Result<Epoch> {
        let barrier = self.trigger()?;
        let position = self.position();
        for task in &mut self.tasks {
            task.barrier(barrier, Timestamp::MIN, vec![position.clone()])?;
        }
        Ok(barrier.epoch)
    }

    /// Ends an epoch that its last subtask declines.
    ///
    /// # Errors
    /// From the job.
    pub async fn give_up(&mut self) -> Result<()> {
        let barrier = self.trigger()?;
        let position = self.position();
        let last = self.tasks.len() - 1;
        for task in &mut self.tasks[..last] {
            task.barrier(barrier, Timestamp::MIN, vec![position.clone()])?;
        }
        self.tasks[last].decline(barrier, "a test")?;
        assert_eq!(self.job.wait(barrier.epoch).await?, None);
        Ok(())
    }

    /// # Errors
    /// From the job.
    pub async fn checkpoint(&mut self) -> Result<Epoch> {
        let epoch = self.barrier()?;
        assert!(self.job.wait(epoch).await?.is_some());
        Ok(epoch)
    }

    /// # Errors
    /// From the job or the sink's target.
    pub async fn publish(&mut self) -> Result<Epoch> {
        let epoch = self.checkpoint().await?;
        self.published(epoch).await?;
        Ok(epoch)
    }

    /// # Errors
    /// From the sink's target.
    pub async fn published(&self, epoch: Epoch) -> Result<()> {
        for sink in &self.sinks {
            sink.published(epoch).await?;
        }
        Ok(())
    }
}

/// Opens a job as often as its sink's target is away.
pub async fn open_at_last(open: impl AsyncFn() -> Result<Copying>) -> Copying {
    loop {
        match open().await {
            Ok(job) => return job,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}"),
        }
    }
}

/// Returns the numbers that a target has, in its order.
pub fn numbers(records: &[Bytes]) -> Vec<u64> {
    records.iter().map(|record| std::str::from_utf8(record).unwrap().parse().unwrap()).collect()
}

/// Returns whether `check` panics.
pub async fn panics(check: impl Future<Output = ()>) -> bool {
    AssertUnwindSafe(check).catch_unwind().await.is_err()
}
