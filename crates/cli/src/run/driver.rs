//! The engine around the operator: opens the job, runs reader, subtasks and sink on their own threads, ends the job.
//!
//! Three operators share each checkpoint: the source (its position), the aggregation (its keyed state), and with
//! `--emit on-close` the sink (its prepared parts).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use alluvium::interval::Decision;
use alluvium::sink::Sink;
use alluvium::{
    AnyBackend, Epoch, Error, ErrorKind, Job, KeyGroupSet, LogBackend, OpaqueRole, OperatorId, OverlayBackend, Result,
    Seat, Task, TokioRuntime,
};
use hdrhistogram::Histogram;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;

use super::args::RunArgs;
use super::interval::{Interval, LoadMeter};
use super::open::{AGGREGATE, SINK, SOURCE, open};
use super::operator::Operator;
use super::output::{Output, OutputRow};
use super::places;
use super::program::{Emit, Program};
use super::progress;
use super::reader::{End, Pace, Reader};
use super::record::RecordBatch;
use super::report::Report;
use super::restore::RestoreMeter;
use super::sink_task::{SinkWorker, ToSink};
use super::source::{Source, SourceState};
use super::subtask::{Emitter, Finished, FirstRecord, ToSubtask, Worker};
use super::target::{FolderOutput, OutputPlace, RemoteOutput};
use super::tiers::Tiers;
use crate::files::Writer;
use crate::print;
use alluvium_bench::backend::BackendKind;
#[cfg(feature = "rocksdb")]
use alluvium_bench::backend::Databases;
use alluvium_bench::clock;

/// Capacity of a subtask's queue, in batches.
const QUEUE_BATCHES: usize = 8;

/// Set by the first signal.
static STOP: AtomicBool = AtomicBool::new(false);

/// Runs the command.
///
/// # Errors
/// As its parts; store and output are then as after a crash.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let process_started = clock::now();
    args.input.check()?;
    let program = args.program()?;
    let path = args.output.as_ref().and_then(OutputPlace::path);
    places::check(path, program.emit, &args.input, &args.store)?;
    #[cfg(feature = "kafka")]
    super::kafka::check_loop(&args.input, args.output.as_ref())?;
    let remote = args.output.as_ref().map(|place| RemoteOutput::open(place, &program, args.publish_again));
    let remote = remote.transpose()?.flatten();
    if let Some(disk) = &args.disk {
        places::check_disk(&disk.folder, &args.store)?;
    }
    let tiers = Tiers::open(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::unavailable("cannot start the async runtime").with_source(source))?;
    serve_metrics(args, &runtime)?;
    #[cfg(feature = "rocksdb")]
    let databases = (args.backend == BackendKind::RocksDb).then(|| Databases::open(&args.rocksdb)).transpose()?;
    let folder = FolderOutput::open(args, &program, TokioRuntime::new(runtime.handle().clone()))?;
    let started = clock::now();
    let (job, source) = runtime.block_on(open(args, &program, &tiers, folder.as_ref(), remote.as_ref()))?;
    let run = Run {
        args,
        program: &program,
        tiers,
        folder,
        remote,
        job,
        handle: runtime.handle().clone(),
        records: AtomicU64::new(source.records()),
        downstream_ended: Notify::new(),
        first_record: FirstRecord::since(process_started),
        #[cfg(feature = "rocksdb")]
        databases,
    };
    let (job, mut report, rows, end) = run.process(source)?;
    report.elapsed_s = started.elapsed().as_secs_f64();
    if end != End::Stopped {
        runtime.block_on(write_output(args, &program, &job, &rows))?;
    }
    report.print(&job, args.json)
}

fn serve_metrics(args: &RunArgs, runtime: &Runtime) -> Result<()> {
    let Some(address) = args.metrics else { return Ok(()) };
    let _inside = runtime.enter();
    metrics_exporter_prometheus::PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .map_err(|source| Error::config("cannot serve metrics").with("address", address).with_source(source))
}

