//! Joins two inputs in windows, exactly once: NEXMark's persons and the auctions they open within 10 seconds of event
//! time (its query 8). Kill it at any time and restart it at any parallelism: the output is the same.
//!
//! ```sh
//! cargo run --release --example windowed_join -- FOLDER [EVENTS] [PARALLELISM]
//! ```
//!
//! | state | kind | per |
//! |---|---|---|
//! | `person` | value: the name | person and window |
//! | `auctions` | ordered map: number to item | person and window |
//! | `ends` | timers, event time | person and window |
//! | `rows` | operator list: output since the last checkpoint | subtask |
//!
//! Output is published after its checkpoint commits, under the epoch's name. A restore of that checkpoint publishes the
//! same rows again under the same name.

#![expect(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::fs;
use std::path::{Path, PathBuf};

use alluvium::prelude::*;
use alluvium::{Error, Result};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Event, EventType};

const JOIN: OperatorId = OperatorId(1);
const WINDOW_MS: i64 = 10_000;
const EVENTS_PER_CHECKPOINT: u64 = 2_000;

/// The example's arguments.
#[derive(Debug)]
pub struct Options {
    /// Folder for state and output.
    pub folder: PathBuf,
    /// Number of generated events to join.
    pub events: u64,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Crash before this event.
    pub crash_at: Option<u64>,
}

/// One subtask: its keyed state and the handles to it.
struct Subtask {
    task: Task<LogBackend>,
    person: ValueState<String, Utf8>,
    auctions: OrderedMapState<u64, String, Ordered, Utf8>,
    ends: Timers,
    rows: OperatorList<String, Utf8>,
    /// Rows for the next checkpoint.
    fresh: Vec<String>,
}

impl Subtask {
    async fn restore(mut seat: Seat) -> Result<Self> {
        // Tables are declared before state is loaded, so that a mismatch with the stored tables fails at once.
        let windows = Schema::new("ordered:i64");
        let tables = seat.tables();
        let person = tables.value(TableOptions::new("person").namespaced(windows.clone()), Utf8)?;
        let auctions = tables.ordered_map(TableOptions::new("auctions").namespaced(windows.clone()), Ordered, Utf8)?;
        let ends = tables.timers("ends", TimeDomain::Event, windows)?;
        let mut task = seat.restore(LogBackend::new).await?;
        let ends = ends.load(task.state())?;
        let rows = task.operator_state().list("rows", Utf8)?;
        Ok(Self { task, person, auctions, ends, rows, fresh: Vec::new() })
    }

    /// Joins an event of the current key, the person.
    fn process(&mut self, event: &Event, window: i64) -> Result<()> {
        let (namespace, end) = (encoded(window)?, Timestamp::from_millis(window + WINDOW_MS));
        let state = self.task.state();
        self.ends.register(state, &namespace, end)?;
        let mut state = state.in_namespace(&namespace);
        match event {
            Event::Person(person) => self.person.put(&mut state, &person.name),
            Event::Auction(auction) => self.auctions.put(&mut state, &(auction.id as u64), &auction.item_name),
            Event::Bid(_) => Ok(()),
        }
    }

    /// Ends the windows passed by the watermark: emits their joined rows and clears their state.
    fn advance(&mut self, watermark: Timestamp) -> Result<()> {
        while let Some(timer) = self.ends.pop_due(self.task.state(), watermark)? {
            let mut state = self.task.state().in_namespace(timer.namespace());
            if let Some(name) = self.person.read(&mut state)? {
                let window = timer.timestamp().as_millis() - WINDOW_MS;
                for (auction, item) in self.auctions.entries(&mut state)? {
                    self.fresh.push(format!("{window},{name},{auction},{item}"));
                }
            }
            self.person.clear(&mut state)?;
            self.auctions.clear(&mut state)?;
        }
        Ok(())
    }
}

fn encoded(window: i64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Ordered.encode(&window, &mut bytes)?;
    Ok(bytes)
}

/// The engine: one thread, one source, some subtasks.
struct Engine {
    job: Job,
    subtasks: Vec<Subtask>,
    folder: PathBuf,
    /// Number of events processed.
    position: u64,
}

