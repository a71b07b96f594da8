//! Counts the words of a file in several processes: an owner and its workers, joined by TCP. Kill any of them at any
//! time, the owner included, and start it again: each row of the output is published exactly once.
//!
//! ```sh
//! (yes "to be or not to be that is the question" | head -n 3000000; echo .) > /tmp/words.txt
//! cargo build --release --example cluster
//! alias cluster=target/release/examples/cluster
//! cluster worker 127.0.0.1:7000 file:///tmp/cluster &
//! cluster worker 127.0.0.1:7000 file:///tmp/cluster &
//! cluster owner 127.0.0.1:7000 file:///tmp/cluster 2 /tmp/words.txt /tmp/counts
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to its reader")]
#![expect(clippy::disallowed_methods, reason = "an engine sleeps and spawns on its own runtime")]

use std::fs::{self, File};
use std::future::ready;
use std::io::{BufRead as _, BufReader, Error as IoError, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::thread::current;
use std::time::Duration;

use alluvium::prelude::*;
use alluvium::{Attempt, Error, ErrorKind, Inbox, MAX_MESSAGE_BYTES, Outbox, Owner, Result};
use alluvium::{Worker, WorkerInfo, WorkerSettings};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::{UnboundedReceiverStream, WatchStream};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

const USAGE: &str = "
cluster owner ADDRESS STORE WORKERS INPUT OUTPUT
cluster worker ADDRESS STORE

  ADDRESS  where the owner listens
  STORE    where checkpoints lie, the same for all processes: file:///tmp/cluster, say
  WORKERS  how many workers a new job waits for; later, those that are there continue
  INPUT    words, as workers find the file; ends at a line that is a single dot, and may grow until then
  OUTPUT   the folder in which workers publish counts";

/// The version of the computation. The owner refuses workers that run another.
const PROGRAM: &str = "word count 1";
/// Fixed, unlike the number of workers: each subtask has a position of its own in the input, which cannot be split.
const SUBTASKS: u32 = 8;
/// A word's count is published whenever it reaches a multiple of this.
const EVERY: u64 = 10;
/// Time between checkpoints.
const INTERVAL: Duration = Duration::from_millis(100);
/// The last line of the input.
const END: &str = ".\n";

#[derive(Serialize, Deserialize)]
enum Frame<'a> {
    Message(&'a [u8]),
    Signal(Signal),
}

/// What the engine itself says over a connection.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Signal {
    /// To workers: the barrier of an attempt and epoch.
    Barrier(u64, u64),
    /// To workers: the job is complete.
    Complete,
    /// To the owner: in this attempt, a subtask has read all input and published all output.
    Done(u64),
}

/// The newest signal of the owner: a barrier subsumes those before it.
type Newest = watch::Receiver<Option<Signal>>;

/// Carries a link, and `signals`, until either side breaks it. Calls `hear` with each signal of the other side. A real
/// transport also authenticates both sides, and breaks a silent link.
async fn carry(
    stream: TcpStream,
    (mut inbox, mut outbox): (Inbox, Outbox),
    signals: impl Stream<Item = Signal>,
    hear: impl Fn(Signal),
) -> Result<()> {
    let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_MESSAGE_BYTES + 16).new_codec();
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (FramedRead::new(reader, codec.clone()), FramedWrite::new(writer, codec));
    let broken = |source: IoError| Error::stopped("the connection is broken").with_source(source);
    let invalid = |source: postcard::Error| Error::corrupt("invalid frame").with_source(source);
    let incoming = async move {
        while let Some(bytes) = reader.next().await {
            match postcard::from_bytes(&bytes.map_err(broken)?).map_err(invalid)? {
                Frame::Message(message) => inbox.receive(message)?,
                Frame::Signal(signal) => hear(signal),
            }
        }
        Err(Error::stopped("the other side has closed the connection"))
    };
    let mut signals = pin!(signals);
    let mut outgoing = pin!(async {
        loop {
            let bytes = tokio::select! {
                Some(signal) = signals.next() => postcard::to_allocvec(&Frame::Signal(signal)),
                message = outbox.next() => match message {
                    Some(message) => postcard::to_allocvec(&Frame::Message(&message)),
                    None => return Err(Error::stopped("the link is broken")),
                },
            };
            writer.send(bytes::Bytes::from(bytes.map_err(invalid)?)).await.map_err(broken)?;
        }
    });
    // Side by side: reading never waits for writing, so two sides whose buffers are full cannot wait for each other.
    tokio::select! {
        ended = &mut outgoing => ended,
        ended = incoming => {
            // The inbox is dropped, so the outbox ends after its last message, which tells a refused worker why.
            let _flushed = timeout(Duration::from_secs(1), outgoing).await;
            ended
        }
    }
}

