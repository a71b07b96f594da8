//! A job's life: open, process, barrier, background checkpoint, crash, restore at another parallelism.
//!
//! ```sh
//! cargo run --example quickstart
//! ```

#![expect(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::collections::BTreeMap;

use alluvium::Result;
use alluvium::prelude::*;

const WORDS: &str = "the river lays its load down in layers and the layers keep what the river was";

/// A minimal engine: routes each word to the subtask that owns its key group.
struct Engine {
    job: Job,
    tasks: Vec<Task<LogBackend>>,
    counts: Vec<ValueState<u64, Fixed>>,
    parallelism: u32,
}

impl Engine {
    async fn open(store: Store, parallelism: u32) -> Result<Self> {
        let operator = OperatorSpec::new(OperatorId(1), "count", parallelism).keyed_by(Schema::new("utf8"));
        let mut job = JobBuilder::new(store).operator(operator).open().await?;
        let (mut tasks, mut counts) = (Vec::new(), Vec::new());
        for seat in job.take_seats() {
            let mut task = seat.restore(LogBackend::new).await?;
            counts.push(task.state().value("count", Fixed)?);
            tasks.push(task);
        }
        Ok(Self { job, tasks, counts, parallelism })
    }

    fn process(&mut self, word: &str) -> Result<()> {
        let at = self.job.subtask_of(word.as_bytes(), self.parallelism);
        if let (Some(task), Some(counts)) = (self.tasks.get_mut(at), self.counts.get(at)) {
            task.state().set_key(word.as_bytes())?;
            counts.update(task.state(), |count| *count = Some(count.unwrap_or(0) + 1))?;
        }
        Ok(())
    }

    /// Ends an epoch. The tasks could continue at once: only the caller waits here.
    async fn checkpoint(&mut self, position: u64) -> Result<Option<ManifestId>> {
        let Some(barrier) = self.job.trigger()? else { return Ok(None) };
        for (at, task) in self.tasks.iter_mut().enumerate() {
            // The source's position is committed together with the state it produced.
            let position = Opaque::new(OpaqueRole::Source, "words", position.to_le_bytes().to_vec());
            let opaques = if at == 0 { vec![position] } else { vec![] };
            task.barrier(barrier, Timestamp::MIN, opaques)?;
        }
        self.job.wait(barrier).await
    }

    fn content(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut content = BTreeMap::new();
        for (task, counts) in self.tasks.iter_mut().zip(&self.counts) {
            let groups = task.groups().clone();
            counts.scan(task.state(), &groups, |key, _, count| {
                content.insert(String::from_utf8_lossy(key).into_owned(), count);
                true
            })?;
        }
        Ok(content)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = Store::open("memory:///", &"words".parse()?, TokioRuntime::current())?;

    let mut engine = Engine::open(store.clone(), 2).await?;
    for word in WORDS.split(' ').take(10) {
        engine.process(word)?;
    }
    let checkpoint = engine.checkpoint(10).await?;
    println!("committed: {checkpoint:?}");
    engine.process("lost")?;
    drop(engine);
    println!("crashed: words after the checkpoint are lost, and read again");

    let mut engine = Engine::open(store, 3).await?;
    println!("attempt {} resumes with three subtasks", engine.job.attempt());
    for word in WORDS.split(' ').skip(10) {
        engine.process(word)?;
    }
    for (word, count) in engine.content()? {
        println!("{count} {word}");
    }
    Ok(())
}
