//! The interface for engines: opening a job, restoring its subtasks, checkpointing it.
//!
//! ```text
//! JobBuilder --open--> Job { seats } --Seat::restore--> Task --barrier--> (background) --> Progress
//! ```
//!
//! A [`Job`] is one attempt: opening it claims the job and fences every earlier attempt. It has one [`Seat`] per
//! subtask. Restoring a seat gives a [`Task`], which the engine moves to the thread that processes its records. In the
//! background an *owner* coordinates and commits, and a *worker* encodes and uploads the tasks' state. They talk in
//! messages (`wire`): in memory if the job runs in one process, else over links that the engine carries.
//!
//! ```text
//! JobBuilder --owner--> Owner --connect--> (Inbox, Outbox) == transport == (Inbox, Outbox) <--connect-- Worker
//!                       Owner --open--> Job                                    Worker --assigned--> Assignment { seats }
//! ```

mod builder;
mod handle;
mod interval;
mod link;
mod opening;
mod operator_state;
mod owner;
mod progress;
mod schemas;
mod settings;
mod spec;
pub(crate) mod wire;
mod worker;

pub use builder::JobBuilder;
pub use handle::Job;
pub use link::{Inbox, Outbox};
pub use opening::{Owner, Seating};
pub use operator_state::{BroadcastState, OperatorList, OperatorState};
pub use owner::{Refused, WorkerInfo};
pub use progress::{Aborted, Progress};
pub use settings::{AdaptiveInterval, JobSettings, OperatorSpec, RestoreMode, Strategy};
pub use wire::MAX_MESSAGE_BYTES;
pub use worker::{Assignment, InFlightData, RestoreError, Seat, Task, Worker, WorkerSettings};

/// Name and version that manifests carry as their writer.
pub(crate) const WRITER: &str = concat!("alluvium ", env!("CARGO_PKG_VERSION"));
