//! The whole stack: jobs with state of every kind use the public API unchanged, on nodes that crash, pause, resume and
//! take the job over from each other, on a store that fails; their restored state and output are compared with a model.

mod atlas;
mod engine;
mod judge;
mod kinds;
mod links;
mod model;
mod modes;
mod nodes;
mod owners;
mod scenario;
mod seats;
mod shadow;
mod sink;
mod workers;
mod workload;

pub(crate) use judge::intent;
pub(crate) use sink::Transaction;