impl Engine {
    async fn open(options: &Options) -> Result<Self> {
        let folder =
            std::path::absolute(&options.folder).map_err(|source| Error::config("folder").with_source(source))?;
        let url = format!("file://{}", folder.join("state").display());
        let store = Store::open(&url, &"join".parse()?, TokioRuntime::current())?;
        let operator = OperatorSpec::new(JOIN, "join", options.parallelism).keyed_by(Schema::new("u64le"));
        let mut job = JobBuilder::new(store).operator(operator).open().await?;
        let (mut subtasks, mut position) = (Vec::new(), 0);
        for seat in job.take_seats() {
            for opaque in seat.opaques().iter().filter(|opaque| opaque.role == OpaqueRole::Source) {
                position = opaque
                    .items()?
                    .first()
                    .and_then(|bytes| Some(u64::from_le_bytes(bytes[..].try_into().ok()?)))
                    .ok_or_else(|| Error::corrupt("position of the source"))?;
            }
            subtasks.push(Subtask::restore(seat).await?);
        }
        let mut engine = Self { job, subtasks, folder, position };
        if let Some(epoch) = engine.job.restored().map(|restored| restored.manifest.epoch) {
            engine.publish(epoch)?;
        }
        Ok(engine)
    }

    fn process(&mut self, event: &Event) -> Result<()> {
        let (key, time) = match event {
            Event::Person(person) => (person.id, person.date_time),
            Event::Auction(auction) => (auction.seller, auction.date_time),
            Event::Bid(_) => return Ok(()),
        };
        let (key, time) = ((key as u64).to_le_bytes(), i64::try_from(time).unwrap_or(i64::MAX));
        // The generator's events are in order: the watermark is the last event's time.
        self.subtasks.iter_mut().try_for_each(|subtask| subtask.advance(Timestamp::from_millis(time)))?;
        let parallelism = u32::try_from(self.subtasks.len()).unwrap_or(u32::MAX);
        let at = self.job.subtask_of(&key, parallelism);
        let Some(subtask) = self.subtasks.get_mut(at) else { return Ok(()) };
        subtask.task.state().set_key(&key)?;
        subtask.process(event, time - time.rem_euclid(WINDOW_MS))
    }

    /// Ends an epoch: commits rows, source position and keyed state together, and only then publishes the rows. The
    /// subtasks could continue during the commit; this example waits.
    async fn checkpoint(&mut self) -> Result<()> {
        let barrier = self.job.trigger_when_possible().await?;
        for (at, Subtask { task, rows, fresh, .. }) in self.subtasks.iter_mut().enumerate() {
            rows.update(task.operator_state(), &std::mem::take(fresh))?;
            let position = Opaque::new(OpaqueRole::Source, "events", self.position.to_le_bytes().to_vec());
            task.barrier(barrier, Timestamp::MIN, if at == 0 { vec![position] } else { vec![] })?;
        }
        match self.job.wait(barrier).await? {
            Some(_) => self.publish(barrier.epoch),
            None => Err(Error::unavailable("a checkpoint was aborted: restart to resume from the last one")),
        }
    }

    /// Writes the rows of a committed epoch under its name, atomically.
    fn publish(&mut self, epoch: Epoch) -> Result<()> {
        let mut rows = Vec::new();
        for Subtask { task, rows: list, .. } in &mut self.subtasks {
            rows.extend(list.get(task.operator_state())?);
        }
        rows.sort();
        let failed = |source| Error::unavailable("output cannot be written").with_source(source);
        let text: String = rows.iter().flat_map(|row| [row.as_str(), "\n"]).collect();
        let staged = self.folder.join(".staged");
        fs::write(&staged, text).map_err(failed)?;
        fs::rename(&staged, self.folder.join(format!("part-{:06}.csv", epoch.0))).map_err(failed)
    }
}

