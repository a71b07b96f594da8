//! Fault tolerance for timely dataflow: keyed state, exactly-once input and output, and restarts with any number of processes and
//! threads.
//!
//! ```text
//!  Job::source --> operators of timely --> Job::stateful --> operators of timely --> Job::publish
//!   positions          map, filter, ...     keyed state                               output
//!       `-------------------------- one checkpoint of an epoch --------------------------'
//! ```
//!
//! A dataflow has [`Time`] as its timestamp: an epoch, and the watermark of the source. The owner of the job, which is at worker 0,
//! announces the end of an epoch. Each source records its position and enters the next epoch at once; each operator with state
//! takes its part of the checkpoint once its input frontier has passed the epoch, and holds back the records of later epochs until
//! then. State is encoded and uploaded on the store's runtime, off the dataflow's threads. The messages of owner and workers are edges
//! of a dataflow of their own.
//!
//! [`execute`] connects the processes and runs the job. A cluster is fail-stop: a lost process, or an error, ends it in all processes.
//! Started again, with any number of processes and threads, it continues from the newest checkpoint, and each record of the output
//! is published once.
//!
//! ```no_run
//! use alluvium::sink::{FolderTarget, SinkSettings};
//! use alluvium::source::{Source, SourceSettings, SplitReader};
//! use alluvium::{Fixed, LogBackend, Result, Seat, Store, Task, TokioRuntime, ValueState};
//! use alluvium_timely::{JobConfig, Operator, execute};
//! use std::sync::Arc;
//!
//! struct Count {
//!     task: Task<LogBackend>,
//!     counts: ValueState<u64, Fixed>,
//! }
//!
//! impl Count {
//!     async fn restore(mut seat: Seat) -> Result<Self> {
//!         let counts = seat.tables().value("counts", Fixed)?;
//!         Ok(Self { task: seat.restore(LogBackend::new).await?, counts })
//!     }
//! }
//!
//! impl Operator for Count {
//!     type Input = String;
//!     type Output = (String, u64);
//!     type Backend = LogBackend;
//!
//!     fn task(&mut self) -> &mut Task<LogBackend> {
//!         &mut self.task
//!     }
//!
//!     fn process(&mut self, word: String, output: &mut Vec<(String, u64)>) -> Result<()> {
//!         let state = self.task.state();
//!         state.set_key(word.as_bytes())?;
//!         let count = self.counts.update(state, |count| *count.insert(count.unwrap_or(0) + 1))?;
//!         output.push((word, count));
//!         Ok(())
//!     }
//! }
//!
//! # fn run<S: Source + Clone>(words: S, word: fn(&S::Reader) -> String) -> Result<()> {
//! # let runtime = TokioRuntime::current();
//! let store = Store::open("s3://bucket/checkpoints", &"words".parse()?, runtime.clone())?;
//! let target = FolderTarget::new("/shared/counts", runtime);
//! let cluster = timely::Config::from_args(std::env::args()).map_err(alluvium::Error::config)?;
//! execute(cluster, JobConfig::new(store), move |worker, job| {
//!     worker.dataflow(|scope| {
//!         // Ids and names of operators stay the same over restarts.
//!         let source = (words.clone(), SourceSettings::default());
//!         let read = move |reader: &S::Reader| Ok((None, Some(word(reader))));
//!         let words = job.source(scope, job.operator(1, "words"), source, read);
//!         let key = |word: &String, key: &mut Vec<u8>| key.extend(word.as_bytes());
//!         let counts = job.stateful(words, job.operator(2, "counts"), key, Count::restore);
//!         let target = Arc::new(target.clone());
//!         let register = |seat: &mut Seat| seat.add_staged_sink("counts", target, SinkSettings::default());
//!         job.publish(counts, job.operator(3, "output"), register, |(word, count), bytes| {
//!             bytes.extend(format!("{word},{count}\n").into_bytes());
//!         });
//!     });
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is bounded, and what is not
//! - Sources go no further ahead than the owner triggers: `JobSettings::checkpoints.max_in_flight` epochs, and the next.
//! - Timely itself does not bound what a fast worker sends to a slow one, and neither does this crate.
//! - A source whose splits are idle holds event time back, at all workers, until they end.
//!
//! The example `nexmark` has three queries, with timers on the frontier.

mod cluster;
mod connect;
mod control;
mod failure;
mod job;
mod link;
mod operator;
mod owner;
mod port;
mod publish;
mod signals;
mod source;
mod stateful;
mod time;

pub use cluster::{JobConfig, Summary, execute};
pub use job::Job;
pub use operator::Operator;
pub use time::{Delay, Time};