/// The owner's process: gives each connection a link, and opens one attempt after the other.
async fn own(listen: &str, store: &str, workers: &str, payload: &str) -> Result<()> {
    let mut wanted = workers.parse().map_err(|_| Error::usage("not a number").with("argument", workers))?;
    let operator = OperatorSpec::new(OperatorId(1), "count", SUBTASKS).keyed_by(Schema::new("utf8"));
    let settings = JobSettings::default().with(|it| it.checkpoints.interval = INTERVAL);
    let builder = JobBuilder::new(open(store)?).settings(settings).program(PROGRAM).operator(operator);
    // A job that has started before continues with any number.
    wanted = if builder.peek().await?.is_some() { 1 } else { wanted };
    let owner = Arc::new(builder.owner()?);
    let mut workers = owner.watch_workers();
    let listener = TcpListener::bind(listen).await.map_err(|error| failed(error).with("address", listen))?;
    let (signals, unseen) = watch::channel(None);
    let (sender, mut heard) = mpsc::unbounded_channel();
    let accepting = Arc::clone(&owner);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let signals = WatchStream::from_changes(Newest::clone(&unseen)).filter_map(ready);
            let sender = sender.clone();
            // Fails once the owner has ended.
            let hear = move |signal| sender.send(signal).unwrap_or_default();
            tokio::spawn(carry(stream, accepting.connect(), signals, hear));
        }
    });
    loop {
        println!("waiting for {wanted} or more workers at {listen}");
        drop(workers.wait_for(|workers| workers.len() >= wanted).await);
        let ended = attempt(&owner, payload, &mut workers, &signals, &mut heard).await;
        // Workers that come or go together share a new attempt.
        sleep(Duration::from_millis(100)).await;
        match ended {
            Ok(()) => break,
            // The next attempt may do better: the workers have changed, or the store did not answer.
            Err(error) if matches!(error.kind(), ErrorKind::Stopped | ErrorKind::Unavailable) => again(&error),
            Err(error) => return Err(error),
        }
        wanted = 1;
    }
    signals.send_replace(Some(Signal::Complete));
    let _or_hung = timeout(Duration::from_secs(10), workers.wait_for(Vec::is_empty)).await;
    Ok(())
}

fn again(error: &Error) {
    println!("again: {}", error.chain());
}

/// Runs the job with the workers that are connected now, until it is complete.
async fn attempt(
    owner: &Owner,
    payload: &str,
    workers: &mut watch::Receiver<Vec<WorkerInfo>>,
    signals: &watch::Sender<Option<Signal>>,
    heard: &mut mpsc::UnboundedReceiver<Signal>,
) -> Result<()> {
    let present = workers.borrow_and_update().clone();
    let job = owner.open(&owner.seat_evenly(&present), payload.to_owned()).await?;
    let from = job.restored().map_or_else(|| "the start".into(), |from| format!("checkpoint {}", from.id.seq));
    println!("attempt {} from {from} with {} workers", job.attempt(), present.len());
    let (mut progress, mut clock, mut done) = (job.watch(), interval(Duration::from_millis(5)), 0);
    // The first checkpoint after the end of the input is the last: subtasks are done once it is committed.
    while done < SUBTASKS {
        tokio::select! {
            _ = clock.tick() => if job.is_due() && let Some(barrier) = job.trigger()? {
                signals.send_replace(Some(Signal::Barrier(barrier.attempt.0, barrier.epoch.0)));
            },
            Some(Signal::Done(attempt)) = heard.recv() => done += u32::from(attempt == job.attempt().0),
            // An engine in less of a hurry takes a checkpoint before it lets a new worker in.
            _ = workers.changed() => return Err(Error::stopped("the workers have changed")),
            _ = progress.changed() => if let Some(error) = &progress.borrow_and_update().failed {
                return Err(error.clone());
            },
        }
    }
    println!("complete after {} checkpoints of attempt {}", job.progress().completed, job.attempt());
    Ok(())
}