/// Runs the join from its last checkpoint.
///
/// # Errors
/// `Stopped` at the requested crash; otherwise the job's error.
pub async fn run(options: Options) -> Result<()> {
    let mut engine = Engine::open(&options).await?;
    println!("attempt {} resumes at event {}", engine.job.attempt(), engine.position);
    let config = NexmarkConfig { base_time: 1_436_918_400_000, ..NexmarkConfig::default() };
    let events = EventGenerator::new(config).with_offset(engine.position);
    for event in events.take(usize::try_from(options.events.saturating_sub(engine.position)).unwrap_or(usize::MAX)) {
        if options.crash_at == Some(engine.position) {
            return Err(Error::stopped("crashed as requested"));
        }
        if event.event_type() != EventType::Bid {
            engine.process(&event)?;
        }
        engine.position += 1;
        if engine.position % EVENTS_PER_CHECKPOINT == 0 {
            engine.checkpoint().await?;
        }
    }
    engine.subtasks.iter_mut().try_for_each(|subtask| subtask.advance(Timestamp::MAX))?;
    engine.checkpoint().await
}

/// Returns the published rows, sorted.
///
/// # Errors
/// `Unavailable` if the folder cannot be read.
pub fn published(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::unavailable("output cannot be read").with_source(source);
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            rows.extend(fs::read_to_string(path).map_err(failed)?.lines().map(str::to_owned));
        }
    }
    rows.sort();
    Ok(rows)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or_else(|| Error::usage("windowed_join FOLDER [EVENTS] [PARALLELISM]"))?;
    let mut number = |default| match args.next() {
        Some(text) => text.parse().map_err(|_| Error::usage("not a number").with("argument", text)),
        None => Ok(default),
    };
    let (events, parallelism) = (number(500_000)?, number(2)?);
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).map_err(|source| Error::config("folder cannot be made").with_source(source))?;
    let parallelism = u32::try_from(parallelism).map_err(|_| Error::usage("parallelism is too large"))?;
    run(Options { folder: folder.clone(), events, parallelism, crash_at: None }).await?;
    println!("{} rows in {}", published(&folder)?.len(), folder.display());
    Ok(())
}

/// Crashed repeatedly and restarted at another parallelism each time, the example publishes exactly the rows of an
/// in-memory join.
#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alluvium::ErrorKind;

    use super::*;

    const EVENTS: u64 = 200_000;

    /// Persons and the auctions they open, per window.
    fn expected() -> Vec<String> {
        let config = NexmarkConfig { base_time: 1_436_918_400_000, ..NexmarkConfig::default() };
        let (mut persons, mut auctions) = (BTreeMap::new(), Vec::new());
        for event in EventGenerator::new(config).take(usize::try_from(EVENTS).unwrap()) {
            let window = |time: u64| time - time % WINDOW_MS.unsigned_abs();
            match event {
                Event::Person(person) => drop(persons.insert((window(person.date_time), person.id), person.name)),
                Event::Auction(auction) => auctions.push((window(auction.date_time), auction)),
                Event::Bid(_) => {}
            }
        }
        let row = |(window, auction): &(u64, nexmark::event::Auction)| {
            let name = persons.get(&(*window, auction.seller))?;
            Some(format!("{window},{name},{},{}", auction.id, auction.item_name))
        };
        let mut rows: Vec<_> = auctions.iter().filter_map(row).collect();
        rows.sort();
        rows
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn crashes_do_not_show_in_the_output() -> Result<()> {
        let expected = expected();
        assert!(expected.len() > 200, "only {} rows", expected.len());
        let folder = tempfile::tempdir().unwrap();
        let options =
            |parallelism, crash_at| Options { folder: folder.path().to_owned(), events: EVENTS, parallelism, crash_at };
        for (parallelism, crash_at) in [(1, 1_000), (2, 31_999), (5, 32_001), (3, 90_500), (8, 150_000)] {
            let crashed = run(options(parallelism, Some(crash_at))).await.unwrap_err();
            assert_eq!(crashed.kind(), ErrorKind::Stopped);
        }
        run(options(2, None)).await?;
        assert!(published(folder.path())? == expected, "other rows than a join in memory gives");
        Ok(())
    }
}
