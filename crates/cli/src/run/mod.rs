//! `alluvium run`: a keyed aggregation over a stream of records.
//!
//! ```text
//! Source --Record--> RecordBatch (one per subtask) --> Operator over a StateBackend --> OutputRow --> file, sink or target
//! ```
//!
//! Invariants: the output depends on the input alone, never on the parallelism. Decisions that depend on the order of
//! the whole input (column kinds, the watermark, late and malformed records) are made in the one [`source::Source`],
//! and a subtask sees the records of its keys in input order.

mod aggregate;
mod args;
mod columns;
mod disk;
mod driver;
mod interval;
#[cfg(feature = "kafka")]
mod kafka;
mod list;
mod open;
mod operator;
mod output;
mod places;
mod program;
mod progress;
mod rate;
mod reader;
mod record;
mod report;
mod restore;
mod sink_task;
mod source;
mod subtask;
mod target;
mod tiers;
mod window;

pub(crate) use args::RunArgs as Args;
pub(crate) use driver::run;
pub(crate) use output::Output;
pub(crate) use program::{Emit, Program};
pub(crate) use source::{Input, SPLITS, recount};
pub(crate) use target::{OutputPlace, row_count, topic_sum};

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(test)]
mod tests;
