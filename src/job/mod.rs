//! The interface for engines: opening a job, restoring its subtasks, checkpointing it.
//!
//! ```text
//! JobBuilder --open--> Job { seats } --Seat::restore--> Task --barrier--> (background) --> Progress
//! ```
//!
//! A [`Job`] is one attempt: opening it claims the job and fences every earlier attempt. It has one [`Seat`] per
//! subtask. Restoring a seat gives a [`Task`], which the engine moves to the thread that processes its records. In the
//! background an *owner* coordinates and commits, and a *worker* encodes and uploads the tasks' state.

mod background;
mod builder;
mod handle;
mod interval;
mod operator_state;
mod owner;
mod progress;
mod schemas;
mod settings;
mod shared;
mod worker;

pub use builder::JobBuilder;
pub use handle::Job;
pub use operator_state::{BroadcastState, OperatorList, OperatorState};
pub use progress::{Aborted, Progress};
pub use settings::{AdaptiveInterval, JobSettings, OperatorSpec, Strategy};
pub use worker::{RestoreError, Seat, Task};

/// Name and version that manifests carry as their writer.
pub(crate) const WRITER: &str = concat!("alluvium ", env!("CARGO_PKG_VERSION"));
