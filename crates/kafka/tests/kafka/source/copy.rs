//! From one topic to another, exactly once.

use alluvium::sink::{Sink, SinkSettings};
use alluvium::source::{SourceReader, SourceSettings};
use alluvium::{Error, Job, JobBuilder, LogBackend, OperatorSpec, Task};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::{Gate, store};
use futures_util::future::join_all;

use super::*;

const OUTPUT: &str = "copies";
const PARTITIONS: i32 = 4;

/// A job that copies records from topic to topic, each subtask those of its partitions.
struct Copying {
    job: Job,
    subtasks: Vec<Copier>,
}

struct Copier {
    reader: SourceReader<KafkaSource>,
    sink: Sink,
    task: Task<LogBackend>,
}

struct Place {
    gate: Arc<Gate>,
    broker: Broker,
    written: Vec<String>,
}

impl Place {
    fn new(version: i16) -> Self {
        let broker = partitioned(version, PARTITIONS);
        broker.create_topic(OUTPUT, PARTITIONS);
        Self { gate: Gate::new(), broker, written: Vec::new() }
    }

    async fn try_open(&self, parallelism: u32) -> Result<Copying> {
        let operator = OperatorSpec::new(OperatorId(1), "copy", parallelism);
        let mut job = JobBuilder::new(store(&self.gate.objects())).operator(operator).open().await?;
        let mut subtasks = Vec::new();
        for mut seat in job.take_seats() {
            let target =
                KafkaTarget::new(KafkaTargetSettings::new(KafkaConnection::new(self.broker.address()), OUTPUT));
            let sink = seat.add_sink("out", Arc::new(target?), SinkSettings::default())?;
            let reader = seat.open_source("in", source(&self.broker, |_| ()), SourceSettings::default()).await?;
            let task = seat.restore(LogBackend::new).await?;
            subtasks.push(Copier { reader, sink, task });
        }
        Ok(Copying { job, subtasks })
    }

    async fn open(&self, parallelism: u32) -> Copying {
        loop {
            match self.try_open(parallelism).await {
                Ok(job) => return job,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain()),
            }
        }
    }

    /// Writes numbers to one partition: without a transaction, or in one that commits or aborts.
    async fn write(&mut self, rng: &mut Rng) {
        let partition = i32::try_from(rng.below(4)).unwrap();
        let numbers = self.written.len()..self.written.len() + rng.index(6);
        let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
        let texts: Vec<_> = numbers.iter().map(String::as_str).collect();
        match rng.below(3) {
            0 => write(&self.broker, partition, &numbers).await,
            1 if !texts.is_empty() => transact(&self.broker, partition, &texts, Some(true)).await,
            _ => return transact(&self.broker, partition, &["aborted"], Some(false)).await,
        }
        self.written.extend(numbers);
    }
}

impl Copying {
    /// Copies up to `most` records for each subtask, of those that are at hand.
    fn copy(&mut self, most: u64) -> Result<()> {
        for Copier { reader, sink, .. } in &mut self.subtasks {
            for _ in 0..most {
                if reader.advance()? != Advance::Record {
                    break;
                }
                let (_, split) = reader.current().expect("a record");
                let record = KafkaRecord { partition: None, ..split.current().expect("a record").clone() };
                sink.emit(&record.to_bytes())?;
            }
        }
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<Epoch> {
        let barrier = self.job.trigger()?.ok_or_else(|| Error::limit("too many checkpoints in flight"))?;
        for Copier { reader, task, .. } in &mut self.subtasks {
            let (watermark, positions) = (reader.watermark(), reader.opaque()?);
            task.barrier(barrier, watermark, vec![positions])?;
        }
        self.job.wait(barrier).await?;
        Ok(barrier.epoch)
    }

    async fn publish(&mut self) -> Result<()> {
        let epoch = self.checkpoint().await?;
        for Copier { sink, .. } in &self.subtasks {
            sink.published(epoch).await?;
        }
        Ok(())
    }
}

/// Writes, copies and takes checkpoints at random. Five times, at any point of a checkpoint and its publication, the job is dropped, or
/// the broker crashes, or both.
async fn history(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut place = Place::new(VERSIONS[usize::try_from(seed % 2).unwrap()]);
    let mut job = place.open(2).await;
    for parallelism in [3, 1, 2, 3, 1] {
        for _ in 0..rng.within(4, 12) {
            match rng.below(5) {
                0 | 1 => place.write(&mut rng).await,
                2 => drop(job.checkpoint().await.unwrap()),
                3 => job.publish().await.unwrap(),
                _ => job.copy(rng.below(8)).unwrap(),
            }
        }
        {
            job.copy(3).unwrap();
            let mut publication = Box::pin(job.publish());
            for _ in 0..rng.below(30) {
                if poll_once(&mut publication).await.is_some() {
                    break;
                }
            }
        }
        if rng.below(2) == 0 {
            place.broker.crash(0);
        }
        if rng.below(3) > 0 {
            drop(job);
            place.broker.restart(0);
            job = place.open(parallelism).await;
        } else {
            place.broker.restart(0);
        }
    }
    within(async {
        while place.broker.values(OUTPUT).len() < place.written.len() {
            job.copy(u64::MAX).unwrap();
            job.publish().await.unwrap();
        }
        // What would come twice comes now.
        asked(&place.broker, ApiKey::Fetch, 1).await;
        job.copy(u64::MAX).unwrap();
        job.publish().await.unwrap();
    })
    .await;
    let (mut read, mut expected) = (place.broker.values(OUTPUT), place.written);
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_record_is_copied_once_whatever_fails() {
    join_all((0..4).map(history)).await;
}