/// A worker's process: connects to the owner, again and again, and runs the subtasks that it is given.
async fn work(address: &str, store: &str) -> Result<()> {
    let host = format!("worker-{}", std::process::id());
    let settings = WorkerSettings::default().with(|it| (it.host, it.program) = (host, PROGRAM.into()));
    let mut worker = Worker::new(open(store)?, settings);
    loop {
        let ended = match TcpStream::connect(address).await {
            Ok(stream) => session(&mut worker, stream).await,
            Err(error) => Err(Error::stopped("no owner").with_source(error)),
        };
        match ended {
            Err(error) if error.kind() == ErrorKind::Stopped => again(&error),
            ended => return ended,
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Works for the owner at the other end until the job is complete. Returns `Stopped` if the connection breaks before.
async fn session(worker: &mut Worker, stream: TcpStream) -> Result<()> {
    let (reports, reported) = mpsc::unbounded_channel();
    let (signals, heard) = watch::channel(None);
    let hear = move |signal| signals.send_modify(|newest| *newest = Some(signal));
    let mut carried = pin!(carry(stream, worker.connect(), UnboundedReceiverStream::new(reported), hear));
    let mut complete = heard.clone();
    let mut subtasks = JoinSet::new();
    let panicked = |source: JoinError| Error::input("a subtask panicked").with_source(source);
    loop {
        tokio::select! {
            assigned = worker.assigned() => match assigned {
                Ok(assignment) => {
                    println!("attempt {} with {} subtasks", assignment.attempt, assignment.seats.len());
                    // Ends and drops those of the attempt before.
                    subtasks = JoinSet::new();
                    for seat in assignment.seats {
                        let (heard, reports) = (heard.clone(), reports.clone());
                        let (attempt, payload) = (assignment.attempt, assignment.payload.clone());
                        subtasks.spawn(async move {
                            Subtask::restore(seat, &payload).await?.run(attempt, heard, reports).await
                        });
                    }
                }
                // Another program or store than the owner's.
                Err(error) if error.kind() == ErrorKind::Config => return Err(error),
                Err(error) => again(&error),
            },
            Some(ended) = subtasks.join_next() => match ended.map_err(panicked).flatten() {
                // The attempt has ended, and another follows.
                Err(error) if matches!(error.kind(), ErrorKind::Stopped | ErrorKind::Fenced) => {}
                // This process gives up, so that the owner gives its seats to others.
                ended => return ended,
            },
            ended = &mut carried => return ended,
            Ok(_) = complete.wait_for(|signal| *signal == Some(Signal::Complete)) => return Ok(()),
        }
    }
}

struct Subtask {
    task: Task<LogBackend>,
    counts: ValueState<u64, Fixed>,
    input: BufReader<File>,
    /// The next line, as far as it is written, and where it begins.
    line: String,
    position: u64,
    /// Rows since the last barrier.
    rows: String,
    /// Parts that wait for their commit: epoch, name, rows.
    prepared: Vec<(Epoch, String, String)>,
    output: PathBuf,
}

impl Subtask {
    async fn restore(seat: Seat, payload: &[u8]) -> Result<Self> {
        let payload = String::from_utf8_lossy(payload);
        let (input, output) = payload.split_once('\n').ok_or_else(|| Error::corrupt("payload"))?;
        fs::create_dir_all(output).map_err(failed)?;
        let mut position = 0;
        for opaque in seat.opaques() {
            let content = opaque.items()?.concat();
            match opaque.role {
                // Committed, and perhaps published before the failure: publishing it again changes nothing.
                OpaqueRole::SinkPrepared => publish(output.as_ref(), &opaque.name, &content)?,
                _ => position = u64::from_le_bytes(content.try_into().map_err(|_| Error::corrupt("position"))?),
            }
        }
        let mut task = seat.restore(LogBackend::new).await?;
        let counts = task.state().value("count", Fixed)?;
        let mut input = BufReader::new(File::open(input).map_err(failed)?);
        input.seek(SeekFrom::Start(position)).map_err(failed)?;
        let (line, rows, prepared) = (String::new(), String::new(), Vec::new());
        Ok(Self { task, counts, input, line, position, rows, prepared, output: output.into() })
    }

    /// Runs until the attempt ends, with the error that ended it.
    async fn run(mut self, current: Attempt, mut heard: Newest, reports: mpsc::UnboundedSender<Signal>) -> Result<()> {
        let (mut last, mut told) = (0, false);
        loop {
            self.publish_committed()?;
            // A barrier of another attempt is for the tasks before this one, or after.
            if let Some(Signal::Barrier(attempt, epoch)) = *heard.borrow_and_update()
                && attempt == current.0
                && epoch > last
            {
                self.barrier(Barrier { attempt: current, epoch: Epoch(epoch) })?;
                last = epoch;
            }
            // A batch of lines, then heard and other subtasks have their turn.
            if (0..100).try_fold(true, |more, _| Ok::<_, Error>(more && self.process_line()?))? {
                tokio::task::yield_now().await;
                continue;
            }
            if self.line == END && self.rows.is_empty() && self.prepared.is_empty() && !told {
                told = reports.send(Signal::Done(current.0)).is_ok();
            }
            // Signals wake the subtask; outcomes and new input it looks for.
            let _or_not = timeout(Duration::from_millis(20), heard.changed()).await;
        }
    }

    /// Processes the next line. Returns false if there is none yet, or no more.
    fn process_line(&mut self) -> Result<bool> {
        if self.line != END {
            // Continues a line that was incomplete at the last call.
            self.input.read_line(&mut self.line).map_err(failed)?;
        }
        if self.line == END || !self.line.ends_with('\n') {
            return Ok(false);
        }
        let line = std::mem::take(&mut self.line);
        self.position += line.len() as u64;
        for word in line.split_whitespace() {
            // In place of a shuffle, in which one subtask reads a record and sends it to the owner of its key group.
            let group = self.task.state().locate(word.as_bytes())?.group;
            if !self.task.groups().contains(group) {
                continue;
            }
            let state = self.task.state();
            state.set_key(word.as_bytes())?;
            let count = self.counts.update(state, |count| *count.insert(count.unwrap_or(0) + 1))?;
            if count % EVERY == 0 {
                self.rows += &format!("{word} {count}\n");
            }
        }
        Ok(true)
    }

    /// Ends an epoch: state, position and rows go into one checkpoint.
    fn barrier(&mut self, barrier: Barrier) -> Result<()> {
        let mut opaques = vec![Opaque::new(OpaqueRole::Source, "position", self.position.to_le_bytes().to_vec())];
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            // Attempt and epoch are in the name, so that no other rows ever get it.
            let name = format!("part-{}-{}-{}", self.task.subtask(), barrier.attempt, barrier.epoch);
            opaques.push(Opaque::new(OpaqueRole::SinkPrepared, &name, rows.clone()));
            self.prepared.push((barrier.epoch, name, rows));
        }
        self.task.barrier(barrier, Timestamp::MIN, opaques)
    }

    /// Publishes parts of committed epochs: the checkpoint of the next barrier no longer lists them.
    fn publish_committed(&mut self) -> Result<()> {
        self.task.settle()?;
        let committed = self.task.committed();
        let mut parts = self.prepared.extract_if(.., |(epoch, ..)| Some(*epoch) <= committed);
        parts.try_for_each(|(_, name, rows)| publish(&self.output, &name, rows.as_bytes()))
    }
}

/// Writes a part under its name in one step. Repeating it has no effect, even at the same time: by another process, or
/// by a subtask of the attempt before that has not noticed its end.
fn publish(folder: &Path, name: &str, rows: &[u8]) -> Result<()> {
    let staged = folder.join(format!(".{name}-{}-{:?}", std::process::id(), current().id()));
    // An output that must survive a power cut also syncs file and folder.
    fs::write(&staged, rows).and_then(|()| fs::rename(&staged, folder.join(name))).map_err(failed)
}

fn failed(source: IoError) -> Error {
    Error::input("input or output").with_source(source)
}

fn open(store: &str) -> Result<Store> {
    Store::open(store, &"words".parse()?, TokioRuntime::current())
}

#[tokio::main]
async fn main() {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let ended = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["owner", at, store, workers, input, output] => own(at, store, workers, &format!("{input}\n{output}")).await,
        ["worker", owner, store] => work(owner, store).await,
        _ => Err(Error::usage("the arguments are")),
    };
    if let Err(error) = ended {
        let (usage, code) = if error.kind() == ErrorKind::Usage { (USAGE, 2) } else { ("", 1) };
        eprintln!("{}: {}{usage}", error.kind(), error.chain());
        std::process::exit(code);
    }
}