/// Writes the results, unless the attempt is fenced; parts of `--emit on-close` are already published.
async fn write_output(args: &RunArgs, program: &Program, job: &Job, rows: &[OutputRow]) -> Result<()> {
    let output = Output::new(program);
    match &args.output {
        Some(OutputPlace::Path(target)) if program.emit == Emit::End => {
            // The order matters: see [`Writer`].
            let staged = output.stage(rows, target, writer(job))?;
            job.check_owner().await?;
            match staged.publish() {
                Err(error) => Err(unless_fenced(job, error).await),
                Ok(()) => Ok(()),
            }
        }
        _ if args.json || program.emit == Emit::OnClose => job.check_owner().await,
        _ => {
            job.check_owner().await?;
            let mut text = Vec::new();
            output.write(rows, &mut text)?;
            print::bytes(&text)
        }
    }
}

fn writer(job: &Job) -> Writer {
    Writer { job: job.id(), attempt: job.attempt() }
}

/// Returns the cause of a failed publication: `Fenced` if a newer attempt exists, which removes staged files.
async fn unless_fenced(job: &Job, error: Error) -> Error {
    if error.kind() == ErrorKind::Unavailable {
        return error;
    }
    match job.check_owner().await {
        Err(fenced) if fenced.kind() == ErrorKind::Fenced => fenced.with_source(error),
        _ => error,
    }
}

/// A job being run.
struct Run<'a> {
    args: &'a RunArgs,
    program: &'a Program,
    tiers: Tiers,
    /// `None` if no parts are written to a folder.
    folder: Option<FolderOutput>,
    /// `None` if the output is a file, a folder or standard output.
    remote: Option<RemoteOutput>,
    job: Job,
    handle: Handle,
    /// Records read, counted from the start of the input.
    records: AtomicU64,
    /// Notified when a subtask or the sink ends.
    downstream_ended: Notify,
    first_record: FirstRecord,
    #[cfg(feature = "rocksdb")]
    databases: Option<Databases>,
}

/// The reader's result.
struct ReaderResult {
    source: SourceState,
    end: End,
    decisions: Vec<(f64, Decision)>,
}

/// Notifies when its thread ends, also by a panic.
struct NotifyOnDrop<'a>(&'a Notify);

