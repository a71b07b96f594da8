//! An engine on one thread that never blocks on state: each record waits in a queue until its key group is loaded, while
//! the thread runs other work.
//!
//! ```sh
//! cargo run --example ready
//! ```

#![expect(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::collections::VecDeque;

use alluvium::prelude::*;
use alluvium::{JobSettings, ReadyGuard, RestoreMode, Result};
use futures_util::stream::{FuturesOrdered, StreamExt as _};

/// Records that wait for their groups at a time.
const WINDOW: usize = 64;

const RECORDS: u64 = 20_000;

/// Opens the job and restores its only subtask: with state, all its key groups are absent at first.
async fn open(store: &Store) -> Result<(Job, Task<LogBackend>, ValueState<u64, Fixed>)> {
    // The default restores eagerly on a runtime of one thread, where a read could not wait for its group.
    let settings = JobSettings::default().with(|it| it.restore = RestoreMode::Lazy);
    let operator = OperatorSpec::new(OperatorId(1), "count", 1).keyed_by(Schema::new("u64le"));
    let mut job = JobBuilder::new(store.clone()).settings(settings).operator(operator).open().await?;
    let mut seat = job.take_seats().remove(0);
    let count = seat.tables().value("count", Fixed)?;
    Ok((job, seat.restore(LogBackend::new).await?, count))
}

/// Processes the records in order. A record is applied once its group is loaded, under a guard that keeps the group there.
async fn process(task: &mut Task<LogBackend>, count: &ValueState<u64, Fixed>) -> Result<()> {
    let mut records: VecDeque<u64> = (0..RECORDS).collect();
    let mut waiting = FuturesOrdered::new();
    loop {
        while waiting.len() < WINDOW
            && let Some(record) = records.pop_front()
        {
            let key = key(record).to_le_bytes();
            let located = task.state().locate(&key)?;
            let ready = task.ready(&[located]);
            waiting.push_back(async move { ready.await.map(|guard| (record, guard)) });
        }
        let Some(next) = waiting.next().await else { return Ok(()) };
        let (record, _guard): (u64, ReadyGuard) = next?;
        task.state().set_key(&key(record).to_le_bytes())?;
        count.update(task.state(), |count| *count = Some(count.unwrap_or(0) + 1))?;
    }
}

fn key(record: u64) -> u64 {
    record.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52
}

async fn checkpoint(job: &Job, task: &mut Task<LogBackend>) -> Result<()> {
    let barrier = job.trigger_when_possible().await?;
    task.barrier(barrier, Timestamp::MIN, Vec::new())?;
    println!("committed: {:?}", job.wait(barrier).await?);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let store = Store::open("memory:///", &"counts".parse()?, TokioRuntime::current())?;
    for _ in 0..2 {
        let (job, mut task, count) = open(&store).await?;
        println!("absent at first: {}", task.state().backend().absent());
        process(&mut task, &count).await?;
        // Key groups that no record has touched may still be absent: the checkpoint lists their segments again.
        checkpoint(&job, &mut task).await?;
        let progress = task.restore_progress();
        println!("loaded {} of {} restored key groups", progress.loaded_groups, progress.groups);
    }
    Ok(())
}