impl Drop for NotifyOnDrop<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Run<'_> {
    /// Runs reader, subtasks and sink to the end.
    fn process(mut self, source: Source) -> Result<(Job, Report, Vec<OutputRow>, End)> {
        let mut seats = self.job.take_seats();
        let restores = RestoreMeter::watch(&mut seats);
        let restored = self.job.restored().map(|stored| (stored.id.seq, source.records()));
        self.handle.spawn(handle_signals());
        let this = &self;
        let (mut report, mut rows, end) = thread::scope(|scope| {
            // Dropped when this closure ends, also by an error.
            let (_running, ended) = mpsc::channel();
            let before = source.records();
            let meter = &restores;
            scope.spawn(move || progress::watch(&this.job, meter, &this.records, before, &ended));
            let sink_seat = take(&mut seats, SINK);
            let (to_sink, sink_queue) = mpsc::channel();
            let sink = sink_seat.map(|seat| {
                scope.spawn(move || {
                    let _notify = NotifyOnDrop(&this.downstream_ended);
                    this.sink(seat, &sink_queue)
                })
            });
            let source_seat = take(&mut seats, SOURCE).ok_or_else(|| Error::usage("the job has no source"))?;
            let mut queues = Vec::new();
            let mut workers = Vec::new();
            for seat in seats {
                let (queue, receiver) = sync_channel(QUEUE_BATCHES);
                queues.push(queue);
                let files = sink.is_some().then(|| to_sink.clone());
                workers.push(scope.spawn(move || {
                    let _notify = NotifyOnDrop(&this.downstream_ended);
                    this.worker(seat, files, receiver)
                }));
            }
            let read = self.read(source, source_seat, queues);
            self.finish(read, workers, sink, &to_sink)
        })?;
        let output = Output::new(self.program);
        output.sort(&mut rows);
        report.restored = restored;
        report.restore = restores.summary();
        report.first_record = self.first_record.get().filter(|_| restored.is_some());
        report.keys = output.count_keys(&rows);
        Ok((self.job, report, rows, end))
    }

    fn read(&self, source: Source, seat: Seat, queues: Vec<mpsc::SyncSender<ToSubtask>>) -> Result<ReaderResult> {
        let task = self.task(seat)?;
        let batches = queues.iter().map(|_| RecordBatch::default()).collect();
        let before = source.records();
        let mut reader = Reader {
            job: &self.job,
            source,
            task,
            queues,
            batches,
            limit: self.args.limit,
            pace: self.args.rate.clone().map(Pace::new),
            meter: (self.args.interval == Interval::Adaptive).then(|| LoadMeter::new(before)),
            stop: &STOP,
            records: &self.records,
            downstream_ended: &self.downstream_ended,
            handle: self.handle.clone(),
            started: clock::now(),
            discovered: clock::now(),
        };
        let end = reader.run()?;
        let decisions = reader.meter.map(LoadMeter::into_decisions).unwrap_or_default();
        Ok(ReaderResult { source: reader.source.state()?, end, decisions })
    }

    fn worker(&self, mut seat: Seat, files: Option<Sender<ToSink>>, queue: Receiver<ToSubtask>) -> Result<Finished> {
        let emitter = match (&self.remote, files) {
            (Some(remote), _) => Emitter::Remote(remote.register(&mut seat)?),
            (None, Some(files)) => Emitter::Files(files),
            (None, None) => Emitter::None,
        };
        let mut task = self.task(seat)?;
        let mut operator = Operator::new(self.program, self.job.partitioner(), self.job.max_parallelism())?;
        operator.declare(|table| task.state().declare(table))?;
        operator.recover_open_windows(task.state().backend_mut())?;
        let (tiers, first_record) = (&self.tiers, &self.first_record);
        Worker { job: &self.job, task, operator, emitter, tiers, first_record }.run(&queue)
    }

    fn sink(&self, mut seat: Seat, queue: &Receiver<ToSink>) -> Result<Sink> {
        let folder = self.folder.as_ref().ok_or_else(|| Error::config("--emit on-close needs --output"))?;
        if seat.opaques().iter().any(|opaque| opaque.role == OpaqueRole::SinkPrepared) {
            return Err(Error::version("checkpoint lists the parts of its output as earlier builds did"));
        }
        let (output, subtasks) = (folder.register(&mut seat)?, self.args.parallelism);
        let worked = self.task(seat).and_then(|task| SinkWorker { task, output, subtasks }.run(queue));
        worked.map_err(|error| self.handle.block_on(unless_fenced(&self.job, error)))
    }

    fn task(&self, seat: Seat) -> Result<Task<AnyBackend>> {
        let backend = self.backend(&seat)?;
        Ok(self.handle.block_on(seat.restore(|_, _, _| backend))?)
    }

    fn backend(&self, seat: &Seat) -> Result<AnyBackend> {
        let (groups, budget) = (KeyGroupSet::empty(), self.job.budget().clone());
        // Only the aggregation has keyed state.
        let kind = if seat.operator() == AGGREGATE { self.args.backend } else { BackendKind::Log };
        Ok(match kind {
            BackendKind::Log => LogBackend::new(groups, seat.partitioner(), budget).into(),
            BackendKind::Overlay => OverlayBackend::new(groups, budget).into(),
            #[cfg(feature = "rocksdb")]
            BackendKind::RocksDb => match &self.databases {
                Some(databases) => databases.backend(budget)?.into(),
                None => return Err(Error::usage("no databases were opened")),
            },
        })
    }

    /// Waits for all threads. If several failed, returns the cause, not the errors that follow from it.
    fn finish(
        &self,
        read: Result<ReaderResult>,
        workers: Vec<ScopedJoinHandle<'_, Result<Finished>>>,
        sink: Option<ScopedJoinHandle<'_, Result<Sink>>>,
        to_sink: &Sender<ToSink>,
    ) -> Result<(Report, Vec<OutputRow>, End)> {
        let finished: Vec<Result<Finished>> = workers.into_iter().map(join).collect();
        let _sink_ended = to_sink.send(ToSink::End);
        let sink = sink.map(join).transpose();
        let mut errors = Vec::new();
        let mut collect = |error: Error| errors.push(error);
        // Subtask errors precede the reader's: a failed subtask aborts the reader's last checkpoint.
        let sink = sink.map_err(&mut collect).ok().flatten();
        let finished: Vec<Finished> =
            finished.into_iter().filter_map(|result| result.map_err(&mut collect).ok()).collect();
        if read.is_ok() {
            self.published(sink.as_ref(), &finished).map_err(&mut collect).ok();
        }
        let read = read.map_err(&mut collect).ok();
        if let Some(error) = self.cause(errors) {
            return Err(error);
        }
        let ReaderResult { source, end, decisions } = read.ok_or_else(|| Error::stopped("the reader has ended"))?;
        let mut pauses = Histogram::new(3).map_err(|source| Error::usage("no histogram").with_source(source))?;
        let mut rows = Vec::new();
        for subtask in finished {
            pauses.add(subtask.pauses).map_err(|source| Error::usage("no histogram").with_source(source))?;
            rows.extend(subtask.rows);
        }
        let stopped = end == End::Stopped;
        Ok((
            Report {
                source,
                restored: None,
                restore: None,
                first_record: None,
                keys: 0,
                stopped,
                pauses,
                elapsed_s: 0.0,
                decisions,
                tiers: self.tiers.json(),
            },
            rows,
            end,
        ))
    }

    /// Waits until all output that is committed is published.
    ///
    /// * `sink`: that of the folder, if there is one.
    fn published(&self, sink: Option<&Sink>, finished: &[Finished]) -> Result<()> {
        let Some((epoch, _)) = self.job.progress().committed else { return Ok(()) };
        let published = |sink: &Sink, epoch: Epoch| {
            let published = self.handle.block_on(sink.published(epoch));
            published.map_err(|error| self.handle.block_on(unless_fenced(&self.job, error)))
        };
        sink.map_or(Ok(()), |sink| published(sink, epoch))?;
        finished.iter().try_for_each(|subtask| match &subtask.emitter {
            Emitter::Remote(output) => published(&output.sink, epoch),
            Emitter::None | Emitter::Files(_) => Ok(()),
        })
    }

    /// Returns the error to report. A `Stopped` error is a symptom; the job's own error explains it.
    fn cause(&self, errors: Vec<Error>) -> Option<Error> {
        let (symptoms, causes): (Vec<_>, Vec<_>) = errors.into_iter().partition(|e| e.kind() == ErrorKind::Stopped);
        let failed = self.job.progress().failed;
        match (failed, causes.into_iter().next(), symptoms.into_iter().next()) {
            (Some(failed), _, Some(_)) | (Some(failed), Some(_), None) => Some(failed),
            (None, cause, symptom) => cause.or(symptom),
            (Some(_), None, None) => None,
        }
    }
}

/// Removes an operator's only seat from `seats`.
fn take(seats: &mut Vec<Seat>, operator: OperatorId) -> Option<Seat> {
    let at = seats.iter().position(|seat| seat.operator() == operator)?;
    Some(seats.remove(at))
}

fn join<R>(handle: ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    handle.join().unwrap_or_else(|_| Err(Error::stopped("a thread panicked")))
}

/// Requests one more checkpoint at the first SIGINT or SIGTERM; ends the process at the second.
async fn handle_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    }
}
